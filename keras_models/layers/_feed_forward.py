"""What the layers of a pre-norm Transformer have in common."""

import keras


class FeedForward(keras.layers.Layer):
    """`x + dropout(Dense(dropout(activation(Dense(norm(x))))))`, D -> `hidden_width` -> D."""

    def __init__(self, hidden_width: int, dropout: float, activation, **kwargs) -> None:
        super().__init__(**kwargs)
        self.hidden_width = hidden_width
        self.dropout = dropout
        self.activation = activation

    def build(self, input_shape) -> None:
        policy = self.dtype_policy
        self.normalization = rms_normalization(policy, "normalization", input_shape)
        self.hidden = keras.layers.Dense(self.hidden_width, activation=self.activation, dtype=policy, name="hidden")
        self.hidden.build(input_shape)
        self.hidden_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="hidden_dropout")
        self.output_layer = keras.layers.Dense(input_shape[-1], dtype=policy, name="output_layer")
        self.output_layer.build((*input_shape[:-1], self.hidden_width))
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="output_dropout")

    def call(self, inputs, training=None):
        hidden = self.hidden_dropout(self.hidden(self.normalization(inputs)), training=training)
        return inputs + self.output_dropout(self.output_layer(hidden), training=training)


def rms_normalization(policy, name: str, shape) -> keras.layers.RMSNormalization:
    """Built, and with an epsilon that a row of zeros survives in every precision."""
    layer = keras.layers.RMSNormalization(epsilon=1e-5, dtype=policy, name=name)
    layer.build(shape)
    return layer
