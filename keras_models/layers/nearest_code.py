"""Assignment of vectors to the codes of a codebook."""

import keras
import numpy as np
from keras import ops

from keras_models.layers._shapes import check_mask

_LARGEST = 1e37  # beyond it, differences of two numbers leave float32
_SMALLEST = 1e-37
_SCORES_IN_MEMORY = 2**24  # 64 MiB of float32


@keras.saving.register_keras_serializable(package="live_foresight")
class NearestCode(keras.layers.Layer):
    """Gives the index of the nearest row of a codebook, in the Euclidean distance.

        index(e) = argmin_k |e - c_k|^2 = argmax_k (e - m) . (c_k - m) - |c_k - m|^2 / 2,    m the mean of the codes

    The right-hand side, one matrix product, finds the candidates; among those that its rounding error can't tell apart
    (a bound of it is computed for each vector), distances computed directly from the differences decide. Usually that
    is one code, at times two. A vector with more is compared directly with the whole codebook, by itself: some 10
    times slower, and needed only where codes repeat three times or crowd together far from the others.

    Guarantee: the answer is that of exact arithmetic on the float32 inputs wherever the two smallest squared distances
    differ by more than their own rounding, a relative (E + 8) 2^-23, however far from the origin vectors and codes
    lie. Where two distances computed in float32 are equal, as those of equal codes are, the lowest index wins.

    Memory for B vectors is that of `block_size` x K scores, not B x K. The layer computes in float32 under any policy,
    and has no gradient. A vector is given -1, which stands for padding in `semantic_ids`, if it is masked, if it holds
    a number that isn't finite or is larger than 1e37, or as long as the layer's codebook hasn't been set.

    Args:
        codebook: (K, E) array; None to set it later, by `set_codebook` or from saved weights.
        codes: K; needed without `codebook`.
        dim: E; needed without `codebook`.
        block_size: Vectors handled at once; by default as many as have 64 MiB of scores.
        mantissa_bits: Bits that the device's float32 matrix product keeps of each factor: 24 on CPUs, 11 where
            TensorFloat-32 is on (NVIDIA GPUs from Ampere on, by default of TensorFlow), 8 on TPUs. The guarantee holds
            if this is right, or lower; the fewer bits, the more vectors are compared directly.

    The configuration holds K and E; the codebook itself is a weight and is saved with the model's weights.

    Example:

    >>> nearest = NearestCode(np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    >>> keras.ops.convert_to_numpy(nearest(np.array([[1.0, 2.0], [9.0, 3.0], [np.nan, 0.0]]))).tolist()
    [0, 1, -1]

    Reference: the assignment step of K-Means; Foresight Prediction (WSDM 2026), section 3.1.
    """

    def __init__(
        self,
        codebook=None,
        *,
        codes: int | None = None,
        dim: int | None = None,
        block_size: int | None = None,
        mantissa_bits: int = 24,
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if codebook is not None:
            codebook = _checked(codebook, codes, dim)
            codes, dim = codebook.shape
        elif codes is None or dim is None:
            raise ValueError(f"expected a codebook, or both codes and dim, got codes={codes} and dim={dim}")
        if codes < 1 or dim < 1:
            raise ValueError(f"codes and dim must be at least 1, got {codes} and {dim}")
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        if not 2 <= mantissa_bits <= 24:
            raise ValueError(f"mantissa_bits must be from 2 to 24, got {mantissa_bits}")
        self.codes = codes
        self.dim = dim
        self.block_size = block_size
        self.mantissa_bits = mantissa_bits
        self.supports_masking = True
        # Here and not in build(), so that it can be set before the first call.
        self.codebook = self.add_weight(
            name="codebook",
            shape=(codes, dim),
            initializer=keras.initializers.Constant(np.nan),
            dtype="float32",
            trainable=False,
            autocast=False,
        )
        if codebook is not None:
            self.codebook.assign(codebook)

    def build(self, input_shape) -> None:
        if len(input_shape) < 1 or input_shape[-1] != self.dim:
            raise ValueError(f"expected vectors of shape (..., {self.dim}), got {tuple(input_shape)}")
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: self.dim})

    def set_codebook(self, codebook) -> None:
        """Replaces the codebook by a (K, E) array; raises ValueError if it is of another shape or not finite."""
        self.codebook.assign(_checked(codebook, self.codes, self.dim))

    def call(self, inputs, mask=None):
        """Assigns.

        Args:
            inputs: (..., E) vectors.
            mask: (...), true or 1 where a vector is valid; None if all are.

        Returns:
            (...) int32, 0 <= index < K, or -1.
        """
        check_mask(mask, inputs.shape[:-1])
        inputs = ops.stop_gradient(ops.cast(inputs, "float32"))
        shape = ops.shape(inputs)[:-1]
        vectors = ops.reshape(inputs, (-1, self.dim))
        valid = ops.all(ops.abs(vectors) <= _LARGEST, axis=-1)  # false for NaN
        if mask is not None:
            valid = ops.logical_and(valid, ops.reshape(ops.cast(mask, "bool"), (-1,)))
        codebook = ops.stop_gradient(ops.convert_to_tensor(self.codebook))
        mean = ops.sum(codebook * (1 / self.codes), axis=0)  # scaled first: the sum may leave float32
        prepared = codebook, mean, *self._normalized(codebook - mean)
        # What isn't valid becomes NaN, to which no code is near. One such row more: no batch is empty.
        vectors = ops.where(ops.expand_dims(valid, -1), vectors, np.nan)
        vectors = ops.concatenate([vectors, ops.full((1, self.dim), np.nan, "float32")], axis=0)
        found = self._by_blocks(vectors, prepared)[:-1]
        return ops.reshape(ops.where(found < self.codes, found, -1), shape)

    def _normalized(self, centred):
        """Centred codes (E, K), at most 1 in magnitude, half their squares (K,), and by what they were divided."""
        spread = ops.maximum(ops.max(ops.abs(centred)), _SMALLEST)
        scaled = centred / spread
        return ops.transpose(scaled), 0.5 * ops.sum(ops.square(scaled), axis=-1), spread

    def _by_blocks(self, vectors, prepared):
        block = self.block_size or max(1, _SCORES_IN_MEMORY // self.codes)
        count = ops.shape(vectors)[0]
        if isinstance(count, int) and count <= block:
            return self._nearest(vectors, prepared)
        # As few blocks as will do, all of one size: arithmetic that also works on sizes known only when it runs.
        blocks = (count + block - 1) // block
        rows = (count + blocks - 1) // blocks
        padding = ops.full((blocks * rows - count, self.dim), np.nan, "float32")
        vectors = ops.concatenate([vectors, padding], axis=0)
        found = ops.map(
            lambda block_vectors: self._nearest(block_vectors, prepared),
            ops.reshape(vectors, (blocks, rows, self.dim)),
        )
        return ops.reshape(found, (-1,))[:count]

    def _nearest(self, vectors, prepared):
        """(B,) int32 of (B, E); K where the vector or the codebook holds NaN."""
        codebook, mean, codes, half_squares, spread = prepared
        centred = vectors - mean
        size = ops.maximum(ops.max(ops.abs(centred), axis=-1, keepdims=True), spread)
        unit, ratio = centred / size, spread / size
        # Divided by size * spread, neither factor exceeds 1 and nothing overflows.
        scores = ops.matmul(unit, codes) - ratio * half_squares
        length = ops.sqrt(ops.sum(ops.square(unit), axis=-1, keepdims=True))
        longest = ops.sqrt(2 * ops.max(half_squares))
        relative = (self.dim + 8) * 2.0**-24 + (2.0 ** (1 - self.mantissa_bits) if self.mantissa_bits < 24 else 0)
        error = 1.01 * relative * longest * (length + ratio * longest)
        best = ops.cast(ops.argmax(scores, axis=-1, keepdims=True), "int32")
        least = ops.take_along_axis(scores, best, axis=-1) - 2 * error
        near = scores >= least
        # How many codes are near, and the sum of their indices, in bytes: whole numbers that any product keeps. With
        # two codes, the sum less the best one's index is the other's.
        counted = ops.matmul(ops.cast(near, "float32"), self._count_and_bytes())
        count, *digits = ops.unstack(ops.cast(counted, "int32"), axis=-1)
        other = digits[0] + 256 * (digits[1] + 256 * digits[2]) - ops.squeeze(best, -1)
        other = ops.where(count == 2, other, ops.squeeze(best, -1))
        indices = ops.concatenate([best, ops.expand_dims(other, -1)], axis=-1)
        found = _closest(vectors, ops.take(codebook, indices, axis=0), indices, self.codes)
        return found if self.codes <= 2 else self._settle(vectors, near, count > 2, found, codebook)

    def _count_and_bytes(self):
        index = np.arange(self.codes)
        return np.stack([np.ones_like(index), index % 256, index // 256 % 256, index // 65536], 1).astype(np.float32)

    def _settle(self, vectors, near, unsettled, found, codebook):
        """Compares those vectors with all codes, one by one, to which more than two codes are near."""
        every = ops.arange(self.codes, dtype="int32")
        rows = ops.arange(ops.shape(found)[0], dtype="int32")

        def settle_one(unsettled, found):
            row = ops.cast(ops.argmax(ops.cast(unsettled, "int32")), "int32")
            indices = ops.where(ops.take(near, row, axis=0), every, self.codes)
            index = _closest(ops.take(vectors, row, axis=0), codebook, indices, self.codes)
            here = ops.equal(rows, row)
            return ops.logical_and(unsettled, ops.logical_not(here)), ops.where(here, index, found)

        return ops.while_loop(lambda unsettled, found: ops.any(unsettled), settle_one, (unsettled, found))[1]

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[:-1])

    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="int32")

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "codes": self.codes,
            "dim": self.dim,
            "block_size": self.block_size,
            "mantissa_bits": self.mantissa_bits,
        }


