"""The multi-exit network for token classification: heads predict every word after every layer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .batch_layout import WORD_POSITIONS, WORD_ROWS
from .head_attention import HeadAttention
from .network import Head, MultiExitNetwork, Pool, without_autocast
from .tasks import Classes


class TokenExitNetwork(MultiExitNetwork):
    """A backbone of M layers whose M heads read the first piece of every word.

    With attention, this piece reads all positions of its sentence first.

    Parameters
    ----------
    backbone : PreTrainedModel
        Base model of a known family, without heads.
    n_classes : int or tuple of int
        Number of tags K; with several layers of spans a tuple, whose logits are concatenated.
    pooling : str, default="word"
        The only supported value.
    dropout : float, default=0.0
        Dropout probability of the heads.
    has_dense : bool or None, default=False
        Whether heads start with a dense layer + tanh.
    head : {"linear", "bottleneck", "attention"}, default="linear"
        As `MultiExitNetwork` takes it.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        n_classes: Classes,
        pooling: str = "word",
        dropout: float = 0.0,
        has_dense: bool | None = False,
        *,
        head: str = "linear",
    ) -> None:
        super().__init__(backbone, n_classes, pooling, dropout, has_dense, head=head)

    @property
    def n_rows_read(self) -> int:
        """0, which means all rows of a layer, because words can be at any position."""
        return 0

    def word_logits(  # noqa: PLR0917
        self,
        layer: int,
        hidden: Tensor,
        word_rows: Tensor,
        word_positions: Tensor,
        mask: Tensor,
        pool: Pool | None = None,
    ) -> Tensor:
        """Return the logits of one exit for words.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        hidden : Tensor of shape (n, t, d)
            Output of the layer.
        word_rows, word_positions : Tensors of shape (w,), int64
            Row of each word in the batch, and the position of its first piece.
        mask : Tensor of shape (n, t), bool
            True at real positions.
        pool : callable, default=None
            Prepares hidden states for a head; None: `pool` of the adapter.

        Returns
        -------
        Tensor of shape (w, sum of K), float32
        """
        pool = pool or self._adapter.pool
        if self.head != "attention":
            return self.row_logits(layer, hidden[word_rows, word_positions], pool)
        with without_autocast(hidden.device.type):
            attention = self.attention(layer)
            words = attention.of_words(pool(hidden), mask, word_rows, word_positions)
        return self._classify(layer, words)

    def attention(self, layer: int) -> HeadAttention:
        """Return the attention of an exit; there is one with ``head="attention"``."""
        return cast("HeadAttention", self.heads[layer - 1].get_submodule("attention"))

    def row_logits(
        self, layer: int, rows: Tensor, pool: Pool | None = None, head: Head | None = None
    ) -> Tensor:
        """Return the logits of one exit for the rows of words, (w, d), without attention.

        Parameters
        ----------
        layer, rows, pool
            See `word_logits`.
        head : callable, default=None
            Equivalent replacement of the layer's head; None: the head itself.
        """
        pooled = (pool or self._adapter.pool)(rows.unsqueeze(1))
        return self._classify(layer, pooled.squeeze(1), head)

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the logits of all exits for every word, (w, M, sum of K), with gradients.

        The batch has ``"word_rows"`` and ``"word_positions"`` in addition to the backbone's inputs.
        """
        hidden, layout = self.embed(batch)
        places = batch[WORD_ROWS], batch[WORD_POSITIONS], layout.mask
        first = self.n_layers if self.last_exit_only and self.training else 1
        logits = []
        for layer in range(1, self.n_layers + 1):
            hidden = self._run_layer(layer, hidden, layout.mask)
            if layer >= first:
                pool = self._pool_for_training(layer)
                logits.append(self.word_logits(layer, hidden, *places, pool))
        return torch.stack(logits, dim=1)

    def exit_logits(self, *_: Any, **__: Any) -> Tensor:
        """Raise an error, because the heads of this network have no logits for a whole text."""
        raise RuntimeError("The heads of this network read words; use word_logits.")
