"""Where the samples of a batch lie among its hidden states, and what the heads read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Of each text of a batch, the positions of its entities' opening marks, (n, 2).
ENTITY_POSITIONS = "entity_positions"
_LAYOUT_INPUTS = frozenset({ENTITY_POSITIONS})


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Which positions of a batch are real, and which of them the heads read.

    Parameters
    ----------
    mask : Tensor of shape (n, t), bool
        True at real positions; each sample's come first.
    read : Tensor of shape (n, r), int64, default=None
        Positions that the heads read, in their order; None for heads that read all of them.
    """

    mask: Tensor
    read: Tensor | None = None

    @property
    def width(self) -> int:
        """Positions per sample, padding included."""
        return self.mask.shape[1]

    def rows_read(self, hidden: Tensor) -> Tensor:
        """Return the hidden states that the heads read, (n, t, d) -> (n, r, d)."""
        if self.read is None:
            raise RuntimeError("The heads of this batch read all positions.")
        samples = torch.arange(len(self.read), device=hidden.device).unsqueeze(1)
        return hidden[samples, self.read]

    def take(self, index: Tensor, width: int | None = None) -> BatchLayout:
        """Return the layout of some samples, of their first ``width`` positions."""
        mask = self.mask if width is None else self.mask[:, :width]
        return BatchLayout(mask[index], None if self.read is None else self.read[index])

    @classmethod
    def merge(cls, parts: Sequence[BatchLayout]) -> BatchLayout:
        """Return the layouts of several batches as one, padded to the widest."""
        width = max(part.width for part in parts)
        reads = [part.read for part in parts if part.read is not None]
        mask = torch.cat([padded(part.mask, width) for part in parts])
        return cls(mask, torch.cat(reads) if reads else None)


def padded(part: Tensor, width: int) -> Tensor:
    """Return a tensor with its second dimension filled up with zeros."""
    missing = width - part.shape[1]
    if not missing:
        return part
    filler = part.new_zeros((part.shape[0], missing, *part.shape[2:]))
    return torch.cat([part, filler], dim=1)


def backbone_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a backbone reads of a batch: all but what describes its layout."""
    return {name: part for name, part in batch.items() if name not in _LAYOUT_INPUTS}
