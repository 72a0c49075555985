"""Reliability of the confidence at every exit: bins and calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

N_BINS = 15
# More bins are most likely a mistake; each needs memory for every exit.
_MAX_BINS = 10_000
# Rounding errors of float32 must not move a confidence into the next bin.
_ROUNDING = 1e-7


def check_n_bins(n_bins: Any) -> int:
    """Return the number of bins as an int, or raise.

    Raises
    ------
    TypeError, ValueError
        If `n_bins` is not an integer from 1 to 10,000.
    """
    expected = f"n_bins must be an integer from 1 to {_MAX_BINS}; got {n_bins!r}"
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral):
        raise TypeError(f"{expected} of type {type(n_bins).__name__}.")
    if not 1 <= int(n_bins) <= _MAX_BINS:
        raise ValueError(f"{expected}.")
    return int(n_bins)


@dataclass(frozen=True)
class Reliability:
    """Accuracy and mean confidence of samples in bins of equal width, for every exit.

    The confidence of an exit is its largest class probability. Bins are open below and closed
    above, as in the definition of the expected calibration error by Guo et al. (2017).

    Attributes
    ----------
    accuracy, confidence : ndarray of shape (n_layers, n_bins), float64
        NaN where there are no samples.
    counts : ndarray of shape (n_layers, n_bins)
        Number of samples in each bin, or their weight.
    """

    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]
    counts: NDArray[Any]

    @classmethod
    def of(
        cls,
        proba: NDArray[np.floating],
        codes: NDArray[np.integer],
        n_bins: int = N_BINS,
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Compute the reliability of staged probabilities.

        Parameters
        ----------
        proba : ndarray of shape (n_samples, n_layers, n_classes)
        codes : ndarray of shape (n_samples,), int
            Column of the true class.
        n_bins : int, default=15
        weights : ndarray of shape (n_samples,) or (n_samples, n_layers), default=None
            Weights of samples, or of each of their exits; None means 1.

        Returns
        -------
        Reliability
        """
        n_layers = proba.shape[1]
        correct = proba.argmax(axis=2) == codes[:, np.newaxis]
        confidence = np.minimum(proba.max(axis=2).astype(np.float64), 1)
        bins = np.ceil((confidence - _ROUNDING) * n_bins).astype(np.int64) - 1
        cell = (np.clip(bins, 0, n_bins - 1) + np.arange(n_layers) * n_bins).ravel()
        weight = None
        if weights is not None:
            each = weights if weights.ndim == 2 else weights[:, np.newaxis]
            weight = np.broadcast_to(each, correct.shape).ravel()
        counts, hits, sums = (
            np.bincount(cell, weights=values, minlength=n_layers * n_bins).reshape(n_layers, n_bins)
            for values in (weight, _times(correct, weight), _times(confidence, weight))
        )
        totals = np.where(counts > 0, counts, np.nan)
        return cls(hits / totals, sums / totals, counts)

    @property
    def error(self) -> NDArray[np.float64]:
        """Expected calibration error of every exit, (n_layers,), in [0, 1]; NaN without samples."""
        gaps = np.abs(self.accuracy - self.confidence)
        totals = self.counts.sum(axis=1)
        return np.nansum(gaps * self.counts, axis=1) / np.where(totals > 0, totals, np.nan)


def _times(values: NDArray[Any], weight: NDArray[np.float64] | None) -> NDArray[Any]:
    return values.ravel() if weight is None else values.ravel() * weight
