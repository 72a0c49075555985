"""Heads of an exit: for one task, for several tasks, or for several labels per sample."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sklearn_epee._checks.multilabel import LabelCount

from .batch_layout import BatchLayout
from .head_attention import HeadAttention
from .pooling import attended_mean_over_samples
from .tasks import Classes, TaskHeads, class_counts

# Values of the estimators' parameter `head`.
HEADS = ("linear", "bottleneck", "attention")
# Width of the narrow layer, relative to the input.
_BOTTLENECK_SHARE = 0.25
# Logit of a constant label: in float32, the sigmoid of it is 1, and that of its negative is 0.
_CERTAIN = 1e4


class Bottleneck(nn.Module):
    """A residual map through a narrow layer: ``x + up(gelu(down(norm(x))))``.

    Like the adapters of Houlsby et al., arXiv 1902.00751, but before a classifier.

    Parameters
    ----------
    width : int
        Width of the rows; the narrow layer has a quarter of it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, int(_BOTTLENECK_SHARE * width))
        self.norm = nn.LayerNorm(width, dtype=torch.float32)
        self.down = nn.Linear(width, narrow, dtype=torch.float32)
        self.up = nn.Linear(narrow, width, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows to rows of the same width."""
        return rows + self.up(functional.gelu(self.down(self.norm(rows))))

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        """Initialize the map as the identity."""
        self.up.weight.zero_()
        self.up.bias.zero_()


class ExitHead(nn.Module):
    """Classifier after one layer: optional bottleneck, optional dense + tanh, dropout, linear.

    Before them, what is pooled of the layer may read all positions, see `read_positions`.

    Parameters
    ----------
    in_features : int
        Width of the pooled state: the hidden size, or twice that for ``"cls+mean"`` and
        ``"entity"``.
    n_classes : int
        Number of classes K.
    dense_size : int or None
        Width of the dense layer + tanh; None: there is none, for families that end in a LayerNorm.
    dropout : float
        Dropout probability before the last linear layer.
    attends : bool, default=False
        Whether the head has a query for attention pooling.
    context_size : int, default=0
        Width of the additional input (context).
    kind : {"linear", "bottleneck", "attention"}, default="linear"
        "bottleneck": a `Bottleneck` is applied to the input first, including the context.
        "attention": the pooled state reads all positions by a `HeadAttention`.
    hidden_size : int, default=None
        Width of the hidden states that are read; None: `in_features`.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        dense_size: int | None,
        dropout: float,
        attends: bool = False,
        *,
        context_size: int = 0,
        kind: str = "linear",
        hidden_size: int | None = None,
    ) -> None:
        super().__init__()
        # With a query of zeros, all positions have the same weight: the pooling starts as the mean.
        query = torch.zeros(in_features, dtype=torch.float32)
        self.query = nn.Parameter(query) if attends else None
        # float32 even if torch's default data type is another one.
        linear = functools.partial(nn.Linear, dtype=torch.float32)
        width = in_features + context_size
        self.dense = linear(width, dense_size) if dense_size else None
        self.dropout = nn.Dropout(dropout)
        self.out = linear(dense_size or width, n_classes)
        # Created last, so that the other layers get the same random weights as without them.
        self.bottleneck = Bottleneck(width) if kind == "bottleneck" else None
        self.attention: HeadAttention | None = None
        if kind == "attention":
            self.attention = HeadAttention(in_features, hidden_size or in_features)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled rows, concatenated with their context, to logits (n, n_classes), float32."""
        if self.bottleneck is not None:
            pooled = self.bottleneck(pooled)
        if self.dense is not None:
            pooled = torch.tanh(self.dense(pooled))
        return self.out(self.dropout(pooled))

    def attend(self, hidden: Tensor, layout: BatchLayout) -> Tensor:
        """Return the mean over the real positions, weighted by attention to the head's query.

        From hidden states (w, t, d) of n samples to (n, d), in float32.
        """
        if self.query is None:
            raise RuntimeError("This head has no query.")
        return attended_mean_over_samples(hidden, layout, self.query)

    def read_positions(self, pooled: Tensor, hidden: Tensor, layout: BatchLayout) -> Tensor:
        """Return the pooled states with what they read of all positions added, if they do so.

        Parameters
        ----------
        pooled : Tensor of shape (n, in_features)
        hidden : Tensor of shape (w, t, d)
        layout : BatchLayout

        Returns
        -------
        Tensor of shape (n, in_features)
        """
        if self.attention is None:
            return pooled
        read: Tensor = self.attention(pooled.float(), hidden, layout)
        return read


class LabelHead(nn.Module):
    """The multilabel head after one layer: a sigmoid per label, with shared layers before it.

    The logits of a label are those of a task with the classes 0 and 1: 0 and the head's logit.

    Parameters
    ----------
    head : ExitHead
        With one logit per label.
    n_labels : int

    Attributes
    ----------
    head : ExitHead
    constants : Tensor of shape (n_labels,), float32
        1 for a label that is always predicted, -1 for one that never is, because all training
        samples or none have it; 0 for a learned label. A buffer.
    """

    constants: Tensor

    def __init__(self, head: nn.Module, n_labels: int) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("constants", torch.zeros(n_labels, dtype=torch.float32))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, 2 n_labels), in float32."""
        return label_logits(self.head(pooled), self.constants)

    def attend(self, hidden: Tensor, layout: Any) -> Tensor:
        """Return the attention pooling with the query of the labels, (n, in_features)."""
        head: Any = self.head
        read: Tensor = head.attend(hidden, layout)
        return read

    def read_positions(self, pooled: Tensor, hidden: Tensor, layout: Any) -> Tensor:
        """Return the pooled states with what they read of all positions added, if they do so."""
        head: Any = self.head
        read: Tensor = head.read_positions(pooled, hidden, layout)
        return read


