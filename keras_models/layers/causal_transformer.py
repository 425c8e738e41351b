"""A causal Transformer encoder."""

import keras
from keras import ops

from keras_models.layers._shapes import check_mask


@keras.saving.register_keras_serializable(package="live_foresight")
class CausalTransformer(keras.layers.Layer):
    """Encodes a sequence, each entry seeing itself and the valid entries before it.

        x_t = dropout(input_t + position[number of valid entries before t])
        per layer:  x = x + dropout(MultiHeadAttention(LN(x)))      causal
                    x = x + dropout(FFN(LN(x)))                     FFN: D -> feed_forward_width -> D, GELU
        last:       encoding = LN(x)

    Positions are learned and count valid entries only, from the oldest one, so that padding, wherever it stands,
    changes no valid entry's encoding, and neither does what comes after it. Padding is encoded as zeros.

    Args:
        layers: Number of encoder layers.
        heads: Attention heads; must divide the inputs' width.
        feed_forward_width: Hidden width of the FFN; four times the inputs' width if None.
        dropout: Rate of dropout on the inputs and the sublayers' outputs.
        activation: Of the FFN.

    Example:

    >>> tuple(CausalTransformer(layers=1, heads=4)(np.random.rand(2, 10, 64)).shape)
    (2, 10, 64)

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017. Departures: the norms stand before the
    sublayers and once at the end, which trains without a warm-up; attention weights are not dropped out.
    """

    def __init__(
        self,
        layers: int = 2,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.1,
        activation="gelu",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if layers < 0 or heads < 1:
            raise ValueError(f"layers must be at least 0 and heads at least 1, got layers={layers}, heads={heads}")
        self.layers = layers
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def build(self, input_shape) -> None:
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ValueError(
                "expected inputs of shape (batch, entries, width) with known entries and width, "
                f"got {tuple(input_shape)}"
            )
        _, entries, width = input_shape
        if width % self.heads:
            raise ValueError(f"heads must divide the inputs' width, got heads={self.heads} and a width of {width}")
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        self.position_embeddings = self.add_weight(
            name="position_embeddings",
            shape=(entries, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.input_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="input_dropout")
        self.encoder_layers = []
        for i in range(self.layers):
            layer = _EncoderLayer(
                heads=self.heads,
                feed_forward_width=4 * width if self.feed_forward_width is None else self.feed_forward_width,
                dropout=self.dropout,
                activation=self.activation,
                dtype=self.dtype_policy,
                name=f"encoder_layer_{i}",
            )
            layer.build(input_shape)
            self.encoder_layers.append(layer)
        self.last_normalization = _layer_normalization(self.dtype_policy, "last_normalization", input_shape)

    def call(self, inputs, mask=None, training=None):
        """Encodes.

        Args:
            inputs: (B, T, D), oldest first; T at most that of the layer's `build`.
            mask: (B, T), true or 1 where an entry is valid; None if all are.

        Returns:
            (B, T, D).
        """
        entries = inputs.shape[1]
        if entries > self.position_embeddings.shape[0]:
            raise ValueError(f"expected at most {self.position_embeddings.shape[0]} entries, got {entries}")
        check_mask(mask, inputs.shape[:2])
        mask = ops.ones_like(inputs[:, :, 0], dtype="bool") if mask is None else ops.cast(mask, "bool")
        valid = ops.expand_dims(mask, -1)
        positions = ops.maximum(ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, 0)
        # A choice, not a product, so that what stands at padding may be anything, even NaN.
        tokens = ops.where(valid, inputs, ops.zeros_like(inputs))
        tokens = tokens + ops.cast(ops.take(self.position_embeddings, positions, axis=0), tokens.dtype)
        tokens = self.input_dropout(tokens, training=training)
        index = ops.arange(entries)
        earlier = ops.expand_dims(index, 1) > ops.expand_dims(index, 0)
        itself = ops.expand_dims(index, 1) == ops.expand_dims(index, 0)
        # Padding sees itself as well: a row that sees nothing would be NaN.
        sees = ops.logical_or(ops.logical_and(earlier, ops.expand_dims(mask, 1)), itself)
        for layer in self.encoder_layers:
            tokens = layer(tokens, sees, training=training)
        encoding = self.last_normalization(tokens)
        return ops.where(valid, encoding, ops.zeros_like(encoding))

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "layers": self.layers,
            "heads": self.heads,
            "feed_forward_width": self.feed_forward_width,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
        }


class _EncoderLayer(keras.layers.Layer):
    def __init__(self, heads: int, feed_forward_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = activation

    def build(self, input_shape) -> None:
        width, policy = input_shape[-1], self.dtype_policy
        self.attention_normalization = _layer_normalization(policy, "attention_normalization", input_shape)
        self.attention = keras.layers.MultiHeadAttention(
            self.heads, width // self.heads, dtype=policy, name="attention"
        )
        self.attention.build(input_shape, input_shape)
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="attention_dropout")
        self.output_normalization = _layer_normalization(policy, "output_normalization", input_shape)
        self.hidden = keras.layers.Dense(
            self.feed_forward_width, activation=self.activation, dtype=policy, name="hidden"
        )
        self.hidden.build(input_shape)
        self.output_layer = keras.layers.Dense(width, dtype=policy, name="output_layer")
        self.output_layer.build((*input_shape[:-1], self.feed_forward_width))
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="output_dropout")

    def call(self, tokens, sees, training=None):
        normalized = self.attention_normalization(tokens)
        attended = self.attention(normalized, normalized, attention_mask=sees, training=training)
        tokens = tokens + self.attention_dropout(attended, training=training)
        hidden = self.output_layer(self.hidden(self.output_normalization(tokens)))
        return tokens + self.output_dropout(hidden, training=training)


def _layer_normalization(policy, name: str, shape) -> keras.layers.LayerNormalization:
    layer = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)
    layer.build(shape)
    return layer
