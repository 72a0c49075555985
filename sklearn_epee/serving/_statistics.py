"""Statistics and health of a predictor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._requests import Found

# Latencies that quantiles are taken of: those of the last predictions.
N_LATENCIES = 4096
N_ENTROPY_BINS = 20
STATUSES = ("new", "serving", "draining", "closed", "failed")


@dataclass(frozen=True)
class Health:
    """How a predictor is.

    Attributes
    ----------
    status : {"new", "serving", "draining", "closed", "failed"}
    reason : str or None
        Why it failed.

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
        """Whether requests are taken."""
        return self.status == "serving"


@dataclass(frozen=True)
class ServingStatistics:
    """What a predictor has done so far.

    ``n_accepted`` is the sum of ``n_answered``, ``n_expired``, ``n_cancelled``, ``n_failed``,
    ``n_queued`` and ``n_running``.

    Attributes
    ----------
    n_accepted : int
        Requests that were taken.
    n_answered : int
        Those with a prediction.
    n_expired : int
        Those whose deadline passed.
    n_cancelled : int
        Those that were cancelled.
    n_failed : int
        Those with another error.
    n_rejected : int
        Requests that were not taken as the queue was full.
    n_queued : int
        Requests that wait for their first layer.
    n_running : int
        Requests on their way through the layers.
    n_layer_runs : int
        Layers run, each of one batch.
    n_samples_run : int
        Samples in these batches, all together.
    exit_layers : ndarray of shape (n_layers,), int64
        Predictions from each layer; of sentences, the layer at which the last word exited.
    entropies : ndarray of shape (20,), int64
        Predictions whose normalized entropy, the mean one of several tasks or labels, or of the
        words of a sentence, is in each of 20 even bins of [0, 1].
    latency_quantiles : dict of float to float
        Of the last 4,096 predictions in seconds, at 0.5, 0.95 and 0.99; NaN before the first one.

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
    """Counts what happens; may be called from any thread.

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
        """Count up."""
        with self._lock:
            for name, number in numbers.items():
                self.counts[name] += number

    def add_predictions(self, predictions: Sequence[Found]) -> None:
        """Count predictions."""
        layers = np.array([found.last_exit_layer for found in predictions], np.intp)
        entropies = np.array([found.mean_entropy for found in predictions], np.float64)
        bins = np.minimum(entropies * N_ENTROPY_BINS, N_ENTROPY_BINS - 1)
        with self._lock:
            self.counts["answered"] += len(layers)
            np.add.at(self._exit_layers, layers - 1, 1)
            np.add.at(self._entropies, bins.astype(np.intp), 1)
            self._latencies.extend(found.latency for found in predictions)

    def snapshot(self, n_entered: int, n_runs: int, n_samples_run: int) -> ServingStatistics:
        """Return what was counted so far.

        Parameters
        ----------
        n_entered : int
            Requests in the walk.
        n_runs, n_samples_run : int
            Layers that the walk has run, and samples in them.
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
