import keras
import numpy as np
import pytest
from keras import ops

from keras_models.semantic_id_forecaster import SemanticIdForecaster

from .layers.layer_checks import gradients, to_numpy

CODES = 6
INPUTS = {
    "semantic_ids": np.array([[-1, 3, 0, 3, 1], [2, 0, 2, 1, 4], [-1, -1, -1, 5, 0]], np.int32),
    "run_lengths": np.array([[0, 2, 1, 9, 4], [1, 1, 1, 1, 1], [0, 0, 0, 3, 1]], np.int32),
}
NOTHING = {"semantic_ids": np.full((2, 5), -1, np.int32), "run_lengths": np.zeros((2, 5), np.int32)}


def _forecaster(**keywords) -> SemanticIdForecaster:
    keras.utils.set_random_seed(0)
    keywords = {"codes": CODES, "model_width": 8, "heads": 2, "max_run_length": 4} | keywords
    forecaster = SemanticIdForecaster(**keywords)
    forecaster.build({"semantic_ids": (None, 5), "run_lengths": (None, 5)})
    # Tables far from 0, so that logits, and what they are of, are far from alike.
    for table in (forecaster.encoder.code_table, forecaster.encoder.run_length_embedding.embeddings):
        table.assign(np.random.default_rng(0).normal(size=table.shape))
    return forecaster


def _loss(forecaster, inputs) -> float:
    forecaster(inputs, training=True)
    (loss,) = forecaster.losses
    return float(to_numpy(loss))


def _split(target, ids, runs):
    found = to_numpy(_forecaster(target=target).context_and_target(np.array([ids]), np.array([runs])))
    return tuple(x[0].tolist() for x in found)


@pytest.mark.parametrize(
    ("ids", "runs", "context", "target"),
    [
        # The last run goes on: it is one segment shorter, and its code comes next.
        ([-1, 3, 1], [0, 2, 4], ([-1, 3, 1], [0, 2, 3]), 1),
        # The last run is one segment: what was before it moves up.
        ([2, 3, 1], [5, 2, 1], ([-1, 2, 3], [0, 5, 2]), 1),
        # One run alone, of more than one segment, is context and target.
        ([-1, -1, 1], [0, 0, 2], ([-1, -1, 1], [0, 0, 1]), 1),
        # Padding by either sign, and what stands beside it, is cleaned.
        ([9, 2, 1], [7, 0, 3], ([-1, -1, 1], [0, 0, 2]), 1),
    ],
)
def test_next_segment_takes_one_segment_off(ids, runs, context, target):
    assert _split("next_segment", ids, runs) == (*context, target, True)


@pytest.mark.parametrize(
    ("ids", "runs", "context", "target"),
    [
        ([-1, 3, 1], [0, 2, 4], ([-1, -1, 3], [0, 0, 2]), 1),
        ([2, 3, 1], [5, 2, 1], ([-1, 2, 3], [0, 5, 2]), 1),
    ],
)
def test_next_change_takes_the_last_run_off(ids, runs, context, target):
    assert _split("next_change", ids, runs) == (*context, target, True)


@pytest.mark.parametrize(
    ("target", "ids", "runs"),
    [
        ("next_segment", [-1, -1, 1], [0, 0, 1]),  # nothing before it
        ("next_change", [-1, -1, 1], [0, 0, 7]),
        ("next_segment", [2, 1, -1], [1, 1, 0]),  # nothing to forecast
        ("next_segment", [2, 1, CODES], [1, 1, 3]),
        ("next_change", [2, 1, 3], [1, 1, 0]),
        ("next_segment", [-1, -1, -1], [0, 0, 0]),
    ],
)
def test_what_does_not_count(target, ids, runs):
    assert _split(target, ids, runs)[3] is False
    with_it, without = _forecaster(target=target), _forecaster(target=target)
    both = {
        "semantic_ids": np.concatenate([INPUTS["semantic_ids"], [[-1, -1, *ids]]]),
        "run_lengths": np.concatenate([INPUTS["run_lengths"], [[0, 0, *runs]]]),
    }
    assert _loss(with_it, both) == pytest.approx(_loss(without, INPUTS), rel=1e-6)
    assert with_it.hit_rates(**both) == without.hit_rates(**INPUTS)


@pytest.mark.parametrize("target", ["next_segment", "next_change"])
def test_the_loss_is_the_cross_entropy_of_the_last_code(target):
    forecaster = _forecaster(target=target)
    ids, runs, codes, _ = to_numpy(forecaster.context_and_target(**INPUTS))
    _, prediction = forecaster({"semantic_ids": ids, "run_lengths": runs})
    scores = to_numpy(prediction) @ to_numpy(forecaster.encoder.code_table).T
    np.testing.assert_allclose(to_numpy(forecaster.logits(prediction)), scores, rtol=1e-5, atol=1e-5)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert _loss(forecaster, INPUTS) == pytest.approx(-np.log(probabilities[np.arange(3), codes]).mean(), rel=1e-5)


