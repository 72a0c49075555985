"""Exit rules: which samples exit at a layer, and with which prediction."""

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
    """When a sample exits and what is predicted (`sklearn_epee.policy` is the array version).

    Parameters
    ----------
    tau : float
        A sample exits where its normalized entropy is below this.
    patience : int
        ... or where this many consecutive layers, the current one included, agree.
    exit_ensemble : {None, "mean", "weighted"}
        How the visited exits are combined into the prediction.
    exit_weights : ndarray of shape (M,)
        Weights of the exits for ``"weighted"``.
    joint_exit : {"all", "any", "mean"}
        How several tasks, and the words of a sentence, decide together.
    token_exit : {"sentence", "token"}
        Whether the words of a sentence exit together or each by itself; read where words are
        predicted.
    label_thresholds : ndarray of shape (K,) or None, default=None
        Probabilities above which labels are predicted, if samples have several labels: then the
        patience counts how long the whole set of them has stayed the same.
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
    """Where samples exited and with which prediction, in the caller's order.

    Attributes
    ----------
    proba : ndarray of shape (n, K), float32
        With several tasks side by side, K is the sum of their classes.
    exit_layer : ndarray of shape (n,), int64
    entropy : ndarray of shape (n,) or, with several tasks, (n, T), float32
        Normalized entropy of the exit's own head.
    own : ndarray of shape (n, M), bool, or None
        Which exits a sample had, of two towers: none of a missing cell, and none that it skipped.
        None: all.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]
    own: NDArray[np.bool_] | None = None

    @classmethod
    def empty(cls, n: int, n_classes: int, n_tasks: int = 1) -> Exits:
        """Return arrays for the predictions of n samples, to be filled."""
        entropy = np.empty(n if n_tasks == 1 else (n, n_tasks), np.float32)
        return cls(np.empty((n, n_classes), np.float32), np.empty(n, np.int64), entropy)

    def extended(self, n: int) -> Exits:
        """Return arrays for n samples of which the first are these."""
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
    """What a policy remembers of samples that have not exited.

    Attributes
    ----------
    predicted : Tensor of shape (n,) or, with several tasks, (n, T), int64
        Class predicted by the layer below; with several labels whether each is, (n, K), bool.
    agreeing : Tensor of the same shape, int64
        Consecutive layers that predict it; with several labels those that predict the set, (n,).
    total : Tensor of shape (n, K) or None
        Weighted sum of the visited exits' probabilities, for an ensemble.
    """

    predicted: Tensor
    agreeing: Tensor
    total: Tensor | None

    def take(self, rows: Tensor) -> ExitState:
        """Return what is remembered of some samples, given by their numbers."""
        total = None if self.total is None else self.total[rows]
        return ExitState(self.predicted[rows], self.agreeing[rows], total)

    def empty(self, n: int) -> ExitState:
        """Return what is remembered of n samples of which no exit was read yet."""
        total = None if self.total is None else self.total.new_zeros((n, *self.total.shape[1:]))
        predicted, agreeing = (
            part.new_zeros((n, *part.shape[1:])) for part in (self.predicted, self.agreeing)
        )
        return ExitState(predicted, agreeing, total)

    @classmethod
    def join(cls, parts: Sequence[ExitState]) -> ExitState:
        """Return what is remembered of several batches as one."""
        totals = [part.total for part in parts if part.total is not None]
        return cls(
            torch.cat([part.predicted for part in parts]),
            torch.cat([part.agreeing for part in parts]),
            torch.cat(totals) if totals else None,
        )


@dataclass(frozen=True)
class Decision:
    """What became of a batch at a layer.

    Attributes
    ----------
    remaining : ndarray of int or None
        Numbers of the samples that do not exit, within the batch; None where no sample exits.
    state : ExitState or None
        Of all samples of the batch, those that exit included.
    """

    remaining: NDArray[np.intp] | None
    state: ExitState | None


