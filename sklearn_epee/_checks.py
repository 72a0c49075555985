"""Validation of what callers pass, without torch: samples in every form, labels, layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from ._compat import check_sample_weight

Text = str | tuple[str, str]
Images = NDArray[Any] | list[NDArray[Any]]

_TEXTS = (
    "a list, tuple, array or Series of str, or pairs of str as an (n, 2) array, a two-column frame "
    "or a list of pairs"
)
_IMAGES = (
    "an array of shape (n, height, width) or (n, height, width, channels), a sequence of arrays or "
    "PIL images, or rows of flattened images together with image_shape"
)


def as_texts(X: Any) -> list[Text]:
    """Give texts or pairs of texts as a list of str or of tuples of two str.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas or polars Series or DataFrame

    Returns
    -------
    list of str or list of tuple of str

    Raises
    ------
    TypeError
        If an element is not a text; the message says which.
    ValueError
        If there are no texts, or texts and pairs are mixed.
    """
    rows = _rows_of(X)
    if not rows:
        raise ValueError(
            f"X holds no texts (0 sample(s)) while a minimum of 1 is required; expected {_TEXTS}."
        )
    if isinstance(rows[0], str):
        return [_text(row, f"X[{i}]") for i, row in enumerate(rows)]
    return [_pair(row, i) for i, row in enumerate(rows)]


def is_paired(texts: Sequence[Text]) -> bool:
    """Tell whether texts are pairs."""
    return isinstance(texts[0], tuple)


def _rows_of(X: Any) -> list[Any]:
    if isinstance(X, (str, bytes)):
        raise TypeError(f"X is a single {type(X).__name__}; expected {_TEXTS}. Wrap it in a list.")
    if hasattr(X, "iter_rows"):
        rows = list(X.iter_rows())
    elif hasattr(X, "itertuples"):
        rows = list(X.itertuples(index=False, name=None))
    elif isinstance(X, np.ndarray):
        rows = _array_rows(X)
    elif hasattr(X, "to_list"):
        rows = X.to_list()
    elif isinstance(X, Iterable) and not isinstance(X, (Mapping, Set)):
        rows = list(X)
    else:
        raise TypeError(f"X is of type {type(X).__name__}; expected {_TEXTS}.")
    # A frame or array of one column holds single texts.
    if rows and all(isinstance(row, tuple) and len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    return rows


def _array_rows(X: NDArray[Any]) -> list[Any]:
    if X.ndim not in (1, 2):
        raise ValueError(f"X is an array of shape {X.shape}; expected {_TEXTS}.")
    return X.tolist() if X.ndim == 1 else [tuple(row) for row in X.tolist()]


def _text(value: Any, place: str) -> str:
    if isinstance(value, str):
        return _encodable(str(value), place)
    raise TypeError(
        f"{place} is {_shown(value)} of type {type(value).__name__}, not a text; "
        f"expected {_TEXTS}. Missing texts can be given as the empty string ''."
    )


def _encodable(text: str, place: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place} is {_shown(text)}, which is not valid Unicode ({error}); read it again "
                "with the right encoding, or with errors='replace'."
            ) from error
    return text


def _pair(value: Any, i: int) -> tuple[str, str]:
    if i and isinstance(value, str):
        raise ValueError(f"X mixes pairs and single texts: X[0] is a pair, X[{i}] is {value!r}.")
    if not (isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim)):
        _text(value, f"X[{i}]")
    if len(value) != 2:
        raise TypeError(
            f"X[{i}] is a {type(value).__name__} of {len(value)} elements; expected {_TEXTS}."
        )
    return _text(value[0], f"X[{i}][0]"), _text(value[1], f"X[{i}][1]")


def as_images(X: Any, image_shape: Sequence[int] | None) -> Images:
    """Give images as arrays with a channel axis at the end, uint8 or float32.

    Parameters
    ----------
    X : ndarray or sequence
        (n, h, w), (n, h, w, c), rows (n, h*w*c) with ``image_shape``, or a sequence of arrays or
        PIL images, which may differ in height and width.
    image_shape : tuple of int or None
        (h, w) or (h, w, c) of flattened rows.

    Returns
    -------
    ndarray of shape (n, h, w, c) or list of ndarray of shape (h, w, c)

    Raises
    ------
    TypeError
        If an element is not an image.
    ValueError
        If there are no images, one has no pixels or pixels that are not finite, or the channel
        counts differ.
    """
    if isinstance(X, (str, bytes, Mapping, Set)) or not (
        hasattr(X, "__array__") or isinstance(X, Iterable)
    ):
        raise TypeError(f"X is of type {type(X).__name__}; expected {_IMAGES}.")
    if hasattr(X, "__array__"):
        array = np.asarray(X)
        if array.dtype != object or not array.ndim:
            return _check_stack(array, image_shape)
        X = array
    images = [_single(image, i) for i, image in enumerate(X)]
    if not images:
        raise ValueError(_no_images())
    channels = {image.shape[-1] for image in images}
    if len(channels) > 1:
        raise ValueError(f"X mixes images of {sorted(channels)} channels; expected one count.")
    return images


def _check_stack(array: NDArray[Any], image_shape: Sequence[int] | None) -> NDArray[Any]:
    if array.ndim and not len(array):
        raise ValueError(_no_images())
    if array.ndim == 2:
        array = _unflatten(array, image_shape)
    if array.ndim not in (3, 4):
        raise ValueError(f"X is an array of shape {array.shape}; expected {_IMAGES}.")
    return _check_pixels(array if array.ndim == 4 else array[..., np.newaxis], "X")


def _unflatten(array: NDArray[Any], image_shape: Sequence[int] | None) -> NDArray[Any]:
    if image_shape is None:
        raise ValueError(
            f"X is an array of shape {array.shape}; rows of flattened images need "
            "image_shape=(height, width) or (height, width, channels)."
        )
    sides = [side for side in image_shape if isinstance(side, Integral) and side >= 1]
    if len(sides) != len(image_shape) or len(sides) not in (2, 3):
        raise ValueError(
            f"image_shape={image_shape!r} is not valid; expected (height, width) or "
            "(height, width, channels), integers >= 1."
        )
    if array.shape[1] != np.prod(sides):
        raise ValueError(
            f"X has {array.shape[1]} features a row, but image_shape={tuple(image_shape)} makes "
            f"{np.prod(sides)}."
        )
    return array.reshape(len(array), *image_shape)


def _single(image: Any, i: int) -> NDArray[Any]:
    # Bits and palette indices are not intensities.
    intensities = {"1": "L", "P": "RGB", "PA": "RGBA"}.get(str(getattr(image, "mode", None)))
    if intensities and hasattr(image, "convert"):
        image = image.convert(intensities)
    if isinstance(image, (str, bytes)) or not (
        hasattr(image, "__array__") or hasattr(image, "__array_interface__")
    ):
        raise TypeError(
            f"X[{i}] is {_shown(image)} of type {type(image).__name__}, not an image; "
            f"expected {_IMAGES}."
        )
    array = np.asarray(image)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"X[{i}] is an array of shape {array.shape}; expected (height, width) or "
            "(height, width, channels)."
        )
    return _check_pixels(array if array.ndim == 3 else array[..., np.newaxis], f"X[{i}]")


def _check_pixels(pixels: NDArray[Any], place: str) -> NDArray[Any]:
    if 0 in pixels.shape:
        raise ValueError(f"{place} has the shape {pixels.shape}: images without pixels.")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "biuf":
        raise TypeError(
            f"{place} has pixels of type {pixels.dtype}; expected uint8 or floating point."
        )
    with np.errstate(over="ignore"):
        values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{place} contains NaN or infinity among its pixels.")
    return values


def _no_images() -> str:
    return f"X holds no images (0 sample(s)) while a minimum of 1 is required; expected {_IMAGES}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_labels(y: ArrayLike, n_samples: int, name: str) -> NDArray[Any]:
    """Give y as a 1d array of labels that can be told apart, one a sample."""
    if y is None:
        raise ValueError(f"{name} requires y to be passed, but the target y is None.")
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind == "O":
        _check_label_types(labels)
    if labels.dtype.kind in "fcO":
        assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    if len(labels) != n_samples:
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {n_samples}, y has {len(labels)}."
        )
    return labels


def _check_label_types(labels: NDArray[Any]) -> None:
    types = {type(label) for label in labels}
    alike = [all(issubclass(kind, base) for kind in types) for base in (str, Number)]
    if len(types) > 1 and not any(alike):
        names = sorted(kind.__name__ for kind in types)
        raise TypeError(
            f"y mixes labels of the types {names}; expected labels of one type, none of them "
            "missing."
        )


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    """Give sample weights as float64, 1 each where there are none."""
    if sample_weight is None:
        return np.ones(n_samples)
    weights = check_sample_weight(sample_weight, np.empty(n_samples), dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"sample_weight must not be negative; the smallest is {weights.min():g}.")
    if not weights.any():
        raise ValueError("sample_weight must contain at least one non-zero number.")
    return weights


def check_layer(layer: int, n_layers: int) -> int:
    """Give a layer counted from 1, whether it was counted from the start or from the end."""
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        raise TypeError(f"layer must be an integer; got {layer!r} of type {type(layer).__name__}.")
    resolved = int(layer) + n_layers + 1 if layer < 0 else int(layer)
    if not 1 <= resolved <= n_layers:
        raise ValueError(
            f"layer={layer} does not exist; this network has layers 1 to {n_layers} "
            f"(or -{n_layers} to -1, counted from the end)."
        )
    return resolved


def check_prediction_batch(size: Any) -> int | str:
    """Give the samples of a prediction batch, or "auto"."""
    if size == "auto" or (isinstance(size, Integral) and int(size) >= 1):
        return size if size == "auto" else int(size)
    raise ValueError(
        f"predict_batch_size={size!r} is not valid; expected 'auto' or an integer >= 1."
    )
