from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks import ett

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "ett" / "ETTh1.csv"


def _write(path: Path, values: np.ndarray) -> Path:
    dates = np.datetime64("2016-07-01T00:00:00") + np.arange(len(values)) * np.timedelta64(1, "h")
    lines = [
        f"{str(date).replace('T', ' ')},{','.join(map(str, row))}" for date, row in zip(dates, values, strict=True)
    ]
    path.write_text("\n".join(["date," + ",".join(f"s{i}" for i in range(values.shape[1])), *lines]) + "\n")
    return path


@pytest.fixture
def waves(tmp_path) -> Path:
    steps = np.arange(3000)[:, None]
    values = 10 + np.array([1.0, 5.0]) * np.sin(2 * np.pi * steps / 8 + np.array([0.0, 1.0]))
    return _write(tmp_path / "waves.csv", values)


def test_learns_what_repeats(waves):
    report = ett.run(waves, horizon=4, lookback=16, model_width=64, layers=1, heads=2, epochs=2, seeds=2)
    (goal,) = report["goals"]
    assert goal["met"]
    assert goal["value"] < 0.5
    first, second = (result["mse"] for result in report["results"])
    assert first != second
    assert goal["low"] <= goal["value"] <= goal["high"]
    again = ett.run(waves, horizon=4, lookback=16, model_width=64, layers=1, heads=2, epochs=2, seeds=1)
    assert again["results"][0]["mse"] == pytest.approx(first, rel=1e-5)


def test_errors_are_those_of_all_windows_on_standardised_series(waves):
    rows = ett.read(waves)
    begin, end = ett.borders("waves", 3000, 16)["test"]
    windows = ett.Windows(ett.Rows(rows.values[begin:end], rows.calendar[begin:end]), 16, 4, 7)
    inputs, targets = zip(*(windows[i] for i in range(len(windows))), strict=True)
    series = np.concatenate([series for series, _ in inputs])
    assert len(series) == end - begin - 16 - 4 + 1
    np.testing.assert_array_equal(series[3], rows.values[begin + 3 : begin + 19])
    np.testing.assert_array_equal(np.concatenate(targets)[3], rows.values[begin + 19 : begin + 23])
    np.testing.assert_array_equal(inputs[0][1][3], rows.calendar[begin + 3 : begin + 19])


def test_training_windows_come_in_another_order_each_epoch(waves):
    windows = ett.Windows(ett.read(waves), 16, 4, 3000, seed=0)
    first = windows[0][1]
    windows.on_epoch_end()
    second = windows[0][1]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first.ravel()), np.sort(second.ravel()))


def test_borders_are_the_papers():
    assert ett.borders("ETTh1", 17_420, 96) == {"train": (0, 8640), "valid": (8544, 11520), "test": (11424, 14400)}
    assert ett.borders("ETTm2", 69_680, 96)["test"] == (46080 - 96, 57600)
    assert ett.borders("weather", 52_696, 96) == {
        "train": (0, 36887),
        "valid": (36791, 42157),
        "test": (42061, 52696),
    }


def test_calendar_is_that_of_the_dates(waves):
    calendar = ett.read(waves).calendar
    # Friday 2016-07-01, midnight: day 0 of the month and day 182 of the year.
    np.testing.assert_allclose(calendar[0], [-0.5, 4 / 6 - 0.5, -0.5, 182 / 365 - 0.5], atol=1e-6)
    np.testing.assert_allclose(calendar[23 + 24, 0], 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date\n2016-07-01\n", "expected a date column and one column a series, got 1"),
        ("date,a\n2016-07-01,x\n", "expected dates in the first column, then numbers"),
        ("date,a\nyesterday,1\n", "expected dates in the first column, then numbers"),
        ("date,a\n2016-07-01,nan\n", "expected numbers, got nan in row 0, column 1"),
        ("date,a\n2016-07-01,1\n", "too few rows"),
    ],
)
def test_says_what_is_wrong_with_a_file(text, message, tmp_path):
    path = tmp_path / "series.csv"
    path.write_text(text)
    with pytest.raises(click.ClickException, match=message):
        ett.run(path)


@pytest.mark.slow
def test_a_short_run_on_real_data_is_near_the_published_error():
    """One seed of two epochs: the whole run is `foresight bench ett --input FILE`."""
    if not DATA.exists():
        pytest.skip(f"{DATA} is missing; put the folder `shared` beside the repository to run this")
    report = ett.run(DATA, epochs=2, seeds=1)
    errors = {goal["name"]: goal["value"] for goal in report["goals"]}
    assert errors["test MSE, mean over seeds"] < 0.42  # published after ten epochs: .386
    assert errors["test MAE, mean over seeds"] < 0.43  # .405
