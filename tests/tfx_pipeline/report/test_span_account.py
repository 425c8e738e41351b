import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_pipeline.report.span_account import PRODUCT_GUESSERS, SEMANTIC_ID_GUESSERS, first_guesses, hit_gain

RATES = st.floats(0, 1)


@given(st.fixed_dictionaries(dict.fromkeys(PRODUCT_GUESSERS, RATES)))
def test_the_gain_is_over_the_best_rule(rates):
    best = max(rates["most_frequent"], rates["latest"])
    words = hit_gain(rates, PRODUCT_GUESSERS)
    assert words.startswith(f"{abs(100 * (rates['model'] - best)):.1f} points ")
    assert (" below the " in words) == (rates["model"] < best)


@pytest.mark.parametrize("missing", ["model", "last", "largest_weight"])
def test_no_gain_where_a_rate_is_not_known(missing):
    hits = {name: {"hit@1": 0.5, "hit@10": 0.6} for name in SEMANTIC_ID_GUESSERS}
    assert hit_gain(first_guesses({"semantic_id_hits": hits}), SEMANTIC_ID_GUESSERS)
    hits[missing]["hit@1"] = None
    assert hit_gain(first_guesses({"semantic_id_hits": hits}), SEMANTIC_ID_GUESSERS) is None


def test_no_forecaster_no_guesses():
    assert first_guesses({}) == first_guesses({"semantic_id_hits": None}) == {}
    assert hit_gain({}, SEMANTIC_ID_GUESSERS) is None
