"""Several tasks in one tensor: their classes are concatenated along the last dimension."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklearn_epee._checks.multilabel import LabelCount

from .head_attention import HeadAttention

# Number of classes, of several tasks a tuple, or of labels.
Classes = int | tuple[int, ...] | LabelCount
# Tasks are computed together if padding them makes at most this many times as many columns.
_MOST_PADDING = 3


def class_counts(n_classes: Classes) -> tuple[int, ...]:
    """Return the number of classes of every task; with one task, a tuple of length 1.

    With several labels per sample, each label is a task with the classes 0 and 1.
    """
    if isinstance(n_classes, LabelCount):
        return (2,) * n_classes.n_labels
    return (n_classes,) if isinstance(n_classes, int) else tuple(n_classes)


def split_tasks(packed: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """Split a tensor of concatenated tasks, (..., sum of K_t), into views (..., K_t)."""
    return (packed,) if len(counts) == 1 else packed.split(list(counts), dim=-1)


class TaskBlock:
    """Consecutive tasks whose classes are padded to the same number, to be computed together.

    Parameters
    ----------
    counts : tuple of int
        Number of classes of each task.
    device : torch.device

    Attributes
    ----------
    width : int
        Number of classes of all tasks.
    log_counts : Tensor of shape (T,), float32
        Logarithm of the number of classes of each task.
    """

    def __init__(self, counts: tuple[int, ...], device: torch.device) -> None:
        self.width = sum(counts)
        # A single class has an entropy of 0, which can be divided by any number.
        logs = [math.log(max(count, 2)) for count in counts]
        self.log_counts = torch.tensor(logs, dtype=torch.float32, device=device)
        shape = self._shape = len(counts), max(counts)
        place = torch.arange(shape[1]).expand(shape)
        is_class = place < torch.tensor(counts).unsqueeze(1)
        self._is_even = bool(is_class.all())
        # The column of each place; for padding, one after the last.
        width = self.width
        columns = torch.full(shape, width).masked_scatter_(is_class, torch.arange(width))
        self._columns = columns.flatten().to(device)
        self._places = is_class.flatten().nonzero().flatten().to(device)

    def spread(self, packed: Tensor, fill: float) -> Tensor:
        """Return the classes of each task, (..., sum of K_t) -> (..., T, K), padded with `fill`."""
        if not self._is_even:
            padded = functional.pad(packed, (0, 1), value=fill)
            packed = padded.index_select(-1, self._columns)
        # Not `unflatten`, with which exported graphs have a fixed batch size.
        return packed.reshape(*packed.shape[:-1], *self._shape)

    def packed(self, spread: Tensor) -> Tensor:
        """Return the classes of all tasks side by side, without padding."""
        flat = spread.flatten(-2)
        return flat if self._is_even else flat.index_select(-1, self._places)


@functools.lru_cache(maxsize=64)
# Tensors made in inference mode could not be used in training.
@torch.inference_mode(mode=False)
def task_blocks(counts: tuple[int, ...], device: torch.device) -> list[TaskBlock]:
    """Divide tasks into as few blocks as possible, each with little padding.

    Parameters
    ----------
    counts : tuple of int
        Number of classes of each task.
    device : torch.device

    Returns
    -------
    list of TaskBlock
    """
    blocks: list[list[int]] = []
    for count in counts:
        joint = [*blocks[-1], count] if blocks else []
        if joint and len(joint) * max(joint) <= _MOST_PADDING * sum(joint):
            blocks[-1] = joint
        else:
            blocks.append([count])
    return [TaskBlock(tuple(block), device) for block in blocks]


def _by_blocks(
    packed: Tensor, counts: Sequence[int], compute: Callable[[TaskBlock, Tensor], Tensor]
) -> Tensor:
    """Return the results of a function of each block of tasks and its columns, side by side."""
    blocks = task_blocks(tuple(counts), packed.device)
    if len(blocks) == 1:
        return compute(blocks[0], packed)
    parts = packed.split([block.width for block in blocks], dim=-1)
    return torch.cat([compute(*pair) for pair in zip(blocks, parts, strict=True)], dim=-1)


def task_softmax(logits: Tensor, counts: Sequence[int]) -> Tensor:
    """Return probabilities from logits, task by task.

    Parameters
    ----------
    logits : Tensor of shape (..., sum of K_t)
    counts : sequence of int
        Number of classes of every task.

    Returns
    -------
    Tensor of the same shape
    """
    if len(counts) == 1:
        return torch.softmax(logits, dim=-1)
    return _by_blocks(logits, counts, _block_softmax)


def _block_softmax(block: TaskBlock, logits: Tensor) -> Tensor:
    return block.packed(torch.softmax(block.spread(logits, -torch.inf), dim=-1))


def task_predictions(packed: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the column of the largest value of each task, (..., sum of K_t) -> (..., T)."""
    return _by_blocks(packed, counts, _block_predictions)


