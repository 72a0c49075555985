"""Call scikit-learn's callbacks during a fit and its epochs (scikit-learn 1.9 and newer)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike
from skorch.callbacks import Callback

from sklearn_epee._compat import begin_fit_task
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.training import ExitNet, StopTrainingError

# Name of the skorch callback that calls scikit-learn's callbacks.
NAME = "scikit_learn"


@dataclass(frozen=True)
class Snapshot:
    """A copy of a network during training, with the attributes of a trained net."""

    module_: MultiExitNetwork
    history_: Any
    stopped_by_: None = None


class FitTasks:
    """The task tree of one fit for scikit-learn's callbacks: the fit, and its epochs below it.

    If the network is loaded because the search has already trained it, the fit has no epochs.

    Parameters
    ----------
    estimator : BaseEPEE
    X : samples
    y : labels
    sample_weight : array-like or None
        As given to `fit`; all three are passed to the callbacks.
    is_active : bool, default=True
        False: callbacks are not called. With several processes, only one calls them.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        *,
        is_active: bool = True,
    ) -> None:
        self._estimator = estimator
        self._is_active = is_active
        self._arguments: dict[str, Any] = {"estimator": estimator, "X": X, "y": y}
        if sample_weight is not None:
            self._arguments["metadata"] = {"sample_weight": sample_weight}
        self._root: Any = None

    @property
    def has_callbacks(self) -> bool:
        """Whether the estimator, or a meta-estimator that fits it, has callbacks."""
        attributes = vars(self._estimator)
        found = bool(attributes.get("_skl_callbacks")) or "_parent_callback_ctx" in attributes
        return found and self._is_active

    def epochs(
        self, max_epochs: int, attributes: Callable[[Any], dict[str, Any]]
    ) -> list[tuple[str, Callback]]:
        """Begin a fit that trains; return skorch callbacks that report its epochs.

        Parameters
        ----------
        max_epochs : int
        attributes : callable
            Takes a `Snapshot` and returns the fitted attributes of an estimator with its network.
        """
        if not self.has_callbacks:
            return []
        self._begin(max_epochs)
        return [(NAME, _EpochTasks(self._root, self._arguments, attributes))]

    def end(self, attributes: Callable[[], dict[str, Any]]) -> None:
        """Call the callbacks at the end of the fit, and at its beginning if that was not done."""
        if not self.has_callbacks:
            return
        if self._root is None:
            self._begin(0)
        if self._root is not None:
            self._root.call_on_fit_task_end(**self._arguments, reconstruction_attributes=attributes)

    def _begin(self, max_epochs: int) -> None:
        self._root = begin_fit_task(self._estimator, max_epochs)
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._arguments)


class _EpochTasks(Callback):
    """Calls scikit-learn's callbacks in each epoch, and stops training if one requests it."""

    def __init__(
        self, root: Any, arguments: dict[str, Any], attributes: Callable[[Any], dict[str, Any]]
    ) -> None:
        self.root = root
        self.arguments = arguments
        self.attributes = attributes

    def on_epoch_begin(self, net: ExitNet, **_: Any) -> None:  # noqa: ARG002 - skorch's signature
        """Call the callbacks at the beginning of an epoch."""
        self.task_ = self.root.subcontext(task_name="epoch")
        self.task_.call_on_fit_task_begin(**self.arguments)

    def on_epoch_end(self, net: ExitNet, **_: Any) -> None:
        """Call the callbacks at the end of an epoch, with the fitted attributes so far."""

        def attributes() -> dict[str, Any]:
            snapshot = Snapshot(copy.deepcopy(net.module_), copy.deepcopy(net.history_))
            return self.attributes(snapshot)

        if self.task_.call_on_fit_task_end(**self.arguments, reconstruction_attributes=attributes):
            raise StopTrainingError
