"""Attention layer of a head, by which a pooled state or a word reads all positions."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch_layout import BatchLayout

# Number of attention heads, and width of each.
N_HEADS = 4
HEAD_WIDTH = 32


class HeadAttention(nn.Module):
    """Attention of what a head reads to all positions of the sample, added to it.

    A pooled state is the only query of its sample. Therefore, keys and values of the positions are
    never computed: the query is multiplied by the transposed key projection, and the value
    projection is applied to the weighted means of the hidden states, which gives the same result
    with fewer operations. A sentence has as many queries as words, so `of_words` computes keys and
    values.

    Parameters
    ----------
    n_features : int
        Width of the pooled state.
    hidden_size : int
        Width of the hidden states.

    References
    ----------
    Vaswani et al., "Attention is all you need", arXiv 1706.03762.
    """

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        width = N_HEADS * HEAD_WIDTH
        linear = functools.partial(nn.Linear, dtype=torch.float32)
        self.query = linear(n_features, width)
        # A constant in the keys changes no attention weight, and one in the values is in `out`.
        self.key = linear(hidden_size, width, bias=False)
        self.value = linear(hidden_size, width, bias=False)
        self.out = linear(width, n_features)

    def forward(self, pooled: Tensor, hidden: Tensor, layout: BatchLayout) -> Tensor:
        """Return the pooled states with what they read added, float32.

        Parameters
        ----------
        pooled : Tensor of shape (n, n_features), float32
        hidden : Tensor of shape (w, t, d)
            The positions that are read.
        layout : BatchLayout

        Returns
        -------
        Tensor of shape (n, n_features)
        """
        query = self.query(pooled).unflatten(-1, (N_HEADS, -1)) * HEAD_WIDTH**-0.5
        query = of_each_head(query, by_head(self.key))
        read = attended_means(hidden.float(), layout, query)
        value = of_each_head(read, by_head(self.value).transpose(1, 2))
        added: Tensor = self.out(value.flatten(1))
        return pooled + added

    def of_words(
        self, hidden: Tensor, mask: Tensor | None, word_rows: Tensor, word_positions: Tensor
    ) -> Tensor:
        """Return the states of words with what each has read of its sentence added, float32.

        Parameters
        ----------
        hidden : Tensor of shape (n, t, d)
        mask : Tensor of shape (n, t), bool, or None
            True at real positions, which are read; None: all are real.
        word_rows, word_positions : Tensors of shape (w,), int64
            Row of each word in the batch, and the position of its first piece.

        Returns
        -------
        Tensor of shape (w, d)
        """
        read: Tensor = self.out(self._attended(hidden, mask)[word_rows, word_positions])
        return hidden[word_rows, word_positions].float() + read

    def of_positions(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return the states of all positions with what each has read added, (n, t, d) float32."""
        read: Tensor = self.out(self._attended(hidden, mask))
        return hidden.float() + read

    def _attended(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the positions read of all real ones, (n, t, width)."""
        hidden = hidden.float()
        query, k, v = (
            part(hidden).unflatten(-1, (N_HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = None if mask is None else mask[:, None, None, :]
        attended = functional.scaled_dot_product_attention(query, k, v, attn_mask=seen)
        return attended.transpose(1, 2).flatten(2)

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        """Initialize the module such that it returns the pooled states unchanged."""
        self.out.weight.zero_()
        self.out.bias.zero_()


def by_head(projection: nn.Linear) -> Tensor:
    """Return the weight of a projection of hidden states, (heads, width of a head, d)."""
    return projection.weight.unflatten(0, (N_HEADS, -1))


def of_each_head(rows: Tensor, weights: Tensor) -> Tensor:
    """Return the rows of each head times its matrix, (n, h, a) and (h, a, b) -> (n, h, b)."""
    return torch.bmm(rows.transpose(0, 1), weights).transpose(0, 1)


def attended_means(hidden: Tensor, layout: BatchLayout, queries: Tensor) -> Tensor:
    """Return the means of each sample's positions, weighted by attention to its queries.

    Parameters
    ----------
    hidden : Tensor of shape (w, t, d), float32
    layout : BatchLayout
        A sample's weights are the softmax over the real positions of all its windows.
    queries : Tensor of shape (n, h, d), float32

    Returns
    -------
    Tensor of shape (n, h, d), float32
    """
    scores = layout.repeated(queries) @ hidden.transpose(1, 2)
    scores = scores.masked_fill(~layout.mask.unsqueeze(1), torch.finfo(scores.dtype).min)
    means = torch.softmax(scores, dim=-1) @ hidden
    if layout.windows is None:
        return means
    # The weight of a window is the sum of its positions' weights in a softmax over all windows.
    totals = torch.logsumexp(scores, dim=-1)
    shares = torch.stack([layout.shares(of_head) for of_head in totals.unbind(1)], dim=1)
    weighted = (means * shares.unsqueeze(-1)).flatten(1)
    return layout.summed(weighted).unflatten(-1, means.shape[1:])
