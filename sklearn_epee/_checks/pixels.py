"""The scale of pixels, and conversion of pixels to the scale of the training images.

uint8 pixels are divided by 255, and others are not scaled. So the same numbers as uint8 and as
int64 would be different images. To avoid this, later pixels are converted to the scale in `fit`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Range of pixels between 0 and 1; resizing can slightly exceed it.
_FRACTIONS = (-0.5, 1.5)
# The same in prediction, where images can be brighter than the training images.
_SEEN_FRACTIONS = (-1.0, 2.0)
# If the largest float is below this, pixels are in a unit of their own, and not from 0 to 1.
_BRIGHT = 0.05
_FEW_PROBED = 4096


@dataclass(frozen=True)
class PixelRange:
    """The type and the range of pixels.

    Parameters
    ----------
    kind : {"uint8", "integer", "float"}
        Booleans are floats, 0.0 and 1.0.
    low, high : float
    whole : bool
        Whether all pixels are whole numbers.
    """

    kind: str
    low: float
    high: float
    whole: bool

    @classmethod
    def of(cls, pixels: NDArray[Any]) -> PixelRange:
        """Return the range of an array of pixels."""
        kind = "uint8" if pixels.dtype == np.uint8 else _KINDS.get(pixels.dtype.kind, "float")
        whole = kind != "float" or _are_whole(pixels)
        return cls(kind, float(pixels.min()), float(pixels.max()), whole)

    def within(self, low: float, high: float) -> bool:
        """Return whether all pixels are between two values."""
        return low <= self.low and self.high <= high

    def __str__(self) -> str:
        return f"{self.kind} pixels from {self.low:g} to {self.high:g}"


_KINDS = {"i": "integer", "u": "integer"}


def _are_whole(pixels: NDArray[Any]) -> bool:
    if pixels.dtype.kind == "b":
        return True
    first = pixels.reshape(-1)[:_FEW_PROBED]
    return bool((first == np.rint(first)).all() and (pixels == np.rint(pixels)).all())


def ranges_by_kind(ranges: Iterable[PixelRange]) -> dict[str, PixelRange]:
    """Return the joint range of each kind of pixels."""
    joined: dict[str, PixelRange] = {}
    for part in ranges:
        known = joined.get(part.kind, part)
        joined[part.kind] = PixelRange(
            part.kind,
            min(known.low, part.low),
            max(known.high, part.high),
            known.whole and part.whole,
        )
    return joined


@dataclass(frozen=True)
class PixelScale:
    """The scale of the pixels of the training images.

    Parameters
    ----------
    kind : {"uint8", "whole numbers", "fractions", "numbers"}
    seen : PixelRange
        Range of the training images.
    """

    kind: str
    seen: PixelRange

    @classmethod
    def of(cls, seen: PixelRange) -> PixelScale:
        """Return the scale of training images, given their range."""
        if seen.kind == "uint8":
            return cls("uint8", seen)
        if seen.whole and seen.high >= 2:
            return cls("whole numbers", seen)
        if seen.within(*_FRACTIONS) and (seen.high >= _BRIGHT or seen.whole):
            return cls("fractions", seen)
        return cls("numbers", seen)

    @property
    def is_told_by_headers(self) -> bool:
        """Whether the conversion of uint8 and fractions does not depend on their values."""
        return self.kind == "fractions" or (self.kind == "uint8" and self.seen.high >= 2)

    def reading_of(self, given: PixelRange) -> str | None:
        """Return the type to which pixels must be converted to have this scale.

        Parameters
        ----------
        given : PixelRange
            Range of pixels of one kind.

        Returns
        -------
        {"uint8", "float32"} or None
            None: pixels are not converted.

        Raises
        ------
        ValueError
            If the pixels have another scale, or it is ambiguous.
        """
        fits, reading = _RULES[self.kind, given.kind](self.seen, given)
        if not fits:
            raise ValueError(
                f"X holds {given}, but this classifier was fitted on {self.seen}. Its predictions "
                "would be wrong; pass pixels with the same type and range as in fit."
            )
        return reading


_Reading = tuple[bool, str | None]


def _uint8_as_uint8(_seen: PixelRange, _given: PixelRange) -> _Reading:
    return True, None


def _integer_as_uint8(_seen: PixelRange, given: PixelRange) -> _Reading:
    return given.within(0, 255), "uint8"


def _float_as_uint8(seen: PixelRange, given: PixelRange) -> _Reading:
    if seen.high >= 2:
        return given.within(*_FRACTIONS), None
    # Masks of 0 and 1.
    return given.whole and given.within(0, 1), "uint8"


def _uint8_as_whole(seen: PixelRange, _given: PixelRange) -> _Reading:
    return seen.within(0, 255), "float32"


def _integer_as_whole(_seen: PixelRange, _given: PixelRange) -> _Reading:
    return True, None


def _float_as_whole(_seen: PixelRange, given: PixelRange) -> _Reading:
    return given.whole or not given.within(0, 1), None


def _uint8_as_fractions(seen: PixelRange, given: PixelRange) -> _Reading:
    # If the training images are masks of 0 and 1, a 1 could be 1 or 1 / 255.
    return not (seen.whole and given.high == 1), None


def _integer_as_fractions(seen: PixelRange, given: PixelRange) -> _Reading:
    if given.within(0, 1):
        return seen.whole or given.high == 0, None
    return given.within(0, 255), "uint8"


def _float_as_fractions(_seen: PixelRange, given: PixelRange) -> _Reading:
    return given.within(*_SEEN_FRACTIONS), None


def _uint8_as_numbers(seen: PixelRange, given: PixelRange) -> _Reading:
    fits = seen.within(0, 255) and seen.high >= 2 and given.high <= 10 * seen.high
    return fits, "float32"


def _integer_as_numbers(seen: PixelRange, given: PixelRange) -> _Reading:
    largest = 10 * max(abs(seen.low), abs(seen.high))
    return given.within(-largest, largest), None


def _float_as_numbers(seen: PixelRange, given: PixelRange) -> _Reading:
    are_fractions = not given.whole and given.within(0, 1)
    return not (are_fractions and seen.low >= 0 and seen.high >= 64), None


_RULES = {
    ("uint8", "uint8"): _uint8_as_uint8,
    ("uint8", "integer"): _integer_as_uint8,
    ("uint8", "float"): _float_as_uint8,
    ("whole numbers", "uint8"): _uint8_as_whole,
    ("whole numbers", "integer"): _integer_as_whole,
    ("whole numbers", "float"): _float_as_whole,
    ("fractions", "uint8"): _uint8_as_fractions,
    ("fractions", "integer"): _integer_as_fractions,
    ("fractions", "float"): _float_as_fractions,
    ("numbers", "uint8"): _uint8_as_numbers,
    ("numbers", "integer"): _integer_as_numbers,
    ("numbers", "float"): _float_as_numbers,
}
