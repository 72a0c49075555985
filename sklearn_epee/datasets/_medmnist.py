"""Load image sets of MedMNIST."""

import os
from typing import Any

from sklearn_epee._compat import validate_params
from sklearn_epee.datasets._npz_layout import IMAGE_CONSTRAINTS, ImageSet, load_image_set

_CITATION = """Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H., Ni, B.:
MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification. Scientific Data 10, 41 (2023)."""

_BREASTMNIST = ImageSet(
    name="breastmnist",
    image_shape=(28, 28),
    class_names=(
        "malignant",
        "normal, benign",
    ),
    description=f"""BreastMNIST: ultrasound images of the breast, 28 x 28

Classes: 2. Images (train / val / test; "dev" is another name of val): 546 / 78 / 156.

Source: https://medmnist.com, breastmnist.npz; the split is the source's.
Licence: CC BY 4.0.
Citation: Al-Dhabyani, W., Gomaa, M., Khaled, H., Fahmy, A.: Dataset of breast ultrasound
images. Data in Brief 28, 104863 (2020).
{_CITATION}
""",
)

_PNEUMONIAMNIST = ImageSet(
    name="pneumoniamnist",
    image_shape=(28, 28),
    class_names=(
        "normal",
        "pneumonia",
    ),
    description=f"""PneumoniaMNIST: chest X-rays of children, 28 x 28

Classes: 2. Images (train / val / test; "dev" is another name of val): 4,708 / 524 / 624.

Source: https://medmnist.com, pneumoniamnist.npz; the split is the source's.
Licence: CC BY 4.0.
Citation: Kermany, D. S., Goldbaum, M., Cai, W., et al.: Identifying medical diagnoses and
treatable diseases by image-based deep learning. Cell 172(5), 1122-1131 (2018).
{_CITATION}
""",
)

_PATHMNIST_SUBSET = ImageSet(
    name="pathmnist_subset",
    image_shape=(28, 28, 3),
    class_names=(
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    description=f"""A tenth of the test part of PathMNIST: histology of the colon, 28 x 28, RGB

Classes: 9. Images (train / val / test; "dev" is another name of val): 502 / 72 / 144.

Source: https://github.com/leemingen1227/MedMNIST-app, static/pathmnist.npz (718 of the 7,180
test images of PathMNIST); split again 70/10/20, so that results do not compare with those on
PathMNIST.
Licence: CC BY 4.0.
Citation: Kather, J. N., Krisam, J., Charoentong, P., et al.: Predicting survival from
colorectal cancer histology slides using deep learning: A retrospective multicenter study. PLoS
Medicine 16(1), e1002730 (2019).
{_CITATION}
""",
)


@validate_params(IMAGE_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_breastmnist(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load BreastMNIST, ultrasound images of the breast (classification).

    The classes are `"malignant"` and `"normal, benign"`; images are 28 x 28 and grey [1]_, [2]_.

    Nothing is downloaded: the file must be there; :func:`fetch_medmnist` downloads it.

    Parameters
    ----------
    subset : {"train", "val", "test", "all"}, default="train"
        The part to load; "all" is train, val and test, one after the other. "dev" is another name
        of val.
    data_home : str or path-like, default=None
        The folder that holds `medmnist/breastmnist.npz`. By default the environment
        variable `SKLEARN_EPEE_DATA` names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: ndarray of uint8 of shape (n_samples, 28, 28) (or DataFrame, flat);
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str;
        - `target_names`: ndarray of shape (2,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `frame`: DataFrame with one column per pixel and `label` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or if the file lacks keys or holds arrays of
        another shape, type or length than expected.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H., Ni, B.:
       MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
       classification. Scientific Data 10, 41 (2023).
    .. [2] Al-Dhabyani, W., Gomaa, M., Khaled, H., Fahmy, A.: Dataset of breast ultrasound
       images. Data in Brief 28, 104863 (2020).

    Examples
    --------
    >>> from sklearn_epee.datasets import load_breastmnist
    >>> X, y = load_breastmnist(subset="dev", return_X_y=True)
    >>> X.shape, X.dtype, y.shape
    ((78, 28, 28), dtype('uint8'), (78,))
    """
    return load_image_set(
        _BREASTMNIST,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(IMAGE_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_pneumoniamnist(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load PneumoniaMNIST, X-rays of the chest (classification).

    The classes are `"normal"` and `"pneumonia"`; images are 28 x 28 and grey [1]_, [2]_.

    Nothing is downloaded: the file must be there; :func:`fetch_medmnist` downloads it.

    Parameters
    ----------
    subset : {"train", "val", "test", "all"}, default="train"
        The part to load; "all" is train, val and test, one after the other. "dev" is another name
        of val.
    data_home : str or path-like, default=None
        The folder that holds `medmnist/pneumoniamnist.npz`. By default the environment
        variable `SKLEARN_EPEE_DATA` names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: ndarray of uint8 of shape (n_samples, 28, 28) (or DataFrame, flat);
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str;
        - `target_names`: ndarray of shape (2,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `frame`: DataFrame with one column per pixel and `label` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or if the file lacks keys or holds arrays of
        another shape, type or length than expected.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H., Ni, B.:
       MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
       classification. Scientific Data 10, 41 (2023).
    .. [2] Kermany, D. S., Goldbaum, M., Cai, W., et al.: Identifying medical diagnoses and
       treatable diseases by image-based deep learning. Cell 172(5), 1122-1131 (2018).

    Examples
    --------
    >>> from sklearn_epee.datasets import load_pneumoniamnist
    >>> X, y = load_pneumoniamnist(subset="dev", return_X_y=True)
    >>> X.shape, X.dtype, y.shape
    ((524, 28, 28), dtype('uint8'), (524,))
    """
    return load_image_set(
        _PNEUMONIAMNIST,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )


@validate_params(IMAGE_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_pathmnist_subset(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load a tenth of the test part of PathMNIST, histology of the colon (classification).

    The classes are nine types of tissue; images are 28 x 28 and in colour [1]_, [2]_.

    Nothing is downloaded: the file must be there.

    Parameters
    ----------
    subset : {"train", "val", "test", "all"}, default="train"
        The part to load; "all" is train, val and test, one after the other. "dev" is another name
        of val.
    data_home : str or path-like, default=None
        The folder that holds `medmnist/pathmnist_subset.npz`. By default the environment
        variable `SKLEARN_EPEE_DATA` names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: ndarray of uint8 of shape (n_samples, 28, 28, 3) (or DataFrame, flat);
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str;
        - `target_names`: ndarray of shape (9,), the classes in sorted order, as in the
          `classes_` of a classifier;
        - `frame`: DataFrame with one column per pixel and `label` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or if the file lacks keys or holds arrays of
        another shape, type or length than expected.
    FileNotFoundError
        If the folder or a file in it does not exist.
    ImportError
        If `as_frame` is True and pandas is not installed.

    References
    ----------
    .. [1] Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H., Ni, B.:
       MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
       classification. Scientific Data 10, 41 (2023).
    .. [2] Kather, J. N., Krisam, J., Charoentong, P., et al.: Predicting survival from
       colorectal cancer histology slides using deep learning: A retrospective multicenter
       study. PLoS Medicine 16(1), e1002730 (2019).

    Examples
    --------
    >>> from sklearn_epee.datasets import load_pathmnist_subset
    >>> X, y = load_pathmnist_subset(subset="dev", return_X_y=True)
    >>> X.shape, X.dtype, y.shape
    ((72, 28, 28, 3), dtype('uint8'), (72,))
    """
    return load_image_set(
        _PATHMNIST_SUBSET,
        subset=subset,
        data_home=data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
    )
