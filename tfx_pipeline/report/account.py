"""The account of a run in the terminal: what the page says, in about thirty lines."""

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
    codebook_words,
    comparison,
    drift_words,
    first_guesses,
    forecast_gain,
    hit_gain,
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
    if summary.get("codebook"):
        console.print(Text(codebook_words(summary["codebook"])))
    if summary.get("drift"):
        console.print(Text(f"  {drift_words(summary['drift'])}"))
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
    semantic_ids = span.get("semantic_id_hits")
    if semantic_ids:
        at_10 = wording.share(semantic_ids["model"]["hit@10"])
        yield _hits("Next semantic id", first_guesses(span), SEMANTIC_ID_GUESSERS, at_10)
    products = span.get("product_hits")
    if products:
        one_guess = {name: rate for name, rate in products.items() if name != "model_at_10"}
        yield _hits("Next product's category", one_guess, PRODUCT_GUESSERS, wording.share(products["model_at_10"]))


def _hits(what: str, rates: Mapping[str, float | None], names: Mapping[str, str], at_10: str) -> Text:
    """The model's hits beside those of the best rule; the page has the others."""
    gain = hit_gain(rates, names)
    return Text(
        f"  {what} hit: model {wording.share(rates['model'])}, in ten guesses {at_10}"
        + (f" (the first guess is {gain})" if gain else "")
    )


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
