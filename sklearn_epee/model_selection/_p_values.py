"""P-values of "the mean loss on new data exceeds the bound", valid for any number of samples.

Each function takes the losses of independent samples and returns a number p such that, if the mean
loss is above the bound, p falls to u or below with probability at most u, whatever u. Which one
is used is settled by what the losses can be, before any of them is seen.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from sklearn_epee._exits.staged import Floats

# Largest bet, as a share of the bet that can lose everything. Chosen by simulation: 0.75 needs more
# samples where hardly any loss occurs, and gains little elsewhere (benchmarks/risk_control.py).
_MAX_BET = 0.9


def binomial(losses: Floats, bound: float) -> float:
    """Test losses that are 0 or 1: the exact binomial tail.

    Parameters
    ----------
    losses : ndarray of shape (n,)
        0 or 1.
    bound : float in (0, 1)

    Returns
    -------
    float
    """
    return float(binom.cdf(losses.sum(), len(losses), bound))


def betting(losses: Floats, bound: float, level: float, seen: Floats) -> float:
    """Test losses of at most 1 by betting against them, one after the other.

    The capital starts at 1 and is multiplied by ``1 - bet * (loss - bound)``. If the mean loss is
    above the bound it shrinks on average, and exceeds 1 / p ever with probability at most p
    (Ville's inequality). The bet, chosen before each loss, is the predictable plug-in of
    Waudby-Smith and Ramdas [1]_: ``sqrt(2 log(1 / level) / (n * variance so far))``.

    Parameters
    ----------
    losses : ndarray of shape (n,)
        At most 1; differences of losses may be negative. In an order that does not depend on their
        values.
    bound : float in (0, 1)
    level : float in (0, 1)
        The level the p-value is going to be compared with; the p-value is valid at any level.
    seen : ndarray of shape (n_seen,)
        Losses of other samples, from which the variance is known at the start.

    Returns
    -------
    float

    References
    ----------
    .. [1] I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
       Journal of the Royal Statistical Society B 86 (2024).
    """
    variances = _variances_before(losses, seen)
    bets = np.sqrt(2 * math.log(1 / level) / (len(losses) * variances))
    bets = np.minimum(bets, _MAX_BET / (1 - bound))
    log_capital = np.cumsum(np.log1p(-bets * (losses - bound)))
    return float(min(1.0, math.exp(-log_capital.max(initial=0.0))))


def _variances_before(losses: Floats, seen: Floats) -> Floats:
    """Return the variance of all that is known before each loss, as if 1/4 had been seen too."""
    known = np.concatenate([seen, losses])
    count = np.arange(1, len(known) + 1)
    means = known.cumsum() / count
    spread = np.concatenate([[0.0], (known - means) ** 2]).cumsum()
    variances = (0.25 + spread) / np.arange(1, len(known) + 2)
    return variances[len(seen) : -1]


def smallest_sample(bound: float, level: float) -> int:
    """Return the number of samples below which not even losses that are all 0 are enough."""
    return math.ceil(math.log(level) / math.log1p(-bound))
