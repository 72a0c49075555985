"""Count disagreements among the last samples under several policies, and their limits."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


class Recent:
    """What happened in the last trials of some streams; before the first trial nothing has.

    Parameters
    ----------
    size : int
        How many trials are kept.
    shape : tuple of int
        Of the streams.

    Attributes
    ----------
    counts : ndarray of shape `shape`, int64
        How many of the kept trials happened.
    """

    counts: NDArray[np.int64]
    _kept: NDArray[np.bool_]
    _oldest: int

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self._kept = np.zeros((size, *shape), dtype=np.bool_)
        self._oldest = 0
        self.counts = np.zeros(shape, dtype=np.int64)

    def add(self, happened: NDArray[np.bool_]) -> None:
        """Keep one trial of every stream and forget the oldest.

        Parameters
        ----------
        happened : ndarray of shape `shape`, bool
        """
        self.counts = self.counts + happened - self._kept[self._oldest]
        self._kept[self._oldest] = happened
        self._oldest = (self._oldest + 1) % len(self._kept)

    def to_hex(self) -> str:
        """Return the kept trials, the oldest first, eight to a byte."""
        in_order = np.roll(self._kept, -self._oldest, axis=0)
        return np.packbits(in_order).tobytes().hex()

    @classmethod
    def from_hex(cls, text: str, size: int, shape: tuple[int, ...]) -> Self:
        """Return what `to_hex` was made of.

        Raises
        ------
        ValueError
            If the text holds another number of trials.
        """
        recent = cls(size, shape)
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
        if len(packed) != -(-recent._kept.size // 8):
            raise ValueError("recent samples do not fit the window")
        bits = np.unpackbits(packed, count=recent._kept.size)
        recent._kept = bits.reshape(recent._kept.shape).astype(np.bool_)
        recent.counts = recent._kept.sum(axis=0, dtype=np.int64)
        return recent


def most_allowed(n: int, rate: float, confidence: float) -> int:
    """Return how many of n trials may happen for their rate to be at most `rate`, confidently.

    The largest count whose upper confidence bound, of Clopper and Pearson, is at most `rate`;
    -1 if that of no count is.
    """
    return int(binom.ppf(1 - confidence, n, rate)) - 1


def fewest_trials(rate: float, confidence: float) -> int:
    """Return how many trials it takes to be confident of `rate` if none of them happens."""
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))


def first_kept(counts: NDArray[np.int64], allowed: int) -> NDArray[np.intp]:
    """Return the first policy that is, as all stricter ones are, within what is allowed.

    Going from the strictest policy on and stopping at the first that is not takes no correction
    for the number of policies (fixed-sequence testing).

    Parameters
    ----------
    counts : ndarray of shape (..., n_policies), int64
        The last policy is the strictest. Where even that is not within it, it is returned.
    allowed : int

    Returns
    -------
    ndarray of shape (...), int
    """
    broken = counts[..., :-1] > allowed
    n_policies = counts.shape[-1]
    after_the_last_broken: NDArray[np.intp] = np.where(
        broken, np.arange(1, n_policies), 0
    ).max(axis=-1, initial=0)  # fmt: skip
    return after_the_last_broken
