"""Record the predictions of sentences that enter and leave continuous batching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .row_policies import RowPolicyRule
from .token_exits import EncodedSentences, TokenExits
from .word_numbers import WordSlots


class WordRecords:
    """The policies of sentences, and the predictions of their words in the end, by slot.

    Parameters
    ----------
    rule : RowPolicyRule
        Records words, under the numbers of `words`.
    words : WordSlots
    rows_computed : ndarray of shape (capacity,), int64, or None
        Where a step counts the rows of each sentence; None where sentences exit whole.
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
        """Make room for sentences that are about to enter.

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
        """Return what was recorded of sentences that exited, at least one."""
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
        """Forget sentences that were admitted."""
        self._words.release(slots)
