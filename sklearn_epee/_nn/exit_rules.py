"""Rules for leaving: which samples answer at a layer, and with what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ExitPolicy:
    """When a sample leaves and what it answers (`sklearn_epee.policy` is the array version).

    Parameters
    ----------
    tau : float
        A sample leaves where its normalized entropy is below this.
    patience : int
        ... or where this many consecutive layers, the current one included, agree.
    exit_ensemble : {None, "mean", "weighted"}
        How the visited exits combine into the answer.
    exit_weights : ndarray of shape (M,)
        Weights of the exits for ``"weighted"``.
    joint_exit : {"all", "any", "mean"}
        How several tasks decide together.
    """

    tau: float
    patience: int
    exit_ensemble: str | None
    exit_weights: NDArray[np.float64]
    joint_exit: str = "all"


@dataclass(frozen=True)
class Exits:
    """Where samples left and with what answer, in the caller's order.

    Attributes
    ----------
    proba : ndarray of shape (n, K), float32
        With several tasks side by side, K is the sum of their classes.
    exit_layer : ndarray of shape (n,), int64
    entropy : ndarray of shape (n,) or, with several tasks, (n, T), float32
        Normalized entropy of the exit's own head.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]

    @classmethod
    def empty(cls, n: int, n_classes: int, n_tasks: int = 1) -> Exits:
        """Make room for the answers of n samples."""
        entropy = np.empty(n if n_tasks == 1 else (n, n_tasks), np.float32)
        return cls(np.empty((n, n_classes), np.float32), np.empty(n, np.int64), entropy)

    @classmethod
    def join(cls, parts: Sequence[Exits]) -> Exits:
        """Put the answers of consecutive samples together."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.proba for part in parts]),
            np.concatenate([part.exit_layer for part in parts]),
            np.concatenate([part.entropy for part in parts]),
        )


@dataclass(frozen=True)
class ExitState:
    """What a policy remembers of samples that are on their way.

    Attributes
    ----------
    predicted : Tensor of shape (n,) or, with several tasks, (n, T), int64
        Class predicted by the layer below.
    agreeing : Tensor of the same shape, int64
        Consecutive layers that predict it.
    total : Tensor of shape (n, K) or None
        Weighted sum of the visited exits' probabilities, for an ensemble.
    """

    predicted: Tensor
    agreeing: Tensor
    total: Tensor | None

    def take(self, rows: Tensor) -> ExitState:
        """Keep some samples, given by their numbers."""
        total = None if self.total is None else self.total[rows]
        return ExitState(self.predicted[rows], self.agreeing[rows], total)

    @classmethod
    def join(cls, parts: Sequence[ExitState]) -> ExitState:
        """Put samples of several batches together."""
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
    stay : ndarray of int or None
        Numbers of the samples that stay, within the batch; None where all do.
    state : ExitState or None
        Of all samples of the batch, those that leave included.
    """

    stay: NDArray[np.intp] | None
    state: ExitState | None


class ExitRule(Protocol):
    """When samples leave; holds where their answers go, and nothing about single batches."""

    last_layer: int

    def reads(self, layer: int) -> bool:
        """Tell whether the head of this layer is needed."""
        ...

    def may_leave(self, layer: int) -> bool:
        """Tell whether a sample can leave at this layer."""
        ...

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Note the answers of the samples ``rows`` that leave at this layer."""
        ...


class RecordingRule:
    """Nobody leaves before the last wanted layer; notes the probabilities of some layers.

    Parameters
    ----------
    first, last : int
        Layers to note, counted from 1.
    out : ndarray of shape (n, last - first + 1, K), float32
        Where to.
    """

    def __init__(self, first: int, last: int, out: NDArray[np.float32]) -> None:
        self.last_layer = last
        self._first = first
        self._out = out

    def reads(self, layer: int) -> bool:
        """Tell whether the head of this layer is needed."""
        return layer >= self._first

    def may_leave(self, layer: int) -> bool:
        """Tell whether a sample can leave at this layer."""
        return layer == self.last_layer

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Note the probabilities of a layer."""
        self._out[rows, layer - self._first] = proba.cpu().numpy()
        nobody = np.empty(0, np.intp)
        return Decision(nobody if layer == self.last_layer else None, state)


