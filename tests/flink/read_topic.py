"""ReadTopic: `ReadKafkaEvents` for an expansion service of an older release than this Beam."""

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms.external import ExternalTransform, ImplicitSchemaPayloadBuilder

from beam_transforms.parse_event_lines import ParseEventLines

_BYTES = "org.apache.kafka.common.serialization.ByteArrayDeserializer"


class ReadTopic(beam.PTransform):
    """Kafka topic -> what `ReadKafkaEvents` gives.

    Args:
        brokers: host:port.
        topic: The topic.
        expansion_service: host:port.
        embedding_width: Floats of a segment's embedding.
    """

    def __init__(self, brokers: str, topic: str, expansion_service: str, embedding_width: int) -> None:
        super().__init__()
        self._brokers, self._topic, self._service = brokers, topic, expansion_service
        self._width = embedding_width

    def expand(self, begin: beam.Pipeline) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | "Read" >> read_kafka(self._brokers, self._topic, self._service)
            | "Value" >> beam.Map(_value).with_output_types(bytes)
            | "Parse" >> ParseEventLines(self._topic, self._width, future_ms=None)
        )


def _value(record: tuple[bytes | None, bytes | None]) -> bytes:
    return record[1] or b"null"


def read_kafka(brokers: str, topic: str, expansion_service: str) -> ExternalTransform:
    """Beam's ReadFromKafka, with the settings that the expansion service's release knows too."""
    return ExternalTransform(
        ReadFromKafka.URN_WITHOUT_METADATA,
        ImplicitSchemaPayloadBuilder(
            {
                "consumer_config": {"bootstrap.servers": brokers, "auto.offset.reset": "earliest"},
                "topics": [topic],
                "key_deserializer": _BYTES,
                "value_deserializer": _BYTES,
                "commit_offset_in_finalize": False,
                "timestamp_policy": ReadFromKafka.create_time_policy,
            }
        ),
        expansion_service,
    )
