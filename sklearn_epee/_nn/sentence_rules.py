"""Exit rules for sentences whose words exit together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .exit_rules import Decision, ExitPolicy, Exits, ExitState, RecordingRule, either
from .joint_exit_rules import JointRule
from .word_numbers import WordNumbers


class SentenceRule(JointRule):
    """Exit rule for sentences whose words exit together.

    The criteria of all words of a sentence, and of all layers of spans of a word, are combined like
    those of several tasks, by the policy's `joint_exit`: all, any, or their mean. Samples of
    `decide` are sentences; probabilities, states and recorded predictions have one row per word.

    Parameters
    ----------
    policy, n_layers, out, counts
        As in `JointRule`, with `out` for words.
    words : WordNumbers
        Numbers of the words of each sentence in `out`.
    """

    def __init__(
        self,
        policy: ExitPolicy,
        n_layers: int,
        out: Exits,
        counts: Sequence[int],
        words: WordNumbers,
    ) -> None:
        super().__init__(policy, n_layers, out, counts)
        # Exit rates are not recorded: most tokens are first pieces of words, so computing them
        # before the others only saves time at the last layer, where it is always done.
        self.rates_key = None
        self._words = words

    def recorded(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the numbers of the words of some sentences."""
        return self._words.of(rows)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the sentences that exit at a layer; see `ExitRule`."""
        state = self._remember(layer, proba, state)
        if not self.may_exit(layer):
            return Decision(None, state)
        found = proba, self._entropy(proba)
        if layer == self.last_layer:
            return Decision(self._settle(layer, self.recorded(rows), None, found, state), state)
        counts = self._words.counts[rows]
        owners = np.repeat(np.arange(len(rows)), counts)
        of_word = torch.from_numpy(owners).to(proba.device)
        exits = self._together(layer, found[1], state, (counts, of_word))
        if exits.device.type == "cpu" and not exits.numpy().any():
            return Decision(None, state)
        remaining = self._settle(layer, self.recorded(rows), exits[of_word], found, state)
        if remaining is None or not len(remaining):
            return Decision(remaining, state)
        return Decision(np.unique(owners[remaining]), state)

    def _together(
        self,
        layer: int,
        entropy: Tensor,
        state: ExitState | None,
        words: tuple[NDArray[np.int64], Tensor],
    ) -> Tensor:
        """Return whether each sentence exits, (n,) bool.

        `words` are the number of words of each sentence, and the index of each word's sentence.
        """
        counts, of_word = words
        n = len(counts)
        if self._policy.joint_exit == "mean":
            agreed = self._agreed(layer, state)
            together = None if agreed is None else _all_words(agreed.all(dim=1), of_word, n)
            return either(together, self._all_sure(_means(entropy, counts, of_word), counts))
        each = self._exits(layer, entropy, state)
        if self._policy.joint_exit == "all":
            return _all_words(each, of_word, n)
        return ~_all_words(~each, of_word, n)

    def _all_sure(self, means: Tensor, counts: NDArray[np.int64]) -> Tensor | None:
        """Return which sentences have mean entropies below the threshold; None if tau is 0."""
        limit = self._threshold
        if isinstance(limit, Tensor):
            # All words of a sentence have the threshold of its first one.
            firsts = torch.from_numpy(np.cumsum(counts) - counts)
            limit = limit[firsts.to(limit.device)]
        return means < limit if self._policy.tau > 0 else None


class SentenceRecordingRule(RecordingRule):
    """Record the predictions of words at some layers; no sentence exits before the last of them.

    Parameters
    ----------
    first, last, out
        As in `RecordingRule`, with `out` for words.
    words : WordNumbers
        Numbers of the words of each sentence in `out`.
    """

    def __init__(self, first: int, last: int, out: NDArray[np.float32], words: WordNumbers) -> None:
        super().__init__(first, last, out)
        self._words = words

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the probabilities of a layer."""
        return super().decide(layer, proba, self._words.of(rows), state)


def _all_words(is_true: Tensor, of_word: Tensor, n: int) -> Tensor:
    """Return for each of n sentences whether something is true for all of its words, (n,) bool."""
    if n == 1:
        return is_true.all().reshape(1)
    missing = torch.zeros(n, dtype=torch.int32, device=is_true.device)
    return missing.index_add(0, of_word, (~is_true).int()) == 0


def _means(entropy: Tensor, counts: NDArray[np.int64], of_word: Tensor) -> Tensor:
    """Return the mean entropy of the words of each sentence, (W, T) -> (n,)."""
    # Summed in the order of the words, so that a mean does not depend on other sentences.
    totals = entropy.new_zeros(len(counts)).index_add_(0, of_word, entropy.sum(dim=1))
    return totals / torch.from_numpy(counts * entropy.shape[1]).to(totals.device)
