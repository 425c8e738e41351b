"""OutcomeStream: which ranking an impression counts for, what its label is, and that each is written once."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from beam_transforms.columnar import to_batch
from beam_transforms.encode_event_lines import encode_event_lines
from beam_transforms.outcome_stage import OutcomeStage
from beam_transforms.outcome_stream import CHECKPOINT, OutcomeStream
from beam_transforms.schema import EventKind
from beam_transforms.sources.kafka_topic import KafkaTopic
from tests.beam_transforms.event_logs import NOON_MS, event_rows, log
from tests.beam_transforms.live_logs import follow

HORIZON_S, ATTRIBUTION_S, LATENESS_MS = 60, 120, 60_000
SHOWN, ENTERED = EventKind.EXPOSURE, EventKind.ENTER
END = (EventKind.LIKE, 1000, 99, 0, 99, 1)  # far behind everything: all labels are known


def _ranking(second, user, rooms, version=7, fell_back=False, experiment="trial"):
    head = {"timestamp_ms": NOON_MS + round(second * 1000), "experiment": experiment, "user_id": user}
    return json.dumps(head | {"version": version, "fell_back": fell_back, "ctr": rooms}) + "\n"


def _failure(second, user, code="DEADLINE_EXCEEDED"):
    said = {"timestamp_ms": NOON_MS + second * 1000, "experiment": "trial", "user_id": user, "error": code}
    return json.dumps(said) + "\n"


class Trial:
    """A followed directory, a served log and the outcomes."""

    def __init__(self, folder):
        self.live, self.served, self.out = folder / "live", folder / "served.jsonl", folder / "out"
        self.live.mkdir(parents=True)
        self.served.touch()
        self._files = 0

    def events(self, *rows):
        """Adds a file of events: (kind, seconds, user, author, room, value)."""
        (self.live / f"{self._files:06}.jsonl").write_bytes(encode_event_lines(to_batch(log(*rows))))
        self._files += 1

    def rankings(self, *lines):
        with self.served.open("a") as file:
            file.writelines(lines)

    def stream(self, **more):
        given = {"horizon_s": HORIZON_S, "attribution_s": ATTRIBUTION_S, "lateness_ms": LATENESS_MS} | more
        return OutcomeStream(follow(self.live), self.served, self.out, **given)

    def run(self):
        """Reads all that is there; gives the last counts, without those that are 0."""
        given = list(self.stream().windows(idle_s=0))
        return {name: count for name, count in given[-1].items() if count} if given else {}

    def lines(self, folder="."):
        return [
            json.loads(line)
            for file in sorted((self.out / folder).glob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]

    def outcomes(self):
        """(seconds, user, room, version, score, label) of each impression, by time."""
        return sorted(
            (
                (line["timestamp_ms"] - NOON_MS) / 1000,
                *(line[name] for name in ("user_id", "live_id", "version", "score", "label")),
            )
            for line in self.lines()
            if "error" not in line
        )

    def files(self):
        return {
            path.relative_to(self.out): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and path.name not in (CHECKPOINT, ".lock")
        }


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path)


def test_a_click_counts_within_the_horizon(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.25, "6": 0.5, "7": 0.75}))
    trial.events(
        *((SHOWN, 10, 1, 0, room, 1) for room in (5, 6, 7)),
        (ENTERED, 69, 1, 0, 5, 1),
        (ENTERED, 70, 1, 0, 6, 1),  # the window is [10, 70)
        (ENTERED, 20, 2, 0, 7, 1),  # somebody else
        END,
    )
    assert trial.run() == {"events": 7, "rankings": 1, "outcomes": 3}
    assert trial.outcomes() == [(10, 1, 5, 7, 0.25, 1), (10, 1, 6, 7, 0.5, 0), (10, 1, 7, 7, 0.75, 0)]
    assert trial.lines()[0] == {
        "experiment": "trial", "user_id": 1, "live_id": 5, "timestamp_ms": NOON_MS + 10_000,
        "version": 7, "fell_back": False, "score": 0.25, "label": 1,
    }  # fmt: skip


def test_the_last_ranking_with_the_room_before_the_impression_counts(trial):
    trial.rankings(
        _ranking(0, 1, {"5": 0.1, "6": 0.2}, version=7),
        _ranking(30, 1, {"5": 0.3}, version=8),
        _ranking(31, 2, {"5": 0.4, "6": 0.4}, version=9),  # another user's
        _ranking(50, 1, {"5": 0.5, "6": 0.6}, version=9),
    )
    shown = ((29, 5), (30, 5), (49.999, 5), (50, 5), (49, 6))
    trial.events(*((SHOWN, second, 1, 0, room, 1) for second, room in shown), END)
    assert trial.run() == {"events": 6, "rankings": 4, "outcomes": 5, "unshown": 1}
    assert [row[:5] for row in trial.outcomes()] == [
        (29, 1, 5, 7, 0.1),
        (30, 1, 5, 8, 0.3),  # of the same millisecond
        (49, 1, 6, 7, 0.2),  # which wasn't in the second one
        (49.999, 1, 5, 8, 0.3),
        (50, 1, 5, 9, 0.5),
    ]


def test_an_impression_that_no_ranking_led_to_is_no_outcome(trial):
    trial.rankings(_ranking(100, 1, {"5": 0.5, "6": 0.5}))
    trial.events(
        (SHOWN, 99.999, 1, 0, 5, 1),  # before the ranking
        (SHOWN, 110, 1, 0, 7, 1),  # a room that isn't in it
        (SHOWN, 110, 2, 0, 5, 1),  # another user
        (SHOWN, 220, 1, 0, 5, 1),  # the last moment for which it counts
        (SHOWN, 220.001, 1, 0, 6, 1),
        END,
    )
    assert trial.run() == {"events": 6, "rankings": 1, "outcomes": 1, "unserved": 4}
    assert trial.outcomes() == [(220, 1, 5, 7, 0.5, 0)]


def test_an_impression_that_is_told_twice_counts_once_and_two_of_a_room_twice(trial):
    trial.rankings(*[_ranking(0, 1, {"5": 0.5})] * 2)
    trial.events(*[(SHOWN, 10, 1, 0, 5, 1)] * 2, (SHOWN, 30, 1, 0, 5, 1), (ENTERED, 35, 1, 0, 5, 1), END)
    trial.run()
    assert trial.outcomes() == [(10, 1, 5, 7, 0.5, 0), (30, 1, 5, 7, 0.5, 1)]


def test_the_side_of_a_user_who_fell_back_and_requests_that_failed_are_told(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.5}, fell_back=True), *[_failure(20, 2)] * 2, _failure(20, 2, "INTERNAL"))
    trial.rankings(_failure(970, 3))  # an impression then wouldn't have a label yet
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    assert trial.run() == {"events": 2, "rankings": 1, "outcomes": 1, "failed": 2}
    outcome, *failures = trial.lines()
    assert outcome["fell_back"] is True
    assert sorted(failure.pop("error") for failure in failures) == ["DEADLINE_EXCEEDED", "INTERNAL"], "each once"
    assert failures == [{"experiment": "trial", "user_id": 2, "timestamp_ms": NOON_MS + 20_000}] * 2


def test_rankings_of_which_nothing_was_shown_are_counted(trial):
    trial.rankings(
        _ranking(0, 1, {"5": 0.5, "6": 0.5}),
        _ranking(1, 2, {"5": 0.5}),  # replaced by the next one before the room is shown
        _ranking(2, 2, {"5": 0.5, "6": 0.5}),
        _ranking(3, 3, {}),
        _ranking(900, 4, {"5": 0.5}),  # something of it may be shown yet
    )
    trial.events((SHOWN, 10, 2, 0, 5, 1), END)
    assert trial.run() == {"events": 2, "rankings": 5, "outcomes": 1, "unshown": 3}


def test_a_ranking_that_comes_later_takes_an_impression_from_the_one_before(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.25}))
    trial.events((SHOWN, 110, 1, 0, 5, 1), (EventKind.LIKE, 215, 9, 0, 9, 1))
    assert trial.run() == {"events": 2, "rankings": 1, "waiting": 1}
    trial.rankings(_ranking(100, 1, {"5": 0.5}, version=8))
    trial.events(END)
    assert trial.run() == {"events": 3, "rankings": 2, "outcomes": 1, "unshown": 1}
    assert trial.outcomes() == [(110, 1, 5, 8, 0.5, 0)]


def test_a_label_that_is_not_known_is_written_by_a_later_run(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.5, "6": 0.5}))
    trial.events((SHOWN, 10, 1, 0, 5, 1), (SHOWN, 40, 1, 0, 6, 1), (EventKind.LIKE, 135, 9, 0, 9, 1))
    # Everything before 120 - 60 s is there: neither window has ended, though one has by the newest event.
    assert trial.run() == {"events": 3, "rankings": 1, "waiting": 2}
    assert trial.files() == {}
    trial.events((ENTERED, 99, 1, 0, 6, 1), (EventKind.LIKE, 150, 9, 0, 9, 1))
    assert trial.run()["waiting"] == 1
    assert trial.outcomes() == [(10, 1, 5, 7, 0.5, 0)]
    before = trial.files()
    trial.events(END)
    assert trial.run() == {"events": 6, "rankings": 1, "outcomes": 2}
    assert trial.outcomes() == [(10, 1, 5, 7, 0.5, 0), (40, 1, 6, 7, 0.5, 1)]
    assert {name: trial.files()[name] for name in before} == before, "what was written stays"


def test_a_log_that_has_ended_is_labelled_up_to_its_newest_event(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.5, "6": 0.5}))
    trial.events((SHOWN, 10, 1, 0, 5, 1), (SHOWN, 40, 1, 0, 6, 1), (EventKind.LIKE, 70, 9, 0, 9, 1))
    (trial.live / "END").touch()
    assert trial.run() == {"events": 3, "rankings": 1, "outcomes": 1, "waiting": 1}
    assert trial.outcomes() == [(10, 1, 5, 7, 0.5, 0)], "the other one is neither clicked nor not"


@pytest.mark.parametrize("ended", [False, True])
def test_running_again_adds_nothing(trial, ended):
    trial.rankings(_ranking(0, 1, {"5": 0.5}), "{\n", _failure(5, 1))
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    if ended:
        (trial.live / "END").touch()
    counts, files = trial.run(), trial.files()
    assert len(files) == 2
    for _ in range(2):
        assert trial.run() == counts
        assert trial.files() == files


def test_a_ranking_may_come_until_a_label_of_its_time_is_known(trial):
    trial.events((SHOWN, 10, 1, 0, 5, 1), (SHOWN, 11, 1, 0, 6, 1), (EventKind.LIKE, 125, 9, 0, 9, 1))
    assert trial.run() == {"events": 3, "waiting": 2}
    trial.rankings(_ranking(1, 1, {"5": 0.5, "6": 0.5}))
    trial.events((EventKind.LIKE, 185, 9, 0, 9, 1))
    assert trial.run() == {"events": 4, "rankings": 1, "outcomes": 2}
    late = [_ranking(60, 1, {"5": 0.5}), _failure(59, 2)]
    trial.rankings(*late, _ranking(60.001, 1, {"5": 0.5}), _failure(61, 3))
    trial.events(END)
    assert trial.run() == {
        "events": 5, "rankings": 3, "outcomes": 2, "late_rankings": 2, "unshown": 1, "failed": 1
    }  # fmt: skip
    assert sorted(map(json.dumps, trial.lines("late_rankings"))) == sorted(line.rstrip() for line in late)


def test_events_that_come_too_late_are_kept(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.5}))
    trial.events((EventKind.LIKE, 125, 9, 0, 9, 1))
    trial.events((SHOWN, 10, 1, 0, 5, 1), (SHOWN, 61, 1, 0, 5, 1), END)
    assert trial.run() == {"events": 4, "rankings": 1, "outcomes": 1, "late_events": 1}
    (late,) = trial.lines("late")
    assert (late["kind"], late["timestamp_ms"]) == ("EXPOSURE", NOON_MS + 10_000)


def test_lines_that_can_not_be_read_are_kept_with_the_reason(trial):
    trial.rankings("{\n", "\n", _ranking(0, 1, {"5": 1.5}), _ranking(0, 1, {"5": 0.5}))
    (trial.live / "000000.jsonl").write_text("no event\n")
    trial._files = 1
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    assert trial.run() == {"events": 2, "rankings": 1, "outcomes": 1, "dead_letters": 3}
    letters = sorted(trial.lines("dead_letters"), key=lambda letter: (letter["file"], letter["line"]))
    assert [(Path(letter["file"]).name, letter["line"]) for letter in letters] == [
        ("000000.jsonl", 1),
        ("served.jsonl", 1),
        ("served.jsonl", 3),
    ]
    assert letters[2]["reason"] == "ctr of room 5 should be a probability, got 1.5"


def test_a_folder_of_served_files_is_followed_as_far_as_the_events_have_come(trial):
    trial.served.unlink()
    trial.served.mkdir()
    for name in ("a", "b"):
        for part in range(3):
            user = part + 10 * (name == "b")
            with (trial.served / f"{name}.jsonl").open("a") as file:
                file.write(_ranking(400 * part, user, {"5": 0.5}))
    (trial.served / "c.jsonl.part").write_text("not yet")
    trial.events(*((SHOWN, 5, user, 0, 5, 1) for user in (0, 10)), (EventKind.LIKE, 400, 9, 0, 9, 1))
    assert trial.run()["outcomes"] == 2
    with (trial.served / "a.jsonl").open("a") as file:
        file.write(_ranking(810, 5, {"5": 0.5})[:-9])
    trial.events((SHOWN, 820, 5, 0, 5, 1), (EventKind.LIKE, 830, 9, 0, 9, 1))
    trial.run()
    with (trial.served / "a.jsonl").open("a") as file:
        file.write(_ranking(810, 5, {"5": 0.5})[-9:])
    trial.events(END)
    assert (trial.run()["outcomes"], trial.run().get("dead_letters")) == (3, None)


def test_what_does_not_fit_is_refused(trial, tmp_path):
    trial.rankings(_ranking(0, 1, {"5": 0.5}))
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    trial.run()
    with pytest.raises(ValueError, match="horizon_ms was 60000, is 90000"):
        list(trial.stream(horizon_s=90).windows(idle_s=0))
    trial.served.unlink()
    trial.events((EventKind.LIKE, 2000, 9, 0, 9, 1))
    with pytest.raises(FileNotFoundError, match="no file or folder of served rankings"):
        trial.run()
    with pytest.raises(ValueError, match="attribution_s must be positive"):
        OutcomeStage(attribution_s=0)
    with pytest.raises(ValueError, match="window_s must be"):
        OutcomeStage(horizon_s=-1)


def test_a_checkpoint_is_of_one_source_and_one_place_of_rankings(trial, tmp_path):
    trial.rankings(_ranking(0, 1, {"5": 0.5}))
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    counts = trial.run()
    other = Trial(tmp_path / "other")
    other.rankings(_ranking(1500, 1, {"5": 0.5}))
    other.events((SHOWN, 1510, 1, 0, 5, 1), (EventKind.LIKE, 2500, 9, 0, 9, 1))
    topic = KafkaTopic.at("kafka://127.0.0.1:1/events")
    for source, served, message in (
        (follow(other.live), trial.served, rf"source was the folder {trial.live}, is the folder {other.live}; remove"),
        (topic, trial.served, rf"source was the folder {trial.live}, is the Kafka topic events; remove"),
        (follow(trial.live), other.served, rf"served was {trial.served}, is {other.served}; remove"),
    ):
        with pytest.raises(ValueError, match=message):
            list(OutcomeStream(source, served, trial.out, HORIZON_S, ATTRIBUTION_S, LATENESS_MS).windows(idle_s=0))
    assert trial.run() == counts


def test_outcomes_have_one_writer(trial):
    for second in range(0, 300, 30):
        trial.rankings(_ranking(second, 1, {"5": 0.5}))
        trial.events((SHOWN, second + 1, 1, 0, 5, 1))
    trial.events(END)
    first = trial.stream().windows(idle_s=0)
    next(first)
    with pytest.raises(RuntimeError, match=r"another process writes outcomes to .*out \(it holds .*\.lock\); stop it"):
        trial.run()
    assert list(first)[-1]["outcomes"] == 10 == len(trial.outcomes())
    assert trial.run()["outcomes"] == 10, "the lock is free again"


@pytest.mark.parametrize("is_file", [False, True])
def test_rankings_do_not_lie_among_the_outcomes(trial, is_file):
    trial.out.mkdir()
    trial.served = trial.out / "served.jsonl"
    trial.rankings(_ranking(0, 1, {"5": 0.5}))
    trial.served = trial.served if is_file else trial.out / ".." / "out"
    with pytest.raises(ValueError, match="served rankings are where outcomes go"):
        trial.stream()


def test_a_ranking_of_a_later_time_than_events_can_have_is_a_dead_letter(trial):
    trial.rankings(_ranking(1061, 1, {"5": 0.5}), _ranking(0, 1, {"5": 0.5}))
    trial.events((SHOWN, 10, 1, 0, 5, 1), END)
    (*_, counts) = trial.stream(clock=lambda: NOON_MS / 1000 + 1000).windows(idle_s=0)
    assert (counts["dead_letters"], counts["outcomes"]) == (1, 1)
    assert "1000 ms later than allowed" in trial.lines("dead_letters")[0]["reason"]


def test_a_name_that_is_used_again_and_a_file_that_is_read_twice_lose_and_double_nothing(trial):
    trial.rankings(_ranking(0, 1, {"5": 0.5}), _failure(1, 2))
    trial.events((SHOWN, 10, 1, 0, 5, 1), (EventKind.LIKE, 100, 9, 0, 9, 1))
    trial.run()
    trial.served.write_text(
        _failure(70, 2) + _ranking(71, 1, {"5": 0.25}) + _ranking(0, 1, {"5": 0.5}) + _failure(1, 2)
    )
    trial.events((SHOWN, 80, 1, 0, 5, 1), END)
    counts = trial.run()
    assert (counts["outcomes"], counts["failed"]) == (2, 2)
    assert trial.outcomes() == [(10, 1, 5, 7, 0.5, 0), (80, 1, 5, 7, 0.25, 0)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("is_done", [False, True])
def test_a_run_that_is_killed_at_any_file_goes_on(trial, monkeypatch, is_done):
    """Before or after each renaming of a checkpoint or a file."""
    for second in range(0, 300, 30):
        trial.rankings(_ranking(second, 1, {"5": second / 1000}), "{\n", _failure(second, 2))
        trial.events((SHOWN, second + 1, 1, 0, 5, 1), (ENTERED, second + 2 + second % 60, 1, 0, 5, 1))
    trial.events(END)
    replace, left, kills = Path.replace, 0, 0

    def kill(self, target):
        nonlocal left
        left -= 1
        if left == 0 and not is_done:
            raise Killed
        replace(self, target)
        if left == 0:
            raise Killed

    monkeypatch.setattr(Path, "replace", kill)
    counts, files, renamings = trial.run(), trial.files(), -left
    assert (counts["outcomes"], counts["failed"], counts["dead_letters"]) == (10, 10, 10)
    assert len(files) < renamings
    for number in range(1, 100):
        trial.out, left = trial.out.with_name(f"killed-{number}"), number
        try:
            trial.run()
            break
        except Killed:
            kills += 1
        (trial.out / f".{CHECKPOINT}.123").write_text("half")
        assert trial.run() == counts
        assert trial.files() == files
    assert kills == renamings
    assert trial.files() == files


rankings = st.lists(
    st.tuples(st.integers(0, 2400), st.integers(0, 3), st.sets(st.integers(0, 3)), st.integers(7, 8)), max_size=25
)


def _joined(rows, served, newest_s):
    """The outcomes, impression by impression."""
    shown = {(second, user, room) for kind, second, user, _, room, _ in rows if kind == SHOWN}
    found = []
    for second, user, room in shown:
        since = [
            ranking
            for ranking in served
            if ranking[1] == user and room in ranking[2] and second - ATTRIBUTION_S <= ranking[0] / 2 <= second
        ]
        if not since or second + HORIZON_S > newest_s:
            continue
        half, _, _, version = max(since, key=lambda ranking: ranking[0])
        end = min([second + HORIZON_S, *(s for s, u, r in shown if (u, r) == (user, room) and s > second)])
        clicked = any(kind == ENTERED and (u, r) == (user, room) and second <= s < end for kind, s, u, _, r, _ in rows)
        found.append((second, user, room, version, half / 10_000, int(clicked)))
    return sorted(found)


@given(
    rows=event_rows((SHOWN, SHOWN, ENTERED, EventKind.LIKE)),
    served=rankings,
    cuts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None, phases=(Phase.generate,))
def test_cuts_into_runs_change_nothing(tmp_path_factory, rows, served, cuts, seed):
    """Events late by up to the lateness, in files; runs after some files, each with the rankings that must be there."""
    rng = np.random.default_rng(seed)
    served = list({ranking[:2]: ranking for ranking in served}.values())
    served.sort(key=lambda ranking: ranking[0])
    lines = [_ranking(h / 2, user, {str(r): h / 10_000 for r in rooms}, v) for h, user, rooms, v in served]
    arrival = np.array([row[1] for row in rows]) + rng.uniform(0, LATENESS_MS / 1000 - 1, len(rows))
    order = np.argsort(arrival)
    parts = np.array_split(order, min(len(rows), 12))
    whole, cut = (Trial(tmp_path_factory.mktemp("trial") / name) for name in ("whole", "cut"))
    text, done, newest_s = "".join(lines), 0, 0.0
    stops = {int(place * len(parts)): share for place, share in cuts}
    for number, part in enumerate(parts):
        chosen = [rows[row] for row in part]
        whole.events(*chosen)
        cut.events(*chosen)
        newest_s = max(newest_s, *(row[1] for row in chosen))
        if number in stops:
            needed = [line for line, row in zip(lines, served, strict=True) if row[0] / 2 <= newest_s - HORIZON_S]
            least = max(done, len("".join(needed)))
            end = least + int(stops[number] * (len(text) - least))  # perhaps in the middle of a line
            cut.rankings(text[done:end])
            done = end
            cut.run()
    whole.rankings(text)
    cut.rankings(text[done:])
    for trial in (whole, cut):
        (trial.live / "END").touch()
    counts = whole.run()
    assert whole.outcomes() == _joined(rows, served, newest_s)
    assert cut.run() == counts and "late_events" not in counts and "late_rankings" not in counts
    assert cut.files() == whole.files()
