"""Validate images in all accepted forms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrow import without_arrow
from .image_files import ImageFile, decoded, is_pil_image
from .image_paths import PathImage, is_path
from .messages import level_of_caller, shown
from .pixels import PixelRange, PixelScale, ranges_by_kind

# An array of shape (n, h, w, c), or a list of arrays of shape (h, w, c), PIL files and path images.
Images = NDArray[Any] | list[Any]

# Maximum size of decoded image files in memory, in bytes; other files are decoded when used.
_KEPT_BYTES = 2**28
# If the brightest pixel of 16-bit files is below this, they contain at most 12 bits.
_DARK = 2**12 / 2**16
# Maximum number of channels of usual images: grey or RGB, each with or without transparency.
_FEW_CHANNELS = 4

_IMAGES = (
    "an array of shape (n, height, width) or (n, height, width, channels), a sequence of arrays, "
    "PIL images or paths of image files, or rows of flattened images together with image_shape"
)


@dataclass(frozen=True)
class ImageForm:
    """Properties that images must share with the training images."""

    n_channels: int
    scale: PixelScale


def image_form(images: Images) -> ImageForm:
    """Return the form of validated images."""
    if isinstance(images, np.ndarray):
        ranges = [PixelRange.of(images)]
    else:
        ranges = [_range_of(image) for image in images]
    joined = ranges_by_kind(ranges)
    return ImageForm(images[0].shape[-1], PixelScale.of(joined[_reference(joined)]))


def as_images(
    X: Any,
    image_shape: Sequence[int] | None,
    form: ImageForm | None = None,
    numbers: Sequence[int] | None = None,
) -> Images:
    """Convert images to arrays with a channel axis at the end, uint8 or float32.

    Parameters
    ----------
    X : ndarray or sequence
        (n, h, w), (n, h, w, c), rows (n, h*w*c) with ``image_shape``, or a sequence of arrays, PIL
        images or paths of image files, which may differ in height and width.
    image_shape : tuple of int or None
        (h, w) or (h, w, c) of flattened rows.
    form : ImageForm or None, default=None
        Form of the training images, to which pixels are converted.
    numbers : sequence of int, default=None
        Number of each element of a list in the caller's X, for messages. None: 0, 1, ...

    Returns
    -------
    ndarray of shape (n, h, w, c) or list of ndarray of shape (h, w, c)
        The list contains undecoded files, to be decoded with `numpy.asarray`, if the pixels of all
        files would need too much memory, and in prediction for paths whose header is sufficient.

    Raises
    ------
    TypeError
        If an element is not an image.
    ValueError
        If there are no images, an image cannot be decoded, has no pixels or pixels that are not
        finite, the order of axes is wrong, or channel counts or scales of pixels differ.
    """
    X = without_arrow(X)
    if isinstance(X, (str, bytes, Mapping, Set)) or not (
        hasattr(X, "__array__") or isinstance(X, Iterable)
    ):
        wrap = " Wrap it in a list." if is_pil_image(X) or is_path(X) else ""
        raise TypeError(f"X is of type {type(X).__name__}; expected {_IMAGES}.{wrap}")
    if hasattr(X, "__array__"):
        array = np.asarray(X)
        if (array.dtype != object and not _are_paths(array)) or not array.ndim:
            return _stack(array, image_shape, form)
        X = array[:, 0] if _are_paths(array) and array.ndim == 2 else array
    return _list(X, form, numbers)


def _are_paths(array: NDArray[Any]) -> bool:
    """Return whether an array contains paths, such as those of a Series or of a single column."""
    is_column = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    return is_column and array.size > 0 and is_path(array.flat[0])


def _stack(
    array: NDArray[Any], image_shape: Sequence[int] | None, form: ImageForm | None
) -> NDArray[Any]:
    if array.ndim and not len(array):
        raise ValueError(_no_images())
    if array.ndim == 2:
        array = _unflatten(array, image_shape)
    elif array.ndim == 4:
        _check_axes(array.shape[1:], "X", "np.moveaxis(X, 1, -1)")
    elif array.ndim == 3:
        _check_not_single(array.shape)
    if array.ndim not in (3, 4):
        raise ValueError(f"X is an array of shape {array.shape}; expected {_IMAGES}.")
    images = array if array.ndim == 4 else array[..., np.newaxis]
    pixels = _check_pixels(images, "X")
    _check_channels({pixels.shape[-1]}, form)
    if form is None:
        return pixels
    return _read_as(pixels, form.scale.reading_of(PixelRange.of(images)))


def _list(X: Iterable[Any], form: ImageForm | None, numbers: Sequence[int] | None) -> list[Any]:
    images: list[Any] = []
    ranges: list[PixelRange] = []
    scaled: list[float] = []
    room = _KEPT_BYTES
    image: NDArray[Any] | ImageFile | PathImage
    for i, item in enumerate(X) if numbers is None else zip(numbers, X, strict=True):
        if is_path(item):
            file = PathImage.of(item, i)
            image, seen = _from_path(file, form, room)
            _check_same_channels(image.shape[-1], images, item, i)
            scaled += [seen.high] if file.is_scaled else []
        else:
            pixels, seen = _single(item, i)
            is_large = is_pil_image(item) and pixels.nbytes > room
            image = ImageFile.of(item, pixels, seen) if is_large else pixels
        # The caller's arrays are in memory anyway.
        if isinstance(image, np.ndarray) and (is_path(item) or is_pil_image(item)):
            room -= image.nbytes
        images.append(image)
        ranges.append(seen)
    if not images:
        raise ValueError(_no_images())
    _check_channels({image.shape[-1] for image in images}, form)
    if form is None and scaled and max(scaled) < _DARK:
        _warn_of_dark_files(max(scaled))
    joined = ranges_by_kind(ranges)
    readings = _readings(joined, form.scale) if form else _mixed_readings(joined)
    return [
        _read_as(image, readings[seen.kind]) for image, seen in zip(images, ranges, strict=True)
    ]


def _warn_of_dark_files(brightest: float) -> None:
    warnings.warn(
        "Pixels of files with more than 8 bits in X are divided by the maximum of their type; the "
        f"brightest is then {brightest:.2g}. Such files may use fewer bits than their type has, "
        "and lose contrast if a checkpoint's processor rounds to 8 bits. In this case, pass the "
        "pixels as arrays from 0 to 1.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def _from_path(
    image: PathImage, form: ImageForm | None, room: int
) -> tuple[NDArray[Any] | PathImage, PixelRange]:
    """Return an image file and its range; decode it if the header is not sufficient.

    Training images are all decoded once, in order to find damaged files before the training.
    """
    if form is not None and image.seen is not None and form.scale.is_told_by_headers:
        return image, image.seen
    pixels = image.pixels()
    seen = PixelRange.of(pixels)
    if form is None and pixels.nbytes <= room:
        return pixels, seen
    return replace(image, seen=seen), seen


def _check_same_channels(n_channels: int, others: list[Any], item: Any, i: int) -> None:
    if others and others[0].shape[-1] != n_channels:
        raise ValueError(
            f"X[{i}], the file {str(item)!r}, has {n_channels} channels where the first image has "
            f"{others[0].shape[-1]}; expected one count. Convert all files to grey, or all to RGB."
        )


def _readings(joined: dict[str, PixelRange], scale: PixelScale) -> dict[str, str | None]:
    return {kind: scale.reading_of(seen) for kind, seen in joined.items()}


def _mixed_readings(joined: dict[str, PixelRange]) -> dict[str, str | None]:
    """Return the type to which each kind of pixels is converted, if there are several kinds."""
    try:
        return _readings(joined, PixelScale.of(joined[_reference(joined)]))
    except ValueError as error:
        found = " and ".join(str(seen) for seen in joined.values())
        raise ValueError(
            f"X mixes {found}, which have different scales; expected one type of pixels."
        ) from error


def _reference(joined: dict[str, PixelRange]) -> str:
    """Return the kind of pixels to which the others are converted."""
    return next(kind for kind in ("uint8", "integer", "float") if kind in joined)


def _read_as(image: Any, dtype: str | None) -> Any:
    if dtype is None or image.dtype == dtype:
        return image
    if isinstance(image, (ImageFile, PathImage)):
        return replace(image, dtype=np.dtype(dtype))
    return image.astype(dtype)


def _range_of(image: NDArray[Any] | ImageFile | PathImage) -> PixelRange:
    if not isinstance(image, (ImageFile, PathImage)) or image.seen is None:
        return PixelRange.of(np.asarray(image))
    return replace(image.seen, kind="uint8" if image.dtype == np.uint8 else "float")


def _check_channels(found: set[int], form: ImageForm | None) -> None:
    if len(found) > 1:
        raise ValueError(f"X mixes images of {sorted(found)} channels; expected one count.")
    (n_channels,) = found
    if form is not None and n_channels != form.n_channels:
        raise ValueError(
            f"X holds images of {n_channels} channels, but this classifier was fitted on images "
            f"of {form.n_channels} channels."
        )


def _check_axes(shape: tuple[int, ...], place: str, moved: str) -> None:
    """Raise if channels come before height and width, or images are volumes."""
    height, width, channels = shape
    if channels <= _FEW_CHANNELS:
        return
    taken = (
        f"{place} holds an array of shape {shape}, which would be an image of {height} x {width} "
        f"pixels with {channels} channels; channels come last. "
    )
    if 0 < height <= _FEW_CHANNELS:
        raise ValueError(f"{taken}Where they come first, give {moved}.")
    if channels >= min(height, width) > 0:
        raise ValueError(
            f"{taken}Volumes cannot be classified, but their slices can. Images that do have so "
            "many channels can be given as flattened rows, with image_shape=(height, width, "
            "channels)."
        )


def _check_not_single(shape: tuple[int, ...]) -> None:
    """Raise if X is probably a single image with channels, and not many narrow images."""
    n, height, width = shape
    if width <= _FEW_CHANNELS < min(n, height):
        raise ValueError(
            f"X is an array of shape {shape}, which would be {n} images of {height} x {width} "
            "pixels. If it is a single image, give X[np.newaxis]; if not, give X[..., np.newaxis]."
        )


def _unflatten(array: NDArray[Any], image_shape: Sequence[int] | None) -> NDArray[Any]:
    if image_shape is None:
        raise ValueError(
            f"X is an array of shape {array.shape}; rows of flattened images need "
            "image_shape=(height, width) or (height, width, channels), and a single image needs "
            "to be in a list."
        )
    sides = [side for side in image_shape if isinstance(side, Integral) and side >= 1]
    if len(sides) != len(image_shape) or len(sides) not in (2, 3):
        raise ValueError(
            f"image_shape={image_shape!r} is not valid; expected (height, width) or "
            "(height, width, channels), integers >= 1."
        )
    if array.shape[1] != np.prod(sides):
        raise ValueError(
            f"X has {array.shape[1]} features per row, but image_shape={tuple(image_shape)} stands "
            f"for {np.prod(sides)}."
        )
    if len(sides) == 3 and int(sides[0]) <= _FEW_CHANNELS < int(sides[2]):
        raise ValueError(
            f"image_shape={tuple(image_shape)} would be images of {sides[0]} x {sides[1]} pixels "
            f"with {sides[2]} channels; expected (height, width, channels). Where channels come "
            "first, move them to the end before images are flattened."
        )
    return array.reshape(len(array), *image_shape)


def _single(image: Any, i: int) -> tuple[NDArray[Any], PixelRange]:
    """Return the pixels of one image, with a channel axis, and their range."""
    if is_pil_image(image):
        array = decoded(image, f"X[{i}]")
    elif isinstance(image, (str, bytes)) or not (
        hasattr(image, "__array__") or hasattr(image, "__array_interface__")
    ):
        raise TypeError(
            f"X[{i}] is {shown(image)} of type {type(image).__name__}, not an image; "
            f"expected {_IMAGES}."
        )
    else:
        array = np.asarray(image)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"X[{i}] is an array of shape {array.shape}; expected (height, width) or "
            "(height, width, channels)."
        )
    if array.ndim == 3:
        _check_axes(array.shape, f"X[{i}]", "np.moveaxis(image, 0, -1) for every image")
    array = array if array.ndim == 3 else array[..., np.newaxis]
    pixels = _check_pixels(array, f"X[{i}]")
    return pixels, PixelRange.of(array)


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
