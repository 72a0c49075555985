"""Select one policy from a table of policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from sklearn_epee._exits.search_results import TIE
from sklearn_epee._exits.tables import Table, pareto_front, take

Objective = Callable[[Table], int]


@dataclass(frozen=True)
class SelectionCriterion:
    """The objective and the constraints of the chosen policy.

    Attributes
    ----------
    objective : {"max_score", "max_speedup"} or callable
        What to maximize among the policies that meet the constraints below, or a function that
        takes the table of these policies and returns the row of one of them.
    min_speedup : float or None
    max_drop : float or None
        Largest allowed difference between the scores of full depth and of the policy.
    """

    objective: str | Objective
    min_speedup: float | None = None
    max_drop: float | None = None

    def choose(self, table: Table, full_depth: float, n_layers: int) -> dict[str, Any]:
        """Return the row of the chosen policy as a dict.

        Parameters
        ----------
        table : dict of ndarray
            Policies, with columns "score", "speedup" and others.
        full_depth : float
            Score at full depth.
        n_layers : int

        Raises
        ------
        ValueError
            If no policy meets the constraints, or a callable objective does not return a row of its
            table.
        """
        if not callable(self.objective):
            table = pareto_front([table])  # the best policy is on the front
        eligible = self._eligible(table, full_depth, n_layers)
        row = self._row(eligible)
        return {name: column[row].item() for name, column in eligible.items()}

    def _eligible(self, table: Table, full_depth: float, n_layers: int) -> Table:
        fast = np.ones(len(table["score"]), dtype=bool)
        if self.min_speedup is not None:
            fast = table["speedup"] >= self.min_speedup - TIE
        if not fast.any():
            raise ValueError(self._too_fast(table, n_layers))
        close = fast
        if self.max_drop is not None:
            close = fast & (table["score"] >= full_depth - self.max_drop - TIE)
        if not close.any():
            raise ValueError(self._too_good(take(table, fast), full_depth))
        return take(table, close)

    def _row(self, table: Table) -> int:
        if callable(self.objective):
            return _checked_row(self.objective(table), len(table["score"]))
        # The Pareto front is sorted from the highest score to the highest speed-up.
        return 0 if self.objective == "max_score" else -1

    def _too_fast(self, table: Table, n_layers: int) -> str:
        if not len(table["speedup"]):
            return "No policy has a score: all are NaN."
        return (
            f"min_speedup={self.min_speedup} cannot be reached: with {n_layers} layers the "
            f"speed-up ratio lies between 0 and 1 - 1/{n_layers} = {1 - 1 / n_layers:.4f}, "
            f"and the fastest policy to choose from has {table['speedup'].max():.4f}."
        )

    def _too_good(self, fast: Table, full_depth: float) -> str:
        among = "to choose from"
        if self.min_speedup is not None:
            among = f"with a speed-up ratio of at least min_speedup={self.min_speedup}"
        best = fast["score"].max()
        return (
            f"max_accuracy_drop={self.max_drop} cannot be met: the best score of the policies "
            f"{among} is {best:.4f}, {full_depth - best:.4f} below full depth ({full_depth:.4f})."
        )


def _checked_row(row: Any, n_rows: int) -> int:
    if isinstance(row, bool) or not isinstance(row, Integral) or not 0 <= int(row) < n_rows:
        raise ValueError(
            f"objective must return the row of one of the {n_rows} policies in its table, an "
            f"integer from 0 to {n_rows - 1}; got {row!r}."
        )
    return int(row)
