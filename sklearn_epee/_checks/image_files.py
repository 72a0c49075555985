"""PIL images: convert modes to intensities, and decode files when they are used."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile as OpenedFile

from .pixels import PixelRange

# Modes whose values are intensities, and the modes to which others are converted. Bits and palette
# indices are not intensities, and other color spaces cannot be told from RGB in an array.
INTENSITIES = frozenset({"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
CONVERTED = {
    "1": "L", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB",
    "La": "LA", "RGBa": "RGBA",
}  # fmt: skip


def is_pil_image(image: Any) -> bool:
    """Return whether an object is a PIL image."""
    return isinstance(image, Image.Image)


def decoded(image: Any, place: str) -> NDArray[Any]:
    """Return the pixels of a PIL image, grey or RGB, each with or without transparency.

    An image that was opened but not read yet is not loaded itself, because it would keep its pixels
    in memory.

    Parameters
    ----------
    image : PIL.Image.Image
    place : str
        How messages refer to the image.

    Returns
    -------
    ndarray of shape (h, w) or (h, w, c)

    Raises
    ------
    ValueError
        If it cannot be decoded, or the values of its mode are not intensities.
    """
    try:
        path = unread_file(image)
        if path is None:
            return _pixels(image, place)
        with Image.open(path) as fresh:
            same = (fresh.mode, fresh.size) == (image.mode, image.size)
            return _pixels(fresh if same else image, place)
    except (OSError, EOFError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{place} is a PIL image that cannot be decoded: {error}") from error


def unread_file(image: Any) -> Path | None:
    """Return the file of a PIL image whose pixels have not been read yet, or None."""
    is_open = isinstance(image, OpenedFile) and getattr(image, "fp", None) is not None
    if not is_open or getattr(image, "n_frames", 1) > 1 or not image.filename:
        return None
    path = Path(image.filename)
    return path if path.is_file() else None


def _pixels(image: Any, place: str) -> NDArray[Any]:
    if image.mode in INTENSITIES:
        return np.asarray(image)
    if image.mode not in CONVERTED:
        raise ValueError(
            f"{place} is a PIL image of mode {image.mode!r}, whose values are not intensities; "
            "convert it to 'RGB' or 'L'."
        )
    return np.asarray(image.convert(CONVERTED[image.mode]))


@dataclass(frozen=True)
class ImageFile:
    """A PIL image that is decoded each time it is used, by `numpy.asarray`.

    Parameters
    ----------
    source : PIL.Image.Image
    shape : tuple of int
        (h, w, c).
    seen : PixelRange
        Range of the pixels.
    digest : str
        Hash of the pixels.
    dtype : dtype
        uint8 or float32.
    """

    source: Any
    shape: tuple[int, ...]
    seen: PixelRange
    digest: str
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, source: Any, pixels: NDArray[Any], seen: PixelRange) -> ImageFile:
        """Create an `ImageFile` from a PIL image and its pixels."""
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return cls(source, pixels.shape, seen, digest, pixels.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = decoded(self.source, "an image of X")
        return pixels.reshape(self.shape).astype(dtype or self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        # Images are only pickled to compute fingerprints.
        return {"shape": self.shape, "digest": self.digest, "dtype": str(self.dtype)}
