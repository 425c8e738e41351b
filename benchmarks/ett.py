"""Long-term forecasting on a file of the ETT kind, with the hyperparameters of iTransformer's authors.

FILE is a CSV with a date column, then one column a series. Each seed trains our ReversibleInstanceNormalization,
InvertedTransformer and one linear map on windows of the training rows, stops by validation error and is measured on all
windows of the test rows; errors are those of standardised series, as in the papers.
"""

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import keras
import numpy as np
from keras import ops

from benchmarks.harness import goal, report
from keras_models.layers.inverted_transformer import InvertedTransformer
from keras_models.layers.reversible_instance_normalization import ReversibleInstanceNormalization

# Test MSE and MAE for lookback 96 and horizon 96: iTransformer's table; for ETTh1 the project's goal, .001 above it.
_GOALS = {
    "ETTh1": (0.387, 0.406),
    "ETTh2": (0.297, 0.349),
    "ETTm1": (0.334, 0.368),
    "weather": (0.174, 0.214),
    "electricity": (0.148, 0.240),
}
_BATCH, _LEARNING_RATE, _PATIENCE = 32, 1e-4, 3

OPTIONS = [
    click.Option(
        ["--input", "path"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        required=True,
        metavar="FILE",
        help="CSV: a date column, then one column a series.",
    ),
    click.Option(["--horizon"], type=click.IntRange(1), default=96, show_default=True, help="Rows to forecast."),
    click.Option(["--lookback"], type=click.IntRange(2), default=96, show_default=True, help="Rows to forecast from."),
    click.Option(["--d-model", "model_width"], type=click.IntRange(1), default=256, show_default=True, help="Width."),
    click.Option(["--layers"], type=click.IntRange(0), default=2, show_default=True, help="Encoder layers."),
    click.Option(["--heads"], type=click.IntRange(1), default=8, show_default=True, help="Attention heads."),
    click.Option(["--epochs"], type=click.IntRange(1), default=10, show_default=True, help="At most."),
    click.Option(["--seeds"], type=click.IntRange(1), default=3, show_default=True, help="Runs."),
]


class Rows(NamedTuple):
    """Values (rows, N) and calendar (rows, C) of each row."""

    values: np.ndarray
    calendar: np.ndarray


class SeriesForecaster(keras.Model):
    """forecast(x) = RevIN^-1(Linear(D -> H)(InvertedTransformer(RevIN(x), calendar))): (B, T, N) to (B, H, N).

    As in the authors' code the calendar (B, T, C) has tokens of its own in the encoder, and linear maps start as
    PyTorch's do: on validation rows that is better than Keras's start. Unlike there, attention weights aren't dropped.
    """

    def __init__(self, horizon: int, model_width: int, layers: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.normalization = ReversibleInstanceNormalization(affine=False)
        self.encoder = InvertedTransformer(model_width, layers, heads, dropout=dropout)
        self.projection = keras.layers.Dense(horizon)

    def build(self, input_shape) -> None:
        series, _ = input_shape
        self.normalization.build(series)
        self.encoder.build(series)
        self.projection.build(self.encoder.compute_output_shape(series))
        _draw_as_pytorch(self.trainable_variables)

    def call(self, inputs, training=None):
        series, calendar = inputs
        normalized, mean, deviation = self.normalization(series)
        encoding = self.encoder(normalized, covariates=calendar, training=training)
        forecast = ops.transpose(self.projection(encoding), (0, 2, 1))
        return self.normalization.inverse(forecast, mean, deviation)


def _draw_as_pytorch(weights: list[keras.Variable]) -> None:
    """Draws kernels and biases of linear maps uniformly within 1 / sqrt(inputs of the map)."""
    bounds = {
        weight.path.removesuffix("/kernel"): weight.shape[0] ** -0.5 for weight in weights if weight.name == "kernel"
    }
    for weight in weights:
        bound = bounds.get(weight.path.rpartition("/")[0])
        if bound is not None:  # an initializer draws the same numbers each time: one for each weight
            weight.assign(keras.initializers.RandomUniform(-bound, bound)(weight.shape))


class Windows(keras.utils.PyDataset):
    """Batches of all windows of lookback + horizon rows, cut when they are asked for: ((series, calendar), target)."""

    def __init__(self, rows: Rows, lookback: int, horizon: int, batch_size: int, seed: int | None = None) -> None:
        """With a `seed` the windows come in another order each epoch, otherwise from first to last."""
        super().__init__()
        self.windows = _windows(rows.values, lookback + horizon)
        self.calendar = _windows(rows.calendar, lookback + horizon)
        self.lookback = lookback
        self.batch_size = batch_size
        self.generator = None if seed is None else np.random.default_rng(seed)
        self.order = np.arange(len(self.windows))
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        batch = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        values = self.windows[batch]
        return (values[:, : self.lookback], self.calendar[batch, : self.lookback]), values[:, self.lookback :]

    def on_epoch_end(self) -> None:
        if self.generator is not None:
            self.order = self.generator.permutation(len(self.windows))


def _windows(rows: np.ndarray, length: int) -> np.ndarray:
    """(rows - length + 1, length, columns), a view: nothing is copied but the batch at hand."""
    return np.lib.stride_tricks.sliding_window_view(rows, length, axis=0).transpose(0, 2, 1)


def read(path: Path) -> Rows:
    """Reads a CSV with a date column and one column a series.

    Raises:
        click.ClickException: If the file isn't of that kind.
    """
    with path.open() as file:
        columns = len(file.readline().split(","))
    if columns < 2:
        raise click.ClickException(f"{path}: expected a date column and one column a series, got {columns} column(s)")
    try:
        values = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(1, columns), ndmin=2)
        dates = np.loadtxt(path, delimiter=",", skiprows=1, usecols=0, ndmin=1, dtype="datetime64[s]")
    except ValueError as error:
        raise click.ClickException(f"{path}: expected dates in the first column, then numbers: {error}") from None
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise click.ClickException(
            f"{path}: expected numbers, got {values[row, column]} in row {row}, column {column + 1}"
        )
    return Rows(values, _calendar(dates))


def _calendar(dates: np.ndarray) -> np.ndarray:
    """(rows, 4 or 5) of -0.5 to 0.5: hour, day of week, month and year, and minute if there is one."""
    days, months = dates.astype("datetime64[D]"), dates.astype("datetime64[M]")
    minute = (dates - dates.astype("datetime64[h]")).astype(float) / 60 / 59
    parts = [
        (dates.astype("datetime64[h]") - days).astype(float) / 23,
        (days.astype(int) + 3) % 7 / 6,  # 1970 began on a Thursday
        (days - months).astype(float) / 30,
        (days - dates.astype("datetime64[Y]")).astype(float) / 365,
        *([minute] if minute.any() else []),
    ]
    return np.stack(parts, axis=1).astype(np.float32) - 0.5


def borders(name: str, rows: int, lookback: int) -> dict[str, tuple[int, int]]:
    """First row and end of the parts; validation and test start `lookback` rows early, to forecast their first row.

    ETTh and ETTm are cut after 12 and 16 months of 30 days and end after 20; other files 70 / 10 / 20.
    """
    if name.startswith(("ETTh", "ETTm")):
        month = 30 * 24 * (4 if name.startswith("ETTm") else 1)
        train, valid, test = 12 * month, 16 * month, 20 * month
    else:
        train, valid, test = int(rows * 0.7), rows - int(rows * 0.2), rows
    return {"train": (0, train), "valid": (train - lookback, valid), "test": (valid - lookback, test)}


def run(
    path: Path,
    horizon: int = 96,
    lookback: int = 96,
    model_width: int = 256,
    layers: int = 2,
    heads: int = 8,
    epochs: int = 10,
    seeds: int = 3,
) -> dict[str, Any]:
    """Mean over seeds of the test errors, on the papers' splits, and each seed's own under `results`."""
    path = Path(path)
    rows = read(path)
    values = rows.values
    parts = borders(path.stem, len(values), lookback)
    for name, (begin, end) in parts.items():
        if not 0 <= begin <= end - lookback - horizon or end > len(values):
            raise click.ClickException(
                f"{path}: too few rows: {name} is rows {begin} to {end} of {len(values)}, and lookback and horizon "
                f"need {lookback + horizon}"
            )
    train = values[: parts["train"][1]]
    deviation = train.std(axis=0)
    values = ((values - train.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    series = {name: Rows(values[begin:end], rows.calendar[begin:end]) for name, (begin, end) in parts.items()}
    results = [
        _train_and_test(series, seed, (lookback, horizon), (model_width, layers, heads), epochs)
        for seed in range(seeds)
    ]
    goals = []
    if (lookback, horizon) == (96, 96) and path.stem in _GOALS:
        goals = [
            _mean_goal(f"test {key.upper()}, mean over seeds", [result[key] for result in results], target)
            for key, target in zip(("mse", "mae"), _GOALS[path.stem], strict=True)
        ]
    latest = _errors_of_latest(Windows(series["test"], lookback, horizon, 256))
    goals.append(
        _mean_goal(
            "test MSE over that of repeating the latest row, mean over seeds",
            [result["mse"] / latest for result in results],
            1.0,
        )
    )
    return {**report("ett", goals, "keras", keras.backend.backend(), "numpy"), "results": results}


def _mean_goal(name: str, samples: list[float], target: float) -> dict[str, Any]:
    mean = statistics.fmean(samples)
    return {**goal(name, [mean], "<=", target), "runs": len(samples), "low": min(samples), "high": max(samples)}


def _train_and_test(series: dict[str, Rows], seed: int, steps, sizes, epochs: int) -> dict[str, Any]:
    begin = time.process_time()
    keras.utils.set_random_seed(seed)
    lookback, horizon = steps
    model = SeriesForecaster(horizon, *sizes)
    model.build([(None, lookback, part.shape[1]) for part in series["train"]])
    model.compile(
        keras.optimizers.Adam(_LEARNING_RATE),
        loss="mse",
        metrics=["mae"],
        jit_compile=keras.backend.backend() == "jax",  # on TensorFlow it makes training slower on a CPU
    )
    history = model.fit(
        Windows(series["train"], lookback, horizon, _BATCH, seed),
        validation_data=Windows(series["valid"], lookback, horizon, 256),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            # As in the authors' code, the first two epochs share a rate.
            keras.callbacks.LearningRateScheduler(lambda epoch: _LEARNING_RATE * 0.5 ** max(epoch - 1, 0)),
            keras.callbacks.EarlyStopping("val_loss", patience=_PATIENCE, restore_best_weights=True),
        ],
    ).history
    # All test windows: the authors' loader drops the last ones that fill no batch.
    errors = model.evaluate(Windows(series["test"], lookback, horizon, 256), verbose=0, return_dict=True)
    return {
        "seed": seed,
        "mse": float(errors["loss"]),
        "mae": float(errors["mae"]),
        "validation_mse": float(min(history["val_loss"])),
        "epochs": len(history["val_loss"]),
        "best_epoch": int(np.argmin(history["val_loss"])) + 1,
        "parameters": model.count_params(),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def _errors_of_latest(windows: Windows) -> float:
    """Mean squared error of repeating each window's latest row."""
    total = 0.0
    for i in range(len(windows)):
        (series, _), target = windows[i]
        total += np.square(target - series[:, -1:], dtype=np.float64).sum()
    return float(total) / windows.windows[:, windows.lookback :].size
