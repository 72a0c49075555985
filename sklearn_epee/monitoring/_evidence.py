"""Anytime-valid evidence against a null hypothesis: bets from every starting time at once.

A bettor starts with a capital of 1 and, before each observation, stakes some of it against the null
hypothesis. If the hypothesis is true, the capital does not grow on average, and the probability
that it ever reaches 1 / a is at most a (Ville's inequality). Therefore the capital can be inspected
after each observation, and an alarm at 1 / a has a false-alarm probability of at most a over
unlimited time.

Bets that suit a change lose capital as long as nothing changes. Therefore the capital is spread
over starting times: at each of them, a part of the reserve enters the game. Compared with a bettor
who knows the time of the change, the capital is multiplied by this part; this delays an alarm by a
time that is proportional to the logarithm of the inverse of the part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Share of the capital that is in play from the start, and the number of observations after which
# the reserve shrinks noticeably.
_AT_START = 0.5
_SLOW_START = 100.0
# Avoids overflow. A supermartingale that is capped is still a supermartingale.
_MAX_CAPITAL = 1e30


@dataclass(frozen=True)
class Evidence:
    """Capital of bettors, spread over starting times.

    Attributes
    ----------
    in_play : ndarray of shape (..., n_bets), float64
        Capital of every bet, from all starting times so far.
    n : int
        Observations so far.
    largest : ndarray of shape (...), float64
        The largest total capital so far.
    """

    in_play: Floats
    n: int
    largest: Floats

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> Self:
        """Return the capital before the first observation, spread evenly over the bets.

        Parameters
        ----------
        shape : tuple of int
            The last entry is the number of bets.
        """
        return cls(np.full(shape, _AT_START / shape[-1]), 0, np.ones(shape[:-1]))

    def after(self, factors: Floats) -> Self:
        """Return the capital after one observation.

        Parameters
        ----------
        factors : ndarray of shape (..., n_bets), float64
            Factor by which each bet changes its capital: at least 0, and at most 1 on average if
            the null hypothesis is true.
        """
        begins = (reserve(self.n) - reserve(self.n + 1)) / self.in_play.shape[-1]
        in_play = np.minimum((self.in_play + begins) * factors, _MAX_CAPITAL)
        total = in_play.sum(axis=-1) + reserve(self.n + 1)
        return replace(self, in_play=in_play, n=self.n + 1, largest=np.maximum(self.largest, total))

    @property
    def now(self) -> Floats:
        """Total capital now, of shape (...)."""
        total: Floats = self.in_play.sum(axis=-1) + reserve(self.n)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return the state, as JSON can store it."""
        return {
            "in_play": self.in_play.tolist(),
            "n": self.n,
            "largest": np.asarray(self.largest).tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the object that `to_dict` was called on."""
        in_play = np.asarray(state["in_play"], dtype=np.float64)
        largest = np.asarray(state["largest"], dtype=np.float64)
        if in_play.ndim < 1 or in_play.shape[:-1] != largest.shape or not (in_play >= 0).all():
            raise ValueError("in_play and largest do not fit each other")
        return cls(in_play, int(state["n"]), largest)


def reserve(n: int) -> float:
    """Return the part of the capital that is not in play after n observations."""
    return (1 - _AT_START) / (1 + math.log1p(n / _SLOW_START))


# ------------------------------------------------------------------------------------------ bets


# Each stake is optimal for one alternative rate of losses. The rates are spaced logarithmically
# from this share of the way between the null rate and 1.
_N_RATES = 8
_NEAREST = 0.1


def rate_bets(rate: float | Floats) -> Floats:
    """Return the stakes against the null hypothesis that the rate of losses is at most `rate`.

    A loss x, 0 or 1, multiplies the capital by ``1 + stake * (x - rate)``. For each of several
    higher rates r, the stake is the one whose capital grows fastest if the rate is r:
    ``(r - rate) / (rate * (1 - rate))``.

    Parameters
    ----------
    rate : float or ndarray of shape (...), in (0, 1)

    Returns
    -------
    ndarray of shape (..., n_bets), float64
    """
    null = np.asarray(rate, dtype=np.float64)[..., np.newaxis]
    steps = np.linspace(_NEAREST, 0.9, _N_RATES)
    rates = null ** (1 - steps)
    return (rates - null) / (null * (1 - null))


# Bets that p-values are small or large (slants), far from or near one half (bends).
_SLANTS = np.array([-0.95, -0.5, 0.5, 0.95, 0.0, 0.0, 0.0])
_BENDS = np.array([0.0, 0.0, 0.0, 0.0, 0.9, 0.45, -0.45])


def uniform_factors(p: Floats) -> Floats:
    """Return the factors of bets against the hypothesis that p-values are uniform and independent.

    Parameters
    ----------
    p : ndarray of shape (...), in [0, 1]

    Returns
    -------
    ndarray of shape (..., n_bets), float64
        ``1 + slant * (2 p - 1) + bend * (3 (2 p - 1)**2 - 1)``, which is 1 on average.
    """
    side = 2 * p[..., np.newaxis] - 1
    return 1 + _SLANTS * side + _BENDS * (3 * side**2 - 1)


N_UNIFORM_BETS = len(_SLANTS)
