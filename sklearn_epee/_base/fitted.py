"""The fitted state of an estimator: the trained network, its summary, and its engines."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning

from sklearn_epee._checks.messages import level_of_caller
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.training import ExitNet
from sklearn_epee._search import LazyNetwork, SharedPredictions, ready
from sklearn_epee._version import __version__

from .precision_report import MeasuredInt8

# The version of this package in the state of a pickled estimator.
VERSION_KEY = "_sklearn_epee_version"


@dataclass(frozen=True)
class Trained:
    """The outcome of a training: what the store keeps."""

    preprocessor: Any
    net: ExitNet
    int8: MeasuredInt8 | None = None
    """How its layers are rounded to 8 bits, where that was measured."""


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


class FittedState:
    """Everything that a prediction reads of a fit.

    An estimator replaces it at once when it is fitted again, and every prediction reads it once:
    a prediction during another thread's fit is made with one network and its own classes.

    Parameters
    ----------
    network : LazyNetwork of Trained
    tasks : Tasks, or what stands for it
        The classes, and what makes labels of probabilities.
    shared : SharedPredictions or None
        The predictions that the candidates of a search share.
    make_engine : callable, default=Engine
        Called with a network in inference mode and the data type of its layers.
    """

    # Of fits that were pickled before there was a choice.
    _make_engine: Callable[..., Any] = Engine

    def __init__(
        self,
        network: LazyNetwork[Trained],
        tasks: Any,
        shared: SharedPredictions | None = None,
        make_engine: Callable[..., Any] = Engine,
    ) -> None:
        self.network = network
        self.tasks = tasks
        self.shared = shared
        self._make_engine = make_engine
        self._engines: dict[tuple[torch.device, torch.dtype], Any] = {}

    @property
    def summary(self) -> Summary:
        """What is known of the network without reading it."""
        summary: Summary = self.network.summary
        return summary

    @property
    def trained(self) -> Trained:
        """The network and its preprocessor, read from the store at the first call."""
        return self.network.get()

    def engine(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the engine for a device and precision, made at the first call.

        Parameters
        ----------
        device : torch.device
        dtype : torch.dtype
            ``torch.int8`` stands for products of 8-bit numbers where they were found good enough.

        Raises
        ------
        ValueError
            If the rounding to 8 bits was not measured.
        """
        key = (device, dtype)
        if key not in self._engines:
            self._engines[key] = self._new_engine(device, dtype)
        return self._engines[key]

    def _new_engine(self, device: torch.device, dtype: torch.dtype) -> Any:
        placed = self.trained.net.module_.to_inference_copy(device, torch.float32)
        if dtype != torch.int8:
            return self._make_engine(placed, dtype)
        if self.trained.int8 is None:
            raise ValueError(
                "precision='int8' rounds with scales that are measured on training samples, and "
                "this estimator has none. Fit it with precision='int8', or call "
                "calibrate_int8(X) with training samples."
            )
        return self._make_engine(placed, prediction_dtype("auto", device), self.trained.int8.scales)

    def __getstate__(self) -> dict[str, Any]:
        # Engines are made again where the estimator is loaded; what a search shares stays with it.
        return vars(self) | {"shared": None, "_engines": {}}


def as_lazy_network(
    preprocessor: Any, net: ExitNet, exit_weights: NDArray[np.float64]
) -> LazyNetwork[Trained]:
    """Wrap a network that was just trained."""
    summary = Summary(
        net.module_.n_layers, preprocessor.sample_form, exit_weights, net.history_, net.stopped_by_
    )
    return ready(summary, Trained(preprocessor, net))


def check_end(net: ExitNet, is_clone: bool) -> None:
    """Warn that a training stopped before its end, or stop whoever asked for it.

    Parameters
    ----------
    net : ExitNet
    is_clone : bool
        Whether a search, a cross-validation or an ensemble fits the estimator.

    Raises
    ------
    KeyboardInterrupt
        If the training of a clone was interrupted: whoever fits it would go on, and take the
        network for one that was trained to its end.
    """
    if net.stopped_by_ == "interrupt":
        if is_clone:
            raise KeyboardInterrupt
        warnings.warn(
            f"Training was interrupted after step {net.n_steps_}; the estimator is fitted with "
            "what was learned so far.",
            ConvergenceWarning,
            stacklevel=level_of_caller(),
        )
    if net.stopped_by_ == "not finite":
        kept = (
            f"after step {net.n_kept_steps_}" if net.n_kept_steps_ else "from before the training"
        )
        warnings.warn(
            "The loss or its gradient became NaN or infinite at training step "
            f"{net.failed_step_}; training stopped there and keeps the weights {kept}, the last "
            "good ones that were saved. Lower learning_rate or raise warmup_ratio.",
            ConvergenceWarning,
            stacklevel=level_of_caller(),
        )


def warn_if_another_version(estimator: type, state: dict[str, Any]) -> None:
    """Warn that an estimator was pickled by another version of this package."""
    written_by = state.get(VERSION_KEY, "unknown")
    if written_by != __version__:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=f"{estimator.__name__} of sklearn_epee",
                current_sklearn_version=__version__,
                original_sklearn_version=written_by,
            ),
            stacklevel=3,
        )
