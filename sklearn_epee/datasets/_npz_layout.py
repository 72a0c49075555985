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

from sklearn_epee._compat import check_pandas_support
from sklearn_epee.datasets._loading import data_file, subsets_of

# MedMNIST calls the part for development "val".
_PREFIXES = {"train": "train", "dev": "val", "test": "test"}


@dataclass(frozen=True)
class ImageSet:
    """What is known of an image set before its file is read."""

    name: str
    image_shape: tuple[int, ...]
    # In the order of the numbers that the file uses.
    class_names: tuple[str, ...]
    description: str


def load_image_set(
    image_set: ImageSet,
    *,
    subset: str,
    data_home: str | os.PathLike[str] | None,
    as_frame: bool,
    return_X_y: bool,
) -> Any:
    """Load one image set as a `Bunch`, or as `(data, target)`."""
    path = data_file(data_home, f"medmnist/{image_set.name}.npz")
    parts = _read_parts(path, image_set, subsets_of(subset))
    data: Any = np.concatenate([images for images, _ in parts])
    codes = np.concatenate([labels for _, labels in parts])
    target: Any = np.array(image_set.class_names)[codes]
    frame = None
    if as_frame:
        frame = _frame(image_set, data, target)
        data, target = frame.drop(columns="label"), frame["label"]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(sorted(image_set.class_names)),
        frame=frame,
        DESCR=image_set.description,
    )


def _frame(image_set: ImageSet, images: np.ndarray, target: np.ndarray) -> Any:
    """Make one row an image and one column a pixel value, as `load_digits` does."""
    pandas = check_pandas_support(f"load_{image_set.name} with as_frame=True")
    names = ["pixel_" + "_".join(map(str, index)) for index in np.ndindex(image_set.image_shape)]
    frame = pandas.DataFrame(images.reshape(len(images), -1), columns=names)
    return pandas.concat([frame, pandas.Series(target, name="label")], axis=1)


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
    if images.dtype != np.uint8 or images.shape[1:] != image_set.image_shape:
        shape = ", ".join(map(str, ("n", *image_set.image_shape)))
        raise ValueError(
            f"{path}: {prefix}_images must be uint8 of shape ({shape}); "
            f"got {images.dtype} of shape {images.shape}."
        )
    if len(images) == 0:
        raise ValueError(f"{path}: {prefix}_images must hold at least one image; got none.")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images), 1):
        raise ValueError(
            f"{path}: {prefix}_labels must be integers of shape ({len(images)}, 1), one for each "
            f"of {prefix}_images; got {labels.dtype} of shape {labels.shape}."
        )
    n_classes = len(image_set.class_names)
    if not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(
            f"{path}: {prefix}_labels must be in 0..{n_classes - 1}; "
            f"got {labels.min()}..{labels.max()}."
        )
    return images, labels[:, 0]
