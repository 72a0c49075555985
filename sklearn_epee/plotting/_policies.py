"""Exit policies with their scores: all policies on given samples, or those of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import get_scorer_names

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._compat import scorer_parts
from sklearn_epee._exits.checks import check_each, check_n_layers, check_patience, check_tau
from sklearn_epee._exits.multilabel_scores import LabelAveragePrecision
from sklearn_epee._exits.policy_scores import EXACT_SCORES, PolicyScore, exact_score
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import Table, concatenate, policy_table, take
from sklearn_epee._exits.wrappers import chain
from sklearn_epee._spans import SpanF1Scorer
from sklearn_epee._word_exits import word_score

from ._sentences import DisplaySentences
from ._staged import DisplaySamples


def make_score(scoring: Any, samples: DisplaySamples | DisplaySentences) -> PolicyScore:
    """Return the function that scores policies on the samples.

    Parameters
    ----------
    scoring : str or scorer
    samples : DisplaySamples, or DisplaySentences

    Raises
    ------
    ValueError
        If the score needs more than the predicted labels.
    """
    if isinstance(samples, DisplaySentences):
        return word_score(scoring, samples.counts, samples.right_words)
    tasks = Tasks(samples.classes, samples.multilabel)
    score = exact_score(scoring, tasks) if _is_scoring(scoring) else None
    if score is LabelAveragePrecision or score is None:
        raise ValueError(
            f"scoring must be one of {list(EXACT_SCORES)}, or another precision, recall, F or "
            "Jaccard score that fits the classes: the name of a scorer, such as 'f1_micro', or "
            "make_scorer(f1_score, labels=[...], average='micro'); got "
            f"{scoring!r}."
        )
    return score(
        samples.staged, samples.codes if samples.multilabel else samples.codes[:, np.newaxis]
    )


def _is_scoring(scoring: Any) -> bool:
    return scoring in get_scorer_names() if isinstance(scoring, str) else callable(scoring)


def score_name(scoring: Any) -> str:
    """Return the name of a score for figures."""
    if isinstance(scoring, str):
        return scoring
    if isinstance(scoring, SpanF1Scorer):
        return "span_f1" if scoring.layer is None else f"span_f1_{scoring.layer}"
    parts = scorer_parts(scoring)
    name = getattr(scoring if parts is None else parts.function, "__name__", str(scoring))
    return name.removesuffix("_score")


def policy_grid(
    space: PolicySpace, score: PolicyScore, taus: ArrayLike, patiences: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], Table]:
    """Return the scores of every pair of a threshold and a patience.

    Returns
    -------
    taus : ndarray of shape (n_taus,)
        Ascending, without duplicates.
    patiences : ndarray of shape (n_patiences,)
        Ascending, without duplicates.
    table : dict of ndarray
        Sorted by patience.
    """
    thresholds = check_each("taus", taus, check_tau)
    counts = check_each(
        "patiences", patiences, lambda patience: check_patience(patience, space.n_layers)
    )
    tables = [policy_table(space, score, int(count), thresholds) for count in counts]
    return thresholds, counts, concatenate(tables)


@dataclass(frozen=True)
class SearchedPolicies:
    """The policies of a search, with their mean scores over the folds.

    Attributes
    ----------
    table : dict of ndarray
        Columns "tau", "patience" (M instead of None), "score" and "speedup", one row per
        candidate.
    best : int or None
        Row of the chosen candidate.
    n_layers : int or None
        Number of layers M, if known.
    """

    table: Table
    best: int | None
    n_layers: int | None

    @classmethod
    def from_search(
        cls, search: Any, *, metric: str, speedup: str, n_layers: int | None
    ) -> SearchedPolicies:
        """Return the policies of a fitted search over tau and patience, or of its ``cv_results_``.

        Raises
        ------
        TypeError
            If `search` is neither fitted nor a mapping.
        ValueError
            If a parameter or a score is missing, other parameters vary as well, or there is
            ``patience=None`` and the number of layers is unknown.
        """
        results = search if isinstance(search, Mapping) else getattr(search, "cv_results_", None)
        if results is None:
            raise TypeError(
                "search must be a fitted search over tau and patience, such as GridSearchCV, or "
                f"its cv_results_; got {type(search).__name__} without cv_results_."
            )
        n_layers = _layers_of(search) if n_layers is None else check_n_layers(n_layers)
        columns = {name: _policy_column(results, name) for name in ("tau", "patience")}
        _check_nothing_else(results, set(columns.values()))
        patiences = [_known(value, n_layers) for value in results[columns["patience"]]]
        table = {
            "tau": np.array([check_tau(value) for value in results[columns["tau"]]]),
            "patience": np.array(patiences),
            "score": _mean_scores(results, metric, "metric"),
            "speedup": _mean_scores(results, speedup, "speedup"),
        }
        return cls(table, getattr(search, "best_index_", None), n_layers)

    def rows(self, chosen: NDArray[np.bool_]) -> Table:
        """Return some of the candidates, from the slowest to the fastest."""
        part = take(self.table, np.flatnonzero(chosen))
        return take(part, np.argsort(part["speedup"], kind="stable"))


def _layers_of(search: Any) -> int | None:
    """Return the number of layers of the refitted estimator of a search; None if there is none."""
    if not hasattr(search, "best_estimator_"):
        return None
    links = chain(search.best_estimator_)
    return next((int(link.n_layers_) for link in links if hasattr(link, "n_layers_")), None)


def _policy_column(results: Mapping[str, Any], name: str) -> str:
    """Return the column of a parameter, which can be that of a step of a pipeline."""
    found = [key for key in results if _is_parameter(key) and _last_part(key) == name]
    if len(found) != 1:
        parameters = [key.removeprefix("param_") for key in results if _is_parameter(key)]
        raise ValueError(
            "search must be over tau and patience of one estimator, but of its parameters "
            f"{parameters}, {len(found)} are named {name}."
        )
    return found[0]


def _is_parameter(key: str) -> bool:
    return key.startswith("param_")


def _last_part(key: str) -> str:
    return key.removeprefix("param_").split("__")[-1]


def _check_nothing_else(results: Mapping[str, Any], policy_columns: set[str]) -> None:
    """Raise if a search is over other parameters in addition to the policy."""
    for key in filter(_is_parameter, results):
        values = {repr(value) for value in results[key]}
        if key not in policy_columns and len(values) > 1:
            raise ValueError(
                f"The search also has {len(values)} values of {key.removeprefix('param_')}, so "
                "policies have several scores. Pass the cv_results_ of one of these values."
            )


def _known(patience: Any, n_layers: int | None) -> int:
    count = check_patience(patience, n_layers)
    if count is None:
        raise ValueError(
            "The search has patience=None, which stands for the number of layers, but this number "
            "is unknown. Pass n_layers, or a search fitted with refit."
        )
    return count if n_layers is None else min(count, n_layers)


def _mean_scores(results: Mapping[str, Any], name: str, parameter: str) -> NDArray[np.float64]:
    column = f"mean_test_{name}"
    if column not in results:
        known = [key.removeprefix("mean_test_") for key in results if key.startswith("mean_test_")]
        raise ValueError(
            f"{parameter}={name!r} is not among the scores of the search, {known}. Search with "
            "scoring=exit_scores, or pass the names of the scores."
        )
    return np.asarray(results[column], dtype=np.float64)
