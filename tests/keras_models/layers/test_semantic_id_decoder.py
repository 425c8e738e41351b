import keras
import numpy as np
import pytest
from keras import ops

from keras_models.layers.semantic_id_decoder import SemanticIdDecoder
from keras_models.layers.semantic_id_encoder import SemanticIdEncoder

from .layer_checks import check_jit, check_low_precision, check_output_shape, check_round_trips, gradients, to_numpy

GENERATOR = np.random.default_rng(0)
ENCODING = GENERATOR.normal(size=(3, 5, 8)).astype(np.float32)
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


def _decoder(**keywords) -> SemanticIdDecoder:
    keras.utils.set_random_seed(0)
    return SemanticIdDecoder(**{"model_width": 8, "heads": 2} | keywords)


def _norm(x):
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)


def test_by_hand():
    """D = 2, one head, an FFN of zeros: the query [1 1] attends to two entries."""
    decoder = SemanticIdDecoder(model_width=2, heads=1)
    encoding = np.array([[[9, 9], [1, 0], [0, 2]]], np.float32)
    decoder.build(encoding.shape)
    layer = decoder.decoder_layers[0]
    decoder.query.assign(np.array([1.0, 1.0]))
    layer.query_projection.set_weights([np.sqrt(2) * np.eye(2), np.zeros(2)])
    layer.key_kernel.assign(np.array([[0.0, 1.0], [1.0, 0.0]]))
    layer.value_kernel.assign(np.array([[1.0, 0.0], [0.0, 3.0]]))
    layer.attention_output.set_weights([np.eye(2), np.zeros(2)])
    layer.feed_forward.output_layer.set_weights([np.zeros((2, 2)), np.zeros(2)])
    got = to_numpy(decoder(encoding, mask=np.array([[False, True, True]])))
    # sqrt(2) [1 1] . swapped keys / sqrt(2): scores 1 and 2; values [1 0] and [0 6].
    second = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(got, _norm(np.array([[1 + (1 - second), 1 + 6 * second]])), rtol=1e-4)


def test_equals_multi_head_attention_of_keras():
    """The maps of keys and values moved into the query and out of the sum leave the result as it is."""
    decoder = _decoder(layers=2)
    got = to_numpy(decoder(ENCODING, mask=MASK))
    query = np.repeat(to_numpy(decoder.query)[None, None], 3, axis=0)
    for layer in decoder.decoder_layers:
        attention = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4)
        attention.build(query.shape, ENCODING.shape)
        query_kernel, query_bias = (to_numpy(weight) for weight in layer.query_projection.weights)
        output_kernel, output_bias = (to_numpy(weight) for weight in layer.attention_output.weights)
        zeros = np.zeros((2, 4))
        kernels = (query_kernel, to_numpy(layer.key_kernel), to_numpy(layer.value_kernel))
        queries, keys, values = (kernel.reshape(8, 2, 4) for kernel in kernels)
        output = output_kernel.reshape(2, 4, 8)
        attention.set_weights([queries, query_bias.reshape(2, 4), keys, zeros, values, zeros, output, output_bias])
        # The row of padding attends to zeros, evenly.
        encoding, mask = ENCODING * MASK[:, :, None], MASK | ~MASK.any(axis=1, keepdims=True)
        query = query + to_numpy(attention(_norm(query), encoding, attention_mask=mask[:, None]))
        query = to_numpy(layer.feed_forward(query))
    np.testing.assert_allclose(got, _norm(query[:, 0]), rtol=1e-4, atol=1e-5)


def test_masked_entries_change_nothing():
    decoder = _decoder()
    want = to_numpy(decoder(ENCODING, mask=MASK))
    for garbage in (0, 1e4, np.nan, np.inf):
        encoding = np.where(MASK[:, :, None], ENCODING, np.float32(garbage))
        np.testing.assert_array_equal(to_numpy(decoder(encoding, mask=MASK)), want)
    np.testing.assert_allclose(to_numpy(decoder(ENCODING[:1, 2:])), want[:1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(decoder(ENCODING, mask=MASK.astype("float32"))), want)


def test_a_row_of_padding_is_the_same_whatever_its_length():
    decoder = _decoder()
    two, five = (to_numpy(decoder(ENCODING[:1, :n], mask=np.zeros((1, n), bool))) for n in (2, 5))
    assert np.isfinite(two).all()
    np.testing.assert_allclose(two, five, rtol=1e-6)


def test_takes_the_mask_that_the_encoding_carries():
    encoder, decoder = SemanticIdEncoder(codes=5, model_width=8, heads=2), _decoder()
    ids, runs = np.array([[-1, 2, 3]]), np.array([[0, 4, 1]])
    carried = to_numpy(decoder(encoder(ids, runs)))
    np.testing.assert_array_equal(carried, to_numpy(decoder(to_numpy(encoder(ids, runs)), mask=ids >= 0)))
    inputs = keras.Input((3,), dtype="int32"), keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, decoder(encoder(*inputs)))
    np.testing.assert_allclose(to_numpy(model([ids, runs])), carried, rtol=1e-6)


def test_every_weight_trains():
    decoder = _decoder(layers=2)
    decoder.build(ENCODING.shape)
    found = gradients(lambda: ops.sum(decoder(ENCODING, mask=MASK)[:, :3]), decoder.trainable_variables)
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() > 0 for gradient in found)


def test_dropout_is_for_training_only():
    decoder = _decoder(dropout=0.5)
    np.testing.assert_array_equal(to_numpy(decoder(ENCODING)), to_numpy(decoder(ENCODING, training=False)))
    assert not np.allclose(to_numpy(decoder(ENCODING, training=True)), to_numpy(decoder(ENCODING)))


def test_is_a_well_behaved_layer(tmp_path):
    check_round_trips(_decoder(layers=2, dropout=0.1), ENCODING, tmp_path=tmp_path)
    check_output_shape(_decoder(), ENCODING)
    check_jit(_decoder(layers=2), ENCODING)
    check_low_precision(lambda policy: _decoder(dtype=policy), ENCODING)
    assert to_numpy(_decoder()(ENCODING[:0])).shape == (0, 8)


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="got model_width=8, layers=0, heads=2"):
        _decoder(layers=0)
    with pytest.raises(ValueError, match=r"shape \(batch, entries, 8\), got \(3, 5, 4\)"):
        _decoder()(ENCODING[..., :4])
    with pytest.raises(ValueError, match=r"shape \(batch, entries, 8\), got \(3, 8\)"):
        _decoder()(ENCODING[:, 0])
    built = _decoder()
    built(ENCODING)
    with pytest.raises(ValueError, match=r"expected axis -1 .* value 8, but received .* \(3, 5, 4\)"):
        built(ENCODING[..., :4])
    with pytest.raises(ValueError, match=r"expected a mask of shape \(3, 5\), got \(3, 1\)"):
        built(ENCODING, mask=MASK[:, :1])
