"""The assembled streaming pipeline: live events -> examples, the online store, and all that couldn't be used."""

from pathlib import Path

import apache_beam as beam
import pyarrow as pa

from beam_transforms.codebook import Codebook
from beam_transforms.events import register_coders
from beam_transforms.feature_stages import FeatureStages
from beam_transforms.impressions import ExposureImpressions
from beam_transforms.labels import FastWindow, LabelPolicy
from beam_transforms.online_features import WriteOnlineFeatures
from beam_transforms.quantize_segments import QuantizeSegments
from beam_transforms.read_events import DEAD_LETTERS
from beam_transforms.schema import RankingSchema
from beam_transforms.spans import SpanPlan
from beam_transforms.stage import LATENESS_MS
from beam_transforms.stream_segments import require_same_codes, wrong_width
from beam_transforms.streamed_examples import WriteStreamedExamples
from beam_transforms.streamed_lines import LATE, WriteStreamedLines, dead_letter_line, late_lines


def build_stream(
    pipeline: beam.Pipeline,
    read: beam.PTransform,
    folder: Path,
    schema: RankingSchema,
    plan: SpanPlan,
    policy: LabelPolicy | None = None,
    codebook: Codebook | None = None,
    store: Path | str | None = None,
    lateness_ms: int = LATENESS_MS,
    shards: int = 16,
) -> dict[str, beam.PCollection]:
    """Adds the streaming pipeline to a Beam pipeline; it gives the examples and the store that a batch run gives.

    Unbounded input, in the global window. A batch's Beam timestamp should be the later of the watermark and its oldest
    row's time, as with `ReadLiveEvents`; with `ReadKafkaEvents` rows of one message should be no further apart than the
    allowed lateness. What comes within the allowed lateness, in any order and any number of times, changes
    nothing. What comes later is counted and kept below `<folder>/late` as lines of live events, which a later batch run
    reads beside the others; dead letters are kept below `<folder>/dead_letters`. Events before a room's start or after
    its end count like all others; a room that has ended isn't live.

    On a runner with exactly-once state, files and store are those of a run without a crash: what is sent again is
    written again under the same names with the same bytes.

    Args:
        pipeline: Where to add it.
        read: Gives `events`, `segments` and `products` (batches) and `dead_letters` (dicts), e.g. `ReadLiveEvents`.
        folder: Where the examples go, see `WriteStreamedExamples`.
        schema: What an example is; with semantic ids, those of the codebook.
        plan: How time is cut into spans.
        policy: When labels are known; the fast window of five minutes by default.
        codebook: What turns segments into semantic ids. A segment of another width is a dead letter.
        store: Location of the online store, if one is wanted.
        lateness_ms: The allowed lateness.
        shards: Number of groups that can be worked on in parallel.

    Returns:
        `examples`, `late` and `dead_letters`: path and number of rows of each file, as they are written; and with a
        store `live_rooms`: their number at each window's end.

    Raises:
        ValueError: If the schema's semantic ids aren't those of the codebook.
    """
    require_same_codes(schema, codebook)
    register_coders()
    folder = Path(folder)
    live = pipeline | "ReadLive" >> read
    dead_letters = [live[DEAD_LETTERS]]
    rows = {"events": live.events, "impressions": live.events | "Impressions" >> ExposureImpressions()}
    if codebook is not None and schema.semantic_id_length:
        fitting = live.segments | "OfWidth" >> beam.ParDo(_OfWidth(codebook)).with_outputs(
            DEAD_LETTERS, main="segments"
        )
        quantized = fitting.segments | "Quantize" >> QuantizeSegments(codebook)
        rows["semantic_ids"] = quantized.semantic_ids
        dead_letters += [fitting[DEAD_LETTERS], quantized[DEAD_LETTERS]]
    if schema.product_length:
        rows["products"] = live.products
    stages = FeatureStages(schema, policy or FastWindow(), shards, store=store is not None, lateness_ms=lateness_ms)
    features = rows | "Features" >> stages
    late = [
        batches | f"Lines_{name}" >> beam.Map(_late_lines, name=name, codebook=codebook).with_output_types(bytes)
        for name, batches in features.items()
        if name.startswith("late_")
    ] | "Late" >> beam.Flatten()
    letters = dead_letters | "DeadLetters" >> beam.Flatten() | beam.Map(dead_letter_line).with_output_types(bytes)
    written = {
        "examples": features["examples"] | "WriteExamples" >> WriteStreamedExamples(folder, schema, plan, shards),
        "late": late | "WriteLate" >> WriteStreamedLines(folder / LATE),
        "dead_letters": letters | "WriteDeadLetters" >> WriteStreamedLines(folder / DEAD_LETTERS),
    }
    if store is not None:
        written["live_rooms"] = features | "OnlineStore" >> WriteOnlineFeatures(str(store), schema)
    return written


def _late_lines(batch: pa.RecordBatch, name: str, codebook: Codebook | None) -> bytes:
    return late_lines(name, batch, codebook)


class _OfWidth(beam.DoFn):
    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self._codebook = codebook
        self._dead_letters = beam.metrics.Metrics.counter("read", DEAD_LETTERS)

    def process(self, batch: pa.RecordBatch):
        letters = wrong_width(batch, self._codebook)
        for letter in letters:
            self._dead_letters.inc()
            yield beam.pvalue.TaggedOutput(DEAD_LETTERS, letter)
        if not letters:
            yield batch
