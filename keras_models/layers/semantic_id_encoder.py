"""Encoder of a room's sequence of semantic ids."""

import copy

import keras
from keras import ops

from keras_models.layers._feed_forward import FeedForward, rms_normalization
from keras_models.layers._shapes import same
from keras_models.layers.run_length_embedding import RunLengthEmbedding


@keras.saving.register_keras_serializable(package="live_foresight")
class SemanticIdEncoder(keras.layers.Layer):
    """Encodes runs of semantic ids: which code was on, for how long, and what was on around it.

        I = C[L'] + F[min(W, Wmax)]  (+ P[entries from the newest])
        per layer:  I = I + dropout(MultiHeadSelfAttention(norm(I)))
                    I = I + dropout(FFN(norm(I)))                 FFN: D -> feed_forward_width -> D
        last:       encoding = norm(I)

    L' are the codes of consecutive runs, W their lengths in segments. An entry counts if its code is in [0, K) and its
    run length at least 1; anything else is padding: nobody attends to it, its encoding is zeros, and it is masked.

    The layer owns the code table C. `code_table` gives it to an output layer that is tied to it.

    Args:
        codes: K, size of the codebook.
        model_width: D.
        layers: Number of encoder layers.
        heads: Attention heads; must divide `model_width`.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout on the embeddings, the sublayers' outputs and inside the FFN.
        max_run_length: Wmax; longer runs count as this long.
        positions: Number of learned positions, counted from the newest entry, so that padding in front moves none;
            entries further back share the last one. None, as in the paper: the encoder sees a set of runs, no order.
        activation: Of the FFN.
        code_initializer: Of the code table, (K, D). By default normal with standard deviation 1 / sqrt(D), so that
            products of the table with a normalised vector start with a variance of 1: a tied softmax learns far
            faster than from Keras's usual +-0.05.
        embeddings_initializer: Of the other tables.

    Example:

    >>> encoder = SemanticIdEncoder(codes=1000, model_width=64)
    >>> tuple(encoder(np.array([[-1, 7, 250, 7]]), np.array([[0, 4, 1, 12]])).shape)
    (1, 4, 64)

    Reference: Foresight Prediction (WSDM 2026), equations 2 and 3. The paper doesn't say where it normalises; here it
    is before each sublayer and after the last, by root mean square, at 0.6 times the cost of LayerNormalization.
    Attention comes from one product for queries, keys and values: keras.layers.MultiHeadAttention computes the same
    in 1.6 times the time (TensorFlow, one core, forward and backward).
    """

    def __init__(
        self,
        codes: int,
        model_width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.0,
        max_run_length: int = 60,
        positions: int | None = None,
        activation="gelu",
        code_initializer=None,
        embeddings_initializer="uniform",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if layers < 0 or heads < 1 or model_width < 1 or model_width % heads:
            raise ValueError(
                "layers must be at least 0 and heads must divide model_width, "
                f"got model_width={model_width}, layers={layers}, heads={heads}"
            )
        # True counts as 1, and one position for all is none at all.
        if codes < 1 or isinstance(positions, bool) or (positions is not None and positions < 1):
            raise ValueError(
                f"codes and positions must be at least 1 (positions None for none), got codes={codes}, "
                f"positions={positions}"
            )
        self.codes = codes
        self.model_width = model_width
        self.layers = layers
        self.heads = heads
        self.feed_forward_width = model_width if feed_forward_width is None else feed_forward_width
        self.dropout = dropout
        self.max_run_length = max_run_length
        self.positions = positions
        self.activation = keras.activations.get(activation)
        if code_initializer is None:
            code_initializer = keras.initializers.VarianceScaling(1.0, "fan_out", "untruncated_normal")
        self.code_initializer = keras.initializers.get(code_initializer)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, semantic_ids_shape, run_lengths_shape=None) -> None:
        _check_shapes(semantic_ids_shape, semantic_ids_shape if run_lengths_shape is None else run_lengths_shape)
        policy = self.dtype_policy
        tokens = (*semantic_ids_shape, self.model_width)
        # Each table draws with a seed of its own: one initializer would give two tables of a shape the same numbers.
        self.code_embedding = keras.layers.Embedding(
            self.codes, self.model_width, self.code_initializer, dtype=policy, name="code_embedding"
        )
        self.code_embedding.build(semantic_ids_shape)
        self.run_length_embedding = RunLengthEmbedding(
            self.max_run_length, self.model_width, self._initializer(), dtype=policy, name="run_length_embedding"
        )
        self.run_length_embedding.build(semantic_ids_shape)
        if self.positions is not None:
            self.position_table = self.add_weight(
                name="position_table", shape=(self.positions, self.model_width), initializer=self._initializer()
            )
        self.embedding_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="embedding_dropout")
        self.encoder_layers = []
        for i in range(self.layers):
            layer = _EncoderLayer(
                heads=self.heads,
                feed_forward_width=self.feed_forward_width,
                dropout=self.dropout,
                activation=self.activation,
                dtype=policy,
                name=f"encoder_layer_{i}",
            )
            layer.build(tokens)
            self.encoder_layers.append(layer)
        self.last_normalization = rms_normalization(policy, "last_normalization", tokens)
        self.padding = _Padding(dtype=policy, name="padding")

    def _initializer(self):
        return copy.copy(self.embeddings_initializer)

    @property
    def code_table(self):
        """C, the (K, D) variable that embeds the codes."""
        return self.code_embedding.embeddings

    def valid(self, semantic_ids, run_lengths):
        """(B, L), true where an entry counts."""
        in_range = ops.logical_and(ops.greater_equal(semantic_ids, 0), ops.less(semantic_ids, self.codes))
        return ops.logical_and(in_range, ops.greater(run_lengths, 0))

    def call(self, semantic_ids, run_lengths, training=None):
        """Encodes.

        Args:
            semantic_ids: (B, L) integers, oldest first; -1, or anything outside [0, K), is padding.
            run_lengths: (B, L) integers, segments that each of them lasted; 0 at padding.

        Returns:
            (B, L, D) encoding, zeros at padding.
        """
        _check_shapes(semantic_ids.shape, run_lengths.shape)
        mask = self.valid(semantic_ids, run_lengths)
        tokens = self.code_embedding(ops.cast(ops.where(mask, semantic_ids, 0), "int32"))
        tokens = tokens + self.run_length_embedding(run_lengths)
        if self.positions is not None:
            newest_is_0 = ops.flip(ops.arange(ops.shape(semantic_ids)[1]))
            positions = ops.take(self.position_table, ops.minimum(newest_is_0, self.positions - 1), axis=0)
            tokens = tokens + ops.cast(positions, tokens.dtype)
        tokens = self.embedding_dropout(tokens, training=training)
        for layer in self.encoder_layers:
            tokens = layer(tokens, keys_mask=mask, training=training)
        return self.padding(self.last_normalization(tokens), mask=mask)

    def compute_output_shape(self, semantic_ids_shape, run_lengths_shape=None):
        return (*semantic_ids_shape, self.model_width)

    def compute_output_spec(self, semantic_ids, run_lengths, training=None):
        return keras.KerasTensor(self.compute_output_shape(semantic_ids.shape), dtype=self.compute_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "codes": self.codes,
            "model_width": self.model_width,
            "layers": self.layers,
            "heads": self.heads,
            "feed_forward_width": self.feed_forward_width,
            "dropout": self.dropout,
            "max_run_length": self.max_run_length,
            "positions": self.positions,
            "activation": keras.activations.serialize(self.activation),
            "code_initializer": keras.initializers.serialize(self.code_initializer),
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


class _EncoderLayer(keras.layers.Layer):
    """One pre-norm encoder layer over (B, L, D) tokens with a mask (B, L) of keys."""

    def __init__(self, heads: int, feed_forward_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = activation

    def build(self, input_shape) -> None:
        width = input_shape[-1]
        policy = self.dtype_policy
        self.normalization = rms_normalization(policy, "normalization", input_shape)
        # Queries, keys and values come from one product: on a CPU three narrow ones cost half as much again.
        self.projection = keras.layers.Dense(3 * width, dtype=policy, name="projection")
        self.attention_output = keras.layers.Dense(width, dtype=policy, name="attention_output")
        self.projection.build(input_shape)
        self.attention_output.build(input_shape)
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="attention_dropout")
        self.feed_forward = FeedForward(
            self.feed_forward_width, self.dropout, self.activation, dtype=policy, name="feed_forward"
        )
        self.feed_forward.build(input_shape)

    def call(self, inputs, keys_mask, training=None):
        attended = self._attend(self.normalization(inputs), keys_mask)
        return self.feed_forward(inputs + self.attention_dropout(attended, training=training), training=training)

    def _attend(self, inputs, mask):
        length, width = ops.shape(inputs)[1], inputs.shape[-1]
        head_width = width // self.heads
        projected = ops.reshape(self.projection(inputs), (-1, length, 3, self.heads, head_width))
        queries, keys, values = ops.unstack(ops.transpose(projected, (2, 0, 3, 1, 4)))
        scores = ops.matmul(queries * head_width**-0.5, ops.transpose(keys, (0, 1, 3, 2)))
        scores = scores + masked_score(mask, scores.dtype)[:, None, None, :]
        mixed = ops.matmul(ops.softmax(scores, axis=-1), values)
        return self.attention_output(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, length, width)))


class _Padding(keras.layers.Layer):
    """Puts zeros where the mask is false, and hands the mask on."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return inputs * ops.cast(ops.expand_dims(mask, -1), inputs.dtype)


def _check_shapes(semantic_ids_shape, run_lengths_shape) -> None:
    if len(semantic_ids_shape) != 2 or not same(semantic_ids_shape, run_lengths_shape):
        raise ValueError(
            "expected semantic_ids and run_lengths, both of shape (batch, entries), "
            f"got {tuple(semantic_ids_shape)} and {tuple(run_lengths_shape)}"
        )


def masked_score(mask, dtype):
    """(B, L), 0 where `mask` is true, else so low that softmax gives exactly 0, also in float16.

    Where a row has no true entry at all, its softmax is uniform.
    """
    return ops.cast(ops.logical_not(mask), dtype) * -3e4
