"""Semantic ids: sequences of 5,000,000 segments of 100,000 authors through Beam, and nearest codes against faiss.

The sequences are those of `SidSequences` on Beam's local runner: the last 100 runs of each author as of the end, from
record batches in memory to the answers. polars does the same with the same rows in the same process, in turn: it sorts,
drops duplicates, cuts runs and takes each author's last ones, and both have to agree. All is CPU time of one process,
one thread each.
"""

import os
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from typing import Any
from unittest import mock

import click
import numpy as np

from benchmarks.harness import goal, report

_LENGTH = 100
_SEGMENT_MS = 30_000
_UNTIL_MS = 90 * 86_400_000
_BATCH_ROWS = 131_072
_WIDTHS = (64, 128)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

OPTIONS: list[click.Option] = [
    click.Option(["--segments"], type=click.IntRange(1), default=5_000_000, show_default=True, help="Segments."),
    click.Option(["--authors"], type=click.IntRange(1), default=100_000, show_default=True, help="Authors."),
    click.Option(["--codes"], type=click.IntRange(1), default=20_000, show_default=True, help="Codes."),
    click.Option(["--vectors"], type=click.IntRange(1), default=8_192, show_default=True, help="Vectors to assign."),
    click.Option(["--rounds"], type=click.IntRange(1), default=5, show_default=True, help="Measurements of each."),
]

_held: list[Any] = []
"""Batches that the pipeline begins with: it runs in this process, and encoding its input isn't the transform's work."""
_answered: list[tuple[int, int]] = []


def run(
    segments: int = 5_000_000, authors: int = 100_000, codes: int = 20_000, vectors: int = 8_192, rounds: int = 5
) -> dict[str, Any]:
    """Segments made sequences and nearest codes found, a CPU-second, and polars's and faiss's figures beside them."""
    # The libraries read these when they are imported: hence a process of its own.
    with mock.patch.dict(os.environ, dict.fromkeys(_THREADS, "1")), get_context("spawn").Pool(1) as pool:
        ours, polars = pool.apply(_sequence_rates, (segments, authors, rounds))
        assigned = {width: pool.apply(_assignment_rates, (codes, vectors, width, rounds)) for width in _WIDTHS}
    goals = [goal(f"segments a CPU-second, sequences of {segments:,} of {authors:,} authors", ours, ">=", 1_500_000)]
    rates = {"sequences": ours, "sequences_polars": polars}
    for width, (found, faiss) in assigned.items():
        ratios = [one / other for one, other in zip(found, faiss, strict=True)]
        name = f"vectors a CPU-second, nearest of {codes:,} codes of width {width} / faiss IndexFlatL2"
        goals.append(goal(name, ratios, ">=", 1.0))
        rates |= {f"nearest_{width}": found, f"nearest_{width}_faiss": faiss}
    return {**report("sids", goals, "apache-beam", "faiss-cpu", "numpy", "polars"), "per_cpu_second": rates}


