"""Live events of a Kafka topic through Beam's own connector, for Flink and other distributed runners."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka

from beam_transforms.parse_event_lines import FUTURE_MS, ParseEventLines


class ReadKafkaEvents(beam.PTransform):
    """Kafka topic -> batches of events (main output), of segments, of products, and dead letters as dicts.

    Unbounded input, in the global window. Beam's connector keeps offsets in the runner's checkpoints, so each message
    counts once in the runner's state. It is a Java transform: building the pipeline needs Java and an expansion
    service.

    The watermark comes from the times that producers give their records: they set each record's timestamp to the newest
    `timestamp_ms` of its lines.

    Args:
        bootstrap_servers: Addresses of brokers, "host:port", several between commas.
        topic: The topic; a message holds one or more lines of live events.
        embedding_width: Floats of a segment's embedding; None takes the first segment's, in each worker anew.
        future_ms: How far ahead of `clock` a time may be; None lets every time pass.
        clock: Seconds since 1970 on arrival; another one for replays.
        consumer_config: More settings of the Kafka consumer, by their Java names.
        options: More arguments of `apache_beam.io.kafka.ReadFromKafka`, e.g. `expansion_service` or `max_num_records`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        embedding_width: int | None = None,
        future_ms: int | None = FUTURE_MS,
        clock: Callable[[], float] = time.time,
        consumer_config: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        settings = {"bootstrap.servers": bootstrap_servers, "auto.offset.reset": "earliest"}
        self._arguments = {
            "consumer_config": {**settings, **(consumer_config or {})},
            "topics": [topic],
            "timestamp_policy": ReadFromKafka.create_time_policy,
            **(options or {}),
        }
        self._parse = ParseEventLines(topic, embedding_width, future_ms, clock)

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | "Read" >> ReadFromKafka(**self._arguments)
            | "Value" >> beam.Map(_value).with_output_types(bytes)
            | "Parse" >> self._parse
        )


def _value(message: tuple[bytes | None, bytes | None]) -> bytes:
    # A message without a value is a damaged line, not silence.
    return b"null" if message[1] is None else message[1]
