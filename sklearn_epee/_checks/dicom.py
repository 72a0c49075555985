"""Read DICOM files with one frame, scaled according to their header, with pydicom.

Stored values are converted to modality values (rescale slope and intercept, or modality LUT), and
these to intensities from 0 to 1: by the first window if the file has one, by the VOI LUT if it only
has that, and otherwise over the full range of the stored bits. Inverted grey (MONOCHROME1) is
inverted back. 8-bit pixels without any of these settings, and colors, stay uint8.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Maximum number of characters of pydicom's messages that are quoted.
_LONGEST = 300
_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLORS = frozenset(
    {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
)  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, given its name or its first bytes."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_header(path: Path, place: str) -> tuple[tuple[int, int, int], str]:
    """Return the shape of the image in a DICOM file, and its kind of pixels, from its header.

    Parameters
    ----------
    path : Path
    place : str
        How messages refer to the file.

    Returns
    -------
    shape : (h, w, c)
    kind : {"uint8", "float"}
        Floats are from 0 to 1.

    Raises
    ------
    ImportError
        If pydicom is not installed.
    ValueError
        If the file is not a single image, or cannot be read.
    """
    return _shape_and_kind(_read(path, place, stop_before_pixels=True), place)


def dicom_pixels(path: Path, place: str) -> NDArray[Any]:
    """Return the image in a DICOM file as uint8, or as float32 from 0 to 1.

    Returns
    -------
    ndarray of shape (h, w, c)

    Raises
    ------
    ImportError
        If pydicom is not installed.
    ValueError
        If the file is not a single image, or cannot be read.
    """
    dataset = _read(path, place)
    shape, kind = _shape_and_kind(dataset, place)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise _UnsupportedFileError(f"{place} holds no pixels: the element PixelData is missing.")
    stored = _decoded(dataset, place)
    try:
        if not _is_grey(dataset):
            pixels = _color(dataset, stored)
        else:
            pixels = stored if kind == "uint8" else _grey(dataset, stored, place)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            pixels = 255 - pixels if pixels.dtype == np.uint8 else 1 - pixels
        return pixels.reshape(shape)
    except (MemoryError, _UnsupportedFileError):
        raise
    except Exception as error:
        raise _UnsupportedFileError(
            f"{place} has values that cannot be scaled: {_reason(error)}"
        ) from error


class _UnsupportedFileError(ValueError):
    """Error for a file that is not supported."""


def _shape_and_kind(dataset: Any, place: str) -> tuple[tuple[int, int, int], str]:
    """Return the shape of the image and its kind of pixels."""
    try:
        return _shape(dataset, place), _kind(dataset)
    except (MemoryError, _UnsupportedFileError):
        raise
    except Exception as error:
        raise _UnsupportedFileError(
            f"{place} has a header that cannot be read: {_reason(error)}"
        ) from error


def _pydicom() -> ModuleType:
    import pydicom  # noqa: PLC0415
    import pydicom.pixels  # noqa: PLC0415

    return pydicom


def _read(path: Path, place: str, stop_before_pixels: bool = False) -> Any:
    try:
        pydicom = _pydicom()
    except ImportError as error:
        raise ImportError(
            f"{place} is a DICOM file, for which pydicom is needed: "
            "pip install 'sklearn_epee[dicom]'."
        ) from error
    try:
        # `force` also reads files without the preamble.
        dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
        found = "Rows" in dataset and "Columns" in dataset
    except MemoryError:
        raise
    except Exception as error:
        raise _UnsupportedFileError(
            f"{place} is not a DICOM file that can be read: {_reason(error)}"
        ) from error
    if not found:
        raise _UnsupportedFileError(
            f"{place} is not a DICOM image: it has no Rows and Columns. A report, a directory or a "
            "damaged file holds no image."
        )
    return dataset


def _shape(dataset: Any, place: str) -> tuple[int, int, int]:
    """Return (h, w, c); raise if the dataset is not a single image in grey or color."""
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    if n_frames > 1:
        raise _UnsupportedFileError(
            f"{place} holds {n_frames} frames. Volumes and films cannot be classified, but their "
            "frames can: read them with pydicom and give them as arrays, or save each as a file."
        )
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    samples = int(dataset.get("SamplesPerPixel") or 1)
    expected = 1 if photometric in {*_GREY, "PALETTE COLOR"} else 3
    if photometric not in _GREY | _COLORS or samples != expected:
        raise _UnsupportedFileError(
            f"{place} has the photometric interpretation {photometric!r} with {samples} samples "
            f"per pixel; expected {', '.join(sorted(_GREY))} or PALETTE COLOR with 1, or "
            f"{', '.join(sorted(_COLORS - {'PALETTE COLOR'}))} with 3."
        )
    height, width = int(dataset.Rows), int(dataset.Columns)
    if not height or not width:
        raise _UnsupportedFileError(
            f"{place} has {height} rows and {width} columns: an image without pixels."
        )
    return height, width, 1 if photometric in _GREY else 3


def _is_grey(dataset: Any) -> bool:
    return dataset.PhotometricInterpretation in _GREY


def _kind(dataset: Any) -> str:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        bits = dataset.get("RedPaletteColorLookupTableDescriptor", (0, 0, 16))[2]
        return "uint8" if bits == 8 else "float"
    if int(dataset.get("BitsAllocated") or 16) != 8 or dataset.get("PixelRepresentation"):
        return "float"
    if not _is_grey(dataset):
        return "uint8"
    rescaled = (
        "ModalityLUTSequence" in dataset
        or float(dataset.get("RescaleSlope", 1)) != 1
        or float(dataset.get("RescaleIntercept", 0)) != 0
    )
    bits = int(dataset.get("BitsStored") or 8)
    plain = bits == 8 and not rescaled and not _has_window(dataset)
    return "uint8" if plain and "VOILUTSequence" not in dataset else "float"


def _has_window(dataset: Any) -> bool:
    return dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None


def _decoded(dataset: Any, place: str) -> NDArray[Any]:
    """Return the stored values, (h, w) or (h, w, 3) in RGB."""
    pydicom = _pydicom()
    try:
        return np.asarray(pydicom.pixels.pixel_array(dataset))
    except MemoryError:
        raise
    except Exception as error:
        raise _UnsupportedFileError(
            f"{place} has pixels {_syntax(dataset)} that cannot be decoded: {_reason(error)}. "
            "Compressed pixels may need a decoder beside pydicom: pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls."
        ) from error


def _reason(error: Exception) -> str:
    """Return pydicom's message on one line, truncated."""
    return " ".join(str(error).split())[:_LONGEST].rstrip(".") or type(error).__name__


