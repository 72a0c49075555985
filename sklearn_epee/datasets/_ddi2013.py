"""Load DDI corpus 2013: interactions of two drugs."""

import os
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._csv_layout import TextSet, load_text_set
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS

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

_DDI2013 = TextSet(
    name="ddi2013",
    columns=("text", "label", "entity1", "entity2", "sentence", "id", "src"),
    target_names=(
        "advise",
        "effect",
        "false",
        "int",
        "mechanism",
    ),
    description=_DESCR,
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

    Nothing is downloaded: the files must be there.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds `ddi2013/{train,dev,test}.csv.gz`. By default the environment
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
        - `target_names`: ndarray of shape (5,), the classes in sorted order, as in the
          `classes_` of a classifier;
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
