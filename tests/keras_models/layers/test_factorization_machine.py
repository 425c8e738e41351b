import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.factorization_machine import FactorizationMachine

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips

FIELDS = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)


def _numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def _pairs(fields: np.ndarray) -> np.ndarray:
    """The definition: one dot product for each pair, in float64."""
    fields = fields.astype(np.float64)
    totals = [
        sum(example[i] @ example[j] for i in range(len(example)) for j in range(i)) if len(example) > 1 else 0.0
        for example in fields
    ]
    return np.array(totals)[:, None]


def test_by_hand():
    fields = np.array([[[1, 2], [3, 4], [5, 6]], [[1, 0], [0, 1], [2, 2]]], np.float32)
    # 1*3 + 2*4 + 1*5 + 2*6 + 3*5 + 4*6 = 67, and 0 + 2 + 2 = 4
    np.testing.assert_array_equal(_numpy(FactorizationMachine()(fields)), [[67], [4]])


@pytest.mark.parametrize("fields", [0, 1, 2, 3, 40])
@pytest.mark.parametrize("width", [1, 16])
def test_equals_the_sum_over_pairs(fields, width):
    x = np.random.default_rng(1).normal(size=(6, fields, width)).astype(np.float32)
    got = _numpy(FactorizationMachine()(x))
    assert got.shape == (6, 1)
    bound = 2e-7 * np.square(x).sum(axis=(1, 2)).max(initial=1)
    np.testing.assert_allclose(got, _pairs(x), rtol=1e-5, atol=bound)


def test_masked_fields_are_in_no_pair():
    mask = np.random.default_rng(2).random((5, 7)) < 0.6
    mask[0], mask[1] = False, np.arange(7) == 3  # nothing, and one field alone
    garbage = np.where(mask[:, :, None], FIELDS, np.float32(np.nan))
    got = _numpy(FactorizationMachine()(garbage, mask=mask))
    want = np.concatenate([_pairs(FIELDS[i : i + 1, mask[i]]) for i in range(5)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[:2], [[0], [0]])
    np.testing.assert_array_equal(_numpy(FactorizationMachine()(garbage, mask=mask.astype("int32"))), got)


def test_takes_the_mask_of_an_embedding():
    ids = keras.Input((3,), dtype="int32")
    embedding = keras.layers.Embedding(10, 4, mask_zero=True)
    model = keras.Model(ids, FactorizationMachine()(embedding(ids)))
    table = _numpy(embedding.embeddings)
    got = _numpy(model(np.array([[3, 0, 7], [0, 0, 5]], np.int32)))
    np.testing.assert_allclose(got, [[table[3] @ table[7]], [0]], rtol=1e-5, atol=1e-7)


def test_a_number_that_is_not_finite_stays_in_its_example():
    x = FIELDS.copy()
    x[0, 0, 0], x[1, 0, 0] = np.nan, np.inf
    got = _numpy(FactorizationMachine()(x))
    assert not np.isfinite(got[:2]).any()
    np.testing.assert_allclose(got[2:], _pairs(FIELDS[2:]), rtol=1e-4)


def test_low_precision_sums_in_float32():
    """1,000 fields of one 16 each: the sum of squares, 256,000, and the square, 2.56e8, are beyond float16."""
    x = np.zeros((1, 1000, 1), np.float16)
    x[0, ::2], x[0, 1::2] = 16, -16
    want = (0 - 256 * 1000) / 2
    got = ops.cast(FactorizationMachine(dtype="mixed_bfloat16")(x), "float32")
    assert float(got[0, 0]) == pytest.approx(want, rel=4e-3)
    small = x / 16  # the result is -500, which float16 holds
    assert float(ops.cast(FactorizationMachine(dtype="mixed_float16")(small), "float32")[0, 0]) == -500


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(FactorizationMachine(), FIELDS, tmp_path=tmp_path)
    check_output_shape(FactorizationMachine(), FIELDS)
    check_jit(FactorizationMachine(), FIELDS)
    check_low_precision(lambda policy: FactorizationMachine(dtype=policy), FIELDS)


def test_answers_for_an_empty_batch():
    assert tuple(FactorizationMachine()(FIELDS[:0]).shape) == (0, 1)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r"inputs of shape \(batch, fields, width\), got \(5, 7\)"):
        FactorizationMachine()(FIELDS[:, :, 0])
    with pytest.raises(ValueError, match=r"mask of shape \(5, 7\), got \(5, 7, 4\)"):
        FactorizationMachine()(FIELDS, mask=np.ones((5, 7, 4), bool))
    with pytest.raises(ValueError, match=r"mask of shape \(5, 7\), got \(5, 1\)"):
        FactorizationMachine()(FIELDS, mask=np.ones((5, 1), bool))
