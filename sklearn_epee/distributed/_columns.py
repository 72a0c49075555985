"""Columns that are read, columns that are appended, and their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.wrappers import chain, known_tasks, predicts_words, step_inwards

MISSING = ("error", "null", "pass")
# Kinds of columns by NumPy's dtype kinds.
_KINDS = {"U": "string", "b": "boolean", "i": "integer", "u": "integer", "f": "float"}


@dataclass(frozen=True)
class AppendedColumn:
    """One appended column.

    Parameters
    ----------
    name : str
    kind : {"string", "boolean", "integer", "float", "float32", "spans"}
        "spans" are lists of structs of start and end, integers, and label, a string.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Plan:
    """How to predict every batch of rows.

    Parameters
    ----------
    read : str or tuple of str
        Columns that the estimator gets: a Series for a str, a frame for a tuple.
    appended : tuple of AppendedColumn
    missing : {"error", "null", "pass"}
        How to treat rows with nulls in `read`.
    threads : int
        Number of torch threads in each process during prediction.
    """

    read: str | tuple[str, ...]
    appended: tuple[AppendedColumn, ...]
    missing: str
    threads: int

    @property
    def layers_of_spans(self) -> int:
        """Number of columns of spans, for token classifiers."""
        return sum(column.kind == "spans" for column in self.appended)

    @property
    def read_names(self) -> list[str]:
        """Names of the columns that are read."""
        return [self.read] if isinstance(self.read, str) else list(self.read)


def make_plan(
    estimator: Any,
    columns: str | Sequence[str],
    present: Iterable[Any],
    *,
    prefix: str,
    missing: str,
    threads: int,
    ignores_case: bool = False,
) -> Plan:
    """Return the plan for the batches of a table.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    columns : str or sequence of str
        Columns to read.
    present : iterable of str
        Columns of the table.
    prefix : str
        Prefix of the names of appended columns.
    missing : {"error", "null", "pass"}
    threads : int
    ignores_case : bool, default=False
        Whether the engine ignores the case of column names.

    Returns
    -------
    Plan

    Raises
    ------
    TypeError
        If the estimator has no early exits, or an argument is of a wrong type.
    ValueError
        If a column is missing, or an appended column would have the name of another.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix={shown(prefix)} is not a str.")
    if missing not in MISSING:
        raise ValueError(f"missing={shown(missing)}; expected one of {', '.join(MISSING)}.")
    if not isinstance(threads, Integral) or isinstance(threads, bool) or threads < 1:
        raise ValueError(f"threads_per_worker={shown(threads)}; expected an integer from 1.")
    names = list(present)
    read = _columns_to_read(columns, names)
    appended = tuple(_appended(_found_in(estimator), prefix))
    _check_distinct(names, [column.name for column in appended], ignores_case)
    return Plan(read, appended, missing, int(threads))


def _columns_to_read(columns: Any, present: list[Hashable]) -> str | tuple[str, ...]:
    if isinstance(columns, str):
        read: str | tuple[str, ...] = columns
    elif isinstance(columns, (list, tuple)) and columns:
        read = tuple(columns)
    else:
        raise TypeError(
            f"columns={shown(columns)}; expected the name of a column, or a list of names."
        )
    absent = [name for name in ([read] if isinstance(read, str) else read) if name not in present]
    if absent:
        raise ValueError(
            f"columns names {', '.join(map(repr, absent))}, which the table does not have; it has "
            f"{', '.join(map(repr, present))}."
        )
    return read


def _found_in(estimator: Any) -> Tasks | Any:
    """Return the tasks of a fitted estimator, if its predictions are those of its exits.

    For token classifiers, return ``classes_``.
    """
    path = []
    for link in chain(estimator):
        path.append(type(link).__name__)
        if hasattr(link, "predict_with_exits"):
            check_is_fitted(link, "n_layers_")
            if predicts_words(link):
                return link.classes_
            break
        step = step_inwards(link)
        if step is None or not step.is_transparent:
            raise TypeError(
                "estimator must be a classifier with early exits (one with a method "
                "predict_with_exits), or a pipeline, search object or frozen estimator that "
                f"predicts what such a classifier does; got {' > '.join(path)}."
            )
    tasks = known_tasks(estimator)
    if tasks is None:
        raise TypeError(f"estimator has no classes_ ({' > '.join(path)}).")
    return tasks


def _appended(tasks: Tasks | Any, prefix: str) -> list[AppendedColumn]:
    """Return predictions, the exit layer, entropies and probabilities, in this order."""
    if not isinstance(tasks, Tasks):
        return _appended_of_words(tasks, prefix)
    if tasks.multilabel:
        suffixes = [f"_{label}" for label in tasks.classes]
        kinds = ["integer"] * len(suffixes)
        proba = suffixes
    elif isinstance(tasks.classes, list):
        suffixes = [f"_{number}" for number in range(len(tasks.classes))]
        kinds = [_kind(classes) for classes in tasks.classes]
        pairs = zip(suffixes, tasks.classes, strict=True)
        proba = [f"{suffix}_{name}" for suffix, classes in pairs for name in classes]
    else:
        suffixes, kinds = [""], [_kind(tasks.classes)]
        proba = [f"_{name}" for name in tasks.classes]
    pairs_of_kinds = zip(suffixes, kinds, strict=True)
    return [
        *(AppendedColumn(f"{prefix}prediction{suffix}", kind) for suffix, kind in pairs_of_kinds),
        AppendedColumn(f"{prefix}exit_layer", "integer"),
        *(AppendedColumn(f"{prefix}entropy{suffix}", "float32") for suffix in suffixes),
        *(AppendedColumn(f"{prefix}proba{suffix}", "float32") for suffix in proba),
    ]


def _appended_of_words(tags: Any, prefix: str) -> list[AppendedColumn]:
    """Return spans, the exit layer and entropies, in this order."""
    suffixes = [f"_{layer}" for layer in tags] if isinstance(tags, dict) else [""]
    return [
        *(AppendedColumn(f"{prefix}spans{suffix}", "spans") for suffix in suffixes),
        AppendedColumn(f"{prefix}exit_layer", "integer"),
        *(AppendedColumn(f"{prefix}entropy{suffix}", "float32") for suffix in suffixes),
    ]


def _kind(classes: Any) -> str:
    found = np.asarray(classes)
    if found.dtype.kind == "O" and all(isinstance(label, str) for label in found):
        return "string"
    if found.dtype.kind not in _KINDS:
        raise TypeError(
            f"The classes {shown(found.tolist())} have the dtype {found.dtype}, for which tables "
            "have no column; expected str, bool, int or float."
        )
    return _KINDS[found.dtype.kind]


def _check_distinct(present: list[Any], appended: list[str], ignores_case: bool) -> None:
    def same(name: Any) -> Any:
        return name.lower() if ignores_case and isinstance(name, str) else name

    counts = Counter(map(same, present)) + Counter(map(same, appended))
    twice = [name for name in [*present, *appended] if counts[same(name)] > 1]
    if not twice:
        return
    note = " (the engine ignores case)" if ignores_case else ""
    if set(map(same, twice)) <= set(map(same, present)) - set(map(same, appended)):
        raise ValueError(f"The table has several columns named {shown(twice[0])}{note}.")
    names = ", ".join(dict.fromkeys(map(repr, twice)))
    raise ValueError(
        f"Columns of the table and appended ones would have the same name{note}: {names}. Pass "
        "another prefix, such as prefix='epee_', or rename columns."
    )
