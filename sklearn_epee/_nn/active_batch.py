"""Samples that go through the layers together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import BatchLayout, padded
from .exit_rules import ExitState, joined_states


@dataclass(frozen=True, eq=False)
class ActiveBatch:
    """Samples that have passed the same layers and go on together.

    Parameters
    ----------
    layer : int
        Layers passed.
    rows : ndarray of shape (n,)
        Numbers of the samples in the caller's order.
    hidden : Tensor of shape (n, t, d)
        Output of the last layer passed.
    layout : BatchLayout
        Which positions are real, and which of them the heads read.
    state : ExitState, default=None
        What the exit rule remembers of them.
    """

    layer: int
    rows: NDArray[np.intp]
    hidden: Tensor
    layout: BatchLayout
    state: ExitState | None = None

    @property
    def width(self) -> int:
        """Positions per sample, padding included."""
        return self.layout.width

    def above(self, hidden: Tensor, state: ExitState | None) -> ActiveBatch:
        """Return the same samples one layer up."""
        return ActiveBatch(self.layer + 1, self.rows, hidden, self.layout, state)

    def halves(self) -> tuple[ActiveBatch, ActiveBatch]:
        """Return the first half of the samples and the others."""
        middle = len(self.rows) // 2
        return self._part(0, middle), self._part(middle, len(self.rows))

    def _part(self, start: int, stop: int) -> ActiveBatch:
        index = torch.arange(start, stop, device=self.hidden.device)
        state = None if self.state is None else self.state.take(index)
        return ActiveBatch(
            self.layer, self.rows[start:stop], self.hidden[index], self.layout.take(index), state
        )

    @classmethod
    def merge(cls, parts: Sequence[ActiveBatch]) -> ActiveBatch:
        """Return batches that have passed the same layers as one, padded to the widest."""
        if len(parts) == 1:
            return parts[0]
        width = max(part.width for part in parts)
        return cls(
            parts[0].layer,
            np.concatenate([part.rows for part in parts]),
            torch.cat([padded(part.hidden, width) for part in parts]),
            BatchLayout.merge([part.layout for part in parts]),
            joined_states(part.state for part in parts),
        )