def test_the_loss_knows_nothing_but_context_and_target():
    """Whether the last run would have gone on is not in the context: it is the same for 5 segments as for 4 and one."""
    forecaster = _forecaster(target="next_change")
    longer = INPUTS["run_lengths"].copy()
    longer[:, -1] += 7
    assert _loss(forecaster, {**INPUTS, "run_lengths": longer}) == _loss(forecaster, INPUTS)
    forecaster = _forecaster()
    contexts = set()
    for code in range(CODES):
        ids, runs = INPUTS["semantic_ids"].copy(), INPUTS["run_lengths"].copy()
        ids[1, -1] = code
        if code == 1:  # the run goes on
            ids[1], runs[1] = [-1, 2, 0, 2, 1], [0, 1, 1, 1, 2]
        context = to_numpy(forecaster.context_and_target(ids, runs))
        contexts.add(str(context[0][1]) + str(context[1][1]))
        assert context[2][1] == code
    assert contexts == {"[-1  2  0  2  1][0 1 1 1 1]"}


def test_training_returns_what_will_be_served():
    forecaster = _forecaster(dropout=0.5)
    for got, want in zip(forecaster(INPUTS, training=True), forecaster(INPUTS), strict=True):
        np.testing.assert_array_equal(to_numpy(got), to_numpy(want))
    losses = {_loss(forecaster, INPUTS) for _ in range(3)}
    assert len(losses) == 3  # the training pass has dropout


def test_a_ranker_changes_nothing_in_the_forecaster():
    forecaster = _forecaster()

    def found(ranking_weight, own_weight):
        def loss():
            content, prediction = forecaster(INPUTS, training=True)
            ranking = ops.sum(ops.square(content)) + ops.sum(ops.square(prediction))
            return ranking_weight * ranking + own_weight * sum(forecaster.losses)

        return gradients(loss, forecaster.trainable_variables)

    for gradient in found(1.0, 0.0):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
    for beside, alone in zip(found(100.0, 1.0), found(0.0, 1.0), strict=True):
        np.testing.assert_array_equal(beside, alone)


def test_the_table_is_tied():
    """One variable of shape (K, D); codes that are no input, only wrong answers, are trained through the output."""
    forecaster = _forecaster()
    tables = [weight for weight in forecaster.trainable_variables if tuple(weight.shape) == (CODES, 8)]
    assert len(tables) == 1
    assert tables[0] is forecaster.encoder.code_table
    one = {"semantic_ids": np.array([[2, 3]]), "run_lengths": np.array([[1, 1]])}
    _, prediction = forecaster(one)

    def through_the_output():
        return ops.sum(forecaster.logits(ops.stop_gradient(prediction))[:, 5])

    (gradient,) = gradients(through_the_output, tables)
    np.testing.assert_allclose(gradient[5], to_numpy(prediction)[0], rtol=1e-6)
    np.testing.assert_array_equal(gradient[:5], np.zeros((5, 8)))

    def through_the_input():
        return ops.sum(forecaster(one)[1][:, :3])

    (gradient,) = gradients(through_the_input, tables)
    np.testing.assert_array_equal(np.abs(gradient).max(axis=1) > 0, [False, False, True, True, False, False])


def test_every_weight_trains():
    forecaster = _forecaster(positions=3)

    def loss():
        forecaster(INPUTS, training=True)
        return sum(forecaster.losses)

    found = gradients(loss, forecaster.trainable_variables)
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() > 0 for gradient in found)


def test_content_is_the_mean_over_entries_that_count_or_all_of_them():
    forecaster, flat = _forecaster(), _forecaster(pooling="flatten")
    encoding = to_numpy(forecaster.encoder(**INPUTS))
    entries = (INPUTS["run_lengths"] > 0).sum(axis=1)[:, None]
    content, prediction = to_numpy(forecaster(INPUTS))
    np.testing.assert_allclose(content, encoding.sum(axis=1) / entries, rtol=1e-5, atol=1e-6)
    whole, same = to_numpy(flat(INPUTS))
    np.testing.assert_allclose(whole, encoding.reshape(3, 40), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same, prediction, rtol=1e-5, atol=1e-6)
    shapes = {name: x.shape for name, x in INPUTS.items()}
    assert forecaster.compute_output_shape(shapes) == ((3, 8), (3, 8))
    assert flat.compute_output_shape(shapes) == ((3, 40), (3, 8))


