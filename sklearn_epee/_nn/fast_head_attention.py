"""Attention of heads in prediction on a CPU: fewer operations, on weights that are prepared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import LinearWeights
from .batch_layout import BatchLayout
from .fast_attention import Seen, attend
from .fast_backbone import flat_rows, split_heads
from .fast_heads import FastHead, exact_heads, joined
from .head_attention import (
    HEAD_WIDTH,
    N_HEADS,
    HeadAttention,
    attended_means,
    by_head,
    of_each_head,
)
from .heads import ExitHead, LabelHead
from .network import Read
from .packed_linear import make_product
from .tasks import TaskHeads, read_by_tasks

# Returns logits of words, (w, K) float32, from all hidden states (n, t, d), the mask of real
# positions (n, t) or None if all are real, and the index of each word's first piece among all
# positions of the batch, (w,).
WordHead = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class FastHeadAttention:
    """The attention of a head whose pooled state is the only query, in float32.

    Parameters
    ----------
    attention : HeadAttention
        On a CPU. Its weights are copied.
    """

    @torch.no_grad()
    def __init__(self, attention: HeadAttention) -> None:
        scale = HEAD_WIDTH**-0.5
        # torch multiplies a single row by a transposed weight in less time.
        self._query = (attention.query.weight * scale).T.contiguous()
        self._query_bias = attention.query.bias * scale
        self._key = by_head(attention.key).detach()
        self._value = by_head(attention.value).detach().transpose(1, 2)
        self._out, self._out_bias = attention.out.weight.T.contiguous(), attention.out.bias.detach()

    def __call__(self, pooled: Tensor, hidden: Tensor, layout: BatchLayout) -> Tensor:
        """See `HeadAttention.forward`."""
        query = torch.addmm(self._query_bias, pooled, self._query)
        query = of_each_head(query.view(-1, N_HEADS, HEAD_WIDTH), self._key)
        if layout.is_padded or layout.windows is not None:
            read = attended_means(hidden, layout, query)
        else:
            scores = torch.bmm(query, hidden.transpose(1, 2))
            read = torch.bmm(torch.softmax(scores, dim=-1), hidden)
        value = of_each_head(read, self._value).flatten(1)
        summed = torch.addmm(pooled, value, self._out)
        return summed.add_(self._out_bias)


def fast_reader(head: nn.Module) -> Read | None:
    """Return a fast version of the `read_positions` of a head on a CPU.

    Returns
    -------
    callable or None
        None if the head has no attention, or may compute something else.
    """
    if type(head) is LabelHead:
        head = head.head
    if (type(head) is ExitHead or type(head) is TaskHeads) and head.attention is not None:
        return functools.partial(read_by_tasks, FastHeadAttention(head.attention))
    return None


class PlainWordHead:
    """The head of an exit for words, after attention to their sentence, in float32.

    Parameters
    ----------
    head : Module
    attention : HeadAttention
    """

    def __init__(self, head: nn.Module, attention: HeadAttention) -> None:
        self._head: Any = head
        self._attention = attention

    def __call__(self, hidden: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
        """See `WordHead`."""
        width = hidden.shape[1]
        rows, positions = index.div(width, rounding_mode="floor"), index % width
        logits: Tensor = self._head(self._attention.of_words(hidden, mask, rows, positions))
        return logits


class PackedWordHead:
    """The head of an exit for words on a CPU, after attention in the data type of the layers.

    The attention is a part of a layer: products have packed weights, and the results do not depend
    on the rest of the batch. Its output projection is merged into the next layer of the head.

    Parameters
    ----------
    heads : list of ExitHead
        One per task.
    attention : HeadAttention
    dtype : torch.dtype
    """

    def __init__(self, heads: list[ExitHead], attention: HeadAttention, dtype: torch.dtype) -> None:
        query = LinearWeights.of(attention.query).scaled(HEAD_WIDTH**-0.5)
        read = [query, LinearWeights.of(attention.key), LinearWeights.of(attention.value)]
        self._read = make_product(joined(read, n_shared=query.weight.shape[1]), dtype)
        self._head = FastHead(heads, attention.out)
        self._dtype = dtype

    def __call__(self, hidden: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
        """See `WordHead`."""
        hidden = hidden.to(self._dtype)
        projected = split_heads(self._read(flat_rows(hidden)), hidden, 3 * N_HEADS)
        query, k, v = projected.chunk(3, dim=1)
        attended = attend(query, k, v, Seen(None if mask is None else mask[:, None, None, :]))
        read = attended.transpose(1, 2).flatten(2)
        words = [part.flatten(0, 1).index_select(0, index) for part in (hidden, read)]
        return self._head(torch.cat(words, dim=1).float())


def word_head(head: nn.Module, attention: HeadAttention, dtype: torch.dtype) -> WordHead:
    """Return the fastest version of the head of an exit for words, with its attention.

    Parameters
    ----------
    head : Module
        On its device, in evaluation mode.
    attention : HeadAttention
        By which words read their sentence.
    dtype : torch.dtype
        Data type of the hidden states.
    """
    heads = exact_heads(list(head.tasks) if isinstance(head, TaskHeads) else [head])
    if heads is None or attention.query.weight.device.type != "cpu":
        return PlainWordHead(head, attention)
    return PackedWordHead(heads, attention, dtype)
