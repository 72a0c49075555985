"""The worker of the prediction thread: admits requests, runs layers, and sets results."""

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

from sklearn_epee._nn.continuous_scheduler import SampleFailedError, SampleTooLargeError
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)

from ._requests import AnyPrediction, Request
from ._statistics import Counters, Health, ServingStatistics

# Maximum number of samples that are encoded together.
_CHUNK = 32

_LOGGER = logging.getLogger(__name__)


class Scheduler(Protocol):
    """Interface of what runs samples layer by layer, such as `OnlineScheduler`."""

    n_layers: int

    @property
    def n_runs(self) -> int:
        """Number of layer runs so far, each of one batch."""
        ...

    @property
    def n_samples_run(self) -> int:
        """Number of samples in these batches, summed over the runs."""
        ...

    @property
    def takes_more(self) -> bool:
        """Whether there is room for more samples before the first layer."""
        ...

    def enter(
        self,
        samples: Sequence[Any],
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> NDArray[np.intp]:
        """Add all samples or, on an error, none; return the slots of those that need no layer."""
        ...

    def advance(self) -> NDArray[np.intp]:
        """Run one layer of one batch; return the slots of the samples that exited."""
        ...

    def drop(self, slots: NDArray[np.intp]) -> None:
        """Remove samples."""
        ...

    def predictions(self, samples: Sequence[Any], slots: NDArray[np.intp]) -> list[dict[str, Any]]:
        """Return the predictions of samples that exited; called once per sample."""
        ...


class Worker:
    """Manages the pending requests of a predictor and answers each of them once.

    A request has a slot from `submit` until it has been answered and has left the scheduler. Other
    threads submit and cancel requests and read statistics. Everything else happens in the thread
    that calls `run`, which repeats these steps: drop cancelled and late requests, let new ones
    enter, run one layer of one batch, and answer the requests whose samples exited.

    Parameters
    ----------
    scheduler : Scheduler
    make : callable
        Returns the result of a request, given its prediction by the scheduler and ``latency``.
    capacity : int
        Maximum number of pending requests.
    clock : callable, default=time.monotonic
        Returns the time in seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        make: Callable[..., AnyPrediction],
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._make = make
        self._clock = clock
        self._counters = Counters(scheduler.n_layers)
        self._capacity = capacity
        # Guards the attributes below; notifies the worker thread when they change.
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
    ) -> Future[AnyPrediction]:
        """Add a validated sample to the queue and return the future of its prediction.

        Raises
        ------
        ServerClosedError, WorkerFailedError, QueueFullError
        """
        future: Future[AnyPrediction] = Future()
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
        """Raise the error that `submit` would raise now, before time is spent on the sample."""
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
                f"{self._capacity} requests are pending already (max_pending); try again later."
            )

    def _note_if_cancelled(self, request: Request) -> None:
        if not request.future.cancelled():
            return
        self._counters.add(cancelled=1)
        with self._changed:
            self._cancelled.append(request)
            self._changed.notify()

    def health(self) -> Health:
        """Return the status of the worker."""
        with self._changed:
            reason = None if self._reason is None else _description(self._reason)
            return Health(self._status, reason)

    def statistics(self) -> ServingStatistics:
        """Return statistics so far."""
        with self._changed:
            n_entered = sum(request.entered for request in self._held.values())
            scheduler = self._scheduler
            return self._counters.snapshot(n_entered, scheduler.n_runs, scheduler.n_samples_run)

    def open(self) -> None:
        """Accept requests from now on."""
        with self._changed:
            if self._status != "new":
                raise ServerClosedError(
                    "A predictor can only be started once; create a new one for the same estimator."
                )
            self._status = "serving"

    def stop(self, *, drain: bool) -> None:
        """Accept no more requests; with `drain`, pending ones are still answered."""
        with self._changed:
            if self._status in ("failed", "closed"):
                return
            is_running = self._status != "new"
            self._status = "draining" if drain and is_running else "closed"
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close the worker if its thread could not be started; all pending requests fail."""
        self.stop(drain=False)
        self._end()

    # ------------------------------------------------------------------- called by one thread only

    def run(self) -> None:
        """Process requests until the predictor is closed; every request gets a result or error."""
        try:
            while self._has_work():
                self.turn()
        except BaseException as error:  # noqa: BLE001 - all pending requests fail with it
            with self._changed:
                self._status, self._reason = "failed", error
        self._end()

    def _has_work(self) -> bool:
        """Wait for work; return False once there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._status != "serving")
            if self._status == "draining":
                return bool(self._held)
            return self._status == "serving"

    def turn(self) -> None:
        """Drop cancelled and late requests, admit new ones, run one layer, set results."""
        self._drop_cancelled()
        self._drop_late()
        self._admit()
        try:
            done = self._scheduler.advance()
        except SampleTooLargeError as error:
            self._fail(error.slots, error)
        except SampleFailedError as error:
            self._fail(error.slots, error.__cause__ or error)
        else:
            self._set_results(done)

    def _fail(self, slots: NDArray[np.intp], error: BaseException) -> None:
        """Drop requests and set an error as their result."""
        with self._changed:
            requests = [self._held[slot] for slot in slots.tolist()]
        self._drop(requests)
        for request in requests:
            self._refuse(request, error, "failed")

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
        # Requests that were answered in the meantime are not pending any more; their slots may
        # have been reused.
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
        # Requests that arrive during this loop wait for the next turn, so that the loop ends even
        # if none of the samples fills the scheduler (some need no layer).
        left = len(self._queue)
        while left and self._scheduler.takes_more:
            with self._changed:
                n = min(_CHUNK, left)
                requests = [self._queue.popleft() for _ in range(n)]
                for request in requests:
                    request.entered = True
            left -= n
            self._enter(requests)

    def _enter(self, requests: list[Request]) -> None:
        """Add requests to the scheduler; if some cannot be read, only those fail."""
        slots = np.array([request.slot for request in requests], np.intp)
        samples = [request.sample for request in requests]
        policies = [(request.tau, request.patience) for request in requests]
        try:
            done = self._scheduler.enter(samples, slots, policies)
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
        predictions = self._scheduler.predictions([request.sample for request in requests], done)
        now = self._clock()
        # Create the results while the requests are still pending: if this fails, they fail, too.
        results = [
            (request, self._make(**part, latency=now - request.submitted))
            for request, part in zip(requests, predictions, strict=True)
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
        """Set an error for all requests that are still pending."""
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
        """Remove requests from the queue and the scheduler."""
        entered = [request.slot for request in dropped if request.entered]
        if entered:
            self._scheduler.drop(np.array(entered, np.intp))
        self._release(dropped)
        if len(entered) < len(dropped):
            removed = {id(request) for request in dropped}
            with self._changed:
                self._queue = deque(r for r in self._queue if id(r) not in removed)

    def _release(self, requests: Sequence[Request]) -> None:
        """Free the slots of requests that have left the scheduler."""
        with self._changed:
            for request in requests:
                del self._held[request.slot]
                self._free.append(request.slot)

    def _refuse(self, request: Request, error: BaseException, why: str) -> None:
        """Set an error as the result of a request, unless it was cancelled."""
        if request.future.set_running_or_notify_cancel():
            self._counters.add(**{why: 1})
            _settle(request.future.set_exception, error)

    def _failure(self) -> WorkerFailedError:
        reason = "unknown" if self._reason is None else _description(self._reason)
        return WorkerFailedError(f"The prediction thread failed; nothing is predicted: {reason}")


def _settle(settle: Callable[[Any], None], outcome: Any) -> None:
    """Set the outcome of a future; an error in one of its callbacks is only logged.

    Other requests must still be answered.
    """
    try:
        settle(outcome)
    except BaseException:  # `Future` catches only subclasses of Exception in callbacks
        _LOGGER.exception("A callback of a request failed.")


def _too_late(request: Request) -> DeadlineExceededError:
    timeout = 0.0 if request.deadline is None else request.deadline - request.submitted
    return DeadlineExceededError(f"There was no prediction within timeout={timeout:g} seconds.")


def _description(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
