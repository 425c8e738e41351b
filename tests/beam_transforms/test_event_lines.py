import json
import re
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_transforms.content import product_batch, segment_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.event_lines import EventLineParser, ParsedLines
from beam_transforms.events import event_batch, register_coders
from beam_transforms.line_format import MAX_LINE_BYTES, REQUIRED
from beam_transforms.parse_event_lines import DEAD_LETTERS, ParseEventLines
from beam_transforms.schema import EventKind
from beam_transforms.sources.source import MAX_TEXT

T = 1_750_000_000_000
IDS = {"author_id": 2, "live_id": 3, "timestamp_ms": T}
LIKE = {"kind": "LIKE", "user_id": 1, **IDS}
SEGMENT = {"kind": "SEGMENT", **IDS, "embedding": [1, 2.5]}
PRODUCT = {"kind": "PRODUCT", **IDS, "product_id": 4, "category_1": 5, "category_2": 6, "category_3": 7}

ID = st.integers(0, 2**63 - 1)
TIME = st.integers(T, T + 10**9)
FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
EVENTS = st.lists(st.tuples(st.sampled_from(EventKind), TIME, ID, ID, ID, FLOAT), max_size=20)
VECTOR = st.lists(st.floats(width=32), min_size=3, max_size=3)
SEGMENTS = st.lists(st.tuples(ID, ID, TIME, VECTOR), max_size=10)
PRODUCTS = st.lists(st.tuples(ID, ID, TIME, ID, ID, ID, ID), max_size=10)


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def parse(*rows, width=2, **arguments):
    return EventLineParser(width).parse(lines(*rows), "x", **arguments)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def test_each_kind_of_line_becomes_its_batch():
    room = {"kind": "ROOM_START", **IDS}
    parsed = parse(LIKE, SEGMENT, {**LIKE, "kind": "GIFT", "value": 0.5}, PRODUCT, room)
    users, kinds = [1, 1, -1], [EventKind.LIKE, EventKind.GIFT, EventKind.ROOM_START]
    assert parsed.events == event_batch(kinds, np.full(3, T), users, 2, 3, [1.0, 0.5, 1.0])
    assert parsed.segments == segment_batch([3], 2, [T - 1], [[1.0, 2.5]])
    assert parsed.products == product_batch([3], 2, [T], 4, 5, 6, 7)
    assert parsed.dead_letters == ()
    assert (parsed.oldest_ms, parsed.newest_ms) == (T, T)


def test_what_is_not_there_is_none():
    assert EventLineParser().parse(b"", "x") == ParsedLines()
    assert parse(b"", b"  \t", b" " * 100, b"\r") == ParsedLines()
    assert parse(b"").is_empty


@given(EVENTS, SEGMENTS, PRODUCTS)
@settings(deadline=None)
def test_what_is_written_is_read(events, segments, products):
    columns = [np.array(column) for column in zip(*events, strict=True)] if events else [np.zeros(0, dtype=int)] * 6
    of_room = np.isin(columns[0], [EventKind.ROOM_START, EventKind.ROOM_END])
    columns[2] = np.where(of_room, -1, columns[2])
    batches = {"events": event_batch(*columns)}
    ids = np.array([row[:3] for row in segments], dtype=np.int64).reshape(-1, 3).T
    vectors = np.array([row[3] for row in segments], dtype=np.float32).reshape(-1, 3)
    batches["segments"] = segment_batch(*ids, vectors)
    batches["products"] = product_batch(*np.array(products, dtype=np.int64).reshape(-1, 7).T)
    block = b"".join(encode_event_lines(batch) for batch in batches.values())
    parsed = EventLineParser(3).parse(block, "x")
    assert parsed.dead_letters == ()
    for name, batch in batches.items():
        found = getattr(parsed, name)
        assert (found is None) == (batch.num_rows == 0)
        if found is not None and name != "segments":
            assert found == batch
        elif found is not None:
            assert found.drop_columns("embedding") == batch.drop_columns("embedding")
            np.testing.assert_array_equal(found["embedding"].flatten(), batch["embedding"].flatten())


def test_a_slice_is_written_as_what_it_shows():
    batch = event_batch(EventKind.LIKE, [T, T + 1, T + 2], [1, 2, 3], 2, 3)
    assert encode_event_lines(batch.slice(1, 1)) == encode_event_lines(batch).splitlines(keepends=True)[1]
    segments = segment_batch([1, 2, 3], 0, [T, T, T], np.arange(6).reshape(3, 2))
    assert encode_event_lines(segments.slice(1, 1)) == encode_event_lines(segments).splitlines(keepends=True)[1]


def test_other_batches_cannot_be_written():
    with pytest.raises(ValueError, match=r"expected a batch of events, segments or products .*got the columns \['a'\]"):
        encode_event_lines(pa.RecordBatch.from_pydict({"a": [1]}))


