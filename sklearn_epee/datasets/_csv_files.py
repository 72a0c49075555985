"""Load your own texts: CSV and TSV files, and data frames, by column names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import check_pandas_support, validate_params
from sklearn_epee.datasets._tables import existing_file, groups_of, labels_of, read_columns

_DESCR = """Texts of {source}: the column {text}, with the labels {label}."""


@validate_params(
    {
        "path": "no_validation",
        "text": [str, list, tuple],
        "label": [str, list, tuple, None],
        "groups": [str, None],
        "delimiter": [str, None],
        "encoding": [str],
        "as_frame": ["boolean"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_csv(
    path: Any,
    *,
    text: str | Sequence[str] = "text",
    label: str | Sequence[str] | None = "label",
    groups: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    r"""Load texts with labels from a CSV or TSV file, or from a frame (classification).

    For data of one's own and for credentialed data, such as the notes of MIMIC-III
    (``text="TEXT"``, ``groups="SUBJECT_ID"``).

    Parameters
    ----------
    path : str, path-like or DataFrame
        A file with the names of the columns in its first row, which may be compressed with gzip
        (``.gz``), or a frame of pandas or polars.
    text : str or two str, default="text"
        The column of the texts, or two columns of pairs of texts.
    label : str, list of str or None, default="label"
        The column of the labels, or several. Columns of nothing but 0 and 1 are an indicator of
        several labels, others are several tasks. None for texts without labels.
    groups : str or None, default=None
        The column of what rows have in common, such as their patient or document.
    delimiter : str or None, default=None
        None takes tabs for ``.tsv`` and ``.tab``, and commas for all others.
    encoding : str, default="utf-8"
        Of the file.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str (or Series), of length n_samples, the texts; with two columns list of
          tuples of two str (or DataFrame). An empty cell of a file is the text ''; a text that is
          missing in a frame stays missing, and classifiers refuse it;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str, or (n_samples,
          n_columns) (or DataFrame); None without labels. The labels of a frame keep their type;
        - `target_names`: ndarray, the classes in sorted order, or the names of several columns;
        - `groups`: ndarray of shape (n_samples,) or None;
        - `frame`: DataFrame of the columns asked for if `as_frame`; otherwise None;
        - `DESCR`: str.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is in another encoding, has no such column, rows of another length than its
        first, or an empty or missing label or group; the message names the file and the line.
        Among numbers in several columns of labels some may be missing.
    TypeError
        If `path` is neither a path nor a frame.
    ImportError
        If `as_frame` is True and pandas is not installed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import load_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "notes.csv")
    ...     _ = file.write_text("note,icu,patient\nstable,no,7\nintubated,yes,8\n")
    ...     notes = load_csv(file, text="note", label="icu", groups="patient")
    >>> notes.data, notes.target.tolist(), notes.groups.tolist()
    (['stable', 'intubated'], ['no', 'yes'], ['7', '8'])
    """
    texts = _names(text, "text", most=2)
    labels = [] if label is None else _names(label, "label")
    wanted = list(dict.fromkeys([*texts, *labels, *([groups] if groups else [])]))
    table, place = _table(path, wanted, delimiter, encoding)
    target = None if label is None else labels_of(table, label, place)
    members = None if groups is None else groups_of(table[groups], groups, place)
    pairs = [tuple(row) for row in zip(*(table[name] for name in texts), strict=True)]
    data: Any = [row[0] for row in pairs] if len(texts) == 1 else pairs
    frame = None
    if as_frame:
        frame = check_pandas_support("load_csv with as_frame=True").DataFrame(table)
        data = frame[texts[0] if len(texts) == 1 else texts]
        if isinstance(label, str):
            target = frame[label]
        elif target is not None:
            frame[labels] = target
            target = frame[labels]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=_target_names(target, label),
        groups=members,
        frame=frame,
        DESCR=_DESCR.format(
            source=path if isinstance(path, (str, os.PathLike)) else "a frame",
            text=text,
            label=label,
        ),
    )


def _names(names: str | Sequence[str], argument: str, most: int | None = None) -> list[str]:
    found = [names] if isinstance(names, str) else list(names)
    are_names = all(isinstance(name, str) for name in found) and len(set(found)) == len(found)
    if not found or not are_names or (most is not None and len(found) > most):
        wanted = "one or two" if most == 2 else "one or more"
        raise ValueError(f"{argument} must name {wanted} columns; got {names!r}.")
    return found


def _table(
    path: Any, wanted: list[str], delimiter: str | None, encoding: str
) -> tuple[dict[str, list[Any]], Callable[[int], str]]:
    if isinstance(path, (str, os.PathLike)):
        file = existing_file(path)
        table, lines = read_columns(file, wanted, delimiter=delimiter, encoding=encoding)
        return table, lambda number: f"{file}, line {lines[number]}"
    if not hasattr(path, "columns") or not hasattr(path, "__getitem__"):
        raise TypeError(f"path must be a path or a frame; got {type(path).__name__}.")
    missing = [name for name in wanted if name not in list(path.columns)]
    if missing:
        raise ValueError(
            f"path: the frame has no columns {missing}; got the columns {list(path.columns)}."
        )
    return {name: list(path[name]) for name in wanted}, lambda number: f"row {number} of the frame"


def _target_names(target: Any, label: str | Sequence[str] | None) -> Any:
    if label is None:
        return None
    return np.unique(target) if isinstance(label, str) else np.array(list(label))
