import json
import re

import numpy as np
import pytest

from beam_transforms.codebook import Codebook
from beam_transforms.content import segment_batch
from beam_transforms.events import event_batch
from beam_transforms.schema import CHAT_SCHEMA, WINDOW_MS, EventKind
from beam_transforms.sources.source import DeadLetter, Partition, Source
from tfx_pipeline.report.semantic_id_plot import write_semantic_id_plot
from tfx_pipeline.semantic_id_timeline import LEAST_SEGMENTS, semantic_id_timeline, write_semantic_id_timeline

BEGIN_MS = 1_500_000 * WINDOW_MS
CODEBOOK = Codebook(np.eye(3))


class Told(Source):
    """Comments (room, window, user) and segments (room, window, code), a batch for each `batch` of them."""

    schema, notes = CHAT_SCHEMA, ()

    def __init__(self, comments, segments, batch=1000):
        self._comments, self._given, self._batch = comments, segments, batch

    def partitions(self):
        return [Partition("told", "messages")]

    def segment_partitions(self):
        return [Partition("told", "segments")]

    def read(self, partition):
        yield DeadLetter("told", 1, "no reason", "")
        for first in range(0, len(self._comments), self._batch):
            room, window, user = np.array(self._comments[first : first + self._batch]).T
            kinds = np.where(user < 0, EventKind.ROOM_START, EventKind.COMMENT)
            times = BEGIN_MS + window * WINDOW_MS + WINDOW_MS // 2
            yield event_batch(kind=kinds, user_id=user, author_id=0, live_id=room, timestamp_ms=times, value=1.0)

    def read_segments(self, partition):
        yield DeadLetter("told", 1, "no reason", "")
        for first in range(0, len(self._given), self._batch):
            room, window, code = np.array(self._given[first : first + self._batch]).T
            vectors = np.eye(3)[code]
            vectors[code < 0] = np.nan
            yield segment_batch(room, 0, BEGIN_MS + (window + 1) * WINDOW_MS - 1, vectors)


def _cut(window):
    return BEGIN_MS + window * WINDOW_MS


EARLIER = [(1, 0, 7), (1, 0, 7), (1, 0, 8), (1, 1, 7), (2, 0, 7)]
LATER = [(3, 10, 7), (3, 10, 8), (3, 12, 7), (3, 12, 7), (4, 11, 9), (4, 11, 9)]
SEGMENTS = [(1, 0, 2), (1, 1, 1), (2, 0, 2), (3, 10, 1), (3, 11, 0), (3, 12, 1), (4, 11, 2)]


def test_the_session_is_the_one_with_most_messages_after_the_cut():
    figures = semantic_id_timeline(Told([*EARLIER, *[(1, 2, 5)] * 9, *LATER], SEGMENTS), CODEBOOK, _cut(10))
    assert figures["codebook"] == CODEBOOK.version
    assert figures["session"] == {
        "live_id": 3,
        "messages": 4,
        "begin_ms": _cut(10),
        "windows": {"messages": [2, 0, 2], "chatters": [2, 0, 1], "semantic_ids": [1, 0, 1]},
        "named": [{"semantic_id": 1, "segments": 2}, {"semantic_id": 0, "segments": 1}],
    }


def test_windows_without_a_segment_have_no_semantic_id():
    figures = semantic_id_timeline(Told(LATER, [(3, 10, -1), (3, 12, 2), (3, 13, 1), (3, 9, 1)]), CODEBOOK, _cut(10))
    assert figures["session"]["windows"]["semantic_ids"] == [None, None, 2]


def test_messages_per_chatter_are_of_the_segments_before_the_cut(monkeypatch):
    monkeypatch.setattr("tfx_pipeline.semantic_id_timeline.LEAST_SEGMENTS", 1)
    figures = semantic_id_timeline(Told([*EARLIER, *LATER], SEGMENTS), CODEBOOK, _cut(10))
    ranked = figures["most_messages_per_chatter"]
    assert ranked["all"] == {"segments": 3, "messages": 5, "chatters": 4, "messages_per_chatter": 1.25}
    assert ranked["semantic_ids"] == [
        {
            "semantic_id": 2,
            "segments": 2,
            "messages": 4,
            "chatters": 3,
            "sessions": 2,
            "messages_per_chatter": pytest.approx(4 / 3),
        },
        {"semantic_id": 1, "segments": 1, "messages": 1, "chatters": 1, "sessions": 1, "messages_per_chatter": 1.0},
    ]


def test_few_segments_tell_nothing():
    rows = [(1, window, 1 if window < LEAST_SEGMENTS else 0) for window in range(2 * LEAST_SEGMENTS - 1)]
    comments = [(room, window, 7) for room, window, _ in rows]
    figures = semantic_id_timeline(Told([*comments, (2, 99, 1)], rows), CODEBOOK, _cut(99))
    found = [
        (entry["semantic_id"], entry["segments"]) for entry in figures["most_messages_per_chatter"]["semantic_ids"]
    ]
    assert found == [(1, LEAST_SEGMENTS)]


def test_the_batches_and_their_order_change_nothing():
    rng = np.random.default_rng(0)
    comments = np.stack([rng.integers(1, 4, 300), rng.integers(0, 20, 300), rng.integers(0, 6, 300)], axis=1)
    segments = [(room, window, int(rng.integers(-1, 3))) for room in range(1, 4) for window in range(20)]
    once = semantic_id_timeline(Told(comments, segments), CODEBOOK, _cut(10))
    assert once["session"]["messages"] == max(
        int(((comments[:, 0] == room) & (comments[:, 1] >= 10)).sum()) for room in (1, 2, 3)
    )
    assert semantic_id_timeline(Told(rng.permutation(comments), segments[::-1], batch=7), CODEBOOK, _cut(10)) == once


def test_other_events_are_no_messages():
    with pytest.raises(ValueError, match="no comment from"):
        semantic_id_timeline(Told([*EARLIER, (3, 10, -1)], SEGMENTS), CODEBOOK, _cut(10))


def test_a_source_without_segments_has_a_rate_alone(tmp_path):
    figures = semantic_id_timeline(Told(LATER, []), CODEBOOK, _cut(10))
    assert figures["session"]["named"] == [] and figures["most_messages_per_chatter"]["semantic_ids"] == []
    assert figures["most_messages_per_chatter"]["all"]["messages_per_chatter"] is None
    write_semantic_id_plot(figures, tmp_path / "plot.svg")
    assert "no Sid has 20 segments" in (tmp_path / "plot.svg").read_text()


def test_the_plot_names_the_session_and_its_semantic_ids(tmp_path, monkeypatch):
    monkeypatch.setattr("tfx_pipeline.semantic_id_timeline.LEAST_SEGMENTS", 1)
    monkeypatch.setattr("tfx_pipeline.semantic_id_timeline.NAMED", 1)
    written = write_semantic_id_timeline(Told([*EARLIER, *LATER], SEGMENTS), CODEBOOK, _cut(10), tmp_path / "out")
    assert written == {
        "json": str(tmp_path / "out" / "semantic_ids.json"),
        "plot": str(tmp_path / "out" / "semantic_ids.svg"),
    }
    figures = json.loads((tmp_path / "out" / "semantic_ids.json").read_text())
    assert figures["session"]["live_id"] == 3
    svg = (tmp_path / "out" / "semantic_ids.svg").read_text()
    words = " ".join(re.findall(r">([^<>]*\S[^<>]*)<", svg))
    for text in ("Session 3 of 1971-06-05", "4 messages", "Sid 1 · 2", "1 other Sid · 1", "Sid 2 · 2"):
        assert text in words
    write_semantic_id_plot(figures, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
