"""Turns what a run ended with into what the page shows: words, rows of text, and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from beam_transforms.schema import WINDOW_MS
from tfx_pipeline.config import METRICS
from tfx_pipeline.gate import BLESSED
from tfx_pipeline.report import plots, wording
from tfx_pipeline.report.plots import Point
from tfx_pipeline.report.ranking_account import PlacedAnswer, placed_answers
from tfx_pipeline.report.span_account import (
    PRODUCT_GUESSERS,
    SEMANTIC_ID_GUESSERS,
    comparison,
    first_guesses,
    forecast_gain,
    hit_gain,
    merged_spans,
    outcome,
    served_version,
    task_names,
)

MARKS = ("●", "■", "◆", "▲")
"""The markers of `svg.MARKERS` as text, for legends."""

FORECASTERS = {"model": "model", "mean": "mean of the past", "latest": "latest value"}

_MARK_OF_VERDICT = {"better": "▲ better", "worse": "▼ worse"}


def page_content(summary: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """The template's variables. Arguments and errors as in `html_report.write_report`."""
    spans = merged_spans(summary, details)
    tasks = task_names(spans)
    return {
        "source": details["source"],
        "headline": _headline(summary),
        "tiles": _tiles(summary, spans),
        "spans": [_span(span) for span in spans],
        "legend": [
            {"mark": MARKS[i % len(MARKS)], "series": i % len(MARKS), "name": _name(span)}
            for i, span in enumerate(spans)
        ],
        "metrics": [metric.upper() for metric in METRICS],
        "quality": [_quality_rows(task, spans) for task in tasks],
        "quality_plots": _quality_plots(tasks, spans),
        "differences": [_difference(span) for span in spans if span["difference"]],
        "rates": _rates(tasks, spans),
        "forecast_errors": _forecast_errors(spans),
        "forecasts": [
            {
                "name": _name(span),
                "plots": [
                    plots.forecast_plot(f"{_name(span)}, forecast {number}", forecast)
                    for number, forecast in enumerate(span["forecasts"], start=1)
                ],
            }
            for span in spans
            if span["forecasts"]
        ],
        "semantic_id_hits": _semantic_id_hits(spans),
        "product_guessers": list(PRODUCT_GUESSERS.values()),
        "product_hits": _product_hits(spans),
        "codebook": _codebook(summary),
        "window_s": WINDOW_MS // 1000,
        "past_minutes": plots.PAST_WINDOWS * WINDOW_MS // 60_000,
        "answers": [_answer(answer) for of_user in placed_answers(summary).values() for answer in of_user],
        "stages": plots.stage_plot(summary["stages"]) if summary["stages"] else None,
        "machine": details["machine"],
    }


def _name(span: Mapping[str, Any]) -> str:
    return f"span {span['span']}"


def _headline(summary: Mapping[str, Any]) -> str:
    spans = summary["spans"]
    blessed = sum(span["decision"] == BLESSED for span in spans)
    version = served_version(summary)
    answers = "no version is served" if version is None else f"version {version} answers now"
    return f"{wording.counted(len(spans), 'span')} trained and judged, {blessed} blessed: {answers}"


