"""WriteOnlineFeatures: records of the online store -> the store, a window at a time."""

from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder, TupleCoder, VarIntCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp

from beam_transforms.columnar import to_columns
from beam_transforms.events import RecordBatchCoder
from beam_transforms.online_store import OnlineStore, open_online_store
from beam_transforms.schema import WINDOW_MS, RankingSchema
from beam_transforms.stage import stored_table

_Row = tuple[str, pa.RecordBatch]
_NOTHING: _Row = ("", pa.RecordBatch.from_arrays([], names=[]))
_AFTER_STAGES_MS = 10  # later than each stage's step at a window's end


class WriteOnlineFeatures(beam.PTransform):
    """The tables `stored_<key>` of `FeatureStages` -> the online store; gives the number of live rooms.

    One writer writes: a window's records of all keys, and then the store's head.

    Bounded input: replaces the store's content, as of `as_of_ms`. Without any record the store then has no room.

    Unbounded input: at each window's end the records that changed in it. The head moves on with every window while a
    room is live, and once more when none is any longer. A window that is sent again, after a crash, changes nothing.
    Late rows change records with the next window.

    Args:
        location: Of the store, see `open_online_store`.
        schema: What is stored.
        as_of_ms: Bounded input only: the time at which the features hold.
    """

    def __init__(self, location: str, schema: RankingSchema, as_of_ms: int | None = None) -> None:
        super().__init__()
        self._location, self._schema, self._as_of_ms = str(location), schema, as_of_ms

    @no_annotations
    def expand(self, tables: Mapping[str, beam.PCollection]) -> beam.PCollection:
        stored = {stored_table(key): tables[stored_table(key)] for key in self._schema.stored}
        rows = [
            batches
            | f"Name_{name}"
            >> beam.Map(lambda batch, name: (0, (name, batch)), name=name).with_output_types(tuple[int, _Row])
            for name, batches in stored.items()
        ] | beam.Flatten()
        if all(table.is_bounded for table in stored.values()):
            nothing = rows.pipeline | "Nothing" >> beam.Create([(0, _NOTHING)]).with_output_types(tuple[int, _Row])
            rows = (rows, nothing) | "AndNothing" >> beam.Flatten()  # so that no row at all replaces the store, too
            return rows | beam.GroupByKey() | beam.MapTuple(self._replace)
        return rows | beam.ParDo(_WriteWindows(self._location, self._schema))

    def _replace(self, _key: int, rows: Iterable[_Row]) -> int:
        named = (row for row in rows if row[0])
        return _write(self._location, self._schema, self._as_of_ms or 0, named, replace=True)


class _WriteWindows(beam.DoFn):
    ARRIVED = BagStateSpec("arrived", TupleCoder([VarIntCoder(), StrUtf8Coder(), RecordBatchCoder()]))
    NEXT_MS = ReadModifyWriteStateSpec("next_ms", VarIntCoder())  # the window whose timer is set; 0 if none is
    WINDOW = TimerSpec("window", TimeDomain.WATERMARK)

    def __init__(self, location: str, schema: RankingSchema) -> None:
        super().__init__()
        self._location, self._schema = location, schema

    def process(
        self,
        row: tuple[int, _Row],
        arrived=beam.DoFn.StateParam(ARRIVED),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> None:
        end_ms = timestamp.micros // 1000 // WINDOW_MS * WINDOW_MS  # stages step a little after a window's end
        arrived.add((end_ms, *row[1]))
        due_ms = next_ms.read()
        if not due_ms or end_ms < due_ms:
            self._set(window, next_ms, end_ms)

    @on_timer(WINDOW)
    @no_annotations
    def write(
        self,
        arrived=beam.DoFn.StateParam(ARRIVED),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> Iterator[int]:
        end_ms = next_ms.read()
        if end_ms is None or timestamp.micros // 1000 != end_ms + _AFTER_STAGES_MS:
            # A runner fired the timer twice, or one that was set anew since, and may have dropped the one that is due.
            if end_ms is not None:
                self._set(window, next_ms, end_ms)
            return
        rows = list(arrived.read())
        arrived.clear()
        next_ms.clear()
        live = _write(
            self._location, self._schema, end_ms, (row[1:] for row in rows if row[0] == end_ms), replace=False
        )
        later = [row for row in rows if row[0] != end_ms]
        for row in later:
            arrived.add(row)
        following = [row[0] for row in later]
        if live:  # rooms that are live no longer leave no record: they go with the next head
            following.append(end_ms + WINDOW_MS)
        if following:
            self._set(window, next_ms, min(following))
        yield live

    def _set(self, window, next_ms, end_ms: int) -> None:
        next_ms.write(end_ms)
        window.set(Timestamp(micros=(end_ms + _AFTER_STAGES_MS) * 1000))


def write_window(
    store: OnlineStore, schema: RankingSchema, as_of_ms: int, rows: Iterable[_Row], replace: bool = False
) -> int:
    """Writes the tables `stored_<key>` of one time into a store: (name, batch), in any order; gives the live rooms."""
    keys = {stored_table(key): key for key in schema.stored}
    by_key: dict[tuple[str, ...], list[dict[str, np.ndarray]]] = {}
    for name, batch in rows:
        by_key.setdefault(keys[name], []).append(to_columns([batch]))
    rooms = np.concatenate([np.zeros(0, np.int64), *(part["live_id"] for part in by_key.get(("live_id",), []))])
    store.write(schema, as_of_ms, by_key, rooms, replace=replace)
    return len(rooms)


def _write(location: str, schema: RankingSchema, as_of_ms: int, rows: Iterable[_Row], replace: bool) -> int:
    with open_online_store(location, readonly=False) as store:
        return write_window(store, schema, as_of_ms, rows, replace)
