"""The report of a taste change: a page, its plot as a file, and the figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from beam_transforms.schema import WINDOW_MS
from tfx_pipeline.report import wording
from tfx_pipeline.report.content import MARKS
from tfx_pipeline.report.taste_change_plot import NAMES, standalone, taste_change_plot
from tfx_pipeline.taste_change.recovery import RECOVERED

_FOLDER = Path(__file__).parent
_TASK = "ctr"
_SHORT = {"near_real_time": "near-real-time", "hourly": "hourly"}


def write_taste_change(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes `summary.json`, `taste_change.svg` and `report.html`, each of which stands alone.

    Args:
        summary: What `tfx_pipeline.taste_change.experiment.run_taste_change` returns.
        folder: Where they go; created if it isn't there.

    Raises:
        OSError: If a file can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    served = summary["tasks"][_TASK]["served"]
    plot = taste_change_plot(served, summary["noon_ms"], "as served")
    (folder / "taste_change.svg").write_text(standalone(plot), encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("taste_change.html").render(_content(summary))
    (folder / "report.html").write_text(page, encoding="utf-8")


def verdict(summary: Mapping[str, Any]) -> str:
    """What came out, in one line."""
    served = summary["tasks"][_TASK]["served"]
    windows = served["near_real_time"]["windows_to_recover"]
    learned = (
        "the near-real-time model doesn't recover"
        if windows is None
        else f"the near-real-time model recovers its GAUC within {wording.counted(max(windows, 1), 'window')}"
    )
    best = wording.share(max(served["hourly_best_share"], 0.0))
    hourly = f"the hourly one comes back by {best} at best in the minutes measured before its next hour"
    return f"Preferences flip at noon: {learned}, {hourly}"


def _content(summary: Mapping[str, Any]) -> dict[str, Any]:
    config, figures = summary["config"], summary["tasks"][_TASK]
    delay_s = config["label_s"] + config["lateness_s"] + config["serving_s"]
    legend = [{"mark": mark, "name": name} for mark, name in zip(MARKS, NAMES.values(), strict=False)]
    words = {
        "served": (
            "As users got it",
            "Each impression is scored by the newest model that answered at its time. What a user does is known "
            f"{config['label_s']:g} s later, a window is {WINDOW_MS // 1000} s long, and its model answers "
            f"{config['serving_s']:g} s after its end: the first model that has learned from anything after noon "
            f"answers {_first_answer_s(config):.0f} s after noon.",
        ),
        "validated": (
            "As the loop validates itself",
            "Progressive validation: examples that arrive in a window are scored before they are learned from. Windows "
            "are those of arrival, counted from the first one that holds examples of after noon; so the labels' delay "
            f"of {delay_s:g} s and more isn't seen here.",
        ),
    }
    sections = [
        {
            "title": title,
            "words": text,
            "legend": legend,
            "plot": taste_change_plot(figures[name], summary["noon_ms"] if name == "served" else None, title.lower()),
        }
        for name, (title, text) in words.items()
    ]
    return {
        "source": f"a simulated platform of {wording.count(config['users'])} users, seed {config['seed']}",
        "headline": verdict(summary),
        "tiles": _tiles(summary),
        "sections": sections,
        "recovered": f"{100 * RECOVERED:.0f} %",
        "reversed": _share(figures["served"]["reversed_share"]["value"]),
        "tasks": [_task(name, task) for name, task in summary["tasks"].items()],
        "facts": _facts(summary),
    }


def _first_answer_s(config: Mapping[str, Any]) -> float:
    """Seconds after noon at which the first model answers that may have learned from an impression after noon."""
    window_s = WINDOW_MS / 1000
    return ((config["label_s"] + config["lateness_s"]) // window_s + 1) * window_s + config["serving_s"]


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    served = summary["tasks"][_TASK]["served"]
    return [
        ("GAUC before noon", wording.figure(served["near_real_time"]["level"]["value"])),
        ("GAUC after noon, nothing learned", wording.figure(served["fall"]["value"])),
        *(
            (f"{name}: way back in the windows 4 to 6", _share(served[model]["share_recovered"]["value"]))
            for model, name in _SHORT.items()
        ),
    ]


def _task(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    served = figures["served"]
    rows = []
    for model, called in _SHORT.items():
        windows = [served[model][name] for name in ("windows_to_recover", "windows_to_90_percent")]
        cells = [(served[model]["level"], wording.figure), (served["fall"], wording.figure)]
        cells.append((served[model]["share_recovered"], _share))
        rows.append(
            {
                "model": called,
                "cells": [(write(figure["value"]), _between(write, figure)) for figure, write in cells],
                "windows": ", ".join(wording.UNKNOWN if number is None else str(number) for number in windows),
            }
        )
    rates = f"{wording.share(figures['rate_before'])}, {wording.share(figures['rate_after'])}"
    return {"name": name, "rows": rows, "rates": rates}


def _share(value: float | None) -> str:
    return wording.share(value).replace("-", "−")


def _between(write: Any, figure: Mapping[str, float | None]) -> str:
    if not (wording.known(figure["low"]) and wording.known(figure["high"])):
        return ""
    return f"{write(figure['low'])} to\N{NO-BREAK SPACE}{write(figure['high'])}"


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, training = summary["config"], summary["config"]["training"]
    begin_ms = summary["noon_ms"] - 1000 * config["history_s"]
    return [
        ("log", wording.period(begin_ms, summary["noon_ms"] + 1000 * config["after_s"])),
        ("impressions", f"{wording.count(summary['impressions'])}, {summary['impressions_per_window']:,} in a window"),
        ("learned together", f"{wording.count(summary['learned_together'])} examples"),
        (
            "a window is learned",
            f"in {summary['seconds_to_learn_a_window']:.2f} s: {training['passes']} passes in batches of "
            f"{training['batch_size']}, learning rate {training['learning_rate']:g}",
        ),
        ("wall time", wording.duration(summary["wall_seconds"])),
        ("peak memory", wording.memory(summary["peak_rss_mb"])),
        *summary["machine"].items(),
    ]