@pytest.mark.parametrize("positions", [None, 3])
def test_padding_in_front_changes_nothing(positions):
    forecaster = _forecaster(positions=positions)
    longer = {
        "semantic_ids": np.concatenate([np.full((3, 4), -1), INPUTS["semantic_ids"]], axis=1),
        "run_lengths": np.concatenate([np.zeros((3, 4), int), INPUTS["run_lengths"]], axis=1),
    }
    for got, want in zip(to_numpy(forecaster(longer)), to_numpy(forecaster(INPUTS)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert _loss(forecaster, longer) == pytest.approx(_loss(forecaster, INPUTS), rel=1e-5)


def test_nothing_but_padding_is_harmless():
    forecaster = _forecaster()
    content, prediction = to_numpy(forecaster(NOTHING))
    np.testing.assert_array_equal(content, np.zeros((2, 8)))
    assert np.isfinite(prediction).all()
    for rows in (2, 0):
        inputs = {name: x[:rows] for name, x in NOTHING.items()}
        assert [x.shape for x in to_numpy(forecaster(inputs))] == [(rows, 8), (rows, 8)]
        assert _loss(forecaster, inputs) == 0

        def loss(inputs=inputs):
            forecaster(inputs, training=True)
            return sum(forecaster.losses)

        for gradient in gradients(loss, forecaster.trainable_variables):
            np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
        assert all(np.isnan(share) for rule in forecaster.hit_rates(**inputs).values() for share in rule.values())


def test_rules_by_hand():
    """Context: 3 for 4 segments, 1 for 3, 2 for 2, 1 for 1; codes among the last 5 segments: 1 thrice, 2 twice."""
    rates = {}
    for target in range(5):
        ids, runs = np.array([[3, 1, 2, 1, target]]), np.array([[4, 3, 2, 1, 1]])
        if target == 1:
            ids, runs = np.array([[-1, 3, 1, 2, 1]]), np.array([[0, 4, 3, 2, 2]])
        found = _forecaster().hit_rates(ids, runs, at=(1, 2, 3, 4))
        rates[target] = {rule: [shares[f"hit@{k}"] for k in (1, 2, 3, 4)] for rule, shares in found.items()}
    first, second, third, never = [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]
    assert {code: rates[code]["last"] for code in range(5)} == {0: never, 1: first, 2: second, 3: third, 4: never}
    # 1 and 3 have four segments each: 1 was later.
    heavy = {code: rates[code]["largest_weight"] for code in range(5)}
    assert heavy == {0: never, 1: first, 2: third, 3: second, 4: never}
    # The last five segments are 1 1 2 2 1: 3 is in the context, but not among them.
    frequent = {code: rates[code]["most_frequent"] for code in range(5)}
    assert frequent == {0: never, 1: first, 2: second, 3: third, 4: never}


def test_rules_for_the_next_change_leave_the_current_code_out():
    ids, runs = np.array([[3, 1, 2, 1, 3], [3, 1, 2, 1, 2]]), np.array([[4, 3, 2, 1, 8]] * 2)
    rates = _forecaster(target="next_change").hit_rates(ids, runs, at=(1, 2))
    assert rates["last"] == {"hit@1": 0.5, "hit@2": 1.0}  # 2, then 3
    assert rates["most_frequent"] == {"hit@1": 0.5, "hit@2": 1.0}  # of the last 5 segments: 2, then 3
    assert rates["largest_weight"] == {"hit@1": 0.5, "hit@2": 1.0}  # 3, then 2


def test_hit_rates_do_not_depend_on_the_batch():
    generator = np.random.default_rng(0)
    ids, runs = generator.integers(-1, CODES, (50, 5)), generator.integers(1, 6, (50, 5))
    forecaster = _forecaster()
    whole = forecaster.hit_rates(ids, runs, at=(1, 3, CODES))
    assert whole == forecaster.hit_rates(ids, runs, at=(1, 3, CODES), batch_size=7)
    assert whole["model"][f"hit@{CODES}"] == 1
    assert 0 < whole["model"]["hit@1"] < whole["model"]["hit@3"] < 1


def test_a_model_that_is_not_finite_hits_nothing():
    forecaster = _forecaster()
    forecaster.encoder.code_table.assign(np.full((CODES, 8), np.nan))
    assert forecaster.hit_rates(**INPUTS, at=(1, 5))["model"] == {"hit@1": 0, "hit@5": 0}


def _walks(examples: int, seed: int, entries: int = 4) -> dict[str, np.ndarray]:
    """Each room goes to and fro between two codes, one segment of one and two of the other: their order tells."""
    generator = np.random.default_rng(seed)
    pair = np.argsort(generator.random((examples, CODES)), axis=1)[:, :2]
    place = (np.arange(entries) + generator.integers(0, 2, (examples, 1))) % 2
    runs = place + 1
    runs[:, -1] = np.minimum(runs[:, -1], generator.integers(1, 3, examples))
    return {"semantic_ids": np.take_along_axis(pair, place, axis=1), "run_lengths": runs}


@pytest.mark.parametrize("target", ["next_segment", "next_change"])
def test_learns_to_beat_the_rules(target):
    keras.utils.set_random_seed(0)
    forecaster = SemanticIdForecaster(
        CODES, 16, encoder_layers=1, heads=2, max_run_length=4, positions=4, target=target
    )
    forecaster.compile(keras.optimizers.Adam(2e-2), jit_compile=False)
    losses = forecaster.fit(_walks(1024, 0), epochs=6, batch_size=64, verbose=0).history["loss"]
    rates = forecaster.hit_rates(**_walks(256, 1), at=(1,))
    assert losses[-1] < 0.3 * losses[0]
    assert rates["model"]["hit@1"] > 0.95
    if target == "next_segment":  # a change between two codes is no riddle to the rules
        assert rates["model"]["hit@1"] > 0.2 + max(rates[rule]["hit@1"] for rule in rates if rule != "model")


def test_saves_and_loads_whole(tmp_path):
    forecaster = _forecaster(positions=3, pooling="flatten", target="next_change", decoder_layers=2, dropout=0.1)
    forecaster(INPUTS)
    forecaster.save(tmp_path / "forecaster.keras")
    loaded = keras.saving.load_model(tmp_path / "forecaster.keras")
    assert loaded.get_config() == forecaster.get_config()
    for got, want in zip(to_numpy(loaded(INPUTS)), to_numpy(forecaster(INPUTS)), strict=True):
        np.testing.assert_array_equal(got, want)
    assert _loss(_as_without_dropout(loaded), INPUTS) == pytest.approx(_loss(_as_without_dropout(forecaster), INPUTS))


def _as_without_dropout(forecaster):
    copy = SemanticIdForecaster.from_config({**forecaster.get_config(), "dropout": 0.0})
    copy.build({"semantic_ids": (None, 5), "run_lengths": (None, 5)})
    copy.set_weights([to_numpy(weight) for weight in forecaster.trainable_variables])
    return copy


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="compiling takes minutes; run it on another backend")
def test_trains_compiled():
    plain, compiled = _forecaster(positions=3), _forecaster(positions=3)
    for forecaster, jit in ((plain, False), (compiled, True)):
        forecaster.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        forecaster.fit(INPUTS, epochs=3, batch_size=3, shuffle=False, verbose=0)
    for got, want in zip(compiled.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_low_precision(policy):
    reference, low = _forecaster(), _forecaster(dtype=policy)
    for got, want in zip(low(INPUTS), reference(INPUTS), strict=True):
        assert keras.backend.standardize_dtype(got.dtype) == policy.removeprefix("mixed_")
        np.testing.assert_allclose(to_numpy(ops.cast(got, "float32")), to_numpy(want), rtol=0.06, atol=0.06)
    logits = low.logits(low(INPUTS)[1])
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert _loss(low, INPUTS) == pytest.approx(_loss(reference, INPUTS), rel=0.05)
    assert _loss(low, NOTHING) == 0


def test_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match="target must be one of"):
        SemanticIdForecaster(CODES, target="next")
    with pytest.raises(ValueError, match="pooling must be one of"):
        SemanticIdForecaster(CODES, pooling="max")
    with pytest.raises(ValueError, match=r"at least 2 entries, a context and what follows, got \(None, 1\)"):
        SemanticIdForecaster(CODES).build({"semantic_ids": (None, 1), "run_lengths": (None, 1)})
    with pytest.raises(ValueError, match=r"got \(None, 5\) and \(None, 4\)"):
        SemanticIdForecaster(CODES).build({"semantic_ids": (None, 5), "run_lengths": (None, 4)})
    with pytest.raises(ValueError, match="codes"):
        SemanticIdForecaster(0)
    forecaster = SemanticIdForecaster(CODES)
    with pytest.raises(ValueError, match=r"inputs must hold 'run_lengths', got \['semantic_ids'\]"):
        forecaster({"semantic_ids": INPUTS["semantic_ids"]})
    forecaster(INPUTS)
    with pytest.raises(ValueError, match="semantic_ids and run_lengths must be of one shape"):
        forecaster({**INPUTS, "run_lengths": INPUTS["run_lengths"][:, :1]})
    with pytest.raises(ValueError, match="inputs must hold 'semantic_ids'"):
        forecaster({"run_lengths": INPUTS["run_lengths"]})
