import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serving.canary.split import CanarySplit, hash_fractions

IDS = st.integers(-(2**63), 2**63 - 1)


@given(user=IDS, others=st.lists(IDS, max_size=20), share=st.floats(0, 1), salt=st.text(min_size=1, max_size=20))
@settings(phases=(Phase.generate,))
def test_a_user_stays_on_a_side(user, others, share, salt):
    split = CanarySplit(share, salt)
    alone = split.label(user)
    among = CanarySplit(share, salt).on_canary(np.array([*others, user], np.int64))[-1]
    assert alone == ("canary" if among else "stable")


@given(user=IDS, share=st.floats(0, 1), more=st.floats(0, 1), salt=st.text(min_size=1, max_size=20))
@settings(phases=(Phase.generate,))
def test_a_larger_share_keeps_those_who_were_in(user, share, more, salt):
    if CanarySplit(share, salt).label(user) == "canary":
        assert CanarySplit(max(share, more), salt).label(user) == "canary"


@given(share=st.floats(0, 1), salt=st.text(min_size=1, max_size=20), first=st.integers(0, 2**62))
@settings(phases=(Phase.generate,), max_examples=50)
def test_the_share_is_right(share, salt, first):
    users = np.arange(first, first + 20_000)
    found = CanarySplit(share, salt).on_canary(users).mean()
    assert abs(found - share) <= 5 * np.sqrt(share * (1 - share) / 20_000) + 1e-9


def test_another_salt_divides_anew():
    users = np.arange(40_000)
    first, second = (CanarySplit(0.3, salt).on_canary(users) for salt in ("one", "two"))
    assert (first & second).mean() == pytest.approx(0.09, abs=0.01)


def test_the_hash_is_that_of_every_machine_and_release():
    """A change would move users to the other side in the middle of an experiment."""
    np.testing.assert_allclose(hash_fractions(np.array([0, 1, -1, 2**62]), "salt"), EXPECTED, rtol=1e-15)


EXPECTED = [0.47402505709717535, 0.11118531571478729, 0.9219259425178161, 0.796604031963756]


@pytest.mark.parametrize(("share", "salt"), [(-0.1, "x"), (1.1, "x"), (float("nan"), "x"), (0.5, "")])
def test_a_wrong_split_is_refused(share, salt):
    with pytest.raises(ValueError, match=r"share of a canary|needs a salt"):
        CanarySplit(share, salt)
