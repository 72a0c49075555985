"""A confidence sequence for how often something happens: intervals that all hold at once.

For odds w, ``w**S / (1 - p + p * w)**n`` is the capital of a bettor who, before each of n trials,
bets with the odds w against the rate p, where S trials happened. Its mean over fixed odds is not
above 1 on average if the rate is p. The interval after n trials is all p against which less than
1 / a has been won; with probability at least 1 - a it holds p after every n, however the time to
look is chosen (Ville's inequality). As log(1 - p + p * w) is concave in p, the same is true of the
mean of rates that change from trial to trial, even if they depend on the past.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]

# Logarithms of the odds: small ones are for many trials. None depends on the rate, or the interval
# would not hold for the mean of rates that change.
_LOG_ODDS = np.concatenate([-np.geomspace(0.01, 6.0, 14), np.geomspace(0.01, 6.0, 14)])
_N_HALVINGS = 50


def log_capital(n: NDArray[np.int64] | int, happened: Floats, rate: Floats) -> Floats:
    """Return the logarithm of the mean capital of bettors against a rate.

    Parameters
    ----------
    n : int, or ndarray of shape (...)
        Number of trials.
    happened : ndarray of shape (...)
        How many of them happened.
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
    """Return the interval of rates that little has been won against.

    Parameters
    ----------
    n : int
        Number of trials.
    happened : ndarray of shape (...)
        How many of them happened.
    confidence : float in (0, 1)

    Returns
    -------
    lower, upper : ndarray of shape (...), float64
        0 and 1 without trials.
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
        return beyond  # outside the interval or at its end

    return end(0.0), end(1.0)
