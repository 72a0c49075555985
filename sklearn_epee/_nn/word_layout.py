"""Positions of the words of a batch of sentences, and which of them are still computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backbones import RowSubset
from .batch_layout import (
    PIECE_WORDS,
    WORD_POSITIONS,
    WORD_ROWS,
    BatchLayout,
    rows_of_samples,
)


@dataclass(frozen=True, eq=False)
class WordLayout(BatchLayout):
    """Layout of a batch of sentences for the prediction of words.

    Its arrays are always on the CPU, because they are updated after exit decisions, which are
    copied there anyway.

    Parameters
    ----------
    counts : ndarray of shape (n,), int64
        Number of words of each sentence that have not exited.
    numbers : ndarray of shape (W,), int64
        Index of each of these words within its sentence, sentence after sentence.
    positions : ndarray of shape (W,), int64
        Position of the first piece of each of these words.
    pieces : ndarray of shape (n, t), int64
        Word of each position; -1 for special tokens and padding.
    open : ndarray of shape (n, t), bool
        Positions that are computed: all except for padding and pieces of words that have exited.
    """

    counts: NDArray[np.int64] = field(kw_only=True)
    numbers: NDArray[np.int64] = field(kw_only=True)
    positions: NDArray[np.int64] = field(kw_only=True)
    pieces: NDArray[np.int64] = field(kw_only=True)
    open: NDArray[np.bool_] = field(kw_only=True)

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], mask: Tensor) -> WordLayout:
        """Return the layout of an encoded batch.

        Parameters
        ----------
        batch : mapping of str to Tensor
            With ``"word_rows"``, ``"word_positions"`` and ``"piece_words"``.
        mask : Tensor of shape (n, t), bool
            True at positions that are not padding; on the device of the hidden states.
        """
        rows, positions, pieces = (
            batch[name].cpu().numpy() for name in (WORD_ROWS, WORD_POSITIONS, PIECE_WORDS)
        )
        counts = np.bincount(rows, minlength=len(pieces))
        numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        real = batch["attention_mask"].cpu().numpy().astype(bool)
        return cls(
            mask, counts=counts, numbers=numbers, positions=positions, pieces=pieces, open=real
        )

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of each word, (W,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def word_index(self) -> Tensor:
        """Index of the first piece of each word among all positions, on the batch's device."""
        index = torch.from_numpy(self.rows * self.width + self.positions)
        return index.to(self.mask.device, non_blocking=True)

    @property
    def real(self) -> NDArray[np.bool_]:
        """Positions that are not padding, in sentences with open words, (n, t)."""
        return self.open | (self.pieces >= 0)

    @property
    def first_pieces(self) -> RowSubset:
        """The rows that the heads read."""
        shape = tuple(self.mask.shape)
        return RowSubset.of_positions(self.rows, self.positions, shape, self.mask.device)

    @property
    def open_rows(self) -> RowSubset:
        """The rows that are computed."""
        return RowSubset.of_mask(self.open, self.mask.device)

    def width_of(self, samples: NDArray[np.intp]) -> int:
        """Return the number of positions of the longest of some sentences."""
        return int(self.real[samples].sum(axis=1).max())

    def predicted(self, samples: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the words of some sentences within the batch."""
        return rows_of_samples(self.counts, samples)

    def take(
        self, samples: NDArray[np.intp], index: Tensor, width: int | None = None
    ) -> WordLayout:
        """Return the layout of some sentences; see `BatchLayout.take`."""
        words, width = self.predicted(samples), self.width if width is None else width
        return WordLayout(
            super().take(samples, index, width).mask,
            counts=self.counts[samples],
            numbers=self.numbers[words],
            positions=self.positions[words],
            pieces=self.pieces[samples, :width],
            open=self.open[samples, :width],
        )

    def with_words(self, words: NDArray[np.intp]) -> WordLayout:
        """Return the layout after all other words have exited.

        Parameters
        ----------
        words : ndarray of int
            Indices within the batch of the words that have not exited, ascending.

        Returns
        -------
        WordLayout
            With the same sentences. Special tokens stay open as long as a word of the sentence is.
        """
        rows, numbers = self.rows[words], self.numbers[words]
        counts = np.bincount(rows, minlength=len(self.counts))
        # Columns are word indices plus one; the first one is for special tokens.
        most = int(max(self.pieces.max(initial=-1), numbers.max(initial=-1)))
        is_open = np.zeros((len(counts), most + 2), dtype=bool)
        is_open[rows, numbers + 1] = True
        is_open[:, 0] = counts > 0
        return WordLayout(
            self.mask,
            counts=counts,
            numbers=numbers,
            positions=self.positions[words],
            pieces=self.pieces,
            open=self.open & is_open[np.arange(len(counts))[:, None], self.pieces + 1],
        )

    @classmethod
    def merge(cls, parts: Sequence[BatchLayout]) -> WordLayout:
        """Concatenate the layouts of several batches, padded to the widest."""
        layouts = [part for part in parts if isinstance(part, WordLayout)]
        mask = BatchLayout.merge(parts).mask
        return cls(
            mask,
            counts=np.concatenate([part.counts for part in layouts]),
            numbers=np.concatenate([part.numbers for part in layouts]),
            positions=np.concatenate([part.positions for part in layouts]),
            pieces=_stacked([part.pieces for part in layouts], mask.shape[1], -1),
            open=_stacked([part.open for part in layouts], mask.shape[1], 0),
        )


def _stacked(parts: Sequence[NDArray[Any]], width: int, fill: int) -> NDArray[Any]:
    """Concatenate arrays along the rows, padded to the same width."""
    return np.concatenate([
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts
    ])  # fmt: skip
