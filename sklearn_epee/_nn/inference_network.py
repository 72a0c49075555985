"""A trained network on its device and in its precision, with inputs moved to it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch_layout import CONTEXT, WINDOWS, BatchLayout
from .batching import EncodedSamples
from .fast_backbone import LayerwiseBackbone, fast_backbone
from .fast_head_attention import fast_reader
from .fast_heads import fast_head
from .int8_calibration import Int8Scales
from .network import MultiExitNetwork


class InferenceNetwork:
    """A network in the form in which the engine runs it.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on its device. Never modified.
    dtype : torch.dtype
        Data type of the layers; heads are float32.
    scales : Int8Scales, default=None
        On a CPU: 8-bit scales of the layers' matrix products.

    Attributes
    ----------
    device : torch.device
    network : MultiExitNetwork
        Runs the heads; on a CPU, with packed copies of the weights of wide layers.
    dtype : torch.dtype
        Data type of the hidden states.
    backbone : LayerwiseBackbone
        Runs the layers; on a CPU, with packed copies of the weights.
    """

    def __init__(
        self, network: MultiExitNetwork, dtype: torch.dtype, scales: Int8Scales | None = None
    ) -> None:
        self.device = next(network.backbone.parameters()).device
        on_cpu, fast = self.device.type == "cpu", None
        if on_cpu:
            layers = None if scales is None else scales.layers
            fast = fast_backbone(network.adapter, dtype, layers)
        if fast is None:
            # Float32 on a CPU: in bfloat16, only results of packed products do not depend on the
            # batch.
            network = network.to_inference_copy(self.device, torch.float32 if on_cpu else dtype)
            dtype = next(network.backbone.parameters()).dtype
        self.network = network
        self.dtype = dtype
        self.backbone: LayerwiseBackbone = network.adapter if fast is None else fast
        self._heads = [fast_head(head) if on_cpu else head for head in network.heads]
        self._readers = [fast_reader(head) if on_cpu else None for head in network.heads]
        self._input_dtype = next(network.backbone.parameters()).dtype

    @property
    def n_rows_read(self) -> int:
        """Number of rows that can be computed for a head alone; 0 if it needs all rows."""
        return self.network.n_rows_read if self.network.adapter.rows_apart else 0

    def embed(self, samples: EncodedSamples, rows: NDArray[np.intp]) -> tuple[Tensor, BatchLayout]:
        """Return the input of the first layer for some samples.

        Parameters
        ----------
        samples : EncodedSamples
        rows : ndarray of shape (n,)
            Indices of the samples.

        Returns
        -------
        hidden : Tensor of shape (n, t, d)
        layout : BatchLayout
        """
        batch = {
            # The numbers of windows are used on the CPU.
            name: part if name == WINDOWS else self._place(name, part)
            for name, part in samples.batch(rows).items()
        }
        return self.network.embed(batch, self.backbone.embed)

    def _place(self, name: str, part: Tensor) -> Tensor:
        # Heads, which read the context, are in float32.
        is_input = part.is_floating_point() and name != CONTEXT
        dtype = self._input_dtype if is_input else part.dtype
        if self.device.type == "cuda":
            # The pixels of grey images may be an expanded view, which cannot be pinned.
            part = part.contiguous().pin_memory()
        return part.to(self.device, dtype, non_blocking=True)

    def run_layer(self, layer: int, hidden: Tensor, layout: BatchLayout) -> tuple[Tensor, Tensor]:
        """Return the output of a whole layer and the logits of its exit.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        hidden : Tensor of shape (n, t, d)
        layout : BatchLayout

        Returns
        -------
        above : Tensor of shape (n, t, d)
        logits : Tensor of shape (n, K), float32
        """
        k, v = self.backbone.keys_values(layer, hidden)
        above = self.rows(layer, hidden, (k, v), layout)
        return above, self.exit_logits(layer, above, hidden, layout)

    def rows(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], layout: BatchLayout
    ) -> Tensor:
        """Return a layer's output at all positions, (n, t, d)."""
        return self.backbone.rows(layer, hidden, *keys_values, layout.mask)

    def read_rows(
        self, layer: int, hidden: Tensor, keys_values: tuple[Tensor, Tensor], layout: BatchLayout
    ) -> Tensor:
        """Return a layer's output at the positions that its head reads, (n, r, d)."""
        rows = layout.rows_read(hidden)
        return self.backbone.rows(layer, rows, *keys_values, layout.mask, layout.read)

    def exit_logits(self, layer: int, hidden: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return the logits of an exit from its layer's output, (n, K) float32."""
        return self._classify(layer, self._pooled(layer, hidden, below, layout), layout)

    def row_logits(self, layer: int, rows: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return the logits of an exit from the rows that its head reads, (n, K) float32."""
        return self._classify(layer, self._pooled_rows(layer, rows, below, layout), layout)

    def _pooled(self, layer: int, hidden: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return the pooled state of a layer for its head; see `MultiExitNetwork.pooled`."""
        pool, read = self.backbone.pool, self._readers[layer - 1]
        return self.network.pooled(layer, hidden, below, layout, pool, read)

    def _pooled_rows(self, layer: int, rows: Tensor, below: Tensor, layout: BatchLayout) -> Tensor:
        """Return it from the rows that the head reads; see `MultiExitNetwork.pooled_rows`."""
        pool, read = self.backbone.pool, self._readers[layer - 1]
        return self.network.pooled_rows(layer, rows, below, layout, pool, read)

    def _classify(self, layer: int, pooled: Tensor, layout: BatchLayout) -> Tensor:
        return self.network.classify(layer, pooled, layout, self._heads[layer - 1])
