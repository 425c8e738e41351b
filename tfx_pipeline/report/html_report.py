"""The report of a run as one HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tfx_pipeline.report.content import FORECASTERS, page_content

_FOLDER = Path(__file__).parent


def write_report(summary: Mapping[str, Any], details: Mapping[str, Any], path: Path) -> None:
    """Writes the page to `path`: one file without scripts that needs nothing from elsewhere.

    A figure that is None or NaN is shown as an em dash. What has no figures (differences without a served model,
    forecasts without a forecaster) is left out.

    Args:
        summary: What `build/demo/summary.json` holds: "spans", "stages", "wall_seconds", "peak_rss_mb", "rank" and, of
            a run with semantic ids, "codebook" (see `codebook_figures`) and "drift" (the fields of `CodebookDrift`, and
            "segments", how many each span has). None or missing stands for "without".
        details: What the page shows beyond it: "source" (what was run, in words), "machine" (name -> value), "spans".
            Each span has "span", "begin_ms", "end_ms", "train" and "eval" (numbers of examples), "notes" (of the gate),
            "intervals" (task -> metric -> [low, high]) and "difference" (task -> metric -> {"value", "low", "high"},
            {} without a served model) as `tfx_pipeline.evaluation.evaluate` gives them (a task without them is left out
            or {}), "rates" (task -> share of positive labels), "tasks_described" (task -> words) and "forecasts" (a
            list of {"live_id", "metric", "past", "forecast", "actual"}, values by window, oldest first).

    Raises:
        ValueError: If a span of the summary has no details.
        OSError: If the file can't be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(page_content(summary, details), forecasters=FORECASTERS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
