"""Validate labels and sample weights."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from sklearn_epee._compat import num_samples

from .messages import shown
from .missing import is_missing

_ROWS = (list, tuple, np.ndarray)


def check_labels(y: ArrayLike, n_samples: int, name: str) -> NDArray[Any]:
    """Convert y to an array of labels of one type, one for each sample.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, 1)
    n_samples : int
    name : str
        Name of the estimator, for messages.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    TypeError
        If labels are of several types, including missing values among strings.
    ValueError
        If labels are not classes, not finite, or their number is not that of the samples.
    """
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    if isinstance(y, (list, tuple)):
        # NumPy converts all labels to strings if one is a string, even None and NaN.
        _check_label_types(_elements(y))
        _check_strings(_elements(y))
    try:
        labels = column_or_1d(y, warn=True)
    except (TypeError, ValueError) as error:
        raise type(error)(f"y must hold one label for each sample: {error}") from error
    if labels.dtype.kind == "c":
        raise TypeError("y must hold labels of classes; got complex numbers.")
    if labels.dtype.kind == "O":
        _check_label_types(labels)
        _check_not_missing(labels)
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name="y")
    try:
        check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"y must hold the labels of classes: {_numbers_as_objects(labels) or error}"
        ) from error
    check_count(len(labels), n_samples)
    return labels


def _numbers_as_objects(labels: NDArray[Any]) -> str:
    """Return a hint for numbers in an object array, which scikit-learn does not accept."""
    if labels.dtype.kind != "O" or not all(isinstance(one, (Number, np.bool_)) for one in labels):
        return ""
    names = sorted({type(label).__name__ for label in labels})
    wanted = "bool" if all(isinstance(label, (bool, np.bool_)) for label in labels) else "int"
    return (
        f"Unknown label type: numbers of the types {names} in an array of objects. Convert it to a "
        f"numeric type, such as y.astype({wanted})."
    )


def _elements(y: list[Any] | tuple[Any, ...]) -> list[Any]:
    """Return the labels in a list, or in a list of rows with one label each."""
    return [row[0] if isinstance(row, _ROWS) and np.shape(row) == (1,) else row for row in y]


def _check_not_missing(labels: NDArray[Any]) -> None:
    missing = [row for row, label in enumerate(labels.tolist()) if is_missing(label)]
    if missing:
        raise ValueError(
            f"y must hold a label for every sample, but {len(missing)} are missing (None, NaN or "
            f"NA), the first at row {missing[0]}."
        )


def _check_label_types(labels: Iterable[Any]) -> None:
    given = list(labels)
    types = {type(label) for label in given}
    alike = [
        all(issubclass(kind, base) for kind in types) for base in (str, (Number, np.bool_), bytes)
    ]
    if len(types) > 1 and not any(alike):
        names = sorted(kind.__name__ for kind in types)
        missing = [row for row, label in enumerate(given) if is_missing(label)]
        found = f"; {len(missing)} are missing, the first at row {missing[0]}" if missing else ""
        raise TypeError(
            f"y mixes labels of the types {names}; expected labels of one type, none of them "
            f"missing{found}."
        )


def _check_strings(labels: Iterable[Any]) -> None:
    """Raise for strings of a class with another str(), such as Enum: NumPy cuts that off."""
    for row, label in enumerate(labels):
        if isinstance(label, str) and str(label) != str.__str__(label):
            raise TypeError(
                f"y[{row}] is {shown(label)}, which NumPy reads as {str(label)!r}, cut to the "
                f"length of the values; expected strings such as {str.__str__(label)!r}."
            )


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    """Convert sample weights to float64; all 1 if None.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,), a number or None
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples,), float64

    Raises
    ------
    TypeError
        If weights are not numbers.
    ValueError
        If a weight is negative or not finite, all are 0, or their number is not that of the
        samples.
    """
    if sample_weight is None:
        return np.ones(n_samples)
    weights = _as_weights(sample_weight, n_samples)
    if (weights < 0).any():
        raise ValueError(f"sample_weight must not be negative; the smallest is {weights.min():g}.")
    if not weights.any():
        raise ValueError("sample_weight must contain at least one non-zero number.")
    if not np.isfinite(weights.sum()):
        raise ValueError(f"sample_weight is too large to be added up: up to {weights.max():g}.")
    return weights


def check_groups(groups: ArrayLike | None, n_samples: int) -> NDArray[np.int64] | None:
    """Return the group of each sample as a number from 0; None if there are no groups.

    Parameters
    ----------
    groups : array-like of shape (n_samples,) or (n_samples, 1), or None
        Strings or numbers.
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples,), int64, or None

    Raises
    ------
    TypeError
        If groups are not a sequence, or of several types.
    ValueError
        If a group is missing, there is only one group, or the number of values is not that of the
        samples.
    """
    if groups is None:
        return None
    try:
        if isinstance(groups, (list, tuple)):
            _check_group_types(_elements(groups))
        found = column_or_1d(groups)
        elements = found.tolist()
        _check_group_types(elements)
    except (TypeError, ValueError) as error:
        raise type(error)(f"groups must hold one group for each sample: {error}") from error
    if len(found) != n_samples:
        raise ValueError(
            "X and groups have inconsistent numbers of samples: X has "
            f"{n_samples}, groups has {len(found)}."
        )
    try:
        distinct, numbers = np.unique(found, return_inverse=True)
    except TypeError as error:  # complex numbers, or objects that cannot be sorted
        raise TypeError(
            f"groups must be strings or numbers; got {shown(elements[0])} of type "
            f"{type(elements[0]).__name__}."
        ) from error
    if len(distinct) < 2:
        raise ValueError(
            f"groups must hold at least two groups; all samples are of {elements[0]!r}."
        )
    return numbers.reshape(-1).astype(np.int64)


def _check_group_types(groups: Iterable[Any]) -> None:
    given = list(groups)
    missing = [row for row, group in enumerate(given) if is_missing(group)]
    if missing:
        raise ValueError(
            f"{len(missing)} are missing (None, NaN or NA), the first at row {missing[0]}."
        )
    types = {type(group) for group in given}
    alike = (all(issubclass(kind, base) for kind in types) for base in (str, Number))
    if not any(alike) and len(types) > 1:
        raise TypeError(
            f"got groups of the types {sorted(kind.__name__ for kind in types)}; expected one type."
        )


def check_scored(y: ArrayLike, sample_weight: ArrayLike | None, n_samples: int) -> None:
    """Raise if the number of labels or weights is not that of the scored samples.

    Raises
    ------
    TypeError
        If y is not a sequence, mixes labels of several types, or weights are not numbers.
    ValueError
        If the numbers differ.
    """
    try:
        n_labels = num_samples(y)
    except TypeError as error:
        raise TypeError(f"y must hold the true labels, one for each sample: {error}") from error
    check_count(n_labels, n_samples)
    if isinstance(y, (list, tuple)) and not any(isinstance(e, _ROWS) for e in _elements(y)):
        _check_label_types(_elements(y))
        _check_strings(_elements(y))
    if sample_weight is None:
        return
    if _as_numbers(sample_weight).ndim == 0:
        raise TypeError(f"sample_weight must hold one number for each sample; got {sample_weight}.")
    _as_weights(sample_weight, n_samples)


def check_count(n_labels: int, n_samples: int) -> None:
    """Raise if the numbers of labels and samples differ."""
    if n_labels != n_samples:
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {n_samples}, y has {n_labels}."
        )


def _as_weights(sample_weight: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    given = _as_numbers(sample_weight)
    weights = np.full(n_samples, given) if given.ndim == 0 else given
    if weights.ndim != 1:
        raise ValueError(f"sample_weight must be 1D or a number; got shape {weights.shape}.")
    if len(weights) != n_samples:
        raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(n_samples,)}.")
    assert_all_finite(weights, input_name="sample_weight")
    return weights


def _as_numbers(sample_weight: ArrayLike) -> NDArray[np.float64]:
    try:
        given = np.asarray(sample_weight)
        if given.dtype.kind == "O":
            given = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"sample_weight must hold one number for each sample: {error}.") from error
    if given.dtype.kind not in "biuf":
        raise TypeError(
            "sample_weight must hold one number for each sample; got values of type "
            f"{given.dtype}, such as {shown(given.reshape(-1)[:1].tolist())}."
        )
    return given.astype(np.float64)
