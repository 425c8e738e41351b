import keras
import numpy as np
import pytest

from keras_models.statistic_forecaster import StatisticForecaster

STEPS, METRICS, HORIZON = 16, 3, 2


def _waves(examples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Counts that swing with a period of 8 steps around levels 2, 30 and 500: neither the mean nor the latest tells."""
    generator = np.random.default_rng(seed)
    phase = generator.uniform(0, 2 * np.pi, (examples, 1, METRICS))
    level = np.array([2.0, 30.0, 500.0]) * generator.uniform(0.5, 2, (examples, 1, METRICS))
    rate = level * (1 + 0.9 * np.sin(2 * np.pi * np.arange(STEPS)[:, None] / 8 + phase))
    mask = np.ones((examples, STEPS), np.float32)
    mask[: examples // 4, :5] = 0
    return {
        "statistic_sequence": (generator.poisson(rate) * mask[:, :, None]).astype(np.float32),
        "statistic_mask": mask,
    }


def _forecaster(**keywords) -> StatisticForecaster:
    keras.utils.set_random_seed(0)
    forecaster = StatisticForecaster(HORIZON, model_width=16, layers=1, heads=2, **keywords)
    forecaster.build({"statistic_sequence": (None, STEPS, METRICS), "statistic_mask": (None, STEPS)})
    return forecaster


def _fit(forecaster, inputs, epochs=8):
    forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    return forecaster.fit(inputs, epochs=epochs, batch_size=128, verbose=0).history["loss"]


def test_untrained_it_is_the_mean_rule():
    inputs = _waves(8)
    forecast, encoding = _forecaster()(inputs)
    assert forecast.shape == (8, HORIZON, METRICS)
    assert encoding.shape == (8, METRICS, 16)
    window, mask = inputs["statistic_sequence"][:, HORIZON:], inputs["statistic_mask"][:, HORIZON:, None]
    mean = (window * mask).sum(axis=1, keepdims=True) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(forecast, np.repeat(mean, HORIZON, axis=1), rtol=1e-4)
    errors = _forecaster().errors(**_as_arguments(inputs))
    assert errors["model"] == pytest.approx(errors["mean"], rel=1e-4)


def _as_arguments(inputs):
    return {"sequence": inputs["statistic_sequence"], "mask": inputs["statistic_mask"]}


@pytest.mark.parametrize("log1p", [False, True])
def test_learns_to_beat_both_rules(log1p):
    forecaster = _forecaster(log1p=log1p)
    losses = _fit(forecaster, _waves(1536))
    errors = forecaster.errors(**_as_arguments(_waves(512, seed=1)))
    assert errors["model"] < 0.6 * min(errors["mean"], errors["latest"])
    assert losses[0] < 1.2  # relative to the mean rule: an untrained forecaster has 1
    assert losses[-1] < 0.7


def test_small_metrics_learn_beside_large_ones():
    forecaster = _forecaster()
    _fit(forecaster, _waves(1536))
    inputs = _waves(512, seed=1)
    small = {**inputs, "statistic_sequence": inputs["statistic_sequence"].copy()}
    forecast = np.array(
        forecaster.forecast(small["statistic_sequence"][:, :-HORIZON], small["statistic_mask"][:, :-HORIZON])[0]
    )
    target = small["statistic_sequence"][:, -HORIZON:]
    mask = small["statistic_mask"][:, :-HORIZON, None]
    mean = (small["statistic_sequence"][:, :-HORIZON] * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    model_error = np.square(forecast - target).mean(axis=(0, 1))
    mean_error = np.square(mean - target).mean(axis=(0, 1))
    assert (model_error < 0.85 * mean_error).all()


def test_trains_on_the_past_and_serves_the_present():
    """In training the last H steps are targets only; in serving they are input, and the first H are not."""
    inputs = _waves(4)
    forecaster = _forecaster()
    _fit(forecaster, _waves(256), epochs=1)
    served = np.array(forecaster(inputs)[0])

    def changed(steps):
        sequence = inputs["statistic_sequence"].copy()
        sequence[:, steps] += 50
        return np.array(forecaster({**inputs, "statistic_sequence": sequence})[0])

    np.testing.assert_array_equal(changed(slice(0, HORIZON)), served)
    assert not np.allclose(changed(slice(-1, None)), served)


def test_training_returns_what_will_be_served():
    inputs = _waves(4)
    forecaster = _forecaster(dropout=0.5)
    _fit(forecaster, _waves(256), epochs=1)
    np.testing.assert_array_equal(forecaster(inputs, training=True)[0], forecaster(inputs)[0])


def test_examples_of_padding_alone_do_not_count():
    inputs = _waves(64)
    with_padding = {
        "statistic_sequence": np.concatenate([inputs["statistic_sequence"], np.full((64, STEPS, METRICS), 9.0)]),
        "statistic_mask": np.concatenate([inputs["statistic_mask"], np.zeros((64, STEPS))]),
    }
    with_padding["statistic_mask"][64:, -HORIZON:] = 1  # a room that opened H steps ago: nothing to forecast from
    losses, errors = [], []
    for data in (inputs, with_padding):
        forecaster = _forecaster(dropout=0.0)
        forecaster(data, training=True)
        losses.append(float(forecaster.losses[0]))
        errors.append(forecaster.errors(**_as_arguments(data)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


def test_a_batch_of_nothing_but_padding_is_harmless():
    forecaster = _forecaster()
    _fit(forecaster, _waves(256), epochs=1)
    before = float(forecaster.mean_rule_error.numpy()[0])
    nothing = {
        "statistic_sequence": np.zeros((4, STEPS, METRICS), np.float32),
        "statistic_mask": np.zeros((4, STEPS), np.float32),
    }
    forecast, encoding = forecaster(nothing, training=True)
    assert float(forecaster.losses[0]) == 0
    assert float(forecaster.mean_rule_error.numpy()[0]) == before
    assert np.isfinite(forecast).all()
    assert np.isfinite(encoding).all()
    assert np.isnan(forecaster.errors(**_as_arguments(nothing))["model"])


def test_errors_are_those_of_the_rules():
    forecaster = StatisticForecaster(1, model_width=8, layers=1, heads=1)
    series = np.array([[7.0, 1.0, 3.0, 10.0], [9.0, 9.0, 9.0, 0.0]], np.float32)
    sequence = np.stack([series, series], axis=-1)
    mask = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    forecaster({"statistic_sequence": sequence, "statistic_mask": mask})
    # Only the first example has something to forecast from: mean 2, latest 3, and 10 comes.
    errors = forecaster.errors(sequence, mask)
    assert errors == pytest.approx({"model": 64.0, "mean": 64.0, "latest": 49.0}, rel=1e-4)


def test_plain_loss_is_the_papers():
    forecaster = _forecaster(dropout=0.0, relative_loss=False)
    inputs = _waves(64)
    forecaster(inputs, training=True)
    errors = forecaster.errors(**_as_arguments(inputs))
    assert float(forecaster.losses[0]) == pytest.approx(errors["model"], rel=1e-4)


def test_saves_and_loads_whole(tmp_path):
    forecaster = _forecaster(log1p=True)
    inputs = _waves(256)
    _fit(forecaster, inputs, epochs=1)
    forecaster.save(tmp_path / "forecaster.keras")
    loaded = keras.saving.load_model(tmp_path / "forecaster.keras")
    for got, want in zip(loaded(inputs), forecaster(inputs), strict=True):
        np.testing.assert_array_equal(got, want)


def test_rejects_sequences_without_a_past():
    forecaster = StatisticForecaster(3)
    with pytest.raises(ValueError, match="longer than the horizon of 3 steps, got 3"):
        forecaster.build({"statistic_sequence": (None, 3, 2), "statistic_mask": (None, 3)})
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        StatisticForecaster(0)
