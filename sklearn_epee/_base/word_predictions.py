"""Predictions for all words of sentences, including words that the network does not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._nn.word_batches import EncodedWords

from .sentences import Sentence, spans_in_units
from .tag_data import TagLayers


@dataclass(frozen=True)
class ReadWords:
    """Which words of some sentences a network reads; `EncodedWords` has the same attributes.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Indices of the sentences with at least one word that is read.
    is_read : ndarray of shape (w,), bool
        Whether each word is read, sentence after sentence.
    given_counts : ndarray of int64
        Number of words of each sentence.
    """

    rows: NDArray[np.int64]
    is_read: NDArray[np.bool_]
    given_counts: NDArray[np.int64]


@dataclass(frozen=True)
class WordExits:
    """Exit layers and predictions of words, sentence after sentence.

    Words that were not read get the tag "O" at layer 1.

    Attributes
    ----------
    proba : ndarray of shape (w, n_columns), float32
    exit_layer : ndarray of shape (w,), int64
    entropy : ndarray of shape (w, n_layers_of_spans), float32
    sentence_exit_layer : ndarray of shape (n,), int64
        Exit layer of the last word to exit; 1 for a sentence of which no word was read.
    rows_computed, rows_total : ndarrays of shape (n,), int64
        Number of positions computed for each sentence, summed over the layers, and this number at
        full depth.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]
    sentence_exit_layer: NDArray[np.int64]
    rows_computed: NDArray[np.int64]
    rows_total: NDArray[np.int64]

    @classmethod
    def of_all_words(
        cls, encoded: EncodedWords | ReadWords, exits: Any, tasks: TagLayers
    ) -> WordExits:
        """Return the predictions of all words, given the exits of the words that were read."""
        if exits is not None and _all_are_read(encoded):
            return cls(
                exits.proba,
                exits.exit_layer,
                exits.entropy.reshape(len(exits.proba), -1),
                exits.sample_exit_layer,
                exits.rows_computed,
                exits.rows_total,
            )
        n, n_words = len(encoded.given_counts), len(encoded.is_read)
        found = cls(
            np.tile(tasks.outside(), (n_words, 1)),
            np.ones(n_words, np.int64),
            np.zeros((n_words, len(tasks.counts)), np.float32),
            np.ones(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
        )
        if exits is not None:
            found.proba[encoded.is_read] = exits.proba
            found.exit_layer[encoded.is_read] = exits.exit_layer
            found.entropy[encoded.is_read] = exits.entropy.reshape(len(exits.proba), -1)
            found.sentence_exit_layer[encoded.rows] = exits.sample_exit_layer
            found.rows_computed[encoded.rows] = exits.rows_computed
            found.rows_total[encoded.rows] = exits.rows_total
        return found

    @classmethod
    def join(cls, parts: Iterable[WordExits]) -> WordExits:
        """Return the predictions of consecutive sentences as one."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def _all_are_read(encoded: EncodedWords | ReadWords) -> bool:
    """Return whether all words are read, and no sentence is empty."""
    return len(encoded.rows) == len(encoded.given_counts) and bool(encoded.is_read.all())


def of_all_words(
    encoded: EncodedWords,
    proba: NDArray[np.float32] | None,
    tasks: TagLayers,
    n_layers: int | None = None,
) -> NDArray[np.float32]:
    """Return the probabilities of all words, (w, n_columns) or (n_layers, w, n_columns).

    `proba` contains the probabilities of the words that were read; None if there are none.
    """
    if proba is not None and _all_are_read(encoded):
        return proba
    outside = tasks.outside()
    layers = () if n_layers is None else (n_layers,)
    found = np.broadcast_to(outside, (*layers, len(encoded.is_read), len(outside))).copy()
    if proba is not None:
        found[..., encoded.is_read, :] = proba
    return found


class PredictedSentences:
    """Convert probabilities of words to tags and spans in the nesting and units of the caller.

    Parameters
    ----------
    sentences : sequence of Sentence
    tasks : TagLayers
    transition_weight : float, default=0.0
        0: each word gets its most probable tag. Above 0: a sentence gets the most probable valid
        sequence of tags, with transitions of this weight.

    Raises
    ------
    ValueError
        If `transition_weight` is above 0 and no transitions were counted in training.
    """

    def __init__(
        self, sentences: Sequence[Sentence], tasks: TagLayers, transition_weight: float = 0.0
    ) -> None:
        if transition_weight and tasks.transition_counts is None:
            raise ValueError(
                f"transition_weight={transition_weight:g} needs the transitions between tags in "
                "the training data, which this estimator did not count: it was fitted by an "
                "earlier version. Fit it again, or set transition_weight=0."
            )
        self._sentences = sentences
        self._tasks = tasks
        self._weight = transition_weight
        self._counts = np.array([len(sentence.words) for sentence in sentences], dtype=np.int64)
        self._ends = np.cumsum(self._counts)

    def split(self, of_words: NDArray[Any]) -> list[NDArray[Any]]:
        """Split an array over all words into one array per sentence."""
        ends = self._ends.tolist()
        return [of_words[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def tags(self, proba: NDArray[np.float32]) -> list[Any]:
        """Return the tags of each sentence, one per word; dicts by layer if there are several."""
        return self._tasks.nested(self._tags(proba))

    def spans(self, proba: NDArray[np.float32]) -> list[Any]:
        """Return the spans of each sentence; dicts by layer if there are several."""
        scheme = self._tasks.scheme
        return self._tasks.nested({
            name: [
                spans_in_units(tags, sentence, scheme)
                for tags, sentence in zip(rows, self._sentences, strict=True)
            ]
            for name, rows in self._tags(proba).items()
        })  # fmt: skip

    def proba(self, proba: NDArray[np.float32]) -> list[Any]:
        """Return the probabilities of each sentence, (n_words, n_tags); dicts if several layers."""
        layers = self._tasks.proba(proba).items()
        return self._tasks.nested({name: self.split(part) for name, part in layers})

    def _tags(self, proba: NDArray[np.float32]) -> dict[str, list[list[str]]]:
        if self._weight:
            found = self._tasks.valid_tags(proba, self._counts, self._weight)
        else:
            found = self._tasks.tags(proba)
        return {name: [part.tolist() for part in self.split(tags)] for name, tags in found.items()}
