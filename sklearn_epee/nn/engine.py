"""Dynamic, budgeted and staged inference: one walk through the layers, three rules for leaving."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batching import EncodedSamples, batches_by_length
from .network import MultiExitNetwork


@dataclass(frozen=True)
class ExitPolicy:
    """When a sample leaves and what it answers (`sklearn_epee.policy` is the array version).

    Parameters
    ----------
    tau : float
        A sample leaves where its normalised entropy is below this.
    patience : int
        ... or where this many consecutive layers, the current one included, agree.
    exit_ensemble : {None, "mean", "weighted"}
        How the visited exits combine into the answer.
    exit_weights : ndarray of shape (M,)
        Weights of the exits for ``"weighted"``.
    """

    tau: float
    patience: int
    exit_ensemble: str | None
    exit_weights: NDArray[np.float64]


@dataclass(frozen=True)
class Exits:
    """Where samples left and with what answer, in the caller's order.

    Attributes
    ----------
    proba : ndarray of shape (n, K), float32
    exit_layer : ndarray of shape (n,), int64
    entropy : ndarray of shape (n,), float32
        Normalised entropy of the exit's own head.
    """

    proba: NDArray[np.float32]
    exit_layer: NDArray[np.int64]
    entropy: NDArray[np.float32]


class LeavingRule(Protocol):
    """What one batch does at each layer; every batch gets a rule object of its own."""

    last_layer: int

    def reads(self, layer: int) -> bool:
        """Tell whether the head of this layer is needed."""
        ...

    def decide(self, layer: int, proba: Tensor) -> Tensor | None:
        """Note the remaining samples' probabilities; give who stays, None for everybody."""
        ...


