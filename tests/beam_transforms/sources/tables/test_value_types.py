import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.sources.tables.value_types import AMOUNT, CHARACTERS, COUNT, FLAG, ID, REENTRY, WORDS


def parse(value_type, values, arrow_type=None):
    """For each value what it became: None if missing, "bad" if invalid."""
    parsed = value_type.parse(pa.array(values, arrow_type))
    rows = zip(parsed.values.tolist(), parsed.valid.tolist(), parsed.missing.tolist(), strict=True)
    return [value if valid else None if missing else "bad" for value, valid, missing in rows]


def test_ids_as_text():
    good = {"0": 0, " 7 ": 7, "12.0": 12, "9223372036854775807": 2**63 - 1, "7318204719238409216": 7318204719238409216}
    bad = ["-1", "x", "0x10", "1.5", "1e3", "9223372036854775808", "99999999999999999999", "1_0", "１"]
    missing = ["", " ", "NULL", "None", "nan", r"\N", None]
    assert parse(ID, [*good, *bad, *missing]) == [*good.values(), *["bad"] * len(bad), *[None] * len(missing)]
    assert parse(ID, ["0x10"]) == ["bad"]
    assert parse(ID, [b"\xff", b"3"], pa.binary()) == ["bad", 3]


def test_ids_of_typed_columns():
    assert parse(ID, [3, -1, None], pa.int32()) == [3, "bad", None]
    assert parse(ID, [3, 2**64 - 1], pa.uint64()) == [3, "bad"]
    assert parse(ID, [3.0, 3.5, -1.0, float("nan"), float("inf"), None]) == [3, "bad", "bad", None, "bad", None]
    assert parse(ID, [decimal.Decimal("5"), None]) == [5, None]
    assert parse(ID, ["5"], pa.large_string()) == [5]
    assert parse(ID, [True, None]) == ["bad", None]


@given(st.lists(st.integers(-(2**70), 2**70) | st.sampled_from(["", "x"])))
def test_an_id_is_what_fits_64_bits(values):
    expected = [
        value if isinstance(value, int) and 0 <= value < 2**63 else None if value == "" else "bad" for value in values
    ]
    assert parse(ID, [str(value) for value in values], pa.string()) == expected


def test_counts():
    assert parse(COUNT, ["0", "100000", "100001", "-1", "", "2.0"]) == [0, 100_000, "bad", "bad", None, 2]


def test_amounts():
    assert parse(AMOUNT, ["1.5", "0", ".5", "2.", "1e3"]) == [1.5, 0, 0.5, 2, 1000]
    bad = ["-1", "inf", "1e13", "1e999", "9" * 400, "0x1", "1,5", "x"]
    assert parse(AMOUNT, [*bad, "nan", "3"]) == [*["bad"] * len(bad), None, 3]
    assert parse(AMOUNT, [1, None], pa.int64()) == [1, None]


def test_flags():
    assert parse(FLAG, ["1", "0", "true", "False", "", "yes", "2"]) == [True, False, True, False, None, "bad", "bad"]
    assert parse(FLAG, [True, False, None]) == [True, False, None]
    assert parse(FLAG, [1, 0, 5, None]) == [True, False, "bad", None]


@given(st.lists(st.binary(max_size=8) | st.text(max_size=8).map(str.encode)))
def test_characters_are_counted_as_python_does_with_replacement(contents):
    parsed = CHARACTERS.parse(pa.array(contents, pa.binary()))
    assert parsed.values.tolist() == [len(content.decode("utf-8", "replace")) for content in contents]
    assert parsed.valid.all()


def test_words():
    assert parse(WORDS, ["", " ", "a", "a b", " a  b ", "x"]) == [0, 0, 1, 2, 2, 1]


def test_reentries():
    assert parse(REENTRY, ["re-enter", "RE_ENTER", "reenter", "click", "", "enter"]) == [True, True, True] + [False] * 3


@pytest.mark.parametrize("value_type", [ID, COUNT, AMOUNT, FLAG, CHARACTERS, WORDS, REENTRY])
def test_a_column_of_another_type_or_without_rows_raises_nothing(value_type):
    assert not value_type.parse(pa.array([[1], None])).valid.any()
    for arrow_type in (pa.string(), pa.binary(), pa.int64(), pa.float64(), pa.bool_(), pa.null()):
        assert len(value_type.parse(pa.array([], arrow_type)).values) == 0
    assert np.asarray(value_type.parse(pa.nulls(3)).missing).all()
