"""Embeddings of ids of an open set."""

import keras
from keras import ops

_LOW_32 = 0xFFFFFFFF


@keras.saving.register_keras_serializable(package="live_foresight")
class HashedEmbedding(keras.layers.Layer):
    """Looks up a vector for any integer id in a table of fixed size, without a vocabulary.

        e(id) = sum over k < hashes of E[h_k(id)]

    The h_k are independent hashes into the one table E of `bins` rows. Two ids are told apart unless they hit the same
    rows, so that with more hashes few rows tell many ids apart, each row being shared by n hashes / bins of n ids:

        two ids have the same vector with probability   p = hashes! / bins^hashes     (up to terms of bins^-(hashes+1))
        an id shares its vector with another of n       1 - (1 - p)^(n - 1), about min(1, n p)

    | ids n | bins | 1 hash | 2 hashes | 3 hashes |
    |------:|-----:|-------:|---------:|---------:|
    |  10^6 | 10^6 |   63 % |     2e-6 |    6e-12 |
    |  10^8 | 10^6 |  100 % |     2e-4 |    6e-10 |
    |  10^7 | 10^7 |   63 % |     2e-7 |    6e-14 |
    |  10^8 | 10^7 |  100 % |     2e-6 |    6e-13 |

    Rows are summed, as in both references: a mean would only scale vectors and gradients by 1 / hashes. The standard
    deviation at start is sqrt(hashes) times the initializer's. Hash Embeddings weight the rows with numbers learnt for
    each id; that table of weights is left out here, since it collides itself once ids outnumber it.

    The hash mixes all 64 bits of an id with two rounds of a 32-bit finaliser. It is part of what a saved model means:
    it doesn't change, and is the same on each backend. JAX has no 64-bit integers unless `jax_enable_x64` is set: there
    ids are cut to their low 32 bits before any layer sees them, so that only ids within +-2^31 get the bins that they
    have elsewhere, and ids that differ by a multiple of 2^32 get the same vector.

    The padding id gives a vector of zeros and is masked.

    On TensorFlow the table's gradient holds the looked-up rows only. `keras_models.optimizers` has the optimizers whose
    steps then cost the same whatever the size of the table; with Keras's own they grow with it, and so they do with any
    optimizer under `embeddings_regularizer`, which has to read the whole table.

    Args:
        bins: Rows of the table, below 2^31.
        output_dim: D, width of a vector.
        hashes: Rows that make up a vector.
        padding_id: Stands where there is no id; None if each id counts.
        embeddings_initializer: Of the table, (bins, D).
        embeddings_regularizer: Of the table.

    Raises:
        ValueError: If `bins`, `output_dim` or `hashes` is out of range, or ids aren't integers.

    Example:

    >>> tuple(HashedEmbedding(bins=1000, output_dim=8, hashes=2)(np.array([[7, 10**9, -1]])).shape)
    (1, 3, 8)

    Reference: Serrà and Karatzoglou, Getting Deep Recommenders Fit: Bloom Embeddings (RecSys 2017, arXiv:1706.03993);
    Svenstrup et al., Hash Embeddings (NIPS 2017, arXiv:1709.03933); the finaliser is `lowbias32` of Wellons'
    hash-prospector, the seeds are of SplitMix64.
    """

    def __init__(
        self,
        bins: int,
        output_dim: int,
        hashes: int = 1,
        padding_id: int | None = -1,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        **kwargs,
    ) -> None:
        # The table is cast after the lookup: autocast would cast all of it.
        super().__init__(autocast=False, **kwargs)
        if bins < 1 or output_dim < 1:
            raise ValueError(f"bins and output_dim must be at least 1, got {bins} and {output_dim}")
        if bins >= 2**31:
            raise ValueError(f"bins must be below 2^31, as far as the hash reaches, got {bins}")
        if hashes < 1:
            raise ValueError(f"hashes must be at least 1, got {hashes}")
        self.bins = bins
        self.output_dim = output_dim
        self.hashes = hashes
        self.padding_id = padding_id
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.supports_masking = True

    def build(self, input_shape) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.bins, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
        )

    def bins_of(self, ids):
        """The bins, 0 <= bin < bins, that `ids` of any shape fall into: (*shape, hashes)."""
        ids = ops.expand_dims(_integers(ids), -1)
        low_seeds, high_seeds = ([_signed(seed) for seed in half] for half in zip(*_seeds(self.hashes), strict=True))
        mixed = _mix(ops.bitwise_xor(ids, ops.convert_to_tensor(low_seeds, dtype=ids.dtype)))
        # In two shifts, since by 32 bits a JAX integer can't be shifted; there, this is the sign.
        high = ops.right_shift(ops.right_shift(ids, 16), 16)
        high = ops.bitwise_xor(high, ops.convert_to_tensor(high_seeds, dtype=ids.dtype))
        return ops.mod(ops.bitwise_and(_mix(ops.bitwise_xor(mixed, high)), 0x7FFFFFFF), self.bins)

    def call(self, ids):
        """Maps integers of any shape to vectors of shape (*shape, D)."""
        # Of the variable's value TensorFlow gathers the rows in place; as a tensor it may be copied whole.
        rows = ops.take(self.embeddings.value, self.bins_of(ids), axis=0)
        rows = ops.squeeze(rows, axis=-2) if self.hashes == 1 else ops.sum(rows, axis=-2)
        vectors = ops.cast(rows, self.compute_dtype)
        if self.padding_id is not None:
            vectors = vectors * ops.cast(ops.expand_dims(self.compute_mask(ids), -1), vectors.dtype)
        return vectors

    def compute_mask(self, ids, mask=None):
        return None if self.padding_id is None else ops.not_equal(ids, self.padding_id)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, ids):
        return keras.KerasTensor(self.compute_output_shape(ids.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "bins": self.bins,
            "output_dim": self.output_dim,
            "hashes": self.hashes,
            "padding_id": self.padding_id,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
        }


def _integers(ids):
    """`ids` in the widest integers that the backend has."""
    ids = ops.convert_to_tensor(ids)
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if "int" not in dtype:
        raise ValueError(
            f"ids must be integers, got {dtype}, which doesn't hold large ids exactly; a Keras model casts its inputs "
            'to float32 unless it begins with keras.Input(shape, dtype="int64")'
        )
    if keras.backend.backend() != "jax":
        return ops.cast(ids, "int64")
    return ids if dtype == "int64" else ops.cast(ids, "int32")


def _mix(x):
    """A bijection of the low 32 bits, whatever stands above them: it is the same in 32 and in 64 bits."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, shift), _LOW_32 >> shift)) * _signed(factor)
    return ops.bitwise_xor(x, ops.bitwise_and(ops.right_shift(x, 16), 0xFFFF))


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


def _seeds(count: int) -> list[tuple[int, int]]:
    """The low and high words of the first outputs of SplitMix64 from state 0."""
    seeds = []
    for i in range(1, count + 1):
        z = (i * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        z ^= z >> 31
        seeds.append((z & _LOW_32, z >> 32))
    return seeds
