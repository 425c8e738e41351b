"""The assembled batch pipeline: a source's events -> examples by span, and the online store."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_transforms.events import register_coders
from beam_transforms.example_writer import WriteExamples
from beam_transforms.examples import JoinExamples
from beam_transforms.impressions import ExposureImpressions
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.online_features import WriteOnlineFeatures
from beam_transforms.read_events import DEAD_LETTERS, ReadEvents
from beam_transforms.sources.source import Source
from beam_transforms.spans import SpanPlan


@dataclasses.dataclass(frozen=True)
class ExamplesSummary:
    """What a run of the pipeline wrote.

    Attributes:
        events: Events read.
        dead_letters: Rows that could not be read; they stand in `dead_letters.jsonl`.
        impressions: Impressions seen.
        immature: Impressions left out because their labels aren't known yet by the newest event.
        spans: The manifest of each span, by number.
        live_rooms: Rooms in the online store; None if none was asked for.
    """

    events: int
    dead_letters: int
    impressions: int
    immature: int
    spans: list[dict[str, int]]
    live_rooms: int | None


def build_examples(
    source: Source,
    folder: Path,
    plan: SpanPlan,
    policy: LabelPolicy | None = None,
    impressions: beam.PTransform | None = None,
    store: Path | None = None,
    as_of_ms: int | None = None,
    runner_args: tuple[str, ...] = ("--runner=FnApiRunner",),
) -> ExamplesSummary:
    """Runs the batch pipeline over all of a source.

    Args:
        source: Where the events come from.
        folder: Where the examples go, see `WriteExamples`; spans that are there already are removed first.
        plan: How time is cut into spans.
        policy: When labels are known; the fast window of five minutes by default.
        impressions: Events -> impressions; one for each EXPOSURE by default.
        store: Folder of the online store to fill as of `as_of_ms`, if any.
        as_of_ms: The time at which the store's features hold.
        runner_args: Options of the Beam runner, as on a command line.

    Raises:
        ValueError: If `store` is given without `as_of_ms`, or the source has neither an event nor an impression.
    """
    if (store is None) != (as_of_ms is None):
        raise ValueError(f"store and as_of_ms go together, got store={store} and as_of_ms={as_of_ms}")
    register_coders()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("Span-*"), *folder.glob("dead_letters.jsonl")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    results = _Results(folder)
    with beam.Pipeline(options=PipelineOptions(list(runner_args))) as pipeline:
        read = pipeline | "Read" >> ReadEvents(source)
        dead_letters = read[DEAD_LETTERS] | "Json" >> beam.Map(json.dumps, ensure_ascii=False)
        dead_letters | "DeadLetters" >> beam.io.WriteToText(
            str(folder / "dead_letters.jsonl"), shard_name_template="", skip_if_empty=True
        )
        events = read.events
        shown = events | "Impressions" >> (impressions or ExposureImpressions())
        manifests = (
            {"events": events, "impressions": shown}
            | "Examples" >> JoinExamples(source.schema, policy or FastWindow())
            | "WriteExamples" >> WriteExamples(folder, source.schema, plan)
        )
        results.collect(manifests, "spans")
        if store is not None and as_of_ms is not None:
            results.collect(events | "OnlineStore" >> WriteOnlineFeatures(store, source.schema, as_of_ms), "live_rooms")
    counters = _counters(pipeline.result)
    if not counters.get("impressions"):
        raise ValueError(
            f"the source gave {counters.get('events', 0)} events and no impression "
            f"({counters.get(DEAD_LETTERS, 0)} rows could not be read): nothing to learn from; check the input folder"
            + (f" and {folder / 'dead_letters.jsonl'}" if counters.get(DEAD_LETTERS) else "")
        )
    live_rooms = results.read("live_rooms")
    return ExamplesSummary(
        events=counters.get("events", 0),
        dead_letters=counters.get(DEAD_LETTERS, 0),
        impressions=counters["impressions"],
        immature=counters.get("immature", 0),
        spans=sorted(results.read("spans"), key=lambda manifest: manifest["span"]),
        live_rooms=live_rooms[0] if live_rooms else None,
    )


class _Results:
    """Small outputs of a pipeline that its caller wants back: written as lines of JSON, on any runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".results"
        shutil.rmtree(self._folder, ignore_errors=True)

    def collect(self, values: beam.PCollection, name: str) -> None:
        lines = values | f"{name}AsJson" >> beam.Map(json.dumps)
        lines | f"{name}Result" >> beam.io.WriteToText(str(self._folder / name), shard_name_template="")

    def read(self, name: str) -> list[Any]:
        path = self._folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _counters(result: Any) -> dict[str, int]:
    found = result.metrics().query()["counters"]
    return {counter.key.metric.name: counter.committed for counter in found}
