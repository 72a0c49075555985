"""Encoded lists of words, and training batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import PIECE_WORDS, WORD_POSITIONS, WORD_ROWS, rows_of_samples
from .batching import EncodedTexts, LabelledSamples


class EncodedWords(EncodedTexts):
    """Token ids of lists of words, ragged, with the place of every word that can be read.

    A word is read at its first piece. One of which the tokenizer makes no piece, or which is
    truncated, is not read, and texts of which no word is read are left out.

    Parameters
    ----------
    texts : list of PlacedWords
        All texts, also those of which no word is read.
    pad_id : int
        Fills the end of shorter rows; masked everywhere.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Numbers of the texts that are encoded here among those that were given.
    word_counts : ndarray of shape (n,), int64
        Words that are read of each.
    is_read : ndarray of bool
        Which of the words of all texts, one text after the other, are read.
    given_counts : ndarray of int64
        Words of each of all texts.
    """

    def __init__(self, texts: Sequence[PlacedWords], pad_id: int) -> None:
        self.is_read = _joined([text.is_read for text in texts], np.bool_)
        self.given_counts = np.array([len(text.is_read) for text in texts], dtype=np.int64)
        kept = [row for row, text in enumerate(texts) if text.is_read.any()]
        self.rows = np.array(kept, dtype=np.int64)
        texts = [texts[row] for row in kept]
        lengths = np.array([len(text.ids) for text in texts], dtype=np.int64)
        super().__init__(_joined([text.ids for text in texts], np.int32), lengths, None, pad_id)
        self.word_counts = np.array([len(text.positions) for text in texts], dtype=np.int64)
        self._positions = _joined([text.positions for text in texts], np.int64)
        self._piece_words = _joined([text.piece_words for text in texts], np.int32)

    def batch(self, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return the tensors of some texts, and where their words are.

        Beside what a backbone reads there are ``"word_rows"`` and ``"word_positions"``, of every
        word its row and position, and ``"piece_words"``, of every position its word in the row.
        """
        tensors = super().batch(rows)
        words = rows_of_samples(self.word_counts, rows)
        mask = tensors["attention_mask"].numpy().astype(bool)
        owners = np.full(mask.shape, -1, dtype=np.int64)
        owners[mask] = self._piece_words[rows_of_samples(self.lengths, rows)]
        owner_rows = np.repeat(np.arange(len(rows)), self.word_counts[rows])
        return tensors | {
            WORD_ROWS: torch.from_numpy(owner_rows),
            WORD_POSITIONS: torch.from_numpy(self._positions[words]),
            PIECE_WORDS: torch.from_numpy(owners),
        }


@dataclass(frozen=True)
class PlacedWords:
    """One text as token ids, and where its words are among them.

    Attributes
    ----------
    ids : ndarray of shape (t,), int32
    positions : ndarray of shape (w,), int64
        Of each word that is read, its first piece.
    piece_words : ndarray of shape (t,), int32
        Of each position, the number of its word among those that are read; -1 if it has none.
    is_read : ndarray of bool
        Which of all its words are read.
    n_truncated : int
        Words that are not read since the text is too long.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int64]
    piece_words: NDArray[np.int32]
    is_read: NDArray[np.bool_]
    n_truncated: int = 0

    @classmethod
    def from_pieces(
        cls,
        ids: Sequence[int] | NDArray[np.int32],
        owners: NDArray[np.int64],
        starts: NDArray[np.bool_],
        kept: NDArray[np.intp],
        n_words: int,
    ) -> PlacedWords:
        """Return a text from the pieces that are kept of it.

        Parameters
        ----------
        ids : sequence of int
            All pieces, special tokens included.
        owners : ndarray of shape (t,), int64
            The word of each piece; -1 for special tokens.
        starts : ndarray of shape (t,), bool
            Where a word has its first piece.
        kept : ndarray of int
            Positions that are kept, ascending.
        n_words : int
        """
        has_piece = np.zeros(n_words, dtype=bool)
        has_piece[owners[starts]] = True
        positions = np.flatnonzero(starts[kept])
        is_read = np.zeros(n_words, dtype=bool)
        is_read[owners[kept][positions]] = True
        # Words that are not read have no number.
        number = np.where(is_read, np.cumsum(is_read) - 1, -1)
        of_kept = owners[kept]
        piece_words = np.where(of_kept < 0, -1, number[of_kept] if n_words else -1)
        return cls(
            np.asarray(ids, dtype=np.int32)[kept],
            positions.astype(np.int64),
            piece_words.astype(np.int32),
            is_read,
            int(has_piece.sum() - is_read.sum()),
        )


class LabelledWords(LabelledSamples):
    """Encoded lists of words with a label and a weight for every word that is read.

    Parameters
    ----------
    samples : EncodedWords
    labels : ndarray of shape (w,) or, with several layers of spans, (w, T), int64
        Indices of tags, text after text.
    weights : ndarray of shape (w,), float32
        Weight of each word in the loss, 1 on average.
    """

    samples: EncodedWords

    def label_counts(self, index: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the number of words that are read of each of some texts."""
        counts: NDArray[np.int64] = self.samples.word_counts[index]
        return counts

    def label_numbers(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return where the labels of the words of some texts are, text after text."""
        return rows_of_samples(self.samples.word_counts, index)


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)
