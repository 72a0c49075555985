"""Encoded sentences, and the exits of their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from .batching import EncodedSamples
from .exit_rules import Exits


class EncodedSentences(EncodedSamples, Protocol):
    """Interface of encoded sentences for token classification, such as `EncodedWords`.

    A batch has ``"word_rows"``, ``"word_positions"`` and ``"piece_words"`` in addition to the
    inputs of the backbone.

    Attributes
    ----------
    word_counts : ndarray of shape (n,), int64
        Number of words of each sentence, at least one.
    """

    word_counts: NDArray[np.int64]


@dataclass(frozen=True)
class TokenExits:
    """Exit layers and predictions of W words, sentence after sentence, in the caller's order.

    Attributes
    ----------
    proba : ndarray of shape (W, K), float32
        With several layers of spans, K is the sum of their classes.
    exit_layer : ndarray of shape (W,), int64
    entropy : ndarray of shape (W, T), float32
        Normalized entropy of the head of the exit layer, one column per layer of spans.
    word_counts : ndarray of shape (n,), int64
        Number of words of each sentence.
    sample_exit_layer : ndarray of shape (n,), int64
        Layer at which the last word of each sentence exited.
    rows_computed : ndarray of shape (n,), int64
        Number of positions that were computed of each sentence, including special tokens, summed
        over the layers.
    rows_total : ndarray of shape (n,), int64
        The same at full depth: number of positions times M.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]
    word_counts: NDArray[np.int64]
    sample_exit_layer: NDArray[np.int64]
    rows_computed: NDArray[np.int64]
    rows_total: NDArray[np.int64]

    @classmethod
    def empty(
        cls, samples: EncodedSentences, n_layers: int, n_columns: int, n_tasks: int
    ) -> TokenExits:
        """Return uninitialized arrays for the predictions of some sentences."""
        n_words = int(samples.word_counts.sum())
        return cls(
            np.empty((n_words, n_columns), np.float32),
            np.empty(n_words, np.int64),
            np.empty((n_words, n_tasks), np.float32),
            samples.word_counts,
            np.empty(len(samples), np.int64),
            np.zeros(len(samples), np.int64),
            samples.lengths * n_layers,
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the predictions of consecutive sentences as one."""
        if len(parts) == 1:
            return parts[0]
        names = [part.name for part in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})

    @property
    def words(self) -> Exits:
        """The arrays of the words, as an exit rule records to them."""
        return Exits(self.proba, self.exit_layer, self.entropy)

    @property
    def speedup(self) -> float:
        """The share of rows that were saved: 1 - sum(rows_computed) / sum(rows_total)."""
        total = int(self.rows_total.sum())
        return 1.0 - int(self.rows_computed.sum()) / total if total else 0.0