def _closest(vectors, codes, indices, none: int):
    """The index of the code nearest to each vector: (..., E), (..., M, E), (..., M) -> (...); `none` counts as none."""
    differences = ops.abs(ops.expand_dims(vectors, -2) - codes)
    is_code = indices < none
    # Measured in the nearest one's largest difference, no square that matters leaves float32.
    unit = ops.min(ops.where(is_code, ops.max(differences, axis=-1), np.inf), axis=-1, keepdims=True)
    unit = ops.expand_dims(ops.maximum(unit, _SMALLEST), -1)
    distances = ops.where(is_code, ops.sum(ops.square(differences / unit), axis=-1), np.inf)
    nearest = ops.logical_and(distances <= ops.min(distances, axis=-1, keepdims=True), is_code)
    return ops.min(ops.where(nearest, indices, none), axis=-1)


def _checked(codebook, codes: int | None, dim: int | None) -> np.ndarray:
    array = np.asarray(codebook, np.float32)
    if array.ndim != 2 or 0 in array.shape or codes not in (None, len(array)) or dim not in (None, array.shape[1]):
        want = ("codes" if codes is None else codes, "dim" if dim is None else dim)
        raise ValueError(f"expected a codebook of shape ({want[0]}, {want[1]}), got {array.shape}")
    bad = ~(np.abs(array) <= _LARGEST).all(axis=1)
    if bad.any():
        raise ValueError(
            f"a codebook must hold finite numbers of magnitude up to {_LARGEST:g}; "
            f"{bad.sum()} of its {len(array)} rows do not, the first is row {bad.argmax()}"
        )
    return array
