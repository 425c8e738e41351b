import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.semantic_id_encoder import SemanticIdEncoder

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, gradients, to_numpy

IDS = np.array([[-1, 3, 0, 3, 1], [2, 0, 2, 1, 4]], np.int32)
RUNS = np.array([[0, 2, 1, 9, 4], [1, 1, 1, 1, 1]], np.int32)


def _encoder(**keywords) -> SemanticIdEncoder:
    keras.utils.set_random_seed(0)
    keywords = {
        "codes": 5,
        "model_width": 8,
        "heads": 2,
        "max_run_length": 4,
        "embeddings_initializer": "normal",
    } | keywords
    return SemanticIdEncoder(**keywords)


def _norm(x):
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)


def test_by_hand():
    """D = 2, one head, one layer, a ReLU instead of GELU; all maps of attention are the identity."""
    encoder = SemanticIdEncoder(codes=3, model_width=2, layers=1, heads=1, max_run_length=2, activation="relu")
    encoder.build((None, 3), (None, 3))
    codes = np.array([[1, 0], [0, 1], [5, 5]], np.float32)
    lengths = np.array([[0, 1], [1, 0]], np.float32)
    layer = encoder.encoder_layers[0]
    encoder.code_embedding.set_weights([codes])
    encoder.run_length_embedding.set_weights([lengths])
    layer.projection.set_weights([np.concatenate([np.eye(2)] * 3, axis=1), np.zeros(6)])
    layer.attention_output.set_weights([np.eye(2), np.array([0.5, 0])])
    layer.feed_forward.hidden.set_weights([np.array([[1, -1], [0, 1]]), np.zeros(2)])
    layer.feed_forward.output_layer.set_weights([2 * np.eye(2), np.zeros(2)])
    got = to_numpy(encoder(np.array([[-1, 0, 1]]), np.array([[0, 1, 7]])))

    tokens = np.array([[1.0, 1.0], [1.0, 1.0]])  # [1 0] + [0 1] and [0 1] + [1 0]
    # Both are alike, so each attends to the mean of the two, itself: norm([1 1]) = [1 1], nearly.
    attended = _norm(tokens) + np.array([0.5, 0])
    tokens = tokens + attended
    normalized = _norm(tokens)  # of [2.5 2]
    hidden = np.maximum(normalized @ [[1, -1], [0, 1]], 0)
    assert (hidden[:, 1] == 0).all()  # the smaller minus the larger
    tokens = tokens + 2 * hidden
    np.testing.assert_allclose(got[0, 1:], _norm(tokens), rtol=1e-5)
    np.testing.assert_array_equal(got[0, 0], [0, 0])


