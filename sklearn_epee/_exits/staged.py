"""Staged predictions: predictions of every exit, and the values that the exit rule compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._checks.multilabel import labels_above

from .checks import (
    as_array,
    check_exit_ensemble,
    check_exit_loss_weights,
    check_joint_exit,
    check_label_thresholds,
    check_min_exit_layer,
)
from .missing_exits import available_exit_counters, exit_shares, fill, last_exits, read_tasks
from .rule import (
    combine_visited,
    first_exits,
    infinite_below,
    joint_counters,
    joint_entropies,
    label_entropies,
    may_exit,
    normalized_entropy,
    patience_counters,
    set_counters,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Entropy of layers at which the patience rule lets a sample exit: below any tau, including 0.
_BELOW_ANY_TAU = -1.0


@dataclass(frozen=True)
class StagedPredictions:
    """Probabilities of every exit for some samples: of one task, several tasks or several labels.

    For the exit rule, several labels are one task: their entropies are combined, and patience
    counts layers with the same set of labels. The probabilities of this task have one column per
    label.

    Attributes
    ----------
    head_proba : list of ndarray of shape (n_samples, n_layers, n_classes)
        Probabilities of the heads, one array per task. For several labels, a single array of shape
        (n_samples, n_layers, n_labels).
    entropies : ndarray of shape (n_samples, n_layers, n_tasks), float64
        Normalized entropies of `head_proba`.
    counters : ndarray of shape (n_samples, n_layers, n_tasks), int64
        Patience counters of the predictions of `head_proba`.
    label_thresholds : ndarray of shape (n_samples, n_labels), float64, or None
        Probability above which each label is predicted; None for tasks. One row per sample,
        because samples may come from the networks of several splits, with different thresholds.
    exit_ensemble : {None, "mean", "weighted"}
        How the probabilities of the visited exits are combined into a prediction.
    exit_loss_weights : str or array-like of shape (n_layers,)
        Used with "weighted" only.
    joint_exit : {"all", "any", "mean"}
        How several tasks exit together.
    own : ndarray of shape (n_samples, n_layers), bool, or None
        Which exits each sample has, see `available_exits`; None if all samples have all exits. At
        missing exits, `head_proba` is that of the nearest exit, entropies are infinite, and
        counters are 0.
    exit_shares : ndarray of shape (n_samples, n_layers), float64, or None
        Cost of exiting at each layer as a share of the cost of all exits that the sample has, see
        `missing_exits.exit_shares`; None if all samples have all exits and layers cost the same.
    min_exit_layer : int
        The first layer at which samples may exit.
    last_layer : int or None
        The layer at which all samples exit that did not before, as in a network that only has the
        first layers; None: layer M.
    """

    head_proba: list[NDArray[np.floating]]
    entropies: Floats
    counters: Integers
    exit_ensemble: str | None = None
    exit_loss_weights: Any = "ascending"
    joint_exit: str = "all"
    label_thresholds: Floats | None = None
    own: NDArray[np.bool_] | None = None
    exit_shares: Floats | None = None
    min_exit_layer: int = 1
    last_layer: int | None = None

    @classmethod
    def from_proba(
        cls,
        tasks: Sequence[ArrayLike],
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
        joint_exit: str = "all",
        *,
        min_exit_layer: int = 1,
    ) -> Self:
        """Create staged predictions from probabilities of one or several tasks.

        Parameters
        ----------
        tasks : sequence of array-like of shape (n_samples, n_layers, n_classes)
            One array per task, with the same samples and layers. NaN in all classes where a sample
            does not have an exit.
        exit_ensemble, exit_loss_weights, joint_exit, min_exit_layer
            See :func:`sklearn_epee.policy.apply_policy`.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """
        proba, own = read_tasks([_check_staged_shape(task) for task in tasks])
        shapes = [task.shape for task in proba]
        if len({shape[:2] for shape in shapes}) > 1:
            raise ValueError(
                "The tasks in proba must have the same samples and layers; got arrays of the "
                f"shapes {shapes}."
            )
        entropies = np.stack([normalized_entropy(task) for task in proba], axis=-1)
        counters = [_counters(patience_counters, task.argmax(axis=2), own) for task in proba]
        return cls(
            proba,
            _own_entropies(entropies.astype(np.float64), own),
            np.stack(counters, axis=-1),
            check_exit_ensemble(exit_ensemble),
            exit_loss_weights,
            check_joint_exit(joint_exit),
            own=own,
            exit_shares=None if own is None else exit_shares(own),
            min_exit_layer=check_min_exit_layer(min_exit_layer),
        )

    @classmethod
    def from_labels(
        cls,
        proba: ArrayLike,
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
        joint_exit: str = "all",
        label_thresholds: Any = None,
        *,
        min_exit_layer: int = 1,
    ) -> Self:
        """Create staged predictions from probabilities of several labels.

        Parameters
        ----------
        proba : array-like of shape (n_samples, n_layers, n_labels)
        exit_ensemble, exit_loss_weights, joint_exit, label_thresholds, min_exit_layer
            See :func:`sklearn_epee.policy.apply_policy`.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        """
        (checked,), own = read_tasks([_check_staged_shape(proba)])
        joint = check_joint_exit(joint_exit)
        thresholds = check_label_thresholds(label_thresholds, checked.shape[2])
        entropies = joint_entropies(label_entropies(checked).astype(np.float64), joint)
        return cls(
            [checked],
            _own_entropies(entropies[..., np.newaxis], own),
            _counters(set_counters, labels_above(checked, thresholds), own)[..., np.newaxis],
            check_exit_ensemble(exit_ensemble),
            exit_loss_weights,
            joint,
            np.tile(thresholds, (len(checked), 1)),
            own,
            None if own is None else exit_shares(own),
            check_min_exit_layer(min_exit_layer),
        )

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        return self.entropies.shape[0]

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.entropies.shape[1]

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return self.entropies.shape[2]

    @cached_property
    def proba(self) -> list[NDArray[np.floating]]:
        """Predicted probabilities if a sample exits at each layer, one array per task.

        Those of the layer's head or, with `exit_ensemble`, of all exits visited up to that layer.
        """
        if self.exit_ensemble is None:
            return self.head_proba
        weighting = self.exit_loss_weights if self.exit_ensemble == "weighted" else "uniform"
        return [
            combine_visited(
                proba,
                check_exit_loss_weights(weighting, self.n_layers, dtype=proba.dtype),
                self.own,
            )
            for proba in self.head_proba
        ]

    @cached_property
    def predictions(self) -> Integers:
        """Column of the class predicted at every layer, (n_samples, n_layers, n_tasks).

        For several labels: whether each label is predicted, 0 or 1, of shape (n_samples, n_layers,
        n_labels).
        """
        if self.label_thresholds is not None:
            return labels_above(self.proba[0], self.label_thresholds[:, np.newaxis])
        return np.stack([proba.argmax(axis=2) for proba in self.proba], axis=-1)

    @cached_property
    def joint_entropies(self) -> Floats:
        """Entropies to compare with tau, (n_samples, n_layers); inf where no exit is possible."""
        return self._from_min_exit(joint_entropies(self.entropies, self.joint_exit))

    @property
    def depends_on_patience(self) -> bool:
        """Whether the entropies that decide about exits depend on the patience.

        For one task, several labels, "any" and "mean", one entropy is compared with tau, and one
        counter with the patience. With "all" of several tasks, one task may meet the patience
        criterion, and another one the entropy criterion.
        """
        return self.joint_exit == "all" and self.n_tasks > 1

    def entropies_with(self, patience: int) -> Floats:
        """Return the entropies to compare with tau, for one patience.

        Parameters
        ----------
        patience : int

        Returns
        -------
        ndarray of shape (n_samples, n_layers), float64
            For "all" of several tasks -1, which is below any tau, where all tasks meet the patience
            criterion; tasks that meet it do not count for the largest entropy elsewhere. Otherwise
            `joint_entropies`, for any patience.
        """
        if not self.depends_on_patience:
            return self.joint_entropies
        numbers = np.where(self.counters >= patience, _BELOW_ANY_TAU, self.entropies)
        return self._from_min_exit(joint_entropies(numbers, self.joint_exit))

    def _from_min_exit(self, entropies: Floats) -> Floats:
        """Set entropies (n_samples, n_layers) to infinity below `min_exit_layer`."""
        return infinite_below(entropies, self.min_exit_layer)

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Return the exit layer of each sample, from 1 to M.

        Parameters
        ----------
        tau : float
        patience : int

        Returns
        -------
        ndarray of shape (n_samples,), int64
        """
        allowed = may_exit(self.entropies, self.counters, tau, patience, self.joint_exit)
        return first_exits(allowed, self._last_exits, self.min_exit_layer)

    def patience_exits(self, patience: int) -> Integers:
        """Return the exit layer of each sample by the patience rule alone, that is, ``tau=0``."""
        allowed = joint_counters(self.counters, self.joint_exit) >= patience
        return first_exits(allowed, self._last_exits, self.min_exit_layer)

    @cached_property
    def _last_exits(self) -> Integers | None:
        """The last exit of each sample, (n_samples,); None if it is layer M for all."""
        if self.own is None and self.last_layer is None:
            return None
        own = np.full(self.n_samples, self.n_layers) if self.own is None else last_exits(self.own)
        return own if self.last_layer is None else np.minimum(own, self.last_layer)

    def with_costs(
        self, exit_costs: Floats | None = None, n_tower_layers: Sequence[int] | None = None
    ) -> Self:
        """Return the same predictions with exit costs of their classifier.

        Parameters
        ----------
        exit_costs, n_tower_layers
            See `missing_exits.exit_shares`.
        """
        own = np.ones(self.entropies.shape[:2], dtype=bool) if self.own is None else self.own
        return replace(self, exit_shares=exit_shares(own, exit_costs, n_tower_layers))

    @staticmethod
    def layer_weights(weights: Floats | None = None) -> Floats | None:
        """Return how much each sample counts in the speed-up ratio: its sample weight."""
        return weights

    def speedup(self, exits: Integers) -> float:
        """Return the speed-up ratio of samples that exit at these layers.

        Parameters
        ----------
        exits : ndarray of shape (n_samples,), int64

        Notes
        -----
        Computed from the costs of the exits if they are known, from the number of layers otherwise.
        """
        if self.exit_shares is None:
            return float(1.0 - exits.mean() / self.n_layers)
        return float(1.0 - self.exit_shares[np.arange(len(exits)), exits - 1].mean())

    @property
    def head_entropies(self) -> Floats:
        """Entropies of `head_proba`, also at missing exits, (n_samples, n_layers, n_tasks)."""
        return self.entropies if self.own is None else fill(self.entropies, self.own)

    def proba_at(self, exits: Integers) -> list[NDArray[np.floating]]:
        """Return the predicted probabilities at exit layers, (n_samples, n_classes) per task."""
        rows = np.arange(len(exits))
        return [proba[rows, exits - 1] for proba in self.proba]

    def visited(self, exits: Integers) -> NDArray[np.bool_]:
        """Return which exits are visited, (n_samples, n_layers), given the exit layers."""
        visited = np.arange(1, self.n_layers + 1) <= exits[:, np.newaxis]
        return visited if self.own is None else visited & self.own

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the samples."""
        return replace(
            self,
            head_proba=[proba[rows] for proba in self.head_proba],
            entropies=self.entropies[rows],
            counters=self.counters[rows],
            label_thresholds=None if self.label_thresholds is None else self.label_thresholds[rows],
            own=None if self.own is None else self.own[rows],
            exit_shares=None if self.exit_shares is None else self.exit_shares[rows],
        )

    def with_classes(self, columns: Sequence[Integers], counts: Sequence[int]) -> Self:
        """Return the same predictions with columns for more classes, whose probability is 0.

        Entropies and counters are unchanged, so exits are too. For several labels, the additional
        labels are never predicted.

        Parameters
        ----------
        columns : sequence of ndarray of shape (n_classes,), int
            Per task, the new column of each class.
        counts : sequence of int
            Per task, the new number of classes.

        Returns
        -------
        StagedPredictions
        """
        wider = []
        for proba, column, count in zip(self.head_proba, columns, counts, strict=True):
            wide = np.zeros((*proba.shape[:2], count), dtype=proba.dtype)
            wide[..., column] = proba
            wider.append(wide)
        thresholds = self.label_thresholds
        if thresholds is not None:
            thresholds = np.full((self.n_samples, counts[0]), 0.5)
            thresholds[:, columns[0]] = self.label_thresholds
        return replace(self, head_proba=wider, label_thresholds=thresholds)

    @classmethod
    def concatenate(cls, parts: Sequence[StagedPredictions]) -> StagedPredictions:
        """Concatenate the predictions of several parts along the samples."""
        if len(parts) == 1:
            return parts[0]
        tasks = zip(*(part.head_proba for part in parts), strict=True)
        thresholds = [part.label_thresholds for part in parts if part.label_thresholds is not None]
        layers = np.arange(1.0, parts[0].n_layers + 1) / parts[0].n_layers
        return replace(
            parts[0],
            head_proba=[np.concatenate(task) for task in tasks],
            entropies=np.concatenate([part.entropies for part in parts]),
            counters=np.concatenate([part.counters for part in parts]),
            label_thresholds=np.concatenate(thresholds) if thresholds else None,
            own=_joined([part.own for part in parts], parts, True),
            exit_shares=_joined([part.exit_shares for part in parts], parts, layers),
        )


def _joined(
    arrays: Sequence[NDArray[Any] | None], parts: Sequence[StagedPredictions], default: Any
) -> NDArray[Any] | None:
    """Concatenate arrays (n_samples, n_layers), with a default for None; None if all are None."""
    if all(array is None for array in arrays):
        return None
    return np.concatenate([
        np.broadcast_to(default, part.entropies.shape[:2]) if array is None else array
        for array, part in zip(arrays, parts, strict=True)
    ])  # fmt: skip


def _own_entropies(entropies: Floats, own: NDArray[np.bool_] | None) -> Floats:
    """Set entropies (n_samples, n_layers, n_tasks) to infinity where a sample has no exit."""
    return entropies if own is None else np.where(own[..., np.newaxis], entropies, np.inf)


def _counters(
    count: Callable[[NDArray[Any]], Integers],
    predictions: NDArray[Any],
    own: NDArray[np.bool_] | None,
) -> Integers:
    """Count patience over the exits that each sample has, (n_samples, n_layers)."""
    return count(predictions) if own is None else available_exit_counters(count, predictions, own)


def _check_staged_shape(proba: ArrayLike) -> NDArray[Any]:
    """Return an array of shape (n_samples, n_layers, n_classes), or raise."""
    array = as_array("proba", proba)
    if array.ndim != 3 or array.shape[1] == 0:
        raise ValueError(
            "proba must have shape (n_samples, n_layers, n_classes) with at least one layer; "
            f"got an array of shape {array.shape}."
        )
    return array
