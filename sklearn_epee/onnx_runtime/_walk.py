"""Run a batch through the layers of one backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._samples import compacted, rows_of

__all__ = ["Walk"]

# What layers read beside the hidden states.
_OF_LAYERS = ("attention_mask", "entity_positions")


class Walk:
    """Runs a batch layer by layer, and goes on with the samples that are kept.

    Parameters
    ----------
    folder : Folder
    batch : dict of str to ndarray
        What the embedding reads, and what the layers read beside the hidden states.
    prefix : str, default=""
        Before the names of the graphs.

    Attributes
    ----------
    layer : int
        Layers passed.
    samples : ndarray of shape (n,)
        Numbers within the batch of the samples that are still there.
    hidden : ndarray of shape (w, t, d)
    """

    def __init__(self, folder: Folder, batch: Batch, prefix: str = "") -> None:
        self._folder = folder
        self._prefix = prefix
        self.layer = 0
        (hidden,) = folder.run(f"{prefix}embed.onnx", batch)
        self._rows = {name: batch[name] for name in _OF_LAYERS if name in batch}
        self._rows.setdefault("attention_mask", np.ones(hidden.shape[:2], np.int64))
        self._rows["hidden"] = hidden
        self._members = batch.get("members")
        self._context = batch.get("context")
        n = len(hidden) if self._members is None else len(self._members)
        self.samples = np.arange(n)

    @property
    def hidden(self) -> NDArray[Any]:
        """The output of the last layer passed."""
        return self._rows["hidden"]

    @hidden.setter
    def hidden(self, hidden: NDArray[Any]) -> None:
        self._rows["hidden"] = hidden

    def advance(self) -> list[NDArray[Any]]:
        """Run the next layer, and return its outputs behind the hidden states: the logits first."""
        self.layer += 1
        beside = {"members": self._members, "context": self._context}
        values = self._rows | {name: part for name, part in beside.items() if part is not None}
        self.hidden, *outputs = self._folder.run(f"{self._prefix}layer_{self.layer}.onnx", values)
        return outputs

    def keep(self, kept: NDArray[np.intp]) -> None:
        """Go on with some of the samples alone."""
        self.samples = self.samples[kept]
        rows = kept
        if self._members is not None:
            counts = self._members.sum(axis=1).astype(np.int64)
            rows = rows_of(counts, kept)
            self._members = self._members[np.ix_(kept, rows)]
        if self._context is not None:
            self._context = self._context[kept]
        self._rows = compacted(self._rows, rows)
