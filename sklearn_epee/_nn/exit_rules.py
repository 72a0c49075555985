"""Exit rules: decide which samples exit at a layer, and record their predictions."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ExitPolicy:
    """When samples exit and what is predicted (`sklearn_epee.policy` implements it on arrays).

    Parameters
    ----------
    tau : float
        A sample exits if its normalized entropy is below this threshold.
    patience : int
        A sample also exits if this many consecutive layers, including the current one, agree.
    exit_ensemble : {None, "mean", "weighted"}
        How the visited exits are combined into a prediction.
    exit_weights : ndarray of shape (M,)
        Weights of the exits for ``"weighted"``.
    joint_exit : {"all", "any", "mean"}
        How the criteria of several tasks, and of the words of a sentence, are combined.
    token_exit : {"sentence", "token"}
        Whether the words of a sentence exit together or one by one; only used for words.
    label_thresholds : ndarray of shape (K,) or None, default=None
        For several labels per sample: probabilities above which labels are predicted. The patience
        counts consecutive layers with the same set of labels.
    min_exit_layer : int, default=1
        The first layer at which samples may exit, unless it is above the last layer.
    """

    tau: float
    patience: int
    exit_ensemble: str | None
    exit_weights: NDArray[np.float64]
    joint_exit: str = "all"
    token_exit: str = "sentence"
    label_thresholds: NDArray[np.float64] | None = None
    min_exit_layer: int = 1


@dataclass(frozen=True)
class Exits:
    """Exit layers and predictions of samples, in the caller's order.

    Attributes
    ----------
    proba : ndarray of shape (n, K), float32
        With several tasks, their columns are concatenated, and K is the sum of their classes.
    exit_layer : ndarray of shape (n,), int64
    entropy : ndarray of shape (n,) or, with several tasks, (n, T), float32
        Normalized entropy of the head at the exit layer.
    own : ndarray of shape (n, M), bool, or None
        For two towers: which exits each sample had, excluding those of missing inputs and skipped
        ones. None means all.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]
    own: NDArray[np.bool_] | None = None

    @classmethod
    def empty(cls, n: int, n_classes: int, n_tasks: int = 1) -> Exits:
        """Return uninitialized arrays for the predictions of n samples."""
        entropy = np.empty(n if n_tasks == 1 else (n, n_tasks), np.float32)
        return cls(np.empty((n, n_classes), np.float32), np.empty(n, np.int64), entropy)

    def extended(self, n: int) -> Exits:
        """Return arrays for n samples that start with the present ones."""
        longer = Exits(
            np.empty((n, self.proba.shape[1]), np.float32),
            np.empty(n, np.int64),
            np.empty((n, *self.entropy.shape[1:]), np.float32),
        )
        has = len(self.exit_layer)
        longer.proba[:has] = self.proba
        longer.exit_layer[:has] = self.exit_layer
        longer.entropy[:has] = self.entropy
        return longer

    @classmethod
    def join(cls, parts: Sequence[Exits]) -> Exits:
        """Return the predictions of consecutive samples as one."""
        if len(parts) == 1:
            return parts[0]
        own = [part.own for part in parts if part.own is not None]
        return cls(
            np.concatenate([part.proba for part in parts]),
            np.concatenate([part.exit_layer for part in parts]),
            np.concatenate([part.entropy for part in parts]),
            np.concatenate(own) if own else None,
        )


@dataclass(frozen=True)
class ExitState:
    """State of an exit rule for samples that have not exited.

    Attributes
    ----------
    predicted : Tensor of shape (n,) or, with several tasks, (n, T), int64
        Class predicted by the last layer; with several labels, whether each is predicted, (n, K),
        bool.
    agreeing : Tensor of the same shape, int64
        Number of consecutive layers with this prediction; with several labels, with the same set of
        labels, (n,).
    total : Tensor of shape (n, K) or None
        Weighted sum of the probabilities of the visited exits, for an ensemble.
    """

    predicted: Tensor
    agreeing: Tensor
    total: Tensor | None

    def take(self, rows: Tensor) -> ExitState:
        """Return the state of some samples, given by their indices."""
        total = None if self.total is None else self.total[rows]
        return ExitState(self.predicted[rows], self.agreeing[rows], total)

    def empty(self, n: int) -> ExitState:
        """Return the state of n samples before their first exit."""
        total = None if self.total is None else self.total.new_zeros((n, *self.total.shape[1:]))
        predicted, agreeing = (
            part.new_zeros((n, *part.shape[1:])) for part in (self.predicted, self.agreeing)
        )
        return ExitState(predicted, agreeing, total)

    @classmethod
    def join(cls, parts: Sequence[ExitState]) -> ExitState:
        """Concatenate the states of several batches."""
        totals = [part.total for part in parts if part.total is not None]
        return cls(
            torch.cat([part.predicted for part in parts]),
            torch.cat([part.agreeing for part in parts]),
            torch.cat(totals) if totals else None,
        )