def _syntax(dataset: Any) -> str:
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is None:
        return "without a transfer syntax"
    return f"with the transfer syntax {getattr(syntax, 'name', syntax)} ({syntax})"


def _color(dataset: Any, stored: NDArray[Any]) -> NDArray[Any]:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = _pydicom().pixels.apply_color_lut(stored, dataset)
        largest = np.iinfo(stored.dtype).max
    else:
        largest = 2 ** int(dataset.BitsStored) - 1
    return stored if stored.dtype == np.uint8 else (stored / np.float32(largest))


def _grey(dataset: Any, stored: NDArray[Any], place: str) -> NDArray[np.float32]:
    """Return grey values from 0 to 1, as they should be displayed according to the file."""
    values = _pydicom().pixels.apply_modality_lut(stored, dataset).astype(np.float64)
    if _has_window(dataset):
        scaled = _windowed(dataset, values, place)
    elif dataset.get("VOILUTSequence"):
        scaled = _looked_up(dataset, values)
    else:
        low, high = _full_range(dataset, stored)
        scaled = (values - low) / (high - low)
    if not np.isfinite(scaled).all():
        raise ValueError("some are NaN or infinite after the rescaling and the window")
    return np.clip(scaled, 0, 1).astype(np.float32)


def _windowed(dataset: Any, values: NDArray[np.float64], place: str) -> NDArray[np.float64]:
    """Apply the first window, by the functions of the standard (PS3.3, C.11.2.1.2 and .3)."""
    center, width = (
        float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth")
    )
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    smallest = 1 if function == "LINEAR" else np.finfo(float).tiny
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"} or not width >= smallest:
        raise _UnsupportedFileError(
            f"{place} has a window of width {width:g} and the function {function!r}; expected a "
            "width of at least 1 with LINEAR, or above 0 with LINEAR_EXACT or SIGMOID."
        )
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _looked_up(dataset: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
    found = _pydicom().pixels.apply_voi(values.astype(np.int64), dataset)
    return found / (2.0 ** int(bits) - 1)


def _full_range(dataset: Any, stored: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest value that the stored bits can represent."""
    if stored.dtype.kind == "f":
        raise ValueError("pixels are floats without a window, whose range is unknown")
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(dataset.BitsStored)
    signed = bool(dataset.get("PixelRepresentation"))
    ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope, shift = (
        float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    )  # fmt: skip
    low, high = sorted(end * slope + shift for end in ends)
    if low == high:
        raise ValueError("the rescale slope is 0")
    return low, high
