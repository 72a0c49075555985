"""Predict all exits for held-out samples, with one fit and one forward pass per split."""

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

# Number of random draws of held-out groups; the draw with the best class proportions is used.
_GROUP_DRAWS = 20

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True)
class Target:
    """The labels given to `fit`, in the form that is passed to the `fit` of an estimator.

    Attributes
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
        For several labels: as given, but in a form that can be indexed by rows.
    codes : ndarray of shape (n_samples, n_labels), int, or None
        For several labels, as in `Validation`; None for tasks.
    """

    y: Any
    codes: Integers | None = None

    @classmethod
    def of(cls, y: Any, n_samples: int, estimator: Any, name: str, *, fitted: bool) -> Target:
        """Check the labels given to the `fit` of a wrapper around an estimator.

        Parameters
        ----------
        y : labels
        n_samples : int
        estimator : estimator
        name : str
            Class name of the wrapper, for messages.
        fitted : bool
            Whether the estimator is already fitted and is not trained again.

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
        """Return the target for stratified splits: labels, or indices of their combinations."""
        if self.codes is None and self.y.ndim == 1:
            return self.y
        codes = task_codes(self.y) if self.codes is None else self.codes
        n_folds = cv if isinstance(cv, Integral) else 5
        return strata(codes, 2 if isinstance(cv, float) else int(n_folds))


def takes_labels(estimator: Any, y: Any) -> bool:
    """Return whether the `fit` of an estimator reads y as several labels per sample."""
    return holds_labels(y, target_type_of(estimator))


@dataclass(frozen=True)
class Validation:
    """Samples with the predictions of all exits of networks that were not trained on them.

    Attributes
    ----------
    staged : StagedPredictions
    rows : ndarray of shape (n_samples,), int
        Row of each sample in the data given to `fit`; a sample may appear in several splits.
    codes : ndarray of shape (n_samples, n_tasks), int
        Column of the true class. For several labels, of shape (n_samples, n_labels): 1 if a sample
        has the label, 0 if not, -1 if this is unknown.
    tasks : Tasks
        All classes, or labels, of the samples and the networks.
    knows_all : ndarray of shape (n_samples,), bool
        Whether the network of the sample was trained on samples of every class.
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
    """Interface for predicting all exits in each split, and combining the splits."""

    def stage(self, estimator: Any, X: Any) -> Any:
        """Return the predictions of every exit of a fitted estimator."""
        ...

    def warn_of_missing(self, y: Any, splits: Sequence[Split]) -> None:
        """Warn of classes that are missing in the training part of a split."""
        ...

    def pooled(self, parts: Sequence[Any], rows: Sequence[NDArray[np.intp]], y: Any) -> Any:
        """Concatenate the predictions of several networks."""
        ...


@dataclass(frozen=True)
class ClassStaging:
    """Staging of classes, of one or several tasks, or of several labels.

    Attributes
    ----------
    multilabel : bool, default=False
        Whether samples have several labels. Then `fit` of the classifiers warns of missing labels.
    """

    multilabel: bool = False

    def stage(self, estimator: Any, X: Any) -> tuple[StagedPredictions, Tasks]:
        """Return the predictions of every exit of a fitted estimator."""
        return staged_predictions(estimator, X)

    def warn_of_missing(self, y: Any, splits: Sequence[Split]) -> None:
        """Warn of classes that are missing in the training part of a split."""
        if not self.multilabel:
            _warn_of_missing_classes(y, splits)

    def pooled(
        self,
        parts: Sequence[tuple[StagedPredictions, Tasks]],
        rows: Sequence[NDArray[np.intp]],
        y: Any,
    ) -> Validation:
        """Concatenate the predictions of several networks."""
        return _pooled(parts, rows, y)


def check_used(params: Mapping[str, Any], estimator: Any) -> None:
    """Raise if arguments of `fit` would be ignored because no estimator is trained.

    Parameters
    ----------
    params : mapping
        Keyword arguments for the `fit` of the estimator. Sample weights are allowed, because
        scores use them.
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
        A float is the proportion that is held out in a single stratified split.
    X : samples
    target : ndarray of shape (n_samples,)
        Target for stratified splits.
    random_state : int, RandomState instance or None
        For the single split of a float.
    split_params : mapping
        Keyword arguments for the `split` of the splitter. With "groups", an int or float `cv`
        keeps groups together.

    Returns
    -------
    list of (train, test) rows

    Raises
    ------
    TypeError, ValueError
        If `cv` cannot split these samples, or makes no split, or one without test rows.
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
    """Return whether `cv` is None or a number, so that the splitter is chosen here."""
    return cv is None or isinstance(cv, Real)


def _splitter(cv: Any, target: NDArray[Any], random_state: Any) -> Any:
    """Return the splitter for samples without groups."""
    if isinstance(cv, Real) and not isinstance(cv, Integral):
        return StratifiedShuffleSplit(1, test_size=cv, random_state=random_state)
    return check_cv(cv, y=target, classifier=True)


def _grouped(
    cv: int | float | None, target: NDArray[Any], groups: Any, random_state: Any
) -> list[Split]:
    """Split by groups, stratified by class as far as the groups allow."""
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
        # Relative to the expected counts, as in a chi-square test, so that rare classes count.
        found = np.bincount(codes[split[1]], minlength=len(wanted))
        return float(((found - wanted) ** 2 / wanted).sum())

    return [min(draws.split(rows, target, groups), key=distance)]


def _checked_split(i: int, split: Any, n_samples: int) -> Split:
    """Return the rows of both parts of a split as integers, or raise."""
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
    """Fit a clone on the training part of each split, and predict its test part.

    Parameters
    ----------
    estimator : estimator
    X : samples
    y : ndarray of shape (n_samples,) or (n_samples, n_tasks)
        For several labels in any form that can be indexed by rows.
    splits : sequence of (train, test) rows
        See `make_splits`.
    fit_params : mapping
        Keyword arguments for `fit`; those with one entry per sample are split, too.
    n_jobs : int or None
        Number of parallel fits.
    staging : Staging, default=None
        None: `ClassStaging`.

    Returns
    -------
    validation : Validation
        Predictions of the test parts of all splits.
    estimator : estimator or None
        The fitted clone, if there is a single split.

    Warns
    -----
    UserWarning
        If a class is missing in the training part of a split.
    """
    how = ClassStaging(takes_labels(estimator, y)) if staging is None else staging
    how.warn_of_missing(y, splits)
    base = clone(estimator)  # clones of the same clone can share what does not depend on the split
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
    """Warn of classes without samples in the training part of a split, as scikit-learn does."""
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
    # scikit-learn fails to count the samples of arrays without dimensions, so pass numbers.
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
    """Concatenate the predictions of several networks, with columns for the classes of all."""
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
    """Return the labels of the networks; if they differ, the union with those of the samples."""
    if all(tasks.same_as(known[0]) for tasks in known):
        return known[0]
    given = check_label_targets(y, num_samples(y)).classes
    return Tasks(np.unique(np.concatenate([*(tasks.classes for tasks in known), given])), True)


def _all_classes(known: Sequence[Tasks], y: NDArray[Any]) -> Tasks:
    """Return the sorted union of the classes of all networks and samples."""
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
    """Return predictions with columns for all classes, or labels, of `united`."""
    if united.same_as(known):
        return staged
    if united.multilabel:
        columns = np.searchsorted(united.classes, known.classes)
        return staged.with_classes([columns], [len(united.classes)])
    pairs = zip(united.each, known.each, strict=True)
    return staged.with_classes(
        [np.searchsorted(every, some) for every, some in pairs], united.counts
    )
