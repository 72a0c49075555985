"""Record the predictions of sentences that enter and leave continuous batching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .row_policies import RowPolicyRule
from .token_exits import EncodedSentences, TokenExits
from .word_numbers import WordSlots


class WordRecords:
    """Set the policies of sentences and return the predictions of their words, by slot.

    Parameters
    ----------
    rule : RowPolicyRule
        Records the predictions of words, by the indices of `words`.
    words : WordSlots
    rows_computed : ndarray of shape (capacity,), int64, or None
        Number of computed rows of each sentence, counted by a `TokenStep`; None if sentences exit
        as a whole.
    """

    def __init__(
        self, rule: RowPolicyRule, words: WordSlots, rows_computed: NDArray[np.int64] | None
    ) -> None:
        self._rule = rule
        self._words = words
        self._rows_computed = rows_computed
        self._lengths = np.zeros(len(words.counts), np.int64)

    def admit(
        self,
        samples: EncodedSentences,
        slots: NDArray[np.intp],
        policies: Sequence[tuple[float, int]],
    ) -> None:
        """Assign indices and policies to sentences that are about to enter.

        Parameters
        ----------
        samples : EncodedSentences
        slots : ndarray of shape (n,)
        policies : sequence of n (tau, patience)
        """
        self._words.assign(slots, samples.word_counts)
        self._rule.make_room(self._words.n_numbers)
        for slot, (tau, patience) in zip(slots, policies, strict=True):
            self._rule.set_policy(self._words.of(slot[np.newaxis]), tau, patience)
        self._lengths[slots] = samples.lengths
        if self._rows_computed is not None:
            self._rows_computed[slots] = 0

    def exits(self, slots: NDArray[np.intp]) -> TokenExits:
        """Return the predictions of one or more sentences that have exited."""
        out, words, counts = self._rule.out, self._words.of(slots), self._words.counts[slots]
        exit_layer, lengths = out.exit_layer[words], self._lengths[slots]
        of_samples = np.maximum.reduceat(exit_layer, np.cumsum(counts) - counts)
        rows = lengths * of_samples if self._rows_computed is None else self._rows_computed[slots]
        return TokenExits(
            proba=out.proba[words],
            exit_layer=exit_layer,
            entropy=out.entropy[words],
            word_counts=counts,
            sample_exit_layer=of_samples,
            rows_computed=rows,
            rows_total=lengths * self._rule.last_layer,
        )

    def release(self, slots: NDArray[np.intp]) -> None:
        """Release the indices of sentences, so that they can be reused."""
        self._words.release(slots)
