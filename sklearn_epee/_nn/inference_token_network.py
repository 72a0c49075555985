"""A trained token classification network on its device and in its precision."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import BatchLayout, backbone_inputs
from .batching import EncodedSamples
from .fast_head_attention import WordHead, word_head
from .inference_network import InferenceNetwork
from .int8_calibration import Int8Scales
from .network import without_autocast
from .token_network import TokenExitNetwork
from .word_layout import WordLayout


class InferenceTokenNetwork(InferenceNetwork):
    """A token classification network in the form in which the engine runs it.

    Its layouts are `WordLayout`, and its logits have one row per word.
    """

    network: TokenExitNetwork

    def __init__(
        self, network: TokenExitNetwork, dtype: torch.dtype, scales: Int8Scales | None = None
    ) -> None:
        super().__init__(network, dtype, scales)
        self._word_heads: list[WordHead] | None = None
        if network.head == "attention":
            self._word_heads = [
                word_head(head, self.network.attention(layer), self.dtype)
                for layer, head in enumerate(self.network.heads, 1)
            ]

    @property
    def n_rows_read(self) -> int:
        """1 if the rows of first pieces suffice for the heads and can be computed alone, else 0."""
        return int(self._word_heads is None and self.network.adapter.rows_apart)

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
        apart = self.network.adapter.rows_apart
        computed = words.open if apart else words.open | ~words.real
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
        index = cast("WordLayout", layout).word_index
        if self._word_heads is not None:
            ready = self.backbone.pool(hidden) if self.network.adapter.has_final_norm else hidden
            mask = layout.mask if layout.is_padded else None
            with without_autocast(hidden.device.type):
                return self._word_heads[layer - 1](ready, mask, index)
        words = hidden.flatten(0, 1).index_select(0, index)
        return self.row_logits(layer, words, below, layout)

    def row_logits(self, layer: int, rows: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:  # noqa: ARG002
        """Return the logits of an exit from the rows of first pieces, (W, K) float32."""
        return self.network.row_logits(layer, rows, self.backbone.pool, self._heads[layer - 1])
