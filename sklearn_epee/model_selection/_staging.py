"""One fit and one forward pass per split: predictions of all exits for held-out samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import (
    GroupShuffleSplit,
    StratifiedGroupKFold,
    StratifiedShuffleSplit,
    check_cv,
)
from sklearn.utils.parallel import Parallel, delayed

from sklearn_epee._checks.arrow import without_arrow_table
from sklearn_epee._checks.labels import check_groups
from sklearn_epee._checks.multilabel import check_label_targets, holds_labels
from sklearn_epee._checks.tasks import (
    Tasks,
    as_target,
    check_any_labels,
    strata,
    task_codes,
    task_columns,
)
from sklearn_epee._compat import check_method_params, num_samples, safe_indexing
from sklearn_epee._exits.staged import Integers, StagedPredictions
from sklearn_epee._exits.wrappers import (
    check_labels_known,
    known_tasks,
    staged_predictions,
    target_type_of,
)

# Draws of groups to be held out, of which the one nearest to the classes' proportions is taken.
_GROUP_DRAWS = 20

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Target:
    """The labels given to `fit`, in the form in which an estimator is fitted to them.

    Attributes
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
        For several labels what was given, in a form that can be indexed by rows.
    codes : ndarray of shape (n_samples, n_labels), int, or None
        Of several labels, as in `Validation`; None for tasks.
    """

    y: Any
    codes: Integers | None = None

    @classmethod
    def of(cls, y: Any, n_samples: int, estimator: Any, name: str, *, fitted: bool) -> Target:
        """Check what was given to the `fit` of a wrapper of this name around an estimator.

        Parameters
        ----------
        y : labels
        n_samples : int
        estimator : estimator
        name : str
        fitted : bool
            Whether the estimator is fitted and not trained again.

        Raises
        ------
        TypeError, ValueError
            If `y` does not hold classes, tasks or labels, one for each sample.
        """
        y = without_arrow_table(y)
        known = known_tasks(estimator) if fitted else None
        multilabel = takes_labels(estimator, y) if known is None else known.multilabel
        if not multilabel:
            return cls(as_target(check_any_labels(y, n_samples, name)))
        codes = check_label_targets(y, n_samples).codes
        return cls(y.tocsr() if issparse(y) else y, codes)

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have any number of labels."""
        return self.codes is not None

    @property
    def n_tasks(self) -> int:
        """Number of tasks, or of labels."""
        columns = self.y if self.codes is None else self.codes
        return 1 if columns.ndim == 1 else columns.shape[1]

    def to_split(self, cv: Any) -> NDArray[Any]:
        """Return what splitters stratify by: the labels, or numbers of their combinations."""
        if self.codes is None and self.y.ndim == 1:
            return self.y
        codes = task_codes(self.y) if self.codes is None else self.codes
        n_folds = cv if isinstance(cv, Integral) else 5
        return strata(codes, 2 if isinstance(cv, float) else int(n_folds))


def takes_labels(estimator: Any, y: Any) -> bool:
    """Return whether the `fit` of an estimator takes y for several labels per sample."""
    return holds_labels(y, target_type_of(estimator))


@dataclass(frozen=True)
class Validation:
    """Samples with the predictions of all exits of networks that were not trained on them.

    Attributes
    ----------
    staged : StagedPredictions
    rows : ndarray of shape (n_samples,), int
        Which of the given samples they are; a sample may appear in several splits.
    codes : ndarray of shape (n_samples, n_tasks), int
        Column of the true class. For several labels (n_samples, n_labels): 1 where a label is
        there, 0 where not, -1 where that is not known.
    tasks : Tasks
        All classes, or labels, of the given samples and of the networks.
    knows_all : ndarray of shape (n_samples,), bool
        Whether the sample's network was trained on samples of every class.
    """

    staged: StagedPredictions
    rows: NDArray[np.intp]
    codes: Integers
    tasks: Tasks
    knows_all: NDArray[np.bool_]

    @property
    def classes(self) -> Any:
        """Class labels; a list of arrays for several tasks."""
        return self.tasks.classes

    def take(self, rows: Integers) -> Validation:
        """Return some of the samples."""
        staged, knows_all = self.staged.take(rows), self.knows_all[rows]
        return Validation(staged, self.rows[rows], self.codes[rows], self.tasks, knows_all)


