"""Calls of scikit-learn's callbacks during a fit and its epochs (scikit-learn 1.9 and newer)."""

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

# The name of the callback by which skorch tells of the epochs.
NAME = "scikit_learn"


@dataclass(frozen=True)
class Snapshot:
    """A network in the middle of its training, where a trained net is expected."""

    module_: MultiExitNetwork
    history_: Any
    stopped_by_: None = None


class FitTasks:
    """The tree of tasks of one fit: the fit itself, and below it its epochs.

    A network that a search has trained before is fetched: a fit without epochs.

    Parameters
    ----------
    estimator : BaseEPEE
    X : samples
    y : labels
    sample_weight : array-like or None
        As given to `fit`; callbacks are handed all three.
    is_told : bool, default=True
        False tells nobody: callbacks report, and of several processes one does.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        *,
        is_told: bool = True,
    ) -> None:
        self._estimator = estimator
        self._is_told = is_told
        self._told: dict[str, Any] = {"estimator": estimator, "X": X, "y": y}
        if sample_weight is not None:
            self._told["metadata"] = {"sample_weight": sample_weight}
        self._root: Any = None

    @property
    def has_callbacks(self) -> bool:
        """Whether anybody listens: the estimator, or a meta-estimator that fits it."""
        found = vars(self._estimator)
        listens = bool(found.get("_skl_callbacks")) or "_parent_callback_ctx" in found
        return listens and self._is_told

    def epochs(
        self, max_epochs: int, attributes: Callable[[Any], dict[str, Any]]
    ) -> list[tuple[str, Callback]]:
        """Begin a fit that trains; return the skorch callbacks that tell of its epochs.

        Parameters
        ----------
        max_epochs : int
        attributes : callable
            Returns the fitted attributes of an estimator with the network of a `Snapshot`.
        """
        if not self.has_callbacks:
            return []
        self._begin(max_epochs)
        return [(NAME, _EpochTasks(self._root, self._told, attributes))]

    def end(self, attributes: Callable[[], dict[str, Any]]) -> None:
        """Call the callbacks at the end of the fit; at its beginning, too, if it was fetched."""
        if not self.has_callbacks:
            return
        if self._root is None:
            self._begin(0)
        if self._root is not None:
            self._root.call_on_fit_task_end(**self._told, reconstruction_attributes=attributes)

    def _begin(self, max_epochs: int) -> None:
        self._root = begin_fit_task(self._estimator, max_epochs)
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._told)


class _EpochTasks(Callback):
    """Tells scikit-learn's callbacks of each epoch, and stops when one of them asks for it."""

    def __init__(
        self, root: Any, told: dict[str, Any], attributes: Callable[[Any], dict[str, Any]]
    ) -> None:
        self.root = root
        self.told = told
        self.attributes = attributes

    def on_epoch_begin(self, net: ExitNet, **_: Any) -> None:  # noqa: ARG002 - skorch's signature
        """Call the callbacks at the beginning of an epoch."""
        self.task_ = self.root.subcontext(task_name="epoch")
        self.task_.call_on_fit_task_begin(**self.told)

    def on_epoch_end(self, net: ExitNet, **_: Any) -> None:
        """Call the callbacks at the end of an epoch, with the estimator as it would be after it."""

        def attributes() -> dict[str, Any]:
            snapshot = Snapshot(copy.deepcopy(net.module_), copy.deepcopy(net.history_))
            return self.attributes(snapshot)

        if self.task_.call_on_fit_task_end(**self.told, reconstruction_attributes=attributes):
            raise StopTrainingError