def label_logits(learned: Tensor, constants: Tensor) -> Tensor:
    """Return the logits of all labels as pairs, (n, 2 n_labels).

    Parameters
    ----------
    learned : Tensor of shape (n, n_labels)
        Logits of the head.
    constants : Tensor of shape (n_labels,)
        See `LabelHead`.
    """
    logits = torch.where(constants == 0, learned, _CERTAIN * constants)
    return torch.stack([torch.zeros_like(logits), logits], dim=-1).flatten(-2)


def fix_labels(network: nn.Module, constants: Tensor) -> None:
    """Set the labels that all exits predict as constants.

    Parameters
    ----------
    network : Module
        With `LabelHead` modules.
    constants : Tensor of shape (n_labels,)
        See `LabelHead`.
    """
    for head in label_heads(network):
        head.constants.copy_(constants)


def begin_at_rates(network: nn.Module, rates: NDArray[np.float64]) -> None:
    """Initialize the biases of multilabel heads with the frequencies of the labels.

    Rare labels then have small probabilities from the first step on. Without this, a short training
    would spend most of its steps on it (see also Lin et al., arXiv 1708.02002).

    Parameters
    ----------
    network : Module
        With `LabelHead` modules that have not been trained yet.
    rates : ndarray of shape (n_labels,), float64
        In (0, 1).
    """
    logits = torch.from_numpy(np.log(rates) - np.log1p(-rates))
    with torch.no_grad():
        for head in label_heads(network):
            out: Any = head.head
            out.out.bias.copy_(logits)


def label_heads(network: nn.Module) -> list[LabelHead]:
    """Return the multilabel heads of a network, in the order of its exits."""
    return [module for module in network.modules() if isinstance(module, LabelHead)]


def make_head(
    n_classes: Classes,
    in_features: int,
    dense_size: int | None,
    dropout: float,
    attends: bool = False,
    *,
    context_size: int = 0,
    kind: str = "linear",
    hidden_size: int | None = None,
) -> nn.Module:
    """Return the head of one exit, for one task, several tasks, or several labels.

    Parameters
    ----------
    n_classes : int, tuple of int or LabelCount
        Each task has its own `ExitHead`; labels share one. Attention is shared by all.
    in_features, dense_size, dropout, attends, context_size, kind, hidden_size
        See `ExitHead`.

    Returns
    -------
    ExitHead, TaskHeads or LabelHead
    """

    def of_size(n_logits: int, kind: str = kind) -> ExitHead:
        options: Any = {"context_size": context_size, "kind": kind, "hidden_size": hidden_size}
        return ExitHead(in_features, n_logits, dense_size, dropout, attends, **options)

    if isinstance(n_classes, LabelCount):
        return LabelHead(of_size(n_classes.n_labels), n_classes.n_labels)
    counts = class_counts(n_classes)
    if len(counts) == 1:
        return of_size(counts[0])
    if kind != "attention":
        return TaskHeads([of_size(count) for count in counts])
    attention = HeadAttention(in_features, hidden_size or in_features)
    return TaskHeads([of_size(count, "linear") for count in counts], attention)
