"""Number the words of sentences, for records of their predictions."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .batch_layout import ranges


class WordNumbers:
    """The words of a sentence have consecutive numbers.

    Parameters
    ----------
    counts : ndarray of shape (n,), int64
        Words of each sentence.
    starts : ndarray of shape (n,), int64
        Number of the first word of each.
    """

    def __init__(self, counts: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self.counts = counts
        self.starts = starts

    @classmethod
    def in_order(cls, counts: NDArray[np.int64]) -> Self:
        """Return the numbers of words that lie sentence after sentence."""
        return cls(counts, np.cumsum(counts) - counts)

    def of(self, sentences: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the numbers of the words of some sentences, sentence after sentence."""
        return ranges(self.starts[sentences], self.counts[sentences])


class WordSlots(WordNumbers):
    """Numbers for the words of sentences that come and go, known by slots that are used again.

    Numbers are given out in runs of 1, 2, 4, ... words. A run that is free goes to the next
    sentence that fills more than half of it, so that there are at most twice as many numbers as
    there were words of each of these sizes at once.

    Parameters
    ----------
    capacity : int
        Number of slots.

    Attributes
    ----------
    n_numbers : int
        All numbers are below it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(np.zeros(capacity, np.int64), np.zeros(capacity, np.int64))
        self.n_numbers = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def assign(self, slots: NDArray[np.intp], counts: NDArray[np.int64]) -> None:
        """Assign numbers to the words of some slots, at least one of each."""
        self.counts[slots] = counts
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            free = self._free[_run(count)]
            if free:
                self.starts[slot] = free.pop()
            else:
                self.starts[slot] = self.n_numbers
                self.n_numbers += _run(count)

    def release(self, slots: NDArray[np.intp]) -> None:
        """Release the numbers of some slots, which have some, for others."""
        for slot in slots.tolist():
            self._free[_run(int(self.counts[slot]))].append(int(self.starts[slot]))
        self.counts[slots] = 0


def _run(count: int) -> int:
    """Return how many numbers are given to so many words."""
    return 1 << (count - 1).bit_length()
