"""Load GIT (GM-CIHT): relations of biomedicine and of complementary and integrative health."""

import os
import re
from pathlib import Path
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._download import RemoteFile
from sklearn_epee.datasets._loading import FETCHER_CONSTRAINTS, LOADER_CONSTRAINTS
from sklearn_epee.datasets._source import (
    Source,
    Table,
    first_existing,
    first_spans,
    json_lines,
    marked,
)

_DESCR = """GIT (GM-CIHT): relations of biomedicine and of complementary and integrative health

Lower-case sentences in which subject and object are marked, "[E1] ... [/E1]" and
"[E2] ... [/E2]"; the label is the predicate. Columns of the frame: text, label, entity1, entity2
and sentence (without the marks). As in the source, 27 texts occur in both dev and test, 3 in
train and dev, and 1 in train and test.

Classes: 22. Rows (train / dev / test): 3,734 / 492 / 465.

Source: https://github.com/ToneLi/BIoMedRAG, dataset/0_GM-CIHT; the split is the source's.
Licence: none stated by the source.
Citation: Li, M., Kilicoglu, H., Xu, H., Zhang, R.: BiomedRAG: A retrieval augmented large
language model for biomedicine. Journal of Biomedical Informatics 162, 104769 (2025).
"""

_COLUMNS = ("text", "label", "entity1", "entity2", "sentence")


def _find(folder: Path) -> Path | None:
    names = [f"renew_triplet_T_{part}.jsonl" for part in ("train", "dev", "test")]
    return None if first_existing(folder, *names) is None else folder


def _read(folder: Path, part: str) -> Table:
    path = folder / f"renew_triplet_T_{part}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"The file {str(path)!r} is missing.")
    rows = [_row(path, number, found) for number, found in json_lines(path)]
    if part == "test":
        # The source has each row of this file twice.
        rows = list(dict.fromkeys(rows))
    return {name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)}


def _row(path: Path, number: int, found: dict[str, Any]) -> tuple[str, ...]:
    try:
        label, entity1, entity2, sentence = (
            re.sub(" +", " ", found[name])
            for name in ("PREDICATE", "SUBJECT_TEXT", "OBJECT_TEXT", "SENTENCE")
        )
        entity1, entity2 = entity1.strip(), entity2.strip()
        spans = first_spans(sentence, entity1, entity2)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}, line {number}: expected PREDICATE, SUBJECT_TEXT, OBJECT_TEXT and SENTENCE, "
            f"each a str; got {sorted(found)}."
        ) from error
    if spans is None:
        raise ValueError(
            f"{path}, line {number}: {entity1!r} or {entity2!r} does not occur in the sentence."
        )
    return marked(sentence, *spans), label, entity1, entity2, sentence


_SOURCE = Source(
    page="https://github.com/ToneLi/BIoMedRAG",
    files="renew_triplet_T_train.jsonl, ..._dev.jsonl and ..._test.jsonl (dataset/0_GM-CIHT)",
    parts=("train", "dev", "test"),
    find=_find,
    read=_read,
    remote=tuple(
        RemoteFile(
            "https://raw.githubusercontent.com/ToneLi/BIoMedRAG/"
            f"899fc27f7849ed767f466ca125b1a47d0c0cca20/dataset/0_GM-CIHT/{name}",
            name,
        )
        for name in (f"renew_triplet_T_{part}.jsonl" for part in ("train", "dev", "test"))
    ),
)

_GIT = TextSet(
    name="git",
    columns=_COLUMNS,
    target_names=(
        "ADMINISTERED_TO",
        "AFFECTS",
        "ASSOCIATED_WITH",
        "AUGMENTS",
        "CAUSES",
        "COEXISTS_WITH",
        "COMPLICATES",
        "DIAGNOSES",
        "DISRUPTS",
        "DOES_NOT_TREAT",
        "INHIBITS",
        "INTERACTS_WITH",
        "MANIFESTATION_OF",
        "PRECEDES",
        "PREDISPOSES",
        "PREVENTS",
        "PROCESS_OF",
        "PRODUCES",
        "STIMULATES",
        "SYMPTOM_OF",
        "TREATS",
        "USES",
    ),
    description=_DESCR,
    source=_SOURCE,
)


@validate_params(LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_git(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load GIT, relations between two marked biomedical entities (classification).

    The subject and the object of each sentence are marked, `[E1] ... [/E1]` and
    `[E2] ... [/E2]`; the label is the predicate [1]_.

    Nothing is downloaded: the files must be there; :func:`fetch_git` downloads them. The
    source's own files are `renew_triplet_T_{train,dev,test}.jsonl` in the folder `git`. The
    first occurrences of both entities that do not overlap are marked, and of the rows of the
    test file, which are there twice, one is kept.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `git/{train,dev,test}.csv.gz`, or the source's own files in
        its folder `git`. By default the environment variable `SKLEARN_EPEE_DATA`
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
        - `target_names`: ndarray of shape (22,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `groups`: None;
        - `frame`: DataFrame with the columns `text`, `label`, `entity1`, `entity2`,
          `sentence` if `as_frame`; otherwise None;
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
    .. [1] Li, M., Kilicoglu, H., Xu, H., Zhang, R.: BiomedRAG: A retrieval augmented large
       language model for biomedicine. Journal of Biomedical Informatics 162, 104769 (2025).

    Examples
    --------
    >>> from sklearn_epee.datasets import load_git
    >>> X, y = load_git(subset="dev", return_X_y=True)
    >>> len(X), y[0].item()
    (492, 'INTERACTS_WITH')
    """
    return load_text_set(
        _GIT,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(FETCHER_CONSTRAINTS, prefer_skip_nested_validation=True)
def fetch_git(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Download git if necessary, and load it (classification).

    As :func:`load_git`, with the source's own files downloaded first where none
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
        As :func:`load_git` returns it.

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
    >>> from sklearn_epee.datasets import fetch_git
    >>> X, y = fetch_git(subset="dev", return_X_y=True)
    >>> len(X) == len(y)
    True
    """
    return load_text_set(
        _GIT,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
    )