@dataclass(frozen=True)
class Decision:
    """Decision of an exit rule about a batch at a layer.

    Attributes
    ----------
    remaining : ndarray of int or None
        Indices within the batch of the samples that do not exit; None if no sample exits.
    state : ExitState or None
        State of all samples of the batch, including those that exit.
    """

    remaining: NDArray[np.intp] | None
    state: ExitState | None


class ExitRule(Protocol):
    """Interface of exit rules, which record predictions. The state of a batch is kept outside.

    Attributes
    ----------
    last_layer : int
        Layer at which all remaining samples exit.
    rates_key : hashable or None
        Rules with equal keys let the same samples exit at the same layers. None if exit rates are
        not recorded.
    """

    last_layer: int
    rates_key: Hashable | None

    def reads(self, layer: int) -> bool:
        """Return whether the predictions of a layer's head are needed."""
        ...

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        ...

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at a layer.

        Parameters
        ----------
        layer : int
            Layer, counted from 1.
        proba : Tensor of shape (n, K)
            Probabilities of the layer's head.
        rows : ndarray of shape (n,)
            Indices of the samples in the caller's order.
        state : ExitState or None
            State after the layer before.

        Returns
        -------
        Decision
        """
        ...


class RecordingRule:
    """Record the probabilities of some layers; no sample exits before the last of them.

    Parameters
    ----------
    first, last : int
        Layers to record, counted from 1.
    out : ndarray of shape (n, last - first + 1, K), float32
        Array to which the probabilities are written.
    """

    rates_key: Hashable | None = None

    def __init__(self, first: int, last: int, out: NDArray[np.float32]) -> None:
        self.last_layer = last
        self._first = first
        self._out = out

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        return layer >= self._first

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        return layer == self.last_layer

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the probabilities of a layer."""
        self._out[rows, layer - self._first] = proba.cpu().numpy()
        none_remaining = np.empty(0, np.intp)
        return Decision(none_remaining if layer == self.last_layer else None, state)