def _block_predictions(block: TaskBlock, packed: Tensor) -> Tensor:
    return block.spread(packed, -torch.inf).argmax(dim=-1)


def task_entropies(proba: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the normalized entropy of each task, (..., sum of K_t) -> (..., T)."""
    return _by_blocks(proba, counts, _block_entropies)


def _block_entropies(block: TaskBlock, proba: Tensor) -> Tensor:
    each = block.spread(torch.special.entr(proba), 0.0)
    return (each.sum(-1) / block.log_counts).clamp_(0.0, 1.0)


def as_pairs(packed: Tensor) -> Tensor:
    """Reshape concatenated tasks of two classes each, (..., 2 T), to (..., T, 2)."""
    return packed.unflatten(-1, (-1, 2))


class TaskHeads(nn.Module):
    """The heads of all tasks after one layer.

    Parameters
    ----------
    heads : iterable of ExitHead
        One per task.
    attention : HeadAttention, default=None
        By which what is pooled of the layer reads all positions, for all tasks.
    """

    def __init__(self, heads: Iterable[nn.Module], attention: HeadAttention | None = None) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(heads)
        self.attention = attention

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, sum of K_t); see `task_logits`."""
        heads: Iterable[Any] = self.tasks
        return task_logits(list(heads), pooled)

    def attend(self, hidden: Tensor, layout: Any) -> Tensor:
        """Return the attention pooling with the query of each task, (n, T, in_features)."""
        heads: Iterable[Any] = self.tasks
        return torch.stack([head.attend(hidden, layout) for head in heads], dim=1)

    def read_positions(self, pooled: Tensor, hidden: Tensor, layout: Any) -> Tensor:
        """Return the pooled states with what they read of all positions added, if they do so.

        Parameters
        ----------
        pooled : Tensor
            One row for all tasks, (n, in_features), or one per task, (n, T, in_features).
        hidden : Tensor of shape (w, t, d)
        layout : BatchLayout

        Returns
        -------
        Tensor
            As `pooled`.
        """
        if self.attention is None:
            return pooled
        return read_by_tasks(self.attention, pooled, hidden, layout)


def read_by_tasks(
    attention: Callable[[Tensor, Tensor, Any], Tensor],
    pooled: Tensor,
    hidden: Tensor,
    layout: Any,
) -> Tensor:
    """Return pooled states with what they read by attention added; see `TaskHeads`."""
    rows = [pooled] if pooled.ndim == 2 else pooled.unbind(1)
    read = [attention(row.float(), hidden.float(), layout) for row in rows]
    return read[0] if pooled.ndim == 2 else torch.stack(read, dim=1)


def task_logits(heads: Sequence[Callable[[Tensor], Tensor]], pooled: Tensor) -> Tensor:
    """Return the logits of all tasks from pooled rows, (n, sum of K_t), in float32.

    Parameters
    ----------
    heads : sequence of callable
        One per task.
    pooled : Tensor
        One row for all tasks, (n, in_features), or one per task, (n, T, in_features).
    """
    rows = pooled.unbind(1) if pooled.ndim == 3 else [pooled] * len(heads)
    return torch.cat([head(row) for head, row in zip(heads, rows, strict=True)], dim=1)


def as_binary(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reshape a multilabel batch so that every label of every sample is a binary sample.

    Parameters
    ----------
    logits : Tensor of shape (n, M, 2 K)
    labels : Tensor of shape (n, K), int64
        1, 0, or -1 if unknown.
    weights : Tensor of shape (n, K)
        0 if the label is unknown.

    Returns
    -------
    logits : Tensor of shape (n K, M, 2)
    labels : Tensor of shape (n K,)
    weights : Tensor of shape (n K,)
    """
    pairs = as_pairs(logits).transpose(1, 2).flatten(0, 1)
    return pairs, labels.clamp(min=0).flatten(), weights.flatten()
