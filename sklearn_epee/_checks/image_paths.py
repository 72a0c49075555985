"""Images given as paths: read headers first, and decode files when they are used."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .dicom import dicom_header, dicom_pixels, is_dicom
from .image_files import CONVERTED, INTENSITIES
from .messages import shown
from .pixels import PixelRange

# Unsupported file types, with advice for messages.
_FOREIGN = {
    (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"): "a volume; give its slices as arrays or files",
    (".npy", ".npz"): "an array of NumPy; load it with numpy.load and give the arrays",
    (".h5", ".hdf5", ".mat"): "a container of arrays; read it and give the arrays",
    (".svs", ".ndpi", ".mrxs", ".scn"): "a whole slide; cut tiles from it and give those",
    (".csv", ".tsv", ".txt"): "a table; sklearn_epee.datasets.load_image_csv reads paths from one",
}
_UINT8 = PixelRange("uint8", 0, 255, whole=True)
_FRACTIONS = PixelRange("float", 0, 1, whole=False)
_SIXTEEN_BITS = 2**16 - 1
# Maximum length of a path in messages.
_MAX_PATH_LENGTH = 300
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# Exceptions that damaged files can raise.
_DAMAGED = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


def is_path(item: Any) -> bool:
    """Return whether an object is a path."""
    return isinstance(item, (str, os.PathLike))


@dataclass(frozen=True)
class PathImage:
    """An image file that is decoded each time it is used, by `numpy.asarray`.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        (h, w, c).
    seen : PixelRange or None
        Possible range of the pixels according to the header; None if unknown.
    place : str
        How messages refer to the file.
    dtype : dtype
        uint8 or float32.
    """

    path: Path
    shape: tuple[int, ...]
    seen: PixelRange | None
    place: str
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, item: str | os.PathLike[Any], i: int) -> PathImage:
        """Create a `PathImage` from a path in X, by reading the header of the file.

        Raises
        ------
        ValueError
            If the file does not exist, or is not an image that can be read.
        ImportError
            If it is a DICOM file and pydicom is not installed.
        """
        path, place = _existing(item, i)
        shape, seen = _header(path, place)
        kind = "uint8" if seen is not None and seen.kind == "uint8" else "float32"
        return cls(path, shape, seen, place, np.dtype(kind))

    @property
    def is_scaled(self) -> bool:
        """Whether integer pixels of the file are divided by the maximum of their type."""
        return self.seen == _FRACTIONS

    def pixels(self) -> NDArray[Any]:
        """Return the pixels of the file, (h, w, c), as uint8 or float32.

        Raises
        ------
        ValueError
            If it cannot be decoded, or the image does not match the header read before.
        """
        found = _decoded(self.path, self.place)
        if found.shape != self.shape:
            raise ValueError(
                f"{self.place} has the shape {found.shape} where its header gives {self.shape}; "
                "files must not change while they are read."
            )
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.pixels().astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        # Images are only pickled to compute fingerprints, which use the content of the file.
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"shape": self.shape, "digest": digest, "dtype": str(self.dtype)}


def _existing(item: str | os.PathLike[Any], i: int) -> tuple[Path, str]:
    raw = os.fspath(item)
    if not isinstance(raw, str):
        raise TypeError(f"X[{i}] is the path {shown(raw)} in bytes; expected str.")
    place = f"X[{i}], the file {raw!r},"
    path = Path(raw)
    try:
        exists, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"X[{i}] is {shown(raw)}, which is not a path of a file: {reason}"
        ) from error
    if is_folder:
        raise ValueError(
            f"X[{i}] is the folder {raw!r}; expected an image file. "
            "sklearn_epee.datasets.load_image_folder lists the files of a folder."
        )
    if not exists:
        named = repr(raw) if len(raw) < _MAX_PATH_LENGTH else shown(raw)
        raise ValueError(f"X[{i}] is the path {named}, where there is no file.")
    for suffixes, advice in _FOREIGN.items():
        if path.name.lower().endswith(suffixes):
            raise ValueError(f"{place} is {advice}.")
    return path, place


def _header(path: Path, place: str) -> tuple[tuple[int, ...], PixelRange | None]:
    if _is_dicom(path, place):
        shape, kind = dicom_header(path, place)
        return shape, _UINT8 if kind == "uint8" else _FRACTIONS
    with _opened(path, place) as image:
        width, height = image.size
        if _turn_of(image) in (5, 6, 7, 8):
            width, height = height, width
        mode = CONVERTED.get(image.mode, image.mode)
    seen = None if mode == "F" else _FRACTIONS if mode.startswith("I") else _UINT8
    return (height, width, Image.getmodebands(mode)), seen


def _is_dicom(path: Path, place: str) -> bool:
    try:
        return is_dicom(path)
    except OSError as error:
        raise ValueError(f"{place} cannot be read: {error}") from error


def _opened(path: Path, place: str) -> Any:
    """Open a file with Pillow; raise if it is not a single image of intensities."""
    try:
        image = Image.open(path)
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{place} is not an image that Pillow or pydicom reads; expected PNG, JPEG, TIFF, BMP, "
            "DICOM or the like."
        ) from error
    except _DAMAGED as error:
        raise ValueError(f"{place} cannot be opened as an image: {error}") from error
    if n_frames > 1:
        image.close()
        raise ValueError(
            f"{place} holds {n_frames} frames ({image.format}). Volumes and films cannot be "
            "classified, but their frames can: give them as arrays, or save each as a file."
        )
    if image.mode not in INTENSITIES and image.mode not in CONVERTED:
        image.close()
        raise ValueError(
            f"{place} has the mode {image.mode!r}, whose values are not intensities; save it as "
            "RGB or grey."
        )
    return image


def _decoded(path: Path, place: str) -> NDArray[Any]:
    """Return the pixels of a file, (h, w, c), as uint8 or float32."""
    if _is_dicom(path, place):
        return dicom_pixels(path, place)
    with _opened(path, place) as image:
        turn = _TURNS.get(_turn_of(image))
        try:
            converted = image.convert(CONVERTED[image.mode]) if image.mode in CONVERTED else image
            pixels = np.asarray(converted if turn is None else converted.transpose(turn))
        except _DAMAGED as error:
            raise ValueError(f"{place} cannot be decoded: {error}") from error
        mode = converted.mode
    pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    if mode.startswith("I"):
        return _sixteen_bits(pixels, place)
    if mode == "F":
        return _finite(pixels, place)
    return pixels


def _turn_of(image: Any) -> int:
    """Return the EXIF orientation in the header of a file, 1 if there is none.

    Pillow rotates TIFF files itself. EXIF data after the pixels of a PNG are not read.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (*_DAMAGED, LookupError):
        return 1


def _sixteen_bits(pixels: NDArray[Any], place: str) -> NDArray[np.float32]:
    """Return 16-bit pixels divided by 65535."""
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > _SIXTEEN_BITS:
        raise ValueError(
            f"{place} has whole numbers from {low} to {high}, whose scale the file does not give; "
            "expected 8 bits, unsigned 16 bits (read as fractions of 65535) or floats."
        )
    return pixels.astype(np.float32) / np.float32(_SIXTEEN_BITS)


def _finite(pixels: NDArray[Any], place: str) -> NDArray[np.float32]:
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{place} contains NaN or infinity among its pixels.")
    return values
