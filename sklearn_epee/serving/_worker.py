"""The prediction thread: takes in requests, runs layers, and sets results."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._nn.layer_walk import SampleFailedError, SampleTooLargeError
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)

from ._requests import Found, Request
from ._statistics import Counters, Health, ServingStatistics

# Samples that are encoded together.
_CHUNK = 32

_LOGGER = logging.getLogger(__name__)


class Walk(Protocol):
    """What runs samples layer by layer; `OnlineWalk` does."""

    n_layers: int

    @property
    def n_runs(self) -> int:
        """Layers run so far."""
        ...

    @property
    def n_samples_run(self) -> int:
        """Samples in these runs."""
        ...

    @property
    def takes_more(self) -> bool:
        """Whether more samples should enter before the next layer is run."""
        ...

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Take samples in, all or none; return the slots of those of which nothing is to be run."""
        ...

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch; return the slots of the samples that exited."""
        ...

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Take samples out."""
        ...

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:
        """Return what is predicted of samples that exited, once."""
        ...


class Worker:
    """Holds the requests of a predictor and sets the result of each once.

    Every request has a slot from `submit` on until it is answered and out of the walk. Other
    threads submit, cancel and ask; all else happens in the thread that calls `run`, between two
    layers: cancelled and late requests are dropped, new ones enter, one layer of one batch is run,
    and the samples that exited are answered.

    Parameters
    ----------
    walk : Walk
    make : callable
        Makes the result of a request, from what the walk predicts and ``latency``.
    capacity : int
        Requests that are held at most.
    clock : callable, default=time.monotonic
        Returns the time in seconds.
    """

    def __init__(
        self,
        walk: Walk,
        make: Callable[..., Found],
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._walk = walk
        self._make = make
        self._clock = clock
        self._counters = Counters(walk.n_layers)
        self._capacity = capacity
        # What follows is guarded by this lock, of which the worker is told when something changed.
        self._changed = threading.Condition()
        self._status = "new"
        self._reason: BaseException | None = None
        self._held: dict[int, Request] = {}
        self._free = list(range(capacity))
        self._queue: deque[Request] = deque()
        self._cancelled: list[Request] = []

    # --------------------------------------------------------------------- called by any thread

    def submit(
        self, sample: Any, policy: tuple[float, int], timeout: float | None
    ) -> Future[Found]:
        """Take a validated sample in and return where its prediction is going to be.

        Raises
        ------
        ServerClosedError, WorkerFailedError, QueueFullError
        """
        future: Future[Found] = Future()
        now = self._clock()
        deadline = None if timeout is None else now + timeout
        with self._changed:
            self._check_takes_requests()
            slot = self._free.pop()
            request = Request(sample, *policy, now, deadline, slot, future)
            self._held[slot] = request
            self._queue.append(request)
            self._counters.add(accepted=1)
            self._changed.notify()
        future.add_done_callback(lambda _: self._note_if_cancelled(request))
        return future

    def check_takes_requests(self) -> None:
        """Raise what `submit` would, before work is spent on a sample."""
        with self._changed:
            self._check_takes_requests()

    def _check_takes_requests(self) -> None:
        if self._status == "failed":
            raise self._failure() from self._reason
        if self._status != "serving":
            reasons = {"new": "not started yet", "draining": "about to close"}
            raise ServerClosedError(f"The predictor is {reasons.get(self._status, 'closed')}.")
        if not self._free:
            self._counters.add(rejected=1)
            raise QueueFullError(
                f"{self._capacity} requests wait already (max_pending); try again later."
            )

    def _note_if_cancelled(self, request: Request) -> None:
        if not request.future.cancelled():
            return
        self._counters.add(cancelled=1)
        with self._changed:
            self._cancelled.append(request)
            self._changed.notify()

    def health(self) -> Health:
        """Return how the worker is."""
        with self._changed:
            reason = None if self._reason is None else _description(self._reason)
            return Health(self._status, reason)

    def statistics(self) -> ServingStatistics:
        """Return what was done so far."""
        with self._changed:
            n_entered = sum(request.entered for request in self._held.values())
            walk = self._walk
            return self._counters.snapshot(n_entered, walk.n_runs, walk.n_samples_run)

    def open(self) -> None:
        """Take requests from now on."""
        with self._changed:
            if self._status != "new":
                raise ServerClosedError(
                    "A predictor is started once; make a new one for the same estimator."
                )
            self._status = "serving"

    def stop(self, *, drain: bool) -> None:
        """Take no more requests; with `drain` those that are held are still answered."""
        with self._changed:
            if self._status in ("failed", "closed"):
                return
            is_running = self._status != "new"
            self._status = "draining" if drain and is_running else "closed"
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close, where there is no thread that could: all requests that are held fail."""
        self.stop(drain=False)
        self._end()

    # ------------------------------------------------------------------- called by one thread only

    def run(self) -> None:
        """Work until the predictor is closed; whatever happens, every request gets a result."""
        try:
            while self._has_work():
                self.turn()
        except BaseException as error:  # noqa: BLE001 - all requests that wait fail with it
            with self._changed:
                self._status, self._reason = "failed", error
        self._end()

    def _has_work(self) -> bool:
        """Wait until there is something to do; return False once there never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._status != "serving")
            if self._status == "draining":
                return bool(self._held)
            return self._status == "serving"

    def turn(self) -> None:
        """Drop, admit, run one layer, set results."""
        self._drop_cancelled()
        self._drop_late()
        self._admit()
        try:
            done = self._walk.advance()
        except SampleTooLargeError as error:
            self._fail(error.slots, error)
        except SampleFailedError as error:
            self._fail(error.slots, error.__cause__ or error)
        else:
            self._set_results(done)

    def _fail(self, slots: NDArray[np.intp], error: BaseException) -> None:
        """Let the request fail whose sample cannot be read, or not fit into the memory."""
        with self._changed:
            requests = [self._held[slot] for slot in slots.tolist()]
        self._drop(requests)
        for request in requests:
            self._refuse(request, error, "failed")

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
        # Those that were answered meanwhile are held no more, and another may have their slot.
        held = [request for request in cancelled if self._held.get(request.slot) is request]
        self._drop(held)
        for request in held:
            request.future.set_running_or_notify_cancel()

    def _drop_late(self) -> None:
        now = self._clock()
        with self._changed:
            late = [request for request in self._held.values() if request.is_late(now)]
        self._drop(late)
        for request in late:
            self._refuse(request, _too_late(request), "expired")

    def _admit(self) -> None:
        # Those that come meanwhile are for the next turn: some of them may have nothing to be run.
        left = len(self._queue)
        while left and self._walk.takes_more:
            with self._changed:
                n = min(_CHUNK, left)
                requests = [self._queue.popleft() for _ in range(n)]
                for request in requests:
                    request.entered = True
            left -= n
            self._enter(requests)

    def _enter(self, requests: list[Request]) -> None:
        """Let requests enter the walk; one that cannot be read fails by itself."""
        slots = np.array([request.slot for request in requests], np.intp)
        samples = [request.sample for request in requests]
        policies = [(request.tau, request.patience) for request in requests]
        try:
            done = self._walk.enter(samples, slots, policies)
        except Exception as error:  # noqa: BLE001 - the request of the sample fails with it
            if len(requests) > 1:
                for request in requests:
                    self._enter([request])
                return
            self._release(requests)
            self._refuse(requests[0], error, "failed")
        else:
            self._set_results(done)

    def _set_results(self, done: NDArray[np.intp]) -> None:
        """Set the results of the samples that exited."""
        if not len(done):
            return
        with self._changed:
            requests = [self._held[slot] for slot in done.tolist()]
        found = self._walk.predictions([request.sample for request in requests], done)
        now = self._clock()
        # All that can fail is done while the requests are still held.
        results = [
            (request, self._make(**part, latency=now - request.submitted))
            for request, part in zip(requests, found, strict=True)
        ]
        self._release(requests)
        finished = []
        for request, result in results:
            if request.is_late(now):
                self._refuse(request, _too_late(request), "expired")
            elif request.future.set_running_or_notify_cancel():
                finished.append((request, result))
        self._counters.add_predictions([result for _, result in finished])
        for request, result in finished:
            _settle(request.future.set_result, result)

    def _end(self) -> None:
        """Fail all requests that are still held."""
        with self._changed:
            if self._reason is None:
                self._status = "closed"
            left = list(self._held.values())
            self._held.clear()
            self._queue.clear()
        for request in left:
            if self._reason is None:
                error: Exception = ServerClosedError("The predictor was closed before it answered.")
            else:
                error = self._failure()
                error.__cause__ = self._reason
            self._refuse(request, error, "failed")

    # ---------------------------------------------------------------------------------- requests

    def _drop(self, dropped: Sequence[Request]) -> None:
        """Take requests out of the queue and the walk, and forget them."""
        entered = [request.slot for request in dropped if request.entered]
        if entered:
            self._walk.drop(np.array(entered, np.intp))
        self._release(dropped)
        if len(entered) < len(dropped):
            gone = {id(request) for request in dropped}
            with self._changed:
                self._queue = deque(r for r in self._queue if id(r) not in gone)

    def _release(self, requests: Sequence[Request]) -> None:
        """Free the slots of requests that are in the walk no more."""
        with self._changed:
            for request in requests:
                del self._held[request.slot]
                self._free.append(request.slot)

    def _refuse(self, request: Request, error: BaseException, why: str) -> None:
        """Answer a request with an error, unless it was cancelled."""
        if request.future.set_running_or_notify_cancel():
            self._counters.add(**{why: 1})
            _settle(request.future.set_exception, error)

    def _failure(self) -> WorkerFailedError:
        reason = "unknown" if self._reason is None else _description(self._reason)
        return WorkerFailedError(f"The predictor's thread failed and answers no more: {reason}")


def _settle(settle: Callable[[Any], None], outcome: Any) -> None:
    """Set the outcome of a future, whatever its callbacks do: others wait for theirs."""
    try:
        settle(outcome)
    except BaseException:  # a future itself lets a callback raise what is no Exception
        _LOGGER.exception("A callback of a request failed.")


def _too_late(request: Request) -> DeadlineExceededError:
    timeout = 0.0 if request.deadline is None else request.deadline - request.submitted
    return DeadlineExceededError(f"There was no prediction within timeout={timeout:g} seconds.")


def _description(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
