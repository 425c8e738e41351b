"""The assembled batch pipeline: a source's events -> examples by span, and the online store."""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_transforms.codebook import Codebook
from beam_transforms.events import register_coders
from beam_transforms.example_writer import WriteExamples
from beam_transforms.examples import JoinExamples
from beam_transforms.feature_stages import FeatureStages
from beam_transforms.impressions import ExposureImpressions
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.online_features import WriteOnlineFeatures
from beam_transforms.online_store import open_online_store
from beam_transforms.quantize_segments import QuantizeSegments
from beam_transforms.read_events import DEAD_LETTERS, ReadEvents
from beam_transforms.read_products import ReadProducts
from beam_transforms.read_segments import ReadSegments
from beam_transforms.replaced_folder import ReplacedFolder
from beam_transforms.schema import CATEGORIES, PRODUCT_LENGTH, SEMANTIC_ID_LENGTH, WINDOW_MS, RankingSchema
from beam_transforms.sources.source import Source
from beam_transforms.spans import SpanPlan
from beam_transforms.unusable_store_error import UnusableStoreError

_DEAD_LETTERS = "dead_letters.jsonl"
_FAILED_LETTERS = "dead_letters.failed.jsonl"
_WRITTEN = ("Span-*", "schema.json", _DEAD_LETTERS, _FAILED_LETTERS)


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
    codebook: Codebook | None = None,
    content_lengths: tuple[int, int] = (SEMANTIC_ID_LENGTH, PRODUCT_LENGTH),
    store: Path | str | None = None,
    as_of_ms: int | None = None,
    runner_args: tuple[str, ...] = ("--runner=FnApiRunner",),
) -> ExamplesSummary:
    """Runs the batch pipeline over all of a source.

    The examples are written beside those that an earlier run left, and take their place when all are there. A run that
    fails leaves the folder's examples as they were. Meanwhile both need room on the disk.

    Args:
        source: Where the events come from.
        folder: Where the examples go, see `WriteExamples`; all spans that are there already are replaced.
        plan: How time is cut into spans.
        policy: When labels are known; the fast window of five minutes by default.
        impressions: Events -> impressions; one for each EXPOSURE by default.
        codebook: What turns the source's segments into semantic ids; without it examples have none.
        content_lengths: Runs in a sequence of semantic ids, and products in a sequence.
        store: Location of the online store to fill as of `as_of_ms`, if any.
        as_of_ms: The time at which the store's features hold: that of the last window's end by then.
        runner_args: Options of the Beam runner, as on a command line.

    Raises:
        ValueError: If `store` is given without `as_of_ms`, isn't a store's location or holds later features, or the
            source gives no impression; the rows that can't be read then stand in `dead_letters.failed.jsonl`.
        OSError: If the store can't be reached or written, or another run writes into the folder.
    """
    if (store is None) != (as_of_ms is None):
        raise ValueError(f"store and as_of_ms go together, got store={store} and as_of_ms={as_of_ms}")
    if store is not None and as_of_ms is not None:
        as_of_ms = as_of_ms // WINDOW_MS * WINDOW_MS
        _check_store(store, as_of_ms)
    register_coders()
    schema = content_schema(source, codebook, content_lengths)
    with ReplacedFolder(Path(folder), _WRITTEN) as target:
        results = _Results(target.new)
        with beam.Pipeline(options=PipelineOptions(list(runner_args))) as pipeline:
            read = pipeline | "Read" >> ReadEvents(source)
            rows = {"events": read.events}
            dead_letters = [read[DEAD_LETTERS]]
            if codebook is not None and schema.semantic_id_length:
                segments = pipeline | "ReadSegments" >> ReadSegments(source)
                quantized = segments.segments | "Quantize" >> QuantizeSegments(codebook)
                rows["semantic_ids"] = quantized.semantic_ids
                dead_letters += [segments[DEAD_LETTERS], quantized[DEAD_LETTERS]]
            if schema.product_length:
                products = pipeline | "ReadProducts" >> ReadProducts(source)
                rows["products"] = products.products
                dead_letters.append(products[DEAD_LETTERS])
            _write_dead_letters(dead_letters, target.new)
            shown = read.events | "Impressions" >> (impressions or ExposureImpressions())
            manifests = (
                {**rows, "impressions": shown}
                | "Examples" >> JoinExamples(schema, policy or FastWindow())
                | "WriteExamples" >> WriteExamples(target.new, schema, plan)
            )
            results.collect(manifests, "spans")
            if store is not None and as_of_ms is not None:
                stages = FeatureStages(schema, FastWindow(), store=True, now_ms=as_of_ms)
                features = rows | "OnlineFeatures" >> stages
                live_rooms = features | "OnlineStore" >> WriteOnlineFeatures(str(store), schema, as_of_ms)
                results.collect(live_rooms, "live_rooms")
        counters = _counters(pipeline.result)
        if not counters.get("impressions"):
            letters = Path(folder) / _FAILED_LETTERS
            if counters.get(DEAD_LETTERS):
                (target.new / _DEAD_LETTERS).replace(letters)
            raise ValueError(
                f"the source gave {counters.get('events', 0)} events and no impression "
                f"({counters.get(DEAD_LETTERS, 0)} rows could not be read): nothing to learn from; check the input "
                "folder" + (f" and {letters}" if counters.get(DEAD_LETTERS) else "")
            )
        live_rooms = results.read("live_rooms")
        summary = ExamplesSummary(
            events=counters.get("events", 0),
            dead_letters=counters.get(DEAD_LETTERS, 0),
            impressions=counters["impressions"],
            immature=counters.get("immature", 0),
            spans=sorted(results.read("spans"), key=lambda manifest: manifest["span"]),
            live_rooms=live_rooms[0] if live_rooms else None,
        )
        target.replace()
    return summary


