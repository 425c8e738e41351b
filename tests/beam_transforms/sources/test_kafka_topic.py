import collections
import json
import pickle
import re

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from beam_transforms.events import register_coders
from beam_transforms.read_live_events import ReadLiveEvents
from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.kafka_reader import ASK_AGAIN_S, KafkaMark, KafkaReader, by_window
from beam_transforms.sources.kafka_topic import KafkaTopic
from beam_transforms.sources.source import SourceError

T = 1_750_000_000_000

Message = collections.namedtuple("Message", ["offset", "value", "timestamp"])
MARKER = object()
"""Takes an offset and is never given to a client, as the end of a transaction."""


class Broker:
    """Keeps messages as Kafka does, and makes clients that behave as `kafka.KafkaConsumer` does with partitions set."""

    def __init__(self, partitions=2, at_once=3):
        self.messages = {number: [] for number in range(partitions)}
        self.first = dict.fromkeys(range(partitions), 0)
        self.committed = {}
        self.at_once = at_once
        self.error = None
        self.clients = []
        self.asked = 0

    def send(self, partition, *values):
        self.messages[partition] += values

    def connect(self, **settings):
        self.clients.append(Client(self, settings))
        return self.clients[-1]


class Client:
    def __init__(self, broker, settings):
        self.broker, self.settings, self.positions, self.closed = broker, settings, {}, False

    def partitions_for_topic(self, topic):
        return set(self.broker.messages) if topic == "live" else set()

    def assign(self, partitions):
        self.positions = dict.fromkeys(partitions)

    def beginning_offsets(self, partitions):
        return {partition: self.broker.first[partition.partition] for partition in partitions}

    def seek(self, partition, offset):
        self.positions[partition] = offset

    def end_offsets(self, partitions, timeout_ms):
        self.broker.asked += 1
        if self.broker.error is not None:
            raise self.broker.error
        return {partition: len(self.broker.messages[partition.partition]) for partition in partitions}

    def position(self, partition, timeout_ms):
        return self.positions[partition]

    def poll(self, timeout_ms, max_records):
        """Of one partition after the other, as many as fit."""
        if self.broker.error is not None:
            raise self.broker.error
        found, left = {}, self.broker.at_once
        for partition, position in self.positions.items():
            values = self.broker.messages[partition.partition][position : position + left]
            messages = [
                Message(position + place, value, T) for place, value in enumerate(values) if value is not MARKER
            ]
            if messages:
                found[partition] = messages
            self.positions[partition] = position + len(values)
            left -= len(values)
        return found

    def commit_async(self, offsets):
        self.broker.committed |= offsets

    def close(self, autocommit=True):
        self.closed = True


def line(user, time_ms=T):
    row = {"kind": "LIKE", "timestamp_ms": time_ms, "user_id": user, "author_id": 2, "live_id": 3}
    return json.dumps(row).encode()


def topic(broker, **arguments):
    return KafkaTopic("host:9092", "live", clock=lambda: T / 1000, connect=broker.connect, **arguments)


def read(reader, first=True):
    found = []
    while reader.start() if first else reader.advance():
        first, parsed = False, reader.get_current()
        users = [] if parsed.events is None else parsed.events["user_id"].to_pylist()
        found.append((users, [(letter.file, letter.line, letter.reason[:20]) for letter in parsed.dead_letters]))
    return found


