from hypothesis import given
from hypothesis import strategies as st

from tfx_pipeline.report.ranking_account import placed_answers

ROOMS = st.lists(st.integers(0, 12), unique=True, max_size=10)


def answer(version, rooms, user_id=1):
    return {
        "version": version,
        "user_id": user_id,
        "rooms": [{"live_id": live_id, "scores": {"ctr": 0.5}} for live_id in rooms],
    }


@given(ROOMS, ROOMS)
def test_the_changes_lead_back_to_the_places_before(before, after):
    (answers,) = placed_answers({"rank": [answer(1, before), answer(2, after)]}).values()
    assert [room.live_id for room in answers[1].rooms] == after
    assert set(answers[1].gone) == set(before) - set(after)
    for room in answers[1].rooms:
        if room.change == "new":
            assert room.live_id not in before
        else:
            sign = {"▲": 1, "▼": -1, "=": 0}[room.change[0]]
            moved = sign * int(room.change[2:] or 0)
            assert before[room.place + moved - 1] == room.live_id


def test_answers_are_compared_within_their_user():
    answers = placed_answers({"rank": [answer(1, [5, 6]), answer(1, [6, 5], user_id=2), answer(2, [6, 5])]})
    assert [(a.title, a.version) for a in answers[1]] == [("Before: version 1", 1), ("After: version 2", 2)]
    assert [room.change for room in answers[1][1].rooms] == ["▲ 1", "▼ 1"]
    assert [a.title for a in answers[2]] == ["Answer: version 1"]
    assert [room.change for room in answers[2][0].rooms] == ["", ""]