def content_schema(source: Source, codebook: Codebook | None, lengths: tuple[int, int]) -> RankingSchema:
    """The source's schema with the sequences of semantic ids and products that it can give."""
    schema = source.schema
    semantic_ids, products = lengths
    if codebook is not None and source.segment_partitions():
        schema = dataclasses.replace(
            schema, semantic_id_length=semantic_ids, codes=codebook.size, codebook=codebook.version
        )
    if source.product_partitions():
        schema = dataclasses.replace(schema, product_length=products, categories=CATEGORIES)
    return schema


def _check_store(location: Path | str, as_of_ms: int) -> None:
    """Refuses a store that can't be filled, before anything is read."""
    with open_online_store(location, readonly=False) as store:
        try:
            newest_ms = store.as_of_ms
        except UnusableStoreError:
            return  # empty so far
        if newest_ms > as_of_ms:
            raise ValueError(
                f"{store.location} holds features as of {newest_ms}, later than {as_of_ms}, those that should replace "
                "it; remove the store first if that is meant, or write into another one"
            )


def _write_dead_letters(dead_letters: list[beam.PCollection], folder: Path) -> None:
    lines = dead_letters | "DeadLetters" >> beam.Flatten() | "Json" >> beam.Map(json.dumps, ensure_ascii=False)
    lines | "WriteDeadLetters" >> beam.io.WriteToText(
        str(folder / _DEAD_LETTERS), shard_name_template="", skip_if_empty=True
    )


class _Results:
    """Small outputs of a pipeline that its caller wants back: written as lines of JSON, on any runner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / ".results"

    def collect(self, values: beam.PCollection, name: str) -> None:
        lines = values | f"{name}AsJson" >> beam.Map(json.dumps)
        lines | f"{name}Result" >> beam.io.WriteToText(str(self._folder / name), shard_name_template="")

    def read(self, name: str) -> list[Any]:
        path = self._folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _counters(result: Any) -> dict[str, int]:
    counters: collections.Counter[str] = collections.Counter()
    for counter in result.metrics().query()["counters"]:
        counters[counter.key.metric.name] += counter.committed  # each step has its own
    return counters
