"""The taste change: a small experiment in earnest, what its settings refuse, and the report of made-up figures."""

import dataclasses
import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from beam_transforms.schema import WINDOW_MS
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator import simulate
from tfx_pipeline.library_log import library_log
from tfx_pipeline.report.taste_change_report import verdict, write_taste_change
from tfx_pipeline.taste_change.command import taste_change
from tfx_pipeline.taste_change.config import NOON_MS, TasteChangeConfig

TINY = TasteChangeConfig(
    users=400, authors=40, impressions_per_window=60, history_s=600, after_s=300, compared_windows=10
)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"history_s": 1_001}, "history_s must be a positive multiple of 30, got 1001"),
        ({"after_s": 240}, "after_s must be at least 300"),
        ({"compared_windows": 9}, "compared_windows must be at least 10"),
        ({"compared_windows": 20}, "lie within history_s = 600, got 20"),
        ({"label_s": 9}, "label_s must be at least 10"),
        ({"serving_s": 31}, "serving_s at most a window"),
        ({"users": 0}, "must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        dataclasses.replace(TINY, **changed)


def test_the_platform_is_as_busy_as_it_should_be_and_flips_at_noon():
    simulator = TasteChangeConfig().simulator
    assert simulator.taste_change_ms == NOON_MS
    assert NOON_MS % 86_400_000 == 43_200_000
    assert simulator.end_ms - simulator.start_ms == 1000 * (TasteChangeConfig().history_s + TasteChangeConfig().after_s)


def test_examples_say_when_they_are_learned_and_who_answered(tmp_path):
    from tfx_pipeline.taste_change.examples import taste_change_examples

    simulate(TINY.simulator, tmp_path / "data")
    examples = taste_change_examples(open_source("kuailive_m3", tmp_path / "data"), TINY)
    time_s = (examples.columns["timestamp_ms"] - NOON_MS) / 1000
    assert len(time_s) > 500
    assert (np.diff(time_s) >= 0).all()
    window_s = WINDOW_MS / 1000
    np.testing.assert_array_equal(examples.shown, np.floor(time_s / window_s))
    # A model answers 5 s after its window's end; labels are there 30 s after the impression, final 5 s later.
    assert (examples.answered * window_s + 5 <= time_s).all()
    assert (time_s < (examples.answered + 1) * window_s + 5).all()
    assert (examples.learned * window_s >= time_s + 35).all()
    assert ((examples.learned - 1) * window_s < time_s + 35).all()
    assert (examples.learned > examples.answered).all()  # nobody is asked about what it has learned
    assert examples.schema.task_names == ("ctr", "evtr", "ltr", "cmtr")
    assert set(np.unique(examples.labels("ctr"))) == {0, 1}
    half = examples.rows(examples.shown < 0)
    assert len(half["user_id"]) == (examples.shown < 0).sum()


def figures(level, back, windows=range(-12, 16)):
    """Made-up figures: from `level` down, and up again to `back`."""
    values = [level if window < 0 else 0.3 if window < 2 else back for window in windows]
    gauc = [{"value": v, "low": v - 0.03, "high": v + 0.03} for v in values]
    share = (back - 0.3) / (level - 0.3)
    figure = {"value": share, "low": share - 0.05, "high": share + 0.05}
    return {
        "level": gauc[0], "share_recovered": figure, "recovered": share > 0.8,
        "windows_to_recover": 2 if share > 0.8 else None, "windows_to_90_percent": None, "gauc": gauc,
    }  # fmt: skip


def made_up_summary(back=0.68, hourly_window=None):
    measured = {
        "windows": list(range(-12, 16)), "fall": {"value": 0.3, "low": 0.28, "high": 0.32}, "threshold": 0.62,
        "hourly_window": hourly_window, "hourly_best_share": 0.1, "near_real_time": figures(0.7, back),
        "hourly": figures(0.7, 0.33), "reversed_share": {"value": 0.93, "low": 0.9, "high": 0.96},
    }  # fmt: skip
    task = {"rate_before": 0.14, "rate_after": 0.12, "served": measured, "validated": measured}
    return {
        "config": dataclasses.asdict(TINY), "noon_ms": NOON_MS, "impressions": 9_999, "learned_together": 5_000,
        "impressions_per_window": 60, "tasks": {"ctr": task, "evtr": task}, "seconds_to_learn_a_window": 0.5,
        "machine": {"cpus": 2, "platform": "here <&>"}, "wall_seconds": 61.0, "peak_rss_mb": 900,
    }  # fmt: skip


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(" ".join(data.split()))


@pytest.mark.parametrize("hourly_window", [None, 12])
def test_the_report_stands_alone_and_says_what_came_out(tmp_path, hourly_window):
    summary = made_up_summary(hourly_window=hourly_window)
    write_taste_change(summary, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    page = _Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attrs for tag, attrs in page.tags if tag in ("link", "img")]
    assert all(attrs["href"].startswith("#") for _, attrs in page.tags if "href" in attrs)
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert len(labels) == len(set(labels)) == 2
    text = " ".join(filter(None, page.text))
    assert "Preferences flip at noon: the near-real-time model recovers its GAUC within 2 windows" in text
    assert "here <&>" in text
    for words in ("95.0 %", "preferences flip", "80 % of the way back", "GAUC before noon 0.7000"):
        assert words in text, words
    assert ("the hourly model learns" in text) == (hourly_window is not None)
    drawing = ElementTree.parse(tmp_path / "taste_change.svg").getroot()  # noqa: S314  # our own file
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in (tmp_path / "taste_change.svg").read_text(encoding="utf-8")


def test_a_model_that_does_not_recover_is_said_not_to(tmp_path):
    assert verdict(made_up_summary(back=0.5)) == (
        "Preferences flip at noon: the near-real-time model doesn't recover, the hourly one comes back by 10.0 % at "
        "best in the minutes measured before its next hour"
    )


@pytest.mark.slow
@pytest.mark.e2e
def test_the_near_real_time_model_recovers_and_the_hourly_one_only_after_its_hour(tmp_path, monkeypatch):
    import tfx_pipeline.taste_change.experiment

    hour = 9  # an hour of nine windows, so that its end is seen
    monkeypatch.setattr(tfx_pipeline.taste_change.experiment, "HOUR_WINDOWS", hour)
    config = TasteChangeConfig(
        users=6_000, authors=200, impressions_per_window=3_500, history_s=1_500, after_s=480, compared_windows=12,
        resamples=100,
    )  # fmt: skip
    told = []
    summary = tfx_pipeline.taste_change.experiment.run_taste_change(config, tmp_path, told.append)
    served = summary["tasks"]["ctr"]["served"]
    learner, hourly = served["near_real_time"], served["hourly"]
    assert learner["level"]["low"] > 0.6
    assert served["fall"]["high"] < 0.45
    assert learner["recovered"]
    assert learner["windows_to_recover"] <= 3
    assert not hourly["recovered"]
    assert served["hourly_window"] == hour
    assert hourly["windows_to_recover"] in (hour, hour + 1)
    assert served["hourly_best_share"] < 0.5
    assert learner["share_recovered"]["low"] > hourly["share_recovered"]["high"]
    validated = summary["tasks"]["ctr"]["validated"]
    assert validated["near_real_time"]["windows_to_recover"] <= 3
    assert not (tmp_path / "data").exists()
    assert told
    write_taste_change(summary, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_command_writes_the_report(tmp_path, monkeypatch):
    import tfx_pipeline.taste_change.experiment

    asked = []

    def run(config, folder, tell):
        asked.append((config, folder))
        return made_up_summary()

    monkeypatch.setattr(tfx_pipeline.taste_change.experiment, "run_taste_change", run)
    arguments = ["--out", str(tmp_path / "out"), "--seed", "5", "--minutes", "65"]
    result = CliRunner().invoke(taste_change, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [(TasteChangeConfig(seed=5, after_s=3_900), tmp_path / "out")]
    assert "the hourly one comes back by 10.0 % at best" in result.output
    assert (tmp_path / "out" / "taste_change.svg").exists()
    again = CliRunner().invoke(taste_change, [*arguments, "--json"])
    assert json.loads(again.stdout)["noon_ms"] == NOON_MS


def test_the_help_says_from_how_many_minutes_on_the_hourly_model_learns():
    from tfx_pipeline.taste_change.experiment import HOUR_WINDOWS

    def last_window(minutes):
        """The newest that scores an impression whose label is known by the log's end."""
        config = TasteChangeConfig(after_s=60 * minutes)
        return int(config.after_s * 1000 - (config.label_s + config.serving_s) * 1000 - 1) // WINDOW_MS

    minutes = next(minutes for minutes in range(5, 120) if last_window(minutes) >= HOUR_WINDOWS)
    words = next(option.help for option in taste_change.params if option.name == "minutes")
    assert f"from {minutes} on, the hourly model learns at 13:00" in words


def test_a_second_command_in_the_same_folder_is_refused_in_words(tmp_path):
    with library_log(tmp_path / "log.txt"):
        result = CliRunner().invoke(taste_change, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: another command is running in {tmp_path}")
