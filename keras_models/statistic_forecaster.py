"""Self-supervised forecaster of a room's statistics."""

import keras
import numpy as np
from keras import ops

from keras_models.layers.inverted_transformer import InvertedTransformer
from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization


@keras.saving.register_keras_serializable(package="live_foresight")
class StatisticForecaster(keras.Model):
    """Forecasts the next H windows of N metrics from the last T - H, and encodes each metric.

        train:  forecast(S[:, :T-H])  ->  S[:, T-H:]        adds its loss
        serve:  forecast(S[:, H:])    ->  steps T+1 .. T+H  returned

        forecast(S) = RevIN^-1(Linear(D -> H)(InvertedTransformer(RevIN(S))))

    The model needs no labels: `compile(optimizer)`, then `fit` on a dict of sequences and masks. In training, `call`
    adds the loss of the first line and returns the second line's outputs without gradient, computed as in serving
    (no dropout), so a ranker that reads them trains on what it will be served.

    The last linear map starts at zero, so that an untrained forecaster gives the mean of its input, the rule to beat.
    The loss is the squared error on raw counts of each metric, divided by that of the mean rule (a running average),
    and then averaged over metrics: it starts at 1, and metrics with large counts don't drown the others. With
    `relative_loss=False` it is the plain mean squared error of LiveForesighter's equation 2. Examples whose input
    holds padding only don't count.

    Args:
        horizon: H, steps to forecast.
        model_width: D.
        layers: Encoder layers.
        heads: Attention heads.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout.
        log1p: Whether the encoder sees sign(x) log(1 + |x|) in place of x. Forecasts are raw counts either way.
        relative_loss: Whether a metric's loss is relative to the mean rule's.

    Reference: LiveForesighter, equations 2 and 3.
    """

    def __init__(
        self,
        horizon: int,
        model_width: int = 64,
        layers: int = 2,
        heads: int = 4,
        feed_forward_width: int | None = None,
        dropout: float = 0.1,
        log1p: bool = False,
        relative_loss: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {horizon}")
        self.horizon = horizon
        self.model_width = model_width
        self.encoder_layers = layers
        self.heads = heads
        self.feed_forward_width = feed_forward_width
        self.dropout = dropout
        self.log1p = log1p
        self.relative_loss = relative_loss

    def build(self, input_shape) -> None:
        """Builds for {"statistic_sequence": (B, T, N), "statistic_mask": (B, T)}."""
        batch, steps, metrics = input_shape["statistic_sequence"]
        if steps <= self.horizon:
            raise ValueError(f"sequences must be longer than the horizon of {self.horizon} steps, got {steps}")
        window = (batch, steps - self.horizon, metrics)
        self.normalization = ReversibleInstanceNormalization(dtype=self.dtype_policy, name="normalization")
        self.normalization.build(window)
        if self.log1p:
            self.log_normalization = ReversibleInstanceNormalization(dtype=self.dtype_policy, name="log_normalization")
            self.log_normalization.build(window)
        self.encoder = InvertedTransformer(
            model_width=self.model_width,
            layers=self.encoder_layers,
            heads=self.heads,
            feed_forward_width=self.feed_forward_width,
            dropout=self.dropout,
            dtype=self.dtype_policy,
            name="encoder",
        )
        self.encoder.build(window)
        self.projection = keras.layers.Dense(
            self.horizon, kernel_initializer="zeros", dtype=self.dtype_policy, name="projection"
        )
        self.projection.build((batch, metrics, self.model_width))
        self.mean_rule_error = self.add_weight(
            name="mean_rule_error",
            shape=(metrics,),
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )
        self.batches = self.add_weight(
            name="batches",
            shape=(),
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="mean",
        )

    def call(self, inputs, training=None):
        """Forecasts what follows.

        Args:
            inputs: {"statistic_sequence": (B, T, N) raw counts, oldest first, "statistic_mask": (B, T), 1 where a step
                is valid; padding stands in front}.

        Returns:
            forecast (B, H, N) of raw counts in float32, encoding (B, N, D). Neither carries a gradient in training.
        """
        sequence, mask = inputs["statistic_sequence"], inputs["statistic_mask"]
        if training:
            self.add_loss(self._self_supervised_loss(sequence, mask))
        forecast, encoding = self.forecast(sequence[:, self.horizon :], mask[:, self.horizon :])
        return (ops.stop_gradient(forecast), ops.stop_gradient(encoding)) if training else (forecast, encoding)

    def forecast(self, window, mask, training=False):
        """Forecasts the H steps after `window` (B, T - H, N) with `mask` (B, T - H); returns what `call` returns."""
        normalized, mean, deviation = self.normalization(window, mask=mask)
        if self.log1p:
            window = ops.cast(window, "float32")
            normalized, _, _ = self.log_normalization(ops.sign(window) * ops.log1p(ops.abs(window)), mask=mask)
        encoding = self.encoder(normalized, training=training)
        projected = ops.transpose(self.projection(encoding), (0, 2, 1))
        return self.normalization.inverse(projected, mean, deviation), encoding

    def level(self, inputs):
        """Latest counts, mean and deviation (B, 3, N) of the window from which `call` forecasts, raw, in float32."""
        sequence, mask = inputs["statistic_sequence"], inputs["statistic_mask"]
        _, mean, deviation = self.normalization(sequence[:, self.horizon :], mask=mask[:, self.horizon :])
        return ops.concatenate([ops.cast(sequence[:, -1:], "float32"), mean, deviation], axis=1)

    def _self_supervised_loss(self, sequence, mask):
        sequence, mask = ops.cast(sequence, "float32"), ops.cast(mask, "float32")
        window, window_mask = sequence[:, : -self.horizon], mask[:, : -self.horizon]
        target = sequence[:, -self.horizon :]
        counts = ops.max(window_mask, axis=1)
        counts = counts / ops.maximum(ops.sum(counts), 1.0)
        forecast, _ = self.forecast(window, window_mask, training=True)
        error = ops.sum(ops.mean(ops.square(forecast - target), axis=1) * ops.expand_dims(counts, -1), axis=0)
        if self.relative_loss:
            error = error / ops.maximum(self._updated_mean_rule_error(window, window_mask, target, counts), 1e-3)
        return ops.mean(error)

    def _updated_mean_rule_error(self, window, mask, target, counts):
        """(N,) running average of the mean rule's squared error: plain over the first 100 batches, then exponential."""
        steps = ops.maximum(ops.sum(mask, axis=1), 1.0)
        mean = ops.sum(window * ops.expand_dims(mask, -1), axis=1) / ops.expand_dims(steps, -1)
        error = ops.mean(ops.square(target - ops.expand_dims(mean, 1)), axis=1)
        error = ops.sum(error * ops.expand_dims(counts, -1), axis=0)
        any_counts = ops.sum(counts)  # 1, or 0 in a batch of nothing but padding, which then changes nothing
        self.batches.assign(self.batches + any_counts)
        share = any_counts * ops.maximum(1.0 / ops.maximum(self.batches, 1.0), 0.01)
        self.mean_rule_error.assign(self.mean_rule_error + share * (error - self.mean_rule_error))
        return ops.stop_gradient(ops.convert_to_tensor(self.mean_rule_error))

    def errors(self, sequence, mask, batch_size: int = 4096) -> dict[str, float]:
        """Mean squared errors on raw counts over metrics and steps: of the model and of the two rules to beat.

        Each example's last H steps are forecast from the T - H before them.

        Args:
            sequence: (B, T, N) array of raw counts.
            mask: (B, T) array, 1 where a step is valid.
            batch_size: Examples at once.

        Returns:
            {"model", "mean", "latest"}; NaN if no example's input holds a valid step.
        """
        sequence, mask = np.asarray(sequence, np.float32), np.asarray(mask, np.float32)
        keep = mask[:, : -self.horizon].any(axis=1)
        sequence, mask = sequence[keep], mask[keep]
        if not len(sequence):
            return {"model": float("nan"), "mean": float("nan"), "latest": float("nan")}
        window, window_mask = sequence[:, : -self.horizon], mask[:, : -self.horizon]
        target = sequence[:, -self.horizon :]
        forecast = np.concatenate(
            [
                ops.convert_to_numpy(
                    self.forecast(window[begin : begin + batch_size], window_mask[begin : begin + batch_size])[0]
                )
                for begin in range(0, len(window), batch_size)
            ]
        )
        mean = (window * window_mask[:, :, None]).sum(axis=1) / window_mask.sum(axis=1)[:, None]
        rules = {"model": forecast, "mean": mean[:, None], "latest": window[:, -1:]}
        return {name: float(np.square(rule - target, dtype=np.float64).mean()) for name, rule in rules.items()}

    def compute_output_shape(self, input_shape):
        batch, _, metrics = input_shape["statistic_sequence"]
        return (batch, self.horizon, metrics), (batch, metrics, self.model_width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "horizon": self.horizon,
            "model_width": self.model_width,
            "layers": self.encoder_layers,
            "heads": self.heads,
            "feed_forward_width": self.feed_forward_width,
            "dropout": self.dropout,
            "log1p": self.log1p,
            "relative_loss": self.relative_loss,
        }
