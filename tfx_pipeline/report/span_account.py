"""What happened on each span, in words; the page and the terminal say the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfx_pipeline.gate import BLESSED
from tfx_pipeline.report import wording

SEMANTIC_ID_GUESSERS = {
    "model": "model",
    "last": "latest code",
    "most_frequent": "most frequent code lately",
    "largest_weight": "most frequent code of all",
}
"""Who guesses the next semantic id, in words."""

PRODUCT_GUESSERS = {
    "model": "model",
    "model_at_10": "model, ten guesses",
    "most_frequent": "most frequent category",
    "latest": "latest category",
}
"""Who guesses the next product's category, in words."""


def merged_spans(summary: Mapping[str, Any], details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The spans of the summary, in order, each with the keys of its details as well.

    The difference keeps the tasks that have one.

    Raises:
        ValueError: If a span of the summary has no details.
    """
    by_span = {detail["span"]: detail for detail in details["spans"]}
    missing = [span["span"] for span in summary["spans"] if span["span"] not in by_span]
    if missing:
        raise ValueError(f"details must have an entry for each span; spans {missing} are missing, got {list(by_span)}")
    merged = [{**by_span[span["span"]], **span} for span in summary["spans"]]
    for span in merged:
        span["difference"] = {task: by_metric for task, by_metric in span["difference"].items() if by_metric}
    return merged


def task_names(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tasks of all spans, each once, in the order in which they first occur."""
    return list(dict.fromkeys(task for span in spans for task in span["tasks"]))


def outcome(span: Mapping[str, Any]) -> str:
    """Such as "blessed, served as version 2"."""
    if span["decision"] != BLESSED:
        return f"{span['decision']}, not served"
    if span["version"] is None:
        return f"{span['decision']}, but not served"
    return f"{span['decision']}, served as version {span['version']}"


def served_version(summary: Mapping[str, Any]) -> int | None:
    """The newest version that was pushed or that answered, versions only grow; None if there is none."""
    told = (item["version"] for item in (*summary["spans"], *summary["rank"]))
    return max((version for version in told if version is not None), default=None)


def comparison(span: Mapping[str, Any]) -> str | None:
    """What the intervals of the difference to the served model prove for GAUC; None without a served model."""
    if not span["difference"]:
        return None
    verdicts = {task: wording.verdict(by_metric.get("gauc")) for task, by_metric in span["difference"].items()}
    parts = [
        f"{verdict} in {', '.join(tasks)}"
        for verdict in ("better", "worse")
        if (tasks := [task for task, found in verdicts.items() if found == verdict])
    ]
    undecided = sum(found == "open" for found in verdicts.values())
    if undecided:
        parts.append(f"undecided in {wording.counted(undecided, 'task')}")
    return f"GAUC against the served model: {'; '.join(parts) or 'not defined'}"


def forecast_gain(span: Mapping[str, Any]) -> str | None:
    """The model's error beside the better of the two simple forecasts, in words; None where one isn't known."""
    errors = [span["forecast_mse"].get(name) for name in ("model", "mean", "latest")]
    if not all(map(wording.known, errors)):
        return None
    model, mean, latest = errors
    better, name = min((mean, "the mean"), (latest, "the latest value"))
    if better == 0:
        return None
    change = model / better - 1
    return f"{abs(change):.1%} {'below' if change < 0 else 'above'} {name}"


def first_guesses(span: Mapping[str, Any]) -> dict[str, float | None]:
    """Guesser -> share of next semantic ids that its first guess hits; {} without a forecaster."""
    return {name: rates["hit@1"] for name, rates in (span.get("semantic_id_hits") or {}).items()}


def hit_gain(rates: Mapping[str, float | None], guessers: Mapping[str, str]) -> str | None:
    """The model's rate beside that of the best rule with one guess, too; None where one isn't known."""
    rules = {name: rates.get(name) for name in guessers if not name.startswith("model")}
    model = rates.get("model")
    if model is None or not all(map(wording.known, (model, *rules.values()))):
        return None
    best = max(rules, key=lambda name: rules[name] or 0.0)
    change = 100 * (model - (rules[best] or 0.0))
    return f"{abs(change):.1f} points {'below' if change < 0 else 'above'} the {guessers[best]}"