class Staging(Protocol):
    """How the predictions of all exits are staged, split by split, and taken together."""

    def stage(self, estimator: Any, X: Any) -> Any:
        """Return what every exit of a fitted estimator predicts."""
        ...

    def warn_of_missing(self, y: Any, splits: Sequence[Split]) -> None:
        """Warn of what the networks of some splits cannot know."""
        ...

    def pooled(self, parts: Sequence[Any], rows: Sequence[NDArray[np.intp]], y: Any) -> Any:
        """Return the predictions of several networks below each other."""
        ...


@dataclass(frozen=True)
class ClassStaging:
    """The staging of classes, of one task or of several, or of labels.

    Attributes
    ----------
    multilabel : bool, default=False
        Whether a sample may have any of the labels, which are warned of where they are fitted.
    """

    multilabel: bool = False

    def stage(self, estimator: Any, X: Any) -> tuple[StagedPredictions, Tasks]:
        """Return what every exit of a fitted estimator predicts."""
        return staged_predictions(estimator, X)

    def warn_of_missing(self, y: Any, splits: Sequence[Split]) -> None:
        """Warn of classes that the training part of a split lacks."""
        if not self.multilabel:
            _warn_of_missing_classes(y, splits)

    def pooled(
        self,
        parts: Sequence[tuple[StagedPredictions, Tasks]],
        rows: Sequence[NDArray[np.intp]],
        y: Any,
    ) -> Validation:
        """Return the predictions of several networks below each other."""
        return _pooled(parts, rows, y)


