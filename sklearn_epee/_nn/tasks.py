"""Several tasks in one tensor: their classes are concatenated along the last dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_epee._checks.multilabel import LabelCount

# Number of classes, of several tasks a tuple, or of labels.
Classes = int | tuple[int, ...] | LabelCount


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
    if all(count == 2 for count in counts):
        return torch.softmax(as_pairs(logits), dim=-1).flatten(-2)
    parts = [torch.softmax(part, dim=-1) for part in split_tasks(logits, counts)]
    return torch.cat(parts, dim=-1)


def as_pairs(packed: Tensor) -> Tensor:
    """Reshape concatenated tasks of two classes each, (..., 2 T), to (..., T, 2)."""
    return packed.unflatten(-1, (-1, 2))


def task_predictions(packed: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the column of the largest value of each task, (..., sum of K_t) -> (..., T)."""
    return torch.stack([part.argmax(dim=-1) for part in split_tasks(packed, counts)], dim=-1)


class TaskHeads(nn.Module):
    """The heads of all tasks after one layer.

    Parameters
    ----------
    heads : iterable of ExitHead
        One per task.
    """

    def __init__(self, heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(heads)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, sum of K_t); see `task_logits`."""
        heads: Iterable[Any] = self.tasks
        return task_logits(list(heads), pooled)

    def attend(self, hidden: Tensor, layout: Any) -> Tensor:
        """Return the attention pooling with the query of each task, (n, T, in_features)."""
        heads: Iterable[Any] = self.tasks
        return torch.stack([head.attend(hidden, layout) for head in heads], dim=1)


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
