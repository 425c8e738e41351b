"""The inverted Transformer: attention between metrics."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="live_foresight")
class InvertedTransformer(keras.layers.Layer):
    """Encodes each metric's whole series as one token, and lets the metrics attend to each other.

        token_n = Linear(T -> D)(x[:, n])
        per layer:  token = LN(token + dropout(MultiHeadAttention(token)))
                    token = LN(token + dropout(FFN(token)))            FFN: D -> feed_forward_width -> D, GELU
        last:       encoding = LN(token)

    There is no positional encoding: the order of steps is in the weights of the linear map, and metrics have none.

    Args:
        model_width: D.
        layers: Number of encoder layers.
        heads: Attention heads; must divide `model_width`.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout on the tokens, the sublayers' outputs and inside the FFN.
        activation: Of the FFN.

    Example:

    >>> InvertedTransformer(model_width=64, layers=2, heads=4)(np.random.rand(2, 37, 12)).shape
    TensorShape([2, 12, 64])

    Reference: Liu et al., iTransformer: Inverted Transformers Are Effective for Time Series Forecasting, ICLR 2024;
    LiveForesighter, section 2.2. Unlike in the authors' code the attention weights are not dropped out.
    """

    def __init__(
        self,
        model_width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.1,
        activation="gelu",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if layers < 0 or heads < 1 or model_width < 1 or model_width % heads:
            raise ValueError(
                "layers must be at least 0 and heads must divide model_width, "
                f"got model_width={model_width}, layers={layers}, heads={heads}"
            )
        self.model_width = model_width
        self.layers = layers
        self.heads = heads
        self.feed_forward_width = model_width if feed_forward_width is None else feed_forward_width
        self.dropout = dropout
        self.activation = keras.activations.get(activation)

    def build(self, input_shape) -> None:
        if len(input_shape) != 3:
            raise ValueError(f"expected a sequence of shape (batch, steps, metrics), got {tuple(input_shape)}")
        batch, steps, metrics = input_shape
        self.series_embedding = keras.layers.Dense(self.model_width, dtype=self.dtype_policy, name="series_embedding")
        self.series_embedding.build((batch, metrics, steps))
        self.series_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="series_dropout")
        tokens = (batch, metrics, self.model_width)
        self.encoder_layers = []
        for i in range(self.layers):
            layer = _EncoderLayer(
                heads=self.heads,
                feed_forward_width=self.feed_forward_width,
                dropout=self.dropout,
                activation=self.activation,
                dtype=self.dtype_policy,
                name=f"encoder_layer_{i}",
            )
            layer.build(tokens)
            self.encoder_layers.append(layer)
        self.last_normalization = _layer_normalization(self.dtype_policy, "last_normalization", tokens)

    def call(self, inputs, mask=None, training=None):
        """Encodes.

        Args:
            inputs: (B, T, N) series, normalised.
            mask: (B, T), true or 1 where a step is valid; other steps count as 0. None if all are valid.

        Returns:
            (B, N, D) encoding.
        """
        if mask is not None:
            inputs = inputs * ops.cast(ops.expand_dims(mask, -1), inputs.dtype)
        tokens = self.series_embedding(ops.transpose(inputs, (0, 2, 1)))
        tokens = self.series_dropout(tokens, training=training)
        for layer in self.encoder_layers:
            tokens = layer(tokens, training=training)
        return self.last_normalization(tokens)

    def compute_mask(self, inputs, mask=None):
        return None  # the axis that the mask was for is gone

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2], self.model_width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "model_width": self.model_width,
            "layers": self.layers,
            "heads": self.heads,
            "feed_forward_width": self.feed_forward_width,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
        }


class _EncoderLayer(keras.layers.Layer):
    """One post-norm encoder layer over (B, N, D) tokens, without a mask."""

    def __init__(self, heads: int, feed_forward_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = activation

    def build(self, input_shape) -> None:
        width = input_shape[-1]
        policy = self.dtype_policy
        # Queries, keys and values come from one product: on a CPU three narrow ones cost half as much again.
        self.projection = keras.layers.Dense(3 * width, dtype=policy, name="projection")
        self.attention_output = keras.layers.Dense(width, dtype=policy, name="attention_output")
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="attention_dropout")
        self.hidden = keras.layers.Dense(
            self.feed_forward_width, activation=self.activation, dtype=policy, name="hidden"
        )
        self.hidden_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="hidden_dropout")
        self.output_layer = keras.layers.Dense(width, dtype=policy, name="output_layer")
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="output_dropout")
        for layer in (self.projection, self.attention_output, self.hidden):
            layer.build(input_shape)
        self.output_layer.build((*input_shape[:-1], self.feed_forward_width))
        self.attention_normalization = _layer_normalization(policy, "attention_normalization", input_shape)
        self.output_normalization = _layer_normalization(policy, "output_normalization", input_shape)

    def call(self, inputs, training=None):
        attended = self.attention_dropout(self._attend(inputs), training=training)
        tokens = self.attention_normalization(inputs + attended)
        hidden = self.hidden_dropout(self.hidden(tokens), training=training)
        hidden = self.output_dropout(self.output_layer(hidden), training=training)
        return self.output_normalization(tokens + hidden)

    def _attend(self, inputs):
        metrics, width = inputs.shape[1:]
        head_width = width // self.heads
        projected = ops.reshape(self.projection(inputs), (-1, metrics, 3, self.heads, head_width))
        queries, keys, values = ops.unstack(ops.transpose(projected, (2, 0, 3, 1, 4)))
        scores = ops.matmul(queries * head_width**-0.5, ops.transpose(keys, (0, 1, 3, 2)))
        mixed = ops.matmul(ops.softmax(scores, axis=-1), values)
        return self.attention_output(ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, metrics, width)))


def _layer_normalization(policy, name: str, shape) -> keras.layers.LayerNormalization:
    layer = keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)
    layer.build(shape)
    return layer
