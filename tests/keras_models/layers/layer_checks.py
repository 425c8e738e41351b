"""What every layer of the project must do, whatever it computes, on whichever backend Keras runs.

Tests compare numpy arrays: `to_numpy` makes them of any backend's outputs, `gradients` of any backend's gradients.
Neither `np.asarray(tensor)` nor `tensor.numpy()` works everywhere.
"""

import doctest

import keras
import numpy as np
from keras import ops, tree


def check_round_trips(layer: keras.layers.Layer, *inputs, tmp_path, **keywords) -> None:
    """The configuration rebuilds the layer, and a saved model answers as before."""
    expected = _arrays(layer(*inputs, **keywords))
    rebuilt = keras.layers.deserialize(keras.layers.serialize(layer))
    assert rebuilt.get_config() == layer.get_config()
    symbolic = tree.map_structure(lambda x: keras.Input(x.shape[1:], dtype=str(x.dtype)), list(inputs))
    model = keras.Model(symbolic, rebuilt(*symbolic))
    rebuilt.set_weights(layer.get_weights())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for got, want in zip(_arrays(loaded(list(inputs))), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def check_output_shape(layer: keras.layers.Layer, *inputs) -> None:
    """`compute_output_shape` says what comes out, for the batch at hand and for one of unknown size."""
    outputs = tree.flatten(layer(*inputs))
    for batch in ((), (None,)):  # the arrays' own, or any

        def shape(x, batch=batch):
            return (*(batch or x.shape[:1]), *x.shape[1:])

        # Nested shapes aren't told from shapes by their type, so lists of outputs are compared flattened.
        shapes = layer.compute_output_shape(*(tree.map_structure(shape, x) for x in inputs))
        assert _flat_shapes(shapes) == [shape(output) for output in outputs]


def check_jit(layer: keras.layers.Layer, *inputs) -> None:
    """Compiled, the layer answers the same: by XLA on TensorFlow and JAX.

    On PyTorch, where compiling takes minutes, its graph is captured only and run as it is.
    """
    expected = _arrays(layer(*inputs))
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        outputs = tf.function(lambda *x: layer(*x), jit_compile=True)(*inputs)
    elif backend == "jax":
        import jax

        outputs, _ = jax.jit(layer.stateless_call)(
            [weight.value for weight in layer.trainable_variables],
            [weight.value for weight in layer.non_trainable_variables],
            *inputs,
        )
    else:
        import torch

        torch.compiler.reset()
        with torch.no_grad():
            outputs = torch.compile(layer, backend="eager")(*tree.map_structure(ops.convert_to_tensor, list(inputs)))
    for got, want in zip(_arrays(outputs), expected, strict=True):
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
        assert keras.backend.standardize_dtype(tree.flatten(outputs)[0].dtype) == layer.compute_dtype
        for got, want in zip(_arrays(outputs), expected, strict=True):
            assert np.isfinite(got).all()
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def check_docstring_example(cls: type) -> int:
    """The examples in the docstrings of `cls` and its methods print what they say; returns how many lines ran."""
    keras.utils.set_random_seed(0)
    names = {cls.__name__: cls, "np": np, "keras": keras, "ops": ops}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(cls, cls.__name__, extraglobs=names):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    return runner.tries


def to_numpy(outputs):
    """Any structure of tensors or variables, on any backend, as the same structure of numpy arrays."""
    return tree.map_structure(ops.convert_to_numpy, outputs)


def gradients(loss, variables: list[keras.Variable]) -> list[np.ndarray]:
    """Gradients of the scalar `loss()` with respect to Keras variables; zeros where it doesn't depend on one.

    To have the gradient with respect to an input, make it a variable too:

        x = keras.Variable(array)
        (gradient,) = gradients(lambda: ops.sum(layer(ops.convert_to_tensor(x))), [x])
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, [variable.value for variable in variables])
        found = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]
    elif backend == "jax":
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
                return loss()

        found = jax.grad(stateless)([variable.value for variable in variables])
    else:
        import torch

        found = torch.autograd.grad(loss(), [variable.value for variable in variables], allow_unused=True)
    return [
        np.zeros(variable.shape, np.float32) if gradient is None else ops.convert_to_numpy(gradient)
        for gradient, variable in zip(found, variables, strict=True)
    ]


def _arrays(outputs) -> list[np.ndarray]:
    return [ops.convert_to_numpy(ops.cast(output, "float32")) for output in tree.flatten(outputs)]


def _flat_shapes(shapes) -> list[tuple]:
    if isinstance(shapes, dict):
        return [shape for name in sorted(shapes) for shape in _flat_shapes(shapes[name])]
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [shape for nested in shapes for shape in _flat_shapes(nested)]
