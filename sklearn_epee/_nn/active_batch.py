"""A batch of samples between two layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import BatchLayout, stacked
from .exit_rules import ExitState, joined_states


@dataclass(frozen=True, eq=False)
class ActiveBatch:
    """Samples that have been run through the same layers and continue together.

    Parameters
    ----------
    layer : int
        Number of layers that have been run.
    rows : ndarray of shape (n,)
        Indices of the samples in the caller's order.
    hidden : Tensor of shape (w, t, d)
        Output of the last layer that was run.
    layout : BatchLayout
        Which positions are real, and which of them the heads read.
    state : ExitState, default=None
        State of the exit rule for these samples.
    """

    layer: int
    rows: NDArray[np.intp]
    hidden: Tensor
    layout: BatchLayout
    state: ExitState | None = None

    @property
    def width(self) -> int:
        """Number of positions per row, including padding."""
        return self.layout.width

    @property
    def n_windows(self) -> int:
        """Number of windows of all samples, which are the rows of hidden states."""
        return self.layout.n_rows

    def above(self, hidden: Tensor, state: ExitState | None) -> ActiveBatch:
        """Return the same samples after the next layer."""
        return ActiveBatch(self.layer + 1, self.rows, hidden, self.layout, state)

    def halves(self) -> tuple[ActiveBatch, ActiveBatch]:
        """Return the two halves of the batch."""
        middle = len(self.rows) // 2
        return self.take(np.arange(middle)), self.take(np.arange(middle, len(self.rows)))

    def take(self, samples: NDArray[np.intp]) -> ActiveBatch:
        """Return some of the samples, given by their indices within the batch."""
        index = torch.from_numpy(self.layout.rows_of(samples)).to(self.hidden.device)
        state = None
        if self.state is not None:
            predicted = torch.from_numpy(self.layout.predicted(samples))
            state = self.state.take(predicted.to(self.hidden.device))
        layout = self.layout.take(samples, index)
        return ActiveBatch(self.layer, self.rows[samples], self.hidden[index], layout, state)

    @classmethod
    def merge(cls, parts: Sequence[ActiveBatch]) -> ActiveBatch:
        """Merge batches that are at the same layer into one, padded to the widest."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.width for part in parts)
        return cls(
            parts[0].layer,
            np.concatenate([part.rows for part in parts]),
            stacked([part.hidden for part in parts], width),
            parts[0].layout.merge([part.layout for part in parts]),
            joined_states([part.state for part in parts], [len(part.rows) for part in parts]),
        )
