"""Load any two-dimensional set of MedMNIST, at any of its sizes."""

import contextlib
import io
import os
from typing import Any

from sklearn_epee._compat import Options, validate_params
from sklearn_epee.datasets._download import RemoteFile, download
from sklearn_epee.datasets._loading import data_file, data_folder
from sklearn_epee.datasets._npz_layout import IMAGE_CONSTRAINTS, ImageSet, load_npz
from sklearn_epee.datasets._paths import expanded

_PAGE = "https://medmnist.com"
_CONSTRAINTS: dict[str, list[Any]] = IMAGE_CONSTRAINTS | {
    "name": [str, os.PathLike],
    "size": [Options(int, {28, 64, 128, 224})],
}
_DESCR = """{title}, {size} x {size}

{description}

Images (train / val / test): {counts}.

Source: {page}, {file}; the split is the source's.
Licence: {license}.
Citation: Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H., Ni, B.:
MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification. Scientific Data 10, 41 (2023).
"""


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_medmnist(
    name: str | os.PathLike[str],
    *,
    size: int = 28,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Load a two-dimensional image set of MedMNIST (classification).

    The names of the classes come from the package medmnist
    (``pip install 'sklearn_epee[medmnist]'``). Nothing is downloaded: the file must be there;
    :func:`fetch_medmnist` downloads it.

    Parameters
    ----------
    name : str or path-like
        Such as "pathmnist" or "dermamnist"; or the path of an ``.npz`` file in this layout, whose
        classes are named by their numbers.
    size : {28, 64, 128, 224}, default=28
        Height and width, in pixels. Of no effect with a path.
    subset : {"train", "val", "test", "all"}, default="train"
        The part to load; "all" is train, val and test, one after the other. "dev" is another name
        of val.
    data_home : str or path-like, default=None
        The folder that holds `medmnist/<name>.npz`, or `medmnist/<name>_<size>.npz` for another
        size than 28. By default the environment variable `SKLEARN_EPEE_DATA` names it.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: ndarray of uint8 of shape (n_samples, size, size) or (n_samples, size, size, 3)
          (or DataFrame, flat);
        - `target`: ndarray (or Series) of shape (n_samples,), the labels as str; of a set with
          several labels an image (chestmnist), an indicator of shape (n_samples, n_labels);
        - `target_names`: ndarray, the classes in sorted order, or the columns of the indicator;
        - `groups`: None, as the sets do not tell patients;
        - `frame`: DataFrame with one column per pixel and `label` if `as_frame`; otherwise None;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If the name or a parameter is not as described, the set holds volumes, or the file lacks
        keys or holds arrays of another shape, type or length than expected.
    FileNotFoundError
        If the folder or the file does not exist.
    ImportError
        If medmnist is not installed, or pandas where `as_frame` is True.

    Examples
    --------
    >>> import os
    >>> from sklearn_epee.datasets import load_medmnist
    >>> file = os.path.join(os.environ["SKLEARN_EPEE_DATA"], "medmnist", "breastmnist.npz")
    >>> X, y = load_medmnist(file, subset="val", return_X_y=True)
    >>> X.shape, y[:3].tolist()
    ((78, 28, 28), ['0', '1', '1'])
    """
    return _load(name, size, subset, data_home, as_frame=as_frame, return_X_y=return_X_y)


@validate_params(
    _CONSTRAINTS | {"name": [str], "download_if_missing": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def fetch_medmnist(
    name: str,
    *,
    size: int = 28,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    return_X_y: bool = False,
) -> Any:
    """Download a two-dimensional image set of MedMNIST if necessary, and load it (classification).

    As :func:`load_medmnist`, with the file downloaded first where it is not there, from the address
    and with the checksum that the package medmnist gives. An interrupted download is resumed by
    the next call.

    Parameters
    ----------
    name : str
        Such as "pathmnist" or "dermamnist".
    size : {28, 64, 128, 224}, default=28
        Height and width, in pixels.
    subset : {"train", "val", "test", "all"}, default="train"
        The part to load; "all" is train, val and test, one after the other. "dev" is another name
        of val.
    data_home : str or path-like, default=None
        The folder into which sets are downloaded, this one into its folder `medmnist`. By default
        the environment variable `SKLEARN_EPEE_DATA` names it, otherwise it is
        `~/sklearn_epee_data`.
    download_if_missing : bool, default=True
        If False, raise an error if the file is missing.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_medmnist` returns it.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If the name or a parameter is not as described, or the file is not as expected.
    FileNotFoundError
        If the file is missing and `download_if_missing` is False.
    OSError
        If it cannot be downloaded; the message says where to get it and where to put it.
    ImportError
        If medmnist is not installed, or pandas where `as_frame` is True.

    Examples
    --------
    >>> from sklearn_epee.datasets import fetch_medmnist
    >>> X, y = fetch_medmnist("breastmnist", subset="val", return_X_y=True)
    >>> X.shape, y[0].item()
    ((78, 28, 28), 'malignant')
    """
    return _load(
        name,
        size,
        subset,
        data_home,
        as_frame=as_frame,
        return_X_y=return_X_y,
        download_if_missing=download_if_missing,
    )


def _load(
    name: str | os.PathLike[str],
    size: int,
    subset: str,
    data_home: str | os.PathLike[str] | None,
    *,
    as_frame: bool,
    return_X_y: bool,
    download_if_missing: bool = False,
) -> Any:
    options: dict[str, Any] = {"subset": subset, "as_frame": as_frame, "return_X_y": return_X_y}
    if os.fspath(name).endswith(".npz"):
        path = expanded(name)
        if not path.is_file():
            raise FileNotFoundError(f"name: there is no file {str(path)!r}.")
        description = f"Images of {path}, in the layout of MedMNIST."
        return load_npz(path, ImageSet(path.stem, None, None, description), **options)
    info = _info(os.fspath(name))
    suffix = "" if size == 28 else f"_{size}"
    file = f"{name}{suffix}.npz"
    home = data_folder(data_home, create=download_if_missing)
    if download_if_missing:
        remote = RemoteFile(info[f"url{suffix}"], file, f"md5:{info[f'MD5{suffix}']}")
        download(remote, home / "medmnist", page=_PAGE)
    by_hand = f"Get {file} from {_PAGE}, into {str(home / 'medmnist')!r}."
    path = data_file(home, f"medmnist/{file}", by_hand)
    return load_npz(path, _image_set(os.fspath(name), size, info, file), **options)


def _info(name: str) -> dict[str, Any]:
    try:
        # Without torchvision it prints that its own classes cannot be used.
        with contextlib.redirect_stdout(io.StringIO()):
            from medmnist import INFO  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "Sets of MedMNIST need the package medmnist: pip install 'sklearn_epee[medmnist]'. A "
            "file in their layout can be loaded without it, by its path."
        ) from error
    flat = sorted(key for key in INFO if not key.endswith("3d"))
    if name not in flat:
        volumes = " It holds volumes, which cannot be classified." if name in INFO else ""
        raise ValueError(f"name={name!r} is not a set of images;{volumes} expected one of {flat}.")
    info: dict[str, Any] = INFO[name]
    return info


def _image_set(name: str, size: int, info: dict[str, Any], file: str) -> ImageSet:
    channels = () if info["n_channels"] == 1 else (info["n_channels"],)
    labels = tuple(info["label"][key] for key in sorted(info["label"], key=int))
    description = _DESCR.format(
        title=info["python_class"],
        size=size,
        description=info["description"],
        counts=" / ".join(f"{n:,}" for n in info["n_samples"].values()),
        page=_PAGE,
        file=file,
        license=info["license"],
    )
    is_indicator = info["task"].startswith("multi-label")
    return ImageSet(name, (size, size, *channels), labels, description, is_indicator)
