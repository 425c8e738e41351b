"""Statistics of rooms in windows of 30 seconds: `WindowStatistics` against polars, DuckDB and pandas.

All get the same record batches in memory, drop rows that came twice, and count the twelve metrics of `LIVE_SCHEMA`,
users present among them, for each room and window; the results have to be equal, value for value. Each engine runs in a
process of its own, on one thread. The cost is that process's CPU time, with what it spent in the kernel.
"""

import hashlib
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa

from benchmarks.harness import goal, report

ENGINES = ("beam", "polars", "duckdb", "pandas")
_EVENTS_A_SECOND = 1000
_ROOMS, _USERS = 20_000, 1_000_000
_BATCH_ROWS = 131_072
_BEGIN_MS = 1_760_000_010_000
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")

OPTIONS: list[click.Option] = [
    click.Option(["--events"], type=click.IntRange(10), default=10_000_000, show_default=True, help="Events."),
    click.Option(["--rounds"], type=click.IntRange(1), default=3, show_default=True, help="Processes of each engine."),
]


def run(events: int = 10_000_000, rounds: int = 3) -> dict[str, Any]:
    """CPU time over that of the others, the growth of an event's cost from a tenth of the events, and memory."""
    measured: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # read by the processes' libraries when they are imported
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "events.arrow")
            _write(path, events)
            for _ in range(rounds):
                for engine in ENGINES:
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        measured[engine].append(pool.apply(measure, (engine, path)))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    _require_equal(measured)
    ours = [sample["cpu"] for sample in measured["beam"]]
    goals = []
    for engine, target in (("polars", 3.0), ("duckdb", 3.0), ("pandas", 1.0)):
        ratios = [mine / sample["cpu"] for mine, sample in zip(ours, measured[engine], strict=True)]
        goals.append(goal(f"CPU time for {events:,} events / {engine}'s", ratios, "<=", target))
    growth = [sample["cpu"] / events / (sample["tenth_cpu"] / (events // 10)) for sample in measured["beam"]]
    goals.append(goal(f"CPU time an event, of {events:,} / of {events // 10:,}", growth, "<=", 1.05))
    result = report("windows", goals, "apache-beam", "numpy", "pyarrow", "polars", "duckdb", "pandas")
    result["events_per_cpu_second"] = {
        engine: [round(events / sample["cpu"]) for sample in samples] for engine, samples in measured.items()
    }
    for name in ("memory_mb", "input_mb", "windows"):
        result[name] = {engine: max(sample[name] for sample in samples) for engine, samples in measured.items()}
    return result


def event_batches(events: int, seed: int = 0) -> Iterator[pa.RecordBatch]:
    """A log in the order of time, 1,000 events a second; one row in a hundred came up to a minute before, too."""
    from beam_transforms.events import EVENT_ARROW_SCHEMA
    from beam_transforms.schema import EventKind

    generator = np.random.default_rng(seed)
    weights = {
        EventKind.EXPOSURE: 0.4, EventKind.ENTER: 0.2, EventKind.LEAVE: 0.19, EventKind.COMMENT: 0.08,
        EventKind.LIKE: 0.06, EventKind.FOLLOW: 0.01, EventKind.SHARE: 0.01, EventKind.GIFT: 0.01,
        EventKind.ORDER: 0.005, EventKind.PRODUCT_CLICK: 0.02, EventKind.CART_CLICK: 0.015,
    }  # fmt: skip
    kinds = np.array(list(weights), dtype=np.int8)
    likely = np.cumsum(1 / (np.arange(_ROOMS) + 10.0))
    for begin in range(0, events, _BATCH_ROWS):
        rows = min(_BATCH_ROWS, events - begin)
        room = np.searchsorted(likely, generator.random(rows) * likely[-1]).astype(np.int64) * 7919 % _ROOMS
        kind = generator.choice(kinds, rows, p=list(weights.values()))
        priced = np.isin(kind, [EventKind.GIFT, EventKind.ORDER])
        columns = {
            "kind": kind,
            "timestamp_ms": _BEGIN_MS + (begin + np.arange(rows)) * 1000 // _EVENTS_A_SECOND,
            "user_id": generator.integers(0, _USERS, rows),
            "author_id": room // 2,
            "live_id": room + 5_000_000,
            # Quarters: sums of them are exact in any order and type.
            "value": np.where(priced, generator.integers(1, 400, rows) / 4, 1.0).astype(np.float32),
        }
        again = np.flatnonzero(generator.random(rows) < 0.01)
        earlier = np.maximum(again - generator.integers(1, 60 * _EVENTS_A_SECOND, len(again)), 0)
        for values in columns.values():
            values[again] = values[earlier]
        yield pa.RecordBatch.from_pydict(columns, schema=EVENT_ARROW_SCHEMA)


def measure(engine: str, path: str) -> dict[str, Any]:
    """One engine in this process: CPU seconds for all events of a file and for a tenth of them, memory, and the result.

    Memory is the peak of what the process has beyond what it had with its libraries loaded and the input in memory.
    """
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with pa.OSFile(path) as file:
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    compute = _ENGINES[engine]
    events = sum(batch.num_rows for batch in batches)
    tenth = pa.Table.from_batches(batches).slice(0, events // 10).to_batches()
    compute([batches[0].slice(0, 5000)])  # imports, and what is built once
    tenths = []
    for _ in range(3):
        begin = _cpu()
        compute(tenth)
        tenths.append(_cpu() - begin)
    resident = _resident_mb()
    begin = _cpu()
    columns = compute(batches)
    cpu = _cpu() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cpu": cpu,
        "tenth_cpu": sorted(tenths)[1],
        "memory_mb": round(peak - resident),
        "input_mb": round(sum(batch.nbytes for batch in batches) / 2**20),
        "windows": len(columns["live_id"]),
        "digest": _digest(columns),
    }


def beam_windows(batches: list[pa.RecordBatch]) -> dict[str, np.ndarray]:
    """`live_id`, `window_end_ms` and `statistics` by Beam's local runner, in any order."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_transforms.columnar import to_columns
    from beam_transforms.events import register_coders
    from beam_transforms.schema import LIVE_SCHEMA
    from beam_transforms.window_statistics import WindowStatistics

    register_coders()
    _held[:], _found[:] = batches, []
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        held = pipeline | beam.Create([0]) | beam.FlatMap(_from_memory).with_output_types(pa.RecordBatch)
        held | WindowStatistics(LIVE_SCHEMA.metrics) | "Keep" >> beam.Map(_keep)
    return to_columns(_found)


_held: list[pa.RecordBatch] = []
"""Batches that the pipeline begins with: it runs in this process, and encoding its input isn't the transform's work."""
_found: list[pa.RecordBatch] = []


def _from_memory(_: int) -> Iterator[pa.RecordBatch]:
    yield from _held


def _keep(batch: pa.RecordBatch) -> None:
    _found.append(batch)


def polars_windows(batches: list[pa.RecordBatch]) -> dict[str, np.ndarray]:
    import polars as pl

    from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate

    kind, value = pl.col("kind"), pl.col("value")
    sums = []
    for metric in LIVE_SCHEMA.metrics:
        if metric.aggregate is Aggregate.SUM:
            counted = pl.when(kind == int(metric.kind)).then(value.cast(pl.Float64)).otherwise(0.0)
        elif metric.aggregate is Aggregate.PRESENT:
            counted = (kind == int(metric.kind)).cast(pl.Int64) - (kind == _LEAVE).cast(pl.Int64)
        else:
            counted = kind == int(metric.kind)
        sums.append(counted.sum().alias(metric.name))
    present = [metric.name for metric in LIVE_SCHEMA.metrics if metric.aggregate is Aggregate.PRESENT]
    found = (
        pl.LazyFrame(pl.from_arrow(pa.Table.from_batches(batches), rechunk=False))
        .unique()
        .group_by("live_id", window_end_ms=(pl.col("timestamp_ms") // WINDOW_MS + 1) * WINDOW_MS)
        .agg(sums)
        .sort("live_id", "window_end_ms")
        .with_columns(pl.col(present).cum_sum().over("live_id").clip(lower_bound=0))
        .with_columns(pl.col([metric.name for metric in LIVE_SCHEMA.metrics]).cast(pl.Float32))
        .collect()
    )
    return {name: found[name].to_numpy() for name in found.columns}


def duckdb_windows(batches: list[pa.RecordBatch]) -> dict[str, np.ndarray]:
    import duckdb

    from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate

    inner, outer = [], []
    for metric in LIVE_SCHEMA.metrics:
        result = f"{metric.name}_"
        chosen = f"FILTER (kind = {int(metric.kind)})"
        if metric.aggregate is Aggregate.SUM:
            inner.append(f"coalesce(sum(value::DOUBLE) {chosen}, 0) AS {result}")
        elif metric.aggregate is Aggregate.PRESENT:
            inner.append(f"count(*) {chosen} - count(*) FILTER (kind = {_LEAVE}) AS {result}")
            result = f"greatest(sum({result}) OVER (PARTITION BY live_id ORDER BY number), 0)"
        else:
            inner.append(f"count(*) {chosen} AS {result}")
        outer.append(f"{result}::FLOAT AS {metric.name}")
    events = pa.Table.from_batches(batches)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("events", events)
        found = connection.execute(
            f"SELECT live_id, (number + 1) * {WINDOW_MS} AS window_end_ms, {', '.join(outer)} FROM ("  # noqa: S608
            f"SELECT live_id, timestamp_ms // {WINDOW_MS} AS number, {', '.join(inner)} "
            "FROM (SELECT DISTINCT * FROM events) GROUP BY live_id, number)"
        )
        return dict(found.fetchnumpy())


def pandas_windows(batches: list[pa.RecordBatch]) -> dict[str, np.ndarray]:
    from beam_transforms.schema import LIVE_SCHEMA, WINDOW_MS, Aggregate

    frame = pa.Table.from_batches(batches).to_pandas(use_threads=False).drop_duplicates()
    amounts = {"live_id": frame["live_id"], "window_end_ms": (frame["timestamp_ms"] // WINDOW_MS + 1) * WINDOW_MS}
    for metric in LIVE_SCHEMA.metrics:
        counted = frame["kind"] == int(metric.kind)
        if metric.aggregate is Aggregate.SUM:
            amounts[metric.name] = frame["value"].where(counted, 0).astype(np.float64)
        elif metric.aggregate is Aggregate.PRESENT:
            amounts[metric.name] = counted.astype(np.int64) - (frame["kind"] == _LEAVE)
        else:
            amounts[metric.name] = counted
    found = frame.__class__(amounts).groupby(["live_id", "window_end_ms"]).sum()
    for metric in LIVE_SCHEMA.metrics:
        if metric.aggregate is Aggregate.PRESENT:
            found[metric.name] = found.groupby(level="live_id")[metric.name].cumsum().clip(lower=0)
    found = found.astype(np.float32).reset_index()
    return {name: found[name].to_numpy() for name in found.columns}


_LEAVE = 3
_ENGINES: dict[str, Callable[[list[pa.RecordBatch]], dict[str, np.ndarray]]] = {
    "beam": beam_windows,
    "polars": polars_windows,
    "duckdb": duckdb_windows,
    "pandas": pandas_windows,
}


def _write(path: str, events: int) -> None:
    batches = event_batches(events)
    first = next(batches)
    with pa.ipc.new_file(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _digest(columns: dict[str, np.ndarray]) -> str:
    """Of the result in the order of rooms and windows; metrics may be one array or a column each."""
    order = np.lexsort([columns["window_end_ms"], columns["live_id"]])
    ids = ("live_id", "window_end_ms")
    values = [columns[name] for name in columns if name not in ids]
    statistics = values[0] if values[0].ndim == 2 else np.stack(values, axis=1)
    digest = hashlib.sha256()
    for array in (columns["live_id"].astype(np.int64), columns["window_end_ms"].astype(np.int64)):
        digest.update(np.ascontiguousarray(array[order]).tobytes())
    digest.update(np.ascontiguousarray(statistics[order].astype(np.float32)).tobytes())
    return digest.hexdigest()


def _require_equal(measured: dict[str, list[dict[str, Any]]]) -> None:
    digests = {engine: {sample["digest"] for sample in samples} for engine, samples in measured.items()}
    if len(set.union(*digests.values())) > 1:
        windows = {engine: samples[0]["windows"] for engine, samples in measured.items()}
        raise click.ClickException(f"the engines' results differ: {digests}, with {windows} windows")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
