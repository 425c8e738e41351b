import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.sources import room_authors
from beam_transforms.sources.room_authors import RoomAuthors

PAIRS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=12)


@given(st.lists(PAIRS, max_size=6), st.integers(0, 10))
def test_the_first_author_of_a_room_counts(batches, pending):
    before = room_authors._PENDING_ROOMS
    room_authors._PENDING_ROOMS = pending
    try:
        authors, expected = RoomAuthors(), {}
        for batch in batches:
            for room, author in batch:
                expected.setdefault(room, author)
            pairs = np.array(batch, dtype=np.int64).reshape(-1, 2)
            authors.add(pairs[:, 0], pairs[:, 1])
        found, known = authors.find(np.arange(22))
    finally:
        room_authors._PENDING_ROOMS = before
    assert known.tolist() == [room in expected for room in range(22)]
    assert found.tolist() == [expected.get(room, 0) for room in range(22)]
