"""AsyncPredictor: predict requests as they arrive."""

from __future__ import annotations

import asyncio
import threading
import weakref
from concurrent.futures import Future
from numbers import Integral, Real
from types import TracebackType
from typing import Any, Self

from sklearn_epee._checks.messages import shown

from ._requests import Limits, Prediction, SentencePrediction
from ._served import ServedModel
from ._statistics import Health, ServingStatistics
from ._worker import Worker

# Memory for the predictions of all pending requests is allocated at the start.
_MAX_PENDING = 1_000_000


class AsyncPredictor:
    """Predict single samples as they arrive, with continuous batching, in the same process.

    New requests enter while others are between layers: a new sample is run through the first layers
    and merged with samples that wait at the same layer. So batches stay full although samples exit,
    and easy samples do not wait for hard ones. One thread predicts, with the same layers as the
    estimator itself. Requests can come from any thread and any event loop.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`~sklearn_epee.EPEEClassifier`, :class:`~sklearn_epee.EPEEImageClassifier`
        or :class:`~sklearn_epee.EPEEMultimodalClassifier` (of one task, several tasks or several
        labels), an :class:`~sklearn_epee.EPEETokenClassifier`, whose samples are sentences, or a
        pipeline, search object, ``FrozenEstimator``,
        :class:`~sklearn_epee.FixedExitPolicyClassifier`,
        :class:`~sklearn_epee.TunedExitPolicyClassifierCV`,
        :class:`~sklearn_epee.ExitCalibratedClassifier` or
        :class:`~sklearn_epee.TunedLabelThresholdsClassifierCV` around one. Later calls of `fit` or
        `set_params` have no effect on the predictor.
    max_pending : int, default=1024
        Maximum number of pending requests; at most 1,000,000. Further requests are refused with
        :class:`~sklearn_epee.exceptions.QueueFullError`.
    timeout : float or None, default=None
        Default timeout of requests in seconds. None: no timeout.
    tau_range : pair of float or None, default=None
        Smallest and largest `tau` that a request may set. None: all requests use that of the
        estimator.
    patience_range : pair of int or None, default=None
        Smallest and largest `patience` that a request may set. None: as for `tau_range`.

    Raises
    ------
    TypeError
        If the estimator is not supported, or is a wrapper that may change predictions.
    ValueError
        If a parameter is not as described.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    EPEEClassifier.predict_with_exits : Predictions of many available samples.

    Notes
    -----
    Between two layers, the thread drops requests that were cancelled or are too late, admits new
    ones, and chooses the batch to run: the one at the lowest layer, so that its samples catch up
    with those that wait at higher layers. If a sample has been overtaken for as many runs as there
    are layers, the oldest goes first (``python -m benchmarks.serving_order`` compares orders).
    Samples of similar length share a batch. See ``docs/serving.md``.

    Labels and exits are the same as those of the estimator, and probabilities differ by at most
    1e-5 in float32, or if ``precision="auto"`` computes in bfloat16 on a CPU. A sample whose
    entropy is that close to `tau` may exit at another layer.

    A predictor belongs to one process: start it after a fork, not before.

    Examples
    --------
    >>> import asyncio
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> from sklearn_epee.serving import AsyncPredictor
    >>> X, y = make_supplement_notes(40, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
    >>> async def serve():
    ...     async with AsyncPredictor(clf, timeout=60) as server:
    ...         return await asyncio.gather(*(server.predict(text) for text in X[:5]))
    >>> predictions = asyncio.run(serve())
    >>> [prediction.label for prediction in predictions] == clf.predict(X[:5]).tolist()
    True

    Sentences, whose words have tags:

    >>> from sklearn_epee import EPEETokenClassifier
    >>> X = [["aspirin", "causes", "rash"], ["no", "rash", "from", "zinc"]] * 8
    >>> y = [["B-Drug", "O", "B-Effect"], ["O", "B-Effect", "O", "B-Drug"]] * 8
    >>> clf = EPEETokenClassifier(random_state=0).fit(X, y)
    >>> with AsyncPredictor(clf) as server:
    ...     prediction = server.submit(["zinc", "causes", "rash"]).result()
    >>> prediction.spans
    [(0, 1, 'Drug'), (2, 3, 'Effect')]
    """

    def __init__(
        self,
        estimator: Any,
        *,
        max_pending: int = 1024,
        timeout: float | None = None,
        tau_range: tuple[float, float] | None = None,
        patience_range: tuple[int, int] | None = None,
    ) -> None:
        self._served = ServedModel(estimator)
        model = self._served.model
        self._limits = Limits.of(self._served.policy, tau_range, patience_range, model.n_layers)
        self._timeout = _checked_timeout(timeout)
        capacity = _checked_capacity(max_pending)
        scheduler = model.scheduler(*self._limits.widest, capacity)
        make = SentencePrediction if model.of_words else Prediction
        self._worker = Worker(scheduler, make, capacity)
        self._thread = threading.Thread(
            target=self._worker.run, name="sklearn_epee.serving", daemon=True
        )
        # If `close` is never called, stop the thread when the predictor is garbage collected or the
        # interpreter exits.
        self._at_end = weakref.finalize(self, _stop, self._worker, self._thread)

    # ------------------------------------------------------------------------- start and end

    def start(self) -> Self:
        """Start the prediction thread and accept requests.

        Returns
        -------
        self : AsyncPredictor

        Raises
        ------
        ServerClosedError
            If it was started before.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> server = AsyncPredictor(clf).start()
        >>> server.health().status
        'serving'
        >>> server.close()
        """
        self._worker.open()
        try:
            self._thread.start()
        except RuntimeError:  # the system cannot start another thread
            self._worker.abandon()
            raise
        return self

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Accept no more requests, and wait for the thread to end.

        Parameters
        ----------
        drain : bool, default=True
            Whether pending requests are still answered; otherwise they fail with
            :class:`~sklearn_epee.exceptions.ServerClosedError`.
        timeout : float or None, default=None
            Maximum time to drain in seconds. None: no limit.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> server = AsyncPredictor(clf).start()
        >>> future = server.submit(X[0])
        >>> server.close()
        >>> future.done()
        True
        """
        timeout = _checked_timeout(timeout)
        self._worker.stop(drain=drain)
        if not self._thread.is_alive() or self._thread is threading.current_thread():
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._worker.stop(drain=False)
            self._thread.join()

    async def aclose(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close without blocking the event loop; see `close`.

        Parameters
        ----------
        drain : bool, default=True
        timeout : float or None, default=None

        Examples
        --------
        >>> import asyncio
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> server = AsyncPredictor(clf).start()
        >>> asyncio.run(server.aclose(timeout=5))
        >>> server.health().status
        'closed'
        """
        await asyncio.to_thread(self.close, drain=drain, timeout=timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=kind is None)

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose(drain=kind is None)

    # -------------------------------------------------------------------------------- requests

    def submit(
        self,
        sample: Any,
        *,
        tau: float | None = None,
        patience: int | None = None,
        timeout: float | None = None,
    ) -> Future[Any]:
        """Submit one sample for prediction.

        Parameters
        ----------
        sample : str, pair of str, list of str, array, PIL image or path
            One element of the `X` that the estimator's `predict` takes: a text or a pair of texts,
            a sentence as a text or as a list of words, an image, or the input of the first step of
            a pipeline. The steps of a pipeline before the classifier run in the calling thread.
        tau : float or None, default=None
            Entropy threshold, within `tau_range`. None: that of the estimator.
        patience : int or None, default=None
            Patience, within `patience_range`. None: that of the estimator.
        timeout : float or None, default=None
            Seconds within which the request has to be answered. None: the predictor's `timeout`.

        Returns
        -------
        concurrent.futures.Future of Prediction, or of SentencePrediction for a token classifier
            ``cancel()`` removes the request before the next layer is run. ``result()`` may raise a
            :class:`~sklearn_epee.exceptions.DeadlineExceededError`,
            :class:`~sklearn_epee.exceptions.ServerClosedError` or
            :class:`~sklearn_epee.exceptions.WorkerFailedError`, or the error of a sample that
            cannot be read. Callbacks run in the prediction thread and should be short.

        Raises
        ------
        TypeError, ValueError
            If the sample or a parameter is invalid.
        QueueFullError
            If `max_pending` requests are pending already.
        ServerClosedError
            If the predictor was not started, or is closed.
        WorkerFailedError
            If the prediction thread failed.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> with AsyncPredictor(clf, patience_range=(1, 6)) as server:
        ...     prediction = server.submit(X[0], patience=1).result()
        >>> prediction.exit_layer, prediction.proba.shape
        (1, (4,))
        """
        policy = self._limits.policy(tau, patience)
        given = _checked_timeout(timeout)
        # If the queue is full, fail before the steps of a pipeline are run.
        self._worker.check_takes_requests()
        checked = self._served.check(sample)
        return self._worker.submit(checked, policy, self._timeout if given is None else given)

    async def predict(
        self,
        sample: Any,
        *,
        tau: float | None = None,
        patience: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Return the prediction of one sample.

        If the awaiting task is cancelled, the request is removed before the next layer is run.

        Parameters
        ----------
        sample : str, pair of str, list of str, array, PIL image or path
            As `submit` takes it.
        tau : float or None, default=None
        patience : int or None, default=None
        timeout : float or None, default=None
            As in `submit`.

        Returns
        -------
        Prediction, or SentencePrediction for a token classifier

        Raises
        ------
        TypeError, ValueError
            If the sample or a parameter is invalid.
        QueueFullError
            If `max_pending` requests are pending already.
        DeadlineExceededError
            If there was no prediction in time.
        ServerClosedError
            If the predictor was not started, or is closed.
        WorkerFailedError
            If the prediction thread failed.

        Examples
        --------
        >>> import asyncio
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> async def ask():
        ...     async with AsyncPredictor(clf) as server:
        ...         return await server.predict(X[0])
        >>> asyncio.run(ask()).label == clf.predict(X[:1])[0]
        True
        """
        future = self.submit(sample, tau=tau, patience=patience, timeout=timeout)
        return await asyncio.wrap_future(future)

    # ---------------------------------------------------------------------------------- state

    def health(self) -> Health:
        """Return the status of the predictor, and the reason if it failed.

        Returns
        -------
        Health

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> AsyncPredictor(clf).health()
        Health(status='new', reason=None)
        """
        return self._worker.health()

    def statistics(self) -> ServingStatistics:
        """Return statistics so far: counts, exit layers, entropies, latencies.

        Returns
        -------
        ServingStatistics

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.serving import AsyncPredictor
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> AsyncPredictor(clf).statistics().n_accepted
        0
        """
        return self._worker.statistics()


def _stop(worker: Worker, thread: threading.Thread) -> None:
    worker.stop(drain=False)
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join()


def _checked_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, Real):
        raise TypeError(
            f"timeout must be a number of seconds or None; got {shown(timeout)} of type "
            f"{type(timeout).__name__}."
        )
    seconds: Any = timeout
    if not 0 < seconds <= threading.TIMEOUT_MAX:  # false for NaN too
        raise ValueError(
            f"timeout must be above 0 and at most {threading.TIMEOUT_MAX:g} seconds, or None; got "
            f"{shown(timeout)}."
        )
    return float(timeout)


def _checked_capacity(max_pending: Any) -> int:
    if isinstance(max_pending, bool) or not isinstance(max_pending, Integral):
        raise TypeError(
            f"max_pending must be an integer >= 1; got {shown(max_pending)} of type "
            f"{type(max_pending).__name__}."
        )
    if not 1 <= int(max_pending) <= _MAX_PENDING:
        raise ValueError(
            f"max_pending must be an integer from 1 to {_MAX_PENDING}; got {shown(max_pending)}."
        )
    return int(max_pending)