class VisitedRule:
    """Apply an exit rule, and also record the probabilities of all visited exits.

    Parameters
    ----------
    rule : ExitRule
    out : ndarray of shape (n, M, K), float32
        Array to which the probabilities are written; entries of other exits are unchanged.
    """

    def __init__(self, rule: ExitRule, out: NDArray[np.float32]) -> None:
        self.last_layer = rule.last_layer
        self.rates_key: Hashable | None = rule.rates_key
        self._rule = rule
        self._out = out

    def reads(self, layer: int) -> bool:  # noqa: ARG002
        """Return True, because the heads of all layers are needed."""
        return True

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        return self._rule.may_exit(layer)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the probabilities of a layer, and the predictions of the samples that exit."""
        self._out[rows, layer - 1] = proba.cpu().numpy()
        return self._rule.decide(layer, proba, rows, state)


class DynamicRule:
    """Exit rule by entropy and patience.

    Parameters
    ----------
    policy : ExitPolicy
    n_layers : int
        Number of layers M; all remaining samples exit at the last one.
    out : Exits
        Arrays to which predictions are written.
    """

    def __init__(self, policy: ExitPolicy, n_layers: int, out: Exits) -> None:
        self.last_layer = n_layers
        limits = policy.label_thresholds
        rates_key = (policy.tau, policy.patience, policy.min_exit_layer, policy.joint_exit)
        self.rates_key: Hashable | None = (*rates_key, None if limits is None else tuple(limits))
        self._policy = policy
        self._out = out
        # Scalars for all samples, or tensors with one value for each sample of a batch.
        self._threshold: float | Tensor = float32_threshold(policy.tau)
        self._patience: int | Tensor = policy.patience
        # A patience of M or more has no effect, because all samples exit at the last layer anyway.
        self._remembers = policy.patience < n_layers or policy.exit_ensemble is not None

    def with_limits(self, thresholds: Tensor, patience: Tensor) -> Self:
        """Return the rule for a batch in which each sample has its own policy.

        Parameters
        ----------
        thresholds : Tensor of shape (n,), float32
            Entropy thresholds, as from `float32_threshold`; at most that of the rule's policy. One
            for each row of probabilities; rows are words even if whole sentences exit.
        patience : Tensor of shape (n,), int64
            At least that of the rule's policy.

        Returns
        -------
        DynamicRule
        """
        rule = copy.copy(self)
        rule._threshold, rule._patience = thresholds, patience
        return rule

    def recording_to(self, out: Exits) -> Self:
        """Return the same rule, writing to other arrays."""
        rule = copy.copy(self)
        rule._out = out
        return rule

    def recorded(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices in `out` for some samples, which are the same here."""
        return rows

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        # Before the first layer at which samples may exit, predictions only count for patience.
        return self._remembers or self.may_exit(layer)

    def may_exit(self, layer: int) -> bool:
        """Return whether a sample can exit at a layer."""
        if layer == self.last_layer:
            return True
        policy = self._policy
        return layer >= policy.min_exit_layer and (policy.tau > 0 or policy.patience <= layer)

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Record the predictions of the samples that exit at a layer; see `ExitRule`."""
        state = self._remember(layer, proba, state)
        if not self.may_exit(layer):
            return Decision(None, state)
        entropy = self._entropy(proba)
        exits = None if layer == self.last_layer else self._exits(layer, entropy, state)
        return Decision(self._settle(layer, rows, exits, (proba, entropy), state), state)

    def _settle(
        self,
        layer: int,
        rows: NDArray[np.intp],
        exits: Tensor | None,
        found: tuple[Tensor, Tensor],
        state: ExitState | None,
    ) -> NDArray[np.intp] | None:
        """Record the samples that exit, or all if `exits` is None; return indices of the others.

        `found` are probabilities and entropies of all samples of the batch. Returns None if no
        sample exits.
        """
        proba, entropy = found
        if exits is None:
            self._record(layer, rows, *to_host(self._predicted_proba(proba, state), entropy))
            return np.empty(0, np.intp)
        if exits.device.type == "cpu" and not exits.numpy().any():
            return None
        # Copy everything at once: reading `exits` first would synchronize with the GPU twice.
        exiting, *recorded = to_host(exits, self._predicted_proba(proba, state), entropy)
        if not exiting.any():
            return None
        if exiting.all():
            self._record(layer, rows, *recorded)
            return np.empty(0, np.intp)
        self._record(layer, rows[exiting], *(part[exiting] for part in recorded))
        return np.flatnonzero(~exiting)

    def _record(
        self,
        layer: int,
        rows: NDArray[np.intp],
        proba: NDArray[np.float32],
        entropy: NDArray[np.float32],
    ) -> None:
        self._out.proba[rows] = proba
        self._out.entropy[rows] = entropy
        self._out.exit_layer[rows] = layer

    def _label(self, proba: Tensor) -> Tensor:
        return proba.argmax(dim=1)

    def _changed(self, predicted: Tensor, before: Tensor) -> Tensor:
        """Return which predictions differ from those of the layer before."""
        return predicted != before

    def _entropy(self, proba: Tensor) -> Tensor:
        return normalized_entropy(proba)

    def _remember(self, layer: int, proba: Tensor, before: ExitState | None) -> ExitState | None:
        """Return the state for later layers; None if they need none."""
        if not self._remembers:
            return None
        predicted = self._label(proba)
        total = self._weighted_sum(layer, proba, before)
        changed = self._changed(predicted, predicted if before is None else before.predicted)
        if before is None:
            return ExitState(predicted, torch.ones_like(changed, dtype=torch.int64), total)
        agreeing = (before.agreeing + 1).masked_fill_(changed, 1)
        return ExitState(predicted, agreeing, total)

    def _weighted_sum(self, layer: int, proba: Tensor, before: ExitState | None) -> Tensor | None:
        ensemble = self._policy.exit_ensemble
        if ensemble is None:
            return None
        weight = 1.0 if ensemble == "mean" else float(self._policy.exit_weights[layer - 1])
        return (
            weight * proba
            if before is None or before.total is None
            else before.total + weight * proba
        )

    def _exits(self, layer: int, entropy: Tensor, state: ExitState | None) -> Tensor:
        """Return whether each sample exits, (n,) bool, at a layer at which exits are possible."""
        return either(self._agreed(layer, state), self._sure(entropy))

    def _sure(self, entropy: Tensor) -> Tensor | None:
        """Return which entropies are below the threshold; None if tau is 0."""
        return entropy < _beside(self._threshold, entropy) if self._policy.tau > 0 else None

    def _agreed(self, layer: int, state: ExitState | None) -> Tensor | None:
        """Return for which samples enough layers agree; None if there were too few layers."""
        if state is None or self._policy.patience > layer:
            return None
        return state.agreeing >= _beside(self._patience, state.agreeing)

    def _predicted_proba(self, proba: Tensor, state: ExitState | None) -> Tensor:
        """Return the combined probabilities of the visited exits, or those of the layer's head."""
        total = None if state is None else state.total
        return proba if total is None else self._combined(proba, total)

    @staticmethod
    def _combined(proba: Tensor, weighted: Tensor) -> Tensor:
        total = weighted.sum(dim=-1, keepdim=True)
        # The weights of all visited exits may be 0; then the layer's own probabilities are used.
        return torch.where(total > 0, weighted / total, proba)


