"""Encoded lists of words, with labels for training."""

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
    """Token ids of lists of words, of different lengths, with the positions of the words.

    A word is read at its first piece. Words without a piece and truncated words are not read. Texts
    without words that are read are left out.

    Parameters
    ----------
    texts : list of PlacedWords
        All texts, including those without words that are read.
    pad_id : int
        Token id of padding, which is masked.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Index of each encoded text among all texts.
    word_counts : ndarray of shape (n,), int64
        Number of words that are read of each encoded text.
    is_read : ndarray of bool
        Which words of all texts are read, text after text.
    given_counts : ndarray of int64
        Number of words of each of all texts.
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
        """Return the tensors of some texts, with the positions of their words.

        In addition to the inputs of the backbone, ``"word_rows"`` and ``"word_positions"`` are the
        row and position of each word, and ``"piece_words"`` is the word of each position.
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
    """Token ids of one text, with the positions of its words.

    Attributes
    ----------
    ids : ndarray of shape (t,), int32
    positions : ndarray of shape (w,), int64
        Position of the first piece of each word that is read.
    piece_words : ndarray of shape (t,), int32
        Index of the word of each position among those that are read; -1 if there is none.
    is_read : ndarray of bool
        Which words of the text are read.
    n_truncated : int
        Number of words that are not read because the text is too long.
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
        """Create a text from all pieces, of which some are kept.

        Parameters
        ----------
        ids : sequence of int
            Token ids of all pieces, including special tokens.
        owners : ndarray of shape (t,), int64
            Word of each piece; -1 for special tokens.
        starts : ndarray of shape (t,), bool
            Whether each piece is the first one of its word.
        kept : ndarray of int
            Positions to keep, ascending.
        n_words : int
        """
        has_piece = np.zeros(n_words, dtype=bool)
        has_piece[owners[starts]] = True
        positions = np.flatnonzero(starts[kept])
        is_read = np.zeros(n_words, dtype=bool)
        is_read[owners[kept][positions]] = True
        # Words that are not read have no index.
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
        """Return the number of words that are read, for each of some texts."""
        counts: NDArray[np.int64] = self.samples.word_counts[index]
        return counts

    def label_numbers(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the labels of some texts' words, text after text."""
        return rows_of_samples(self.samples.word_counts, index)


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)
