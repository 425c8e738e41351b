"""The folder that a simulation writes: layout, agreement between tables, determinism, whole or absent."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from beam_transforms.schema import LIVE_SCHEMA, EventKind
from beam_transforms.sources.open_source import open_source
from beam_transforms.sources.simulator import PRESETS, SimulatorConfig, simulate
from beam_transforms.sources.source import DeadLetter

from .conftest import TINY, read_table

_LAYOUT = {
    "live_interaction.csv": "user_id author_id live_id live_play_start_timestamp live_play_end_timestamp p_date "
    "live_source_category enter_live_action is_auto_play is_follow_enter is_follow_leave play_duration like_cnt "
    "comment_cnt send_gift_cnt send_gift_num follow_author_cnt cancel_follow_author_cnt share_cnt report_live_cnt",
    "live_show.parquet": "live_id user_id author_id show_timestamp",
    "live_comment.csv": "live_stream_id user_id author_id content comment_ts",
    "live_like.csv": "user_id live_id like_timestamp",
    "live_share.csv": "user_id live_id author_id share_timestamp is_share_success",
    "live_room_meta.parquet": "live_id author_id live_name start_timestamp end_timestamp live_duration",
    "author_profile.csv": "author_id is_photo_author is_live_author gender age_segment fans_user_num",
    "user_id_set.csv": "user_id",
    "live_room_set.csv": "live_id",
    "live_emb_64.parquet": "live_id embedding",
    "live_emb_128_ts/live_emb_128_ts_part*.parquet": "live_stream_id segment_id feature_128 timestamp",
    "live_gift.csv": "user_id live_id author_id timestamp gift_price",
    "live_follow.csv": "user_id live_id author_id timestamp",
    "live_product.parquet": "live_id author_id product_id category_1 category_2 category_3 start_timestamp price",
    "live_product_click.csv": "user_id live_id author_id product_id timestamp price",
    "live_cart_click.csv": "user_id live_id author_id product_id timestamp price",
    "live_order.csv": "user_id live_id author_id product_id timestamp price",
}
_TIMES = {
    "live_interaction.csv": "live_play_start_timestamp",
    "live_show.parquet": "show_timestamp",
    "live_comment.csv": "comment_ts",
    "live_like.csv": "like_timestamp",
    "live_share.csv": "share_timestamp",
    "live_gift.csv": "timestamp",
    "live_follow.csv": "timestamp",
    "live_product.parquet": "start_timestamp",
    "live_product_click.csv": "timestamp",
    "live_cart_click.csv": "timestamp",
    "live_order.csv": "timestamp",
    "live_emb_128_ts/live_emb_128_ts_part*.parquet": "timestamp",
}
_ACTIONS = {
    "like_cnt": "live_like.csv",
    "comment_cnt": "live_comment.csv",
    "send_gift_cnt": "live_gift.csv",
    "follow_author_cnt": "live_follow.csv",
    "share_cnt": "live_share.csv",
}


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _rows(folder, name):
    return read_table(folder, name).to_pylist()


def _room(row):
    return row["live_id"] if "live_id" in row else row["live_stream_id"]


@pytest.mark.parametrize("name", _LAYOUT)
def test_columns_are_those_of_the_layout(tiny, name):
    table = read_table(tiny.folder, name)
    assert table.column_names == _LAYOUT[name].split()
    assert table.num_rows == tiny.summary.rows[name] > 0


def test_no_other_file_is_written(tiny):
    names = {path.relative_to(tiny.folder).as_posix() for path in tiny.folder.rglob("*") if path.is_file()}
    shards = {name for name in names if name.startswith("live_emb_128_ts/")}
    assert names - shards == {name for name in _LAYOUT if "*" not in name}


@pytest.mark.parametrize("name", _TIMES)
def test_rows_are_in_order_of_time_and_inside_the_simulated_time(tiny, name):
    times = read_table(tiny.folder, name)[_TIMES[name]].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert tiny.config.start_ms <= times[0]
    assert times[-1] <= tiny.config.end_ms


def test_same_seed_same_bytes_and_another_seed_other_bytes(tiny, tmp_path):
    simulate(TINY, tmp_path / "again")
    simulate(dataclasses.replace(TINY, seed=8), tmp_path / "other")
    first, again, other = (_contents(folder) for folder in (tiny.folder, tmp_path / "again", tmp_path / "other"))
    assert first == again
    # The list of user ids is the same for any seed.
    assert [name for name in first if first[name] == other[name]] == ["user_id_set.csv"]


def test_reader_finds_every_event_and_nothing_wrong(tiny):
    source = open_source("kuailive_m3", tiny.folder)
    assert source.schema.metric_names == LIVE_SCHEMA.metric_names
    assert source.schema.task_names == LIVE_SCHEMA.task_names
    kinds = Counter()
    for partition in source.partitions():
        for item in source.read(partition):
            assert not isinstance(item, DeadLetter), item
            kinds.update(item.column("kind").to_pylist())
    assert sum(kinds.values()) == tiny.summary.events
    assert kinds[EventKind.EXPOSURE] == tiny.summary.impressions
    assert kinds[EventKind.ENTER] == kinds[EventKind.LEAVE] == tiny.summary.rows["live_interaction.csv"]
    assert kinds[EventKind.ROOM_START] == tiny.summary.rooms > kinds[EventKind.ROOM_END] > 0
    assert kinds[EventKind.ENTER] / kinds[EventKind.EXPOSURE] == pytest.approx(tiny.summary.rates["ctr"])


@pytest.mark.parametrize("count", _ACTIONS)
def test_session_row_counts_the_actions_between_its_start_and_end(tiny, count):
    sessions = {}
    for row in _rows(tiny.folder, "live_interaction.csv"):
        sessions.setdefault((row["user_id"], row["live_id"]), []).append(row)
    counted = Counter()
    name = _ACTIONS[count]
    for row in _rows(tiny.folder, name):
        moment = row[_TIMES[name]]
        key = (row["user_id"], _room(row))
        (owner,) = [
            session
            for session in sessions[key]
            if session["live_play_start_timestamp"] <= moment < session["live_play_end_timestamp"]
        ]
        counted[(*key, owner["live_play_start_timestamp"])] += 1
    expected = {
        (*key, session["live_play_start_timestamp"]): session[count]
        for key, rows in sessions.items()
        for session in rows
        if session[count]
    }
    assert counted == expected


def test_orders_follow_a_click_on_the_same_product(tiny):
    clicks = {}
    for row in _rows(tiny.folder, "live_product_click.csv"):
        clicks.setdefault((row["user_id"], row["live_id"], row["product_id"]), []).append(row["timestamp"])
    for row in _rows(tiny.folder, "live_order.csv"):
        before = clicks[row["user_id"], row["live_id"], row["product_id"]]
        assert any(0 < row["timestamp"] - click <= 60_000 for click in before)


def test_clicked_product_is_the_one_shown(tiny):
    shown = {}
    for row in _rows(tiny.folder, "live_product.parquet"):
        shown.setdefault(row["live_id"], []).append((row["start_timestamp"], row["product_id"], row["price"]))
    for row in _rows(tiny.folder, "live_product_click.csv"):
        latest = max(entry for entry in shown[row["live_id"]] if entry[0] <= row["timestamp"])
        assert (row["product_id"], row["price"]) == latest[1:]


def test_a_user_watches_one_room_at_a_time(tiny):
    busy_until = {}
    for row in _rows(tiny.folder, "live_interaction.csv"):
        user, start, end = row["user_id"], row["live_play_start_timestamp"], row["live_play_end_timestamp"]
        assert busy_until.get(user, 0) < start < end
        assert row["play_duration"] == end - start
        busy_until[user] = end


def test_rooms_are_live_whenever_something_happens_in_them(tiny):
    rooms = {row["live_id"]: row for row in _rows(tiny.folder, "live_room_meta.parquet")}
    assert sorted(rooms) == sorted(read_table(tiny.folder, "live_room_set.csv")["live_id"].to_pylist())
    for name in set(_TIMES) - {"live_emb_128_ts/live_emb_128_ts_part*.parquet"}:
        for row in _rows(tiny.folder, name):
            room = rooms[_room(row)]
            assert row.get("author_id", room["author_id"]) == room["author_id"]
            moment = row.get("live_play_end_timestamp", row[_TIMES[name]])
            assert room["start_timestamp"] <= moment <= (room["end_timestamp"] or tiny.config.end_ms)


def test_room_still_live_at_the_end_has_no_end(tiny):
    rooms = _rows(tiny.folder, "live_room_meta.parquet")
    for room in rooms:
        assert (room["end_timestamp"] is None) == (room["live_duration"] is None)
        if room["end_timestamp"] is not None:
            assert room["end_timestamp"] < tiny.config.end_ms
            assert room["live_duration"] == room["end_timestamp"] - room["start_timestamp"]
    assert any(room["end_timestamp"] is None for room in rooms)


def test_nobody_follows_an_author_twice(tiny):
    follows = Counter((row["user_id"], row["author_id"]) for row in _rows(tiny.folder, "live_follow.csv"))
    assert set(follows.values()) == {1}


def test_segments_are_those_with_a_viewer(tiny):
    segments = _rows(tiny.folder, "live_emb_128_ts/live_emb_128_ts_part*.parquet")
    starts = {row["live_id"]: row["start_timestamp"] for row in _rows(tiny.folder, "live_room_meta.parquet")}
    assert len({row["segment_id"] for row in segments}) == len(segments)
    assert {len(row["feature_128"]) for row in segments} == {128}
    written = {(int(row["live_stream_id"]), int(row["segment_id"].split("_")[1])) for row in segments}
    viewed, unfinished = set(), set()
    for row in _rows(tiny.folder, "live_interaction.csv"):
        opened = starts[row["live_id"]]
        first = (row["live_play_start_timestamp"] - opened) // 30_000
        last = (row["live_play_end_timestamp"] - 1 - opened) // 30_000
        for segment in range(first, last + 1):
            over = opened + 30_000 * (segment + 1) <= tiny.config.end_ms
            (viewed if over else unfinished).add((row["live_id"], segment))
    assert viewed <= written <= viewed | unfinished


def test_the_past_does_not_depend_on_how_long_the_future_lasts(tmp_path):
    """Rows of the first two hours are the same whether the log is cut after five hours or after eight."""
    config = SimulatorConfig(users=150, authors=20, duration_s=5 * 3600, seed=3)
    simulate(config, tmp_path / "short")
    simulate(dataclasses.replace(config, duration_s=8 * 3600), tmp_path / "long")
    early = config.start_ms + 2 * 3_600_000
    for name, time in _TIMES.items():
        short, long = (
            [row for row in _rows(tmp_path / length, name) if row[time] < early] for length in ("short", "long")
        )
        assert short == long, name
        assert short, name
    assert _contents(tmp_path / "short")["author_profile.csv"] == _contents(tmp_path / "long")["author_profile.csv"]


def test_exact_duplicates_are_rare(tiny):
    for name in _TIMES:
        if "*" not in name and name != "live_comment.csv":
            rows = [tuple(row.values()) for row in _rows(tiny.folder, name)]
            assert len(rows) - len(set(rows)) <= 0.001 * len(rows)


def test_tasks_are_as_frequent_as_their_names_suggest(tmp_path):
    rates = simulate(dataclasses.replace(PRESETS["demo"], users=1_500, authors=100), tmp_path / "out").rates
    assert list(rates) == list(LIVE_SCHEMA.task_names)
    assert 0.15 < rates["ctr"] < 0.25
    assert rates["ctr"] > rates["evtr"] > rates["lvtr"] > rates["cmtr"] > rates["wtr"] > rates["shtr"]
    assert rates["lvtr"] > rates["wtr"] < rates["ltr"] < rates["evtr"]
    assert 0.003 < rates["gtr"] < 0.012
    assert 0.003 < rates["cvr"] < 0.012


def test_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        simulate(TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    simulate(TINY, tmp_path / "out")
    assert (tmp_path / "out" / "live_interaction.csv").exists()


def test_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(done):
        assert not (tmp_path / "deep" / "out").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(TINY, tmp_path / "deep" / "out", interrupt)
    assert list((tmp_path / "deep").iterdir()) == []


def test_progress_ends_at_one(tmp_path):
    shares = []
    simulate(TINY, tmp_path / "out", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_platform_without_viewers_writes_headers(tmp_path):
    summary = simulate(SimulatorConfig(users=1, authors=1, duration_s=1), tmp_path / "out")
    assert summary.impressions == 0
    for name in _LAYOUT:
        assert read_table(tmp_path / "out", name).column_names == _LAYOUT[name].split()


@pytest.mark.parametrize("field", ["users", "authors", "duration_s", "impressions_per_user_day"])
def test_sizes_must_be_positive(field):
    with pytest.raises(ValueError, match=f"{field} must be positive, got 0"):
        dataclasses.replace(TINY, **{field: 0})


def test_seed_must_not_be_negative():
    with pytest.raises(ValueError, match="must not be negative"):
        dataclasses.replace(TINY, seed=-1)
