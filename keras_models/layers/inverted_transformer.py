"""The inverted Transformer: attention between metrics."""

import keras
from keras import ops

from keras_models.layers._shapes import check_mask
from keras_models.layers._token_operations import gelu, normalize, shifted_exponentials


@keras.saving.register_keras_serializable(package="live_foresight")
class InvertedTransformer(keras.layers.Layer):
    """Encodes each metric's whole series as one token, and lets the metrics attend to each other.

        token_n = Linear(T -> D)(x[:, n])
        per layer:  token = LN(token + dropout(MultiHeadAttention(token)))
                    token = LN(token + dropout(FFN(token)))            FFN: D -> feed_forward_width -> D, GELU
        last:       encoding = LN(token)

    There is no positional encoding: the order of steps is in the weights of the linear map, and metrics have none.
    Covariates (the hour, a sale that is on ...) may come beside the metrics: each one's series becomes a token too,
    through the same linear map, which the metrics attend to; only the metrics' tokens come out. No weight depends on
    the number of metrics or covariates.

    Without dropout, as in serving, the first layer's queries, keys and values are computed from the series at once if
    T < D: both maps are linear, so their kernels are multiplied first.

    Args:
        model_width: D.
        layers: Number of encoder layers.
        heads: Attention heads; must divide `model_width`.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout on the tokens, the attention's weights, the sublayers' outputs and inside the FFN.
        activation: Of the FFN.

    Example:

    >>> layer = InvertedTransformer(model_width=64, layers=2, heads=4)
    >>> tuple(layer(np.random.rand(2, 37, 12)).shape)
    (2, 12, 64)
    >>> tuple(layer(np.random.rand(2, 37, 12), covariates=np.random.rand(2, 37, 3)).shape)
    (2, 12, 64)

    Reference: Liu et al., iTransformer: Inverted Transformers Are Effective for Time Series Forecasting, ICLR 2024;
    LiveForesighter, section 2.2.
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
            raise ValueError(f"expected inputs of shape (batch, steps, metrics), got {tuple(input_shape)}")
        self.steps = input_shape[1]
        if self.steps is None:
            raise ValueError(f"inputs must have a fixed number of steps, got {tuple(input_shape)}")
        self.series_embedding = keras.layers.Dense(self.model_width, dtype=self.dtype_policy, name="series_embedding")
        self.series_embedding.build((None, self.steps))
        self.series_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="series_dropout")
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
            layer.build((None, self.model_width))
            self.encoder_layers.append(layer)
        self.last_normalization = _TokenNormalization(epsilon=1e-5, dtype=self.dtype_policy, name="last_normalization")
        self.last_normalization.build((None, self.model_width))

    def call(self, inputs, covariates=None, mask=None, training=None):
        """Encodes.

        Args:
            inputs: (B, T, N) series, normalised.
            covariates: (B, T, C) series of covariates; None if there are none.
            mask: (B, T), true or 1 where a step is valid; other steps count as 0. None if all are valid.

        Returns:
            (B, N, D) encoding.

        Raises:
            ValueError: the rank or the number of steps isn't that of `build`, or N isn't known.
        """
        self._check("inputs", inputs.shape)
        metrics = inputs.shape[2]
        if mask is None:
            mask = getattr(inputs, "_keras_mask", None)  # Keras hands it over only where there are no covariates.
        check_mask(mask, inputs.shape[:2])
        if covariates is not None:
            self._check("covariates", covariates.shape)
            inputs = ops.concatenate([inputs, ops.cast(covariates, inputs.dtype)], axis=-1)
        if mask is not None:
            mask = ops.cast(ops.expand_dims(mask, -1), "bool")
            inputs = ops.where(mask, inputs, ops.zeros_like(inputs))
        count = inputs.shape[2]
        # (B * count, T) and (B * count, D) throughout: products of matrices, whose bias is added on the way.
        series = ops.reshape(ops.transpose(inputs, (0, 2, 1)), (-1, self.steps))
        tokens = self.series_dropout(self.series_embedding(series), training=training)
        projected = self._first_projection(series, training)
        for layer in self.encoder_layers:
            tokens = layer(tokens, count=count, projected=projected, training=training)
            projected = None
        if count > metrics:
            tokens = ops.reshape(
                ops.reshape(tokens, (-1, count, self.model_width))[:, :metrics], (-1, self.model_width)
            )
        return ops.reshape(self.last_normalization(tokens), (-1, metrics, self.model_width))

    def _first_projection(self, series, training):
        """Queries, keys and values of the first layer straight from the series; None where that isn't as good."""
        if not self.encoder_layers or self.steps >= self.model_width or (training and self.dropout > 0):
            return None
        embedding, projection = self.series_embedding, self.encoder_layers[0].projection
        if embedding.quantization_mode or projection.quantization_mode:
            return None
        kernel = ops.matmul(embedding.kernel, projection.kernel)
        bias = ops.matmul(ops.expand_dims(embedding.bias, 0), projection.kernel)[0] + projection.bias
        return ops.add(ops.matmul(series, kernel), bias)

    def _check(self, name: str, shape) -> None:
        if len(shape) != 3 or shape[1] not in (None, self.steps) or shape[2] is None:
            raise ValueError(
                f"{name} must have shape (batch, {self.steps} steps, a fixed number of series), got {tuple(shape)}"
            )

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
    """One post-norm encoder layer over tokens (B * count, D), `count` of each example."""

    def __init__(self, heads: int, feed_forward_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = gelu if activation is keras.activations.gelu else activation

    def build(self, input_shape) -> None:
        width = input_shape[-1]
        policy = self.dtype_policy
        # Queries, keys and values come from one product: on a CPU three narrow ones cost half as much again.
        self.projection = keras.layers.Dense(3 * width, dtype=policy, name="projection")
        self.attention_output = keras.layers.Dense(width, dtype=policy, name="attention_output")
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="attention_dropout")
        self.weights_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="weights_dropout")
        self.hidden = keras.layers.Dense(self.feed_forward_width, dtype=policy, name="hidden")
        self.hidden_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="hidden_dropout")
        self.output_layer = keras.layers.Dense(width, dtype=policy, name="output_layer")
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="output_dropout")
        self.attention_normalization = _TokenNormalization(epsilon=1e-5, dtype=policy, name="attention_normalization")
        self.output_normalization = _TokenNormalization(epsilon=1e-5, dtype=policy, name="output_normalization")
        for layer in (self.projection, self.attention_output, self.hidden):
            layer.build(input_shape)
        self.output_layer.build((*input_shape[:-1], self.feed_forward_width))
        self.attention_normalization.build(input_shape)
        self.output_normalization.build(input_shape)

    def call(self, inputs, count: int, projected=None, training=None):
        """Encodes `inputs`; `projected` (B * count, 3 D) are their queries, keys and values, if known already."""
        projected = self.projection(inputs) if projected is None else projected
        mixed = self._attend(projected, count, training)
        attended = self.attention_dropout(self.attention_output(mixed), training=training)
        tokens = self.attention_normalization(inputs + attended)
        hidden = self.hidden_dropout(self.activation(self.hidden(tokens)), training=training)
        hidden = self.output_dropout(self.output_layer(hidden), training=training)
        return self.output_normalization(tokens + hidden)

    def _attend(self, projected, count: int, training):
        width = projected.shape[-1] // 3
        head_width = width // self.heads
        projected = ops.reshape(projected, (-1, count, 3, self.heads, head_width))
        queries, keys, values = ops.unstack(ops.transpose(projected, (2, 0, 3, 1, 4)))
        scores = ops.matmul(queries * head_width**-0.5, ops.transpose(keys, (0, 1, 3, 2)))
        empty = scores.shape[0] == 0  # PyTorch's maximum of nothing is an error
        if count > 32 or training or empty:
            weights = ops.softmax(scores, axis=-1) if count > 1 else ops.ones_like(scores)
            mixed = ops.matmul(self.weights_dropout(weights, training=training), values)
        else:
            exponentials = shifted_exponentials(scores)
            mixed = ops.matmul(exponentials, values) / ops.sum(exponentials, axis=-1, keepdims=True)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, width))


class _TokenNormalization(keras.layers.LayerNormalization):
    """Layer normalisation over (M, D), with the weights of Keras' layer and a gradient that takes fewer passes."""

    def call(self, inputs):
        return normalize(inputs, self.gamma, self.beta, self.epsilon)
