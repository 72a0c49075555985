"""The forward pass of transformers at full depth, with the same weights and inputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_epee._nn.pooling import last_real_positions, masked_mean
from sklearn_epee._nn.prediction_batches import batch_limit, batches_by_length


class FullDepth(nn.Module):
    """A base model with the forward pass of transformers, and one head.

    Parameters
    ----------
    estimator : EPEEClassifier or EPEEImageClassifier
        Fitted; its backbone and its last head are copied.
    dtype : torch.dtype
        Precision of the backbone; the head stays in float32, as in the estimator.
    device : str
    """

    def __init__(self, estimator: Any, dtype: torch.dtype, device: str = "cpu") -> None:
        super().__init__()
        network = estimator.net_.module_
        self.pooling = network.pooling
        self.backbone = copy.deepcopy(network.backbone)
        self.backbone.to(device)
        if torch.device(device).type == "cuda":
            self.with_attention("sdpa")
        # Not the buffers: transformers keeps the frequencies of rotary positions exact.
        for parameter in self.backbone.parameters():
            parameter.data = parameter.data.to(dtype)
        self.head = copy.deepcopy(network.heads[-1]).to(device)
        # The final norm of transformers, for the states of the layer below the last one.
        self._after_last = type(network.adapter)(self.backbone).pool
        self._options = {"use_cache": False} if network.adapter.causal else {}
        self.eval()

    def with_attention(self, name: str) -> FullDepth:
        """Set the attention implementation of transformers, if the family has several.

        "sdpa" is that of torch and the default of transformers. Backbones here are loaded with
        "eager", the plain products; on a CPU both take the same time (row "attention").
        """
        self.backbone.set_attn_implementation(name)
        return self

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits (n, K) of a batch."""
        if self.pooling == "cls+mean":
            found = self.backbone(**batch, **self._options, output_hidden_states=True)
            below = self._after_last(found.hidden_states[-2])
            mean = _mean(below, batch.get("attention_mask"))
            return self.head(torch.cat([found.last_hidden_state[:, 0], mean], dim=-1).float())
        hidden = self.backbone(**batch, **self._options).last_hidden_state
        return self.head(self._pool(hidden, batch.get("attention_mask")).float())

    def _pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        if self.pooling == "last":
            rows = torch.arange(len(hidden), device=hidden.device)
            return hidden[rows, last_real_positions(mask.bool())]
        if self.pooling == "mean":
            return _mean(hidden, mask)
        return hidden[:, 0]

    @torch.inference_mode()
    def proba(self, encoded: Any, batch_size: int | str) -> np.ndarray:
        """Return the probabilities (n, K) of encoded samples, in the batches of `predict`."""
        out = np.empty((len(encoded), self.head.out.out_features), np.float32)
        weight = next(self.backbone.parameters())
        limit = batch_limit(batch_size, weight.device, weight.dtype)
        for rows in batches_by_length(encoded.lengths, limit):
            logits = self(**self.place(encoded.batch(rows)))
            out[rows] = torch.softmax(logits, -1).cpu().numpy()
        return out

    def place(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move a batch to the model's device, pixels in its dtype."""
        weight = next(self.backbone.parameters())
        return {
            name: part.to(weight.device, weight.dtype if part.is_floating_point() else part.dtype)
            for name, part in batch.items()
        }


def _mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the real positions of each sample."""
    mask = torch.ones(hidden.shape[:2]) if mask is None else mask
    return masked_mean(hidden, mask.bool().to(hidden.device))
