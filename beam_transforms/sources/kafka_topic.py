"""Reads live events from a Kafka topic, in Python alone."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apache_beam.coders import Coder
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedSource
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from beam_transforms.parse_event_lines import FUTURE_MS
from beam_transforms.sources.json_mark_coder import JsonMarkCoder
from beam_transforms.sources.kafka_reader import KafkaMark, KafkaReader
from beam_transforms.sources.live_source import LiveSource
from beam_transforms.sources.source import SourceError

_ADDRESS = r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):\d+"
_LOCATION = re.compile(rf"kafka://(?P<servers>{_ADDRESS}(?:,{_ADDRESS})*)/(?P<topic>[\w.-]+)/?", re.ASCII)
_PORT = re.compile(r":(\d+)(?:,|$)")

BOOTSTRAP_MS = 10_000
"""How long a broker may take to answer the first time."""

RECONNECT_MS = 2_000
"""The longest time between tries to reach a broker that is gone; the client's own is 30 s."""


class KafkaTopic(LiveSource):
    """Reads each message of a topic, which holds one or more lines of live events.

    Where reading stands is in the runner's checkpoints, not in Kafka: partitions are assigned by hand, and offsets are
    committed under `group_id` when a checkpoint is finalised, for monitoring alone. Partitions that are added later are
    not read before a restart; a Beam runner's has to be one without a checkpoint, which holds how they are shared out.

    Several readers share the partitions. The watermark is the least of the partitions' newest times; one in which
    nothing came for `idle_s`, and which Kafka says is read to its end, doesn't hold it back. A line further than
    `future_ms` ahead of the clock is a dead letter and doesn't move it.

    Args:
        bootstrap_servers: Addresses of brokers, "host:port", several between commas.
        topic: The topic; it must exist when reading starts.
        embedding_width: Floats of a segment's embedding; None takes the first segment's, in each reader anew.
        group_id: Under which name offsets are committed; None commits none.
        partitions: The partitions to read; None reads all.
        until: Partition -> the offset before which its reading ends, for replays and tests: the stream has ended when
            each is reached; of a partition that isn't named nothing is read. None reads for ever.
        idle_s: Seconds without a message after which a partition is idle.
        future_ms: How far ahead of `clock` a time may be; None lets every time pass.
        clock: Seconds since 1970 on arrival; another one for replays.
        options: More settings of `kafka.KafkaConsumer`, e.g. for TLS.
        connect: Makes a consumer from its settings.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        embedding_width: int | None = None,
        group_id: str | None = None,
        partitions: Sequence[int] | None = None,
        until: Mapping[int, int] | None = None,
        idle_s: float = 30.0,
        future_ms: int | None = FUTURE_MS,
        clock: Callable[[], float] = time.time,
        options: Mapping[str, Any] | None = None,
        connect: Callable[..., Any] = KafkaConsumer,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic
        self.embedding_width = embedding_width
        self.group_id = group_id
        self.partitions = None if partitions is None else tuple(partitions)
        self.until = None if until is None else dict(until)
        self.idle_s = idle_s
        self.future_ms = future_ms
        self.clock = clock
        self.options = dict(options or {})
        self.connect = connect

    @classmethod
    def at(cls, location: str, embedding_width: int | None = None, group_id: str | None = None) -> "KafkaTopic":
        """The topic at `kafka://host:port/topic`, or `kafka://host:port,host:port/topic`.

        Raises:
            ValueError: If the location isn't one.
        """
        found = _LOCATION.fullmatch(location)
        if found is None or any(not 0 < int(port) < 2**16 for port in _PORT.findall(found["servers"])):
            raise ValueError(f"{location}: not a Kafka topic; give kafka://host:port[,host:port]/topic")
        return cls(found["servers"], found["topic"], embedding_width, group_id)

    @property
    def place(self) -> str:
        """The topic, whatever its brokers' addresses."""
        return f"the Kafka topic {self.topic}"

    def split(self, desired_num_splits: int, options: object = None) -> list[UnboundedSource]:
        """A source for each group of partitions, at most `desired_num_splits`."""
        partitions = self.partitions
        if partitions is None:
            consumer = self.consumer()
            try:
                partitions = self.assigned(consumer)
            finally:
                consumer.close()
        groups = min(desired_num_splits, len(partitions))
        return [self._of(partitions[group::groups]) for group in range(groups)]

    def create_reader(self, options: object, checkpoint_mark: CheckpointMark | None) -> KafkaReader:
        """A reader that goes on behind the mark, or begins with the oldest messages that Kafka keeps.

        Raises:
            SourceError: If no broker can be reached, the topic or a partition isn't there, or the mark's messages are
                no longer kept.
        """
        mark = checkpoint_mark if isinstance(checkpoint_mark, KafkaMark) else KafkaMark()
        consumer = self.consumer()
        try:
            partitions = self.assigned(consumer)
            return KafkaReader(self, consumer, [TopicPartition(self.topic, number) for number in partitions], mark)
        except KafkaError as error:
            consumer.close()
            raise SourceError(f"{self}: {error}") from error
        except BaseException:
            consumer.close()
            raise

    def get_checkpoint_mark_coder(self) -> Coder:
        return JsonMarkCoder(KafkaMark)

    def __str__(self) -> str:
        return f"Kafka topic {self.topic} at {self.bootstrap_servers}"

    def consumer(self) -> Any:
        """A consumer that has reached a broker.

        Raises:
            SourceError: If none could be reached.
        """
        settings = {
            "bootstrap_servers": [address.strip() for address in self.bootstrap_servers.split(",")],
            "group_id": self.group_id,
            "enable_auto_commit": False,
            # A position that Kafka doesn't keep is an error, never a silent jump.
            "auto_offset_reset": "none",
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "reconnect_backoff_max_ms": RECONNECT_MS,
        }
        try:
            return self.connect(**{**settings, **self.options})
        except (KafkaError, OSError) as error:
            raise SourceError(
                f"no Kafka broker answers at {self.bootstrap_servers}: {error}; check the address, and that it runs"
            ) from error

    def assigned(self, consumer: Any) -> tuple[int, ...]:
        """The numbers of the partitions to read, ascending.

        Raises:
            SourceError: If the topic or one of the partitions isn't there.
        """
        try:
            known = sorted(consumer.partitions_for_topic(self.topic) or ())
        except KafkaError as error:
            raise SourceError(f"{self}: {error}") from error
        if not known:
            raise SourceError(f"{self.bootstrap_servers} has no Kafka topic {self.topic}; create it before it is read")
        missing = sorted(set(self.partitions or ()) - set(known))
        if missing:
            raise SourceError(f"{self} has no partitions {missing}; it has {known}")
        return tuple(known if self.partitions is None else sorted(self.partitions))

    def _of(self, partitions: Sequence[int]) -> "KafkaTopic":
        return KafkaTopic(**{**vars(self), "partitions": tuple(partitions)})


__all__ = ["BOOTSTRAP_MS", "KafkaMark", "KafkaTopic"]
