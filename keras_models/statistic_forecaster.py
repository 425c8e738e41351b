"""Self-supervised forecaster of a room's statistics."""

import keras
import numpy as np
from keras import ops

from keras_models.layers.inverted_transformer import InvertedTransformer
from keras_models.layers.reversible_instance_normalization import (
    ReversibleInstanceNormalization,
    representable,
)

_OUTLIER = 100.0  # times the usual error of the mean rule: how far a batch may be off and still count in full


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
    `relative_loss=False` it is the plain mean squared error of LiveForesighter's equation 2. A series whose input
    holds no valid step doesn't count. A count that is NaN, infinite or beyond 1e17 is a missing step of its metric: it
    takes no part as input, and none in the loss or in the running average as target.

    Args:
        horizon: H, steps to forecast.
        model_width: D.
        layers: Encoder layers.
        heads: Attention heads.
        feed_forward_width: Hidden width of the FFN; `model_width` if None.
        dropout: Rate of dropout.
        log1p: Whether the encoder sees sign(x) log(1 + |x|) in place of x. Forecasts are raw counts either way.
        relative_loss: Whether a metric's loss is relative to the mean rule's.

    Example:

    >>> counts = np.random.default_rng(0).poisson(20, (64, 40, 12)).astype("float32")
    >>> inputs = {"statistic_sequence": counts, "statistic_mask": np.ones((64, 40), "float32")}
    >>> forecaster = StatisticForecaster(horizon=3)
    >>> forecaster.compile("adam", jit_compile=False)
    >>> history = forecaster.fit(inputs, epochs=1, verbose=0)
    >>> forecast, encoding = forecaster(inputs)
    >>> tuple(forecast.shape), tuple(encoding.shape)
    ((64, 3, 12), (64, 12, 64))

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
        batch, steps, metrics = self._checked(input_shape)
        if steps <= self.horizon:
            raise ValueError(f"sequences must be longer than the horizon of {self.horizon} steps, got {steps}")
        self.sequence_shape = (steps, metrics)
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
        self.projection.build((None, self.model_width))
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
            shape=(metrics,),
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
        sequence, valid = self._valid(inputs)
        if training:
            self.add_loss(self._self_supervised_loss(sequence, valid))
        forecast, encoding = self.forecast(sequence[:, self.horizon :], valid[:, self.horizon :])
        return (ops.stop_gradient(forecast), ops.stop_gradient(encoding)) if training else (forecast, encoding)

    def forecast(self, window, mask, training=False):
        """Forecasts the H steps after `window` (B, T - H, N) with `mask` (B, T - H) or (B, T - H, N), None if all are
        valid; returns what `call` returns."""
        forecast, encoding, _ = self._forecast(window, mask, training)
        return forecast, encoding

    def _forecast(self, window, mask, training):
        """What `forecast` returns, and the mean (B, 1, N) of the window's valid steps."""
        normalized, mean, deviation = self.normalization(window, mask=mask)
        if self.log1p:
            window = ops.cast(window, "float32")
            known = representable(window)  # of the logarithm 1e17 is no bound
            window = ops.where(known, window, ops.zeros_like(window))
            if mask is not None:
                mask = ops.cast(mask, "bool")
                known = ops.logical_and(known, mask if len(mask.shape) == 3 else ops.expand_dims(mask, -1))
            normalized, _, _ = self.log_normalization(ops.sign(window) * ops.log1p(ops.abs(window)), mask=known)
        encoding = self.encoder(normalized, training=training)
        metrics = encoding.shape[1]
        projected = self.projection(ops.reshape(encoding, (-1, self.model_width)))
        projected = ops.transpose(ops.reshape(projected, (-1, metrics, self.horizon)), (0, 2, 1))
        return self.normalization.inverse(projected, mean, deviation), encoding, mean

    def level(self, inputs):
        """Latest counts, mean and deviation (B, 3, N) of the window from which `call` forecasts, raw, in float32.

        The latest count is the last step's as it stands; the mean where that is missing or not a number.
        """
        sequence, valid = self._valid(inputs)
        _, mean, deviation = self.normalization(sequence[:, self.horizon :], mask=valid[:, self.horizon :])
        latest = ops.where(valid[:, -1:], sequence[:, -1:], mean)
        return ops.concatenate([latest, mean, deviation], axis=1)

    def _valid(self, inputs):
        """The sequence in float32, 0 where it is no number, and (B, T, N) whether a step of a metric is valid."""
        self._checked({name: x.shape for name, x in inputs.items()})
        sequence = ops.cast(inputs["statistic_sequence"], "float32")
        valid = representable(sequence)
        sequence = ops.where(valid, sequence, ops.zeros_like(sequence))
        return sequence, ops.logical_and(valid, ops.expand_dims(ops.cast(inputs["statistic_mask"], "bool"), -1))

    def _checked(self, shapes) -> tuple:
        """The sequence's shape, if both shapes are right and agree with those of `build`."""
        for name in ("statistic_sequence", "statistic_mask"):
            if name not in shapes:
                raise ValueError(f"inputs must hold {name!r}, got {sorted(shapes)}")
        sequence, mask = tuple(shapes["statistic_sequence"]), tuple(shapes["statistic_mask"])
        steps, metrics = getattr(self, "sequence_shape", (None, None))
        if (
            len(sequence) != 3
            or None in sequence[1:]
            or steps not in (None, sequence[1])
            or metrics not in (None, sequence[2])
        ):
            expected = f"(batch, {steps or 'steps'}, {metrics or 'metrics'})"
            raise ValueError(f"statistic_sequence must have the fixed shape {expected}, got {sequence}")
        if len(mask) != 2 or mask[1] not in (None, sequence[1]):
            raise ValueError(f"statistic_mask must have shape (batch, {sequence[1]}), got {mask}")
        return sequence

    def _self_supervised_loss(self, sequence, valid):
        window, window_valid = sequence[:, : -self.horizon], valid[:, : -self.horizon]
        target = sequence[:, -self.horizon :]
        counts = ops.logical_and(ops.any(window_valid, axis=1, keepdims=True), valid[:, -self.horizon :])
        counts = ops.cast(counts, "float32")
        shares = counts / ops.maximum(ops.sum(counts, axis=(0, 1), keepdims=True), 1.0)  # (B, H, N)
        forecast, _, mean = self._forecast(window, window_valid, training=True)
        error = ops.sum(ops.square(forecast - target) * shares, axis=(0, 1))
        if self.relative_loss:
            mean_error = ops.sum(ops.square(mean - target) * shares, axis=(0, 1))
            any_counts = ops.cast(ops.any(counts > 0, axis=(0, 1)), "float32")
            scale = ops.maximum(self._updated_mean_rule_error(mean_error, any_counts), 1e-3)
            error = error / ops.maximum(scale, ops.stop_gradient(mean_error) / _OUTLIER)
        return ops.mean(error)

    def _updated_mean_rule_error(self, error, any_counts):
        """(N,) running average of the mean rule's squared error: plain over the first 100 batches, then exponential.

        A batch counts with at most `_OUTLIER` times the average so far, so that one absurd count among millions doesn't
        end a metric's learning. There is nothing to hold the very first batch against.

        Args:
            error: (N,) the batch's.
            any_counts: (N,) 1, or 0 for a metric of which the batch holds nothing that counts: that changes nothing.
        """
        limit = ops.where(self.batches > 0, ops.maximum(_OUTLIER * self.mean_rule_error, 1.0), error)
        error = ops.minimum(error, limit)
        self.batches.assign(self.batches + any_counts)
        share = any_counts * ops.maximum(1.0 / ops.maximum(self.batches, 1.0), 0.01)
        self.mean_rule_error.assign(self.mean_rule_error + share * (error - self.mean_rule_error))
        return ops.stop_gradient(ops.convert_to_tensor(self.mean_rule_error))

    def errors(self, sequence, mask, batch_size: int = 4096) -> dict[str, float]:
        """Mean squared errors on raw counts over metrics and steps: of the model and of the two rules to beat.

        Each example's last H steps are forecast from the T - H before them. Steps that are padding or not a number
        don't count, neither do series without a valid step to forecast from.

        Args:
            sequence: (B, T, N) array of raw counts.
            mask: (B, T) array, 1 where a step is valid.
            batch_size: Examples at once.

        Returns:
            {"model", "mean", "latest"}; NaN if nothing counts.
        """
        sequence, mask = np.asarray(sequence, np.float32), np.asarray(mask) != 0
        self._checked({"statistic_sequence": sequence.shape, "statistic_mask": mask.shape})
        keep = mask[:, : -self.horizon].any(axis=1)
        sequence, mask = sequence[keep], mask[keep]
        with np.errstate(invalid="ignore"):
            valid = (np.abs(sequence) <= 1e17) & mask[:, :, None]
        window, target = np.split(np.where(valid, sequence, 0), [-self.horizon], axis=1)
        valid, target_valid = np.split(valid, [-self.horizon], axis=1)
        counts = target_valid & valid.any(axis=1, keepdims=True)
        if not counts.any():
            return {"model": float("nan"), "mean": float("nan"), "latest": float("nan")}
        forecast = np.concatenate(
            [
                ops.convert_to_numpy(self.forecast(window[i : i + batch_size], valid[i : i + batch_size])[0])
                for i in range(0, len(window), batch_size)
            ]
        )
        mean = window.sum(axis=1, keepdims=True) / np.maximum(valid.sum(axis=1, keepdims=True), 1)
        last = np.max(np.where(valid, np.arange(window.shape[1])[:, None], 0), axis=1, keepdims=True)
        rules = {"model": forecast, "mean": mean, "latest": np.take_along_axis(window, last, axis=1)}
        return {name: float(np.square(rule - target, dtype=np.float64)[counts].mean()) for name, rule in rules.items()}

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
