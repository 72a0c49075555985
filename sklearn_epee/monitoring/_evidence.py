"""Evidence that is valid at any time: bets against "all is well", from every starting time at once.

A bettor begins with a capital of 1 and before each observation stakes some of it against the null
hypothesis. If the null holds, the capital does not grow on average, and the chance that it ever
reaches 1 / a is at most a, however long it is watched (Ville's inequality). So the capital can be
read after each observation, and an alarm at 1 / a has a false-alarm probability of at most a over
unlimited time.

Bets that fit a change from now on lose money while nothing has changed. So the capital is spread
over starting times: a part, held in reserve until then, begins at each of them. What is lost
against a bettor who knew when to start is a factor of the part's size, which grows with the
logarithm of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Parts of the capital that are in play from the start, and how many observations it takes until
# the reserve begins to shrink noticeably.
_AT_START = 0.5
_SLOW_START = 100.0
# A capital beyond this says nothing more; a supermartingale that is capped is still one.
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
        The largest total so far.
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
            The last one is the number of bets.
        """
        return cls(np.full(shape, _AT_START / shape[-1]), 0, np.ones(shape[:-1]))

    def after(self, factors: Floats) -> Self:
        """Return the capital after one observation.

        Parameters
        ----------
        factors : ndarray of shape (..., n_bets), float64
            What each bet makes of a capital of 1: at least 0, and at most 1 on average if the null
            holds.
        """
        begins = (reserve(self.n) - reserve(self.n + 1)) / self.in_play.shape[-1]
        in_play = np.minimum((self.in_play + begins) * factors, _MAX_CAPITAL)
        total = in_play.sum(axis=-1) + reserve(self.n + 1)
        return replace(self, in_play=in_play, n=self.n + 1, largest=np.maximum(self.largest, total))

    @property
    def now(self) -> Floats:
        """Total capital, of shape (...)."""
        total: Floats = self.in_play.sum(axis=-1) + reserve(self.n)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "in_play": self.in_play.tolist(),
            "n": self.n,
            "largest": np.asarray(self.largest).tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return what `to_dict` was made of."""
        in_play = np.asarray(state["in_play"], dtype=np.float64)
        largest = np.asarray(state["largest"], dtype=np.float64)
        if in_play.ndim < 1 or in_play.shape[:-1] != largest.shape or not (in_play >= 0).all():
            raise ValueError("in_play and largest do not fit each other")
        return cls(in_play, int(state["n"]), largest)


def reserve(n: int) -> float:
    """Return the part of the capital that has not begun after n observations."""
    return (1 - _AT_START) / (1 + math.log1p(n / _SLOW_START))


# ------------------------------------------------------------------------------- what is bet on


# Rates of losses that are bet on, in logarithmic steps from just above the null to 1.
_N_RATES = 8
_NEAREST = 0.1  # of the way


def rate_bets(rate: float | Floats) -> Floats:
    """Return the stakes against "losses, 0 or 1, happen at this rate or less".

    The factor of a loss x is ``1 + stake * (x - rate)``. Each stake is the one whose capital grows
    fastest if losses happen at one particular higher rate r, ``(r - rate) / (rate * (1 - rate))``.

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


# Bets on p-values: that they are small, large, far from or near one half.
_SLANTS = np.array([-0.95, -0.5, 0.5, 0.95, 0.0, 0.0, 0.0])
_BENDS = np.array([0.0, 0.0, 0.0, 0.0, 0.9, 0.45, -0.45])


def uniform_factors(p: Floats) -> Floats:
    """Return the factors of bets against "p-values are uniform and independent".

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
