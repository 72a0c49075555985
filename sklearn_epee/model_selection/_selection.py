"""Tables of exit policies: which are offered, which are on the Pareto front, which is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee.policy import check_patience, check_tau

from ._policy_scores import PolicyScore
from ._policy_space import Floats, PolicySpace

# Columns of equal length, one entry a policy.
Table = dict[str, NDArray[Any]]
Objective = Callable[[Table], int]

# Scores and speed-ups that are equal on paper differ in their last digits.
_TIE = 1e-9
_DIGITS = 12

# Thresholds a patience when every one of them costs a pass over the samples.
_N_TAUS_WHEN_COSTLY = 100


@dataclass(frozen=True)
class PolicyGrid:
    """Which patience values and thresholds are to be compared.

    Attributes
    ----------
    patiences : ndarray of int
        Ascending, from 1 to M.
    taus : ndarray of float, int or None
        Ascending thresholds; at most so many quantiles; or all thresholds that matter.
    """

    patiences: NDArray[np.int64]
    taus: Floats | int | None

    @classmethod
    def from_parameter(cls, policies: Any, n_layers: int) -> PolicyGrid:
        """Read the parameter `policies` of the tuned classifier, or refuse it."""
        if not isinstance(policies, Mapping):
            policies = {"tau": policies}
        unknown = sorted(set(policies) - {"tau", "patience"})
        if unknown:
            raise ValueError(f"policies may have the keys 'tau' and 'patience'; got {unknown}.")
        patiences = _offered_patiences(policies.get("patience", "all"), n_layers)
        return cls(patiences, _offered_taus(policies.get("tau", "all")))

    def thresholds(self, space: PolicySpace, most: int | None = None) -> Floats | None:
        """Give the thresholds for these samples; `most` replaces "all" by so many quantiles."""
        taus = most if self.taus is None else self.taus
        return space.quantile_taus(taus) if isinstance(taus, int) else taus


def _offered_patiences(patience: Any, n_layers: int) -> NDArray[np.int64]:
    if isinstance(patience, str) and patience == "all":
        return np.arange(1, n_layers + 1)
    if isinstance(patience, str) or np.ndim(patience) != 1 or not len(patience):
        raise ValueError(
            f"policies['patience'] must be 'all' or a list of integers >= 1; got {patience!r}."
        )
    # A patience above the number of layers never fires, as that of the number of layers.
    counts = [min(check_patience(value, n_layers), n_layers) for value in patience]
    return np.unique(counts)


def _offered_taus(tau: Any) -> Floats | int | None:
    if isinstance(tau, str) and tau == "all":
        return None
    if isinstance(tau, Integral) and not isinstance(tau, bool) and int(tau) >= 1:
        return int(tau)
    if isinstance(tau, (str, bool)) or np.ndim(tau) != 1 or not len(tau):
        raise ValueError(
            "policies['tau'] must be 'all', a number of quantiles >= 1 or a list of thresholds; "
            f"got {tau!r}."
        )
    return np.unique([check_tau(value) for value in tau])


def policy_tables(
    space: PolicySpace,
    score: PolicyScore,
    offered: PolicyGrid,
    weights: Floats | None = None,
) -> Iterator[Table]:
    """Evaluate the offered policies, one table a patience.

    Parameters
    ----------
    space : PolicySpace
    score : PolicyScore
    offered : PolicyGrid
    weights : ndarray of shape (n_samples,), default=None
        Sample weights for the speed-up.

    Yields
    ------
    dict of ndarray
        Columns "tau", "patience", "score" and "speedup".
    """
    taus = offered.thresholds(space, None if score.is_cheap else _N_TAUS_WHEN_COSTLY)
    total = space.answers.n_samples if weights is None else float(weights.sum())
    for patience in offered.patiences:
        sweep = space.sweep(int(patience), taus)
        yield {
            "tau": sweep.taus,
            "patience": np.full(len(sweep.taus), patience),
            "score": score(sweep),
            "speedup": 1.0 - sweep.total_layers(weights) / (total * space.n_layers),
        }


def pareto_front(tables: Iterable[Table], value: str = "score") -> Table:
    """Find the policies that no other one matches in speed and value and beats in one of them.

    Parameters
    ----------
    tables : iterable of dict of ndarray
    value : str, default="score"
        Column in which higher is better.

    Returns
    -------
    dict of ndarray
        From the slowest policy to the fastest, which is from the highest value to the lowest. Of
        policies that tie in both the most cautious is kept: the one with the largest patience, then
        with the smallest tau. A value of NaN is on no front.
    """
    return _front_of(concatenate(_front_of(table, value) for table in tables), value)


def _front_of(table: Table, value: str) -> Table:
    table = take(table, np.flatnonzero(~np.isnan(table[value])))
    values, speedups = (np.round(table[name], _DIGITS) for name in (value, "speedup"))
    order = np.lexsort((table["tau"], -table["patience"], -values, -speedups))
    ranked = values[order]
    is_best = np.ones(len(order), dtype=bool)
    is_best[1:] = ranked[1:] > np.maximum.accumulate(ranked)[:-1]
    return take(table, order[is_best][::-1])


def concatenate(tables: Iterable[Table]) -> Table:
    """Put tables of the same columns below each other."""
    parts = list(tables)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(table: Table, rows: NDArray[Any]) -> Table:
    """Give some rows of a table."""
    return {name: column[rows] for name, column in table.items()}


@dataclass(frozen=True)
class SelectionCriterion:
    """What the chosen policy has to be.

    Attributes
    ----------
    objective : {"max_score", "max_speedup"} or callable
        What is largest among the policies that meet the other wishes, or a function that takes
        their table and gives the row of one of them.
    min_speedup : float or None
    max_drop : float or None
        How far below the score of full depth is accepted.
    """

    objective: str | Objective
    min_speedup: float | None = None
    max_drop: float | None = None

    def choose(self, table: Table, full_depth: float, n_layers: int) -> dict[str, Any]:
        """Give the columns' values of the chosen policy.

        Parameters
        ----------
        table : dict of ndarray
            The policies to choose from, with columns "score" and "speedup" among others.
        full_depth : float
            Score at full depth.
        n_layers : int

        Raises
        ------
        ValueError
            If no policy meets the wishes, or a callable objective gives no row of its table.
        """
        if not callable(self.objective):
            table = pareto_front([table])  # the best one is on it
        eligible = self._eligible(table, full_depth, n_layers)
        row = self._row(eligible)
        return {name: column[row].item() for name, column in eligible.items()}

    def _eligible(self, table: Table, full_depth: float, n_layers: int) -> Table:
        fast = np.ones(len(table["score"]), dtype=bool)
        if self.min_speedup is not None:
            fast = table["speedup"] >= self.min_speedup - _TIE
        if not fast.any():
            raise ValueError(self._too_fast(table, n_layers))
        close = fast
        if self.max_drop is not None:
            close = fast & (table["score"] >= full_depth - self.max_drop - _TIE)
        if not close.any():
            raise ValueError(self._too_good(take(table, fast), full_depth))
        return take(table, close)

    def _row(self, table: Table) -> int:
        if callable(self.objective):
            return _checked_row(self.objective(table), len(table["score"]))
        # A front is ordered: the slowest has the highest score.
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