def watermark(reader):
    time = reader.get_watermark()
    return None if time == MIN_TIMESTAMP else int(time.micros // 1000 - T)


def test_messages_hold_lines_and_dead_letters_name_the_message():
    broker = Broker(partitions=1)
    broker.send(0, line(1), line(2) + b"\n" + line(3) + b"\ndamaged\n", None, b"damaged", line(4))
    reader = topic(broker).create_reader(None, None)
    assert read(reader) == [
        ([1, 2, 3], [("live/0", 2, "a message without a "), ("live/0", 1, "not a JSON object on")]),
        ([4], [("live/0", 3, "not a JSON object on")]),
    ]
    broker.send(0, line(5))
    assert read(reader, first=False) == [([5], [])]


def test_the_watermark_waits_for_the_slowest_partition_until_it_is_idle():
    broker, now = Broker(), [0.0]
    source = topic(broker, idle_s=30)
    partitions = [TopicPartition("live", 0), TopicPartition("live", 1)]
    reader = KafkaReader(source, source.consumer(), partitions, KafkaMark(), monotonic=lambda: now[0])
    broker.send(0, line(1, T + 100))
    assert reader.start()
    assert watermark(reader) is None
    broker.send(1, line(2, T + 50))
    assert reader.advance()
    assert watermark(reader) == 50
    broker.send(0, line(3, T + 200))
    now[0] = 29
    assert reader.advance()
    assert watermark(reader) == 50
    now[0] = 30
    assert not reader.advance()
    assert watermark(reader) == 200
    # The partition that woke up is behind now, which doesn't take the watermark back.
    broker.send(1, line(4, T + 60))
    assert reader.advance()
    assert watermark(reader) == 200
    assert reader.get_current_timestamp() == reader.get_watermark()
    now[0] = 100
    assert not reader.advance()
    assert watermark(reader) == 200


def _reader_with_clock(broker, **arguments):
    now = [0.0]
    source = topic(broker, **arguments)
    partitions = [TopicPartition("live", number) for number in broker.messages]
    return KafkaReader(source, source.consumer(), partitions, KafkaMark(), monotonic=lambda: now[0]), now


def test_after_a_time_in_which_nobody_asked_no_partition_counts_as_idle_before_it_is_read():
    broker = Broker(at_once=2)
    reader, now = _reader_with_clock(broker, idle_s=30)
    for number in (0, 1):
        broker.send(number, line(1, T))
    assert reader.start()
    assert reader.advance()
    assert watermark(reader) == 0
    now[0] = 3600
    for number in (0, 1):
        broker.send(number, *(line(2, T + 1000 * place) for place in range(1, 5)))
    behind = []
    while reader.advance():
        behind.append(watermark(reader) - (reader.get_current().oldest_ms - T))
    assert len(behind) == 4
    # No row comes behind the watermark that it was read at, but by what it moves it itself.
    assert max(behind) == 1000
    assert watermark(reader) == 4000


def test_a_broker_that_is_gone_makes_no_partition_idle_and_is_told(caplog):
    broker = Broker()
    reader, now = _reader_with_clock(broker, idle_s=30)
    broker.send(0, line(1, T + 200))
    broker.send(1, line(2, T + 50))
    assert reader.start()
    assert reader.advance()
    now[0], broker.error = 30, KafkaTimeoutError("gone")
    assert not reader.advance()
    assert watermark(reader) == 50
    assert (
        "Kafka topic live at host:9092 doesn't answer, or is gone; nothing came for 30 s: KafkaTimeoutError: gone"
        in caplog.text
    )
    broker.error = None
    now[0] += ASK_AGAIN_S
    assert not reader.advance()
    assert watermark(reader) == 200


def test_a_partition_that_is_gone_holds_the_watermark_but_is_asked_for_and_told_now_and_then(caplog):
    """The other partition goes on meanwhile: each question keeps it waiting."""
    broker = Broker(at_once=1)
    reader, now = _reader_with_clock(broker, idle_s=30)
    broker.send(1, line(9, T))
    broker.send(0, line(1, T))
    assert read(reader) == [([1], []), ([9], [])]
    end_offsets = broker.clients[0].end_offsets

    def no_leader(partitions, timeout_ms):
        end_offsets(partitions, timeout_ms)
        raise KafkaTimeoutError("no leader")

    broker.clients[0].end_offsets = no_leader
    seconds = [*range(31, 91)]
    for now[0] in seconds:
        broker.send(0, line(2, T + now[0] * 100))
        assert reader.advance()
        assert watermark(reader) == 0
    assert broker.asked == len(seconds) / ASK_AGAIN_S
    assert caplog.text.count("doesn't answer") == 2
    broker.clients[0].end_offsets = end_offsets
    now[0] = seconds[-1] + ASK_AGAIN_S
    assert not reader.advance()
    assert watermark(reader) == seconds[-1] * 100


def test_an_error_that_passes_loses_no_message():
    broker = Broker()
    reader = topic(broker).create_reader(None, None)
    assert not reader.start()
    position, errors = broker.clients[0].position, [KafkaConnectionError("refused")]

    def refused_once(partition, timeout_ms):
        if errors:
            raise errors.pop()
        return position(partition, timeout_ms)

    # It comes when a message of the other partition has been taken.
    broker.clients[0].position = refused_once
    broker.send(0, line(1))
    assert read(reader, first=False) == [([1], [])]
    broker.send(1, line(2))
    assert read(reader, first=False) == [([2], [])]
    assert reader.get_checkpoint_mark().offsets == {"0": 1, "1": 1}


def test_a_topic_that_is_silent_is_asked_now_and_then_whether_it_is_there(caplog):
    broker = Broker(partitions=1)
    reader, now = _reader_with_clock(broker, idle_s=30)
    broker.error = KafkaTimeoutError("gone")
    for now[0] in range(65):
        assert not (reader.start() if now[0] == 0 else reader.advance())
    assert caplog.text.count("doesn't answer") == 2


def test_the_ends_of_transactions_are_no_messages():
    broker = Broker()
    reader, now = _reader_with_clock(broker, idle_s=30)
    broker.send(0, line(1, T + 200), MARKER)
    broker.send(1, line(2, T + 50), MARKER)
    assert read(reader) == [([1], []), ([2], [])]
    assert reader.get_checkpoint_mark().offsets == {"0": 2, "1": 2}
    now[0] = 30
    assert not reader.advance()
    assert watermark(reader) == 200
    broker.send(0, MARKER)
    ending = topic(broker, until={0: 3, 1: 2}).create_reader(None, None)
    read(ending)
    assert not ending.advance()
    assert ending.get_watermark() == MAX_TIMESTAMP


def test_a_backlog_is_parted_where_times_of_messages_reach_another_window():
    times = [0, 5, 29, 30, 12, 31, 95, 96]
    messages = [Message(place, b"", T - T % WINDOW_MS + second * 1000) for place, second in enumerate(times)]
    assert [[m.offset for m in part] for part in by_window(messages)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [len(part) for part in by_window(messages[:1])] == [1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OffsetOutOfRangeError("0"), r"has no messages from \{0: 1\} .* no longer kept, or the topic was made anew"),
        (LogTruncationError({}, {}), r"has no messages from \{0: 1\} .* start the stream without its checkpoint"),
        (UnsupportedCodecError("lz4"), r"topic live at host:9092 can't be read from \{0: 1\} .* on: .*lz4"),
    ],
)
def test_what_kafka_refuses_while_reading_is_an_error_with_the_offsets(error, message):
    broker = Broker(partitions=1)
    broker.send(0, line(1))
    reader = topic(broker).create_reader(None, None)
    assert reader.start()
    broker.error = error
    with pytest.raises(SourceError, match=message):
        reader.advance()


