"""Segments of a source as a PCollection."""

from beam_transforms.read_partitions import ReadPartitions
from beam_transforms.sources.source import Source


class ReadSegments(ReadPartitions):
    """Source -> batches of segments, and the rows that could not be read as dicts under the tag `dead_letters`.

    Args:
        source: What to read; a source without segments gives an empty PCollection.
    """

    def __init__(self, source: Source) -> None:
        super().__init__("segments", source.segment_partitions(), source.read_segments)
