"""The multi-task ranker of live rooms."""

import keras
from keras import ops

from keras_models.layers.grouped_dense import GroupedDense
from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.layers.multi_gate_mixture_of_experts import MultiGateMixtureOfExperts
from keras_models.layers.running_normalization import RunningNormalization
from keras_models.layers.soft_buckets import SoftBuckets
from keras_models.layers.target_attention import TargetAttention
from keras_models.ranker_config import RankerConfig
from keras_models.statistic_forecaster import StatisticForecaster


@keras.saving.register_keras_serializable(package="live_foresight")
class LiveRanker(keras.Model):
    """Scores (user, room) pairs on several tasks, knowing what the room is about to show.

        foresight = stop_gradient([flatten(forecast) ; level ; flatten(encoding)])           variant "statistic"
        x = [user ; author ; target attention over entered authors ; affinities ; dense features ; foresight]
        affinities = scale [<user, author> ; <sum of entered authors / sqrt(1 + their number), author>]
        p_k = sigmoid(tower_k(sum_i softmax(W_k x)_i expert_i(x)))

    The forecaster trains itself beside the ranker: its loss is added in `call`, and no gradient of the ranking losses
    reaches it. It sees room-side features only, so `call` is the same as `forecast` once a room and window, and `rank`
    once a user. Counts, the forecast's too, are compressed and standardised by the ranker's own running statistics.

    Two departures from the papers. The window's level (latest counts, mean, deviation) goes along with the forecast,
    because the encoding is that of a normalised window and doesn't tell a busy room from a quiet one. The affinities
    give taste as dot products: from concatenated ids alone, experts learn it only after far more examples.

    All children are built by the constructor: weights can be loaded before anything was called.

    Args:
        config: A `RankerConfig`, or its `to_dict()`.

    Reference: Foresight Prediction (WSDM 2026), section 3.2; LiveForesighter, sections 2.1 and 2.2.
    """

    def __init__(self, config: RankerConfig | dict, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config = config if isinstance(config, RankerConfig) else RankerConfig.from_dict(config)
        self.build()

    def build(self, input_shape=None) -> None:
        """Builds every child; shapes follow from the configuration, so `input_shape` isn't looked at."""
        if getattr(self, "built", False):
            return
        config, policy = self.config, self.dtype_policy
        width = config.embedding_dim

        def table(bins, name):
            initializer = keras.initializers.RandomNormal(stddev=config.embedding_stddev)
            layer = HashedEmbedding(bins, width, embeddings_initializer=initializer, dtype=policy, name=name)
            layer.build((None,))
            return layer

        self.user_embedding = table(config.user_bins, "user_embedding")
        self.author_embedding = table(config.author_bins, "author_embedding")
        # Whole vectors are dropped, not single entries: see RankerConfig.embedding_dropout.
        self.id_dropout = keras.layers.Dropout(
            config.embedding_dropout, noise_shape=(None, None, 1), dtype=policy, name="id_dropout"
        )
        self.history_attention = TargetAttention(config.attention_units, dtype=policy, name="history_attention")
        self.history_attention.build((None, width), (None, config.entered_authors_length, width))
        dense_width = sum(config.dense_features.values())
        self.dense_normalization = RunningNormalization(dtype=policy, name="dense_normalization")
        self.dense_normalization.build((None, dense_width))
        self.dense_buckets = SoftBuckets(config.bucket_steps, dtype=policy, name="dense_buckets")
        self.dense_buckets.build((None, dense_width))
        total = 3 * width + 2 + dense_width * (1 + config.bucket_steps)
        if config.variant == "statistic":
            self._build_foresight()
            total += config.level_size + config.foresight_units
        self.experts = MultiGateMixtureOfExperts(
            len(config.tasks), config.experts, config.expert_units, dtype=policy, name="experts"
        )
        self.experts.build((None, total))
        self.tower_dropout = keras.layers.Dropout(config.dropout, dtype=policy, name="tower_dropout")
        self.towers = GroupedDense(config.tower_units, activation="relu", dtype=policy, name="towers")
        self.towers.build((None, len(config.tasks), config.expert_units[-1]))
        self.logits = GroupedDense(
            1,
            kernel_initializer="lecun_uniform",
            bias_initializer=keras.initializers.Constant(config.initial_logit),
            dtype=policy,
            name="logits",
        )
        self.logits.build((None, len(config.tasks), config.tower_units))

    def _build_foresight(self) -> None:
        config, policy = self.config, self.dtype_policy
        self.forecaster = StatisticForecaster(
            horizon=config.horizon,
            model_width=config.model_width,
            layers=config.forecaster_layers,
            heads=config.forecaster_heads,
            dropout=config.forecaster_dropout,
            log1p=config.log1p,
            dtype=policy,
            name="forecaster",
        )
        self.forecaster.build({name: (None, *shape) for name, shape in config.room_shapes.items()})
        self.level_normalization = RunningNormalization(dtype=policy, name="level_normalization")
        self.level_normalization.build((None, config.level_size))
        self.encoding_layer = keras.layers.Dense(
            config.foresight_units,
            activation="relu",
            kernel_initializer="he_uniform",
            dtype=policy,
            name="encoding_layer",
        )
        self.encoding_layer.build((None, config.metrics * config.model_width))

    def call(self, inputs, training=None):
        """Scores from raw features.

        Args:
            inputs: Tensors by name, as in `config.input_shapes`: `user_id` and `author_id` (B,), `entered_authors`
                (B, L) with -1 for padding, `statistic_sequence` (B, T, N), `statistic_mask` (B, T), and the dense
                features (B, width). Others are ignored, and so are the room's sequences in the variant "base".

        Returns:
            {task: (B, 1) probability}, float32.
        """
        if self.config.variant == "base":
            return self._score(inputs, training)
        return self._score({**inputs, **self.forecast(inputs, training=training)}, training)

    def forecast(self, inputs, training=None):
        """Foresight of rooms, from `statistic_sequence` (B, T, N) and `statistic_mask` (B, T) alone.

        Returns:
            {"foresight": (B, F)}, float32, flattened: the forecast of raw counts (H x N), the level of the window that
            it was made from (3 x N, see `StatisticForecaster.level`), and the encoding (N x D).

        Raises:
            ValueError: In the variant "base", which has no forecaster.
        """
        config = self.config
        if config.variant == "base":
            raise ValueError('the variant "base" has no forecaster; build the ranker with variant="statistic"')
        room = {name: inputs[name] for name in config.room_shapes}
        forecast, encoding = self.forecaster(room, training=training)
        raw = ops.concatenate([forecast, self.forecaster.level(room)], axis=1)
        encoding = ops.cast(encoding, "float32")
        parts = [
            ops.reshape(raw, (-1, config.level_size)),
            ops.reshape(encoding, (-1, config.metrics * config.model_width)),
        ]
        return {"foresight": ops.stop_gradient(ops.concatenate(parts, axis=-1))}

    def rank(self, inputs):
        """Scores from features and foresight, as in `config.rank_shapes`; returns what `call` returns."""
        return self._score(inputs, training=False)

    def _score(self, inputs, training):
        config = self.config
        user, author = self.user_embedding(inputs["user_id"]), self.author_embedding(inputs["author_id"])
        entered = self.author_embedding(inputs["entered_authors"])
        is_entry = self.author_embedding.compute_mask(inputs["entered_authors"])
        interest = self.history_attention(author, entered, keys_mask=is_entry)
        ids = self.id_dropout(ops.stack([user, author], axis=1), training=training)
        dense = ops.concatenate([ops.cast(inputs[name], "float32") for name in config.dense_features], axis=-1)
        parts = [
            ops.reshape(ids, (-1, 2 * config.embedding_dim)),
            interest,
            self._affinities(ids, entered, is_entry),
            self.dense_buckets(self.dense_normalization(dense, training=training)),
        ]
        if config.variant == "statistic":
            level, encoding = ops.split(inputs["foresight"], [config.level_size], axis=-1)
            parts.append(self.level_normalization(level, training=training))
            parts.append(self.encoding_layer(ops.cast(encoding, self.compute_dtype)))
        mixed = self.tower_dropout(self.experts(ops.concatenate(parts, axis=-1)), training=training)
        logits = ops.cast(self.logits(self.towers(mixed)), "float32")
        # The sigmoid comes last, so that the loss finds the logits behind it and stays exact at both ends.
        return {task: keras.activations.sigmoid(logits[:, k]) for k, task in enumerate(config.tasks)}

    def _affinities(self, ids, entered, is_entry):
        """(B, 2) dot products of the author's vector with the user's and with that of the user's history."""
        entries = ops.sum(ops.cast(is_entry, entered.dtype), axis=1, keepdims=True)
        history = ops.sum(entered, axis=1) * ops.rsqrt(1 + entries)
        tastes = ops.stack([ids[:, 0], history], axis=1)
        # Vectors are small at start, so that ids not seen yet say little; without the scale so would the products.
        return ops.sum(tastes * ids[:, 1:], axis=-1) * self.config.affinity_scale

    def compile_defaults(self, learning_rate: float = 2e-3, steps: int | None = None) -> None:
        """Compiles with Adam and one binary cross-entropy a task, weights and masks coming in as sample weights.

        There is no global gradient clipping: it would let the ranker's gradient change the forecaster's step.

        Args:
            learning_rate: At start.
            steps: Number of batches over which the learning rate falls to a twentieth, along a cosine, as suits a run
                with an end; None keeps it, as suits a stream.
        """
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.05) if steps else learning_rate
        self.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss={task: keras.losses.BinaryCrossentropy() for task in self.config.tasks},
            jit_compile=False,  # on a CPU it makes steps slower and the first one last seconds
        )

    def compute_output_shape(self, input_shape):
        return dict.fromkeys(self.config.tasks, (input_shape["user_id"][0], 1))

    def get_config(self) -> dict:
        return {
            "config": self.config.to_dict(),
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
        }
