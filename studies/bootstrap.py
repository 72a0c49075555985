"""Scores that are sums over samples, and what they would be on other samples: the bootstrap.

Accuracy, and micro-F1 without a negative class, are each a sum over the samples divided by another
one. So the scores of hundreds of policies on hundreds of resamples are two matrix products, and a
difference between two policies is taken on the same resamples: it is paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Standard errors to either side of an estimate that leave out 5%.
N_ERRORS = 1.96


@dataclass(frozen=True)
class Score:
    """A score that is a sum over the samples divided by another one.

    Parameters
    ----------
    negative : int, default=None
        Code of the class that micro-F1 leaves out; None scores by accuracy.
    """

    negative: int | None = None

    @property
    def name(self) -> str:
        """What the score is called in results."""
        return "accuracy" if self.negative is None else "micro_f1"

    def counts(self, predicted: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Floats]:
        """Return what each sample adds above and below the line.

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
        # Of the F1 score: 2 TP / (2 TP + FP + FN), where a wrong relation is both FP and FN.
        above = 2.0 * (hits & is_there)
        return above.astype(np.float32), (is_there * 1.0 + is_said).astype(np.float32)

    def __call__(self, predicted: NDArray[Any], y: NDArray[Any]) -> float:
        """Return the score of predicted codes."""
        above, below = self.counts(predicted, y)
        return float(quotient(above.sum(dtype=np.float64), below.sum(dtype=np.float64)))


def quotient(above: Any, below: Any) -> NDArray[np.float64]:
    """Return the quotient of two arrays, 0 where the divisor is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


def draws(n_samples: int, n_draws: int, seed: int) -> Floats:
    """Return how often each sample is in each resample, after the sample itself.

    The same numbers give the same resamples, so what is compared on them is paired.

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
    """Return the mean over networks, the networks of each resample drawn anew.

    Parameters
    ----------
    values : sequence of ndarray of shape (1 + n_draws, ...)
        Of each network; row 0 is that of the sample itself, for which all networks count once.
    seed : int

    Returns
    -------
    ndarray of shape (1 + n_draws, ...)
    """
    stacked = np.stack(values)
    weights = draws(len(values), stacked.shape[1] - 1, seed) / len(values)
    return np.einsum("bs,sb...->b...", weights, stacked)


def interval(values: Floats) -> dict[str, Any]:
    """Return an estimate with its 95% interval, and whether that leaves out 0.

    The interval is the estimate and 1.96 standard errors, those of the resamples, to either side.
    Policies chosen on a resample are a little worse than those chosen on the sample: quantiles of
    the resamples would shift by that.

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
        What `interval` returns.

    Returns
    -------
    dict
        The same of their mean.
    """
    every = list(intervals)
    errors = [(each["high"] - each["estimate"]) / N_ERRORS for each in every]
    estimate = float(np.mean([each["estimate"] for each in every]))
    return _around(estimate, float(np.linalg.norm(errors)) / len(every))


def _around(estimate: float, error: float) -> dict[str, Any]:
    """Return an estimate with an interval, from its standard error."""
    reach = N_ERRORS * error
    return {
        "estimate": estimate,
        "low": estimate - reach,
        "high": estimate + reach,
        "beyond_chance": abs(estimate) > reach,
    }
