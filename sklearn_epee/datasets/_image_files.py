"""Load image files: one folder per class, or a table of paths."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import check_pandas_support, validate_params
from sklearn_epee.datasets._paths import expanded
from sklearn_epee.datasets._tables import existing_file, groups_of, labels_of, read_columns

_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2",
    ".dcm", ".dicom", ".ima",
)  # fmt: skip


@validate_params(
    {
        "path": [str, os.PathLike],
        "groups": [str, callable, None],
        "suffixes": [list, tuple, None],
        "as_frame": ["boolean"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_image_folder(
    path: str | os.PathLike[str],
    *,
    groups: str | Callable[[str], Any] | None = None,
    suffixes: Sequence[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """List the image files of a folder that has one folder per class (classification).

    The files are not read: :class:`~sklearn_epee.EPEEImageClassifier` takes their paths and reads
    them when it needs them.

    Parameters
    ----------
    path : str or path-like
        A folder of folders: the name of each is the label of the files in it, and of those in
        folders below it. Hidden files and folders are left out.
    groups : str, callable or None, default=None
        Group of each file, such as its patient. A regular expression that is searched in the path
        within the folder (with "/" between folders); the group is what its first parentheses hold,
        or all that it matches. Or a function of that path.
    suffixes : list of str or None, default=None
        Ends of the names of image files, in any case; other files are left out. None takes those of
        PNG, JPEG, TIFF, BMP, GIF, WebP, PPM, PGM, JPEG 2000 and DICOM (``.dcm``, ``.dicom``,
        ``.ima``). ``[""]`` takes all files.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str (or Series), of length n_samples, the paths, in their order;
        - `target`: ndarray (or Series) of shape (n_samples,), the names of the folders;
        - `target_names`: ndarray, the classes in sorted order;
        - `groups`: ndarray of shape (n_samples,) or None;
        - `frame`: DataFrame with the columns `path`, `label` and, with groups, `group` if
          `as_frame`; otherwise None;
        - `DESCR`: str.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it has no folders, one of them holds no image files, or `groups` does not match a path.
    ImportError
        If `as_frame` is True and pandas is not installed.

    See Also
    --------
    load_image_csv : Paths and labels from a table.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from sklearn_epee.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("benign/p1_left.png", "benign/p2.png", "malignant/p1_right.png"):
    ...         file = pathlib.Path(folder, name)
    ...         file.parent.mkdir(exist_ok=True)
    ...         Image.new("L", (28, 28)).save(file)
    ...     images = load_image_folder(folder, groups=r"p[0-9]+")
    >>> images.target.tolist(), images.groups.tolist()
    (['benign', 'benign', 'malignant'], ['p1', 'p2', 'p1'])
    """
    folder = expanded(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"path: there is no folder {str(path)!r}.")
    ends = tuple(end.lower() for end in (_SUFFIXES if suffixes is None else suffixes))
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _is_shown(entry))
    if not classes:
        raise ValueError(
            f"path: the folder {str(folder)!r} has no folders in it; expected one per class. "
            "Where the labels are in a table, load_image_csv reads it."
        )
    files: list[Path] = []
    labels: list[str] = []
    for each in classes:
        found = _image_files(each, ends)
        if not found:
            raise ValueError(
                f"path: the folder {str(each)!r} holds no file that ends in {', '.join(ends)}. "
                "Give other suffixes, or remove the folder."
            )
        files.extend(found)
        labels.extend([each.name] * len(found))
    within = [file.relative_to(folder).as_posix() for file in files]
    members = None if groups is None else _groups_of(within, groups)
    return _bunch(
        list(map(str, files)),
        np.array(labels),
        members,
        as_frame=as_frame,
        return_X_y=return_X_y,
        description=f"Image files of {folder}, one folder per class.",
    )


def _is_shown(entry: Path) -> bool:
    return not entry.name.startswith((".", "__MACOSX"))


def _image_files(folder: Path, ends: tuple[str, ...]) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.name.lower().endswith(ends)
        and all(_is_shown(part) for part in [file, *file.relative_to(folder).parents])
        and file.is_file()
    )


def _groups_of(within: list[str], groups: str | Callable[[str], Any]) -> Any:
    if callable(groups):
        return np.array([groups(name) for name in within])
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise ValueError(f"groups={groups!r} is not a regular expression: {error}.") from error
    found = []
    for name in within:
        match = pattern.search(name)
        if match is None:
            raise ValueError(f"groups={groups!r} does not match the path {name!r}.")
        found.append(match[1 if pattern.groups else 0])
    return np.array(found)


@validate_params(
    {
        "path": [str, os.PathLike],
        "image": [str],
        "label": [str, list, tuple, None],
        "groups": [str, None],
        "root": [str, os.PathLike, None],
        "delimiter": [str, None],
        "encoding": [str],
        "as_frame": ["boolean"],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_image_csv(
    path: str | os.PathLike[str],
    *,
    image: str = "path",
    label: str | Sequence[str] | None = "label",
    groups: str | None = None,
    root: str | os.PathLike[str] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    r"""List image files with labels from a CSV or TSV file (classification).

    The image files are not read: :class:`~sklearn_epee.EPEEImageClassifier` takes their paths and
    reads them when it needs them.

    Parameters
    ----------
    path : str or path-like
        A file with the names of the columns in its first row, which may be compressed with gzip
        (``.gz``).
    image : str, default="path"
        The column of the paths.
    label : str, list of str or None, default="label"
        The column of the labels, or several. Columns of nothing but 0 and 1 are an indicator of
        several labels, others are several tasks. None for images without labels.
    groups : str or None, default=None
        The column of what rows have in common, such as their patient.
    root : str or path-like, default=None
        The folder that the paths start from. None is the folder of the table. Absolute paths are
        taken as they are.
    delimiter : str or None, default=None
        None takes tabs for ``.tsv`` and ``.tab``, and commas for all others.
    encoding : str, default="utf-8"
        Of the table.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str (or Series), of length n_samples, the paths;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str, or (n_samples,
          n_columns) (or DataFrame); None without labels;
        - `target_names`: ndarray, the classes in sorted order, or the names of several columns;
        - `groups`: ndarray of shape (n_samples,) or None;
        - `frame`: DataFrame of the paths, labels and groups if `as_frame`; otherwise None;
        - `DESCR`: str.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If there is no such table, or an image file of it is missing; the message names the line.
    ValueError
        If the table is in another encoding, has no such column, rows of another length than its
        first, or an empty label or group; the message names the file and the line.
    ImportError
        If `as_frame` is True and pandas is not installed.

    See Also
    --------
    load_image_folder : Paths from a folder that has one folder per class.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from PIL import Image
    >>> from sklearn_epee.datasets import load_image_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (28, 28)).save(pathlib.Path(folder, "a.png"))
    ...     table = pathlib.Path(folder, "images.csv")
    ...     _ = table.write_text("path,label\na.png,benign\n")
    ...     images = load_image_csv(table)
    >>> images.target.tolist(), pathlib.Path(images.data[0]).name
    (['benign'], 'a.png')
    """
    file = existing_file(path)
    labels = [] if label is None else [label] if isinstance(label, str) else list(label)
    wanted = list(dict.fromkeys([image, *labels, *([groups] if groups else [])]))
    table, lines = read_columns(file, wanted, delimiter=delimiter, encoding=encoding)
    start = file.parent if root is None else expanded(root)
    files = [str(start / name) for name in table[image]]
    for name, line in zip(files, lines, strict=True):
        if not Path(name).is_file():
            raise FileNotFoundError(
                f"{file}, line {line}: there is no file {name!r}; give the folder that the paths "
                "start from as root."
            )

    def place(number: int) -> str:
        return f"{file}, line {lines[number]}"

    return _bunch(
        files,
        None if label is None else labels_of(table, label, place),
        groups_of(table[groups], groups, place) if groups else None,
        as_frame=as_frame,
        return_X_y=return_X_y,
        description=f"Image files of the table {file}.",
        names=None if label is None or isinstance(label, str) else labels,
    )


def _bunch(
    paths: list[str],
    target: Any,
    groups: Any,
    *,
    as_frame: bool,
    return_X_y: bool,
    description: str,
    names: list[str] | None = None,
) -> Any:
    data: Any = paths
    frame = None
    target_names = np.unique(target) if names is None and target is not None else names
    if as_frame:
        pandas = check_pandas_support("as_frame=True")
        frame = pandas.DataFrame({"path": paths})
        if target is not None:
            frame[["label"] if names is None else names] = target.reshape(len(paths), -1)
            target = frame["label" if names is None else names]
        if groups is not None:
            frame["group"] = groups
        data = frame["path"]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=None if target_names is None else np.asarray(target_names),
        groups=groups,
        frame=frame,
        DESCR=description,
    )
