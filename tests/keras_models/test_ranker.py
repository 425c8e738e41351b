import keras
import numpy as np
import pytest

from keras_models.metrics import auc
from keras_models.ranker import LiveRanker
from keras_models.ranker_config import ARCHITECTURES, VARIANTS

from .ranker_data import TASKS, inputs_for, small_config

_TENSORFLOW_ONLY = "looks at gradients or graphs of TensorFlow; run it with KERAS_BACKEND=tensorflow (make test)"


def _ranker(config=None, seed: int = 0, **keywords) -> LiveRanker:
    keras.utils.set_random_seed(seed)
    return LiveRanker(config or small_config(**keywords))


def _labels(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {task: generator.integers(0, 2, (rows, 1)).astype(np.float32) for task in TASKS}


def _train(ranker: LiveRanker, inputs, labels, weights=None) -> float:
    """A few steps, eagerly: tracing a graph would take longer than all of them."""
    ranker.compile_defaults(1e-2)
    ranker.run_eagerly = True
    history = ranker.fit(inputs, labels, sample_weight=weights, batch_size=32, shuffle=False, verbose=0)
    return history.history["loss"][-1]


@pytest.fixture(scope="module")
def trained() -> LiveRanker:
    ranker = _ranker(variant="all")
    _train(ranker, inputs_for(ranker.config, 96), _labels(96))
    return ranker


def _arrays(outputs) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(value) for value in outputs]


def _numpy(outputs) -> dict[str, np.ndarray]:
    return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}


@pytest.mark.parametrize(
    ("variant", "architecture"),
    [*((variant, "mmoe") for variant in VARIANTS), *(("all", architecture) for architecture in ARCHITECTURES[1:])],
)
def test_one_probability_a_task(variant, architecture):
    ranker = _ranker(variant=variant, architecture=architecture)
    scores = _numpy(ranker(inputs_for(ranker.config, 5)))
    assert list(scores) == list(TASKS)
    for score in scores.values():
        assert score.shape == (5, 1)
        assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize("architecture", ["mmoe", "fm"])
