import json

import numpy as np
import pytest

from beam_transforms.schema import PADDING_ID
from beam_transforms.served_lines import SERVED_COLUMNS, parse_served_lines
from tests.beam_transforms.event_logs import NOON_MS

RANKING = {
    "timestamp_ms": NOON_MS,
    "experiment": "trial",
    "user_id": 17,
    "version": 8,
    "fell_back": True,
    "ctr": {"3": 0.25, "5": 1},
}
FAILURE = {"timestamp_ms": NOON_MS + 1, "experiment": "other", "user_id": 18, "error": "INTERNAL"}


def _parse(*lines, names=()):
    names = list(names)
    return parse_served_lines(list(lines), names, "served", 1, NOON_MS + 1000), names


def test_a_row_is_a_room_of_a_ranking_or_a_request_that_failed():
    lines = [json.dumps(said).encode() for said in (RANKING, FAILURE, {**RANKING, "version": None, "ctr": {}})]
    parsed, names = _parse(lines[0], b"", b" \r", lines[1], lines[2], names=["before", "other"])
    assert names == ["before", "other", "trial", "INTERNAL"]
    assert {name: str(values.dtype) for name, values in parsed.rows.items()} == SERVED_COLUMNS
    assert [tuple(row) for row in zip(*(values.tolist() for values in parsed.rows.values()), strict=True)] == [
        (NOON_MS, 17, 3, 2, 8, 1, 0.25, -1),
        (NOON_MS, 17, 5, 2, 8, 1, 1.0, -1),
        (NOON_MS + 1, 18, PADDING_ID, 1, 0, 0, 0.0, 3),
    ]
    assert parsed.lines.tolist() == [0, 0, 3]
    assert parsed.times_ms.tolist() == [NOON_MS, NOON_MS + 1, NOON_MS]
    assert (parsed.rankings, parsed.empty, parsed.dead_letters) == (2, 1, ())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a JSON object on one line"),
        (b"\xff{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "at most 1048576 are read"),
        ([], "expected a JSON object, got []"),
        ({**RANKING, "more": 1}, "expected the fields"),
        ({**RANKING, "error": "INTERNAL"}, "expected the fields"),
        ({name: value for name, value in RANKING.items() if name != "version"}, "expected the fields"),
        ({**RANKING, "timestamp_ms": 1_750_000}, "milliseconds from 2000 to 2099, got 1750000"),
        ({**RANKING, "timestamp_ms": NOON_MS + 0.5}, "milliseconds from 2000 to 2099"),
        ({**RANKING, "timestamp_ms": NOON_MS + 1500}, "is 500 ms later than allowed"),
        ({**RANKING, "user_id": "17"}, "user_id should be an id"),
        ({**RANKING, "user_id": -1}, "user_id should be an id"),
        ({**RANKING, "user_id": 2**63}, "user_id should be an id"),
        ({**RANKING, "user_id": True}, "user_id should be an id"),
        ({**RANKING, "experiment": ""}, "experiment should be the salt"),
        ({**RANKING, "version": None}, "version should be an integer"),
        ({**RANKING, "version": 8.0}, "version should be an integer"),
        ({**RANKING, "fell_back": 0}, "fell_back should be true or false"),
        ({**RANKING, "ctr": [0.5]}, "ctr should be an object"),
        ({**RANKING, "ctr": {"-3": 0.5}}, "ctr should be of rooms"),
        ({**RANKING, "ctr": {"²": 0.5}}, "ctr should be of rooms"),
        ({**RANKING, "ctr": {"9" * 19: 0.5}}, "ctr should be of rooms"),
        ({**RANKING, "ctr": {"0" * 21 + "3": 0.5}}, "ctr should be of rooms"),
        ({**RANKING, "ctr": {"3": 0.5, "03": 0.5}}, "ctr should be of rooms"),
        ({**RANKING, "ctr": {"3": 1.01}}, "ctr of room 3 should be a probability, got 1.01"),
        ({**RANKING, "ctr": {"3": float("nan")}}, "ctr of room 3 should be a probability"),
        ({**RANKING, "ctr": {"3": True}}, "ctr of room 3 should be a probability"),
        ({**FAILURE, "error": None}, "error should be a code"),
    ],
)
def test_any_other_line_is_a_dead_letter(line, reason):
    good = json.dumps(RANKING).encode()
    parsed, _ = _parse(good, line if isinstance(line, bytes) else json.dumps(line).encode(), good)
    (letter,) = parsed.dead_letters
    assert (letter.file, letter.line) == ("served", 2) and len(letter.text) <= 1000
    assert reason in letter.reason
    np.testing.assert_array_equal(parsed.lines, [0, 0, 2, 2])
