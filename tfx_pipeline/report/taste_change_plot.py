"""GAUC by window around a change of tastes, of the model that learns each window and of the hourly one."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MultipleLocator

from beam_transforms.schema import WINDOW_MS
from tfx_pipeline.report import svg, wording
from tfx_pipeline.taste_change.recovery import RECOVERED

NAMES = {"near_real_time": "near-real-time: learns each window", "hourly": "hourly: learns on the hour"}
"""Models in the order of their colours, and what they are called."""

_COLOURS = {
    **{"--ink": "#1c1d1f", "--soft": "#5c6066", "--line": "#d9dad6", "--past": "#75797f"},
    **{"--series-0": "#1d63c4", "--series-1": "#d9591c", "--card": "#ffffff"},
}
"""The page's colours by day, for a file of its own."""

_WIDTH, _HEIGHT = 860, 370
_SETTLED = 5  # windows after the change
_STEPS_MIN = (1, 2, 5, 10, 15, 30)
_MOST_TICKS = 12


def taste_change_plot(figures: Mapping[str, Any], noon_ms: int | None, name: str) -> Markup:
    """The plot as an element of a page.

    Args:
        figures: What `taste_change.experiment.run_taste_change` gives of a task under "served" or "validated":
            "windows", numbered from the change; "threshold"; "hourly_window", the one in which the hourly model has
            learned, or None; and by model "gauc" with "value", "low" and "high" of each window.
        noon_ms: The time of window 0's begin; None counts minutes from there.
        name: What tells the plot from the page's others.
    """
    description = f"{name}: GAUC in windows of {WINDOW_MS // 1000} s before and after preferences flip at noon"
    with svg.drawing(_WIDTH, _HEIGHT, description) as plot:
        axes = plot.axes
        minutes = [(window + 0.5) * WINDOW_MS / 60_000 for window in figures["windows"]]
        for index, model in enumerate(NAMES):
            _draw_model(axes, minutes, figures[model]["gauc"], index)
        axes.axhline(0.5, color=svg.FAINT, linewidth=1)
        axes.axhline(figures["threshold"], color=svg.PAST, linewidth=1, linestyle=(0, (5, 3)))
        axes.axvline(0, color=svg.INK, linewidth=1.2)
        if figures["hourly_window"] is not None:
            axes.axvline(figures["hourly_window"] * WINDOW_MS / 60_000, color=svg.INK, linewidth=1.2, linestyle=":")
        axes.set_xlim(minutes[0] - 0.25, minutes[-1] + 0.25)
        axes.set_ylabel("GAUC of entering (ctr)")
        what = "minutes" if noon_ms is None else "UTC"
        axes.set_xlabel(
            f"{what}; a point is a window of 30 s, in its middle; shaded: 95 % intervals, bootstrap over users"
        )
        axes.grid(visible=True, axis="y")
        length = minutes[-1] - minutes[0]
        step = next((step for step in _STEPS_MIN if length / step <= _MOST_TICKS), 60)
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda minute, _: _clock(noon_ms, minute)))
        axes.yaxis.set_major_locator(MultipleLocator(0.1))
        axes.tick_params(length=0)
        # Words stand above the curves, where nothing is drawn.
        ends = [figure[end] for model in NAMES for figure in figures[model]["gauc"] for end in ("low", "high")]
        bottom, top = (pick(filter(wording.known, ends), default=0.5) for pick in (min, max))
        axes.set_ylim(bottom - 0.02, top + 0.09)
        _name_models(axes, minutes, figures)
        flips = "first examples of the change" if noon_ms is None else "preferences flip"
        axes.annotate(flips, (0, top + 0.085), (4, 0), textcoords="offset points", va="top")
        if figures["hourly_window"] is not None:
            at = figures["hourly_window"] * WINDOW_MS / 60_000
            axes.annotate(
                "the hourly model learns", (at, top + 0.085), (-4, 0), textcoords="offset points", va="top", ha="right"
            )
        axes.annotate(
            f"{RECOVERED:.0%} of the way back".replace("%", " %"),
            (minutes[0], figures["threshold"]),
            (4, -3),
            textcoords="offset points",
            va="top",
            color=svg.PAST,
        )
    return plot.svg


def standalone(element: Markup) -> str:
    """The plot as an SVG file of its own, by day's colours on white."""
    text = str(element)
    for variable, colour in _COLOURS.items():
        text = text.replace(f"var({variable})", colour)
    opening = re.match(r"<svg[^>]*>", text)
    if opening is None:
        raise ValueError(f"expected an <svg> element, got {text[:60]!r}")
    head = opening.group().replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"', 1)
    back = f'<rect width="100%" height="100%" fill="{_COLOURS["--card"]}"/>'
    return f"{head}{back}{text[opening.end() :]}\n"


def _draw_model(axes: Axes, minutes: Sequence[float], gauc: Sequence[Mapping[str, float | None]], index: int) -> None:
    colour, marker = svg.SERIES[index], svg.MARKERS[index]
    low, value, high = (
        [math.nan if (end := figure[part]) is None else end for figure in gauc] for part in ("low", "value", "high")
    )
    axes.fill_between(minutes, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(minutes, value, color=colour, marker=marker, markersize=3.5, linewidth=1.4)


def _name_models(axes: Axes, minutes: Sequence[float], figures: Mapping[str, Any]) -> None:
    """Names beside the curves, between change and next hour, where they lie apart: the upper one's below it."""
    hour = figures["hourly_window"] if figures["hourly_window"] is not None else figures["windows"][-1] + 1
    inside = [i for i, window in enumerate(figures["windows"]) if _SETTLED <= window < hour]
    if not inside:
        return
    learner, hourly = (figures[model]["gauc"] for model in NAMES)
    ends = (
        min((learner[i]["low"] for i in inside if wording.known(learner[i]["low"])), default=0.5) - 0.015,
        max((hourly[i]["high"] for i in inside if wording.known(hourly[i]["high"])), default=0.5) + 0.015,
    )
    middle = (minutes[inside[0]] + minutes[inside[-1]]) / 2
    for index, (name, end, align) in enumerate(zip(NAMES.values(), ends, ("top", "bottom"), strict=True)):
        axes.text(middle, end, name, color=svg.SERIES[index], ha="center", va=align)


def _clock(noon_ms: int | None, minute: float) -> str:
    if noon_ms is None:
        return f"{minute:+g}".replace("-", "−") if minute else "0"
    return f"{datetime.fromtimestamp(noon_ms / 1000 + 60 * minute, UTC):%H:%M}"
