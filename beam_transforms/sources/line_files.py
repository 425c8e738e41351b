"""Reads files of live events as a batch: what a stream has read, or kept as too late."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from beam_transforms.event_lines import EventLineParser, ParsedLines
from beam_transforms.line_blocks import LineBlocks
from beam_transforms.line_format import MAX_LINE_BYTES
from beam_transforms.schema import RankingSchema
from beam_transforms.sources.source import DeadLetter, Partition, Source, SourceError

_SUFFIX = ".jsonl"


class LineFiles(Source):
    """Events, segments and products of all `*.jsonl` files of some folders, see docs/input.md.

    The files that a `FollowedDirectory` read, and beside them the `late` folder of a stream, give a batch run all rows,
    those that came too late among them. Rows that stand in both are one row where the schema says that equal rows are.

    Args:
        folders: Where the files lie; not below them.
        schema: What the events tell.
        embedding_width: Floats of a segment's embedding, without which there are no segments.
        products: Whether there are products.

    Raises:
        SourceError: If a folder isn't one.
    """

    def __init__(
        self, folders: Sequence[Path], schema: RankingSchema, embedding_width: int | None = None, products: bool = False
    ) -> None:
        self.schema, self.notes = schema, ()
        self._width, self._products = embedding_width, products
        for folder in folders:
            if not Path(folder).is_dir():
                raise SourceError(f"{folder} is not a folder; expected one with {_SUFFIX} files of live events")
        self._paths = [
            path
            for folder in folders
            for path in sorted(Path(folder).glob(f"*{_SUFFIX}"))
            if not path.name.startswith(".")
        ]

    def partitions(self) -> list[Partition]:
        return [Partition(str(path), "events") for path in self._paths]

    def read(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        for parsed in self._parsed(partition):
            yield from parsed.dead_letters
            if parsed.events is not None:
                yield parsed.events

    def segment_partitions(self) -> list[Partition]:
        return [Partition(str(path), "segments") for path in self._paths] if self._width else []

    def read_segments(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams the segments; dead letters come with the events."""
        for parsed in self._parsed(partition):
            if parsed.segments is not None:
                yield parsed.segments

    def product_partitions(self) -> list[Partition]:
        return [Partition(str(path), "products") for path in self._paths] if self._products else []

    def read_products(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        """Streams the products; dead letters come with the events."""
        for parsed in self._parsed(partition):
            if parsed.products is not None:
                yield parsed.products

    def _parsed(self, partition: Partition) -> Iterator[ParsedLines]:
        parser = EventLineParser(self._width)
        lines = LineBlocks(Path(partition.path), 0, 1)
        try:
            while (block := lines.read()) is not None:
                if block.cut_bytes:
                    reason = f"a line of {block.cut_bytes} bytes; at most {MAX_LINE_BYTES} are read"
                    text = block.data.decode("utf-8", "replace")
                    yield ParsedLines(dead_letters=(DeadLetter(partition.path, block.line, reason, text),))
                else:
                    yield parser.parse(block.data, partition.path, block.line)
                if block.is_last:
                    return
        finally:
            lines.close()
