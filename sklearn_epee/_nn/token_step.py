"""One layer for sentences whose words exit one by one; words that have exited stay unchanged."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .active_batch import ActiveBatch
from .batching import EncodedSamples
from .exit_rules import Decision, ExitRule
from .inference_token_network import InferenceTokenNetwork
from .tasks import task_softmax
from .word_layout import WordLayout
from .word_numbers import WordNumbers


class TokenStep:
    """Run batches through one layer at a time; hidden states of exited words stay unchanged.

    When a word exits, the hidden states of its pieces are kept. Later layers use them for keys and
    values, but only compute the rows of words that have not exited ("open" words), and those of
    special tokens as long as a word of the sentence is open. A sentence leaves the batch when its
    last word exits.

    Parameters
    ----------
    placed : InferenceTokenNetwork
    rule : ExitRule
        Its samples are words.
    words : WordNumbers
        Numbers of the words of each sentence in the rule.
    rows_computed : ndarray of shape (n,), int64
        The number of rows that are computed of each sentence is added here. Backbones whose layers
        can only be run as a whole compute all rows.

    References
    ----------
    Li et al., "Accelerating BERT Inference for Sequence Labeling via Early-Exit", ACL 2021.
    """

    def __init__(
        self,
        placed: InferenceTokenNetwork,
        rule: ExitRule,
        words: WordNumbers,
        rows_computed: NDArray[np.int64],
    ) -> None:
        self._placed = placed
        self._rule = rule
        self._words = words
        self._rows_computed = rows_computed
        self._apart = placed.network.adapter.rows_apart

    def start(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> ActiveBatch:
        """Return some sentences as an embedded batch."""
        return ActiveBatch(0, rows, *self._placed.embed(samples, rows))

    def advance(self, active: ActiveBatch) -> ActiveBatch | None:
        """Run the next layer.

        Parameters
        ----------
        active : ActiveBatch

        Returns
        -------
        ActiveBatch or None
            The sentences with open words; None if there are none.
        """
        layer, layout = active.layer + 1, cast("WordLayout", active.layout)
        keys_values = self._placed.backbone.keys_values(layer, active.hidden)
        if layer == self._rule.last_layer and self._placed.n_rows_read:
            # At the last layer, only the rows that the heads read are needed.
            read = self._placed.read_rows(layer, active.hidden, keys_values, layout)
            self._decide(active, self._placed.row_logits(layer, read, active.hidden, layout))
            self._count(active)
            return None
        hidden = self._placed.rows(layer, active.hidden, keys_values, layout)
        if not self._rule.reads(layer):
            self._count(active)
            return active.above(hidden, active.state)
        decision = self._decide(
            active, self._placed.exit_logits(layer, hidden, active.hidden, layout)
        )
        kept = self._kept(active.above(hidden, decision.state), decision)
        # Counted last: if memory runs out before, the layer is run again with half the batch.
        self._count(active)
        return kept

    def _decide(self, active: ActiveBatch, logits: Tensor) -> Decision:
        """Return which of the open words stay open, and the state of the rule for all of them."""
        layout = cast("WordLayout", active.layout)
        words = self._words.starts[active.rows][layout.rows] + layout.numbers
        proba = task_softmax(logits, self._placed.network.class_counts)
        return self._rule.decide(active.layer + 1, proba, words, active.state)

    def _count(self, active: ActiveBatch) -> None:
        layout = cast("WordLayout", active.layout)
        computed = layout.open if self._apart else layout.real
        self._rows_computed[active.rows] += computed.sum(axis=1)

    def _kept(self, above: ActiveBatch, decision: Decision) -> ActiveBatch | None:
        """Return the sentences that still have open words."""
        words = decision.remaining
        if words is None:
            return above
        if not len(words):
            return None
        state, device = decision.state, above.hidden.device
        state = None if state is None else state.take(torch.from_numpy(words).to(device))
        layout = cast("WordLayout", above.layout).with_words(words)
        samples = np.flatnonzero(layout.counts)
        if len(samples) == len(above.rows):
            return ActiveBatch(above.layer, above.rows, above.hidden, layout, state)
        index, width = torch.from_numpy(samples).to(device), layout.width_of(samples)
        hidden = above.hidden[:, :width][index]
        layout = layout.take(samples, index, width)
        return ActiveBatch(above.layer, above.rows[samples], hidden, layout, state)
