"""Statistics and health of a predictor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._requests import AnyPrediction

# Number of last predictions whose latencies the quantiles are computed of.
N_LATENCIES = 4096
N_ENTROPY_BINS = 20
STATUSES = ("new", "serving", "draining", "closed", "failed")


@dataclass(frozen=True)
class Health:
    """Status of a predictor.

    Attributes
    ----------
    status : {"new", "serving", "draining", "closed", "failed"}
    reason : str or None
        Why the predictor failed.

    Examples
    --------
    >>> from sklearn_epee.serving import Health
    >>> Health("draining").is_ready
    False
    """

    status: str
    reason: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self.status == "serving"


@dataclass(frozen=True)
class ServingStatistics:
    """Statistics of a predictor since its start.

    ``n_accepted`` is the sum of ``n_answered``, ``n_expired``, ``n_cancelled``, ``n_failed``,
    ``n_queued`` and ``n_running``.

    Attributes
    ----------
    n_accepted : int
        Accepted requests.
    n_answered : int
        Requests with a prediction.
    n_expired : int
        Requests whose deadline passed.
    n_cancelled : int
        Requests that were cancelled.
    n_failed : int
        Requests that failed with another error.
    n_rejected : int
        Requests that were rejected because the queue was full.
    n_queued : int
        Requests that wait for their first layer.
    n_running : int
        Requests between two layers.
    n_layer_runs : int
        Layer runs, each of one batch.
    n_samples_run : int
        Samples in these batches, summed over the runs.
    exit_layers : ndarray of shape (n_layers,), int64
        Histogram of the exit layers. A sentence counts at the layer at which its last word exited.
    entropies : ndarray of shape (20,), int64
        Histogram of the normalized entropies, in 20 equal bins of [0, 1]. With several tasks or
        labels, and for the words of a sentence, their mean entropy counts.
    latency_quantiles : dict of float to float
        Quantiles 0.5, 0.95 and 0.99 of the latencies of the last 4,096 predictions in seconds; NaN
        before the first one.

    Examples
    --------
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> from sklearn_epee.serving import AsyncPredictor
    >>> X, y = make_supplement_notes(40, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
    >>> with AsyncPredictor(clf) as server:
    ...     _ = [server.submit(text).result() for text in X[:3]]
    ...     statistics = server.statistics()
    >>> statistics.n_answered, int(statistics.exit_layers.sum())
    (3, 3)
    """

    n_accepted: int
    n_answered: int
    n_expired: int
    n_cancelled: int
    n_failed: int
    n_rejected: int
    n_queued: int
    n_running: int
    n_layer_runs: int
    n_samples_run: int
    exit_layers: NDArray[np.int64]
    entropies: NDArray[np.int64]
    latency_quantiles: dict[float, float]


@dataclass
class Counters:
    """Thread-safe counters behind `ServingStatistics`.

    Parameters
    ----------
    n_layers : int
    """

    n_layers: int
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._exit_layers = np.zeros(self.n_layers, np.int64)
        self._entropies = np.zeros(N_ENTROPY_BINS, np.int64)
        self._latencies: deque[float] = deque(maxlen=N_LATENCIES)
        names = ("accepted", "answered", "expired", "cancelled", "failed", "rejected")
        self.counts = dict.fromkeys(names, 0)

    def add(self, **numbers: int) -> None:
        """Increase some of the counts."""
        with self._lock:
            for name, number in numbers.items():
                self.counts[name] += number

    def add_predictions(self, predictions: Sequence[AnyPrediction]) -> None:
        """Count predictions."""
        layers = np.array([one.last_exit_layer for one in predictions], np.intp)
        entropies = np.array([one.mean_entropy for one in predictions], np.float64)
        bins = np.minimum(entropies * N_ENTROPY_BINS, N_ENTROPY_BINS - 1)
        with self._lock:
            self.counts["answered"] += len(layers)
            np.add.at(self._exit_layers, layers - 1, 1)
            np.add.at(self._entropies, bins.astype(np.intp), 1)
            self._latencies.extend(one.latency for one in predictions)

    def snapshot(self, n_entered: int, n_runs: int, n_samples_run: int) -> ServingStatistics:
        """Return the statistics so far.

        Parameters
        ----------
        n_entered : int
            Number of requests in the scheduler.
        n_runs, n_samples_run : int
            Number of layer runs of the scheduler, and of samples in them.
        """
        with self._lock:
            latencies = np.array(self._latencies) if self._latencies else np.full(1, np.nan)
            counts = {f"n_{name}": number for name, number in self.counts.items()}
            exit_layers, entropies = self._exit_layers.copy(), self._entropies.copy()
        ended = ("n_answered", "n_expired", "n_cancelled", "n_failed")
        n_pending = counts["n_accepted"] - sum(counts[name] for name in ended)
        n_running = min(n_entered, n_pending)
        levels = (0.5, 0.95, 0.99)
        quantiles = np.quantile(latencies, levels).tolist()
        return ServingStatistics(
            **counts,
            n_queued=n_pending - n_running,
            n_running=n_running,
            n_layer_runs=n_runs,
            n_samples_run=n_samples_run,
            exit_layers=exit_layers,
            entropies=entropies,
            latency_quantiles=dict(zip(levels, quantiles, strict=True)),
        )
