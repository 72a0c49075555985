"""Bootstrap intervals of scores that are ratios of sums over samples.

Accuracy, and micro-F1 without a negative class, are ratios of two sums over the samples. Therefore
the scores of hundreds of policies on hundreds of resamples are two matrix products. Differences
between two policies are computed on the same resamples, so that they are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Half the width of a 95% interval, in standard errors.
N_ERRORS = 1.96


@dataclass(frozen=True)
class Score:
    """A score that is the ratio of two sums over the samples.

    Parameters
    ----------
    negative : int, default=None
        Code of the class that micro-F1 leaves out; None: the score is the accuracy.
    """

    negative: int | None = None

    @property
    def name(self) -> str:
        """Name of the score in results."""
        return "accuracy" if self.negative is None else "micro_f1"

    def counts(self, predicted: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
        """Return the contribution of each sample to the numerator and to the denominator.

        Parameters
        ----------
        predicted : ndarray of shape (..., n_samples), int
        y : ndarray of shape (n_samples,), int

        Returns
        -------
        above, below : ndarray of shape (..., n_samples), float32
        """
        hits = predicted == y
        if self.negative is None:
            return hits.astype(np.float32), np.ones(hits.shape, np.float32)
        is_there, is_said = y != self.negative, predicted != self.negative
        # F1 is 2 TP / (2 TP + FP + FN), where a wrong relation is both FP and FN.
        above = 2.0 * (hits & is_there)
        return above.astype(np.float32), (is_there * 1.0 + is_said).astype(np.float32)

    def __call__(self, predicted: NDArray[Any], y: NDArray[Any]) -> float:
        """Return the score of predicted codes."""
        above, below = self.counts(predicted, y)
        return float(quotient(above.sum(dtype=np.float64), below.sum(dtype=np.float64)))


def quotient(above: Any, below: Any) -> NDArray[np.float64]:
    """Return the quotient of two arrays, 0 if the divisor is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def draws(n_samples: int, n_draws: int, seed: int) -> Floats:
    """Return how often each sample is in each resample; the first row is the original sample.

    The same arguments give the same resamples, so that comparisons are paired.

    Parameters
    ----------
    n_samples : int
    n_draws : int
    seed : int

    Returns
    -------
    ndarray of shape (1 + n_draws, n_samples), float32
        Row 0 is all ones.
    """
    rng = np.random.default_rng([seed, n_samples])
    drawn = rng.multinomial(n_samples, np.full(n_samples, 1 / n_samples), size=n_draws)
    return np.concatenate([np.ones((1, n_samples)), drawn]).astype(np.float32)


def seed_means(values: Sequence[Floats], seed: int) -> Floats:
    """Return the mean over networks, which are resampled, too.

    Parameters
    ----------
    values : sequence of ndarray of shape (1 + n_draws, ...)
        Values of each network; row 0 is for the original sample, with every network once.
    seed : int

    Returns
    -------
    ndarray of shape (1 + n_draws, ...)
    """
    stacked = np.stack(values)
    weights = draws(len(values), stacked.shape[1] - 1, seed) / len(values)
    return np.einsum("bs,sb...->b...", weights, stacked)


def interval(values: Floats) -> dict[str, Any]:
    """Return an estimate with its 95% interval, and whether this excludes 0.

    The interval is the estimate plus and minus 1.96 standard errors, estimated from the resamples.
    Quantiles of the resamples would be biased, because policies chosen on a resample are slightly
    worse than those chosen on the sample.

    Parameters
    ----------
    values : ndarray of shape (1 + n_draws,)
        Row 0 is the estimate.

    Returns
    -------
    dict
        "estimate", "low", "high" and "beyond_chance".
    """
    return _around(float(values[0]), float(np.std(np.asarray(values[1:], float), ddof=1)))


def mean_interval(intervals: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Return the mean of independent estimates with its interval.

    Parameters
    ----------
    intervals : iterable of mapping
        Results of `interval`.

    Returns
    -------
    dict
        The same for their mean.
    """
    every = list(intervals)
    errors = [(each["high"] - each["estimate"]) / N_ERRORS for each in every]
    estimate = float(np.mean([each["estimate"] for each in every]))
    return _around(estimate, float(np.linalg.norm(errors)) / len(every))


def _around(estimate: float, error: float) -> dict[str, Any]:
    """Return an estimate with its interval, given the standard error."""
    reach = N_ERRORS * error
    return {
        "estimate": estimate,
        "low": estimate - reach,
        "high": estimate + reach,
        "beyond_chance": abs(estimate) > reach,
    }
