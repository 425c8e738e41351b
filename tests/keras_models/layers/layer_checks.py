"""What every layer of the project must do, whatever it computes."""

import keras
import numpy as np


def check_round_trips(layer: keras.layers.Layer, *inputs, tmp_path, **keywords) -> None:
    """The configuration rebuilds the layer, and a saved model answers as before."""
    expected = _arrays(layer(*inputs, **keywords))
    rebuilt = keras.layers.deserialize(keras.layers.serialize(layer))
    assert rebuilt.get_config() == layer.get_config()
    symbolic = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in inputs]
    model = keras.Model(symbolic, rebuilt(*symbolic))
    rebuilt.set_weights(layer.get_weights())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for got, want in zip(_arrays(loaded(list(inputs))), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def check_output_shape(layer: keras.layers.Layer, *inputs) -> None:
    """`compute_output_shape` says what comes out."""
    outputs = layer(*inputs)
    shapes = layer.compute_output_shape(*(x.shape for x in inputs))
    if isinstance(outputs, (tuple, list)):
        assert [tuple(output.shape) for output in outputs] == [tuple(shape) for shape in shapes]
    else:
        assert tuple(outputs.shape) == tuple(shapes)


def check_jit(layer: keras.layers.Layer, *inputs) -> None:
    """Compiled by XLA, the layer answers the same."""
    import tensorflow as tf

    compiled = tf.function(lambda *x: layer(*x), jit_compile=True)
    for got, want in zip(_arrays(compiled(*inputs)), _arrays(layer(*inputs)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def check_low_precision(build, *inputs, tolerance: float = 0.06) -> None:
    """Under mixed policies the output is finite, of the policy's type and near the float32 one."""
    reference = build("float32")
    expected = _arrays(reference(*inputs))
    for policy in ("mixed_float16", "mixed_bfloat16"):
        layer = build(policy)
        layer(*inputs)
        layer.set_weights(reference.get_weights())
        outputs = layer(*inputs)
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        assert keras.backend.standardize_dtype(first.dtype) == layer.compute_dtype
        for got, want in zip(_arrays(outputs), expected, strict=True):
            np.testing.assert_allclose(got.astype(np.float32), want, rtol=tolerance, atol=tolerance)


def _arrays(outputs) -> list[np.ndarray]:
    outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")) for output in outputs]