def test_attention_is_softmax_over_the_entries_that_count():
    """Against numpy, two heads, with padding, random weights."""
    encoder = _encoder(layers=1)
    got = to_numpy(encoder(IDS, RUNS))
    layer = encoder.encoder_layers[0]
    kernel, bias = (to_numpy(weight) for weight in layer.projection.weights)
    out_kernel, out_bias = (to_numpy(weight) for weight in layer.attention_output.weights)
    hidden, hidden_bias = (to_numpy(weight) for weight in layer.feed_forward.hidden.weights)
    output, output_bias = (to_numpy(weight) for weight in layer.feed_forward.output_layer.weights)
    codes, lengths = to_numpy(encoder.code_table), to_numpy(encoder.run_length_embedding.embeddings)
    for b in range(2):
        valid = IDS[b] >= 0
        tokens = codes[IDS[b][valid]] + lengths[np.minimum(RUNS[b][valid], 4) - 1]
        queries, keys, values = np.split(_norm(tokens) @ kernel + bias, 3, axis=1)
        mixed = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = np.exp(queries[:, head] @ keys[:, head].T / 2)
            mixed.append(scores / scores.sum(axis=1, keepdims=True) @ values[:, head])
        tokens = tokens + np.concatenate(mixed, axis=1) @ out_kernel + out_bias
        inner = to_numpy(keras.activations.gelu(ops.convert_to_tensor(_norm(tokens) @ hidden + hidden_bias)))
        tokens = tokens + inner @ output + output_bias
        np.testing.assert_allclose(got[b][valid], _norm(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", [None, 3, 10])
def test_padding_in_front_changes_nothing(positions):
    encoder = _encoder(positions=positions)
    want = to_numpy(encoder(IDS[:, 1:], RUNS[:, 1:]))
    front = np.full((2, 6), -1, np.int32)
    for ids, runs in ((front, np.zeros_like(front)), (front + 1, np.zeros_like(front)), (front, front + 9)):
        got = encoder(np.concatenate([ids, IDS[:, 1:]], axis=1), np.concatenate([runs, RUNS[:, 1:]], axis=1))
        np.testing.assert_allclose(to_numpy(got)[:, 6:], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(to_numpy(got)[:, :6], np.zeros((2, 6, 8)))


def test_ids_out_of_range_are_padding():
    encoder = _encoder()
    ids, runs = IDS.copy(), RUNS.copy()
    want = to_numpy(encoder(ids, runs))
    for stray in (5, 2**31 - 1, -7, -(2**31)):
        ids[0, 0] = stray
        runs[0, 0] = 3
        np.testing.assert_array_equal(to_numpy(encoder(ids, runs)), want)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no int64; run it with KERAS_BACKEND=tensorflow")
def test_a_large_id_does_not_wrap_around():
    ids = IDS.astype(np.int64)
    want = to_numpy(_encoder()(ids, RUNS))
    ids[0, 0] = 2**32 + 1
    runs = RUNS.copy()
    runs[0, 0] = 1
    np.testing.assert_array_equal(to_numpy(_encoder()(ids, runs)), want)


def test_without_positions_order_does_not_matter_and_with_them_it_does():
    order = [3, 0, 4, 1, 2]
    for positions, alike in ((None, True), (5, False)):
        encoder = _encoder(positions=positions)
        got = to_numpy(encoder(IDS[:, order], RUNS[:, order]))
        assert np.allclose(got, to_numpy(encoder(IDS, RUNS))[:, order], atol=1e-5) == alike


def test_positions_count_from_the_newest():
    """No layer: what comes out is the sum of the three tables' rows, normalised; the oldest two share a position."""
    encoder = _encoder(layers=0, positions=4)
    got = to_numpy(encoder(IDS, RUNS))
    table = to_numpy(encoder.position_table)[[3, 3, 2, 1, 0]]
    codes, lengths = to_numpy(encoder.code_table), to_numpy(encoder.run_length_embedding.embeddings)
    want = _norm(codes[IDS] + lengths[np.minimum(RUNS, 4) - 1] + table)
    want[0, 0] = 0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_mask_goes_on():
    ids, runs = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32")
    encoder = _encoder()
    model = keras.Model([ids, runs], keras.layers.GlobalAveragePooling1D()(encoder(ids, runs)))
    stray = RUNS.copy()
    stray[1, :2] = 0  # a run of no length is no run
    encoding = to_numpy(encoder(IDS, stray))
    want = [encoding[0, 1:].mean(axis=0), encoding[1, 2:].mean(axis=0)]
    np.testing.assert_allclose(to_numpy(model([IDS, stray])), want, rtol=1e-5, atol=1e-6)


def test_padding_trains_nothing():
    encoder = _encoder(positions=5)
    encoder.build(IDS.shape, RUNS.shape)
    padded = np.array([[-1, -1, 3, 0, 3]]), np.array([[0, 0, 1, 2, 3]])
    variables = [encoder.code_table, encoder.run_length_embedding.embeddings, encoder.position_table]
    codes, lengths, positions = gradients(lambda: ops.sum(ops.square(encoder(*padded)[..., :3])), variables)
    np.testing.assert_array_equal(np.abs(codes).sum(axis=1) > 0, [True, False, False, True, False])
    np.testing.assert_array_equal(np.abs(lengths).sum(axis=1) > 0, [True, True, True, False])
    np.testing.assert_array_equal(np.abs(positions).sum(axis=1) > 0, [True, True, True, False, False])


def test_rows_of_padding_and_an_empty_batch():
    encoder = _encoder(positions=5)
    nothing = np.full((2, 5), -1, np.int32)
    np.testing.assert_array_equal(to_numpy(encoder(nothing, np.zeros_like(nothing))), np.zeros((2, 5, 8)))
    (gradient,) = gradients(lambda: ops.sum(encoder(nothing, np.zeros_like(nothing))), [encoder.code_table])
    np.testing.assert_array_equal(gradient, np.zeros((5, 8)))
    assert to_numpy(encoder(nothing[:0], nothing[:0])).shape == (0, 5, 8)


def test_dropout_is_for_training_only():
    encoder = _encoder(dropout=0.5)
    np.testing.assert_array_equal(to_numpy(encoder(IDS, RUNS)), to_numpy(encoder(IDS, RUNS, training=False)))
    assert not np.allclose(to_numpy(encoder(IDS, RUNS, training=True)), to_numpy(encoder(IDS, RUNS)))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(_encoder(positions=4, dropout=0.1), IDS, RUNS, tmp_path=tmp_path)
    check_output_shape(_encoder(), IDS, RUNS)
    check_jit(_encoder(positions=4), IDS, RUNS)
    check_low_precision(lambda policy: _encoder(positions=4, dtype=policy), IDS, RUNS)


def test_products_with_the_code_table_start_with_a_variance_of_one():
    encoder = SemanticIdEncoder(codes=2000, model_width=64)
    encoder.build((None, 3), (None, 3))
    logits = to_numpy(encoder.code_table) @ np.ones(64)
    assert logits.std() == pytest.approx(1, rel=0.1)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="got model_width=8, layers=2, heads=3"):
        _encoder(heads=3)
    with pytest.raises(ValueError, match="got codes=0, positions=None"):
        _encoder(codes=0)
    with pytest.raises(ValueError, match="got codes=5, positions=0"):
        _encoder(positions=0)
    with pytest.raises(ValueError, match=r"both of shape \(batch, entries\), got \(2, 5\) and \(2, 4\)"):
        _encoder()(IDS, RUNS[:, 1:])
    with pytest.raises(ValueError, match=r"both of shape \(batch, entries\), got \(5,\) and \(5,\)"):
        _encoder()(IDS[0], RUNS[0])
    built = _encoder()
    built(IDS, RUNS)
    with pytest.raises(ValueError, match=r"both of shape \(batch, entries\), got \(2, 5\) and \(2, 1\)"):
        built(IDS, RUNS[:, 1:2])
