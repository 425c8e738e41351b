import keras
import numpy as np
import pytest

from keras_models.statistic_forecaster import StatisticForecaster

STEPS, METRICS, HORIZON = 16, 3, 2


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


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
    forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=keras.backend.backend() == "jax")
    return forecaster.fit(inputs, epochs=epochs, batch_size=128, verbose=0).history["loss"]


def test_untrained_it_is_the_mean_rule():
    inputs = _waves(8)
    forecast, encoding = _forecaster()(inputs)
    assert forecast.shape == (8, HORIZON, METRICS)
    assert encoding.shape == (8, METRICS, 16)
    window, mask = inputs["statistic_sequence"][:, HORIZON:], inputs["statistic_mask"][:, HORIZON:, None]
    mean = (window * mask).sum(axis=1, keepdims=True) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(_array(forecast), np.repeat(mean, HORIZON, axis=1), rtol=1e-4)
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
    forecast = _array(
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
    served = _array(forecaster(inputs)[0])

    def changed(steps):
        sequence = inputs["statistic_sequence"].copy()
        sequence[:, steps] += 50
        return _array(forecaster({**inputs, "statistic_sequence": sequence})[0])

    np.testing.assert_array_equal(changed(slice(0, HORIZON)), served)
    assert not np.allclose(changed(slice(-1, None)), served)


def test_training_returns_what_will_be_served():
    inputs = _waves(4)
    forecaster = _forecaster(dropout=0.5)
    _fit(forecaster, _waves(256), epochs=1)
    np.testing.assert_array_equal(_array(forecaster(inputs, training=True)[0]), _array(forecaster(inputs)[0]))


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
    before = float(_array(forecaster.mean_rule_error)[0])
    nothing = {
        "statistic_sequence": np.zeros((4, STEPS, METRICS), np.float32),
        "statistic_mask": np.zeros((4, STEPS), np.float32),
    }
    forecast, encoding = forecaster(nothing, training=True)
    assert float(forecaster.losses[0]) == 0
    assert float(_array(forecaster.mean_rule_error)[0]) == before
    assert np.isfinite(_array(forecast)).all()
    assert np.isfinite(_array(encoding)).all()
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
        np.testing.assert_array_equal(_array(got), _array(want))


def test_rejects_sequences_without_a_past():
    forecaster = StatisticForecaster(3)
    with pytest.raises(ValueError, match="longer than the horizon of 3 steps, got 3"):
        forecaster.build({"statistic_sequence": (None, 3, 2), "statistic_mask": (None, 3)})
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        StatisticForecaster(0)


@pytest.mark.parametrize("relative_loss", [False, True])
@pytest.mark.parametrize("log1p", [False, True])
def test_broken_counts_are_missing_steps(log1p, relative_loss):
    """Of their metric only, as input and as target; a step of training leaves every weight finite."""
    inputs = _waves(64)
    broken = {name: values.copy() for name, values in inputs.items()}
    broken["statistic_sequence"][0, 7, 1] = np.nan
    broken["statistic_sequence"][1, 8] = np.inf
    broken["statistic_sequence"][2, :, 2] = -np.inf
    broken["statistic_sequence"][3, -1, 0] = 3e38  # a target in training, input in serving
    forecaster = _forecaster(log1p=log1p, relative_loss=relative_loss, dropout=0.0)
    _fit(forecaster, inputs, epochs=1)
    clean, served = _array(forecaster(inputs)[0]), _array(forecaster(broken)[0])
    np.testing.assert_allclose(served[4:], clean[4:], rtol=1e-5)
    assert np.isfinite(served).all()
    assert np.isfinite(_array(forecaster.level(broken))).all()
    losses = _fit(forecaster, broken, epochs=2)
    assert np.isfinite(losses).all()
    for weight in forecaster.weights:
        assert np.isfinite(_array(weight)).all(), weight.path
    assert all(np.isfinite(error) for error in forecaster.errors(**_as_arguments(broken)).values())


def test_a_broken_target_does_not_count():
    """The loss with it is that of the same batch without the series' step."""
    sequence = np.array([[[1.0], [3.0], [5.0], [9.0]], [[2.0], [4.0], [6.0], [8.0]]], np.float32)
    broken = sequence.copy()
    broken[0, 3, 0] = np.nan  # mean 2 of the first two; its other target, 5, is off by 3
    losses = []
    for data in (sequence, broken):
        forecaster = StatisticForecaster(2, model_width=8, layers=1, heads=1, dropout=0.0, relative_loss=False)
        forecaster({"statistic_sequence": data, "statistic_mask": np.ones((2, 4))}, training=True)
        losses.append(float(_array(forecaster.losses[0])))
    # Untrained it gives the mean: 2 and 3. Errors 9, 49 and 9, 25.
    assert losses == pytest.approx([(9 + 49 + 9 + 25) / 4, (9 + 9 + 25) / 3], rel=1e-4)


def test_a_metric_that_is_missing_leaves_its_running_average():
    forecaster = _forecaster()
    _fit(forecaster, _waves(128), epochs=1)
    before = _array(forecaster.mean_rule_error)
    inputs = _waves(32, seed=1)
    inputs["statistic_sequence"][:, :, 1] = np.nan
    forecaster(inputs, training=True)
    after = _array(forecaster.mean_rule_error)
    assert after[1] == before[1]
    assert (after[[0, 2]] != before[[0, 2]]).all()


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_constant_series_train_without_harm(constant):
    inputs = _waves(64)
    inputs["statistic_sequence"][:] = constant
    forecaster = _forecaster()
    losses = _fit(forecaster, inputs, epochs=2)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(_array(forecaster(inputs)[0])[20:], constant, atol=0.05)


def test_answers_for_an_empty_batch():
    inputs = {name: values[:0] for name, values in _waves(4).items()}
    forecaster = _forecaster()
    forecast, encoding = forecaster(inputs, training=True)
    assert (forecast.shape, encoding.shape) == ((0, HORIZON, METRICS), (0, METRICS, 16))
    assert float(_array(forecaster.losses[0])) == 0
    assert np.isnan(forecaster.errors(**_as_arguments(inputs))["model"])


def test_errors_pass_over_what_is_no_number():
    forecaster = StatisticForecaster(1, model_width=8, layers=1, heads=1)
    series = np.array([[7.0, 1.0, np.nan, 10.0], [3.0, 5.0, 1.0, np.inf]], np.float32)
    mask = np.array([[0, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    forecaster({"statistic_sequence": series[:, :, None], "statistic_mask": mask})
    # Only the first example has a target, and only the second of its steps something to forecast from.
    assert forecaster.errors(series[:, :, None], mask) == pytest.approx(
        {"model": 81.0, "mean": 81.0, "latest": 81.0}, rel=1e-4
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    forecaster = _forecaster(dtype=policy)
    losses = _fit(forecaster, _waves(512), epochs=4)
    assert losses[-1] < losses[0]
    forecast, encoding = forecaster(_waves(8))
    assert keras.backend.standardize_dtype(forecast.dtype) == "float32"
    assert keras.backend.standardize_dtype(encoding.dtype) == policy.removeprefix("mixed_")
    assert np.isfinite(_array(forecast)).all()


def test_rejects_other_shapes_than_it_was_built_for():
    inputs = _waves(4)
    forecaster = _forecaster()
    sequence, mask = inputs["statistic_sequence"], inputs["statistic_mask"]
    with pytest.raises(
        ValueError, match=r"statistic_sequence must have the fixed shape \(batch, 16, 3\), got \(4, 15, 3\)"
    ):
        forecaster({"statistic_sequence": sequence[:, 1:], "statistic_mask": mask[:, 1:]})
    with pytest.raises(
        ValueError, match=r"statistic_sequence must have the fixed shape \(batch, 16, 3\), got \(4, 16, 2\)"
    ):
        forecaster({"statistic_sequence": sequence[:, :, 1:], "statistic_mask": mask})
    with pytest.raises(ValueError, match=r"statistic_mask must have shape \(batch, 16\), got \(4, 16, 3\)"):
        forecaster({"statistic_sequence": sequence, "statistic_mask": sequence})
    with pytest.raises(ValueError, match="inputs must hold 'statistic_mask', got"):
        StatisticForecaster(2).build({"statistic_sequence": (None, 16, 3)})


@pytest.mark.slow
def test_one_absurd_count_does_not_end_the_learning():
    generator = np.random.default_rng(0)
    sequence = (generator.poisson(5, (320, 6, 3)) + 3 * np.arange(6)[:, None]).astype(np.float32)
    mask = np.ones((320, 6), np.float32)
    errors = []
    for absurd in (False, True):
        if absurd:
            sequence[40, 5] = 1e12  # in the second batch
        keras.utils.set_random_seed(0)
        forecaster = StatisticForecaster(2, model_width=8, heads=2, dropout=0.0)
        forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=keras.backend.backend() == "jax")
        inputs = {"statistic_sequence": sequence, "statistic_mask": mask}
        forecaster.fit(inputs, epochs=20, batch_size=32, shuffle=False, verbose=0)
        errors.append(forecaster.errors(sequence[64:], mask[64:]))
    clean, with_outlier = errors
    assert clean["model"] < clean["mean"] / 2
    assert with_outlier["model"] < with_outlier["mean"] / 2
