"""Layer-by-layer forward pass of a batch through one backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._folder import Batch, Folder
from ._samples import compacted, rows_of

__all__ = ["ForwardPass"]

# Inputs of the layers in addition to the hidden states.
_OF_LAYERS = ("attention_mask", "entity_positions")


class ForwardPass:
    """Run a batch layer by layer; between two layers, samples can be removed.

    Parameters
    ----------
    folder : Folder
    batch : dict of str to ndarray
        Inputs of the embedding, and additional inputs of the layers.
    prefix : str, default=""
        Prefix of the names of the graphs.

    Attributes
    ----------
    layer : int
        Number of layers that have been run.
    samples : ndarray of shape (n,)
        Indices within the batch of the remaining samples.
    hidden : ndarray of shape (w, t, d)
    frozen : ndarray of shape (w, t), bool
        Positions whose hidden states stay unchanged; False everywhere at first.
    """

    def __init__(self, folder: Folder, batch: Batch, prefix: str = "") -> None:
        self._folder = folder
        self._prefix = prefix
        self.layer = 0
        (hidden,) = folder.run(f"{prefix}embed.onnx", batch)
        self._rows = {name: batch[name] for name in _OF_LAYERS if name in batch}
        self._rows.setdefault("attention_mask", np.ones(hidden.shape[:2], np.int64))
        self._rows |= {"hidden": hidden, "frozen": np.zeros(hidden.shape[:2], bool)}
        self._members = batch.get("members")
        self._context = batch.get("context")
        n = len(hidden) if self._members is None else len(self._members)
        self.samples = np.arange(n)

    @property
    def hidden(self) -> NDArray[Any]:
        """Output of the last layer that was run."""
        return self._rows["hidden"]

    @hidden.setter
    def hidden(self, hidden: NDArray[Any]) -> None:
        self._rows["hidden"] = hidden

    @property
    def frozen(self) -> NDArray[np.bool_]:
        """Positions whose hidden states stay unchanged."""
        return self._rows["frozen"]

    @frozen.setter
    def frozen(self, frozen: NDArray[np.bool_]) -> None:
        self._rows["frozen"] = frozen

    def advance(self) -> list[NDArray[Any]]:
        """Run the next layer; return its outputs except the hidden states, the logits first."""
        self.layer += 1
        below, frozen = self.hidden, self.frozen
        additional = {"members": self._members, "context": self._context}
        values = self._rows | {name: part for name, part in additional.items() if part is not None}
        above, *outputs = self._folder.run(f"{self._prefix}layer_{self.layer}.onnx", values)
        self.hidden = np.where(frozen[..., np.newaxis], below, above) if frozen.any() else above
        return outputs

    def keep(self, kept: NDArray[np.intp]) -> None:
        """Continue with some of the samples only."""
        self.samples = self.samples[kept]
        rows = kept
        if self._members is not None:
            counts = self._members.sum(axis=1).astype(np.int64)
            rows = rows_of(counts, kept)
            self._members = self._members[np.ix_(kept, rows)]
        if self._context is not None:
            self._context = self._context[kept]
        self._rows = compacted(self._rows, rows)