class Engine:
    """Runs a trained network in prediction.

    Parameters
    ----------
    network : MultiExitNetwork
        In evaluation mode, on its device. Never modified, so threads may share it.
    """

    def __init__(self, network: MultiExitNetwork) -> None:
        self._network = network
        weight = next(network.backbone.parameters())
        self._device = weight.device
        self._dtype = weight.dtype

    def dynamic(
        self, samples: EncodedSamples, policy: ExitPolicy, batch_size: int | str = "auto"
    ) -> Exits:
        """Let each sample leave by the policy.

        Parameters
        ----------
        samples : EncodedSamples
        policy : ExitPolicy
        batch_size : int or "auto"

        Returns
        -------
        Exits
        """
        n, n_classes = len(samples), self._network.n_classes
        out = Exits(
            np.empty((n, n_classes), np.float32), np.empty(n, np.int64), np.empty(n, np.float32)
        )
        self._run(
            samples,
            batch_size,
            lambda rows: _DynamicRule(policy, self._network.n_layers, rows, out),
        )
        return out

    def budgeted(
        self, samples: EncodedSamples, layer: int, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Answer every sample at one layer; layers above it do not run.

        Parameters
        ----------
        samples : EncodedSamples
        layer : int
            Layer, counted from 1.
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, K), float32
        """
        out = np.empty((len(samples), 1, self._network.n_classes), np.float32)
        self._run(samples, batch_size, lambda rows: _RecordingRule(layer, layer, rows, out))
        return out[:, 0]

    def staged(
        self, samples: EncodedSamples, batch_size: int | str = "auto"
    ) -> NDArray[np.float32]:
        """Probabilities of every exit in one pass.

        Parameters
        ----------
        samples : EncodedSamples
        batch_size : int or "auto"

        Returns
        -------
        ndarray of shape (n, M, K), float32
        """
        n_layers = self._network.n_layers
        out = np.empty((len(samples), n_layers, self._network.n_classes), np.float32)
        self._run(samples, batch_size, lambda rows: _RecordingRule(1, n_layers, rows, out))
        return out

    def _run(
        self,
        samples: EncodedSamples,
        batch_size: int | str,
        make_rule: Callable[[NDArray[np.intp]], LeavingRule],
    ) -> None:
        pending = deque(batches_by_length(samples.lengths, batch_size))
        warned = False
        limit = len(samples)
        while pending:
            rows = pending.popleft()
            if len(rows) > limit:
                pending.extendleft([rows[limit:], rows[:limit]])
                continue
            try:
                self._walk(samples.batch(rows), make_rule(rows))
                continue
            except torch.cuda.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            # Outside the handler, so that the failed attempt's tensors are free by now.
            torch.cuda.empty_cache()
            limit = len(rows) // 2
            pending.appendleft(rows)
            if not warned:
                _warn_out_of_memory(len(rows))
                warned = True

    @torch.inference_mode()
    def _walk(self, batch: dict[str, Tensor], rule: LeavingRule) -> None:
        network, adapter = self._network, self._network.adapter
        hidden, mask = adapter.embed({name: self._place(part) for name, part in batch.items()})
        for layer in range(1, rule.last_layer + 1):
            below, hidden = hidden, adapter.layer(layer, hidden, mask)
            if not rule.reads(layer):
                continue
            logits = network.exit_logits(layer, hidden, below, mask)
            stay = rule.decide(layer, torch.softmax(logits, dim=-1))
            if stay is None:
                continue
            if not stay.any():
                return
            hidden, mask = _compact(hidden, mask, stay)

    def _place(self, part: Tensor) -> Tensor:
        dtype = self._dtype if part.is_floating_point() else part.dtype
        return part.to(self._device, dtype)


class _RecordingRule:
    """Nobody leaves before the last wanted layer; notes the probabilities of some layers."""

    def __init__(
        self, first: int, last: int, rows: NDArray[np.intp], out: NDArray[np.float32]
    ) -> None:
        self.last_layer = last
        self._first = first
        self._rows = rows
        self._out = out

    def reads(self, layer: int) -> bool:
        return layer >= self._first

    def decide(self, layer: int, proba: Tensor) -> Tensor | None:
        self._out[self._rows, layer - self._first] = proba.cpu().numpy()
        return None


class _DynamicRule:
    """Samples leave by entropy or patience; the state of those who stay is kept in step."""

    _predicted: Tensor
    _agreeing: Tensor

    def __init__(
        self, policy: ExitPolicy, n_layers: int, rows: NDArray[np.intp], out: Exits
    ) -> None:
        self.last_layer = n_layers
        self._policy = policy
        self._rows = rows
        self._out = out
        self._threshold = float32_threshold(policy.tau)
        self._started = False
        self._sum: Tensor | None = None

    def reads(self, layer: int) -> bool:
        policy = self._policy
        leaves_early = policy.tau > 0 or policy.patience < self.last_layer
        return leaves_early or policy.exit_ensemble is not None or layer == self.last_layer

    def decide(self, layer: int, proba: Tensor) -> Tensor | None:
        self._count(proba.argmax(dim=1))
        answer = self._answer(layer, proba)
        entropy = normalized_entropy(proba)
        leave = (entropy < self._threshold) | (self._agreeing >= self._policy.patience)
        if layer == self.last_layer:
            leave = torch.ones_like(leave)
        if not leave.any():
            return None
        self._record(layer, leave, answer, entropy)
        return self._keep(~leave)

    def _count(self, predicted: Tensor) -> None:
        if self._started:
            agrees = predicted == self._predicted
            self._agreeing = torch.where(agrees, self._agreeing + 1, 1)
        else:
            self._agreeing = torch.ones_like(predicted)
            self._started = True
        self._predicted = predicted

    def _answer(self, layer: int, proba: Tensor) -> Tensor:
        ensemble = self._policy.exit_ensemble
        if ensemble is None:
            return proba
        weight = 1.0 if ensemble == "mean" else float(self._policy.exit_weights[layer - 1])
        self._sum = weight * proba if self._sum is None else self._sum + weight * proba
        total = self._sum.sum(dim=1, keepdim=True)
        # Visited exits may all weigh nothing; then there is nothing to combine yet.
        return torch.where(total > 0, self._sum / total, proba)

    def _record(self, layer: int, leave: Tensor, answer: Tensor, entropy: Tensor) -> None:
        rows = self._rows[leave.cpu().numpy()]
        self._out.proba[rows] = answer[leave].cpu().numpy()
        self._out.entropy[rows] = entropy[leave].cpu().numpy()
        self._out.exit_layer[rows] = layer

    def _keep(self, stay: Tensor) -> Tensor:
        self._rows = self._rows[stay.cpu().numpy()]
        self._predicted = self._predicted[stay]
        self._agreeing = self._agreeing[stay]
        if self._sum is not None:
            self._sum = self._sum[stay]
        return stay


def normalized_entropy(proba: Tensor) -> Tensor:
    """Entropy of each row over log K, in [0, 1]; 0 for a single class."""
    n_classes = proba.shape[-1]
    if n_classes == 1:
        return torch.zeros(proba.shape[:-1], device=proba.device)
    return (torch.special.entr(proba).sum(-1) / math.log(n_classes)).clamp(0.0, 1.0)


def float32_threshold(tau: float) -> float:
    """Give the float32 number that float32 entropies are below exactly where they are below tau."""
    # Entropies end at 1: a larger tau is as good as 2, and does not overflow.
    rounded = np.float32(min(tau, 2.0))
    # As Python floats: NumPy would round tau to float32 before it compares.
    below = float(rounded) < tau
    return float(np.nextafter(rounded, np.float32(np.inf)) if below else rounded)


def _compact(hidden: Tensor, mask: Tensor, stay: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the samples that stay, and only the columns that one of them still fills."""
    mask = mask[stay]
    width = int(mask.sum(dim=1).max())
    return hidden[stay, :width], mask[:, :width]


def _warn_out_of_memory(size: int) -> None:
    warnings.warn(
        f"The device ran out of memory with a prediction batch of {size} samples; going on with "
        "halves. Set predict_batch_size lower to avoid this.",
        RuntimeWarning,
        stacklevel=2,
    )
