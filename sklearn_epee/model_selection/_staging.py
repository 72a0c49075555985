"""One fit and one forward pass a split: what all exits say about samples left out of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from sklearn_epee._compat import check_method_params, safe_indexing
from sklearn_epee._tasks import Tasks, task_columns

from ._exits import Staged, staged_predictions
from ._joint_predictions import JointPredictions
from ._policy_space import Integers, Predictions, StagedProbabilities

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Validation:
    """Samples with the answers of all exits, from networks that were not trained on them.

    Attributes
    ----------
    answers : Predictions
    rows : ndarray of shape (n_samples,), int
        Which of the given samples they are; a sample may appear in several splits.
    codes : ndarray of shape (n_samples,) or (n_samples, n_tasks), int
        Column of the true class.
    classes : ndarray of shape (n_classes,), or list of such arrays
    head_proba : ndarray of shape (n_samples, n_layers, n_classes), or list of such arrays
        The heads' own probabilities, where `answers` may have those of an ensemble.
    """

    answers: Predictions
    rows: NDArray[np.intp]
    codes: Integers
    classes: Any
    head_proba: Any

    def take(self, rows: Integers) -> Validation:
        """Give some of the samples."""
        proba = self.head_proba
        taken = [part[rows] for part in proba] if isinstance(proba, list) else proba[rows]
        answers = self.answers.take(rows)
        return Validation(answers, self.rows[rows], self.codes[rows], self.classes, taken)


def check_used(params: Mapping[str, Any], estimator: Any) -> None:
    """Refuse arguments of `fit` that would be ignored where no estimator is trained.

    Parameters
    ----------
    params : mapping
        Keyword arguments for the `fit` of the estimator. Sample weights count otherwise.
    estimator : estimator

    Raises
    ------
    TypeError
        The message names the argument.
    """
    unused = sorted(set(params) - {"sample_weight"})
    if unused:
        raise TypeError(
            f"fit got an unexpected keyword argument {unused[0]!r}: {type(estimator).__name__} is "
            "fitted already and not trained again, so nothing would use it. Only sample_weight "
            "and groups are accepted here."
        )


def stage_fitted(estimator: Any, X: Any, y: NDArray[Any]) -> Validation:
    """Ask a fitted estimator about all samples.

    Parameters
    ----------
    estimator : estimator
    X : samples
    y : ndarray of shape (n_samples,)

    Returns
    -------
    Validation

    Raises
    ------
    ValueError
        If `y` holds labels that the estimator does not know.
    """
    staged = staged_predictions(estimator, X)
    Tasks(staged.classes).check_known(y)
    return _pooled([staged], [np.arange(len(y))], y)


def stage_splits(
    estimator: Any,
    X: Any,
    y: NDArray[Any],
    splits: Iterable[Split],
    *,
    fit_params: Mapping[str, Any],
    n_jobs: int | None,
) -> tuple[Validation, Any]:
    """Fit a clone on the first part of each split and ask it about the second.

    Parameters
    ----------
    estimator : estimator
    X : samples
    y : ndarray of shape (n_samples,)
    splits : iterable of (train, test) rows
    fit_params : mapping
        Keyword arguments for `fit`; what has one entry a sample is split too.
    n_jobs : int or None
        Fits in parallel.

    Returns
    -------
    validation : Validation
        Of the second parts, below each other.
    estimator : estimator or None
        The fitted clone, if there was a single split.

    Raises
    ------
    ValueError
        If the first part of a split lacks a class.
    """
    splits = list(splits)
    _check_classes(y, splits)
    base = clone(estimator)  # clones of one base share what they may share
    keep = len(splits) == 1
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_stage)(clone(base), X, y, split, fit_params=fit_params, keep=keep)
        for split in splits
    )
    staged = [result for result, _ in results]
    return _pooled(staged, [test for _, test in splits], y), results[0][1]


def _check_classes(y: NDArray[Any], splits: Sequence[Split]) -> None:
    columns = task_columns(y)
    for i, (train, test) in enumerate(splits):
        for task, column in enumerate(columns):
            missing = np.setdiff1d(column, column[train])
            if not len(missing):
                continue
            where = f" of task {task}" if len(columns) > 1 else ""
            raise ValueError(
                f"The training part of split {i} has no sample of the classes {missing.tolist()}"
                f"{where}, so its network could not know them. Use fewer folds or a stratified "
                "splitter, or leave out classes that are too small."
            )
        if not len(test):
            raise ValueError(f"Split {i} leaves no samples to choose a policy on.")


def _fit_and_stage(
    estimator: Any,
    X: Any,
    y: NDArray[Any],
    split: Split,
    *,
    fit_params: Mapping[str, Any],
    keep: bool,
) -> tuple[Staged, Any]:
    train, test = split
    params = check_method_params(X, fit_params, indices=train)
    estimator.fit(safe_indexing(X, train), y[train], **params)
    return staged_predictions(estimator, safe_indexing(X, test)), estimator if keep else None


def _pooled(
    staged: Sequence[Staged], rows: Sequence[NDArray[np.intp]], y: NDArray[Any]
) -> Validation:
    first = staged[0]
    for other in staged[1:]:
        if not Tasks(first.classes).same_as(other.classes):
            raise ValueError(
                "The networks of the splits know different classes: "
                f"{Tasks(first.classes)} and {Tasks(other.classes)}."
            )
        if other.n_layers != first.n_layers:
            raise ValueError(
                "The networks of the splits have different numbers of layers: "
                f"{first.n_layers} and {other.n_layers}."
            )
    all_rows = np.concatenate(rows)
    proba = first.proba if len(staged) == 1 else _below_each_other([s.proba for s in staged])
    return Validation(
        answers=_predictions_of(first, proba),
        rows=all_rows,
        codes=Tasks(first.classes).codes(y[all_rows]),
        classes=first.classes,
        head_proba=proba,
    )


def _below_each_other(parts: Sequence[Any]) -> Any:
    if not isinstance(parts[0], list):
        return np.concatenate(parts)
    return [np.concatenate(task) for task in zip(*parts, strict=True)]


def _predictions_of(staged: Staged, proba: Any) -> Predictions:
    """Read probabilities of all exits as the networks that gave them answer and leave."""
    combined = staged.exit_ensemble, staged.exit_loss_weights
    if isinstance(proba, list):
        return JointPredictions.from_proba(proba, staged.joint_exit, *combined)
    return StagedProbabilities.from_proba(proba, *combined)
