"""Decoder of what follows a sequence of semantic ids."""

import keras
from keras import ops

from keras_models.layers._feed_forward import FeedForward, rms_normalization
from keras_models.layers._shapes import check_mask
from keras_models.layers.semantic_id_encoder import masked_score


@keras.saving.register_keras_serializable(package="live_foresight")
class SemanticIdDecoder(keras.layers.Layer):
    """Asks an encoded sequence what comes next, with one learned query.

        D = [BOS]
        per layer:  D = D + dropout(MultiHeadCrossAttention(norm(D), I, I))
                    D = D + dropout(FFN(norm(D)))                 FFN: D -> feed_forward_width -> D
        last:       prediction = norm(D)

    A row without a valid entry attends to the zeros that stand there: its prediction is that of no content at all.

    Args:
        model_width: D.
        layers: Number of decoder layers.
        heads: Attention heads; must divide `model_width`.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout on the sublayers' outputs and inside the FFN.
        activation: Of the FFN.

    Example:

    >>> tuple(SemanticIdDecoder(model_width=64)(np.random.rand(2, 100, 64), mask=np.ones((2, 100), bool)).shape)
    (2, 64)

    Reference: Foresight Prediction (WSDM 2026), equations 4 and 5. One query makes it worth while to take the map of
    the keys into the query, and that of the values out of the sum: q (I Wk)^T = (q Wk^T) I^T and a (I Wv) = (a I) Wv.
    The result is that of keras.layers.MultiHeadAttention in a fifth of the time; the keys' bias, which cancels in the
    softmax, and the values' bias, which the output's takes in, are left out.
    """

    def __init__(
        self,
        model_width: int = 64,
        layers: int = 1,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.0,
        activation="gelu",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if layers < 1 or heads < 1 or model_width < 1 or model_width % heads:
            raise ValueError(
                "layers must be at least 1 and heads must divide model_width, "
                f"got model_width={model_width}, layers={layers}, heads={heads}"
            )
        self.model_width = model_width
        self.layers = layers
        self.heads = heads
        self.feed_forward_width = model_width if feed_forward_width is None else feed_forward_width
        self.dropout = dropout
        self.activation = keras.activations.get(activation)

    def build(self, input_shape) -> None:
        if len(input_shape) != 3 or input_shape[-1] != self.model_width:
            raise ValueError(
                f"expected an encoding of shape (batch, entries, {self.model_width}), got {tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: self.model_width})
        self.query = self.add_weight(
            name="query", shape=(self.model_width,), initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.decoder_layers = []
        for i in range(self.layers):
            layer = _DecoderLayer(
                heads=self.heads,
                feed_forward_width=self.feed_forward_width,
                dropout=self.dropout,
                activation=self.activation,
                dtype=self.dtype_policy,
                name=f"decoder_layer_{i}",
            )
            layer.build((input_shape[0], self.model_width), input_shape)
            self.decoder_layers.append(layer)
        self.last_normalization = rms_normalization(
            self.dtype_policy, "last_normalization", (input_shape[0], self.model_width)
        )

    def call(self, encoding, mask=None, training=None):
        """Decodes.

        Args:
            encoding: (B, L, D).
            mask: (B, L), true or 1 where an entry is valid; None if all are, or if the encoding carries its mask.

        Returns:
            (B, D) prediction.
        """
        check_mask(mask, encoding.shape[:2])
        if mask is None:
            mask = ops.ones_like(encoding[:, :, 0], dtype="bool")
        mask = ops.cast(mask, "bool")
        encoding = ops.where(ops.expand_dims(mask, -1), encoding, 0)
        query = ops.cast(ops.expand_dims(self.query, 0), encoding.dtype)
        query = ops.broadcast_to(query, (ops.shape(encoding)[0], self.model_width))
        for layer in self.decoder_layers:
            query = layer(query, encoding, keys_mask=mask, training=training)
        return self.last_normalization(query)

    def compute_mask(self, inputs, mask=None):
        return None  # the axis that the mask was for is gone

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.model_width)

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


class _DecoderLayer(keras.layers.Layer):
    """One pre-norm decoder layer: queries (B, D), keys and values (B, L, D)."""

    def __init__(self, heads: int, feed_forward_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.activation = activation

    def build(self, query_shape, keys_shape) -> None:
        width = query_shape[-1]
        policy = self.dtype_policy
        self.normalization = rms_normalization(policy, "normalization", query_shape)
        self.query_projection = keras.layers.Dense(width, dtype=policy, name="query_projection")
        self.query_projection.build(query_shape)
        self.key_kernel = self.add_weight(name="key_kernel", shape=(width, width), initializer="glorot_uniform")
        self.value_kernel = self.add_weight(name="value_kernel", shape=(width, width), initializer="glorot_uniform")
        self.attention_output = keras.layers.Dense(width, dtype=policy, name="attention_output")
        self.attention_output.build(query_shape)
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="attention_dropout")
        self.feed_forward = FeedForward(
            self.feed_forward_width, self.dropout, self.activation, dtype=policy, name="feed_forward"
        )
        self.feed_forward.build(query_shape)

    def call(self, query, keys, keys_mask, training=None):
        attended = self.attention_dropout(self._attend(self.normalization(query), keys, keys_mask), training=training)
        return self.feed_forward(query + attended, training=training)

    def _attend(self, query, keys, mask):
        width = query.shape[-1]
        head_width = width // self.heads
        head_maps = (width, self.heads, head_width)
        queries = ops.reshape(self.query_projection(query) * head_width**-0.5, (-1, self.heads, head_width))
        queries = ops.einsum("bhd,ehd->bhe", queries, ops.reshape(self.key_kernel, head_maps))
        scores = ops.matmul(queries, ops.transpose(keys, (0, 2, 1)))
        scores = scores + masked_score(mask, scores.dtype)[:, None, :]
        mixed = ops.matmul(ops.softmax(scores, axis=-1), keys)
        mixed = ops.einsum("bhe,ehd->bhd", mixed, ops.reshape(self.value_kernel, head_maps))
        return self.attention_output(ops.reshape(mixed, (-1, width)))
