import threading
import time
from concurrent.futures import CancelledError

import grpc
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serving.local_server.request_queue import RequestQueue
from serving.local_server.serving_error import ServingError


@pytest.fixture
def make():
    queues = []

    def queue(workers, waiting):
        queues.append(RequestQueue(workers, waiting))
        return queues[-1]

    yield queue
    for each in queues:
        each.stop()


def test_takes_as_many_as_it_has_places_and_recovers(make):
    queue = make(2, 3)
    go = threading.Event()
    taken = [queue.submit(go.wait) for _ in range(5)]
    for _ in range(3):
        with pytest.raises(ServingError, match="2 requests are computed and 3 wait") as caught:
            queue.submit(lambda: None)
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    go.set()
    assert [future.result(5) for future in taken] == [True] * 5
    assert [queue.submit(lambda number=number: number).result(5) for number in range(20)] == list(range(20))


def test_what_waits_past_its_deadline_or_is_cancelled_is_not_computed(make):
    queue = make(1, 5)
    go = threading.Event()
    first = queue.submit(go.wait)
    computed = []
    late = queue.submit(lambda: computed.append("late"), time.monotonic() + 0.02)
    cancelled = queue.submit(lambda: computed.append("cancelled"))
    in_time = queue.submit(lambda: computed.append("in time"), time.monotonic() + 60)
    assert cancelled.cancel()
    time.sleep(0.05)
    go.set()
    assert first.result(5)
    with pytest.raises(ServingError, match="deadline passed while it waited") as caught:
        late.result(5)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(CancelledError):
        cancelled.result(5)
    in_time.result(5)
    assert computed == ["in time"]


def test_an_error_belongs_to_its_request(make):
    queue = make(1, 1)
    with pytest.raises(ZeroDivisionError):
        queue.submit(lambda: 1 // 0).result(5)
    assert queue.submit(lambda: 1).result(5) == 1


def test_a_stopped_queue_ends_what_it_took(make):
    queue = make(1, 5)
    taken = [queue.submit(lambda number=number: number) for number in range(3)]
    queue.stop()
    assert [future.result(5) for future in taken] == [0, 1, 2]
    with pytest.raises(ServingError, match="shutting down"):
        queue.submit(lambda: None)


@pytest.mark.parametrize(("workers", "waiting"), [(0, 1), (1, -1)])
def test_refuses_senseless_sizes(workers, waiting):
    with pytest.raises(ValueError, match="at least 1 worker and 0 places"):
        RequestQueue(workers, waiting)


def test_who_would_wait_past_its_deadline_is_refused_at_once(make):
    queue = make(1, 5)
    for _ in range(60):
        queue.submit(lambda: time.sleep(0.005)).result(5)  # what the queue learns from: about 5 ms a request
    go = threading.Event()
    taken = [queue.submit(go.wait) for _ in range(4)]
    with pytest.raises(ServingError, match="the deadline is in") as caught:
        queue.submit(lambda: None, time.monotonic() + 0.01)
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    patient = [queue.submit(lambda: True, time.monotonic() + 60), queue.submit(lambda: True)]
    go.set()
    assert all(future.result(5) for future in [*taken, *patient])
    assert queue.submit(lambda: True, time.monotonic() + 0.01).result(5)  # a worker is free: it is tried


def test_a_queue_of_quick_and_slow_requests_refuses_nobody_early():
    queue = RequestQueue(1, 5, refuses_early=False)
    queue.submit(lambda: time.sleep(0.2)).result(5)  # 0.01 s in the mean
    go = threading.Event()
    taken = queue.submit(go.wait)
    quick = queue.submit(lambda: True, time.monotonic() + 0.01)
    go.set()
    assert taken.result(5)
    assert isinstance(quick.exception(5), ServingError | None)  # late or not, it had its turn
    queue.stop()


def test_check_refuses_as_submit_does_and_takes_no_place(make):
    queue = make(1, 1)
    go = threading.Event()
    for _ in range(5):
        queue.check()
    taken = [queue.submit(go.wait) for _ in range(2)]
    with pytest.raises(ServingError, match="1 requests are computed and 1 wait") as caught:
        queue.check()
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    go.set()
    assert [future.result(5) for future in taken] == [True] * 2
    queue.check()
    queue.stop()
    with pytest.raises(ServingError, match="shutting down"):
        queue.check()


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.sampled_from(["take", "finish", "cancel"]), max_size=40))
def test_never_holds_more_than_its_places(workers, waiting, steps):
    """Whatever comes, ends or is cancelled in whatever order: every request is answered, refused or cancelled, once."""
    queue = RequestQueue(workers, waiting)
    gates, futures, refused = [], [], 0
    for step in steps:
        if step == "take":
            gate = threading.Event()
            try:
                futures.append(queue.submit(gate.wait))
            except ServingError as error:
                assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED
                unfinished = sum(not future.done() or future.cancelled() for future in futures)
                assert unfinished >= workers + waiting
                refused += 1
            else:
                gates.append(gate)
        elif step == "finish" and gates:
            gates.pop(0).set()
        elif step == "cancel" and futures:
            futures[-1].cancel()
    for gate in gates:
        gate.set()
    assert all(future.cancelled() or future.result(5) for future in futures)
    end = time.monotonic() + 5
    while True:
        try:
            queue.submit(lambda: None).result(5)
            break
        except ServingError:  # cancelled ones leave when their turn comes
            assert time.monotonic() < end
    assert len(futures) + refused == steps.count("take")
    queue.stop()