def _beside(limit: float | Tensor, values: Tensor) -> float | Tensor:
    """Return a limit, or one per sample, in a shape that broadcasts with values of samples."""
    if not isinstance(limit, Tensor):
        return limit
    return limit.view(-1, *[1] * (values.ndim - 1))


def to_host(*parts: Tensor) -> list[NDArray[Any]]:
    """Return tensors of n samples as arrays, copied from a GPU in one transfer.

    Parameters
    ----------
    *parts : Tensors of shape (n, ...)
        bool, or floats that float32 can represent exactly.

    Returns
    -------
    list of ndarray
        Of the same shapes, bool or float32.
    """
    if parts[0].device.type == "cpu":
        return [part.numpy() for part in parts]
    return _in_one_transfer(parts)


def _in_one_transfer(parts: Sequence[Tensor]) -> list[NDArray[Any]]:
    columns = [part.reshape(len(part), -1).float() for part in parts]
    fetched = torch.cat(columns, dim=1).cpu().numpy()
    ends = np.cumsum([column.shape[1] for column in columns])[:-1]
    arrays = np.split(fetched, ends, axis=1)
    return [
        (array != 0 if part.dtype == torch.bool else array).reshape(tuple(part.shape))
        for array, part in zip(arrays, parts, strict=True)
    ]


def either(*conditions: Tensor | None) -> Tensor:
    """Return where any of some conditions holds; None is skipped, but not all may be None."""
    return functools.reduce(torch.logical_or, [c for c in conditions if c is not None])


def normalized_entropy(proba: Tensor) -> Tensor:
    """Return the entropy of each row divided by log K, in [0, 1]; 0 for a single class."""
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return torch.zeros(proba.shape[:-1], device=proba.device)
    return (torch.special.entr(proba).sum(-1) / math.log(n_classes)).clamp_(0.0, 1.0)


def float32_threshold(tau: float) -> float:
    """Return a float32 threshold t so that float32 entropies are below t exactly if below tau."""
    # Entropies are at most 1, so a larger tau can be replaced by 2, which does not overflow.
    rounded = np.float32(min(tau, 2.0))
    # Compare Python floats, because NumPy would round tau to float32 first.
    below = float(rounded) < tau
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def float32_floor(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 limits so that float32 numbers exceed them exactly if they exceed these."""
    rounded = numbers.astype(np.float32)
    below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded.astype(np.float64) > numbers, below, rounded)


def joined_states(states: Sequence[ExitState | None], counts: Sequence[int]) -> ExitState | None:
    """Concatenate the states of several batches; None if all are None.

    Parameters
    ----------
    states : sequence of ExitState or None
        None for a batch without a state, such as before its first layer.
    counts : sequence of int
        Number of samples of each batch.
    """
    like = next((state for state in states if state is not None), None)
    if like is None:
        return None
    return ExitState.join([
        like.empty(n) if state is None else state for state, n in zip(states, counts, strict=True)
    ])  # fmt: skip