def check_used(params: Mapping[str, Any], estimator: Any) -> None:
    """Raise if arguments of `fit` would be ignored because no estimator is trained.

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


def stage_fitted(estimator: Any, X: Any, y: Any) -> Validation:
    """Return the predictions of a fitted estimator for all samples.

    Parameters
    ----------
    estimator : estimator
    X : samples
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
        For several labels in any form that can be indexed by rows.

    Returns
    -------
    Validation

    Raises
    ------
    ValueError
        If `y` holds labels that the estimator does not know.
    """
    check_labels_known(estimator, y)
    staged, tasks = staged_predictions(estimator, X)
    return _pooled([(staged, tasks)], [np.arange(num_samples(y))], y)


def make_splits(
    cv: Any,
    X: Any,
    target: NDArray[Any],
    *,
    random_state: Any,
    split_params: Mapping[str, Any],
) -> list[Split]:
    """Return the training and test rows of the parameter `cv`.

    Parameters
    ----------
    cv : int, float, cross-validation generator, iterable or None
        A float is the share held out in a single stratified split.
    X : samples
    target : ndarray of shape (n_samples,)
        What splitters stratify by.
    random_state : int, RandomState instance or None
        Draws the single split of a float.
    split_params : mapping
        Keyword arguments for the `split` of the splitter. With "groups" a number of folds or a
        share keeps groups together.

    Returns
    -------
    list of (train, test) rows

    Raises
    ------
    TypeError, ValueError
        If `cv` cannot split these samples, makes no split, or one without test rows.
    """
    groups = split_params.get("groups")
    try:
        if is_own_splitter(cv) and groups is not None:
            splits = _grouped(cv, target, check_groups(groups, len(target)), random_state)
        else:
            splitter = _splitter(cv, target, random_state)
            splits = [(train, test) for train, test in splitter.split(X, target, **split_params)]
    except (AttributeError, TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"cv={cv!r:.200} cannot split these samples: {error}") from error
    if not splits:
        raise ValueError("cv must make at least one split into training and test rows; got none.")
    return [_checked_split(i, split, len(target)) for i, split in enumerate(splits)]


def is_own_splitter(cv: Any) -> bool:
    """Return whether `cv` only says how many splits there are, or how large the one is."""
    return cv is None or isinstance(cv, Real)


def _splitter(cv: Any, target: NDArray[Any], random_state: Any) -> Any:
    """Return the splitter of samples without groups."""
    if isinstance(cv, Real) and not isinstance(cv, Integral):
        return StratifiedShuffleSplit(1, test_size=cv, random_state=random_state)
    return check_cv(cv, y=target, classifier=True)


def _grouped(
    cv: int | float | None, target: NDArray[Any], groups: Any, random_state: Any
) -> list[Split]:
    """Split groups, the classes in proportion as far as the groups allow."""
    rows = np.zeros(len(target))
    if cv is None or isinstance(cv, Integral):
        n_splits, n_groups = 5 if cv is None else int(cv), int(groups.max()) + 1
        if n_groups < n_splits:
            raise ValueError(f"{n_splits} folds need as many groups; got {n_groups}.")
        return list(StratifiedGroupKFold(n_splits).split(rows, target, groups))
    draws = GroupShuffleSplit(_GROUP_DRAWS, test_size=cv, random_state=random_state)
    codes = np.unique(target, return_inverse=True)[1].reshape(-1)
    wanted = cv * np.bincount(codes)

    def distance(split: Split) -> float:
        # As in a chi-square test, so that rare classes count.
        found = np.bincount(codes[split[1]], minlength=len(wanted))
        return float(((found - wanted) ** 2 / wanted).sum())

    return [min(draws.split(rows, target, groups), key=distance)]


def _checked_split(i: int, split: Any, n_samples: int) -> Split:
    """Return rows of the two parts of a split as integers, or raise."""
    rows = []
    for part, given in zip(("training", "test"), split, strict=True):
        array = np.asarray(given)
        if array.dtype.kind == "b":
            array = np.flatnonzero(array)
        is_rows = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
        if not is_rows or (array.size and not -n_samples <= array.min() <= array.max() < n_samples):
            raise ValueError(
                f"The {part} rows of split {i} of cv must be integers below the number of samples "
                f"{n_samples}; got {array!r:.200}."
            )
        rows.append(array.astype(np.intp))
    if not len(rows[1]):
        raise ValueError(f"Split {i} of cv has no samples to choose a policy on.")
    return rows[0], rows[1]


def stage_splits(
    estimator: Any,
    X: Any,
    y: Any,
    splits: Sequence[Split],
    *,
    fit_params: Mapping[str, Any],
    n_jobs: int | None,
    staging: Staging | None = None,
) -> tuple[Any, Any]:
    """Fit a clone on the first part of each split, and return its predictions for the second.

    Parameters
    ----------
    estimator : estimator
    X : samples
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
        For several labels in any form that can be indexed by rows.
    splits : sequence of (train, test) rows
        See `make_splits`.
    fit_params : mapping
        Keyword arguments for `fit`; what has one entry per sample is split too.
    n_jobs : int or None
        Fits in parallel.
    staging : Staging, default=None
        None: that of classes.

    Returns
    -------
    validation : Validation
        Of the second parts, below each other.
    estimator : estimator or None
        The fitted clone, if there was a single split.

    Warns
    -----
    UserWarning
        If the first part of a split lacks a class.
    """
    how = ClassStaging(takes_labels(estimator, y)) if staging is None else staging
    how.warn_of_missing(y, splits)
    base = clone(estimator)  # clones of one base share what they may share
    keep = len(splits) == 1
    results = Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_stage)(
            clone(base), X, y, split, fit_params=fit_params, keep=keep, staging=how
        )
        for split in splits
    )
    staged = [result for result, _ in results]
    return how.pooled(staged, [test for _, test in splits], y), results[0][1]


def _warn_of_missing_classes(y: NDArray[Any], splits: Sequence[Split]) -> None:
    """Warn of classes that the networks of some splits cannot know, as scikit-learn does."""
    columns = task_columns(y)
    for i, (train, _) in enumerate(splits):
        for task, column in enumerate(columns):
            missing = np.setdiff1d(column, column[train])
            if not len(missing):
                continue
            where = f" of task {task}" if len(columns) > 1 else ""
            warnings.warn(
                f"The training part of split {i} has no sample of the classes {missing.tolist()}"
                f"{where}, so its network never predicts them. Use fewer folds or a stratified "
                "splitter, or leave out classes that are too small.",
                UserWarning,
                stacklevel=6,
            )


def _fit_and_stage(
    estimator: Any,
    X: Any,
    y: Any,
    split: Split,
    *,
    fit_params: Mapping[str, Any],
    keep: bool,
    staging: Staging,
) -> tuple[Any, Any]:
    train, test = split
    # An array of no dimension is a number, which scikit-learn cannot count the samples of.
    given = {
        name: value.item() if isinstance(value, np.ndarray) and not value.ndim else value
        for name, value in fit_params.items()
    }
    params = check_method_params(X, given, indices=train)
    estimator.fit(safe_indexing(X, train), safe_indexing(y, train), **params)
    return staging.stage(estimator, safe_indexing(X, test)), estimator if keep else None


def _pooled(
    parts: Sequence[tuple[StagedPredictions, Tasks]],
    rows: Sequence[NDArray[np.intp]],
    y: Any,
) -> Validation:
    """Return the predictions of several networks below each other, among the classes of all."""
    depths = sorted({staged.n_layers for staged, _ in parts})
    if len(depths) > 1:
        raise ValueError(f"The networks of the splits have different numbers of layers: {depths}.")
    known = [tasks for _, tasks in parts]
    united = _all_labels(known, y) if known[0].multilabel else _all_classes(known, y)
    all_rows = np.concatenate(rows)
    codes = united.codes(safe_indexing(y, all_rows))
    return Validation(
        staged=StagedPredictions.concatenate([_among(united, *part) for part in parts]),
        rows=all_rows,
        codes=codes.reshape(len(codes), -1),
        tasks=united,
        knows_all=np.concatenate(
            [np.full(staged.n_samples, united.same_as(tasks)) for staged, tasks in parts]
        ),
    )


def _all_labels(known: Sequence[Tasks], y: Any) -> Tasks:
    """Return the labels of all networks and samples; those of an indicator are the same in all."""
    if all(tasks.same_as(known[0]) for tasks in known):
        return known[0]
    given = check_label_targets(y, num_samples(y)).classes
    return Tasks(np.unique(np.concatenate([*(tasks.classes for tasks in known), given])), True)


def _all_classes(known: Sequence[Tasks], y: NDArray[Any]) -> Tasks:
    """Return the classes of all networks and samples, sorted, in the form of `classes_`."""
    columns = task_columns(y)
    each = [tasks.each for tasks in known]
    if any(len(tasks) != len(columns) for tasks in each):
        raise ValueError(
            f"y holds {len(columns)} task(s), but the networks of the splits predict "
            f"{sorted({len(tasks) for tasks in each})}."
        )
    united = [
        np.unique(np.concatenate([*(tasks[task] for tasks in each), column]))
        for task, column in enumerate(columns)
    ]
    classes = Tasks(united if isinstance(known[0].classes, list) else united[0])
    return known[0] if known[0].same_as(classes) else classes


def _among(united: Tasks, staged: StagedPredictions, known: Tasks) -> StagedPredictions:
    """Return predictions of known classes, or labels, among all of them."""
    if united.same_as(known):
        return staged
    if united.multilabel:
        columns = np.searchsorted(united.classes, known.classes)
        return staged.with_classes([columns], [len(united.classes)])
    pairs = zip(united.each, known.each, strict=True)
    return staged.with_classes(
        [np.searchsorted(every, some) for every, some in pairs], united.counts
    )
