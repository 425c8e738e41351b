"""The room's side of the ranker: forecasters, and the vector that they tell the ranker."""

import keras
from keras import ops

from keras_models.product_forecaster import ProductForecaster
from keras_models.ranker_config import RankerConfig
from keras_models.semantic_id_forecaster import SemanticIdForecaster
from keras_models.statistic_forecaster import StatisticForecaster


@keras.saving.register_keras_serializable(package="live_foresight")
class RoomForesight(keras.layers.Layer):
    """Runs the forecasters that a variant has, and joins what they say of a room into one vector.

        statistic:             level = [forecast (H x N) ; latest, mean and deviation (3 x N)], raw counts
                               statistic_encoding = encoding (N x D)
        historical_content:    I, the encoded semantic ids, pooled (D)
        foresight_prediction:  D, the decoder's output for the next segment (D)
        product:               next_category = stop_gradient(softmax) @ C3' (E)
                               product_encoding = encoding ((T - 1) x D)

    The forecasters train themselves: in training each adds its loss, and no gradient goes from the vector into them.
    C3', an embedding of the next product's category, is the ranker's and the only thing here that its losses train.

    Args:
        config: A `RankerConfig`, or its `to_dict()`.

    Reference: LiveForesighter, equations 3 and 5; Foresight Prediction (WSDM 2026), section 3.2.1.
    """

    def __init__(self, config: RankerConfig | dict, **kwargs) -> None:
        super().__init__(autocast=False, **kwargs)
        self.config = config if isinstance(config, RankerConfig) else RankerConfig.from_dict(config)

    def build(self, input_shape=None) -> None:
        """Builds every forecaster; shapes follow from the configuration, so `input_shape` isn't looked at."""
        config = self.config
        common = {
            "model_width": config.model_width,
            "heads": config.forecaster_heads,
            "dropout": config.forecaster_dropout,
            "dtype": self.dtype_policy,
        }
        self.statistic_forecaster = self.semantic_id_forecaster = self.product_forecaster = None
        if config.uses("statistic"):
            self.statistic_forecaster = StatisticForecaster(
                config.horizon,
                layers=config.forecaster_layers,
                log1p=config.log1p,
                name="statistic_forecaster",
                **common,
            )
        if config.uses("historical_content") or config.uses("foresight_prediction"):
            self.semantic_id_forecaster = SemanticIdForecaster(
                config.codes,
                encoder_layers=config.forecaster_layers,
                max_run_length=config.max_run_length,
                # Without positions it can't tell the order of the runs, nor which is the latest.
                positions=config.semantic_id_length,
                name="semantic_id_forecaster",
                **common,
            )
        if config.uses("product"):
            self.product_forecaster = ProductForecaster(
                product_bins=config.product_bins,
                embedding_dim=config.embedding_dim,
                categories=config.categories,
                targets="all",  # of the products shown few are new: the whole sequence teaches more than its end
                layers=config.forecaster_layers,
                name="product_forecaster",
                **common,
            )
            self.next_category_embedding = self.add_weight(
                name="next_category_embedding",
                shape=(config.categories[-1], config.embedding_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
        shapes = {name: (None, *shape) for name, (_, shape) in config.room_shapes.items()}
        for forecaster in self.forecasters:
            forecaster.build(shapes)

    @property
    def forecasters(self) -> list[keras.Model]:
        """Those that the variant has."""
        every = (self.statistic_forecaster, self.semantic_id_forecaster, self.product_forecaster)
        return [forecaster for forecaster in every if forecaster is not None]

    def call(self, inputs, training=None):
        """Maps the sequences of `config.room_shapes`, by name, to `config.foresight_parts` in one (B, sum), float32."""
        config, parts = self.config, {}
        if self.statistic_forecaster is not None:
            forecast, encoding = self.statistic_forecaster(inputs, training=training)
            parts["level"] = ops.concatenate([forecast, self.statistic_forecaster.level(inputs)], axis=1)
            parts["statistic_encoding"] = encoding
        if self.semantic_id_forecaster is not None:
            content, prediction = self.semantic_id_forecaster(inputs, training=training)
            parts |= {"historical_content": content, "foresight_prediction": prediction}
        parts = {name: ops.stop_gradient(value) for name, value in parts.items()}
        if self.product_forecaster is not None:
            probabilities, encoding = self.product_forecaster(inputs, training=training)
            table = ops.convert_to_tensor(self.next_category_embedding)
            parts["next_category"] = ops.matmul(ops.cast(ops.stop_gradient(probabilities), table.dtype), table)
            parts["product_encoding"] = ops.stop_gradient(encoding)
        flat = [
            ops.cast(ops.reshape(parts[name], (-1, width)), "float32") for name, width in config.foresight_parts.items()
        ]
        return ops.concatenate(flat, axis=-1)

    def compute_output_shape(self, input_shape):
        return (next(iter(input_shape.values()))[0], sum(self.config.foresight_parts.values()))

    def compute_output_spec(self, inputs, training=None):
        shape = self.compute_output_shape({name: value.shape for name, value in inputs.items()})
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict:
        return {**super().get_config(), "config": self.config.to_dict()}
