"""Encode several labels per sample: a code for every sample and label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Number, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.preprocessing import MultiLabelBinarizer

from .arrow import without_arrow_table
from .labels import check_count
from .messages import shown
from .missing import is_missing

Array = NDArray[Any]

TARGET_TYPES = ("auto", "multilabel", "tasks")
# Code of an unknown label.
UNKNOWN = -1

_SETS = (set, frozenset)
_COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)
_FORMS = (
    "an indicator of 0 and 1 (NaN if unknown) of shape (n_samples, n_labels), dense or sparse, or "
    "a list of labels for each sample"
)


@dataclass(frozen=True)
class LabelCount:
    """Number of outputs of a network for several labels per sample."""

    n_labels: int


@dataclass(frozen=True)
class LabelTargets:
    """Which labels samples have.

    Attributes
    ----------
    classes : ndarray of shape (n_labels,)
        The labels: column numbers, names of columns, or the sorted labels of lists.
    codes : ndarray of shape (n_samples, n_labels), int64
        1 if a sample has the label, 0 if not, -1 if unknown.
    named : bool
        Whether `classes` are names, and not column numbers.
    """

    classes: Array
    codes: NDArray[np.int64]
    named: bool


def holds_labels(y: Any, target_type: str = "auto") -> bool:
    """Return whether y contains several labels per sample.

    Parameters
    ----------
    y : array-like, sparse matrix or sequence of label lists
    target_type : {"auto", "multilabel", "tasks"}, default="auto"
        "auto" is "multilabel" if y is sparse, has two or more columns with only 0, 1 and NaN, or
        consists of sets of labels or of lists of different lengths.

    Returns
    -------
    bool
    """
    if target_type != "auto":
        return target_type == "multilabel"
    if y is None:
        return False
    y = without_arrow_table(y)
    return issparse(y) or _are_label_lists(y) or _is_indicator(y)


def check_label_targets(y: Any, n_samples: int, classes: Array | None = None) -> LabelTargets:
    """Return which labels samples have.

    Parameters
    ----------
    y : array-like or sparse matrix of shape (n_samples, n_labels), or sequence of label lists
        An indicator of 0 and 1, with NaN, None or NA for unknown labels; or the labels of each
        sample as a list, tuple or set.
    n_samples : int
    classes : ndarray of shape (n_labels,) or None, default=None
        The labels of a fitted estimator. y may only contain these, and columns of a frame are
        selected by their names. None: the labels in y.

    Returns
    -------
    LabelTargets

    Raises
    ------
    TypeError
        If a list of labels is not a list, or contains labels of several types.
    ValueError
        If values are not 0 or 1, labels in a list are missing or not in `classes`, a frame has
        other columns, there are no labels, or the length of y is not the number of samples.
    """
    y = without_arrow_table(y)
    rows = _nested_rows(y)
    # For a fitted estimator it is known whether numbers other than 0 and 1 are labels.
    if rows is not None and (
        _are_label_lists(y) or not _rows_are_numbers(rows, of_indicator=classes is not None)
    ):
        check_count(len(rows), n_samples)
        return _from_lists(rows, classes)
    values, names = _indicator(y)
    check_count(len(values), n_samples)
    if classes is not None and len(classes) != values.shape[1]:
        raise ValueError(
            f"y holds {values.shape[1]} label(s), but the fitted estimator knows {len(classes)}: "
            f"{shown(classes.tolist())}."
        )
    if classes is not None and hasattr(y, "columns"):
        values = values[:, _order_of(names.tolist(), classes.tolist())]
    codes = np.where(np.isnan(values), UNKNOWN, values).astype(np.int64)
    return LabelTargets(names if classes is None else classes, codes, hasattr(y, "columns"))


def _order_of(names: list[Any], labels: list[Any]) -> list[int]:
    """Return the index of the column of each label of a fitted estimator in a frame.

    Columns are found by name, or by position if the labels are column numbers.
    """
    if set(names) == set(labels):
        return [names.index(label) for label in labels]
    if labels != list(range(len(labels))):
        raise ValueError(
            f"y has the columns {shown(names)}, but the labels of the fitted estimator are "
            f"{shown(labels)}; expected columns of these names, in any order."
        )
    return labels


def _nested_rows(y: Any) -> list[Any] | None:
    """Return the entry of y for each sample if some entries are collections; otherwise None."""
    if issparse(y) or hasattr(y, "columns"):
        return None
    if isinstance(y, np.ndarray) and (y.ndim != 1 or y.dtype != object):
        return None
    for read in ("tolist", "to_list"):
        if hasattr(y, read):
            rows = getattr(y, read)()
            break
    else:
        rows = list(y) if isinstance(y, (list, tuple)) else []
    return rows if any(isinstance(row, _COLLECTIONS) for row in rows) else None


def _are_label_lists(y: Any) -> bool:
    """Return whether y consists of lists of labels that cannot be rows of a matrix."""
    rows = _nested_rows(y)
    if rows is None:
        return False
    if any(not isinstance(row, _COLLECTIONS) or isinstance(row, _SETS) for row in rows):
        return True
    # A series or an array of lists has no columns, even if the lists have equal lengths.
    return not isinstance(y, (list, tuple)) or len({len(row) for row in rows}) > 1


def _rows_are_numbers(rows: list[Any], *, of_indicator: bool) -> bool:
    """Return whether rows only contain numbers (0 and 1 if `of_indicator`) or missing values."""
    known = [label for row in rows for label in row if not is_missing(label)]
    if not all(isinstance(label, (Number, np.bool_)) for label in known):
        return False
    return not of_indicator or set(known) <= {0, 1}


def _is_indicator(y: Any) -> bool:
    if hasattr(y, "columns"):
        if len(y.columns) < 2:
            return False
    elif isinstance(y, (list, tuple)):
        if not y or not isinstance(y[0], (list, tuple, np.ndarray)) or len(y[0]) < 2:
            return False
    elif getattr(y, "ndim", 0) != 2 or y.shape[1] < 2:
        return False
    try:
        _indicator(y)
    except (TypeError, ValueError):
        return False
    return True


def _indicator(y: Any) -> tuple[NDArray[np.float64], Array]:
    """Return a matrix of 0, 1 and NaN, and the names of its columns."""
    if hasattr(y, "columns"):  # a data frame
        columns = [_as_floats(column) for column in frame_columns(y)]
        values, names = np.stack(columns, axis=1), _names(list(y.columns))
    else:
        values = _as_floats(y.toarray() if issparse(y) else np.asarray(y))
        if values.ndim != 2:
            raise ValueError(f"y must hold {_FORMS}; got an array of shape {values.shape}.")
        names = np.arange(values.shape[1])
    if not values.shape[1]:
        raise ValueError("y holds no label: it has no columns.")
    wrong = ~((values == 0) | (values == 1) | np.isnan(values))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"y must hold {_FORMS}; got {values[row, column]:g} at row {row}, column {column}. "
            "For columns of other classes use target_type='tasks'."
        )
    return values, names


def frame_columns(y: Any) -> list[Array]:
    """Return the columns of a frame.

    Raises
    ------
    ValueError
        If two have one name.
    """
    names = list(y.columns)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"y has several columns of the name {twice!r}; expected one of each.")
    return [np.asarray(y[name]) for name in names]


def _as_floats(values: Array) -> NDArray[np.float64]:
    if values.dtype.kind == "O":
        flat = [np.nan if is_missing(value) else value for value in values.reshape(-1).tolist()]
        if not all(isinstance(value, (Real, np.bool_)) for value in flat):
            other = next(value for value in flat if not isinstance(value, (Real, np.bool_)))
            raise ValueError(f"y must hold {_FORMS}; got {shown(other)}.")
        return np.array(flat, dtype=np.float64).reshape(values.shape)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"y must hold {_FORMS}; got values of type {values.dtype}.")
    return values.astype(np.float64)


def _names(columns: list[Any]) -> Array:
    # Keep names of several types, and tuples, unchanged.
    as_they_are = np.array([*columns, None], dtype=object)[:-1]
    if any(isinstance(name, tuple) for name in columns):
        return as_they_are
    names = np.array(columns)
    return names if names.tolist() == columns else as_they_are


def _from_lists(rows: list[Any], classes: Array | None) -> LabelTargets:
    """Return the targets for lists of labels."""
    checked = [_labels_of(row, number) for number, row in enumerate(rows)]
    _check_one_type(label for labels in checked for label in labels)
    found = sorted({label for labels in checked for label in labels})
    if not found and classes is None:
        raise ValueError("y holds no label: the list of every sample is empty.")
    if classes is None:
        classes = np.array(found)
    known = classes.tolist()
    for number, labels in enumerate(checked):
        if unknown := sorted(set(labels) - set(known)):
            raise ValueError(
                f"y[{number}] holds the labels {shown(unknown)}, which the fitted estimator does "
                f"not know; its labels are {shown(known)}."
            )
    codes = MultiLabelBinarizer(classes=known).fit_transform(checked)
    return LabelTargets(classes, codes.astype(np.int64), named=True)


def _labels_of(row: Any, number: int) -> list[Any]:
    """Return the labels of one sample as Python numbers and strings."""
    if not isinstance(row, _COLLECTIONS):
        raise TypeError(
            f"y[{number}] must hold a list of labels, as other samples have; got {shown(row)}. "
            "A sample without labels has an empty list, and one with a single label a list of one."
        )
    labels = row.tolist() if isinstance(row, np.ndarray) else list(row)
    labels = [label.item() if isinstance(label, np.generic) else label for label in labels]
    for label in labels:
        if not isinstance(label, (str, bytes, Real)):
            missing = label is None or isinstance(label, float)
            raise (ValueError if missing else TypeError)(
                f"y[{number}] must hold labels that are strings or numbers; got {shown(label)}."
            )
        if is_missing(label):
            raise ValueError(f"y[{number}] holds a label that is missing: {shown(label)}.")
    return labels


def _check_one_type(labels: Iterable[Any]) -> None:
    kinds = {Real if isinstance(label, Real) else type(label) for label in labels}
    if len(kinds) > 1:
        names = sorted("number" if kind is Real else kind.__name__ for kind in kinds)
        raise TypeError(
            f"y mixes labels of the types {names} in its lists; expected labels of one type."
        )


def labels_above(
    proba: NDArray[np.floating], thresholds: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return 1 for labels, (..., n_labels), whose probability is above their threshold, else 0."""
    return (proba > (0.5 if thresholds is None else thresholds)).astype(np.int64)


def pack_labels(proba: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the probabilities of 0 and 1 for each label, (..., 2 n_labels)."""
    return np.stack([1 - proba, proba], axis=-1).reshape(*proba.shape[:-1], -1)


def label_set_score(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], sample_weight: ArrayLike | None = None
) -> float:
    """Return the fraction of samples whose known labels are all predicted correctly.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_labels), int64
        1, 0, or -1 if unknown.
    predicted : ndarray of shape (n_samples, n_labels), int64
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    float
        Over the samples with at least one known label.

    Raises
    ------
    ValueError
        If all labels are unknown.
    """
    known = codes != UNKNOWN
    scored = known.any(axis=1)
    if not scored.any():
        raise ValueError("y holds no known label; all entries are NaN.")
    hits = ((codes == predicted) | ~known).all(axis=1)
    weights = np.ones(len(codes)) if sample_weight is None else np.asarray(sample_weight, float)
    return float(np.average(hits[scored], weights=np.broadcast_to(weights, len(codes))[scored]))