class DynamicRule:
    """Samples leave by entropy or patience.

    Parameters
    ----------
    policy : ExitPolicy
    n_layers : int
        Number of layers M; the last one answers whoever is left.
    out : Exits
        Where answers go.
    schedule : ndarray of shape (n,), int64, optional
        Layer at which each sample leaves, whatever the policy says. Everything else is computed
        as usual; for benchmarks, in which a random network must leave where a trained one would.
    """

    def __init__(
        self,
        policy: ExitPolicy,
        n_layers: int,
        out: Exits,
        schedule: NDArray[np.int64] | None = None,
    ) -> None:
        self.last_layer = n_layers
        self._policy = policy
        self._out = out
        self._threshold = float32_threshold(policy.tau)
        self._schedule = schedule
        # What all M layers agree on leaves at the last one, as everybody does.
        self._remembers = policy.patience < n_layers or policy.exit_ensemble is not None

    def reads(self, layer: int) -> bool:
        """Tell whether the head of this layer is needed."""
        policy = self._policy
        leaves_early = policy.tau > 0 or policy.patience < self.last_layer
        return leaves_early or policy.exit_ensemble is not None or layer == self.last_layer

    def may_leave(self, layer: int) -> bool:
        """Tell whether a sample can leave at this layer."""
        policy = self._policy
        return layer == self.last_layer or policy.tau > 0 or policy.patience <= layer

    def decide(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> Decision:
        """Let those leave that may, and note their answers."""
        state = self._advance(layer, proba, state)
        leave = self._leavers(layer, proba, rows, state)
        if leave is not None and not leave.any():
            return Decision(None, state)
        answer = self._answer(proba, state)
        if leave is None or leave.all():
            self._record(layer, rows, answer, self._entropy(proba))
            return Decision(np.empty(0, np.intp), state)
        leavers = torch.from_numpy(np.flatnonzero(leave)).to(proba.device)
        self._record(layer, rows[leave], answer[leavers], self._entropy(proba[leavers]))
        return Decision(np.flatnonzero(~leave), state)

    def _predict(self, proba: Tensor) -> Tensor:
        return proba.argmax(dim=1)

    def _entropy(self, proba: Tensor) -> Tensor:
        return normalized_entropy(proba)

    def _advance(self, layer: int, proba: Tensor, before: ExitState | None) -> ExitState | None:
        """Note what this layer says; None where no later layer needs to know."""
        if not self._remembers:
            return None
        predicted = self._predict(proba)
        total = self._weigh(layer, proba, before)
        if before is None:
            return ExitState(predicted, torch.ones_like(predicted), total)
        agreeing = (before.agreeing + 1).masked_fill_(predicted != before.predicted, 1)
        return ExitState(predicted, agreeing, total)

    def _weigh(self, layer: int, proba: Tensor, before: ExitState | None) -> Tensor | None:
        ensemble = self._policy.exit_ensemble
        if ensemble is None:
            return None
        weight = 1.0 if ensemble == "mean" else float(self._policy.exit_weights[layer - 1])
        return (
            weight * proba
            if before is None or before.total is None
            else before.total + weight * proba
        )

    def _leavers(
        self, layer: int, proba: Tensor, rows: NDArray[np.intp], state: ExitState | None
    ) -> NDArray[np.bool_] | None:
        """Say who leaves, on the host; None for everybody."""
        if layer == self.last_layer:
            return None
        if self._schedule is not None:
            self._entropy(proba)
            return self._schedule[rows] <= layer
        leave = self._leave(layer, proba, state)
        if leave is None:
            return np.zeros(len(rows), bool)
        # The one moment at which a GPU is waited for.
        return leave.cpu().numpy()

    def _leave(self, layer: int, proba: Tensor, state: ExitState | None) -> Tensor | None:
        """Say who leaves by the policy; None where nobody can yet."""
        policy = self._policy
        leave = self._settled(layer, state)
        if policy.tau > 0:
            sure = self._entropy(proba) < self._threshold
            leave = sure if leave is None else leave | sure
        return leave

    def _settled(self, layer: int, state: ExitState | None) -> Tensor | None:
        """Say where enough layers agree; None where that cannot be yet."""
        if state is None or self._policy.patience > layer:
            return None
        return state.agreeing >= self._policy.patience

    def _answer(self, proba: Tensor, state: ExitState | None) -> Tensor:
        """Combine the visited exits, or give the exit's own probabilities."""
        total = None if state is None else state.total
        return proba if total is None else self._combine(proba, total)

    @staticmethod
    def _combine(proba: Tensor, weighted: Tensor) -> Tensor:
        total = weighted.sum(dim=1, keepdim=True)
        # Visited exits may all weigh nothing; then there is nothing to combine yet.
        return torch.where(total > 0, weighted / total, proba)

    def _record(self, layer: int, rows: NDArray[np.intp], answer: Tensor, entropy: Tensor) -> None:
        self._out.proba[rows] = answer.cpu().numpy()
        self._out.entropy[rows] = entropy.cpu().numpy()
        self._out.exit_layer[rows] = layer


class ExitRates:
    """How often samples that reach a layer leave there, learned from those seen so far.

    Parameters
    ----------
    n_layers : int
        Number of layers M.
    """

    # As if this many samples had been seen before the first one, a sixth of them leaving.
    _PRIOR_SAMPLES = 6.0
    _PRIOR_LEAVERS = 1.0

    def __init__(self, n_layers: int) -> None:
        self._reached = [self._PRIOR_SAMPLES] * (n_layers + 1)
        self._left = [self._PRIOR_LEAVERS] * (n_layers + 1)

    def note(self, layer: int, reached: int, left: int) -> None:
        """Learn from a batch of which some left."""
        self._reached[layer] += reached
        self._left[layer] += left

    def at(self, layer: int) -> float:
        """Estimate the chance that a sample leaves at a layer it reaches."""
        return self._left[layer] / self._reached[layer]


def normalized_entropy(proba: Tensor) -> Tensor:
    """Entropy of each row over log K, in [0, 1]; 0 for a single class."""
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return torch.zeros(proba.shape[:-1], device=proba.device)
    return (torch.special.entr(proba).sum(-1) / math.log(n_classes)).clamp_(0.0, 1.0)


def float32_threshold(tau: float) -> float:
    """Give the float32 number that float32 entropies are below exactly where they are below tau."""
    # Entropies end at 1: a larger tau is as good as 2, and does not overflow.
    rounded = np.float32(min(tau, 2.0))
    # As Python floats: NumPy would round tau to float32 before it compares.
    below = float(rounded) < tau
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def joined_states(states: Iterable[ExitState | None]) -> ExitState | None:
    """Put what is remembered of several batches together; None where nothing is yet."""
    known = [state for state in states if state is not None]
    return ExitState.join(known) if known else None
