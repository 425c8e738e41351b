"""The account of a run in the terminal: what the page says, in about forty lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tfx_pipeline.config import METRICS
from tfx_pipeline.gate import BLESSED
from tfx_pipeline.report import wording
from tfx_pipeline.report.ranking_account import PlacedAnswer, placed_answers
from tfx_pipeline.report.span_account import (
    PRODUCT_GUESSERS,
    SEMANTIC_ID_GUESSERS,
    comparison,
    forecast_gain,
    merged_spans,
    outcome,
)

ROOMS = 3
"""Rooms shown of each answer."""

SCORES = 2
"""Tasks whose scores are shown with a room."""

REASONS = 2
"""Reasons shown of each decision."""

STAGES = 4
"""Stages shown, the longest ones."""


def print_account(console: Console, summary: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Prints the account; arguments and errors as in `html_report.write_report`."""
    spans = merged_spans(summary, details)
    console.print(Text(details["source"], style="bold"))
    console.print(Columns([_quality(span) for span in spans], padding=(0, 4)))
    for span in spans:
        for line in _decision(span):
            console.print(line)
    hits = _hits(spans)
    if hits.row_count:
        console.print(hits)
    if summary.get("codebook"):
        console.print(_codebook(summary["codebook"]))
    if summary.get("drift"):
        console.print(_drift(summary["drift"]))
    for answers in placed_answers(summary).values():
        console.print(_rooms([answers[0], answers[-1]] if len(answers) > 1 else answers))
    longest = sorted(summary["stages"], key=lambda stage: stage["seconds"], reverse=True)[:STAGES]
    times = ", ".join(f"{stage['name']} {wording.duration(stage['seconds'])}" for stage in longest)
    total = f"{wording.duration(summary['wall_seconds'])}, peak memory {wording.memory(summary['peak_rss_mb'])}"
    console.print(Text(f"Took {total}" + (f"; longest stages: {times}" if times else "")))


def _quality(span: Mapping[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("task", *(metric.upper() for metric in METRICS), "left out"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, figures in span["tasks"].items():
        cells = [wording.figure(figures[metric]) for metric in METRICS]
        table.add_row(Text(task), *cells, wording.count(figures["users_left_out"]))
    return Group(Text(f"Span {span['span']}, {wording.period(span['begin_ms'], span['end_ms'])}", style="bold"), table)


def _decision(span: Mapping[str, Any]) -> Iterator[Text]:
    style = "green" if span["decision"] == BLESSED else "red"
    more = len(span["reasons"]) - REASONS
    reasons = "; ".join(span["reasons"][:REASONS]) + (f"; and {more} more" if more > 0 else "")
    yield Text.assemble((f"Span {span['span']} {outcome(span)}", style), f": {reasons}")
    compared = comparison(span)
    if compared:
        yield Text(f"  {compared}")
    mse = span.get("forecast_mse")
    if mse:
        gain = forecast_gain(span)
        errors = ", ".join(f"{name} {wording.squared_error(mse.get(name))}" for name in ("model", "mean", "latest"))
        yield Text(f"  Forecast MSE: {errors}" + (f" (the model is {gain})" if gain else ""))


def _hits(spans: list[dict[str, Any]]) -> Table:
    """Shares of next semantic ids and product categories that are hit, by guesser; the spans side by side."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("hit by the first guess, by ten")
    for span in spans:
        table.add_column(f"span {span['span']}", justify="right")
        table.add_column("ten", justify="right")
    semantic_ids = [span.get("semantic_id_hits") or {} for span in spans]
    if any(semantic_ids):
        for name, words in SEMANTIC_ID_GUESSERS.items():
            rates = [hits.get(name, {}).get(guesses) for hits in semantic_ids for guesses in ("hit@1", "hit@10")]
            table.add_row(f"next semantic id: {words}", *map(wording.share, rates))
    products = [span.get("product_hits") or {} for span in spans]
    if any(products):
        for name, words in PRODUCT_GUESSERS.items():
            if name != "model_at_10":
                cells = [
                    (wording.share(hits.get(name)), wording.share(hits.get("model_at_10")) if name == "model" else "")
                    for hits in products
                ]
                table.add_row(f"next product: {words}", *(cell for pair in cells for cell in pair))
    return table


def _codebook(codebook: Mapping[str, Any]) -> Text:
    used, codes, segments = (wording.count(codebook[name]) for name in ("codes_used", "codes", "trained_on"))
    perplexity, mse = (wording.squared_error(codebook[name]) for name in ("perplexity", "mse"))
    version = codebook["version"]
    return Text(
        f"Codebook {version}: {used} of {codes} codes used, perplexity {perplexity}, MSE {mse}, {segments} segments"
    )


def _drift(drift: Mapping[str, Any]) -> Text:
    names = ("population_stability_index", "noise", "jensen_shannon_bits")
    index, noise, bits = (wording.squared_error(drift[name]) for name in names)
    return Text(f"  Drift between the spans: stability index {index} (by chance {noise}), Jensen-Shannon {bits} bits")


def _rooms(answers: list[PlacedAnswer]) -> Table:
    """The best rooms of one or two answers of a user side by side."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left", title_style="bold")
    table.title = Text(f"Rooms for user {answers[0].user_id}")
    table.add_column("place", justify="right")
    for index, answer in enumerate(answers):
        table.add_column(Text(answer.title), justify="right")
        if index:
            table.add_column("change")
        for task in answer.tasks[:SCORES]:
            table.add_column(Text(task), justify="right")
    for place in range(min(ROOMS, max(len(answer.rooms) for answer in answers))):
        cells = [str(place + 1)]
        for index, answer in enumerate(answers):
            room = answer.rooms[place] if place < len(answer.rooms) else None
            cells.append(str(room.live_id) if room else "")
            if index:
                cells.append(room.change if room else "")
            cells += [wording.figure(room.scores.get(task)) if room else "" for task in answer.tasks[:SCORES]]
        table.add_row(*cells)
    return table
