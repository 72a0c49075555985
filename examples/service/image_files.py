"""Decode the image files of requests, with limits on their bytes and pixels."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Pillow reads many more formats, and some of them by starting other programs.
FORMATS = ("PNG", "JPEG")
# Exceptions that Pillow raises for damaged files.
DAMAGED = (OSError, EOFError, SyntaxError, ValueError, TypeError, struct.error)
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageTooLargeError(ValueError):
    """An image has too many bytes or pixels."""


@dataclass(frozen=True)
class ImageLimits:
    """Maximum sizes of images.

    Parameters
    ----------
    n_bytes : int
        Maximum size of a file.
    n_pixels : int
        Maximum number of pixels of an image: a small file may contain a very large image.
    n_pixels_held : int
        Maximum number of pixels of all images that are decoded and not yet answered.
    """

    n_bytes: int = 5_000_000
    n_pixels: int = 25_000_000
    n_pixels_held: int = 100_000_000

    @property
    def n_characters(self) -> int:
        """Maximum length of a file in base64."""
        return 4 * -(-self.n_bytes // 3)


def decode_base64(image: str, limits: ImageLimits) -> bytes:
    """Return the bytes of a file in base64, or in a data URL with base64.

    Raises
    ------
    ValueError
        If it is neither.
    ImageTooLargeError
    """
    head, comma, data = image.partition(",") if image.startswith("data:") else ("", "", image)
    if comma and not head.endswith(";base64"):
        raise ValueError("image is a data URL without base64; expected base64 of a file")
    if len(data) > limits.n_characters:
        raise ImageTooLargeError(f"image has more than {limits.n_bytes} bytes")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # also raised for non-ASCII characters
        raise ValueError(
            f"image is not base64 of a file, in one line and without a path: {error}"
        ) from error


def open_image(file: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header of an image file; the pixels are not decoded yet.

    Raises
    ------
    ValueError
        If the file is not a PNG or JPEG, or contains several images.
    ImageTooLargeError
    """
    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
        # A camera may put several images into a JPEG file; the first one is the photograph.
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.UnidentifiedImageError as error:
        raise ValueError("image is not a PNG or JPEG file that can be opened") from error
    except BOMB as error:
        raise ImageTooLargeError(f"image has more than {limits.n_pixels} pixels") from error
    except DAMAGED as error:
        raise ValueError(f"image cannot be opened: {error}") from error
    if n_frames > 1:
        raise ValueError(f"image has {n_frames} frames; expected one")
    if image.width * image.height > limits.n_pixels:
        raise ImageTooLargeError(
            f"image has {image.width} x {image.height} pixels; "
            f"expected at most {limits.n_pixels} in all"
        )
    return image


def decode_pixels(image: Image.Image) -> Any:
    """Decode the pixels of an image in the same way as classifiers read image files.

    Photographs are rotated to their EXIF orientation, and 16-bit values are divided by 65535.

    Raises
    ------
    ValueError
        If the pixels cannot be decoded.
    """
    # The EXIF data of a PNG file only count if they precede the pixels, so check before loading.
    may_be_rotated = image.format != "PNG" or "exif" in image.info
    try:
        image.load()
    except DAMAGED as error:
        raise ValueError(f"image cannot be decoded: {error}") from error
    upright = _upright(image) if may_be_rotated else image
    if upright.mode.startswith("I"):
        return np.asarray(upright, np.float32) / np.float32(65535)
    return upright


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (*DAMAGED, LookupError):  # only the orientation is damaged, not the image
        return image
