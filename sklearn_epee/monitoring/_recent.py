"""Counts of disagreements among the last samples under several policies, and their limits."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


class Recent:
    """Count events in the last trials of several streams; missing trials count as no event.

    Parameters
    ----------
    size : int
        Number of trials that are stored.
    shape : tuple of int
        One entry per stream.

    Attributes
    ----------
    counts : ndarray of shape `shape`, int64
        Events among the stored trials of each stream.
    """

    counts: NDArray[np.int64]
    _kept: NDArray[np.bool_]
    _oldest: int

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self._kept = np.zeros((size, *shape), dtype=np.bool_)
        self._oldest = 0
        self.counts = np.zeros(shape, dtype=np.int64)

    def add(self, happened: NDArray[np.bool_]) -> None:
        """Store one trial of every stream and discard the oldest.

        Parameters
        ----------
        happened : ndarray of shape `shape`, bool
        """
        self.counts = self.counts + happened - self._kept[self._oldest]
        self._kept[self._oldest] = happened
        self._oldest = (self._oldest + 1) % len(self._kept)

    def to_hex(self) -> str:
        """Return the stored trials as packed bits in hexadecimal, the oldest first."""
        in_order = np.roll(self._kept, -self._oldest, axis=0)
        return np.packbits(in_order).tobytes().hex()

    @classmethod
    def from_hex(cls, text: str, size: int, shape: tuple[int, ...]) -> Self:
        """Return the object that `to_hex` was called on.

        Raises
        ------
        ValueError
            If the text contains another number of trials.
        """
        recent = cls(size, shape)
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
        if len(packed) != -(-recent._kept.size // 8):
            raise ValueError("the number of recent samples does not fit the window")
        bits = np.unpackbits(packed, count=recent._kept.size)
        recent._kept = bits.reshape(recent._kept.shape).astype(np.bool_)
        recent.counts = recent._kept.sum(axis=0, dtype=np.int64)
        return recent


def most_allowed(n: int, rate: float, confidence: float) -> int:
    """Return the largest number of events in n trials that shows a rate of at most `rate`.

    This is the largest count whose upper confidence bound (Clopper-Pearson) is at most `rate`, or
    -1 if there is none.
    """
    return int(binom.ppf(1 - confidence, n, rate)) - 1


def fewest_trials(rate: float, confidence: float) -> int:
    """Return the smallest number of trials in which 0 events show a rate of at most `rate`."""
    return int(np.ceil(np.log1p(-confidence) / np.log1p(-rate)))


def first_kept(counts: NDArray[np.int64], allowed: int) -> NDArray[np.intp]:
    """Return the index of the fastest policy that, like all stricter ones, is within the limit.

    Policies are tested from the strictest to the fastest until the first one above the limit, so no
    correction for the number of policies is needed (fixed-sequence testing).

    Parameters
    ----------
    counts : ndarray of shape (..., n_policies), int64
        Disagreements of each policy, from the fastest to the strictest. The strictest one, full
        depth, is returned if no other is within the limit.
    allowed : int
        Largest count within the limit.

    Returns
    -------
    ndarray of shape (...), int
    """
    above = counts[..., :-1] > allowed
    n_policies = counts.shape[-1]
    after_last_above: NDArray[np.intp] = np.where(
        above, np.arange(1, n_policies), 0
    ).max(axis=-1, initial=0)  # fmt: skip
    return after_last_above
