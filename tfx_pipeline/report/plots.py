"""The plots of the report, each one narrow enough to be read on a phone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import blended_transform_factory

from beam_transforms.schema import WINDOW_MS
from tfx_pipeline.report import svg, wording

PAST_WINDOWS = 12
"""How many windows of the past a forecast is shown with: with more, the few that are forecast can't be told apart."""

_MINUTES = WINDOW_MS / 60_000


@dataclasses.dataclass(frozen=True)
class Point:
    """A figure with its interval; what isn't known is None or NaN."""

    value: float | None
    low: float | None
    high: float | None


def interval_plot(
    title: str, tasks: Sequence[str], series: Mapping[str, Mapping[str, Point]], *, difference: bool = False
) -> Markup:
    """A row for each task, in it a dot with its interval for each series (name -> task -> point).

    Args:
        difference: Whether the figures are differences, which are seen against zero.
    """
    spacing = 11
    row = max(26, spacing * len(series) + 12)
    what = f"difference in {title} to the served model" if difference else title
    description = f"{', '.join(series)}: {what} for each task, with 95 % intervals"
    with svg.drawing(330, 70 + row * len(tasks), description) as plot:
        axes = plot.axes
        axes.set_title(title)
        drawn = 0
        for index, points in enumerate(series.values()):
            offset = (index - (len(series) - 1) / 2) * spacing / row
            for place, task in enumerate(tasks):
                drawn += _draw_point(axes, points.get(task), place + offset, index)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(visible=True)
        if difference:
            axes.axvline(0, color=svg.INK, linewidth=1)
            axes.xaxis.set_major_formatter(FuncFormatter(_signed_tick))
        if not drawn:
            axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", va="center")
    return plot.svg


def forecast_plot(name: str, forecast: Mapping[str, Any]) -> Markup:
    """One metric of one room: the last windows, what was forecast and what happened, over minutes from then.

    Args:
        name: What tells the plot from the page's others, such as "span 1, forecast 2".
        forecast: "live_id", "metric" and the values by window, oldest first, of "past", "forecast" and "actual".
    """
    past = _numbers(forecast["past"])[-PAST_WINDOWS:]
    title = f"room {forecast['live_id']}: {forecast['metric']}"
    with svg.drawing(300, 190, f"{name}: {title}, past, forecast and what happened") as plot:
        axes = plot.axes
        axes.set_title(title)
        axes.plot([(i - len(past) + 1) * _MINUTES for i in range(len(past))], past, color=svg.PAST)
        axes.axvline(0, color=svg.FAINT, linewidth=1)
        for name, colour, marker, style in (
            ("actual", svg.ACTUAL, "o", "-"),
            ("forecast", svg.FORECAST, "D", "--"),
        ):
            values = past[-1:] + _numbers(forecast[name])
            start = len(values) - len(forecast[name])
            minutes = [(i + 1 - start) * _MINUTES for i in range(len(values))]
            axes.plot(minutes, values, color=colour, linestyle=style, linewidth=1.4)
            axes.plot(minutes[start:], values[start:], color=colour, marker=marker, markersize=5, linestyle="none")
        axes.margins(x=0.03)
        if not any(value < 0 for name in ("past", "forecast", "actual") for value in _numbers(forecast[name])):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return plot.svg


def stage_plot(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """A bar for each stage, in the order in which they ran, with its name above and its time beside it."""
    row = 32
    with svg.drawing(420, 12 + row * len(stages), "Seconds of each stage") as plot:
        axes = plot.axes
        seconds = [stage["seconds"] if wording.known(stage["seconds"]) else 0.0 for stage in stages]
        places = [place + 0.22 for place in range(len(stages))]
        axes.barh(places, seconds, height=0.34, color=svg.SERIES[0])
        at_edge = blended_transform_factory(axes.transAxes, axes.transData)
        for place, stage in enumerate(stages):
            text = f"{stage['name']}, {wording.duration(stage['seconds'])}"
            axes.text(0, place - 0.02, text, transform=at_edge, va="bottom")
        axes.set_xlim(0, max(seconds, default=0) or 1)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_axis_off()
    return plot.svg


def _draw_point(axes: Axes, point: Point | None, height: float, index: int) -> bool:
    if point is None or not wording.known(point.value):
        return False
    colour = svg.SERIES[index % len(svg.SERIES)]
    marker = svg.MARKERS[index % len(svg.MARKERS)]
    axes.plot(_numbers([point.low, point.high]), [height] * 2, color=colour, linewidth=2)
    axes.plot(_numbers([point.value]), [height], color=colour, marker=marker, markersize=5, linestyle="none")
    return True


def _signed_tick(value: float, position: int | None) -> str:
    return f"{value:+.3g}".replace("-", "−") if value else "0"


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]
