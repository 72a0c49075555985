"""Labels and sample weights."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from sklearn_epee._compat import check_sample_weight

from .messages import shown


def check_labels(y: ArrayLike, n_samples: int, name: str) -> NDArray[Any]:
    """Return y as an array of labels of one type, one for each sample.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, 1)
    n_samples : int
    name : str
        Of the estimator, for messages.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    TypeError
        If labels are of several types, or some of them are missing among strings.
    ValueError
        If labels are not classes, not finite or not as many as the samples.
    """
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    if isinstance(y, (list, tuple)):
        # NumPy makes strings of all labels if one is a string: None and NaN would be classes.
        _check_label_types(_elements(y))
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind == "O":
        _check_label_types(labels)
    if labels.dtype.kind in "fcO":
        assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    if len(labels) != n_samples:
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {n_samples}, y has {len(labels)}."
        )
    return labels


def _elements(y: list[Any] | tuple[Any, ...]) -> list[Any]:
    """Return the labels in a list, which may be a list of rows with one label each."""
    return [row[0] if isinstance(row, (list, tuple)) and len(row) == 1 else row for row in y]


def _check_label_types(labels: Iterable[Any]) -> None:
    types = {type(label) for label in labels}
    alike = [
        all(issubclass(kind, base) for kind in types) for base in (str, (Number, np.bool_), bytes)
    ]
    if len(types) > 1 and not any(alike):
        names = sorted(kind.__name__ for kind in types)
        raise TypeError(
            f"y mixes labels of the types {names}; expected labels of one type, none of them "
            "missing."
        )


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    """Return sample weights as float64, 1 each where there are none.

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
        If they are not numbers.
    ValueError
        If one is negative or not finite, all are 0, or they are not as many as the samples.
    """
    if sample_weight is None:
        return np.ones(n_samples)
    _check_numbers(sample_weight)
    weights = check_sample_weight(sample_weight, np.empty(n_samples), dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"sample_weight must not be negative; the smallest is {weights.min():g}.")
    if not weights.any():
        raise ValueError("sample_weight must contain at least one non-zero number.")
    return weights


def _check_numbers(sample_weight: ArrayLike) -> None:
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
