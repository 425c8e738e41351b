import json

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_transforms import read_kafka
from beam_transforms.events import register_coders
from beam_transforms.parse_event_lines import DEAD_LETTERS
from beam_transforms.read_kafka import ReadKafkaEvents

T = 1_750_000_000_000
LIKE = {"kind": "LIKE", "timestamp_ms": T, "user_id": 1, "author_id": 2, "live_id": 3}


def test_values_of_messages_are_parsed(monkeypatch):
    given = {}

    class Messages(beam.PTransform):
        create_time_policy = "CreateTime"

        def __init__(self, **arguments):
            super().__init__()
            given.update(arguments)

        def expand(self, begin):
            return begin | beam.Create([(None, json.dumps(LIKE).encode()), (b"key", None)])

    monkeypatch.setattr(read_kafka, "ReadFromKafka", Messages)
    register_coders()
    with beam.Pipeline("FnApiRunner") as pipeline:
        options = {"max_num_records": 2}
        read = pipeline | ReadKafkaEvents("host:9092", "live", consumer_config={"group.id": "g"}, options=options)
        assert_that(read.events | beam.Map(lambda batch: batch["live_id"].to_pylist()), equal_to([[3]]))
        reasons = read[DEAD_LETTERS] | beam.Map(lambda letter: (letter["file"], letter["reason"]))
        assert_that(reasons, equal_to([("live", "expected a JSON object, got None")]), "DeadLetters")
    assert given == {
        "consumer_config": {"bootstrap.servers": "host:9092", "auto.offset.reset": "earliest", "group.id": "g"},
        "topics": ["live"],
        "timestamp_policy": "CreateTime",
        "max_num_records": 2,
    }
