"""Tables of exit policies: candidates, their scores, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import (
    check_each,
    check_joint_exit,
    check_min_exit_layer,
    check_n_layers,
    check_patience,
    check_tau,
)
from .policy_scores import PolicyScore
from .staged import Floats
from .sweep import PolicySpace

# Columns of equal length, one entry per policy.
Table = dict[str, NDArray[Any]]

# Of the parameter `policies`.
_KEYS = ("tau", "patience", "min_exit_layer", "n_layers", "joint_exit")

# Scores and speed-ups are rounded before they are compared, because of rounding errors.
_DIGITS = 12

# Number of thresholds per patience if each needs a pass over the samples.
_N_TAUS_WHEN_COSTLY = 100


@dataclass(frozen=True)
class PolicyGrid:
    """Patience values, thresholds and numbers of layers to compare.

    Attributes
    ----------
    patiences : ndarray of int
        Ascending, from 1 to M.
    taus : ndarray of float, int or None
        Ascending thresholds, or the maximum number of quantiles of all thresholds, or None for all
        thresholds that give different exits.
    min_exit_layers : ndarray of int, or None
        Ascending, from 1 to M; None means that of the samples.
    last_layers : ndarray of int, or None
        Numbers of layers of the network, ascending, from 1 to M; None means M.
    joint_exits : tuple of str, or None
        Ways in which tasks, labels or words exit together; None means that of the samples.
    """

    patiences: NDArray[np.int64]
    taus: Floats | int | None
    min_exit_layers: NDArray[np.int64] | None = None
    last_layers: NDArray[np.int64] | None = None
    joint_exits: tuple[str, ...] | None = None

    @classmethod
    def from_parameter(cls, policies: Any, n_layers: int) -> PolicyGrid:
        """Create the grid from the parameter `policies` of the tuned classifier."""
        if not isinstance(policies, Mapping):
            policies = {"tau": policies}
        unknown = sorted(set(policies) - set(_KEYS), key=str)
        if unknown:
            raise ValueError(f"policies may have the keys {', '.join(_KEYS)}; got {unknown}.")
        patiences = _offered_layers(policies, "patience", check_patience, n_layers)
        first, last = (
            _offered_layers(policies, name, check, n_layers) if name in policies else None
            for name, check in (
                ("min_exit_layer", check_min_exit_layer),
                ("n_layers", check_n_layers),
            )
        )
        joint = _offered_joint_exits(policies["joint_exit"]) if "joint_exit" in policies else None
        return cls(patiences, _offered_taus(policies.get("tau", "all")), first, last, joint)

    def only_min_exit_layer(self, default: int) -> int:
        """Return the single `min_exit_layer` of the grid, or a default if there is none."""
        return default if self.min_exit_layers is None else int(self.min_exit_layers[0])

    def only_last_layer(self, default: int) -> int:
        """Return the single number of layers of the grid, or a default if there is none."""
        return default if self.last_layers is None else int(self.last_layers[0])

    def only_joint_exit(self, default: str) -> str:
        """Return the single `joint_exit` of the grid, or a default if there is none."""
        return default if self.joint_exits is None else self.joint_exits[0]

    def up_to(self, n_layers: int) -> PolicyGrid:
        """Return the grid for a network with so many layers: larger patience values are equal."""
        return replace(self, patiences=np.unique(np.minimum(self.patiences, n_layers)))

    def thresholds(self, space: PolicySpace, most: int | None = None) -> Floats | None:
        """Return the thresholds for these samples; `most` is the number of quantiles for "all"."""
        taus = most if self.taus is None else self.taus
        return space.quantile_taus(taus) if isinstance(taus, int) else taus


def _offered_layers(
    policies: Mapping[str, Any], name: str, check: Callable[[Any], Any], n_layers: int
) -> NDArray[np.int64]:
    """Return the patience values, or numbers of layers, of a parameter, from 1 to M."""
    values = policies.get(name, "all")
    if isinstance(values, str) and values == "all":
        return np.arange(1, n_layers + 1)
    if not _is_list(values):
        raise ValueError(
            f"policies[{name!r}] must be 'all' or a list of integers >= 1; got {values!r}."
        )

    def checked(value: Any) -> int:
        number = check(value)
        # None and numbers above M mean M.
        return n_layers if number is None else min(number, n_layers)

    return check_each(f"policies[{name!r}]", values, checked)


def _offered_taus(tau: Any) -> Floats | int | None:
    if isinstance(tau, str) and tau == "all":
        return None
    if isinstance(tau, Integral) and not isinstance(tau, bool) and int(tau) >= 1:
        return int(tau)
    if not _is_list(tau):
        raise ValueError(
            "policies['tau'] must be 'all', a number of quantiles >= 1 or a list of thresholds; "
            f"got {tau!r}."
        )
    return check_each("policies['tau']", tau, check_tau)


def _offered_joint_exits(values: Any) -> tuple[str, ...]:
    if not _is_list(values):
        raise ValueError(
            "policies['joint_exit'] must be a list with some of 'all', 'mean' and 'any'; "
            f"got {values!r}."
        )
    return tuple(dict.fromkeys(check_joint_exit(value) for value in values))


def _is_list(values: Any) -> bool:
    """Return whether values are a one-dimensional list or array that is not empty."""
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        return False
    return np.asarray(values, dtype=object).ndim == 1 and len(values) > 0


def policy_tables(
    space: PolicySpace,
    score: PolicyScore,
    offered: PolicyGrid,
    weights: Floats | None = None,
) -> Iterator[Table]:
    """Evaluate the policies of a grid, one table per patience.

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
        Columns "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score" and
        "speedup".
    """
    taus = offered.thresholds(space, None if score.is_cheap else _N_TAUS_WHEN_COSTLY)
    for patience in offered.up_to(space.last_layer).patiences:
        yield policy_table(space, score, int(patience), taus, weights)


def policy_table(
    space: PolicySpace,
    score: PolicyScore,
    patience: int,
    taus: Floats | None = None,
    weights: Floats | None = None,
) -> Table:
    """Evaluate the policies of one patience.

    Parameters
    ----------
    space : PolicySpace
    score : PolicyScore
    patience : int
    taus : ndarray of shape (n_taus,), default=None
        Ascending. None means all thresholds that give different exits.
    weights : ndarray of shape (n_samples,), default=None
        Sample weights for the speed-up.

    Returns
    -------
    dict of ndarray
        Columns "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score" and
        "speedup".
    """
    sweep = space.sweep(patience, taus)
    return {
        "tau": sweep.taus,
        "patience": np.full(len(sweep.taus), patience),
        "min_exit_layer": np.full(len(sweep.taus), space.min_exit_layer),
        "n_layers": np.full(len(sweep.taus), space.last_layer),
        "joint_exit": np.full(len(sweep.taus), space.joint_exit),
        "score": score(sweep),
        "speedup": space.speedups(sweep, weights),
    }


def pareto_front(tables: Iterable[Table], value: str = "score") -> Table:
    """Return the Pareto-optimal policies with respect to the speed-up and a score.

    Parameters
    ----------
    tables : iterable of dict of ndarray
    value : str, default="score"
        Column in which higher is better.

    Returns
    -------
    dict of ndarray
        From the slowest policy to the fastest, that is, from the highest value to the lowest. Of
        policies with equal speed-up and value, the most cautious one is kept: that with the most
        layers, then the largest patience, then the largest `min_exit_layer`, then the smallest tau,
        and the first one of those that are left. Policies with a value of NaN are left out.
    """
    return _front_of(concatenate(_front_of(table, value) for table in tables), value)


def _front_of(table: Table, value: str) -> Table:
    table = take(table, np.flatnonzero(~np.isnan(table[value])))
    values, speedups = (np.round(table[name], _DIGITS) for name in (value, "speedup"))
    # Tables of searches and of tested candidates do not have all columns; patience decides there.
    patience = table["patience"]
    first, last = (table.get(name, patience) for name in ("min_exit_layer", "n_layers"))
    order = np.lexsort((table["tau"], -first, -patience, -last, -values, -speedups))
    ranked = values[order]
    is_best = np.ones(len(order), dtype=bool)
    is_best[1:] = ranked[1:] > np.maximum.accumulate(ranked)[:-1]
    return take(table, order[is_best][::-1])


def concatenate(tables: Iterable[Table]) -> Table:
    """Concatenate the rows of tables with the same columns."""
    parts = list(tables)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(table: Table, rows: NDArray[Any]) -> Table:
    """Return some rows of a table."""
    return {name: column[rows] for name, column in table.items()}
