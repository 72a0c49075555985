"""Load GIT (GM-CIHT): relations of biomedicine and of complementary and integrative health."""

import os
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS

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

_GIT = TextSet(
    name="git",
    columns=("text", "label", "entity1", "entity2", "sentence"),
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

    Nothing is downloaded: the files must be there.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `git/{train,dev,test}.csv.gz`. By default the environment
        variable `SKLEARN_EPEE_DATA` names it.
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
