"""Self-supervised forecaster of the product that a room shows next."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_models.layers._shapes import same
from keras_models.layers.causal_transformer import CausalTransformer
from keras_models.layers.hashed_embedding import HashedEmbedding


@keras.saving.register_keras_serializable(package="live_foresight")
class ProductForecaster(keras.Model):
    """Forecasts the finest category of a room's next product from the last T - 1, and encodes each of them.

        train:  forecast(products 1 .. T-1)  ->  category of product T       adds its loss
        serve:  forecast(products 2 .. T)    ->  category of product T + 1   returned

        x = Linear(4 D' -> D)([P[product] ; C1[category 1] ; C2[category 2] ; C3[category 3]])
        encoding = CausalTransformer(x),    probabilities = softmax(Linear(D -> |C3|)(encoding of the latest product))

    The model needs no labels: `compile(optimizer)`, then `fit` on a dict of sequences. In training, `call` adds the
    loss of the first line and returns the second line's outputs without gradient, computed as in serving (no dropout),
    so a ranker that reads them trains on what it will be served.

    The loss is the cross-entropy, in nats, averaged over the examples that count: those whose product T is there with
    a known finest category, and with at least one product before it. As in LiveForesighter's equation 4 only product T
    is a target. With `targets="all"` each product's successor is: a sequence then teaches up to T - 1 times as much,
    at up to T - 1 times the softmax's cost. That pays where each sequence is seen once, and not where overlapping
    sequences of one room come anyway, as from a ranker's examples.

    A product id of -1 is padding, wherever it stands, and changes no output; its categories aren't looked at. A
    category out of its range is unknown: it adds nothing to the product's vector, and is never a target. With nothing
    but padding, the encoding is zeros and the probabilities are those of the output's bias.

    Args:
        product_bins: Rows of the hashed table of product ids.
        categories: Numbers of categories, from the coarsest level to the finest.
        embedding_dim: D', of the product and of each level.
        model_width: D.
        layers: Encoder layers.
        heads: Attention heads.
        feed_forward_width: Hidden width of the FFN; 4 x `model_width` if None.
        dropout: Rate of dropout.
        targets: "last" or "all".

    Example:

    >>> forecaster = ProductForecaster(product_bins=1000, categories=(5, 20, 100), model_width=32)
    >>> ids = np.array([[-1, 7, 9]])
    >>> categories = np.array([[[-1, -1, -1], [1, 2, 3], [1, 2, 4]]])
    >>> probabilities, encoding = forecaster({"product_ids": ids, "product_categories": categories})
    >>> tuple(probabilities.shape), tuple(encoding.shape)
    ((1, 100), (1, 2, 32))

    Reference: LiveForesighter, equations 4 and 5. Its "naive Transformer" has the norms before the sublayers here.
    """

    def __init__(
        self,
        product_bins: int = 100_000,
        categories: Sequence[int] = (50, 1000, 5000),
        embedding_dim: int = 16,
        model_width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.1,
        targets: str = "last",
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if not categories or min(categories) < 1:
            raise ValueError(f"categories must be one or more numbers of at least 1, got {tuple(categories)}")
        if targets not in ("last", "all"):
            raise ValueError(f'targets must be "last" or "all", got {targets!r}')
        if model_width < 1 or heads < 1 or model_width % heads:
            raise ValueError(f"heads must divide model_width, got model_width={model_width}, heads={heads}")
        self.product_bins = product_bins
        self.categories = tuple(categories)
        self.embedding_dim = embedding_dim
        self.model_width = model_width
        self.encoder_layers = layers
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.targets = targets

    def build(self, input_shape) -> None:
        """Builds for {"product_ids": (B, T), "product_categories": (B, T, levels)}."""
        ids_shape = self._checked(input_shape)
        levels, policy = len(self.categories), self.dtype_policy
        window = (ids_shape[0], ids_shape[1] - 1)
        self.product_embedding = HashedEmbedding(
            self.product_bins, self.embedding_dim, dtype=policy, name="product_embedding"
        )
        self.product_embedding.build(window)
        self.category_embeddings = []
        for level, size in enumerate(self.categories, start=1):
            layer = keras.layers.Embedding(size, self.embedding_dim, dtype=policy, name=f"category_{level}_embedding")
            layer.build(window)
            self.category_embeddings.append(layer)
        self.projection = keras.layers.Dense(self.model_width, dtype=policy, name="projection")
        self.projection.build((*window, (1 + levels) * self.embedding_dim))
        self.encoder = CausalTransformer(
            layers=self.encoder_layers,
            heads=self.heads,
            feed_forward_width=self.feed_forward_width,
            dropout=self.dropout,
            dtype=policy,
            name="encoder",
        )
        self.encoder.build((*window, self.model_width))
        self.output_layer = keras.layers.Dense(self.categories[-1], dtype=policy, name="output_layer")
        self.output_layer.build((*window, self.model_width))

    def call(self, inputs, training=None):
        """Forecasts what follows.

        Args:
            inputs: {"product_ids": (B, T) integers, oldest first, -1 for padding, which stands in front,
                "product_categories": (B, T, levels) integers, coarse to fine}.

        Returns:
            probabilities (B, |C3|) in float32, encoding (B, T - 1, D). Neither carries a gradient in training.
        """
        self._checked({name: x.shape for name, x in inputs.items()})
        ids, categories = inputs["product_ids"], inputs["product_categories"]
        if training:
            self.add_loss(self._self_supervised_loss(ids, categories))
        probabilities, encoding = self.forecast(ids[:, 1:], categories[:, 1:])
        return (
            (ops.stop_gradient(probabilities), ops.stop_gradient(encoding)) if training else (probabilities, encoding)
        )

    def _checked(self, shapes) -> tuple:
        """The shape of the ids, if both shapes are there, right, and agree."""
        for name in ("product_ids", "product_categories"):
            if name not in shapes:
                raise ValueError(f"inputs must hold {name!r}, got {sorted(shapes)}")
        ids, categories = tuple(shapes["product_ids"]), tuple(shapes["product_categories"])
        if len(ids) != 2 or ids[1] is None or ids[1] < 2:
            raise ValueError(f"product_ids must be of shape (batch, products), 2 products or more, got {ids}")
        if not same(categories, (ids[0], ids[1], len(self.categories))):
            raise ValueError(
                f"product_categories must be of shape (batch, {ids[1]}, {len(self.categories)}), got {categories}"
            )
        return ids

    def forecast(self, ids, categories):
        """Forecasts what follows `ids` (B, T - 1) with `categories` (B, T - 1, levels); returns what `call` returns."""
        encoding = self.encode(ids, categories)
        return ops.softmax(self._logits(_latest(encoding, _is_product(ids))), axis=-1), encoding

    def encode(self, ids, categories, training=False):
        """(B, L, D) encodings of up to T - 1 products, each of itself and those before it; zeros at padding."""
        vectors = [self.product_embedding(ids)]
        for level, (embedding, size) in enumerate(zip(self.category_embeddings, self.categories, strict=True)):
            category, known = _known(categories[:, :, level], size)
            vector = embedding(category)
            vectors.append(vector * ops.cast(ops.expand_dims(known, -1), vector.dtype))
        tokens = self.projection(ops.concatenate(vectors, axis=-1))
        return self.encoder(tokens, mask=_is_product(ids), training=training)

    def _logits(self, encoding):
        return ops.cast(self.output_layer(encoding), "float32")

    def _self_supervised_loss(self, ids, categories):
        is_product = _is_product(ids)
        target, known = _known(categories[:, :, -1], self.categories[-1])
        encoding = self.encode(ids[:, :-1], categories[:, :-1], training=True)
        counts = ops.logical_and(is_product, known)
        if self.targets == "last":
            encoding, target = _latest(encoding, is_product[:, :-1]), target[:, -1]
            counts = ops.logical_and(counts[:, -1], ops.any(is_product[:, :-1], axis=1))
        else:
            target, counts = target[:, 1:], ops.logical_and(counts[:, 1:], is_product[:, :-1])
        counts = ops.cast(counts, "float32")
        loss = ops.sparse_categorical_crossentropy(target, self._logits(encoding), from_logits=True)
        return ops.sum(loss * counts) / ops.maximum(ops.sum(counts), 1.0)

    def hit_rates(self, product_ids, product_categories, batch_size: int = 1024) -> dict[str, float]:
        """Shares of sequences whose last product's finest category is forecast from the products before it.

        Sequences count as in the loss. A rule that finds no known category misses.

        Args:
            product_ids: (B, T) array.
            product_categories: (B, T, levels) array.
            batch_size: Sequences at once.

        Returns:
            {"model", "model_at_10", "most_frequent", "latest"}: of the model's most probable category, of its ten most
            probable ones, and of the two rules: the category that most products before had (of several, the one that
            came latest), and the latest product's. Among equally probable categories the lower one comes first. NaN if
            no sequence counts.
        """
        ids, categories = np.asarray(product_ids), np.asarray(product_categories)
        finest = categories[:, :, -1]
        known = (ids != -1) & (finest >= 0) & (finest < self.categories[-1])
        counts = known[:, -1] & (ids[:, :-1] != -1).any(axis=1)
        names = ("model", "model_at_10", "most_frequent", "latest")
        if not counts.any():
            return dict.fromkeys(names, float("nan"))
        ids, categories, finest, known = ids[counts], categories[counts], finest[counts], known[counts]
        context, target = np.where(known, finest, -1)[:, :-1], finest[:, -1]
        ranks = []
        for begin in range(0, len(ids), batch_size):
            part = slice(begin, begin + batch_size)
            probabilities = ops.convert_to_numpy(self.forecast(ids[part, :-1], categories[part, :-1])[0])
            wanted = np.take_along_axis(probabilities, target[part, None], axis=1)
            before = np.arange(probabilities.shape[1]) < target[part, None]
            ranks.append(((probabilities > wanted) | (before & (probabilities == wanted))).sum(axis=1))
        rank = np.concatenate(ranks)
        hits = (rank < 1, rank < 10, _most_frequent(context) == target, _last_known(context) == target)
        return {name: float(hit.mean()) for name, hit in zip(names, hits, strict=True)}

    def compute_output_shape(self, input_shape):
        batch, products = input_shape["product_ids"]
        return (batch, self.categories[-1]), (batch, products - 1, self.model_width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "product_bins": self.product_bins,
            "categories": self.categories,
            "embedding_dim": self.embedding_dim,
            "model_width": self.model_width,
            "layers": self.encoder_layers,
            "heads": self.heads,
            "feed_forward_width": self.feed_forward_width,
            "dropout": self.dropout,
            "targets": self.targets,
        }


def _is_product(ids):
    return ops.not_equal(ids, -1)


def _known(category, size: int):
    """Categories as int32 in [0, size), and whether they were."""
    known = ops.logical_and(category >= 0, category < size)
    return ops.cast(ops.where(known, category, 0), "int32"), known


def _latest(encoding, is_product):
    """(B, D) of the latest product of each row; of the first entry, which is zeros, where there is none."""
    position = ops.argmax(ops.where(is_product, ops.arange(is_product.shape[1]), 0), axis=1)
    return ops.squeeze(ops.take_along_axis(encoding, ops.reshape(position, (-1, 1, 1)), axis=1), 1)


def _last_known(context: np.ndarray) -> np.ndarray:
    """(B,) the last entry of each row that isn't -1; -1 if there is none."""
    position = np.where(context >= 0, np.arange(context.shape[1]), 0).max(axis=1)
    return np.take_along_axis(context, position[:, None], axis=1)[:, 0]


def _most_frequent(context: np.ndarray) -> np.ndarray:
    """(B,) the most frequent entry of each row that isn't -1, of several the one that came last; -1 if none."""
    times = (context[:, :, None] == context[:, None, :]).sum(axis=2)
    length = context.shape[1]
    score = np.where(context >= 0, times * length + np.arange(length), -1)
    return np.take_along_axis(context, score.argmax(axis=1)[:, None], axis=1)[:, 0]
