"""P-values of "the mean loss on new data exceeds the bound", valid for any number of samples.

Each function takes the losses of independent samples and returns a number p: if the mean loss is
above the bound, p <= u has a probability of at most u, for any u. Which function is used depends
only on the possible values of the loss, not on the observed ones.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from sklearn_epee._exits.staged import Floats

# Largest bet, as a share of the bet that may lose all capital. Chosen by simulation: 0.75 needs
# more samples if losses are rare, and hardly fewer otherwise (benchmarks/risk_control.py).
_MAX_BET = 0.9


def binomial(losses: Floats, bound: float) -> float:
    """Test losses that are 0 or 1, by the exact binomial test.

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
    """Test losses of at most 1 by betting against them sequentially.

    The capital starts at 1 and is multiplied by ``1 - bet * (loss - bound)`` for each loss. If the
    mean loss is above the bound, the capital decreases on average, and the probability that it ever
    exceeds 1 / p is at most p (Ville's inequality). Each bet is chosen before its loss is known, as
    the predictable plug-in of Waudby-Smith and Ramdas [1]_: ``sqrt(2 log(1 / level) / (n *
    variance so far))``.

    Parameters
    ----------
    losses : ndarray of shape (n,)
        At most 1; differences of losses may be negative. Their order must not depend on their
        values.
    bound : float in (0, 1)
    level : float in (0, 1)
        Level for which the bets are chosen; the p-value is valid at any level.
    seen : ndarray of shape (n_seen,)
        Losses of other samples, for a first estimate of the variance.

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
    """Estimate the variance before each loss, with 1/4 as one additional squared deviation."""
    known = np.concatenate([seen, losses])
    count = np.arange(1, len(known) + 1)
    means = known.cumsum() / count
    spread = np.concatenate([[0.0], (known - means) ** 2]).cumsum()
    variances = (0.25 + spread) / np.arange(1, len(known) + 2)
    return variances[len(seen) : -1]


def smallest_sample(bound: float, level: float) -> int:
    """Return the smallest number of samples that can pass the test, with losses that are all 0."""
    return math.ceil(math.log(level) / math.log1p(-bound))
