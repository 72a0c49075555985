"""Every request gets one answer: turn by turn, with a clock that the test moves."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from sklearn_epee._nn.continuous_scheduler import SampleTooLargeError
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)
from sklearn_epee.serving import Prediction
from sklearn_epee.serving._worker import Worker

N_LAYERS = 4


class Scheduler:
    """Each sample is its own exit layer; `advance` runs all of them. Sample 0 needs no layer."""

    n_layers = N_LAYERS

    def __init__(self):
        self.samples, self.policies = {}, {}
        self.passed, self.room = {}, 10**6
        self.n_runs = self.n_samples_run = 0
        self.before_run = lambda: None

    @property
    def takes_more(self):
        return len(self.passed) < self.room

    def enter(self, samples, slots, policies):
        assert not set(slots.tolist()) & self.passed.keys()
        if "unreadable" in samples:
            raise ValueError("unreadable")
        self.samples.update(zip(slots.tolist(), samples, strict=True))
        self.policies.update(zip(slots.tolist(), policies, strict=True))
        done = [slot for slot, sample in zip(slots.tolist(), samples, strict=True) if not sample]
        self.passed.update(dict.fromkeys(set(slots.tolist()) - set(done), 0))
        return np.array(done, np.intp)

    def advance(self):
        self.before_run()
        self.n_runs += 1
        self.n_samples_run += len(self.passed)
        self.passed = {slot: layer + 1 for slot, layer in self.passed.items()}
        done = [slot for slot, layer in self.passed.items() if layer == self.samples[slot]]
        for slot in done:
            del self.passed[slot]
        return np.array(done, np.intp)

    def drop(self, slots):
        for slot in slots.tolist():
            self.passed.pop(slot)

    def predictions(self, samples, slots):
        """Predict samples from the slots that they had."""
        layers = [max(1, self.samples[slot]) for slot in slots.tolist()]
        assert [self.samples[slot] for slot in slots.tolist()] == samples
        return [
            {
                "label": 10 * layer,
                "proba": np.eye(N_LAYERS)[layer - 1],
                "exit_layer": layer,
                "entropy": layer / 10,
            }
            for layer in layers
        ]


class Bench:
    """A worker without a thread."""

    def __init__(self, capacity=8):
        self.now = 0.0
        self.scheduler = Scheduler()
        self.worker = Worker(self.scheduler, Prediction, capacity, lambda: self.now)
        self.worker.open()

    def submit(self, sample, timeout=None, policy=(0.1, 2)):
        return self.worker.submit(sample, policy, timeout)

    def turn(self, times=1):
        for _ in range(times):
            self.worker.turn()
            self.check_counts()

    def check_counts(self):
        s = self.worker.statistics()
        ended = s.n_answered + s.n_expired + s.n_cancelled + s.n_failed
        assert s.n_accepted == ended + s.n_queued + s.n_running
        assert min(s.n_queued, s.n_running) >= 0


@pytest.fixture
def bench():
    return Bench()


def test_requests_join_and_are_answered_as_they_exit(bench):
    slow, quick = bench.submit(3), bench.submit(1)
    bench.turn()
    assert quick.result().label == 10
    late = bench.submit(1)
    bench.now = 2.5
    bench.turn()
    assert late.done()
    assert not slow.done()
    bench.turn()
    found = slow.result()
    assert (found.label, found.exit_layer, found.entropy, found.latency) == (30, 3, 0.3, 2.5)
    assert found.proba.tolist() == [0, 0, 1, 0]
    statistics = bench.worker.statistics()
    assert statistics.exit_layers.tolist() == [2, 0, 1, 0]
    assert statistics.entropies[[2, 6]].tolist() == [2, 1]
    assert statistics.latency_quantiles[0.5] == 2.5
    assert (statistics.n_layer_runs, statistics.n_samples_run) == (3, 5)


def test_policies_belong_to_slots(bench):
    futures = [bench.submit(2, policy=(0.1 * i, i)) for i in (1, 2, 3)]
    bench.turn()
    assert sorted(bench.scheduler.policies.values()) == [(0.1 * i, i) for i in (1, 2, 3)]
    bench.turn()
    assert all(future.done() for future in futures)


def test_a_full_queue_refuses_and_takes_again(bench):
    futures = [bench.submit(1) for _ in range(8)]
    with pytest.raises(QueueFullError, match="8 requests are pending"):
        bench.submit(1)
    bench.turn()
    assert all(future.done() for future in futures)
    bench.submit(1)
    assert bench.worker.statistics().n_rejected == 1


def test_what_the_scheduler_has_no_room_for_waits(bench):
    bench.scheduler.room = 1
    bench.submit(2)
    bench.turn()
    waiting = bench.submit(1)
    statistics = bench.worker.statistics()
    assert (statistics.n_queued, statistics.n_running) == (1, 1)
    bench.turn(2)
    assert waiting.done()


@pytest.mark.parametrize("entered", [False, True])
def test_late_requests_fail_and_are_dropped(bench, entered):
    on_time = bench.submit(3, timeout=10)
    if not entered:
        bench.scheduler.room = 0
    late = bench.submit(3, timeout=2)
    bench.turn()
    bench.now = 2.0
    bench.scheduler.room = 10
    bench.turn()
    with pytest.raises(DeadlineExceededError, match="within timeout=2 seconds"):
        late.result(0)
    assert not on_time.done()
    assert len(bench.scheduler.passed) == 1
    bench.turn(2)
    assert on_time.result(0).label == 30
    assert bench.worker.statistics().n_expired == 1


def test_a_prediction_that_comes_too_late_is_not_given(bench):
    late = bench.submit(1, timeout=1)
    bench.scheduler.before_run = lambda: setattr(bench, "now", 1.5)
    bench.turn()
    with pytest.raises(DeadlineExceededError):
        late.result(0)
    assert bench.worker.statistics().n_answered == 0


@pytest.mark.parametrize("entered", [False, True])
def test_cancelled_requests_free_their_slots(entered):
    bench = Bench(capacity=2)
    bench.scheduler.room = 2 if entered else 0
    cancelled, other = bench.submit(3), bench.submit(2)
    bench.turn()
    assert cancelled.cancel()
    bench.scheduler.room = 2
    bench.turn()
    assert wait([cancelled], timeout=0).done
    new = bench.submit(1)
    bench.turn(3)
    assert new.result(0).label == 10
    assert other.result(0).label == 20
    with pytest.raises(CancelledError):
        cancelled.result(0)
    assert bench.worker.statistics().n_cancelled == 1


def test_cancelling_during_the_last_layer_is_not_an_answer(bench):
    future = bench.submit(1)
    bench.scheduler.before_run = future.cancel
    bench.turn()
    assert future.cancelled()
    # Another request has its slot by the time the worker reads of the cancellation.
    bench.scheduler.before_run = lambda: None
    others = [bench.submit(2) for _ in range(8)]
    bench.turn(2)
    assert [other.result(0).label for other in others] == [20] * 8
    statistics = bench.worker.statistics()
    assert (statistics.n_cancelled, statistics.n_answered) == (1, 8)


def test_a_late_request_that_was_cancelled_is_counted_once(bench):
    future = bench.submit(3, timeout=1)
    bench.turn()
    future.cancel()
    bench.now = 5.0
    bench.turn()
    statistics = bench.worker.statistics()
    assert (statistics.n_cancelled, statistics.n_expired) == (1, 0)


def test_a_sample_that_cannot_be_read_fails_by_itself(bench):
    futures = [bench.submit(sample) for sample in (1, "unreadable", 2)]
    bench.turn(2)
    assert [futures[i].result(0).label for i in (0, 2)] == [10, 20]
    with pytest.raises(ValueError, match="unreadable"):
        futures[1].result(0)
    assert bench.worker.statistics().n_failed == 1
    assert bench.worker.health().is_ready


def test_a_failing_worker_tells_everybody_why(bench):
    bench.scheduler.room = 1
    futures = [bench.submit(2) for _ in range(3)]

    def fail():
        raise RuntimeError("the device is gone")

    bench.scheduler.before_run = fail
    bench.worker.run()
    for future in futures:
        with pytest.raises(WorkerFailedError, match="RuntimeError: the device is gone") as raised:
            future.result(0)
        assert isinstance(raised.value.__cause__, RuntimeError)
    health = bench.worker.health()
    assert (health.status, health.is_ready) == ("failed", False)
    assert health.reason == "RuntimeError: the device is gone"
    with pytest.raises(WorkerFailedError, match="the device is gone"):
        bench.submit(1)
    bench.worker.stop(drain=True)
    assert bench.worker.health().status == "failed"
    bench.check_counts()


def test_a_drained_worker_answers_what_it_holds_and_takes_no_more(bench):
    futures = [bench.submit(sample) for sample in (1, 3)]
    bench.worker.stop(drain=True)
    assert bench.worker.health().status == "draining"
    with pytest.raises(ServerClosedError, match="about to close"):
        bench.submit(1)
    bench.worker.run()
    assert [future.result(0).label for future in futures] == [10, 30]
    assert bench.worker.health().status == "closed"
    with pytest.raises(ServerClosedError, match="closed"):
        bench.submit(1)


def test_a_worker_that_is_not_drained_tells_those_who_wait(bench):
    future = bench.submit(3)
    bench.turn()
    bench.worker.stop(drain=False)
    bench.worker.run()
    with pytest.raises(ServerClosedError, match="before it answered"):
        future.result(0)
    bench.check_counts()


def test_requests_before_the_start_and_a_second_start_are_refused():
    worker = Worker(Scheduler(), Prediction, 2)
    with pytest.raises(ServerClosedError, match="not started"):
        worker.submit(1, (0.1, 2), None)
    worker.open()
    with pytest.raises(ServerClosedError, match="only be started once"):
        worker.open()


def test_a_draining_thread_ends_when_its_last_request_is_cancelled(bench):
    gate, inside = threading.Event(), threading.Event()

    def stand():
        inside.set()
        assert gate.wait(30)

    bench.scheduler.before_run = stand
    future = bench.submit(4)
    thread = threading.Thread(target=bench.worker.run)
    thread.start()
    assert inside.wait(30)
    bench.worker.stop(drain=True)
    future.cancel()
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    assert bench.worker.health().status == "closed"


def test_callbacks_that_fail_harm_nobody_else(bench):
    first, second = bench.submit(1), bench.submit(1)
    first.add_done_callback(lambda _: 1 / 0)
    bench.turn()
    assert second.result(0).label == 10


def test_a_callback_that_would_end_the_thread_does_not(bench):
    def leave(_):
        raise SystemExit

    first, second = bench.submit(1), bench.submit(1)
    first.add_done_callback(leave)
    bench.turn()
    assert (first.result(0).label, second.result(0).label) == (10, 10)
    assert bench.worker.health().is_ready


def test_samples_of_which_nothing_is_run_are_answered_at_once(bench):
    slow, nothing = bench.submit(2), bench.submit(0)
    bench.turn()
    assert nothing.result(0).exit_layer == 1
    assert not slow.done()
    bench.turn()
    assert slow.result(0).label == 20
    assert bench.worker.statistics().exit_layers.tolist() == [1, 1, 0, 0]


def test_a_flood_of_samples_of_which_nothing_is_run_holds_nobody_up(bench):
    slow = bench.submit(2)
    asked = [bench.submit(0)]

    def ask_again(_):
        asked.append(bench.submit(0))
        asked[-1].add_done_callback(ask_again)

    asked[0].add_done_callback(ask_again)
    bench.turn(2)
    assert slow.result(0).label == 20
    assert len(asked) == 3


def test_a_sample_without_room_by_itself_fails_by_itself(bench):
    futures = [bench.submit(2) for _ in range(3)]
    bench.turn()
    slot = max(bench.scheduler.passed)

    def fail():
        raise SampleTooLargeError("a single sample", np.array([slot]))

    bench.scheduler.before_run = fail
    bench.turn()
    bench.scheduler.before_run = lambda: None
    bench.turn()
    outcomes = sorted(type(future.exception(0)).__name__ for future in futures)
    assert outcomes == ["NoneType", "NoneType", "SampleTooLargeError"]
    assert bench.worker.statistics().n_failed == 1
    assert bench.worker.health().is_ready


def test_what_cannot_be_made_a_prediction_is_not_lost(bench, monkeypatch):
    futures = [bench.submit(1) for _ in range(3)]
    monkeypatch.setattr(bench.worker, "_make", lambda **_: 1 / 0)
    bench.worker.run()
    for future in futures:
        with pytest.raises(WorkerFailedError, match="ZeroDivisionError"):
            future.result(0)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_answered_twice_or_wrong_in_random_traffic(seed):
    """Requests, cancellations, deadlines and lack of room in any order."""
    rng = np.random.default_rng(seed)
    bench = Bench(capacity=int(rng.integers(1, 12)))
    futures, n_done = [], []
    for _ in range(200):
        action = rng.random()
        if action < 0.5:
            sample = int(rng.integers(0, N_LAYERS + 1))
            timeout = float(rng.integers(1, 6)) if rng.random() < 0.5 else None
            try:
                future = bench.submit(sample, timeout)
            except QueueFullError:
                continue
            future.add_done_callback(n_done.append)
            futures.append((sample, future))
        elif action < 0.6 and futures:
            futures[int(rng.integers(len(futures)))][1].cancel()
        elif action < 0.7:
            bench.scheduler.room = int(rng.integers(0, 6))
        else:
            bench.now += float(rng.random())
            bench.turn()
    bench.scheduler.room = 12
    bench.worker.stop(drain=True)
    bench.worker.run()
    assert len(n_done) == len(futures)
    outcomes = {"answered": 0, "expired": 0, "cancelled": 0}
    for sample, future in futures:
        if future.cancelled():
            outcomes["cancelled"] += 1
        elif future.exception(0) is not None:
            assert isinstance(future.exception(0), DeadlineExceededError)
            outcomes["expired"] += 1
        else:
            assert future.result(0).label == 10 * max(1, sample)
            outcomes["answered"] += 1
    statistics = bench.worker.statistics()
    assert outcomes["answered"] == statistics.n_answered
    assert outcomes["expired"] == statistics.n_expired
    assert outcomes["cancelled"] == statistics.n_cancelled
    assert not bench.scheduler.passed
    assert min(outcomes.values()) > 0
