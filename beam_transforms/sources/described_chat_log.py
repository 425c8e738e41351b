"""A chat log whose segments are described by their emotes."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from beam_transforms.sources.chat_log import ChatLogSource
from beam_transforms.sources.chat_segments import ChatSegments
from beam_transforms.sources.source import DeadLetter, Partition


class DescribedChatLog(ChatLogSource):
    """Events of a folder of chat logs, and segments as `ChatSegments` describes them.

    Args:
        folder: The chat logs.
        fit_before_ms: The description is learned on what ended before.

    Raises:
        SourceError: If the folder isn't one, or no file in it is a chat log.
    """

    def __init__(self, folder: Path, fit_before_ms: int) -> None:
        super().__init__(folder)
        self._segments = ChatSegments(folder, fit_before_ms)
        self.notes += ("segments are described by their emotes: tf-idf, projected to 64 floats by a truncated SVD",)

    def segment_partitions(self) -> list[Partition]:
        return [Partition(self._files[0].parent.as_posix(), "segments")]

    def read_segments(self, partition: Partition) -> Iterator[pa.RecordBatch | DeadLetter]:
        if partition not in self.segment_partitions():
            raise ValueError(f"{partition} is not one of this source's; take them from segment_partitions()")
        yield from self._segments.read()
