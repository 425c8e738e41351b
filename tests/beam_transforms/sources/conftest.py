import gzip
from pathlib import Path

import pytest

from beam_transforms.events import EVENT_ARROW_SCHEMA
from beam_transforms.schema import EventKind
from beam_transforms.sources.source import MAX_BATCH_ROWS, DeadLetter


@pytest.fixture
def write(tmp_path):
    """Writes a file of the folder `tmp_path`; a name that ends in .gz is compressed."""

    def write(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture
def read():
    """Reads a source, or one table of it: events in order as (kind, time, user, author, room, value), dead letters."""

    def read(source, table=None):
        events, letters = [], []
        for partition in source.partitions():
            if table in (None, partition.table):
                for item in source.read(partition):
                    if isinstance(item, DeadLetter):
                        letters.append(item)
                        continue
                    assert item.schema == EVENT_ARROW_SCHEMA
                    assert 0 < item.num_rows <= MAX_BATCH_ROWS
                    rows = zip(*(column.to_pylist() for column in item.columns), strict=True)
                    events += [(EventKind(kind).name, *rest) for kind, *rest in rows]
        return sorted(events), letters

    return read
