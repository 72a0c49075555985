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

# Key of this package's version in the state of a pickled estimator.
VERSION_KEY = "_sklearn_epee_version"


@dataclass(frozen=True)
class Trained:
    """Result of a training, as it is kept in the store."""

    preprocessor: Any
    net: ExitNet
    int8: MeasuredInt8 | None = None
    """8-bit scales of the layers and their report, if they were measured."""


@dataclass(frozen=True)
class Summary:
    """Facts about a trained network that are available without reading it from the store."""

    n_layers: int
    sample_form: Any
    exit_weights: NDArray[np.float64]
    history: Any
    stopped_by: str | None

    @property
    def is_complete(self) -> bool:
        """Whether the training was completed."""
        return self.stopped_by in (None, "early stopping")


class FittedState:
    """Everything that a prediction needs from a fit.

    A new fit replaces this object as a whole, and every prediction reads it once. So a prediction
    during a fit of another thread uses one network together with its own classes.

    Parameters
    ----------
    network : LazyNetwork of Trained
    tasks : Tasks or TagLayers
        The classes; converts probabilities to labels.
    shared : SharedPredictions or None
        The predictions that the candidates of a search share.
    make_engine : callable, default=Engine
        Called with a network in inference mode and the data type of its layers.
    """

    # For states that were pickled before `make_engine` existed.
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
        """Facts about the network that are available without reading it."""
        summary: Summary = self.network.summary
        return summary

    @property
    def trained(self) -> Trained:
        """The network and its preprocessor, read from the store at the first call."""
        return self.network.get()

    def engine(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the engine for a device and precision, created at the first call.

        Parameters
        ----------
        device : torch.device
        dtype : torch.dtype
            With ``torch.int8``, only matrix products that were found accurate enough use 8 bits.

        Raises
        ------
        ValueError
            If 8-bit scales were not measured.
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
                "precision='int8' needs scales that are measured on training samples, and this "
                "estimator has none. Fit it with precision='int8', or call calibrate_int8(X) "
                "with training samples."
            )
        return self._make_engine(placed, prediction_dtype("auto", device), self.trained.int8.scales)

    def __getstate__(self) -> dict[str, Any]:
        # Engines are created again after loading; shared predictions only exist within a search.
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
    """Warn if a training was interrupted or stopped early by an error; raise in a search.

    Parameters
    ----------
    net : ExitNet
    is_clone : bool
        Whether a search, a cross-validation or an ensemble fits the estimator.

    Raises
    ------
    KeyboardInterrupt
        If the training of a clone was interrupted. Otherwise the search would continue and treat
        the network as completely trained.
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