class ExitRule(Protocol):
    """When samples exit; records their predictions and remembers nothing of single batches.

    Attributes
    ----------
    last_layer : int
        Where all remaining samples exit.
    rates_key : hashable or None
        Under rules with equal keys the same samples exit at the same layers. None for a rule under
        which no sample exits early.
    """

    last_layer: int
    rates_key: Hashable | None

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
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
            Numbers of the samples in the caller's order.
        state : ExitState or None
            What the layer below left.

        Returns
        -------
        Decision
        """
        ...


class RecordingRule:
    """No sample exits before the last recorded layer; records the probabilities of some layers.

    Parameters
    ----------
    first, last : int
        Layers to record, counted from 1.
    out : ndarray of shape (n, last - first + 1, K), float32
        Where to.
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
        nobody = np.empty(0, np.intp)
        return Decision(nobody if layer == self.last_layer else None, state)


class VisitedRule:
    """Samples exit by a rule; the probabilities of all exits that they visit are recorded too.

    Parameters
    ----------
    rule : ExitRule
    out : ndarray of shape (n, M, K), float32
        Where to; exits that are not visited stay as they are.
    """

    def __init__(self, rule: ExitRule, out: NDArray[np.float32]) -> None:
        self.last_layer = rule.last_layer
        self.rates_key: Hashable | None = rule.rates_key
        self._rule = rule
        self._out = out

    def reads(self, layer: int) -> bool:  # noqa: ARG002
        """Return whether the head of a layer is needed: that of every one."""
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
    """Samples exit by entropy or patience.

    Parameters
    ----------
    policy : ExitPolicy
    n_layers : int
        Number of layers M; all remaining samples exit at the last one.
    out : Exits
        Where predictions are recorded.
    """

    def __init__(self, policy: ExitPolicy, n_layers: int, out: Exits) -> None:
        self.last_layer = n_layers
        limits = policy.label_thresholds
        rates_key = (policy.tau, policy.patience, policy.min_exit_layer, policy.joint_exit)
        self.rates_key: Hashable | None = (*rates_key, None if limits is None else tuple(limits))
        self._policy = policy
        self._out = out
        # One for all samples, or a tensor with one for each sample of a batch.
        self._threshold: float | Tensor = float32_threshold(policy.tau)
        self._patience: int | Tensor = policy.patience
        # Samples on which all M layers agree exit at the last one, as all others do.
        self._remembers = policy.patience < n_layers or policy.exit_ensemble is not None

    def with_limits(self, thresholds: Tensor, patience: Tensor) -> Self:
        """Return the rule for a batch whose samples have a policy each.

        Parameters
        ----------
        thresholds : Tensor of shape (n,), float32
            Of entropies, `float32_threshold`; none above that of the rule's own policy. One for
            each row of probabilities, which are words where whole sentences exit.
        patience : Tensor of shape (n,), int64
            None below that of the rule's own policy.

        Returns
        -------
        DynamicRule
        """
        rule = copy.copy(self)
        rule._threshold, rule._patience = thresholds, patience
        return rule

    def recording_to(self, out: Exits) -> Self:
        """Return the rule with another place for what it records."""
        rule = copy.copy(self)
        rule._out = out
        return rule

    def recorded(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return under which numbers the predictions of some samples are recorded: their own."""
        return rows

    def reads(self, layer: int) -> bool:
        """Return whether the head of a layer is needed."""
        # Below the first layer at which samples may exit, predictions count for patience alone.
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
        """Record the samples that exit, all if `exits` is None; return the numbers of the others.

        Probabilities and entropies are `found` for all samples of the batch. None is returned
        where no sample exits.
        """
        proba, entropy = found
        if exits is None:
            self._record(layer, rows, *to_host(self._predicted_proba(proba, state), entropy))
            return np.empty(0, np.intp)
        if exits.device.type == "cpu" and not exits.numpy().any():
            return None
        # A GPU is waited for once: to look at the decision first would be to wait twice.
        exiting, *recorded = to_host(exits, self._predicted_proba(proba, state), entropy)
        if not exiting.any():
            return None
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
        """Return where the prediction is not that of the layer below."""
        return predicted != before

    def _entropy(self, proba: Tensor) -> Tensor:
        return normalized_entropy(proba)

    def _remember(self, layer: int, proba: Tensor, before: ExitState | None) -> ExitState | None:
        """Return what the layers above need to know; None where that is nothing."""
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
        """Return whether each sample exits, (n,) bool, at a layer where some may."""
        return either(self._agreed(layer, state), self._sure(entropy))

    def _sure(self, entropy: Tensor) -> Tensor | None:
        """Return where entropies are low enough; None where that never is."""
        return entropy < _beside(self._threshold, entropy) if self._policy.tau > 0 else None

    def _agreed(self, layer: int, state: ExitState | None) -> Tensor | None:
        """Return where enough layers agree; None where that cannot be yet."""
        if state is None or self._policy.patience > layer:
            return None
        return state.agreeing >= _beside(self._patience, state.agreeing)

    def _predicted_proba(self, proba: Tensor, state: ExitState | None) -> Tensor:
        """Return the visited exits combined, or the exit's own probabilities."""
        total = None if state is None else state.total
        return proba if total is None else self._combined(proba, total)

    @staticmethod
    def _combined(proba: Tensor, weighted: Tensor) -> Tensor:
        total = weighted.sum(dim=-1, keepdim=True)
        # Visited exits may all weigh nothing; then there is nothing to combine yet.
        return torch.where(total > 0, weighted / total, proba)


def _beside(limit: float | Tensor, values: Tensor) -> float | Tensor:
    """Return a limit, or one for each sample, in a shape that values of samples compare with."""
    if not isinstance(limit, Tensor):
        return limit
    return limit.view(-1, *[1] * (values.ndim - 1))


def to_host(*parts: Tensor) -> list[NDArray[Any]]:
    """Return tensors of the same n samples as arrays, copied from a GPU in one transfer.

    Parameters
    ----------
    *parts : Tensors of shape (n, ...)
        bool, or floats that float32 holds exactly.

    Returns
    -------
    list of ndarray
        In the same shapes, bool or float32.
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
    """Return where one of some conditions holds, of which one at least is known."""
    return functools.reduce(torch.logical_or, [c for c in conditions if c is not None])


def normalized_entropy(proba: Tensor) -> Tensor:
    """Return the entropy of each row over log K, in [0, 1]; 0 for a single class."""
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return torch.zeros(proba.shape[:-1], device=proba.device)
    return (torch.special.entr(proba).sum(-1) / math.log(n_classes)).clamp_(0.0, 1.0)


def float32_threshold(tau: float) -> float:
    """Return the float32 number that float32 entropies are below where they are below tau."""
    # Entropies end at 1: a larger tau is as good as 2, and does not overflow.
    rounded = np.float32(min(tau, 2.0))
    # As Python floats: NumPy would round tau to float32 before it compares.
    below = float(rounded) < tau
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def float32_floor(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the float32 numbers that float32 is above where it is above the given ones."""
    rounded = numbers.astype(np.float32)
    below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded.astype(np.float64) > numbers, below, rounded)


def joined_states(states: Sequence[ExitState | None], counts: Sequence[int]) -> ExitState | None:
    """Return what is remembered of several batches, None if it is nothing.

    Parameters
    ----------
    states : sequence of ExitState or None
        None: nothing is remembered of a batch, as before its first layer.
    counts : sequence of int
        How many samples each batch has.
    """
    like = next((state for state in states if state is not None), None)
    if like is None:
        return None
    return ExitState.join([
        like.empty(n) if state is None else state for state, n in zip(states, counts, strict=True)
    ])  # fmt: skip