def _tiles(summary: Mapping[str, Any], spans: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    version = served_version(summary)
    return [
        ("version served", wording.UNKNOWN if version is None else str(version)),
        ("wall time", wording.duration(summary["wall_seconds"])),
        ("peak memory", wording.memory(summary["peak_rss_mb"])),
        ("examples", wording.count(sum(span["train"] + span["eval"] for span in spans))),
    ]


def _span(span: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": _name(span),
        "outcome": outcome(span),
        "blessed": span["decision"] == BLESSED,
        "period": wording.period(span["begin_ms"], span["end_ms"]),
        "train": wording.count(span["train"]),
        "eval": wording.count(span["eval"]),
        "comparison": comparison(span),
        "reasons": span["reasons"],
        "notes": span["notes"],
    }


def _quality_rows(task: str, spans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of one task, one for each span that has it."""
    rows = []
    for span in spans:
        if task in span["tasks"]:
            figures = span["tasks"][task]
            cells = [
                (wording.figure(point.value), _between(wording.figure, point))
                for point in (_point(span, task, metric) for metric in METRICS)
            ]
            rows.append({"span": _name(span), "cells": cells, "left_out": wording.count(figures["users_left_out"])})
    return {"task": task, "rows": rows}


def _quality_plots(tasks: Sequence[str], spans: Sequence[Mapping[str, Any]]) -> list[Markup]:
    return [
        plots.interval_plot(
            metric.upper(),
            tasks,
            {
                _name(span): {task: _point(span, task, metric) for task in tasks if task in span["tasks"]}
                for span in spans
            },
        )
        for metric in METRICS
    ]


def _point(span: Mapping[str, Any], task: str, metric: str) -> Point:
    low, high = span["intervals"].get(task, {}).get(metric, (None, None))
    return Point(span["tasks"][task][metric], low, high)


def _difference(span: Mapping[str, Any]) -> dict[str, Any]:
    points = {
        metric: {task: Point(**by_metric[metric]) for task, by_metric in span["difference"].items()}
        for metric in METRICS
    }
    rows = [
        {
            "task": task,
            "cells": [
                {
                    "value": wording.signed(by_metric[metric]["value"]),
                    "interval": _between(wording.signed, points[metric][task]),
                    "verdict": (verdict := wording.verdict(by_metric[metric])),
                    "mark": _MARK_OF_VERDICT.get(verdict, ""),
                }
                for metric in METRICS
            ],
        }
        for task, by_metric in span["difference"].items()
    ]
    drawn = [
        plots.interval_plot(metric.upper(), list(span["difference"]), {_name(span): points[metric]}, difference=True)
        for metric in METRICS
    ]
    return {"name": _name(span), "rows": rows, "plots": drawn}


def _between(write: Any, point: Point) -> str:
    """The interval in words; empty where it isn't known."""
    if not (wording.known(point.low) and wording.known(point.high)):
        return ""
    return f"{write(point.low)} to\N{NO-BREAK SPACE}{write(point.high)}"


def _rates(tasks: Sequence[str], spans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "description": next((d for span in spans if (d := span["tasks_described"].get(task))), ""),
            "rates": [wording.share(span["rates"].get(task)) for span in spans],
        }
        for task in tasks
    ]


def _forecast_errors(spans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "span": _name(span),
            "errors": [wording.squared_error(span["forecast_mse"].get(name)) for name in FORECASTERS],
            "gain": forecast_gain(span),
        }
        for span in spans
        if span.get("forecast_mse")
    ]


def _semantic_id_hits(spans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "span": _name(span),
            "rows": [
                {
                    "name": words,
                    "rates": [wording.share(rates.get(name, {}).get(guesses)) for guesses in ("hit@1", "hit@10")],
                }
                for name, words in SEMANTIC_ID_GUESSERS.items()
            ],
            "gain": hit_gain(first_guesses(span), SEMANTIC_ID_GUESSERS),
        }
        for span in spans
        if (rates := span.get("semantic_id_hits"))
    ]


def _product_hits(spans: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "span": _name(span),
            "rates": [wording.share(rates.get(name)) for name in PRODUCT_GUESSERS],
            "gain": hit_gain(rates, PRODUCT_GUESSERS),
        }
        for span in spans
        if (rates := span.get("product_hits"))
    ]


def _codebook(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and figures of the codebook and of its drift; empty without a codebook."""
    codebook, drift = summary.get("codebook"), summary.get("drift")
    figures: list[tuple[str, str]] = []
    if codebook:
        used, codes = wording.count(codebook["codes_used"]), wording.count(codebook["codes"])
        figures += [
            ("version", codebook["version"]),
            ("codes used", f"{used} of {codes}"),
            ("perplexity", wording.squared_error(codebook["perplexity"])),
            ("mean squared error", wording.squared_error(codebook["mse"])),
            ("segments it was trained on", wording.count(codebook["trained_on"])),
        ]
    if drift:
        figures += [
            ("segments of the spans", ", ".join(map(wording.count, drift["segments"]))),
            ("population stability index", wording.squared_error(drift["population_stability_index"])),
            ("the index by chance alone", wording.squared_error(drift["noise"])),
            ("Jensen-Shannon divergence", f"{wording.squared_error(drift['jensen_shannon_bits'])} bits"),
        ]
    return figures


def _answer(answer: PlacedAnswer) -> dict[str, Any]:
    return {
        "title": f"{answer.title}, user {answer.user_id}",
        "tasks": answer.tasks,
        "gone": answer.gone,
        "has_changes": answer.when == "After",
        "rooms": [
            {
                "place": room.place,
                "live_id": room.live_id,
                "change": room.change,
                "direction": {"▲": "better", "▼": "worse", "n": "new"}.get(room.change[:1], "same"),
                "scores": [wording.figure(room.scores.get(task)) for task in answer.tasks],
            }
            for room in answer.rooms
        ],
    }
