import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.sources.tables.timestamps import (
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    parse_days,
    parse_timestamps,
)

T = 1_746_446_400_000
"""2025-05-05T12:00:00Z in milliseconds."""

FORMS = {
    str(T): T,
    str(T // 1000): T,
    f"{T // 1000}.25": T + 250,
    f"{T}.0": T,
    "1.7464464e9": T,
    "2025-05-05T12:00:00": T,
    " 2025-05-05 12:00 ": T,
    "2025-05-05": T - 43_200_000,
    "2025-05-05 12:00:00.123": T + 123,
    "2025-05-05 12:00:00.123999": T + 123,
    "2025-05-05T12:00:00.123456789": T + 123,
    "2025-05-05T12:00:00Z": T,
    "2025-05-05T12:00:00.5+00:00": T + 500,
    "2025-05-05 20:00:00+08:00": T,
    "2025-05-05T20:00:00+0800": T,
    "2025-05-05T05:00-07": T,
}


@pytest.mark.parametrize(("text", "expected"), FORMS.items())
def test_each_form_is_read_alone(text, expected):
    parsed = parse_timestamps(pa.array([text]))
    assert (parsed.values.tolist(), parsed.valid.tolist()) == ([expected], [True])


def test_forms_may_be_mixed_with_each_other_and_with_errors():
    bad = [
        "",
        "NULL",
        "soon",
        "2025-13-05",
        "2025-05-05T25:00",
        "7",
        "-1746446400",
        "9999-01-01",
        "1e99",
        "0x7f",
        "inf",
    ]
    parsed = parse_timestamps(pa.array([*FORMS, *bad, None], pa.string()).cast(pa.binary()))
    assert parsed.valid.tolist() == [True] * len(FORMS) + [False] * (len(bad) + 1)
    assert parsed.values[: len(FORMS)].tolist() == list(FORMS.values())
    assert np.flatnonzero(parsed.missing).tolist() == [len(FORMS), len(FORMS) + 1, len(FORMS) + len(bad)]


def test_bytes_that_are_not_utf8_are_no_time():
    parsed = parse_timestamps(pa.array([b"\xff", b"2025-05-05\xe4", str(T).encode()]))
    assert parsed.valid.tolist() == [False, False, True]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([T, T // 1000, None]),
        pa.array([float(T), T / 1000, float("nan")]),
        pa.array([datetime.datetime(2025, 5, 5, 12)] * 2 + [None]),
        pa.array([datetime.datetime(2025, 5, 5, 12)] * 2 + [None], pa.timestamp("ns")),
        pa.array(
            [datetime.datetime(2025, 5, 5, 12, tzinfo=datetime.UTC)] * 2 + [None], pa.timestamp("us", "Asia/Tokyo")
        ),
    ],
)
def test_typed_columns_are_read(array):
    parsed = parse_timestamps(array)
    assert parsed.values[:2].tolist() == [T, T]
    assert parsed.valid.tolist() == [True, True, False]
    assert parsed.missing.tolist() == [False, False, True]


def test_a_column_of_another_type_has_no_times():
    assert not parse_timestamps(pa.array([True, False])).valid.any()
    assert not parse_timestamps(pa.array([[T]])).valid.any()


@given(st.integers(-(2**63), 2**63 - 1))
def test_only_sane_times_are_valid(number):
    expected = number if number > 10**12 else number * 1000
    parsed = parse_timestamps(pa.array([number]))
    assert parsed.valid[0] == (MIN_TIMESTAMP_MS <= expected < MAX_TIMESTAMP_MS)
    if parsed.valid[0]:
        assert parsed.values[0] == expected


@given(
    st.lists(
        st.datetimes(
            datetime.datetime(2000, 1, 1),
            datetime.datetime(2099, 12, 31),
            timezones=st.none() | st.timezones() | st.just(datetime.UTC),
        ),
        min_size=1,
    )
)
def test_what_isoformat_writes_is_read(times):
    # A zone whose offset has seconds, as before the railways, isn't ISO 8601.
    whole = [time for time in times if time.tzinfo is None or not time.utcoffset().total_seconds() % 60]
    parsed = parse_timestamps(pa.array([time.isoformat() for time in whole], pa.string()))
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    utc = [time if time.tzinfo else time.replace(tzinfo=datetime.UTC) for time in whole]
    expected = [(time - epoch) // datetime.timedelta(milliseconds=1) for time in utc]
    sane = [MIN_TIMESTAMP_MS <= time < MAX_TIMESTAMP_MS for time in expected]
    assert parsed.valid.tolist() == sane
    assert parsed.values[sane].tolist() == [time for time, good in zip(expected, sane, strict=True) if good]


def test_days_start_at_midnight_utc():
    parsed = parse_days(pa.array(["2025-05-05", "2025-05-05 23:59:59", "x", None, "2025-05-06T01:00:00+08:00"]))
    midnight = T - 43_200_000
    assert parsed.valid.tolist() == [True, True, False, False, True]
    assert parsed.values[[0, 1, 4]].tolist() == [midnight, midnight, midnight]
    assert parsed.missing.tolist() == [False, False, False, True, False]
