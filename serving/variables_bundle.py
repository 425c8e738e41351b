"""VariablesBundle: the variables of a SavedModel, and how others are written in their place."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from serving.durable_files import sync_file, sync_folder, writing_back
from serving.publish_error import PublishError

_PREFIX = "variables"
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ALIGNMENT = 64  # bytes
_LARGE = 2**20  # bytes; smaller arrays are copied as fast as their memory is handed over
_CHUNK = 2**18  # numbers looked at in one go, so that they and what is made of them stay in the cache


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight of a bundle.

    Attributes:
        key: In the bundle.
        name: The variable's, for people.
        dtype: A tf.DType.
        shape: Of the array.
    """

    key: str
    name: str
    dtype: Any
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class VariablesBundle:
    """What a variables bundle holds beside the numbers: enough to write the same one with other numbers.

    Attributes:
        weights: `weights/i` for i = 0, 1, ..., in the order of `model.weights`, as `keras_models.export` writes them.
        others: Key -> tensor of what isn't a variable, such as the graph of objects; it is carried over.
    """

    weights: tuple[Weight, ...]
    others: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "VariablesBundle":
        """Reads the bundle in `folder`, the `variables` of a SavedModel; not the numbers.

        Raises:
            ValueError: It can't be read, or it isn't one whose variables are `weights/i`.
        """
        import tensorflow as tf

        reader = _Reader(folder)
        shapes, dtypes = reader.shapes, reader.dtypes
        keys = [_key(index) for index in range(sum(key.endswith(_ATTRIBUTE) for key in shapes))]
        strange = sorted(key for key in shapes if key.endswith(_ATTRIBUTE) and key not in set(keys))
        if strange or not keys:
            raise ValueError(
                f"its variables must be {_key(0)} and so on, as keras_models.export.export_ranker writes them, and no "
                f"other ones; it has {strange[:5] or 'none'}"
            )
        others = {key: tf.constant(reader.get(key)) for key in shapes if not key.endswith(_ATTRIBUTE)}
        if _OBJECT_GRAPH not in others:
            raise ValueError(f"its variables lack {_OBJECT_GRAPH}, so that only TensorFlow 1 could read new ones")
        names = _names(others[_OBJECT_GRAPH])
        return cls(
            tuple(Weight(key, names.get(key, key), dtypes[key], tuple(shapes[key])) for key in keys),
            others,
        )

    def check(self, weights: Sequence[np.ndarray]) -> None:
        """Raises a PublishError unless `weights` have this bundle's shapes and dtypes; `write` looks at the numbers."""
        if len(weights) != len(self.weights):
            raise PublishError(
                f"the version to go on from has {len(self.weights)} weights, got {len(weights)}; a model with another "
                "graph is published with serving.publisher.publish"
            )
        for index, (expected, array) in enumerate(zip(self.weights, weights, strict=True)):
            dtype = np.dtype(expected.dtype.as_numpy_dtype)
            is_array = isinstance(array, (np.ndarray, np.generic))  # a scalar weight may come as numpy's scalar
            if not is_array or array.shape != expected.shape or array.dtype != dtype:
                got = f"{array.dtype} {array.shape}" if is_array else type(array).__name__
                raise PublishError(
                    f"weight {index}, {expected.name}, must be a numpy array of {dtype} {expected.shape}, got {got}; a "
                    "model with another graph is published with serving.publisher.publish"
                )

    def write(self, folder: Path, weights: Sequence[np.ndarray]) -> None:
        """Writes a bundle with `weights`, which have passed `check`, into the new folder `folder`, to the disk.

        Raises:
            OSError: It can't be written.
            PublishError: A weight isn't finite. What was written by then stays.
        """
        folder.mkdir()
        with writing_back(folder), ThreadPoolExecutor(1) as pool:
            checked = pool.submit(self._check_finite, weights)  # beside the writing, which it takes a tenth of
            try:
                self._save(str(folder / _PREFIX), weights)
            finally:
                checked.result()
        for file in sorted(folder.iterdir()):
            sync_file(file)
        sync_folder(folder)

    def _save(self, prefix: str, weights: Sequence[np.ndarray]) -> None:
        import tensorflow as tf

        names = [*self.others, *(weight.key for weight in self.weights)]
        try:
            with tf.device("CPU:0"):
                tensors = [*self.others.values(), *(_tensor(np.asarray(weight, order="C")) for weight in weights)]
                slices = [""] * len(names)
                tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=tensors)
        except tf.errors.OpError as error:
            raise OSError(f"writing the variables: {error.message}") from error

    def _check_finite(self, weights: Sequence[np.ndarray]) -> None:
        for index, (expected, array) in enumerate(zip(self.weights, weights, strict=True)):
            if expected.dtype.is_floating and not _is_finite(np.asarray(array)):
                raise PublishError(
                    f"weight {index}, {expected.name}, is not finite throughout: the model has diverged, go back to "
                    "the last good version"
                )


def read_weights(version_folder: Path) -> list[np.ndarray]:
    """The weights of a published version, or of an export of a ranker, in the order of `model.weights`.

    Args:
        version_folder: Folder of the SavedModel.

    Raises:
        ValueError: It has no variables that are `weights/i`, or they can't be read.
    """
    folder = Path(version_folder) / _PREFIX
    try:
        bundle, reader = VariablesBundle.read(folder), _Reader(folder)
        return [np.asarray(reader.get(weight.key)) for weight in bundle.weights]
    except ValueError as error:
        raise ValueError(f"the weights of {version_folder} can't be read: {error}") from error


def _key(index: int) -> str:
    return f"weights/{index}{_ATTRIBUTE}"


class _Reader:
    """TensorFlow's reader, whose errors are of many kinds, with errors of one kind."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self._errors = (tf.errors.OpError, LookupError, OSError, RuntimeError, ValueError)
        try:
            self._reader = tf.train.load_checkpoint(str(folder / _PREFIX))
            self.shapes = self._reader.get_variable_to_shape_map()
            self.dtypes = self._reader.get_variable_to_dtype_map()
        except self._errors as error:
            raise ValueError(f"{folder} holds no variables that can be read: {error}") from error

    def get(self, key: str) -> Any:
        try:
            return self._reader.get_tensor(key)
        except self._errors as error:
            raise ValueError(f"its variables can't be read, {key} first of all: {error}") from error


def _names(object_graph: Any) -> dict[str, str]:
    """Key -> name of the variable, as far as the graph of objects tells."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(object_graph.numpy())
    except (DecodeError, TypeError) as error:
        raise ValueError(f"its {_OBJECT_GRAPH} is damaged: {error}") from error
    attributes = [attribute for node in graph.nodes for attribute in node.attributes]
    return {attribute.checkpoint_key: attribute.full_name or attribute.checkpoint_key for attribute in attributes}


def _tensor(array: np.ndarray) -> Any:
    """The array as a tensor; a large one without a copy, if it is aligned as `keras_models.weight_snapshot` does."""
    import tensorflow as tf

    is_aligned = array.ctypes.data % _ALIGNMENT == 0  # as TensorFlow's operators expect of memory
    if array.nbytes >= _LARGE and is_aligned and array.flags.writeable and array.dtype.isbuiltin == 1:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.convert_to_tensor(array)


def _is_finite(array: np.ndarray) -> bool:
    flat = array.reshape(-1)
    return all(np.isfinite(flat[begin : begin + _CHUNK]).all() for begin in range(0, flat.size, _CHUNK))
