"""Target attention over a user's history."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_models.layers._shapes import same


@keras.saving.register_keras_serializable(package="live_foresight")
class TargetAttention(keras.layers.Layer):
    """Sums a user's history, each entry weighted by how it matches the candidate.

        output = sum_l a(query, key_l) key_l,    a = MLP([query ; key_l ; query * key_l])

    over the valid entries; what stands in the others, NaN too, changes nothing. As in the paper the weights are not
    normalised, so that the output's length tells how much of the history matches; an empty history gives zeros. A
    vector that isn't finite, in the query or in a valid entry, makes its own example's output so and no other's. The
    paper's `query - key` input is left out: it is a linear function of the two others that are there, so the first
    layer can form it by itself.

    Args:
        units: Widths of the hidden layers of the MLP; its output is one number an entry.
        activation: Of the hidden layers.

    Example:

    >>> attention = TargetAttention()
    >>> tuple(attention(np.random.rand(2, 16), np.random.rand(2, 20, 16)).shape)
    (2, 16)

    Reference: Zhou et al., Deep Interest Network for Click-Through Rate Prediction, KDD 2018, equation 3.
    """

    def __init__(self, units: Sequence[int] = (32,), activation="relu", **kwargs) -> None:
        super().__init__(**kwargs)
        if not units or min(units) < 1:
            raise ValueError(f"units must be one or more widths of at least 1, got {tuple(units)}")
        self.units = tuple(units)
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def build(self, query_shape, keys_shape) -> None:
        _check_shapes(query_shape, keys_shape)
        # The query's share of the first layer is the same for all entries, so it is computed once an example.
        self.query_layer = keras.layers.Dense(self.units[0], dtype=self.dtype_policy, name="query_layer")
        self.query_layer.build(query_shape)
        self.width = width = keys_shape[-1]
        self.key_layer = keras.layers.Dense(self.units[0], use_bias=False, dtype=self.dtype_policy, name="key_layer")
        self.key_layer.build((*keys_shape[:-1], 2 * width))
        self.hidden_layers = []
        width = self.units[0]
        for i, units in enumerate(self.units[1:]):
            layer = keras.layers.Dense(
                units, activation=self.activation, dtype=self.dtype_policy, name=f"hidden_layer_{i + 1}"
            )
            layer.build((*keys_shape[:-1], width))
            self.hidden_layers.append(layer)
            width = units
        self.weight_layer = keras.layers.Dense(1, dtype=self.dtype_policy, name="weight_layer")
        self.weight_layer.build((*keys_shape[:-1], width))

    def call(self, query, keys, query_mask=None, keys_mask=None):
        """Attends.

        Args:
            query: (B, D) embedding of the candidate.
            keys: (B, L, D) embeddings of the history.
            query_mask: Not used; a candidate is always there.
            keys_mask: (B, L), true or 1 where an entry is valid; None if all are.

        Returns:
            (B, D).

        Raises:
            ValueError: If the shapes don't fit each other, or not the width that the layer was built for.
        """
        _check_shapes(query.shape, keys.shape, keys_mask, self.width)
        if keys_mask is not None:
            keys = ops.where(ops.expand_dims(ops.cast(keys_mask, "bool"), -1), keys, ops.zeros_like(keys))
        matched = ops.concatenate([keys, keys * ops.expand_dims(query, 1)], axis=-1)
        hidden = self.activation(self.key_layer(matched) + ops.expand_dims(self.query_layer(query), 1))
        for layer in self.hidden_layers:
            hidden = layer(hidden)
        return ops.sum(self.weight_layer(hidden) * keys, axis=1)

    def compute_mask(self, query, mask=None):
        return None  # the axis that the mask was for is gone

    def compute_output_shape(self, query_shape, keys_shape):
        return tuple(query_shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
        }


def _check_shapes(query_shape, keys_shape, keys_mask=None, width=None) -> None:
    """Raises a ValueError unless query (B, D), keys (B, L, D) and mask (B, L) fit each other and D is `width`."""
    query, keys = tuple(query_shape), tuple(keys_shape)
    fit = len(query) == 2 and len(keys) == 3 and same(query, (keys[0], keys[-1])) and keys[-1] is not None
    if not fit or width not in (None, keys[-1]):
        raise ValueError(
            f"expected a query of shape (batch, {width or 'width'}) and keys of shape (batch, entries, "
            f"{width or 'width'}), got {query} and {keys}"
        )
    if keys_mask is not None and not same(keys_mask.shape, keys[:2]):
        raise ValueError(f"expected keys_mask of shape (batch, entries) = {keys[:2]}, got {tuple(keys_mask.shape)}")
