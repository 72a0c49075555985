"""Predict one batch of rows: a pandas data frame in, the appended columns out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._compat import check_pandas_support
from sklearn_epee._exits.wrappers import find_exits

from ._columns import Plan, make_plan

_DTYPES = {
    "string": "string", "boolean": "bool", "integer": "int64", "float": "float64",
    "float32": "float32", "spans": "object",
}  # fmt: skip
# Types with missing values; a missing float is NaN.
_NULLABLE = _DTYPES | {"boolean": "boolean", "integer": "Int64"}


def predict_frame(
    estimator: Any,
    frame: Any,
    columns: str | Sequence[str],
    *,
    prefix: str = "",
    missing: str = "error",
    threads_per_worker: int = 1,
) -> Any:
    """Return a pandas data frame with predictions appended, computed in this process.

    :func:`predict_spark`, :func:`predict_dask` and :func:`predict_ray` do this for every batch.

    Parameters
    ----------
    estimator : estimator
        Fitted classifier with early exits, or a pipeline, search object, tuned or fixed policy
        around one.
    frame : pandas.DataFrame
        Rows to predict; not modified.
    columns : str or list of str
        Input of the estimator. A str: that column, as a Series of texts or paths of images. A
        list: these columns, as a frame, for pairs of texts, for a `ColumnTransformer`, or for
        texts with images.
    prefix : str, default=""
        Prefix of the names of appended columns.
    missing : {"error", "null", "pass"}, default="error"
        How to treat rows with a null (None, NaN, NA) in `columns`. "error": raise an error. "null":
        their appended columns are null. "pass": they are passed to the estimator, which can support
        them, such as :class:`~sklearn_epee.EPEEMultimodalClassifier`.
    threads_per_worker : int, default=1
        Number of torch threads during prediction.

    Returns
    -------
    pandas.DataFrame
        The columns of `frame` in its order, and after them ``prediction``; ``exit_layer``, int64;
        ``entropy``, float32; and for each class a column ``proba_<class>``, float32. Several tasks
        have ``prediction_<i>``, ``entropy_<i>`` and ``proba_<i>_<class>``, counted from 0, and
        several labels ``prediction_<label>``, ``entropy_<label>`` and ``proba_<label>``. Token
        classifiers have ``spans``, a list of dicts with start, end and label, ``exit_layer`` of the
        word that exits last, and ``entropy``, the largest of its words; with several layers of
        spans ``spans_<layer>`` and ``entropy_<layer>``. With ``missing="null"`` integers are Int64.

    Raises
    ------
    TypeError
        If `frame` is not a data frame, or the estimator is not a classifier with early exits.
    ValueError
        If `columns` do not exist, an appended column would have the name of another, or a value
        is missing.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_epee import EPEEClassifier
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> from sklearn_epee.distributed import predict_frame
    >>> X, y = make_supplement_notes(40, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
    >>> notes = pd.DataFrame({"id": range(40), "note": X})
    >>> found = predict_frame(clf, notes, "note")
    >>> list(found.columns[:5])
    ['id', 'note', 'prediction', 'exit_layer', 'entropy']
    >>> found["prediction"].tolist() == clf.predict(X).tolist()
    True
    """
    pandas = check_pandas_support("predict_frame")
    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(f"frame is of type {type(frame).__name__}; expected a pandas.DataFrame.")
    plan = make_plan(
        estimator,
        columns,
        frame.columns,
        prefix=prefix,
        missing=missing,
        threads=threads_per_worker,
    )
    return with_predictions(estimator, frame, plan)


def with_predictions(estimator: Any, frame: Any, plan: Plan) -> Any:
    """Return a frame with the appended columns of a plan, in the frame's order and index."""
    pd = check_pandas_support("Prediction over tables")
    return pd.concat([frame, appended_columns(estimator, frame, plan)], axis=1)


def appended_columns(estimator: Any, frame: Any, plan: Plan) -> Any:
    """Return only the appended columns, with the index of a frame, which can be empty.

    Parameters
    ----------
    estimator : estimator or None
        None if the frame has no rows.
    frame : pandas.DataFrame
    plan : Plan

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    ValueError
        If a value is missing and the plan has ``missing="error"``, or the estimator does not accept
        a row.
    """
    pd = check_pandas_support("Prediction over tables")
    rows = np.flatnonzero(_to_predict(frame, plan))
    values = _predicted(estimator, frame.iloc[rows], plan) if len(rows) else None
    dtypes = _NULLABLE if plan.missing == "null" else _DTYPES
    found = {}
    for i, column in enumerate(plan.appended):
        given: Any = [] if values is None else values[i]
        series = pd.Series(given, index=rows, dtype=dtypes[column.kind])
        found[column.name] = series.reindex(range(len(frame))) if len(rows) < len(frame) else series
    columns = pd.DataFrame(found)
    columns.index = frame.index
    return columns


def _to_predict(frame: Any, plan: Plan) -> NDArray[np.bool_]:
    """Return which rows are predicted."""
    if plan.missing == "pass":
        return np.ones(len(frame), dtype=bool)
    nulls = frame[plan.read_names].isna().to_numpy(dtype=bool)
    bad = nulls.any(axis=1)
    if plan.missing == "error" and bad.any():
        row = int(bad.argmax())
        name = plan.read_names[int(nulls[row].argmax())]
        # The message does not contain values, which can be patient data, as clusters log messages.
        raise ValueError(
            f"Column {name!r} has no value in the row of index {frame.index[row]!r} (row {row} of "
            f"its batch of {len(frame)}, in which {int(bad.sum())} rows lack a value; select nulls "
            "in that column to see them). Drop or fill such rows, or pass missing='null' for nulls "
            "in the appended columns."
        )
    return ~bad


def _predicted(estimator: Any, frame: Any, plan: Plan) -> list[NDArray[Any]]:
    """Return the values of each appended column."""
    X = frame[plan.read] if isinstance(plan.read, str) else frame[list(plan.read)]
    try:
        with limited_threads(plan.threads):
            found = find_exits(estimator, X)
            result = found.classifier.predict_with_exits(found.X)
    except (TypeError, ValueError) as error:
        error.add_note(
            f"X are the {len(X)} rows of one batch, of index {frame.index[0]!r} to "
            f"{frame.index[-1]!r}."
        )
        raise
    if plan.layers_of_spans:
        return _values_of_words(result, len(X))
    proba = result.proba if isinstance(result.proba, list) else [result.proba]
    labels, entropy = np.asarray(result.labels), np.asarray(result.entropy)
    return [
        *labels.reshape(len(X), -1).T,
        np.asarray(result.exit_layer),
        *entropy.reshape(len(X), -1).T,
        *np.concatenate([np.asarray(part).T for part in proba]),
    ]


def _values_of_words(result: Any, n: int) -> list[Any]:
    """Return spans, exit layers of the last word to exit, and the largest entropies of words."""
    spans = result.spans
    layers = list(spans[0]) if isinstance(spans[0], dict) else [None]
    tables = [
        _structs(spans if name is None else [each[name] for each in spans]) for name in layers
    ]
    exits = [np.max(layer, initial=1) for layer in result.exit_layer]
    entropy = np.full((n, len(layers)), np.nan, dtype=np.float32)
    for row, words in enumerate(result.entropy):
        if len(words):
            entropy[row] = np.reshape(words, (len(words), -1)).max(axis=0)
    return [*tables, np.array(exits), *entropy.T]


def _structs(spans: list[Any]) -> list[list[dict[str, Any]]]:
    return [
        [{"start": int(start), "end": int(end), "label": str(label)} for start, end, label in found]
        for found in spans
    ]


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Limit the number of torch threads inside the block, if torch was imported.

    The number is set for the calling thread only, so that threads of a worker do not affect each
    other.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
