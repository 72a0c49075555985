"""A trained token classification network on its device and in its precision."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import BatchLayout, backbone_inputs
from .batching import EncodedSamples
from .inference_network import InferenceNetwork
from .token_network import TokenExitNetwork
from .word_layout import WordLayout


class InferenceTokenNetwork(InferenceNetwork):
    """A token classification network in the form in which the engine runs it.

    Its layouts are `WordLayout`, and its logits have one row per word.
    """

    network: TokenExitNetwork

    @property
    def n_rows_read(self) -> int:
        """1 if the rows of first pieces can be computed alone, else 0."""
        return int(self.network.adapter.rows_apart)

    def embed(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> tuple[Tensor, WordLayout]:
        """Return the input of the first layer for some sentences; see `InferenceNetwork.embed`."""
        batch = samples.batch(rows)
        inputs = {name: self._place(name, part) for name, part in backbone_inputs(batch).items()}
        hidden, mask = self.backbone.embed(inputs)
        return hidden, WordLayout.of_batch(batch, mask)

    def rows(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], layout: BatchLayout
    ) -> Tensor:
        """Return a layer's output at open positions, and its input at all others, (n, t, d)."""
        words = cast("WordLayout", layout)
        # If a layer can only be run as a whole, leaving out padding saves no time.
        computed = words.open if self.n_rows_read else words.open | ~words.real
        if computed.all():
            return super().rows(layer, hidden, keys_values, layout)
        at = words.open_rows
        rows = self.backbone.row_subset(layer, at.read(hidden), *keys_values, layout.mask, at)
        return at.written(hidden, rows)

    def read_rows(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], layout: BatchLayout
    ) -> Tensor:
        """Return a layer's output at the first pieces of words, (W, d)."""
        at = cast("WordLayout", layout).first_pieces
        return self.backbone.row_subset(layer, at.read(hidden), *keys_values, layout.mask, at)

    def exit_logits(self, layer: int, hidden: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return the logits of an exit from its layer's output, (W, K) float32."""
        words = hidden.flatten(0, 1).index_select(0, cast("WordLayout", layout).word_index)
        return self.row_logits(layer, words, below, layout)

    def row_logits(self, layer: int, rows: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:  # noqa: ARG002
        """Return the logits of an exit from the rows of first pieces, (W, K) float32."""
        return self.network.row_logits(layer, rows, self.backbone.pool, self._heads[layer - 1])
