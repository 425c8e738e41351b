import keras
import numpy as np
import pytest
from keras import ops

from keras_models.product_forecaster import ProductForecaster

PRODUCTS = 8  # T
CATEGORIES = (4, 8, 16)


def _numpy(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor)


def _chain(examples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rooms of 2 to T products whose finest categories follow a Markov chain: with 0.9 the next of a fixed order.

    The same category hardly ever comes twice in a row, and none is more frequent, so both rules are poor.
    """
    generator = np.random.default_rng(seed)
    cycle = np.random.default_rng(99).permutation(16)
    successor = np.empty(16, np.int64)
    successor[cycle] = np.roll(cycle, -1)
    finest = np.empty((examples, PRODUCTS), np.int32)
    finest[:, 0] = generator.integers(0, 16, examples)
    for t in range(1, PRODUCTS):
        follows = generator.random(examples) < 0.9
        finest[:, t] = np.where(follows, successor[finest[:, t - 1]], generator.integers(0, 16, examples))
    ids = (finest * 10 + generator.integers(0, 10, finest.shape)).astype(np.int32)
    categories = np.stack([finest // 4, finest // 2, finest], axis=-1)
    padding = np.arange(PRODUCTS) < PRODUCTS - generator.integers(2, PRODUCTS + 1, (examples, 1))
    return {
        "product_ids": np.where(padding, -1, ids),
        "product_categories": np.where(padding[:, :, None], -1, categories),
    }


def _forecaster(products: int = PRODUCTS, **keywords) -> ProductForecaster:
    keras.utils.set_random_seed(0)
    keywords = {"product_bins": 200, "categories": CATEGORIES, "embedding_dim": 8, "model_width": 16, **keywords}
    forecaster = ProductForecaster(layers=1, heads=2, **keywords)
    forecaster.build({"product_ids": (None, products), "product_categories": (None, products, 3)})
    return forecaster


def _fit(forecaster, inputs, epochs=8):
    forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    return forecaster.fit(inputs, epochs=epochs, batch_size=128, verbose=0).history["loss"]


def _loss(forecaster, inputs) -> float:
    forecaster(inputs, training=True)
    return float(_numpy(forecaster.losses[0]))


def test_gives_probabilities_and_encodings():
    probabilities, encoding = _forecaster()(_chain(8))
    assert tuple(probabilities.shape) == (8, 16)
    assert tuple(encoding.shape) == (8, PRODUCTS - 1, 16)
    np.testing.assert_allclose(_numpy(probabilities).sum(axis=1), np.ones(8), rtol=1e-5)


def test_weights_are_those_of_the_paper_tables():
    forecaster = _forecaster()
    shapes = [tuple(layer.embeddings.shape) for layer in forecaster.category_embeddings]
    assert shapes == [(4, 8), (8, 8), (16, 8)]
    assert tuple(forecaster.projection.kernel.shape) == (4 * 8, 16)
    assert tuple(forecaster.output_layer.kernel.shape) == (16, 16)


@pytest.mark.parametrize("targets", ["last", "all"])
def test_learns_a_planted_order(targets):
    forecaster = _forecaster(targets=targets, dropout=0.0)
    losses = _fit(forecaster, _chain(1536))
    rates = forecaster.hit_rates(**_chain(512, seed=1))
    assert rates["model"] > 0.75  # 0.9 + 0.1 / 16 at best
    assert rates["model"] > 3 * max(rates["most_frequent"], rates["latest"])
    assert rates["model_at_10"] > rates["model"]
    assert losses[-1] < 1 < 1.5 < losses[0]


def test_trains_on_the_past_and_serves_the_present():
    """In training the last product is a target only; in serving it is input, and the first one is not."""
    inputs = _chain(6)
    forecaster = _forecaster()
    served = _numpy(forecaster(inputs)[0])

    def changed(position, name):
        other = {key: array.copy() for key, array in inputs.items()}
        other[name][:, position] = 3
        return _numpy(forecaster(other)[0])

    np.testing.assert_array_equal(changed(0, "product_categories"), served)
    assert not np.allclose(changed(-1, "product_categories"), served)
    assert not np.allclose(changed(-1, "product_ids"), served)


def test_loss_is_the_cross_entropy_of_the_last_product():
    forecaster = _forecaster(dropout=0.0)
    inputs = _chain(32)
    ids, categories = inputs["product_ids"], inputs["product_categories"]
    probabilities = _numpy(forecaster.forecast(ids[:, :-1], categories[:, :-1])[0])
    want = -np.log(probabilities[np.arange(32), categories[:, -1, 2]]).mean()
    assert _loss(forecaster, inputs) == pytest.approx(want, rel=1e-5)


def test_loss_of_all_targets_is_the_mean_over_prefixes():
    forecaster = _forecaster(dropout=0.0, targets="all")
    inputs = _chain(16)
    ids, categories = inputs["product_ids"], inputs["product_categories"]
    terms = []
    for end in range(1, PRODUCTS):
        probabilities = _numpy(forecaster.forecast(ids[:, :end], categories[:, :end])[0])
        counts = ids[:, end - 1] != -1
        terms.append(-np.log(probabilities[np.arange(16), categories[:, end, 2]])[counts])
    assert _loss(forecaster, inputs) == pytest.approx(np.concatenate(terms).mean(), rel=1e-5)


def test_no_encoding_sees_what_comes_after():
    forecaster = _forecaster()
    inputs = _chain(6)
    ids, categories = inputs["product_ids"][:, 1:], inputs["product_categories"][:, 1:]
    before = _numpy(forecaster.encode(ids, categories))
    for t in range(PRODUCTS - 1):
        other_ids, other_categories = ids.copy(), categories.copy()
        other_ids[:, t:], other_categories[:, t:] = 12345, [1, 3, 5]
        after = _numpy(forecaster.encode(other_ids, other_categories))
        np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=1e-5, atol=1e-6)
        assert not np.allclose(after[:, t], before[:, t])


def test_padding_in_front_changes_nothing():
    forecaster = _forecaster()
    ids = np.array([[5, 6, 7]], np.int32)
    categories = np.array([[[0, 1, 2], [1, 2, 5], [3, 7, 15]]], np.int32)
    probabilities, encoding = forecaster.forecast(ids, categories)
    for padding in range(1, PRODUCTS - 3):
        front = np.full((1, padding), -1, np.int32), np.full((1, padding, 3), 2, np.int32)
        padded = forecaster.forecast(
            np.concatenate([front[0], ids], axis=1), np.concatenate([front[1], categories], axis=1)
        )
        np.testing.assert_allclose(_numpy(padded[0]), _numpy(probabilities), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(_numpy(padded[1])[:, padding:], _numpy(encoding), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(_numpy(padded[1])[:, :padding], np.zeros((1, padding, 16)))


def test_unknown_categories_say_nothing():
    forecaster = _forecaster()
    ids = np.array([[5, 6, 7, 8]], np.int32)
    categories = np.array([[[0, 1, 2], [1, 2, 5], [3, 7, 15], [1, 1, 1]]], np.int32)
    outputs = []
    for unknown in ([-1, -1, -1], [4, 8, 16], [10**6, -7, 99]):
        categories[0, 2] = unknown
        outputs.append(_numpy(forecaster.forecast(ids, categories)[0]))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    categories[0, 2] = [0, 0, 0]
    assert not np.allclose(_numpy(forecaster.forecast(ids, categories)[0]), outputs[0])


@pytest.mark.parametrize("targets", ["last", "all"])
def test_what_does_not_count_does_not(targets):
    """A target that is padding or unknown, and a context of padding alone."""
    forecaster = _forecaster(dropout=0.0, targets=targets)
    inputs = _chain(16)
    extra_ids, extra_categories = np.full((48, PRODUCTS), -1, np.int32), np.full((48, PRODUCTS, 3), 3, np.int32)
    extra_ids[:16, -1] = 7  # the room's first product
    extra_ids[16:32, -2] = 7  # nothing follows
    extra_ids[32:, -2:] = 7
    extra_categories[32:, -1, 2] = 16  # of an unknown category
    more = {
        "product_ids": np.concatenate([inputs["product_ids"], extra_ids]),
        "product_categories": np.concatenate([inputs["product_categories"], extra_categories]),
    }
    assert _loss(forecaster, more) == pytest.approx(_loss(forecaster, inputs), rel=1e-5)
    assert forecaster.hit_rates(**more) == pytest.approx(forecaster.hit_rates(**inputs))


def test_a_batch_of_nothing_but_padding_is_harmless():
    forecaster = _forecaster()
    nothing = {
        "product_ids": np.full((4, PRODUCTS), -1, np.int32),
        "product_categories": np.zeros((4, PRODUCTS, 3), np.int32),
    }
    probabilities, encoding = forecaster(nothing, training=True)
    assert float(_numpy(forecaster.losses[0])) == 0
    bias = _numpy(forecaster.output_layer.bias)
    np.testing.assert_allclose(_numpy(probabilities)[0], np.exp(bias) / np.exp(bias).sum(), rtol=1e-5)
    np.testing.assert_array_equal(_numpy(encoding), np.zeros((4, PRODUCTS - 1, 16)))
    _fit(forecaster, nothing, epochs=1)
    assert all(np.isfinite(_numpy(weight)).all() for weight in forecaster.weights)
    assert all(np.isnan(rate) for rate in forecaster.hit_rates(**nothing).values())


def test_answers_for_an_empty_batch():
    probabilities, encoding = _forecaster()({name: array[:0] for name, array in _chain(2).items()}, training=True)
    assert tuple(probabilities.shape) == (0, 16)
    assert tuple(encoding.shape) == (0, PRODUCTS - 1, 16)


def test_two_products_are_enough():
    inputs = {name: array[:, -2:] for name, array in _chain(128).items()}
    forecaster = _forecaster(products=2)
    assert np.isfinite(_fit(forecaster, inputs, epochs=1)).all()
    assert tuple(forecaster(inputs)[1].shape) == (128, 1, 16)


def test_training_returns_what_will_be_served():
    inputs = _chain(16)
    forecaster = _forecaster(dropout=0.5)
    for got, want in zip(forecaster(inputs, training=True), forecaster(inputs), strict=True):
        np.testing.assert_array_equal(_numpy(got), _numpy(want))


def test_hit_rates_of_the_rules_by_hand():
    forecaster = _forecaster(products=5)
    finest = np.array(
        [
            [3, 3, 5, 6, 3],  # most frequent hits
            [3, 3, 5, 6, 6],  # latest hits
            [-1, 5, 6, 16, 6],  # 6 is the last known one, and of the two that came once the later one
            [-1, -1, -1, 99, 1],  # no known category before: both miss
            [3, 3, 3, 3, 16],  # unknown target: left out
        ]
    )
    ids = np.where(finest == -1, -1, 7)
    categories = np.stack([finest * 0, finest * 0, finest], axis=-1)
    rates = forecaster.hit_rates(ids, categories, batch_size=3)
    assert rates["most_frequent"] == 2 / 4
    assert rates["latest"] == 2 / 4
    probabilities = _numpy(forecaster.forecast(ids[:4, :-1], categories[:4, :-1])[0])
    best = np.argsort(-probabilities, axis=1, kind="stable")
    assert rates["model"] == np.mean(best[:, 0] == finest[:4, -1])
    assert rates["model_at_10"] == np.mean((best[:, :10] == finest[:4, -1:]).any(axis=1))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_low_precision(policy):
    inputs = _chain(16)
    reference, forecaster = _forecaster(), _forecaster(dtype=policy)
    forecaster.set_weights(reference.get_weights())
    probabilities, encoding = forecaster(inputs)
    assert keras.backend.standardize_dtype(probabilities.dtype) == "float32"
    assert keras.backend.standardize_dtype(encoding.dtype) == forecaster.compute_dtype
    want_probabilities, want_encoding = reference(inputs)
    np.testing.assert_allclose(_numpy(probabilities), _numpy(want_probabilities), rtol=0.06, atol=0.01)
    np.testing.assert_allclose(_numpy(ops.cast(encoding, "float32")), _numpy(want_encoding), rtol=0.06, atol=0.06)
    assert np.isfinite(_fit(forecaster, _chain(128), epochs=1)).all()


def test_trains_and_predicts_compiled():
    forecaster = _forecaster()
    forecaster.compile(keras.optimizers.Adam(1e-2), jit_compile=keras.backend.backend() != "torch")
    inputs = _chain(64)
    assert np.isfinite(forecaster.fit(inputs, epochs=1, batch_size=32, verbose=0).history["loss"]).all()
    np.testing.assert_allclose(forecaster.predict(inputs, verbose=0)[0], _numpy(forecaster(inputs)[0]), atol=1e-5)


def test_saves_and_loads_whole(tmp_path):
    forecaster = _forecaster(targets="all", dropout=0.2)
    inputs = _chain(128)
    _fit(forecaster, inputs, epochs=1)
    forecaster.save(tmp_path / "forecaster.keras")
    loaded = keras.saving.load_model(tmp_path / "forecaster.keras")
    assert loaded.get_config() == forecaster.get_config()
    for got, want in zip(loaded(inputs), forecaster(inputs), strict=True):
        np.testing.assert_array_equal(_numpy(got), _numpy(want))


def test_rejects_what_does_not_fit():
    def build(ids, categories):
        ProductForecaster(10, model_width=8).build({"product_ids": ids, "product_categories": categories})

    with pytest.raises(ValueError, match=r"product_ids must be of shape \(batch, products\), 2 .*, got \(None, 1\)"):
        build((None, 1), (None, 1, 3))
    with pytest.raises(ValueError, match=r"product_categories must be of shape \(batch, 4, 3\), got \(None, 4, 2\)"):
        build((None, 4), (None, 4, 2))
    with pytest.raises(ValueError, match=r"categories must be one or more numbers of at least 1, got \(5, 0\)"):
        ProductForecaster(10, categories=(5, 0))
    with pytest.raises(ValueError, match="""targets must be "last" or "all", got 'first'"""):
        ProductForecaster(10, targets="first")
    with pytest.raises(ValueError, match="heads must divide model_width, got model_width=10, heads=4"):
        ProductForecaster(10, model_width=10)
    forecaster, inputs = _forecaster(), _chain(4)
    with pytest.raises(ValueError, match=r"inputs must hold 'product_categories', got \['product_ids'\]"):
        forecaster({"product_ids": inputs["product_ids"]})
    forecaster(inputs)
    categories = inputs["product_categories"]
    for wrong in (np.repeat(categories, 2, axis=-1), categories[:, :, :2], categories[:, 1:]):
        with pytest.raises(ValueError, match=r"product_categories must be of shape"):
            forecaster({**inputs, "product_categories": wrong})
