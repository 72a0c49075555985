"""Read image sets laid out as `medmnist/<name>.npz` with the keys of MedMNIST."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import StrOptions, check_pandas_support
from sklearn_epee.datasets._loading import LOADER_CONSTRAINTS, data_file, data_folder, subsets_of

# MedMNIST calls the part for development "val".
_PREFIXES = {"train": "train", "dev": "val", "val": "val", "test": "test"}
IMAGE_CONSTRAINTS: dict[str, list[Any]] = LOADER_CONSTRAINTS | {
    "subset": [StrOptions({*_PREFIXES, "all"})]
}


@dataclass(frozen=True)
class ImageSet:
    """Properties of an image set that are known before its file is read.

    Parameters
    ----------
    name : str
        Name of its file.
    image_shape : tuple of int or None
        None: that of the file.
    class_names : tuple of str or None
        In the order of the numbers that the file uses; None names classes by their numbers.
    description : str
    is_indicator : bool, default=False
        Whether an image may have several labels or none, a column of 0 and 1 for each.
    """

    name: str
    image_shape: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    description: str
    is_indicator: bool = False


def load_image_set(
    image_set: ImageSet,
    *,
    subset: str,
    data_home: str | os.PathLike[str] | None,
    as_frame: bool,
    return_X_y: bool,
) -> Any:
    """Load one image set as a `Bunch`, or as `(data, target)`."""
    path = data_file(data_folder(data_home), f"medmnist/{image_set.name}.npz")
    return load_npz(path, image_set, subset=subset, as_frame=as_frame, return_X_y=return_X_y)


def load_npz(
    path: Path, image_set: ImageSet, *, subset: str, as_frame: bool, return_X_y: bool
) -> Any:
    """Load an image set from its file."""
    parts = _read_parts(path, image_set, subsets_of(subset))
    data: Any = np.concatenate([images for images, _ in parts])
    codes = np.concatenate([labels for _, labels in parts])
    names = image_set.class_names or tuple(map(str, range(int(codes.max()) + 1)))
    target: Any = codes if image_set.is_indicator else np.array(names)[codes]
    frame = None
    if as_frame:
        columns = list(names) if image_set.is_indicator else ["label"]
        frame = _frame(image_set.name, data, target, columns)
        data = frame.drop(columns=columns)
        target = frame[columns] if image_set.is_indicator else frame["label"]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(names if image_set.is_indicator else sorted(names)),
        groups=None,
        frame=frame,
        DESCR=image_set.description,
    )


def _frame(name: str, images: np.ndarray, target: np.ndarray, columns: list[str]) -> Any:
    """Return a frame with one row per image and one column per pixel value, as `load_digits`."""
    pandas = check_pandas_support(f"load_{name} with as_frame=True")
    pixels = ["pixel_" + "_".join(map(str, index)) for index in np.ndindex(images.shape[1:])]
    frame = pandas.DataFrame(images.reshape(len(images), -1), columns=pixels)
    labels = pandas.DataFrame(target.reshape(len(images), -1), columns=columns)
    return pandas.concat([frame, labels], axis=1)


def _read_parts(
    path: Path, image_set: ImageSet, subsets: tuple[str, ...]
) -> list[tuple[np.ndarray, np.ndarray]]:
    prefixes = [_PREFIXES[subset] for subset in subsets]
    keys = [f"{prefix}_{kind}" for prefix in prefixes for kind in ("images", "labels")]
    arrays = _read_arrays(path, keys)
    return [_check_part(path, image_set, prefix, arrays) for prefix in prefixes]


def _read_arrays(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    try:
        # Opened here, as NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            # A .npy file under this name loads too, as an array.
            found = {} if isinstance(loaded, np.ndarray) else _named_arrays(loaded, keys)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} must be a NumPy .npz file of plain arrays; {error}") from error
    missing = [key for key in keys if key not in found]
    if missing:
        names = [] if isinstance(loaded, np.ndarray) else sorted(loaded.files)
        raise ValueError(f"{path} must have the keys {missing}; got the keys {names}.")
    return found


def _named_arrays(loaded: Any, keys: list[str]) -> dict[str, np.ndarray]:
    with loaded:
        return {key: loaded[key] for key in keys if key in loaded.files}


def _check_part(
    path: Path, image_set: ImageSet, prefix: str, arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return images and one-dimensional labels of one part, if they fit the layout."""
    images, labels = arrays[f"{prefix}_images"], arrays[f"{prefix}_labels"]
    shape = image_set.image_shape
    if images.dtype != np.uint8 or not _is_shape(images.shape[1:], shape):
        wanted = "(n, height, width) or (n, height, width, 3)"
        if shape is not None:
            wanted = f"({', '.join(map(str, ('n', *shape)))})"
        hint = " Volumes cannot be classified, but their slices can." if images.ndim > 3 else ""
        raise ValueError(
            f"{path}: {prefix}_images must be uint8 of shape {wanted}; "
            f"got {images.dtype} of shape {images.shape}.{hint}"
        )
    if len(images) == 0:
        raise ValueError(f"{path}: {prefix}_images must hold at least one image; got none.")
    names = image_set.class_names
    n_columns = len(names) if image_set.is_indicator and names else 1
    if labels.dtype.kind not in "iu" or labels.shape != (len(images), n_columns):
        raise ValueError(
            f"{path}: {prefix}_labels must be integers of shape ({len(images)}, {n_columns}), one "
            f"for each of {prefix}_images; got {labels.dtype} of shape {labels.shape}."
        )
    most = 1 if image_set.is_indicator else len(names) - 1 if names else int(labels.max())
    if not 0 <= labels.min() <= labels.max() <= most:
        raise ValueError(
            f"{path}: {prefix}_labels must be in 0..{most}; got {labels.min()}..{labels.max()}."
        )
    return images, labels.astype(np.int64) if image_set.is_indicator else labels[:, 0]


def _is_shape(found: tuple[int, ...], wanted: tuple[int, ...] | None) -> bool:
    if wanted is not None:
        return found == wanted
    return len(found) == 2 or (len(found) == 3 and found[-1] == 3)
