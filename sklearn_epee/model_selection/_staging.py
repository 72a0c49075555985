"""One fit and one forward pass a split: what all exits say about samples left out of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from ._exits import Staged, staged_answers
from ._policy_space import Integers, StagedAnswers

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Validation:
    """Samples with the answers of all exits, from networks that were not trained on them.

    Attributes
    ----------
    answers : StagedAnswers
    rows : ndarray of shape (n_samples,), int
        Which of the given samples they are; a sample may appear in several splits.
    codes : ndarray of shape (n_samples,), int
        Column of the true class.
    classes : ndarray of shape (n_classes,)
    head_proba : ndarray of shape (n_samples, n_layers, n_classes)
        The heads' own probabilities, where `answers` may have those of an ensemble.
    """

    answers: StagedAnswers
    rows: NDArray[np.intp]
    codes: Integers
    classes: NDArray[Any]
    head_proba: NDArray[np.floating]

    def take(self, rows: Integers) -> Validation:
        """Give some of the samples."""
        answers = self.answers.take(rows)
        return Validation(
            answers, self.rows[rows], self.codes[rows], self.classes, self.head_proba[rows]
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
    staged = staged_answers(estimator, X)
    unknown = np.setdiff1d(y, staged.classes)
    if len(unknown):
        raise ValueError(
            f"y holds the labels {unknown.tolist()}, which the fitted estimator does not know; its "
            f"classes are {staged.classes.tolist()}."
        )
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
    for i, (train, test) in enumerate(splits):
        missing = np.setdiff1d(y, y[train])
        if len(missing):
            raise ValueError(
                f"The training part of split {i} has no sample of the classes {missing.tolist()}, "
                "so its network could not know them. Use fewer folds or a stratified splitter, or "
                "leave out classes that are too small."
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
    params = _check_method_params(X, fit_params, indices=train)
    estimator.fit(_safe_indexing(X, train), y[train], **params)
    return staged_answers(estimator, _safe_indexing(X, test)), estimator if keep else None


def _pooled(
    staged: Sequence[Staged], rows: Sequence[NDArray[np.intp]], y: NDArray[Any]
) -> Validation:
    first = staged[0]
    for other in staged[1:]:
        if not np.array_equal(other.classes, first.classes):
            raise ValueError(
                "The networks of the splits know different classes: "
                f"{first.classes.tolist()} and {other.classes.tolist()}."
            )
        if other.proba.shape[1] != first.proba.shape[1]:
            raise ValueError(
                "The networks of the splits have different numbers of layers: "
                f"{first.proba.shape[1]} and {other.proba.shape[1]}."
            )
    all_rows = np.concatenate(rows)
    proba = first.proba if len(staged) == 1 else np.concatenate([part.proba for part in staged])
    return Validation(
        answers=StagedAnswers.from_proba(proba, first.exit_ensemble, first.exit_loss_weights),
        rows=all_rows,
        codes=np.searchsorted(first.classes, y[all_rows]),
        classes=first.classes,
        head_proba=proba,
    )
