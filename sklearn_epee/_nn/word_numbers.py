"""Assign indices to the words of sentences, for recording their predictions."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .batch_layout import ranges


class WordNumbers:
    """Indices of words; those of a sentence are consecutive.

    Parameters
    ----------
    counts : ndarray of shape (n,), int64
        Number of words of each sentence.
    starts : ndarray of shape (n,), int64
        Index of the first word of each sentence.
    """

    def __init__(self, counts: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self.counts = counts
        self.starts = starts

    @classmethod
    def in_order(cls, counts: NDArray[np.int64]) -> Self:
        """Return the indices of words that are stored sentence after sentence."""
        return cls(counts, np.cumsum(counts) - counts)

    def of(self, sentences: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the words of some sentences, sentence after sentence."""
        return ranges(self.starts[sentences], self.counts[sentences])


class WordSlots(WordNumbers):
    """Indices for the words of sentences in continuous batching, whose slots are reused.

    Indices are assigned in runs of 1, 2, 4, ... words, rounded up from the length of a sentence. A
    free run is reused for the next sentence with the same rounded length. So for each of these
    lengths, there are at most twice as many indices as there were words at the same time.

    Parameters
    ----------
    capacity : int
        Number of slots.

    Attributes
    ----------
    n_numbers : int
        All indices are below this number.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(np.zeros(capacity, np.int64), np.zeros(capacity, np.int64))
        self.n_numbers = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def assign(self, slots: NDArray[np.intp], counts: NDArray[np.int64]) -> None:
        """Assign indices to the words of some slots, each with at least one word."""
        self.counts[slots] = counts
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            free = self._free[_run(count)]
            if free:
                self.starts[slot] = free.pop()
            else:
                self.starts[slot] = self.n_numbers
                self.n_numbers += _run(count)

    def release(self, slots: NDArray[np.intp]) -> None:
        """Release the indices of some slots, so that they can be reused."""
        for slot in slots.tolist():
            self._free[_run(int(self.counts[slot]))].append(int(self.starts[slot]))
        self.counts[slots] = 0


def _run(count: int) -> int:
    """Return the length of the run for a number of words, a power of two."""
    return 1 << (count - 1).bit_length()