def test_a_line_from_the_future_does_not_move_the_watermark():
    broker = Broker(partitions=1)
    broker.send(0, line(1), line(2, T + 60_001))
    reader = topic(broker).create_reader(None, None)
    assert read(reader) == [([1], [("live/0", 1, "from the future: 175")])]
    assert watermark(reader) == 0


def test_offsets_are_committed_when_a_checkpoint_is_finalised_and_not_before():
    broker = Broker()
    broker.send(0, line(1), line(2))
    reader = topic(broker, group_id="group").create_reader(None, None)
    read(reader)
    mark = reader.get_checkpoint_mark()
    reader.advance()
    assert broker.committed == {}
    mark.finalize_checkpoint()
    reader.advance()
    expected = {
        TopicPartition("live", 0): OffsetAndMetadata(2, ""),
        TopicPartition("live", 1): OffsetAndMetadata(0, ""),
    }
    assert broker.committed == expected
    settings = broker.clients[0].settings
    assert settings["enable_auto_commit"] is False
    assert settings["group_id"] == "group"
    reader.close()
    assert broker.clients[0].closed


def test_without_a_group_nothing_is_committed():
    broker = Broker()
    reader = topic(broker).create_reader(None, None)
    mark = reader.get_checkpoint_mark()
    mark.finalize_checkpoint()
    reader.advance()
    assert broker.committed == {}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 99)), max_size=25),
    st.integers(1, 4),
    st.sets(st.integers(0, 25)),
)
@settings(deadline=None, max_examples=60)
def test_wherever_it_stops_it_goes_on_behind_that(messages, at_once, stops):
    broker = Broker(partitions=3, at_once=at_once)
    for partition, user in messages:
        broker.send(partition, line(user, T + user))
    source = topic(broker)
    coder = source.get_checkpoint_mark_coder()
    reader, found, step = source.create_reader(None, None), collections.defaultdict(list), 0
    more = reader.start()
    while more:
        batch = reader.get_current().events
        # The test's users say nothing of the partition: the reader's position does.
        found[step] = batch["user_id"].to_pylist()
        if step in stops:
            before, mark = reader.get_watermark(), coder.decode(coder.encode(reader.get_checkpoint_mark()))
            assert mark == reader.get_checkpoint_mark()
            reader.close()
            reader = source.create_reader(None, mark)
            assert reader.get_watermark() == before
            more = reader.start()
        else:
            more = reader.advance()
        step += 1
    assert sorted(user for users in found.values() for user in users) == sorted(user for _, user in messages)


