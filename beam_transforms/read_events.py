"""Events of a source as a PCollection."""

from beam_transforms.read_partitions import DEAD_LETTERS, ReadPartitions
from beam_transforms.sources.source import Source

__all__ = ["DEAD_LETTERS", "ReadEvents"]


class ReadEvents(ReadPartitions):
    """Source -> batches of events, and the rows that could not be read as dicts under the tag `dead_letters`.

    Args:
        source: What to read; each of its partitions is read by one worker.
    """

    def __init__(self, source: Source) -> None:
        super().__init__("events", source.partitions(), source.read)