def segments_of_authors(segments: int, authors: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Segments in the order of time: an author's are 30 seconds apart; a semantic id lasts for three on average."""
    generator = np.random.default_rng(seed)
    author_id = np.sort(generator.integers(0, authors, segments))
    position = np.arange(segments) - np.searchsorted(author_id, author_id)
    opened_ms = generator.integers(0, 86_400_000, authors)
    timestamp_ms = opened_ms[author_id] + (position + 1) * _SEGMENT_MS - 1
    topic = np.cumsum(generator.random(segments) < 1 / 3)
    order = np.argsort(timestamp_ms, kind="stable")
    columns = {
        "live_id": author_id * 3,
        "author_id": author_id,
        "timestamp_ms": timestamp_ms,
        "semantic_id": topic * 7919 % 20_000,
    }
    return {name: values[order] for name, values in columns.items()}


def beam_sequences(batches: Iterable[Any], authors: int) -> tuple[int, int]:
    """Runs in the last runs of all authors, and segments in these, by `SidSequences`."""
    import apache_beam as beam
    import pyarrow as pa
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_transforms.columnar import to_batch
    from beam_transforms.events import register_coders
    from beam_transforms.sid_sequences import SidSequences

    register_coders()
    asked = to_batch({"author_id": np.arange(authors), "as_of_ms": np.full(authors, _UNTIL_MS)})
    _held[:], _answered[:] = batches, []
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        held = pipeline | beam.Create([0]) | beam.FlatMap(_from_memory).with_output_types(pa.RecordBatch)
        queries = pipeline | "Queries" >> beam.Create([asked])
        # The memory spans all: the time asked for is long after the last segment.
        sequences = SidSequences("author_id", _LENGTH, memory_ms=_UNTIL_MS)
        answers = {"semantic_ids": held, "queries": queries} | sequences
        answers | "Count" >> beam.Map(_count)
    _held.clear()
    return sum(runs for runs, _ in _answered), sum(covered for _, covered in _answered)


def _from_memory(_: int) -> Iterator[Any]:
    yield from _held


def _count(batch: Any) -> None:
    lengths = batch.column(batch.schema.get_field_index("run_lengths")).flatten().to_numpy()
    _answered.append((int(np.count_nonzero(lengths)), int(lengths.sum())))


def polars_sequences(frame: Any) -> tuple[int, int]:
    """The same by polars, from a frame of the segments."""
    import polars as pl

    author = pl.col("author_id")
    same_author = (author == author.shift(1)).fill_null(False)
    again = same_author & (pl.col("timestamp_ms") == pl.col("timestamp_ms").shift(1))
    again &= pl.col("live_id") == pl.col("live_id").shift(1)
    found = (
        frame.lazy()
        .sort("author_id", "timestamp_ms", "live_id", "semantic_id")
        .filter(~again.fill_null(False))
        .with_columns(
            run=(~(same_author & (pl.col("semantic_id") == pl.col("semantic_id").shift(1)).fill_null(False))).cum_sum()
        )
        .group_by("run", maintain_order=True)
        .agg(author.first(), pl.col("semantic_id").first(), pl.len().alias("run_length"))
        .group_by("author_id", maintain_order=True)
        .agg(pl.col("semantic_id").tail(_LENGTH), pl.col("run_length").tail(_LENGTH))
        .collect()
    )
    lengths = found["run_length"].explode()
    return len(lengths), int(lengths.sum())


def _sequence_rates(segments: int, authors: int, rounds: int) -> tuple[list[float], list[float]]:
    import polars as pl

    from beam_transforms.columnar import to_batch

    columns = segments_of_authors(segments, authors)
    whole = to_batch(columns)
    batches = [whole.slice(begin, _BATCH_ROWS) for begin in range(0, segments, _BATCH_ROWS)]
    frame = pl.DataFrame(columns)
    beam_sequences(batches[:1], authors)  # imports
    ours, polars = [], []
    for _ in range(rounds):
        begin = time.process_time()
        found = beam_sequences(batches, authors)
        ours.append(segments / (time.process_time() - begin))
        begin = time.process_time()
        expected = polars_sequences(frame)
        polars.append(segments / (time.process_time() - begin))
        if found != expected:
            raise click.ClickException(f"Beam found {found} runs and segments, polars {expected}")
    return ours, polars


def _assignment_rates(codes: int, vectors: int, width: int, rounds: int) -> tuple[list[float], list[float]]:
    import faiss

    from beam_transforms.codebook import Codebook

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    generator = np.random.default_rng(width)
    codebook = Codebook(generator.standard_normal((codes, width), dtype=np.float32))
    queries = generator.standard_normal((vectors, width), dtype=np.float32)
    index = faiss.IndexFlatL2(width)
    index.add(np.array(codebook.codes))
    codebook.assign(queries[:1])  # prepares the codes
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds):
        for ours_now in (turn % 2 == 0, turn % 2 == 1):
            begin = time.process_time()
            if ours_now:
                found = codebook.assign(queries)
            else:
                nearest = index.search(queries, 1)[1][:, 0]
            (ours if ours_now else theirs).append(vectors / (time.process_time() - begin))
        if (differ := np.count_nonzero(found != nearest)) > vectors // 1000:  # faiss rounds
            raise click.ClickException(f"{differ} of {vectors} codes differ from faiss's")
    faiss.omp_set_num_threads(threads)
    return ours, theirs
