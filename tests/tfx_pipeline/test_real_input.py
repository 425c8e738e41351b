"""`foresight run` on folders that were written by hand and, if it is there, on the real chat log."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
from rich.console import Console

from beam_transforms.sources.open_source import open_source
from tfx_pipeline.real_input import RunConfig, run_real_input, split_time
from tfx_pipeline.stages import Stages

ROOT = Path(__file__).parents[2]
CHAT = ROOT.parent / "shared" / "data" / "live_chat"
HOUR_MS = 3_600_000
START_MS = 1_750_000_000_000 // HOUR_MS * HOUR_MS


def _write(folder: Path, name: str, header: str, rows: list[tuple]) -> None:
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split())
        writer.writerows(rows)


@pytest.fixture
def m3_folder(tmp_path) -> Path:
    """Six hours of twelve rooms: 40 users who enter the rooms of authors with their own parity, and like them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "m3"
    folder.mkdir()
    sessions, likes, rooms, shown = [], [], [], []
    for room in range(12):
        start = START_MS + room * HOUR_MS // 2
        rooms.append((room, room % 4, f"room {room}", start, start + HOUR_MS, HOUR_MS))
        for user in range(40):
            for time in sorted(start + rng.integers(60_000, HOUR_MS, 4)):
                fits = user % 2 == room % 2
                if rng.random() < (0.8 if fits else 0.1):
                    watched = int(rng.integers(5_000, 200_000))
                    end = int(time) + watched
                    counts = (0,) * 8
                    sessions.append(
                        (user, room % 4, room, time, end, 20250615, "feed", "click", 0, 0, 0, watched, *counts)
                    )
                    if fits:
                        likes.append((user, room, int(time) + watched // 2))
                else:
                    shown.append((room, user, room % 4, time))
    _write(
        folder,
        "live_interaction.csv",
        "user_id author_id live_id live_play_start_timestamp live_play_end_timestamp p_date live_source_category "
        "enter_live_action is_auto_play is_follow_enter is_follow_leave play_duration like_cnt comment_cnt "
        "send_gift_cnt send_gift_num follow_author_cnt cancel_follow_author_cnt share_cnt report_live_cnt",
        sessions,
    )
    _write(folder, "live_like.csv", "user_id live_id like_timestamp", likes)
    _write(folder, "live_show.csv", "live_id user_id author_id show_timestamp", shown)
    _write(
        folder, "live_room_meta.csv", "live_id author_id live_name start_timestamp end_timestamp live_duration", rooms
    )
    return folder


def _run(source: str, folder: Path, out: Path) -> dict:
    command = [sys.executable, "-m", "foresight", "run", "--source", source, "--input", str(folder), "--out", str(out)]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.e2e
def test_a_kuailive_m3_folder_drives_the_whole_road(m3_folder, tmp_path):
    figures = _run("kuailive_m3", m3_folder, tmp_path / "out")
    assert figures["source"] == "kuailive_m3"
    assert figures["dead_letters"] == 0
    assert figures["train"] > figures["eval"] > 0
    assert set(figures["forecast_mse"]) == {"model", "mean", "latest"}
    ctr = figures["tasks"]["ctr"]
    assert set(ctr) == {"base", "statistic", "trees", "differences", "users_left_out"}
    assert ctr["base"]["auc"] > 0.55 and ctr["trees"]["auc"] > 0.55
    assert set(ctr["differences"]) == {"statistic - base", "statistic - trees"}
    difference = ctr["differences"]["statistic - base"]["gauc"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert any("live_comment" in note for note in figures["notes"])
    for variant in ("base", "statistic"):
        assert figures["pushed"][variant]["decision"] in ("blessed", "rejected")
        versions = list((tmp_path / "out" / "models" / f"ranker_{variant}").glob("[0-9]*"))
        assert len(versions) == (figures["pushed"][variant]["decision"] == "blessed")


@pytest.mark.e2e
def test_the_real_chat_log_drives_the_whole_road(tmp_path):
    """All 3.4 million messages, and 200,000 impressions: some five minutes."""
    if not CHAT.is_dir():
        pytest.skip(f"needs the chat log in {CHAT}; put it there and run `make test-slow`")
    config = RunConfig("chat_log", CHAT, tmp_path / "out", most_impressions=200_000)
    with Stages(Console(quiet=True), expected=30) as stages:
        figures = run_real_input(config, stages)
    assert (figures["dead_letters"], figures["impressions"]) == (0, 200_000)
    assert figures["forecast_mse"]["model"] < min(figures["forecast_mse"]["mean"], figures["forecast_mse"]["latest"])
    cmtr = figures["tasks"]["cmtr"]
    variants = {"base", "historical_content", "foresight_prediction", "statistic"}
    assert variants < set(cmtr) and set(figures["pushed"]) == variants
    assert cmtr["differences"]["statistic - base"]["gauc"]["low"] > 0  # the room's statistics help
    assert cmtr["base"]["auc"] > 0.78 and cmtr["trees"]["auc"] > 0.78
    assert figures["codebook"]["codes_used"] == 500
    hits = figures["semantic_id_hits"]
    assert set(hits) == {"model", "last", "most_frequent", "largest_weight"}
    assert all(0 < rates["hit@1"] < rates["hit@10"] < 1 for rates in hits.values())
    assert all((tmp_path / "out" / f"semantic_ids.{kind}").stat().st_size > 1000 for kind in ("json", "svg"))


def test_an_input_that_cannot_be_used_leaves_the_earlier_run(tmp_path):
    out = tmp_path / "out"
    (out / "models").mkdir(parents=True)
    (out / ".foresight-run").touch()
    with Stages(Console(quiet=True), expected=30) as stages, pytest.raises(ValueError, match="is not a folder"):
        run_real_input(RunConfig("chat_log", tmp_path / "typo", out), stages)
    assert (out / "models").exists()


def test_a_second_run_in_the_same_folder_is_refused(m3_folder, tmp_path):
    out = tmp_path / "out"
    (out / "models").mkdir(parents=True)
    (out / ".foresight-run").touch()
    with (
        Stages(Console(quiet=True), expected=30) as stages,
        filelock.FileLock(out / ".lock"),
        pytest.raises(RuntimeError, match="another `foresight run` is running in"),
    ):
        run_real_input(RunConfig("kuailive_m3", m3_folder, out), stages)
    assert (out / "models").exists()


def test_a_folder_that_no_run_made_is_left_as_it_is(m3_folder, tmp_path):
    out = tmp_path / "out"
    (out / "models").mkdir(parents=True)
    with Stages(Console(quiet=True), expected=30) as stages, pytest.raises(ValueError, match="it holds models"):
        run_real_input(RunConfig("kuailive_m3", m3_folder, out), stages)
    assert [path.name for path in out.iterdir()] == ["models"]


def test_rooms_are_split_by_their_start(tmp_path):
    _write(
        tmp_path,
        "chat.csv",
        "session_id date offset_s user",
        [(session, f"2024-01-{session:02d}", second, 1) for session in range(1, 11) for second in (5, 90)],
    )
    cut = split_time(open_source("chat_log", tmp_path))
    assert np.datetime64(cut, "ms") == np.datetime64("2024-01-09")


def test_a_source_without_anything_to_split_is_an_error(tmp_path):
    _write(tmp_path, "chat.csv", "session_id date offset_s user", [(1, "2024-01-01", 5, 1)])
    with pytest.raises(ValueError, match="nothing to split by time"):
        split_time(open_source("chat_log", tmp_path))
