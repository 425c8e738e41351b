"""The reader of a Kafka topic's partitions."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from apache_beam.io.unbounded_source import CheckpointMark
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from beam_transforms.event_lines import EventLineParser, ParsedLines
from beam_transforms.parse_event_lines import latest_ms
from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.live_reader import LiveReader
from beam_transforms.sources.source import DeadLetter, SourceError

if TYPE_CHECKING:
    from beam_transforms.sources.kafka_topic import KafkaTopic

POLL_MS = 100
"""How long to wait for messages when there are none."""

POLL_MESSAGES = 5_000
"""Most messages that are taken at once."""

ASK_MS = 1_000
"""How long to wait for the broker's answer to where partitions end."""

ASK_AGAIN_S = 5.0
"""How long not to ask again when no answer came: asking keeps partitions waiting that do deliver."""

_START_ANEW = "Run the batch pipeline over their time, and start the stream without its checkpoint"

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class KafkaMark(CheckpointMark):
    """How far partitions are read.

    Attributes:
        offsets: Partition (as text, for JSON) -> offset of the next message.
        newest_ms: Partition -> the newest time in it.
        watermark_ms: The watermark.
        commit: What tells Kafka of the offsets; only the mark that the reader itself made has it.
    """

    offsets: Mapping[str, int] = dataclasses.field(default_factory=dict)
    newest_ms: Mapping[str, int] = dataclasses.field(default_factory=dict)
    watermark_ms: int | None = None
    commit: Callable[[Mapping[str, int]], None] | None = dataclasses.field(default=None, compare=False)

    def finalize_checkpoint(self) -> None:
        if self.commit is not None:
            self.commit(self.offsets)


