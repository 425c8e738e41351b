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

        foresight = stop_gradient([flatten(forecast) ; flatten(encoding)])           variant "statistic"
        x = [user ; author ; target attention over entered authors ; soft buckets(dense features) ; foresight]
        p_k = sigmoid(tower_k(sum_i softmax(W_k x)_i expert_i(x)))

    The forecaster trains itself beside the ranker: its loss is added in `call`, and no gradient of the ranking losses
    reaches it. It sees room-side features only, so `call` is the same as `forecast` once a room and window, and `rank`
    once a user. Counts, the forecast's too, are compressed and standardised by the ranker's own running statistics.

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
        if self.built:
            return
        config, policy = self.config, self.dtype_policy
        width = config.embedding_dim

        def table(bins, name):
            layer = HashedEmbedding(bins, width, embeddings_initializer=_SMALL, dtype=policy, name=name)
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
        import os
        X=os.environ.get('INTER','')
        ex=0 if not X else 2*width if 's' not in X and 'o' not in X else 2*width+2 if 's' in X else 2
        total = ex + 3 * width + dense_width * (1 + config.bucket_steps)
        if config.variant == "statistic":
            self._build_foresight()
            total += config.horizon * config.metrics + config.foresight_units
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
        self.built = True

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
        self.forecast_normalization = RunningNormalization(dtype=policy, name="forecast_normalization")
        self.forecast_normalization.build((None, config.horizon * config.metrics))
        self.encoding_layer = keras.layers.Dense(
            config.foresight_units, activation="relu", kernel_initializer="he_uniform", dtype=policy, name="encoding_layer"
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
            {"foresight": (B, F)}, float32: the forecast of raw counts (H x N), then the encoding (N x D), flattened.

        Raises:
            ValueError: In the variant "base", which has no forecaster.
        """
        config = self.config
        if config.variant == "base":
            raise ValueError('the variant "base" has no forecaster; build the ranker with variant="statistic"')
        forecast, encoding = self.forecaster({name: inputs[name] for name in config.room_shapes}, training=training)
        parts = [
            ops.reshape(forecast, (-1, config.horizon * config.metrics)),
            ops.reshape(ops.cast(encoding, "float32"), (-1, config.metrics * config.model_width)),
        ]
        return {"foresight": ops.stop_gradient(ops.concatenate(parts, axis=-1))}

    def rank(self, inputs):
        """Scores from features and foresight, as in `config.rank_shapes`; returns what `call` returns."""
        return self._score(inputs, training=False)

    def _score(self, inputs, training):
        config = self.config
        ids = ops.stack([self.user_embedding(inputs["user_id"]), self.author_embedding(inputs["author_id"])], axis=1)
        history = inputs["entered_authors"]
        interest = self.history_attention(
            ids[:, 1], self.author_embedding(history), keys_mask=self.author_embedding.compute_mask(history)
        )
        import os
        X=os.environ.get('INTER','')
        if X:
            valid = ops.cast(ops.expand_dims(self.author_embedding.compute_mask(history), -1), interest.dtype)
            hist = ops.sum(self.author_embedding(history), axis=1) / ops.sqrt(1+ops.sum(valid, axis=1))
            a=ids[:, 1]; u=ids[:,0]
            inter=[u*a, hist*a]
            if 's' in X: inter=inter+[ops.sum(v,axis=-1,keepdims=True) for v in inter]
            if 'o' in X: inter=[ops.sum(v,axis=-1,keepdims=True)  for v in inter]
            if 'n' in X: inter=[v*float(X.strip('nso')) for v in inter]
        ids = self.id_dropout(ids, training=training)
        dense = ops.concatenate([ops.cast(inputs[name], "float32") for name in config.dense_features], axis=-1)
        parts = [
            ops.reshape(ids, (-1, 2 * config.embedding_dim)),
            interest,
            *(inter if X else []),
            self.dense_buckets(self.dense_normalization(dense, training=training)),
        ]
        if config.variant == "statistic":
            split = config.horizon * config.metrics
            foresight = inputs["foresight"]
            parts.append(self.forecast_normalization(foresight[:, :split], training=training))
            parts.append(self.encoding_layer(foresight[:, split:]))
        mixed = self.tower_dropout(self.experts(ops.concatenate(parts, axis=-1)), training=training)
        logits = ops.cast(self.logits(self.towers(mixed)), "float32")
        # The sigmoid comes last, so that the loss finds the logits behind it and stays exact at both ends.
        return {task: keras.activations.sigmoid(logits[:, k]) for k, task in enumerate(config.tasks)}

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
        return {task: (input_shape["user_id"][0], 1) for task in self.config.tasks}

    def get_config(self) -> dict:
        return {"config": self.config.to_dict(), "dtype": keras.dtype_policies.serialize(self.dtype_policy), "name": self.name}


_SMALL = keras.initializers.RandomNormal(stddev=0.01)
