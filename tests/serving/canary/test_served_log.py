import json
import logging
import os
import threading

import numpy as np
import pytest

import serving.canary.served_log
from serving.canary.client import CanaryClient
from serving.canary.served_log import ServedLog
from serving.canary.split import CanarySplit
from serving.ranking import RankedRoom, Ranking
from serving.ranking_error import RankingError

ROOMS = (RankedRoom(5, {"ctr": 0.25, "gtr": 0.01}, 0.26), RankedRoom(3, {"ctr": 0.125, "gtr": 0.0}, 0.125))


class FakeRankingClient:
    """Answers for a label, unless that is to fail."""

    def __init__(self, **errors):
        self.errors = errors

    def rank(self, user_id, live_ids, limit, *, label, deadline_s):
        if label in self.errors:
            raise RankingError(self.errors[label], "because")
        return Ranking(user_id, {"stable": 7, "canary": 8}[label], ROOMS, label)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _rank(tmp_path, share, **errors):
    with ServedLog(tmp_path / "served.jsonl", clock=lambda: 1_750_000_000.5) as log:
        client = CanaryClient(FakeRankingClient(**errors), CanarySplit(share, "trial"), served_log=log)
        try:
            return client.rank(17)
        finally:
            assert len(_lines(tmp_path / "served.jsonl")) == 1, "it is there before the answer is"


@pytest.mark.parametrize(
    ("share", "errors", "version", "fell_back"),
    [(0.0, {}, 7, False), (1.0, {}, 8, False), (1.0, {"canary": "INTERNAL"}, 7, True)],
)
def test_a_ranking_is_a_line(tmp_path, share, errors, version, fell_back):
    assert _rank(tmp_path, share, **errors).version == version
    assert _lines(tmp_path / "served.jsonl") == [
        {
            "timestamp_ms": 1_750_000_000_500,
            "experiment": "trial",
            "user_id": 17,
            "version": version,
            "fell_back": fell_back,
            "ctr": {"5": 0.25, "3": 0.125},
        }
    ]


def test_a_request_without_an_answer_is_a_line(tmp_path):
    with pytest.raises(RankingError, match="because"):
        _rank(tmp_path, 1.0, canary="INTERNAL", stable="UNAVAILABLE")
    assert _lines(tmp_path / "served.jsonl") == [
        {"timestamp_ms": 1_750_000_000_500, "experiment": "trial", "user_id": 17, "error": "UNAVAILABLE"}
    ]


def test_the_salt_is_that_of_the_split_that_ranked(tmp_path):
    """Though the split is replaced meanwhile."""

    class Replacing(FakeRankingClient):
        def rank(self, *arguments, **more):
            client.split = CanarySplit(0.5, "next")
            return super().rank(*arguments, **more)

    with ServedLog(tmp_path / "served.jsonl") as log:
        client = CanaryClient(Replacing(), CanarySplit(1.0, "trial"), served_log=log)
        client.rank(17)
    (line,) = _lines(tmp_path / "served.jsonl")
    assert (line["experiment"], line["version"], line["fell_back"]) == ("trial", 8, False)


def test_many_threads_write_whole_lines(tmp_path):
    log = ServedLog(tmp_path / "served" / "1.jsonl")
    client = CanaryClient(FakeRankingClient(), CanarySplit(0.5, "trial"), served_log=log)

    def work(first):
        for user in range(first, first + 500):
            client.rank(user)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = _lines(tmp_path / "served" / "1.jsonl")
    assert sorted(line["user_id"] for line in lines) == list(range(4000))
    assert all(line["version"] == (8 if client.split.label(line["user_id"]) == "canary" else 7) for line in lines)


def test_a_file_has_one_writer_and_is_gone_on_with(tmp_path):
    path = tmp_path / "served.jsonl"
    path.write_text('{"cut')
    with ServedLog(path) as log:
        log.failed("trial", 1, "INTERNAL")
        log.failed("trial", 2, "INTERNAL")
        with pytest.raises(ValueError, match=r"served\.jsonl: another log writes to it"):
            ServedLog(path)
    with ServedLog(path) as log:
        log.failed("trial", 3, "INTERNAL")
    found = [line for line in path.read_text().splitlines() if line]
    assert found[0] == '{"cut' and [json.loads(line)["user_id"] for line in found[1:]] == [1, 2, 3]


def test_a_line_that_can_not_be_written_is_counted_and_costs_no_answer(tmp_path, monkeypatch, caplog):
    path, write = tmp_path / "served.jsonl", os.write
    log = ServedLog(path)
    client = CanaryClient(FakeRankingClient(), CanarySplit(0.5, "trial"), served_log=log)

    def full(file, data):
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.ERROR):
        for broken in (full, lambda file, data: write(file, data[:20]), full):
            monkeypatch.setattr(serving.canary.served_log.os, "write", broken)
            assert client.rank(1).user_id == 1
    monkeypatch.setattr(serving.canary.served_log.os, "write", write)
    client.rank(2)
    log.close()
    client.rank(3)
    assert log.lost == 4
    assert [record.message for record in caplog.records] == [
        f"{path}: 1 lines of served rankings are lost so far: [Errno 28] No space left on device"
    ]
    last = path.read_text().splitlines()[-1]
    assert json.loads(last)["user_id"] == 2, "what was cut doesn't take the next line with it"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"gtr": 0.5}, "version 7 gives the scores ['gtr'], without 'ctr': a canary is judged by clicks"),
        ({"ctr": float("nan")}, "version 7 gives room 5 the score ctr = nan; it should be a probability"),
        ({"ctr": 1.5}, "version 7 gives room 5 the score ctr = 1.5; it should be a probability"),
        ({"ctr": -0.25}, "version 7 gives room 5 the score ctr = -0.25; it should be a probability"),
    ],
)
def test_scores_that_are_no_click_rate_cost_a_line_and_no_answer(tmp_path, monkeypatch, caplog, scores, reason):
    path = tmp_path / "served.jsonl"
    with ServedLog(path) as log, caplog.at_level(logging.ERROR):
        client = CanaryClient(FakeRankingClient(), CanarySplit(0.0, "trial"), served_log=log)
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "ROOMS", (ROOMS[0], RankedRoom(5, scores, 0.5)))
            assert client.rank(1).version == 7
        assert log.lost == 1
        client.rank(2)
    assert [line["user_id"] for line in _lines(path)] == [2]
    (record,) = caplog.records
    assert record.message.startswith(f"{path}: 1 lines of served rankings are lost so far: {reason}")


def test_scores_of_numpy_are_numbers_too(tmp_path):
    ranking = Ranking(1, 7, (RankedRoom(np.int64(5), {"ctr": np.float32(0.5)}, 0.5),), "stable")
    with ServedLog(tmp_path / "served.jsonl") as log:
        log.ranked("trial", ranking, fell_back=False)
    assert _lines(tmp_path / "served.jsonl")[0]["ctr"] == {"5": 0.5}
