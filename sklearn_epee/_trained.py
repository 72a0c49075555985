"""What a fit leaves: the trained network, what is known of it, and engines that run it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from ._nn.engine import Engine
from ._nn.network_file import LazyNetwork, ready
from ._nn.training import ExitNet


@dataclass(frozen=True)
class SearchContext:
    """What clones of one search share.

    Parameters
    ----------
    folder : Path
        The temporary store of the process that made the first clone.
    seed : int or None
        The draw that stands in for ``random_state=None``; None once an estimator was fitted.
    generation : int
        How many times the constructed estimator was cloned. Searches clone twice: the estimator
        they are given, and that clone for every candidate.
    """

    folder: Path
    seed: int | None
    generation: int


@dataclass(frozen=True)
class Trained:
    """The outcome of a training: what the store keeps."""

    encoder: Any
    net: ExitNet


@dataclass(frozen=True)
class Summary:
    """What an estimator knows of its network without reading it from the store."""

    n_layers: int
    sample_form: Any
    exit_weights: NDArray[np.float64]
    history: Any
    stopped_by: str | None

    @property
    def is_complete(self) -> bool:
        """Whether the training went on to its end."""
        return self.stopped_by in (None, "early stopping")


def as_lazy_network(
    encoder: Any, net: ExitNet, exit_weights: NDArray[np.float64]
) -> LazyNetwork[Trained]:
    """Hold a network that was just trained."""
    summary = Summary(
        net.module_.n_layers, encoder.sample_form, exit_weights, net.history_, net.stopped_by_
    )
    return ready(summary, Trained(encoder, net))


def warn_if_not_finite(net: ExitNet) -> None:
    """Tell that a training stopped before its end."""
    if net.stopped_by_ == "not finite":
        warnings.warn(
            f"The loss or its gradient became NaN or infinite at training step {net.n_steps_ + 1}; "
            "training stopped there and keeps the last weights that gave a finite loss. Lower "
            "learning_rate or raise warmup_ratio.",
            ConvergenceWarning,
            stacklevel=5,
        )


class Engines:
    """Engines of a fitted network by device and precision, made when first asked for."""

    def __init__(self, held: LazyNetwork[Trained]) -> None:
        self._held = held
        self._made: dict[tuple[torch.device, torch.dtype], Engine] = {}

    def get(self, device: torch.device, dtype: torch.dtype) -> Engine:
        """Give the engine for a device and precision."""
        key = (device, dtype)
        if key not in self._made:
            network = self._held.get().net.module_
            self._made[key] = Engine(network.to_inference_copy(device, torch.float32), dtype)
        return self._made[key]
