"""Load DDI corpus 2013: interactions of two drugs."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from sklearn.model_selection import StratifiedGroupKFold

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._download import RemoteFile
from sklearn_epee.datasets._loading import FETCHER_CONSTRAINTS, LOADER_CONSTRAINTS
from sklearn_epee.datasets._readers import corpus_files, ddi_rows, warn_of_offsets, whole_span
from sklearn_epee.datasets._source import Source, Table, first_existing, marked

_DESCR = """DDI corpus 2013: interactions of two drugs

Every candidate pair of drugs in a sentence, the two marked "[E1] ... [/E1]" and
"[E2] ... [/E2]"; the label is the type of their interaction, or "false". Columns of the frame:
text, label, entity1, entity2, sentence (without the marks), id (of the pair) and src (DrugBank or
MedLine). dev is one tenth of the source's training pairs, split by document. Of the marked texts
46 occur in both train and dev and 33 in train and test.

Classes: 5. Rows (train / dev / test): 25,018 / 2,774 / 5,716.

Source: https://github.com/isegura/DDICorpus (DDICorpus-2013.zip); train and test are the
source's.
Licence: CC BY-NC 4.0.
Citation: Herrero-Zazo, M., Segura-Bedmar, I., Martinez, P., Declerck, T.: The DDI corpus: An
annotated corpus with pharmacological substances and drug-drug interactions. Journal of
Biomedical Informatics 46(5), 914-920 (2013).
"""

_COLUMNS = ("text", "label", "entity1", "entity2", "sentence", "id", "src")


def _find(folder: Path) -> Path | None:
    found = first_existing(folder, "DDICorpus-2013.zip", "DDICorpus", "Train")
    return found.parent if found is not None and found.name == "Train" else found


def _read(corpus: Path, part: str) -> Table:
    wanted = "test" if part == "test" else "train"
    rows = [
        row
        for file in corpus_files(corpus, (".xml",), what="load_ddi2013")
        if _part_of(file.relative) == wanted
        for row in ddi_rows(file)
    ]
    if not rows:
        raise ValueError(f"{corpus} has no pairs in a folder {wanted.capitalize()}.")
    warn_of_offsets(rows)
    if part != "test":
        in_dev = _in_dev(rows)
        rows = [row for row, is_dev in zip(rows, in_dev, strict=True) if is_dev == (part == "dev")]
    return {name: [_column(row, name) for row in rows] for name in _COLUMNS}


def _part_of(relative: PurePosixPath) -> str | None:
    """Return the part of a file; the test part has a folder for the task of entities, too."""
    folders = [folder.lower() for folder in relative.parts[:-1]]
    if any("drugner" in folder for folder in folders):
        return None
    return next((name for name in ("train", "test") if name in folders), None)


def _in_dev(rows: list[dict[str, Any]]) -> list[bool]:
    """Return which training pairs make up dev: the first of ten folds of documents."""
    labels, documents = ([row[name] for row in rows] for name in ("label", "document"))
    n_splits = min(10, len(set(documents)))
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=0)
    held_out = set(next(folds.split(labels, labels, documents))[1].tolist())
    return [row in held_out for row in range(len(rows))]


def _column(row: dict[str, Any], name: str) -> str:
    if name == "text":
        # A mention in several pieces is marked from its first to its last character.
        ends = [whole_span(row[span]) for span in ("span1", "span2")]
        return marked(row["text"], *ends)
    if name == "sentence":
        return str(row["text"])
    if name == "src":
        return "MedLine" if "MedLine" in row["document"] else "DrugBank"
    return str(row[name])


_SOURCE = Source(
    page="https://github.com/isegura/DDICorpus",
    files="the archive DDICorpus-2013.zip, or its folders Train and Test,",
    parts=("train", "dev", "test"),
    find=_find,
    read=_read,
    remote=(
        RemoteFile(
            "https://raw.githubusercontent.com/isegura/DDICorpus/"
            "819b0fa538ed83ab2a8b4f5417bba3c03249b7f3/DDICorpus-2013.zip",
            "DDICorpus-2013.zip",
        ),
    ),
)

_DDI2013 = TextSet(
    name="ddi2013",
    columns=_COLUMNS,
    target_names=(
        "advise",
        "effect",
        "false",
        "int",
        "mechanism",
    ),
    description=_DESCR,
    source=_SOURCE,
    # Of an id such as DDI-DrugBank.d8.s0.p0.
    group_of=lambda pair: ".".join(pair.split(".")[:2]),
    grouped_by="id",
)


@validate_params(LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_ddi2013(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load the DDI corpus of 2013, interactions of two marked drugs (classification).

    The two drugs of a candidate pair are marked in the sentence, `[E1] ... [/E1]` and
    `[E2] ... [/E2]`; most pairs do not interact, label `"false"` [1]_.

    Nothing is downloaded: the files must be there; :func:`fetch_ddi2013` downloads them. The
    source's own files are `DDICorpus-2013.zip`, or its folders `Train` and `Test`, in the
    folder `ddi2013`. They give the same rows: dev is the first of ten stratified folds of
    training documents (``StratifiedGroupKFold(10, shuffle=True, random_state=0)``).

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `ddi2013/{train,dev,test}.csv.gz`, or the source's own files in
        its folder `ddi2013`. By default the environment variable `SKLEARN_EPEE_DATA`
        names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str (or Series), of length n_samples, the texts;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str;
        - `target_names`: ndarray of shape (5,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `frame`: DataFrame with the columns `text`, `label`, `entity1`, `entity2`,
          `sentence`, `id`, `src` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or if a file lacks columns, has rows of
        another length than its header or has unknown labels.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Herrero-Zazo, M., Segura-Bedmar, I., Martinez, P., Declerck, T.: The DDI corpus:
       An annotated corpus with pharmacological substances and drug-drug interactions.
       Journal of Biomedical Informatics 46(5), 914-920 (2013).

    Examples
    --------
    >>> from sklearn_epee.datasets import load_ddi2013
    >>> X, y = load_ddi2013(subset="dev", return_X_y=True)
    >>> len(X), y[0].item()
    (2774, 'effect')
    """
    return load_text_set(
        _DDI2013,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(FETCHER_CONSTRAINTS, prefer_skip_nested_validation=True)
def fetch_ddi2013(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Download ddi2013 if necessary, and load it (classification).

    As :func:`load_ddi2013`, with the source's own files downloaded first where none
    are there. An interrupted download is resumed by the next call.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder into which sets are downloaded, each into a folder of its own. By default the
        environment variable `SKLEARN_EPEE_DATA` names it, otherwise it is `~/sklearn_epee_data`.
    download_if_missing : bool, default=True
        If False, raise an error if files are missing.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_ddi2013` returns it.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If a parameter is not as described, or a file is not as expected.
    FileNotFoundError
        If files are missing and `download_if_missing` is False.
    OSError
        If a file cannot be downloaded; the message says where to get it and where to put it.
    ImportError
        If `as_frame` is True and pandas is not installed.

    Examples
    --------
    >>> from sklearn_epee.datasets import fetch_ddi2013
    >>> X, y = fetch_ddi2013(subset="dev", return_X_y=True)
    >>> len(X) == len(y)
    True
    """
    return load_text_set(
        _DDI2013,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
    )
