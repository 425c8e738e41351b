"""WriteWindowFiles: what flows in during a window -> files named by the window, whatever they hold."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.coders import BytesCoder, TupleCoder, VarIntCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.typehints.decorators import no_annotations
from apache_beam.utils.timestamp import Timestamp

from beam_transforms.schema import WINDOW_MS

_AFTER_STAGES_MS = 10  # later than each stage's step at a window's end

Write = Callable[[int, int, list[bytes]], list[tuple[str, int]]]


class WriteWindowFiles(beam.PTransform):
    """(shard, bytes) -> files of each window and shard; gives (path, rows) of each file.

    Unbounded input, in the global window. At a window's end, `write(shard, end_ms, values)` is called once with all
    that came in it. It must write files whose names hold shard and window, and whose bytes don't depend on the order of
    `values`: a window that is written again, after a crash, then gives the same files again. What should come for a
    window that is written already goes with the next one.

    Args:
        write: Writes the files of a window and gives their paths and numbers of rows.
    """

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def expand(self, values: beam.PCollection) -> beam.PCollection:
        return values | beam.ParDo(_Windows(self._write)).with_output_types(tuple[str, int])


class _Windows(beam.DoFn):
    ARRIVED = BagStateSpec("arrived", TupleCoder([VarIntCoder(), BytesCoder()]))
    NEXT_MS = ReadModifyWriteStateSpec("next_ms", VarIntCoder())  # the window whose timer is set; None if none is
    WRITTEN_MS = ReadModifyWriteStateSpec("written_ms", VarIntCoder())
    WINDOW = TimerSpec("window", TimeDomain.WATERMARK)

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    @no_annotations
    def process(
        self,
        value: tuple[int, bytes],
        arrived=beam.DoFn.StateParam(ARRIVED),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        written_ms=beam.DoFn.StateParam(WRITTEN_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> None:
        # The first window's end that isn't before it: stages step a little after a window's end.
        end_ms = -((_AFTER_STAGES_MS - timestamp.micros // 1000) // WINDOW_MS) * WINDOW_MS
        last_ms, due_ms = written_ms.read(), next_ms.read()
        if last_ms is not None:
            end_ms = max(end_ms, last_ms + WINDOW_MS)
        arrived.add((end_ms, value[1]))
        if due_ms is None or end_ms < due_ms:
            self._set(window, next_ms, end_ms)

    @on_timer(WINDOW)
    @no_annotations
    def write(
        self,
        shard=beam.DoFn.KeyParam,
        arrived=beam.DoFn.StateParam(ARRIVED),
        next_ms=beam.DoFn.StateParam(NEXT_MS),
        written_ms=beam.DoFn.StateParam(WRITTEN_MS),
        window=beam.DoFn.TimerParam(WINDOW),
        timestamp=beam.DoFn.TimestampParam,
    ) -> Iterator[tuple[str, int]]:
        end_ms = next_ms.read()
        if end_ms is None or timestamp.micros // 1000 != end_ms + _AFTER_STAGES_MS:
            # A runner fired the timer twice, or one that was set anew since, and may have dropped the one that is due.
            if end_ms is not None:
                self._set(window, next_ms, end_ms)
            return
        values = list(arrived.read())
        arrived.clear()
        next_ms.clear()
        yield from self._write(shard, end_ms, [value for time_ms, value in values if time_ms == end_ms])
        written_ms.write(end_ms)
        later = [value for value in values if value[0] != end_ms]
        for value in later:
            arrived.add(value)
        if later:
            self._set(window, next_ms, min(time_ms for time_ms, _ in later))

    def _set(self, window, next_ms, end_ms: int) -> None:
        next_ms.write(end_ms)
        window.set(Timestamp(micros=(end_ms + _AFTER_STAGES_MS) * 1000))


def file_name(end_ms: int, shard: int, shards: int) -> str:
    """What the files of a window are called, without what is in front and behind."""
    return f"{end_ms}-{shard:05d}-of-{shards:05d}"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside and renames it: it is there whole, also after the machine has lost power, or not at all.

    Raises:
        OSError: If it can't be written; the earlier one stays, and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        _to_disk(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk is found out in a write, which knows no path
        raise
    _to_disk(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Removes what killed processes left of `replace_file` in a folder; nobody may be writing there."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.[0-9]+", path.name):
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
