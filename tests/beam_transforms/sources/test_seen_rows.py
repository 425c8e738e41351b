import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_transforms.sources.seen_rows import SeenRows


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=8))
def test_a_row_is_new_once(batches):
    rows, seen = SeenRows(), set()
    for batch in batches:
        expected = []
        for value in batch:
            expected.append(value in seen)
            seen.add(value)
        assert rows.add(np.array(batch, dtype=np.uint64)).tolist() == expected
