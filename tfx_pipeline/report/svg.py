"""Matplotlib figures as SVG elements that stand inside a page: they take its colours and fonts, light and dark."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT, PAST, FORECAST, ACTUAL = "#010a01", "#020a01", "#030a01", "#040a01", "#050a01"
SERIES = ("#060a01", "#070a01", "#080a01", "#090a01")
"""Colours to draw with. They stand for the page's colours, which take their place in the finished SVG."""

MARKERS = ("o", "s", "D", "^")
"""Marker of each of `SERIES`, so that print in one colour can be read as well."""

_PAGE_COLOURS = {
    INK: "--ink",
    FAINT: "--line",
    PAST: "--past",
    FORECAST: "--forecast",
    ACTUAL: "--actual",
    **{colour: f"--series-{index}" for index, colour in enumerate(SERIES)},
}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched and read aloud
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.grid.axis": "x",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
}


class Drawing:
    """A plot of `width` x `height` CSS pixels that is drawn on `axes`.

    After the `with` block of `drawing`, `svg` holds the element.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = Markup()


@contextmanager
def drawing(width: int, height: int, description: str) -> Iterator[Drawing]:
    """Draws one plot.

    Args:
        description: Read aloud in the plot's place. No two plots of a page may have the same: the ids follow from it.
    """
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": description}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        canvas = FigureCanvasSVG(figure)
        finished = Drawing(figure.add_subplot())
        yield finished
        file = io.StringIO()
        canvas.print_svg(file, metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    finished.svg = _for_page(file.getvalue(), width, height, description)


def _for_page(svg: str, width: int, height: int, description: str) -> Markup:
    body = svg[re.search(r"<svg[^>]*>", svg).end() :]  # type: ignore[union-attr]  # every SVG file has the element
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)  # would style the page
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the same in every plot; a page may have an id once
    body = body.replace("xlink:href", "href")
    for colour, variable in _PAGE_COLOURS.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(  # noqa: S704  # matplotlib escapes the text that it is given
        f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" role="img" '
        f'aria-label="{escape(description)}">{body}'
    )
