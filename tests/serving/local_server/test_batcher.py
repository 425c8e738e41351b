import threading
import time

import grpc
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serving.local_server.batcher import Batcher
from serving.local_server.batching_parameters import BatchingParameters
from serving.local_server.serving_error import ServingError


class Doubler:
    """Doubles `x`; notes the rows that it was called with; fails where a row is negative."""

    def __init__(self):
        self.rows = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, inputs):
        self.go.wait(10)
        self.rows.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise ValueError("a negative row")
        return {"y": inputs["x"] * 2}


@pytest.fixture
def make():
    batchers = []

    def batcher(**parameters):
        batchers.append(Batcher(BatchingParameters(**{"num_batch_threads": 1, **parameters})))
        return batchers[-1]

    yield batcher
    for each in batchers:
        each.stop()


def ask(batcher, compute, *values, key="k"):
    return batcher.submit(key, compute, {"x": np.array(values, float)}, len(values))


def outputs(futures):
    return [future.result(5)["y"].tolist() for future in futures]


def test_requests_that_wait_together_are_computed_together(make):
    batcher, compute = make(max_batch_size=6, batch_timeout_micros=10_000_000), Doubler()
    assert outputs([ask(batcher, compute, 1, 2), ask(batcher, compute, 3), ask(batcher, compute, 4, 5, 6)]) == [
        [2, 4],
        [6],
        [8, 10, 12],
    ]
    assert compute.rows == [6]


def test_what_is_alone_is_computed_after_the_timeout(make):
    batcher, compute = make(batch_timeout_micros=1000), Doubler()
    assert outputs([ask(batcher, compute, 1)]) == [[2]]


def test_different_keys_are_never_mixed(make):
    batcher, first, second = make(max_batch_size=2, batch_timeout_micros=50_000), Doubler(), Doubler()
    futures = [ask(batcher, first, 1), ask(batcher, second, 2, key="other"), ask(batcher, first, 3)]
    assert outputs(futures) == [[2], [4], [6]]
    assert (first.rows, second.rows) == ([2], [1])


def test_an_error_hits_only_the_request_that_caused_it(make):
    batcher, compute = make(max_batch_size=3, batch_timeout_micros=10_000_000), Doubler()
    futures = [ask(batcher, compute, 1), ask(batcher, compute, -1), ask(batcher, compute, 3)]
    assert outputs([futures[0], futures[2]]) == [[2], [6]]
    with pytest.raises(ValueError, match="a negative row"):
        futures[1].result(5)
    assert compute.rows == [3, 1, 1, 1]


def test_outputs_that_do_not_go_by_rows_are_computed_one_by_one(make):
    batcher = make(max_batch_size=2, batch_timeout_micros=10_000_000)
    futures = [ask(batcher, lambda inputs: {"y": inputs["x"].sum()}, value) for value in (1, 2)]
    assert outputs(futures) == [1, 2]


def test_batches_are_filled_up_to_an_allowed_size(make):
    batcher, compute = make(max_batch_size=8, batch_timeout_micros=1000, allowed_batch_sizes=(4, 8)), Doubler()
    assert outputs([ask(batcher, compute, 1, 2, 3)]) == [[2, 4, 6]]
    assert compute.rows == [4]


def test_a_full_queue_and_a_too_large_request_are_refused(make):
    batcher, compute = make(max_batch_size=2, max_enqueued_batches=2, batch_timeout_micros=0), Doubler()
    compute.go.clear()
    running = ask(batcher, compute, 0, 0)
    while batcher._queues:  # until the thread has taken it
        pass
    waiting = [ask(batcher, compute, 1, 1), ask(batcher, compute, 2, 2)]
    with pytest.raises(ServingError, match="queue to which this task was submitted is full") as caught:
        ask(batcher, compute, 3)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2") as caught:
        ask(batcher, compute, 1, 2, 3)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    compute.go.set()
    assert outputs([running, *waiting]) == [[0, 0], [2, 2], [4, 4]]
    assert outputs([ask(batcher, compute, 3)]) == [[6]]


def test_who_gave_up_is_not_computed(make):
    batcher, compute = make(max_batch_size=3, batch_timeout_micros=10_000_000), Doubler()
    futures = [ask(batcher, compute, 1), ask(batcher, compute, 2)]
    assert futures[0].cancel()
    ask(batcher, compute, 3)
    assert outputs(futures[1:]) == [[4]]
    assert compute.rows == [2]


def test_a_key_with_full_batches_does_not_starve_another(make):
    """A lone request that has waited for its timeout goes before batches that were full later."""
    batcher, order, go = make(max_batch_size=2, batch_timeout_micros=1000), [], threading.Event()

    def noting(key):
        def compute(inputs):
            go.wait(10)
            order.append(key)
            return {"y": inputs["x"]}

        return compute

    busy = noting("busy")
    running = ask(batcher, busy, 0, 0)
    while batcher._queues:  # until the thread has taken it
        pass
    other = ask(batcher, noting("other"), 1, key="other")
    time.sleep(0.005)
    waiting = [ask(batcher, busy, 0, 0) for _ in range(5)]
    go.set()
    outputs([running, other, *waiting])
    assert order == ["busy", "other", *["busy"] * 5]


def test_a_batch_that_the_next_request_does_not_fit_into_waits_no_longer(make):
    batcher, compute = make(max_batch_size=3, batch_timeout_micros=10_000_000), Doubler()
    first, _ = ask(batcher, compute, 1, 2), ask(batcher, compute, 3, 4)
    assert outputs([first]) == [[2, 4]]


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab")), max_size=30),
    st.integers(5, 12),
    st.integers(1, 3),
    st.booleans(),
)
def test_every_request_gets_what_it_would_get_alone(requests, most, threads, padded):
    """Whatever comes in whatever sizes under whatever keys."""
    parameters = BatchingParameters(
        max_batch_size=most,
        batch_timeout_micros=200,
        num_batch_threads=threads,
        max_enqueued_batches=1000,
        allowed_batch_sizes=(most - 2, most) if padded else (),
    )
    computed = {key: Doubler() for key in "ab"}
    batcher = Batcher(parameters)
    inputs = [np.arange(rows) + 100.0 * number for number, (rows, _) in enumerate(requests)]
    futures = [
        batcher.submit(key, computed[key], {"x": x}, len(x)) for (_, key), x in zip(requests, inputs, strict=True)
    ]
    for future, x in zip(futures, inputs, strict=True):
        assert (future.result(5)["y"] == 2 * x).all()
    batcher.stop()
    for key, compute in computed.items():
        assert all(rows <= most for rows in compute.rows)
        if not padded:
            assert sum(compute.rows) == sum(rows for rows, other in requests if other == key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, got 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", r"end with max_batch_size \(8\), got \[4\]"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [8, 4, 8]", "increase"),
        ("pad_variable_length_inputs: true", "neither pads variable lengths"),
        ("size: 3", "are no BatchingParameters"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, text, message):
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(ValueError, match=message):
        BatchingParameters.from_file(tmp_path / "batching.config")


def test_parameters_that_are_not_given_are_tensorflow_servings(tmp_path):
    (tmp_path / "batching.config").write_text("max_batch_size { value: 64 }")
    parameters = BatchingParameters.from_file(tmp_path / "batching.config")
    assert (parameters.max_batch_size, parameters.batch_timeout_micros, parameters.max_enqueued_batches) == (64, 0, 10)
