"""What every exit would answer in several tasks, and what decides whether a sample leaves there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._joint import (
    check_joint_exit,
    effective_entropies,
    joint_counters,
    joint_entropies,
)

from ._policy_space import Floats, Integers, StagedProbabilities


@dataclass(frozen=True)
class JointPredictions:
    """The answers of several tasks, whose samples leave together; see `StagedProbabilities`.

    Attributes
    ----------
    tasks : sequence of StagedProbabilities
        Of the same samples and layers.
    joint_exit : {"all", "any", "mean"}
    """

    tasks: Sequence[StagedProbabilities]
    joint_exit: str

    @classmethod
    def from_proba(
        cls,
        proba: Sequence[NDArray[np.floating]],
        joint_exit: str,
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
    ) -> Self:
        """Read staged probabilities, one array of shape (n_samples, n_layers, n_classes) a task."""
        tasks = [
            StagedProbabilities.from_proba(one, exit_ensemble, exit_loss_weights) for one in proba
        ]
        return cls(tasks, check_joint_exit(joint_exit))

    @property
    def n_samples(self) -> int:
        """Number of samples n."""
        return self.tasks[0].n_samples

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.tasks[0].n_layers

    @property
    def depends_on_patience(self) -> bool:
        """Whether the entropies that count change with the patience.

        "any" and "mean" are a threshold on an entropy or on a counter, each joined over the tasks.
        With "all", one task may be ready by its patience and another by its entropy.
        """
        return self.joint_exit == "all"

    @cached_property
    def entropies(self) -> Floats:
        """Entropies of the joint rule, of shape (n_samples, n_layers)."""
        return joint_entropies(self._stacked("entropies"), self.joint_exit)

    @cached_property
    def counters(self) -> Integers:
        """Counters of the joint rule, of shape (n_samples, n_layers)."""
        return joint_counters(self._stacked("counters"), self.joint_exit)

    @cached_property
    def predictions(self) -> Integers:
        """Columns of the classes answered, of shape (n_samples, n_layers, n_tasks)."""
        return self._stacked("predictions")

    def entropies_with(self, patience: int) -> Floats:
        """Give the entropies that count with a patience; -1 where it lets a sample leave."""
        return effective_entropies(
            self._stacked("entropies"), self._stacked("counters"), patience, self.joint_exit
        )

    def answered(self, exits: Integers) -> list[NDArray[np.floating]]:
        """Give the probabilities answered with, one array a task, by exit layers."""
        return [task.answered(exits) for task in self.tasks]

    def take(self, rows: NDArray[np.intp]) -> JointPredictions:
        """Give some of the samples."""
        return JointPredictions([task.take(rows) for task in self.tasks], self.joint_exit)

    def exit_layers(self, tau: float, patience: int) -> Integers:
        """Give the layer at which each sample leaves, from 1 to M."""
        leaves = self.entropies_with(patience) < tau
        leaves[:, -1] = True
        return leaves.argmax(axis=1) + 1

    def _stacked(self, name: str) -> NDArray[Any]:
        return np.stack([getattr(task, name) for task in self.tasks], axis=-1)