def test_the_initial_logit_shifts_every_score(architecture):
    def logits(initial_logit: float) -> np.ndarray:
        ranker = _ranker(variant="base", architecture=architecture, initial_logit=initial_logit)
        scores = np.concatenate([*_numpy(ranker(inputs_for(ranker.config, 5))).values()])
        return np.log(scores / (1 - scores))

    np.testing.assert_allclose(logits(-3.0) - logits(0.0), -3.0, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_built_from_the_configuration_alone(architecture):
    ranker = _ranker(variant="all", architecture=architecture)
    assert ranker.built
    count = len(ranker.weights)
    ranker(inputs_for(ranker.config, 2), training=True)
    assert len(ranker.weights) == count


def test_forecast_then_rank_is_the_whole(trained):
    ranker, inputs = trained, inputs_for(trained.config, 7)
    foresight = ranker.forecast({name: inputs[name] for name in ranker.config.room_shapes})
    assert tuple(foresight["foresight"].shape) == (7, ranker.config.foresight_size)
    user_side = {name: value for name, value in inputs.items() if name in ranker.config.rank_shapes}
    split = _numpy(ranker.rank({**user_side, **foresight}))
    for task, score in _numpy(ranker(inputs)).items():
        np.testing.assert_allclose(split[task], score, atol=1e-6)


def test_foresight_holds_what_the_forecasters_say(trained):
    ranker, config, inputs = trained, trained.config, inputs_for(trained.config, 3)
    inputs["statistic_mask"][0, :4] = 0
    foresight = keras.ops.convert_to_numpy(ranker.foresight(inputs))
    begins = np.cumsum([0, *config.foresight_parts.values()])
    parts = {
        name: foresight[:, begin : begin + width]
        for begin, (name, width) in zip(begins, config.foresight_parts.items(), strict=False)
    }
    forecast, encoding = _arrays(ranker.foresight.statistic_forecaster(inputs))
    content, prediction = _arrays(ranker.foresight.semantic_id_forecaster(inputs))
    probabilities, products = _arrays(ranker.foresight.product_forecaster(inputs))
    table = keras.ops.convert_to_numpy(ranker.foresight.next_category_embedding)
    level = parts.pop("level")
    expected = {
        "statistic_encoding": encoding.reshape(3, -1),
        "historical_content": content,
        "foresight_prediction": prediction,
        "next_category": probabilities @ table,
        "product_encoding": products.reshape(3, -1),
    }
    assert set(parts) == set(expected)
    for name, want in expected.items():
        np.testing.assert_allclose(parts[name], want, rtol=1e-5, atol=1e-6, err_msg=name)

    forecasts = config.horizon * config.metrics
    np.testing.assert_allclose(level[:, :forecasts], forecast.reshape(3, -1), rtol=1e-6)
    latest, mean, deviation = np.moveaxis(level[:, forecasts:].reshape(3, 3, config.metrics), 1, 0)
    window = inputs["statistic_sequence"][0, 4:]  # valid steps of the window that ends now
    np.testing.assert_array_equal(latest, inputs["statistic_sequence"][:, -1])
    np.testing.assert_allclose(mean[0], window.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(deviation[0], np.sqrt(window.var(axis=0) + 1e-5), rtol=1e-5)


def test_base_ignores_the_rooms_sequences():
    ranker = _ranker(variant="base")
    inputs = inputs_for(ranker.config, 4)
    want = _numpy(ranker(inputs))
    inputs = {name: value for name, value in inputs.items() if name in ranker.config.rank_shapes}
    for got in (_numpy(ranker(inputs)), _numpy(ranker.rank(inputs))):
        np.testing.assert_equal(got, want)
    with pytest.raises(ValueError, match='variant "base" has no forecaster'):
        ranker.forecast(inputs)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason=_TENSORFLOW_ONLY)
@pytest.mark.parametrize("architecture", ["mmoe", "fm"])
def test_ranking_losses_give_the_forecasters_no_gradient(architecture):
    import tensorflow as tf

    ranker = _ranker(variant="all", architecture=architecture, categories=(2, 4, 9))
    inputs, labels = inputs_for(ranker.config, 16), _labels(16)
    # Scores depend on the forecaster's projection only once it isn't zero any more.
    projection = ranker.foresight.statistic_forecaster.projection.kernel
    projection.assign(keras.random.normal(projection.shape))
    with tf.GradientTape(persistent=True) as tape:
        scores = ranker(inputs, training=True)
        ranking = sum(keras.losses.binary_crossentropy(labels[task], scores[task]) for task in TASKS)
        forecasting = sum(ranker.losses)
    assert len(ranker.losses) == len(ranker.foresight.forecasters) == 3
    forecasters = {
        id(weight) for forecaster in ranker.foresight.forecasters for weight in forecaster.trainable_variables
    }
    assert len(forecasters) > 30
    for weight in ranker.trainable_variables:
        from_ranking = tape.gradient(ranking, weight.value)
        from_forecasting = tape.gradient(forecasting, weight.value)
        if id(weight) in forecasters:
            assert from_ranking is None, weight.path
            assert from_forecasting is not None, weight.path
        else:
            assert from_ranking is not None, weight.path
            assert from_forecasting is None, weight.path


@pytest.mark.parametrize("source", ["statistic", "semantic_id", "product"])
def test_forecasters_train_as_if_there_were_no_ranker(source):
    config = small_config(variant="all")
    inputs = inputs_for(config, 64)
    ranker = _ranker(config)
    ranker.compile_defaults(1e-2)
    together = getattr(ranker.foresight, f"{source}_forecaster")
    alone = getattr(LiveRanker(config).foresight, f"{source}_forecaster")
    alone.set_weights(together.get_weights())
    before = alone.get_weights()
    _train(ranker, inputs, _labels(64))
    alone.compile(type(ranker.optimizer)(1e-2), run_eagerly=True, jit_compile=False)
    alone.fit({name: inputs[name] for name in config.room_shapes}, batch_size=32, shuffle=False, verbose=0)
    for got, want, start in zip(together.get_weights(), alone.get_weights(), before, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(want, start) or not want.any()


def test_foresight_reaches_the_scores(trained):
    ranker, inputs = trained, inputs_for(trained.config, 4)
    foresight = ranker.forecast(inputs)["foresight"]
    scores = _numpy(ranker.rank({**inputs, "foresight": foresight}))
    others = _numpy(ranker.rank({**inputs, "foresight": foresight + 5.0}))
    assert not np.allclose(scores["ctr"], others["ctr"])


def test_masked_labels_teach_nothing():
    """With weight 0 on a task its labels make no difference to any weight."""
    inputs = inputs_for(small_config(), 32)
    weights = {"ctr": np.ones(32, np.float32), "gtr": np.zeros(32, np.float32)}
    results = []
    for seed in (0, 1):
        ranker = _ranker()
        _train(ranker, inputs, {"ctr": _labels(32)["ctr"], "gtr": _labels(32, seed)["gtr"]}, weights)
        results.append(ranker.get_weights())
    for got, want in zip(*results, strict=True):
        np.testing.assert_array_equal(got, want)


def test_learns_from_counts_ids_and_sequences():
    """ctr follows a count, the user's own rate and the user's taste in authors; gtr what the room shows."""
    config = small_config(embedding_dropout=0.0)
    rows = 9000
    inputs = inputs_for(config, rows, users=40, authors=30)
    generator = np.random.default_rng(4)
    # Authors are of two styles, and users enter rooms of the style that they entered before.
    style, entered = inputs["author_id"] % 2, inputs["entered_authors"]
    causes = {
        "user": 1.5 * generator.normal(size=40)[inputs["user_id"]],
        "taste": 1.5 * ((entered % 2 == style[:, None]) & (entered >= 0)).sum(axis=1),
        "count": 4.0 * np.log1p(inputs["user_counts"][:, 0]),
    }
    level = np.log1p(inputs["statistic_sequence"][:, config.horizon :, 0].mean(axis=1))
    logits = {"ctr": sum(causes.values()) - 9.0, "gtr": 4.0 * (level - level.mean()) / level.std()}
    labels = {
        task: (generator.random((rows, 1)) < 1 / (1 + np.exp(-logit[:, None]))).astype(np.float32)
        for task, logit in logits.items()
    }
    train, test = slice(0, 8000), slice(8000, None)
    ranker = _ranker(config)
    ranker.compile_defaults(5e-3, steps=3 * 125)
    ranker.fit(
        {name: value[train] for name, value in inputs.items()},
        {task: label[train] for task, label in labels.items()},
        batch_size=64,
        epochs=3,
        verbose=0,
    )
    scores = _numpy(ranker({name: value[test] for name, value in inputs.items()}))

    def reached(task, answers):
        return auc(labels[task][test, 0], answers)

    assert reached("gtr", scores["gtr"][:, 0]) > reached("gtr", logits["gtr"][test]) - 0.02
    for name, cause in causes.items():
        # Better than whoever knows the true rule but for this cause.
        assert reached("ctr", scores["ctr"][:, 0]) > reached("ctr", (logits["ctr"] - cause)[test]) + 0.01, name


def test_saves_and_loads(trained, tmp_path):
    ranker, inputs = trained, inputs_for(trained.config, 16)
    want = _numpy(ranker(inputs))

    ranker.save(tmp_path / "ranker.keras")
    loaded = keras.saving.load_model(tmp_path / "ranker.keras")
    assert loaded.config == ranker.config
    np.testing.assert_equal(_numpy(loaded(inputs)), want)

    ranker.save_weights(tmp_path / "ranker.weights.h5")
    warm = _ranker(ranker.config, seed=5)
    warm.load_weights(tmp_path / "ranker.weights.h5")
    np.testing.assert_equal(_numpy(warm(inputs)), want)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_low_precision(policy):
    keras.utils.set_random_seed(0)
    ranker = LiveRanker(small_config(variant="all"), dtype=policy)
    inputs = inputs_for(ranker.config, 64)
    inputs["user_counts"] *= 1e6  # beyond float16
    inputs["statistic_sequence"] *= 1e3
    assert np.isfinite(_train(ranker, inputs, _labels(64)))
    for score in _numpy(ranker(inputs)).values():
        assert score.dtype == np.float32
        assert np.isfinite(score).all()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason=_TENSORFLOW_ONLY)
def test_compiled_by_xla_it_answers_the_same():
    import tensorflow as tf

    ranker = _ranker(variant="all")
    inputs = {name: tf.constant(value) for name, value in inputs_for(ranker.config, 5).items()}
    compiled = _numpy(tf.function(lambda x: ranker(x), jit_compile=True)(inputs))
    for task, score in _numpy(ranker(inputs)).items():
        np.testing.assert_allclose(compiled[task], score, rtol=1e-4)


def test_learning_rate_falls_only_where_the_run_has_an_end():
    ranker = _ranker()
    ranker.compile_defaults(1e-3, steps=4)
    assert float(ranker.optimizer.learning_rate) == pytest.approx(1e-3, rel=1e-3)
    ranker.optimizer.iterations.assign(4)
    assert float(ranker.optimizer.learning_rate) == pytest.approx(5e-5, rel=1e-3)
    ranker.compile_defaults(1e-3)
    ranker.optimizer.iterations.assign(4)
    assert float(ranker.optimizer.learning_rate) == pytest.approx(1e-3, rel=1e-3)


def test_names_the_input_that_does_not_fit(trained):
    inputs = inputs_for(trained.config, 4)
    foresight = _numpy(trained.forecast(inputs))["foresight"]
    size = foresight.shape[1]
    with pytest.raises(ValueError, match=rf"foresight must have shape \(batch, {size}\), got \(4, {size + 1}\)"):
        trained.rank({**inputs, "foresight": np.pad(foresight, ((0, 0), (0, 1)))})
    with pytest.raises(ValueError, match=r"context must have shape \(batch, 3\), got \(4, 4\)"):
        trained({**inputs, "context": inputs["user_counts"], "user_counts": inputs["context"]})
    with pytest.raises(ValueError, match=r"user_id must have shape \(batch\), got \(4, 1\)"):
        trained({**inputs, "user_id": inputs["user_id"][:, None]})
    with pytest.raises(ValueError, match="inputs must hold 'entered_authors'"):
        trained({name: value for name, value in inputs.items() if name != "entered_authors"})
    with pytest.raises(ValueError, match="inputs must hold 'run_lengths'"):
        trained.forecast({name: value for name, value in inputs.items() if name != "run_lengths"})
