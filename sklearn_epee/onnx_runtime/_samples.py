"""Encoded samples, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch

__all__ = ["Samples", "batches_of", "compacted", "rows_of"]

# Inputs with a value for every token.
_PER_TOKEN = (
    "input_ids", "attention_mask", "token_type_ids", "hidden", "frozen", "piece_words",
    "word_starts",
)  # fmt: skip


class Samples:
    """Inputs of the graphs: one row per sample, or several rows, its windows.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        With a row for each window, sample after sample.
    windows : ndarray of shape (n,), int64, default=None
        Number of rows of each sample; None: one each.

    Raises
    ------
    ValueError
        If the arrays have different lengths, or padding is not at the end.
    """

    def __init__(self, arrays: Mapping[str, Any], windows: NDArray[np.int64] | None = None) -> None:
        self.arrays: Batch = {name: np.asarray(part) for name, part in arrays.items()}
        lengths = {name: len(part) for name, part in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"X must hold arrays of the same length; got {lengths}.")
        self.n_rows = next(iter(lengths.values()))
        self.windows = windows
        if windows is not None and (windows.min(initial=1) < 1 or windows.sum() != self.n_rows):
            raise ValueError(
                f"windows must be the number of rows of each sample, at least 1 and in total "
                f"{self.n_rows}; got {windows.tolist()}."
            )
        mask = self.arrays.get("attention_mask")
        if mask is not None and (mask[:, 1:] > mask[:, :-1]).any():
            raise ValueError("attention_mask must be 1 at the first positions of a row, then 0.")

    def __len__(self) -> int:
        return self.n_rows if self.windows is None else len(self.windows)

    def batch(self, numbers: NDArray[np.intp]) -> Batch:
        """Return some samples, padded to the longest of them.

        For samples with windows, it also contains ``members``, (n, w) float32: 1 where a row is a
        window of a sample.
        """
        if self.windows is None:
            return compacted(self.arrays, numbers)
        counts = self.windows[numbers]
        members = np.repeat(np.eye(len(numbers), dtype=np.float32), counts, axis=1)
        batch = compacted(self.arrays, rows_of(self.windows, numbers))
        return batch | {"members": members}


def batches_of(samples: Samples, batch_size: int) -> Iterator[NDArray[np.intp]]:
    """Yield indices of samples of similar length, with at most `batch_size` rows; at least one."""
    mask = samples.arrays.get("attention_mask")
    lengths = np.zeros(samples.n_rows) if mask is None else mask.sum(axis=1)
    counts = np.ones(len(samples), np.int64) if samples.windows is None else samples.windows
    if len(samples):
        lengths = np.maximum.reduceat(lengths, np.cumsum(counts) - counts)
    order = np.argsort(lengths, kind="stable")
    before = np.concatenate([[0], np.cumsum(counts[order])])
    start = 0
    while start < len(order):
        stop = int(np.searchsorted(before, before[start] + batch_size, side="right")) - 1
        stop = max(stop, start + 1)
        yield order[start:stop]
        start = stop


def rows_of(counts: NDArray[np.int64], numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rows of some samples, given the number of rows of every sample."""
    starts = (np.cumsum(counts) - counts)[numbers]
    some = counts[numbers]
    before = np.cumsum(some) - some
    return np.repeat(starts - before, some) + np.arange(some.sum())


def compacted(arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.intp]) -> Batch:
    """Return some rows, without the positions that are padding in all of them."""
    some = {name: part[rows] for name, part in arrays.items()}
    mask = some.get("attention_mask")
    if mask is None:
        return some
    width = int(mask.sum(axis=1).max(initial=1))
    return {n: part[:, :width] if n in _PER_TOKEN else part for n, part in some.items()}
