"""The multi-task ranker of live rooms."""

import keras
from keras import ops

from keras_models.layers._shapes import same
from keras_models.layers.hashed_embedding import HashedEmbedding
from keras_models.layers.running_normalization import RunningNormalization
from keras_models.layers.soft_buckets import SoftBuckets
from keras_models.layers.target_attention import TargetAttention
from keras_models.optimizers.lazy_adam import LazyAdam
from keras_models.ranker_config import RankerConfig
from keras_models.room_foresight import RoomForesight
from keras_models.task_networks import TaskNetworks


@keras.saving.register_keras_serializable(package="live_foresight")
class LiveRanker(keras.Model):
    """Scores (user, room) pairs on several tasks, knowing what the room is about to show.

        x = [user ; author ; target attention over entered authors ; affinities ; dense features ; foresight]
        affinities = scale [<user, author> ; <sum of entered authors / sqrt(1 + their number), author>]
        p_k = sigmoid(logit_k(x))

    `foresight` is what the variant's forecasters say of the room (see `RoomForesight`), `logit_k` a multi-gate mixture
    of experts or one of its baselines (see `TaskNetworks`). The forecasters train themselves beside the ranker: their
    losses are added in `call`, and no gradient of the ranking losses reaches them. They see room-side features only,
    so `call` is the same as `forecast` once a room and window, and `rank` once a user. Counts, forecast ones too, are
    compressed and standardised by the ranker's own running statistics.

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
        config, policy, width = self.config, self.dtype_policy, self.config.embedding_dim
        self.user_embedding = self._id_table(config.user_bins, "user_embedding")
        self.author_embedding = self._id_table(config.author_bins, "author_embedding")
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
        number_widths = {"dense": dense_width * (1 + config.bucket_steps)}
        if config.foresight_size:
            number_widths["foresight"] = self._build_foresight()
        self.number_fields = []
        if config.architecture == "fm":
            # Numbers take part in the interactions as vectors: one of the dense features, one of the foresight.
            for name, numbers in number_widths.items():
                self.number_fields.append(keras.layers.Dense(width, dtype=policy, name=f"{name}_field"))
                self.number_fields[-1].build((None, numbers))
        self.task_networks = TaskNetworks(config, dtype=policy, name="task_networks")
        features = 3 * width + 2 + sum(number_widths.values())
        self.task_networks.build((None, features), (None, 3 + len(self.number_fields), width))

    def _id_table(self, bins: int, name: str) -> HashedEmbedding:
        initializer = keras.initializers.RandomNormal(stddev=self.config.embedding_stddev)
        table = HashedEmbedding(
            bins, self.config.embedding_dim, embeddings_initializer=initializer, dtype=self.dtype_policy, name=name
        )
        table.build((None,))
        return table

    def _build_foresight(self) -> int:
        """Builds the room's side and what reads it: counts are normalised, each encoding is mapped by a layer."""
        policy = self.dtype_policy
        self.foresight = RoomForesight(self.config, dtype=policy, name="foresight")
        self.foresight.build()
        self.foresight_readers = []
        for name, width in self.config.foresight_parts.items():
            reader: keras.layers.Layer
            if name == "level":
                reader = RunningNormalization(dtype=policy, name="level_reader")
            else:
                reader = keras.layers.Dense(
                    self.config.foresight_units,
                    activation="relu",
                    kernel_initializer="he_uniform",
                    dtype=policy,
                    name=f"{name}_reader",
                )
            reader.build((None, width))
            self.foresight_readers.append(reader)
        return self.config.foresight_size

    def call(self, inputs, training=None):
        """Scores from raw features.

        Args:
            inputs: Tensors by name, as in `config.input_shapes`: `user_id` and `author_id` (B,), `entered_authors`
                (B, L) with -1 for padding, the dense features (B, width), and the sequences of the room: of these
                only what the variant uses, `config.room_shapes`, is looked at. Other names are ignored.

        Returns:
            {task: (B, 1) probability}, float32.
        """
        if not self.config.foresight_size:
            return self._score(inputs, training)
        return self._score({**inputs, **self.forecast(inputs, training=training)}, training)

    def forecast(self, inputs, training=None):
        """Foresight of rooms, from the sequences in `config.room_shapes` alone, as the ranker reads it.

        Reading belongs to this side, too: it depends on the room alone, and what is stored and sent a request is a few
        numbers instead of whole encodings.

        Returns:
            {"foresight": (B, F)}, float32, its parts as in `config.read_parts`.

        Raises:
            ValueError: In the variant "base", which has no forecaster.
        """
        if not self.config.foresight_size:
            raise ValueError('the variant "base" has no forecaster; build the ranker with variant="statistic"')
        _check(inputs, self.config.room_shapes)
        room = {name: inputs[name] for name in self.config.room_shapes}
        return {"foresight": self._read(self.foresight(room, training=training), training)}

    def rank(self, inputs):
        """Scores from features and foresight, as in `config.rank_shapes`; returns what `call` returns."""
        return self._score(inputs, training=False)

    def _score(self, inputs, training):
        config = self.config
        _check(inputs, config.rank_shapes)
        user, author = self.user_embedding(inputs["user_id"]), self.author_embedding(inputs["author_id"])
        entered = self.author_embedding(inputs["entered_authors"])
        is_entry = self.author_embedding.compute_mask(inputs["entered_authors"])
        interest = self.history_attention(author, entered, keys_mask=is_entry)
        ids = self.id_dropout(ops.stack([user, author], axis=1), training=training)
        # Vectors are small at start, so that ids not seen yet say little; without the scale so would their products.
        entries = ops.sum(ops.cast(is_entry, entered.dtype), axis=1, keepdims=True)
        history = ops.sum(entered, axis=1) * ops.rsqrt(1 + entries)
        vectors = ops.stack([ids[:, 0], history, ids[:, 1]], axis=1)
        affinities = ops.sum(vectors[:, :2] * vectors[:, 2:], axis=-1) * config.affinity_scale

        dense = ops.concatenate([ops.cast(inputs[name], "float32") for name in config.dense_features], axis=-1)
        numbers = [self.dense_buckets(self.dense_normalization(dense, training=training))]
        if config.foresight_size:
            numbers.append(ops.cast(inputs["foresight"], self.compute_dtype))
        features = ops.concatenate(
            [ops.reshape(ids, (-1, 2 * config.embedding_dim)), interest, affinities, *numbers], axis=-1
        )
        fields = [ops.expand_dims(field(x), 1) for field, x in zip(self.number_fields, numbers, strict=False)]
        fields = ops.concatenate([vectors, *fields], axis=1)
        logits = ops.cast(self.task_networks(features, fields, training=training), "float32")
        # The sigmoid comes last, so that the loss finds the logits behind it and stays exact at both ends.
        return {task: keras.activations.sigmoid(logits[:, k : k + 1]) for k, task in enumerate(config.tasks)}

    def _read(self, foresight, training):
        """What the forecasters say, `config.foresight_parts` in one vector, as (B, F) features of the ranker."""
        read, begin = [], 0
        for reader, width in zip(self.foresight_readers, self.config.foresight_parts.values(), strict=True):
            part, begin = foresight[:, begin : begin + width], begin + width
            if isinstance(reader, RunningNormalization):
                read.append(ops.cast(reader(part, training=training), "float32"))
            else:
                read.append(ops.cast(reader(ops.cast(part, self.compute_dtype)), "float32"))
        return ops.concatenate(read, axis=-1)

    def compile_defaults(self, learning_rate: float = 2e-3, steps: int | None = None) -> None:
        """Compiles with LazyAdam and one binary cross-entropy a task, weights and masks coming in as sample weights.

        A step touches the rows of the users' and authors' tables that a batch looks up, however large the tables are.
        There is no global gradient clipping: it would let the ranker's gradient change the forecaster's step.

        Args:
            learning_rate: At start.
            steps: Number of batches over which the learning rate falls to a twentieth, along a cosine, as suits a run
                with an end; None keeps it, as suits a stream.
        """
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps, alpha=0.05) if steps else learning_rate
        self.compile(
            optimizer=LazyAdam(rate),
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


def _check(inputs, shapes) -> None:
    """Raises a ValueError unless `inputs` holds every name of `shapes`, name -> (dtype, shape without the batch)."""
    for name, (_, shape) in shapes.items():
        if name not in inputs:
            raise ValueError(f"inputs must hold {name!r}, got {sorted(inputs)}")
        given = tuple(inputs[name].shape)
        if not given or not same(given[1:], shape):
            expected = ", ".join(["batch", *map(str, shape)])
            raise ValueError(f"{name} must have shape ({expected}), got {given}")
