"""Staged predictions of sentences whose words exit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.checks import check_joint_exit, check_min_exit_layer
from sklearn_epee._exits.rule import first_exits, infinite_below
from sklearn_epee._exits.staged import Floats, Integers, StagedPredictions

# Entropy of layers at which the patience rule lets a word exit: below any tau, including 0.
_BELOW_ANY_TAU = -1.0


@dataclass(frozen=True)
class StagedSentences:
    """Entropies and patience counters of words, where the words of a sentence exit together.

    The criteria of the words of a sentence, and of all layers of spans, are combined like those of
    the tasks of a sample, see :func:`sklearn_epee._exits.sentences.sentence_exit_layers`. Sentences
    without words exit at layer 1 and cost nothing.

    Attributes
    ----------
    entropies : ndarray of shape (n_words, n_layers, n_layers_of_spans), float64
        Normalized entropies, sentence after sentence.
    counters : ndarray of shape (n_words, n_layers, n_layers_of_spans), int64
        Patience counters.
    word_counts : ndarray of shape (n_samples,), int64
        Number of words of each sentence that the network reads.
    n_tokens : ndarray of shape (n_samples,), int64
        Number of positions of each sentence that a layer computes.
    joint_exit : {"all", "any", "mean"}
    min_exit_layer : int
        The first layer at which sentences with words may exit.
    last_layer : int or None
        The layer at which all sentences exit that did not before; None: layer M.
    """

    entropies: Floats
    counters: Integers
    word_counts: Integers
    n_tokens: Integers
    joint_exit: str = "all"
    min_exit_layer: int = 1
    last_layer: int | None = None

    # All layers cost the same.
    exit_shares: ClassVar[None] = None

    @classmethod
    def from_words(
        cls,
        words: StagedPredictions,
        word_counts: Integers,
        n_tokens: Integers,
        joint_exit: str = "all",
        min_exit_layer: int = 1,
    ) -> Self:
        """Create staged sentences from the staged predictions of their words.

        Raises
        ------
        ValueError
            If the counts do not add up to the words, or another argument is not as described.
        """
        if word_counts.sum() != words.n_samples:
            raise ValueError(
                f"word_counts adds up to {word_counts.sum()} words; there are {words.n_samples}."
            )
        return cls(
            words.entropies,
            words.counters,
            word_counts,
            n_tokens,
            check_joint_exit(joint_exit),
            check_min_exit_layer(min_exit_layer),
        )

    @property
    def n_samples(self) -> int:
        """Number of sentences n."""
        return len(self.word_counts)

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.entropies.shape[1]

    @property
    def depends_on_patience(self) -> bool:
        """Whether the entropies that decide about exits depend on the patience.

        With "all", one word may meet the patience criterion, and another one the entropy criterion.
        """
        return self.joint_exit == "all"

    @cached_property
    def joint_entropies(self) -> Floats:
        """Entropies to compare with tau, (n_samples, n_layers).

        Infinite for sentences without words, and at layers below `min_exit_layer`.
        """
        return self._joined(self.entropies)

    def entropies_with(self, patience: int) -> Floats:
        """Return the entropies to compare with tau, for one patience.

        With "all", this is -1, below any tau, where all words meet the patience criterion; words
        that meet it do not count for the largest entropy elsewhere.
        """
        if not self.depends_on_patience:
            return self.joint_entropies
        return self._joined(np.where(self.counters >= patience, _BELOW_ANY_TAU, self.entropies))

    def _joined(self, entropies: Floats) -> Floats:
        return infinite_below(self._over_sentences(entropies), self.min_exit_layer)

    def _over_sentences(self, entropies: Floats) -> Floats:
        """Combine the entropies of the words of each sentence, (n_samples, n_layers)."""
        if self.joint_exit == "mean":
            sums = self._over_words(np.add, entropies.mean(axis=2), np.inf)
            return sums / np.maximum(self.word_counts, 1)[:, np.newaxis]
        if self.joint_exit == "any":
            return self._over_words(np.minimum, entropies.min(axis=2), np.inf)
        return self._over_words(np.maximum, entropies.max(axis=2), np.inf)

    @cached_property
    def _joint_counters(self) -> Integers:
        """Counters to compare with the patience, (n_samples, n_layers); M without words."""
        if self.joint_exit == "any":
            return self._over_words(np.maximum, self.counters.max(axis=2), self.n_layers)
        return self._over_words(np.minimum, self.counters.min(axis=2), self.n_layers)

    def _over_words(self, reduce: np.ufunc, values: NDArray[Any], empty: Any) -> NDArray[Any]:
        """Reduce values of words, (n_words, n_layers), to one per sentence; `empty` if no words."""
        found = np.full((self.n_samples, self.n_layers), empty, dtype=values.dtype)
        has_words = self.word_counts > 0
        if has_words.any():
            counts = self.word_counts[has_words]
            found[has_words] = reduce.reduceat(values, np.cumsum(counts) - counts)
        return found

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Return the exit layer of each sentence, from 1 to M."""
        is_sure = self.entropies_with(patience) < tau
        return self._first_exits(is_sure | (self._joint_counters >= patience))

    def patience_exits(self, patience: int) -> Integers:
        """Return the exit layer of each sentence by the patience rule alone (``tau=0``)."""
        return self._first_exits(self._joint_counters >= patience)

    def _first_exits(self, allowed: NDArray[np.bool_]) -> Integers:
        last = None if self.last_layer is None else np.full(len(allowed), self.last_layer)
        exits = first_exits(allowed, last, self.min_exit_layer)
        exits[self.word_counts == 0] = 1  # no layer is run
        return exits

    def layer_weights(self, weights: Floats | None = None) -> Floats:
        """Return the cost of a layer for each sentence: its number of positions, weighted."""
        cost = self.n_tokens.astype(np.float64)
        return cost if weights is None else cost * weights

    def speedup(self, exits: Integers) -> float:
        """Return the speed-up ratio of sentences with these exit layers, counted in rows."""
        total = int(self.n_tokens.sum()) * self.n_layers
        return 1.0 - float(self.n_tokens @ exits) / total if total else 0.0

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the sentences."""
        counts = self.word_counts[rows]
        starts = (np.cumsum(self.word_counts) - self.word_counts)[rows]
        before = np.cumsum(counts) - counts
        words = np.repeat(starts - before, counts) + np.arange(counts.sum())
        return replace(
            self,
            entropies=self.entropies[words],
            counters=self.counters[words],
            word_counts=counts,
            n_tokens=self.n_tokens[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[StagedSentences]) -> StagedSentences:
        """Concatenate the sentences of several parts."""
        return replace(
            parts[0],
            entropies=np.concatenate([part.entropies for part in parts]),
            counters=np.concatenate([part.counters for part in parts]),
            word_counts=np.concatenate([part.word_counts for part in parts]),
            n_tokens=np.concatenate([part.n_tokens for part in parts]),
        )
