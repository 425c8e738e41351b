"""A session's semantic ids under its message rate, and the ids that carry most messages per chatter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from beam_transforms.schema import WINDOW_MS
from tfx_pipeline.report import wording

RANKED = 20
"""Semantic ids shown of those that carry most messages per chatter."""

COLOURS = (
    *("#332288", "#56b4e9", "#117733", "#b5a11b", "#cc6677"),
    *("#882255", "#2aa198", "#aa4499", "#e07b39", "#7a5c3e"),
)
"""Colours of the session's most frequent semantic ids, by frequency."""

_INK, _SOFT, _LINE, _OTHER = "#1c1d1f", "#5c6066", "#d9dad6", "#a9adb2"
_HOUR_MS = 3_600_000
_STEPS_H = (1 / 6, 1 / 4, 1 / 2, 1, 2, 3, 6, 12, 24)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "semantic ids",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


def write_semantic_id_plot(figures: Mapping[str, Any], path: Path) -> None:
    """Draws what `tfx_pipeline.semantic_id_timeline.semantic_id_timeline` returns.

    Args:
        figures: The figures.
        path: The file; its suffix says the format, such as `.svg` or `.png`.

    Raises:
        OSError: If the file can't be written.
    """
    session, ranked = figures["session"], figures["most_messages_per_chatter"]
    colours = {entry["semantic_id"]: colour for entry, colour in zip(session["named"], COLOURS, strict=False)}
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(12, 6.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(1, 2, width_ratios=(3.1, 1), wspace=0.04)
        timeline = grid[0, 0].subgridspec(2, 1, height_ratios=(1, 1.15), hspace=0.06)
        rate = figure.add_subplot(timeline[0])
        _draw_rate(rate, session)
        _draw_bands(figure.add_subplot(timeline[1], sharex=rate), session, colours)
        _draw_ranked(figure.add_subplot(grid[0, 1]), ranked, colours)
        metadata = {"Date": None} if path.suffix == ".svg" else None  # the same figures give the same file
        figure.savefig(path, metadata=metadata, dpi=110)


def _hours(session: Mapping[str, Any]) -> np.ndarray:
    """The windows' begins and the last one's end, in hours since the first."""
    return np.arange(len(session["windows"]["messages"]) + 1) * (WINDOW_MS / _HOUR_MS)


def _draw_rate(axes: Axes, session: Mapping[str, Any]) -> None:
    hours, messages = _hours(session), session["windows"]["messages"]
    begin = wording.period(session["begin_ms"], session["begin_ms"]).split()[0]
    axes.set_title(
        f"Session {session['live_id']} of {begin}: {session['messages']:,} messages, in windows of "
        f"{WINDOW_MS // 1000} s"
    )
    axes.stairs(messages, hours, fill=True, color="#c9d6e8")
    axes.stairs(messages, hours, color="#1d63c4", linewidth=0.7)
    axes.set_xlim(0, hours[-1])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("messages a window")
    axes.grid(visible=True, axis="y", linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelbottom=False, length=0)


def _draw_bands(axes: Axes, session: Mapping[str, Any], colours: Mapping[int, str]) -> None:
    """A lane for each named id, and one for all others together."""
    hours = _hours(session)
    ids = session["windows"]["semantic_ids"]
    lanes = [(f"Sid {e['semantic_id']} · {e['segments']}", {e["semantic_id"]}) for e in session["named"]]
    others = {value for value in ids if value is not None and value not in colours}
    count = sum(value in others for value in ids)
    lanes.append((f"{wording.counted(len(others), 'other Sid')} · {count}", others))
    for place, (_, members) in enumerate(lanes):
        runs = _runs([value in members for value in ids])
        spans = [(hours[begin], hours[end] - hours[begin]) for begin, end in runs]
        colour = colours.get(min(members, default=-1), _OTHER)
        axes.broken_barh(spans, (place - 0.4, 0.8), facecolors=colour, linewidth=0)
    axes.set_yticks(range(len(lanes)), [name for name, _ in lanes])
    for label, (_, members) in zip(axes.get_yticklabels(), lanes, strict=True):
        label.set_color(colours.get(min(members, default=-1), _SOFT))
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlabel("hours:minutes since the session's first message; beside each semantic id, its segments")
    axes.grid(visible=True, axis="x", linewidth=0.6)
    step = next((step for step in _STEPS_H if hours[-1] / step <= 10), _STEPS_H[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(_clock))
    axes.tick_params(length=0)


def _draw_ranked(axes: Axes, ranked: Mapping[str, Any], colours: Mapping[int, str]) -> None:
    entries, average = ranked["semantic_ids"][:RANKED], ranked["all"]["messages_per_chatter"]
    axes.set_title("Most messages per chatter\nbefore the cut")
    if not entries:
        axes.set_axis_off()
        axes.text(0, 0.5, f"no Sid has {ranked['least_segments']} segments", transform=axes.transAxes)
        return
    rates = [entry["messages_per_chatter"] for entry in entries]
    axes.hlines(range(len(entries)), average, rates, color=_LINE, linewidth=2)
    for place, entry in enumerate(entries):
        colour = colours.get(entry["semantic_id"], _SOFT)
        axes.plot([rates[place]], [place], marker="o", markersize=5, color=colour, linestyle="none")
    names = [f"Sid {entry['semantic_id']} · {entry['segments']:,}" for entry in entries]
    axes.axvline(average, color=_SOFT, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(entries)), names)
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel(
        f"messages per chatter; dashed: all segments, {average:.2f}\n(Sids of {ranked['least_segments']} segments or "
        "more; beside each, how many)",
        loc="right",
    )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=True, axis="x", linewidth=0.6)
    axes.tick_params(length=0)


def _runs(inside: list[bool]) -> list[tuple[int, int]]:
    """[begin, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.array([False, *inside, False], dtype=np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _clock(hours: float, position: int | None) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}"