DAMAGED = [
    ({**LIKE, "kind": "LIKED"}, "kind should be one of EXPOSURE, .*PRODUCT, got 'LIKED'"),
    ({**LIKE, "kind": 5}, "kind should be one of .*, got 5"),
    (without(LIKE, "kind"), "kind should be one of .*, got None"),
    (without(LIKE, "user_id"), "a LIKE needs user_id"),
    ({**LIKE, "user_id": None, "live_id": None}, "a LIKE needs live_id, user_id"),
    (without(SEGMENT, "live_id"), "a SEGMENT needs live_id"),
    (without(PRODUCT, "category_2"), "a PRODUCT needs category_2"),
    ({**without(LIKE, "x"), "kind": "GIFT"}, "a GIFT needs value"),
    ({**LIKE, "usr": 1}, "unknown field 'usr'; a LIKE has kind, timestamp_ms, author_id, live_id, user_id, value"),
    ({**LIKE, "kind": "ROOM_END"}, "a ROOM_END has no user_id, got 1"),
    ({**LIKE, "product_id": 1}, "a LIKE has no product_id, got 1"),
    ({**SEGMENT, "user_id": 1}, "a SEGMENT has no user_id"),
    ({**LIKE, "user_id": -1}, r"user_id should be an id \(an integer >= 0\), got -1"),
    ({**LIKE, "live_id": "3"}, "live_id should be an id .*, got '3'"),
    ({**LIKE, "live_id": 3.0}, "live_id should be an id .*, got 3.0"),
    ({**LIKE, "live_id": True}, "live_id should be an id .*, got True"),
    ({**LIKE, "author_id": 2**63}, "author_id should be an id"),
    ({**LIKE, "timestamp_ms": T / 1000}, "timestamp_ms should be milliseconds from 2000 to 2099"),
    ({**LIKE, "timestamp_ms": T // 1000}, "timestamp_ms should be milliseconds from 2000 to 2099"),
    ({**LIKE, "timestamp_ms": T * 1000}, "timestamp_ms should be milliseconds from 2000 to 2099"),
    ({**LIKE, "value": "1"}, "value should be a finite number, got '1'"),
    ({**LIKE, "value": float("nan")}, "value should be a finite number, got nan"),
    ({**LIKE, "value": 1e39}, "value should be a finite number"),
    ({**LIKE, "value": 10**400}, "value should be a finite number"),
    ({**SEGMENT, "embedding": [1, 2, 3]}, "embedding should have 2 floats like the others, got 3"),
    ({**SEGMENT, "embedding": []}, "embedding should be a list of numbers"),
    ({**SEGMENT, "embedding": [1, None]}, "embedding should be a list of numbers"),
    ({**SEGMENT, "embedding": [1, "2"]}, "embedding should be a list of numbers"),
    ({**SEGMENT, "embedding": 1}, "embedding should be a list of numbers"),
    (b"[1]", r"expected a JSON object, got \[1\]"),
    (b"null", "expected a JSON object, got None"),
    (b"{", "not a JSON object on one line"),
    (b'{"kind":\n"LIKE"}', "not a JSON object on one line"),
    (lines(LIKE)[:-1] * 2, "not a JSON object on one line: Extra data"),
    (b'{"kind":"LIKE","kind":"LIKE"}', "the field 'kind' stands twice"),
    (lines(LIKE)[:-2] + b',"user_id":' + b"9" * 5000 + b"}", "not a JSON object on one line"),
    (b'{"kind":"\xff"}', "not UTF-8: invalid start byte at byte 9"),
    (b"\xef\xbb\xbf" + lines(LIKE)[:-1], "not a JSON object on one line"),
    (b'{"kind":' + b"[" * 400_000, "nested too deeply"),
    (b'{"embedding":' + b"[" * 400_000, "nested too deeply"),
    (b"[" * 400_000, "nested too deeply"),
    (b"\x00" * 50, "not a JSON object on one line"),
    (b'{"kind":"' + b"x" * MAX_LINE_BYTES + b'"}', "a line of 1048587 bytes; at most 1048576 are read"),
]


@pytest.mark.parametrize(("row", "reason"), DAMAGED)
def test_a_damaged_line_is_a_dead_letter_and_its_neighbours_are_read(row, reason):
    text = lines(row)
    damaged = text.count(b"\n")
    parsed = parse(LIKE, SEGMENT, row, {**LIKE, "live_id": 9}, line=10)
    assert parsed.events["live_id"].to_pylist() == [3, 9]
    assert parsed.segments.num_rows == 1
    assert [letter.line for letter in parsed.dead_letters] == list(range(12, 12 + damaged))
    letter = parsed.dead_letters[0]
    assert letter.file == "x"
    assert re.search(reason, letter.reason), letter.reason
    assert len(letter.text) <= MAX_TEXT
    if damaged == 1:
        assert letter.text == text[:-1].decode("utf-8", "replace")[:MAX_TEXT]


GOOD = [lines(row)[:-1] for row in (LIKE, SEGMENT, PRODUCT, {**LIKE, "kind": "ROOM_START", "user_id": None})]
BYTES = st.one_of(
    st.sampled_from(GOOD + [lines(row)[:-1] for row, _ in DAMAGED if not (isinstance(row, bytes) and len(row) > 999)]),
    st.builds(
        lambda line, place, byte: line[: place % len(line)] + byte + line[place % len(line) + 1 :],
        st.sampled_from(GOOD),
        st.integers(0, 200),
        st.binary(max_size=3),
    ),
    st.binary(max_size=30),
)


@given(st.lists(BYTES, max_size=8))
@settings(deadline=None, max_examples=300)
def test_what_becomes_of_a_line_depends_on_it_alone(rows):
    block = b"\n".join(rows)
    together = EventLineParser(2).parse(block, "x")
    alone = [EventLineParser(2).parse(row, "x", line) for line, row in enumerate(block.split(b"\n"), 1)]
    assert together.dead_letters == tuple(letter for parsed in alone for letter in parsed.dead_letters)
    for name in ("events", "segments", "products"):
        parts = [getattr(parsed, name) for parsed in alone if getattr(parsed, name) is not None]
        found = getattr(together, name)
        assert ([] if found is None else found.to_pylist()) == [row for part in parts for row in part.to_pylist()]


def test_the_first_segment_says_how_wide_embeddings_are_where_nothing_else_does():
    parser = EventLineParser()
    first = parser.parse(lines(SEGMENT, {**SEGMENT, "embedding": [1]}), "x")
    assert (first.segments.num_rows, len(first.dead_letters)) == (1, 1)
    assert parser.parse(lines({**SEGMENT, "embedding": [1]}), "x").segments is None


def test_a_line_from_the_future_is_a_dead_letter_and_does_not_count_as_the_newest():
    parsed = parse(LIKE, {**LIKE, "timestamp_ms": T + 11}, {**LIKE, "timestamp_ms": T + 10}, latest_ms=T + 10)
    assert parsed.newest_ms == T + 10
    assert parsed.events.num_rows == 2
    assert [(letter.line, letter.reason) for letter in parsed.dead_letters] == [
        (2, f"from the future: {T + 11} is 1 ms later than allowed")
    ]


def test_lines_may_have_numbers_of_their_own():
    parsed = parse(LIKE, b"x", b"", b"y", positions=[70, 71, 72, 90])
    assert [letter.line for letter in parsed.dead_letters] == [71, 90]


def test_a_width_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="embedding_width must be positive or None, got 0"):
        EventLineParser(0)


def test_every_kind_of_event_has_its_line():
    assert {kind.name for kind in EventKind} | {"SEGMENT", "PRODUCT"} == set(REQUIRED)


def test_lines_become_tagged_outputs_in_a_pipeline():
    register_coders()
    messages = [
        lines(LIKE, SEGMENT),
        lines(PRODUCT)[:-1],
        lines({**LIKE, "timestamp_ms": T + 61_000}),
        b"x\ny",
        b"null",
    ]
    with beam.Pipeline("FnApiRunner") as pipeline:
        read = pipeline | beam.Create(messages) | ParseEventLines("topic", 2, clock=lambda: T / 1000)
        # Elements of a bundle come together, so what is counted is rows.
        found = [
            read[tag] | f"Rows{tag}" >> beam.Map(lambda batch, tag=tag: (tag, batch.num_rows))
            for tag in ("events", "segments", "products")
        ]
        rows = found | beam.Flatten() | beam.CombinePerKey(sum)
        assert_that(rows, equal_to([("events", 1), ("segments", 1), ("products", 1)]))
        letters = read[DEAD_LETTERS] | beam.Map(lambda letter: (letter["file"], letter["line"], letter["reason"][:12]))
        expected = [("topic", 1, "from the fut"), ("topic", 1, "not a JSON o"), ("topic", 2, "not a JSON o")]
        assert_that(letters, equal_to([*expected, ("topic", 1, "expected a J")]), "Letters")


def test_the_documented_lines_are_read():
    page = (Path(__file__).parents[2] / "docs" / "input.md").read_text()
    (block,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    parsed = EventLineParser().parse(block.encode(), "docs/input.md")
    assert parsed.dead_letters == ()
    assert (parsed.events.num_rows, parsed.segments.num_rows, parsed.products.num_rows) == (3, 1, 1)


def test_parsed_lines_survive_the_way_between_workers():
    parsed = parse(LIKE, SEGMENT, b"damaged")
    coder = coders.registry.get_coder(object)
    assert coder.decode(coder.encode(parsed)) == parsed