class KafkaReader(LiveReader):
    """Reads partitions for `KafkaTopic`, which makes it.

    Args:
        topic: What is read.
        consumer: A connected consumer without partitions; the reader closes it.
        partitions: What to read of the topic.
        mark: Where to go on; a partition that isn't in it is read from the oldest message on.
        monotonic: Seconds of a clock that doesn't jump, which tells what is idle.
    """

    def __init__(
        self,
        topic: KafkaTopic,
        consumer: Any,
        partitions: Sequence[TopicPartition],
        mark: KafkaMark,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(mark.watermark_ms)
        self._topic, self._consumer, self._partitions, self._monotonic = topic, consumer, list(partitions), monotonic
        self._parser = EventLineParser(topic.embedding_width)
        self._fetched: collections.deque[tuple[TopicPartition, list[Any]]] = collections.deque()
        self._to_commit: Mapping[str, int] | None = None
        self._newest = {int(number): newest for number, newest in mark.newest_ms.items()}
        self._asked = monotonic()
        self._unanswered = self._told = -math.inf
        self._last_message = dict.fromkeys((partition.partition for partition in partitions), self._asked)
        consumer.assign(self._partitions)
        first = consumer.beginning_offsets(self._partitions)
        self._offsets = {p.partition: int(mark.offsets.get(str(p.partition), first[p])) for p in self._partitions}
        for partition in self._partitions:
            if self._is_over(partition.partition):  # then what isn't kept isn't missed
                self._offsets[partition.partition] = max(self._offsets[partition.partition], first[partition])
            offset = self._offsets[partition.partition]
            if offset < first[partition]:
                raise _lost(topic, partition, offset, f"the oldest one that is kept is {first[partition]}")
            consumer.seek(partition, offset)

    def get_checkpoint_mark(self) -> KafkaMark:
        offsets = {str(number): offset for number, offset in self._offsets.items()}
        newest = {str(number): newest for number, newest in self._newest.items()}
        return KafkaMark(offsets, newest, self._watermark_ms, self._commit_soon)

    def close(self) -> None:
        self._commit()
        self._consumer.close(autocommit=False)

    def _next(self) -> ParsedLines | None:
        self._commit()
        while True:
            if not self._fetched:
                if self._reached_until():
                    self._ended = True
                    return None
                self._fetch()
            if not self._fetched:
                return None
            partition, messages = self._fetched.popleft()
            parsed = self._parse(partition, messages)
            if not parsed.is_empty:
                return parsed

    def _watermark_after(self, parsed: ParsedLines | None) -> int | None:
        now = self._monotonic()
        reading = [p for p in self._partitions if not self._is_over(p.partition)]
        silent = [p for p in reading if now - self._last_message[p.partition] >= self._topic.idle_s]
        active = [p for p in reading if p not in silent]
        after = self._least(active)
        moves = after is not None and (self._watermark_ms is None or after > self._watermark_ms)
        if silent and (moves or now - self._asked >= self._topic.idle_s):
            after = self._least([*active, *self._behind(silent)])
        return after

    def _least(self, active: Sequence[TopicPartition]) -> int | None:
        """The least of the partitions' newest times, None if one has none; the greatest of all without partitions."""
        if any(partition.partition not in self._newest for partition in active):
            return None
        newest = [self._newest[partition.partition] for partition in active]
        return min(newest) if newest else max(self._newest.values(), default=None)

    def _behind(self, silent: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Those of the partitions that hold what isn't read yet.

        Kafka is asked: nothing comes, either, of a partition while another one's backlog is read, after a time in which
        nobody asked this reader, and while the broker is gone. All may hold something while it doesn't answer.
        """
        if self._monotonic() - self._unanswered < ASK_AGAIN_S:
            return list(silent)
        self._asked = self._monotonic()
        try:
            ends = self._consumer.end_offsets(silent, timeout_ms=ASK_MS)
        except KafkaError as error:
            self._unanswered = self._monotonic()
            if self._unanswered - self._told >= self._topic.idle_s:
                self._told = self._unanswered
                _LOGGER.warning(
                    "%s doesn't answer, or is gone; nothing came for %.0f s: %s", self._topic, self._topic.idle_s, error
                )
            return list(silent)
        return [partition for partition in silent if self._offsets[partition.partition] < ends[partition]]

    def _fetch(self) -> None:
        try:
            found = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_MESSAGES)
            for partition, messages in found.items():
                self._last_message[partition.partition] = self._monotonic()
                self._fetched += [(partition, part) for part in by_window(messages)]
            for partition in self._partitions:
                if partition not in found:
                    self._skip_markers(partition)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            raise SourceError(
                f"{self._topic} has no messages from {self._offsets} (partition: offset) on; they are no longer kept, "
                f"or the topic was made anew: {error}. {_START_ANEW}"
            ) from error
        except KafkaError as error:
            if not error.retriable:
                raise SourceError(
                    f"{self._topic} can't be read from {self._offsets} (partition: offset) on: {error}"
                ) from error
            # Mostly the client deals with a broker that is gone itself. `_behind` tells if that lasts.
            _LOGGER.info("%s is asked again: %s", self._topic, error)

    def _skip_markers(self, partition: TopicPartition) -> None:
        """Of a partition whose messages are all taken: offsets that hold none, as the end of a transaction does."""
        position = self._consumer.position(partition, timeout_ms=ASK_MS)
        if position is not None:
            self._read_until(partition.partition, position)

    def _read_until(self, number: int, offset: int) -> None:
        until = self._topic.until
        before = self._offsets[number]
        self._offsets[number] = offset if until is None else max(before, min(offset, until.get(number, 0)))

    def _parse(self, partition: TopicPartition, messages: list[Any]) -> ParsedLines:
        number = partition.partition
        self._read_until(number, messages[-1].offset + 1)
        if self._topic.until is not None:
            end = self._topic.until.get(number, 0)
            messages = [message for message in messages if message.offset < end]
        name = f"{self._topic.topic}/{number}"
        empty = [message for message in messages if message.value is None]
        lines = [(message.offset, message.value.rstrip(b"\n")) for message in messages if message.value is not None]
        counts = np.array([line.count(b"\n") + 1 for _, line in lines], dtype=np.int64)
        positions = np.repeat(np.array([offset for offset, _ in lines], dtype=np.int64), counts)
        latest = latest_ms(self._topic.future_ms, self._topic.clock)
        block = b"\n".join(line for _, line in lines)
        parsed = self._parser.parse(block, name, latest_ms=latest, positions=positions.tolist())
        if parsed.newest_ms is not None:
            self._newest[number] = max(parsed.newest_ms, self._newest.get(number, parsed.newest_ms))
        letters = tuple(DeadLetter(name, message.offset, "a message without a value", "") for message in empty)
        return dataclasses.replace(parsed, dead_letters=letters + parsed.dead_letters)

    def _is_over(self, number: int) -> bool:
        return self._topic.until is not None and self._offsets[number] >= self._topic.until.get(number, 0)

    def _reached_until(self) -> bool:
        return all(self._is_over(partition.partition) for partition in self._partitions)

    def _commit_soon(self, offsets: Mapping[str, int]) -> None:
        """Called from another thread, which the consumer doesn't bear: the next read commits."""
        self._to_commit = offsets

    def _commit(self) -> None:
        offsets, self._to_commit = self._to_commit, None
        if offsets is None or self._topic.group_id is None:
            return
        try:
            self._consumer.commit_async(
                {
                    TopicPartition(self._topic.topic, int(number)): OffsetAndMetadata(offset, "")
                    for number, offset in offsets.items()
                }
            )
        except KafkaError as error:
            _LOGGER.warning("%s: the offsets could not be committed: %s", self._topic, error)


def by_window(messages: list[Any]) -> list[list[Any]]:
    """Messages, parted where their own times reach another window: a backlog closes its windows one by one."""
    windows = np.maximum.accumulate([message.timestamp for message in messages]) // WINDOW_MS
    cuts = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(messages)]
    return [messages[begin:end] for begin, end in itertools.pairwise(cuts)]


def _lost(topic: KafkaTopic, partition: TopicPartition, offset: int, why: str) -> SourceError:
    return SourceError(
        f"{topic}: partition {partition.partition} should go on at message {offset}, but {why}: messages are lost. "
        f"{_START_ANEW}"
    )
