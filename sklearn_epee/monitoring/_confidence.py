"""A confidence sequence for the rate of an event: intervals that are valid simultaneously.

For odds w, ``w**S / (1 - p + p * w)**n`` is the capital of a bettor who bets with the odds w
against the rate p before each of n trials, S of which were events. If the rate is p, the expected
mean capital over fixed odds is at most 1. The interval after n trials contains all p against which
the mean capital is less than 1 / a. With probability at least 1 - a, it contains p after every n,
regardless of when one looks (Ville's inequality). Because log(1 - p + p * w) is concave in p, this
also holds for the mean of rates that change from trial to trial, even if they depend on the past.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]

# Logarithms of the odds; small ones are suited to many trials. They must not depend on the rate, or
# the interval would not be valid for the mean of rates that change.
_LOG_ODDS = np.concatenate([-np.geomspace(0.01, 6.0, 14), np.geomspace(0.01, 6.0, 14)])
_N_HALVINGS = 50


def log_capital(n: NDArray[np.int64] | int, happened: Floats, rate: Floats) -> Floats:
    """Return the logarithm of the mean capital of bettors against a rate.

    Parameters
    ----------
    n : int, or ndarray of shape (...)
        Number of trials.
    happened : ndarray of shape (...)
        Number of events among them.
    rate : ndarray of shape (...), in [0, 1]

    Returns
    -------
    ndarray of shape (...), float64
    """
    grown = happened[..., np.newaxis] * _LOG_ODDS
    fair = np.log1p(rate[..., np.newaxis] * np.expm1(_LOG_ODDS))
    trials = np.asarray(n)[..., np.newaxis]
    capital: Floats = logsumexp(grown - trials * fair, axis=-1) - math.log(len(_LOG_ODDS))
    return capital


def rate_interval(n: int, happened: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Return the confidence interval of a rate.

    Parameters
    ----------
    n : int
        Number of trials.
    happened : ndarray of shape (...)
        Number of events among them.
    confidence : float in (0, 1)

    Returns
    -------
    lower, upper : ndarray of shape (...), float64
        0 and 1 if there are no trials.
    """
    happened = np.asarray(happened, dtype=np.float64)
    if not n:
        return np.zeros(happened.shape), np.ones(happened.shape)
    needed = -math.log1p(-confidence)
    mean = happened / n

    def end(outside: float) -> Floats:
        beyond, within = np.full(happened.shape, outside), mean
        for _ in range(_N_HALVINGS):
            middle = (beyond + within) / 2
            lost = log_capital(n, happened, middle) >= needed
            beyond, within = np.where(lost, middle, beyond), np.where(lost, within, middle)
        return beyond  # the bound or slightly outside, so that the interval is not too short

    return end(0.0), end(1.0)