def test_partitions_are_shared_out():
    broker = Broker(partitions=5)
    source = topic(broker, until={0: 1})
    groups = source.split(2)
    assert [group.partitions for group in groups] == [(0, 2, 4), (1, 3)]
    assert all(group.until == {0: 1} and group.topic == "live" for group in groups)
    assert [group.partitions for group in source.split(20)] == [(0,), (1,), (2,), (3,), (4,)]
    assert [group.partitions for group in topic(broker, partitions=[3]).split(20)] == [(3,)]
    assert all(client.closed for client in broker.clients)


def test_reading_ends_where_it_is_told_to():
    broker = Broker()
    broker.send(0, line(1), line(2), line(3))
    reader = topic(broker, until={0: 2}).create_reader(None, None)
    assert read(reader) == [([1, 2], [])]
    assert reader.get_watermark() == MAX_TIMESTAMP
    assert reader.get_checkpoint_mark().offsets == {"0": 2, "1": 0}


def test_a_partition_that_reading_is_over_in_may_lose_its_beginning():
    broker = Broker(at_once=10)
    broker.first[1] = 2
    broker.send(0, line(1), line(2))
    broker.send(1, line(3), line(4), line(5))
    source = topic(broker, until={0: 1})
    reader = source.create_reader(None, None)
    assert read(reader) == [([1], [])]
    mark = reader.get_checkpoint_mark()
    assert mark.offsets == {"0": 1, "1": 2}
    # What was there before the restart is gone after it, of both.
    broker.first |= {0: 2, 1: 3}
    again = source.create_reader(None, mark)
    assert read(again) == []
    assert again.get_watermark() == MAX_TIMESTAMP
    with pytest.raises(SourceError, match=r"partition 0 should go on at message 1, but .* is 2: messages are lost"):
        topic(broker).create_reader(None, mark)


def test_messages_that_are_no_longer_kept_are_an_error():
    broker = Broker()
    broker.first[1] = 7
    with pytest.raises(
        SourceError, match=r"topic live at host:9092: partition 1 should go on at message 5, but .* is 7"
    ):
        topic(broker).create_reader(None, KafkaMark({"0": 0, "1": 5}))
    assert broker.clients[0].closed


def test_a_broker_that_does_not_answer_is_an_error_with_its_address():
    def connect(**settings):
        raise KafkaTimeoutError("Unable to bootstrap")

    source = KafkaTopic("nowhere:1, other:2", "live", connect=connect)
    with pytest.raises(
        SourceError, match=r"no Kafka broker answers at nowhere:1, other:2: .*Unable to bootstrap; check"
    ):
        source.create_reader(None, None)


def test_a_topic_or_a_partition_that_is_not_there_is_an_error():
    broker = Broker()
    with pytest.raises(SourceError, match="host:9092 has no Kafka topic other; create it"):
        KafkaTopic("host:9092", "other", connect=broker.connect).create_reader(None, None)
    with pytest.raises(SourceError, match=r"has no partitions \[2, 9\]; it has \[0, 1\]"):
        topic(broker, partitions=[9, 0, 2]).create_reader(None, None)


def test_a_location_names_hosts_with_ports_and_a_topic():
    found = KafkaTopic.at("kafka://one:9092,[::1]:9093/a.topic-1_b/", 4, "group")
    assert (found.bootstrap_servers, found.topic) == ("one:9092,[::1]:9093", "a.topic-1_b")
    assert (found.embedding_width, found.group_id) == (4, "group")
    wrong = ["host/a", "host:x/a", "host:0/a", "host:65536/a", ":9092/a", "host:9092", "host:9092/a/b", "host:9092/a?b"]
    for location in [*wrong, "me@host:9092/a", "one:9092,/a", "[::1/a", "host:9092/a b"]:
        with pytest.raises(ValueError, match=f"{re.escape(location)}: not a Kafka topic; give kafka://host:port"):
            KafkaTopic.at(f"kafka://{location}")


def test_a_source_can_be_pickled():
    source = KafkaTopic("host:9092", "live", 64, until={0: 5})
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert vars(copy) == vars(source)


BROKER = Broker()


def connect(**settings):
    """A function of the module, which pickle takes by name: workers of the same process see the same broker."""
    return BROKER.connect(**settings)


def test_a_pipeline_reads_all_partitions_to_the_end():
    register_coders()
    BROKER.__init__()
    for user in range(10):
        BROKER.send(user % 2, line(user))
    source = KafkaTopic("host:9092", "live", until={0: 5, 1: 5}, future_ms=None, connect=connect)
    with beam.Pipeline("FnApiRunner") as pipeline:
        events = (pipeline | ReadLiveEvents(source, poll_s=0.05)).events
        assert_that(events | beam.FlatMap(lambda batch: batch["user_id"].to_pylist()), equal_to(list(range(10))))
