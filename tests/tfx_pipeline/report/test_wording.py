import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_pipeline.report import wording


@given(st.none() | st.floats(-1e100, 1e100) | st.sampled_from([math.nan, math.inf, -math.inf]))
def test_no_figure_is_written_as_something_that_is_no_number(value):
    for write in (wording.figure, wording.signed, wording.squared_error, wording.share, wording.memory):
        text = write(value)
        assert (text == wording.UNKNOWN) == (not wording.known(value))
        assert "nan" not in text and "inf" not in text and "None" not in text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 0 s"), (297.4, "4 min 57 s"), (7260, "2 h 1 min"), (None, "—")],
)
def test_duration(seconds, expected):
    assert wording.duration(seconds) == expected


def test_period_names_the_second_date_where_it_differs():
    day = 86_400_000
    assert wording.period(0, day // 2) == "1970-01-01 00:00 – 12:00 UTC"
    assert wording.period(0, day) == "1970-01-01 00:00 – 1970-01-02 00:00 UTC"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "open"), (0.0, 0.1, "open"), (None, None, "—")],
)
def test_verdict(low, high, expected):
    assert wording.verdict({"value": 0.0, "low": low, "high": high}) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(41.323, "41.32"), (58.9, "58.90"), (12345.6, "12,346"), (999.99999, "1000")]
)
def test_squared_error(value, expected):
    assert wording.squared_error(value) == expected
