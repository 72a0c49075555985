"""The scale of pixels: what has the numbers of the training is read so, or refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sklearn_epee._checks.pixels import PixelRange, PixelScale

RNG = np.random.default_rng(0)
UINT8 = RNG.integers(0, 256, (5, 8, 8), dtype=np.uint8)
MASK = UINT8 > 100
DARK = UINT8 // 128
CT = UINT8.astype(np.int16) * 16 - 1000

# Fitted on, and what then happens to other pixels: None is as they are, a type is read as that
# type, and "refused" is an error.
CASES = {
    "uint8": (UINT8, [
        (UINT8, None), (DARK, None), (UINT8.astype(np.int64), "uint8"),
        (UINT8.astype(np.uint16), "uint8"), (DARK.astype(int), "uint8"), (UINT8 / 255, None),
        (UINT8 / 255 + 0.2, None), (MASK, None), (UINT8.astype(float), "refused"),
        (UINT8 / 127.5 - 1, "refused"), (CT, "refused"), (UINT8.astype(int) + 1, "refused"),
    ]),
    "uint8 of 0 and 1": (DARK, [
        (DARK, None), (UINT8, None), (DARK.astype(int), "uint8"), (DARK.astype(float), "uint8"),
        (MASK, "uint8"), (UINT8 / 255, "refused"), (UINT8.astype(float), "refused"),
    ]),
    "int64": (UINT8.astype(int), [
        (UINT8, "float32"), (UINT8.astype(int), None), (UINT8.astype(float), None),
        (DARK.astype(float), None), (UINT8 / 2, None), (UINT8 / 255, "refused"), (CT, None),
    ]),
    "float64 as uint8": (UINT8.astype(float), [
        (UINT8, "float32"), (UINT8.astype(np.int32), None), (UINT8.astype(float), None),
        (UINT8 / 255, "refused"),
    ]),
    "uint16": (UINT8.astype(np.uint16) * 100, [
        (UINT8.astype(np.int32) * 100, None), (UINT8 * 100.0, None), (UINT8, "refused"),
        (UINT8 / 255, "refused"),
    ]),
    "CT": (CT, [(CT, None), (CT.astype(float), None), (UINT8, "refused")]),
    "0 to 1": (UINT8 / 255, [
        (UINT8 / 255, None), (UINT8 / 255 * 1.1, None), (UINT8, None), (DARK, None),
        (UINT8.astype(int), "uint8"), (np.zeros((2, 2), int), None), (DARK.astype(int), "refused"),
        (UINT8.astype(float), "refused"), (CT, "refused"), (CT / 1.0, "refused"),
    ]),
    "bool": (MASK, [
        (MASK, None), (MASK.astype(int), None), (MASK.astype(float), None),
        (MASK * np.uint8(255), None), (MASK.astype(np.uint8), "refused"),
    ]),
    "SI units": (UINT8 * 1e-9, [
        (UINT8 * 1e-9, None), (UINT8, "refused"), (UINT8.astype(int), "refused"),
    ]),
    "standardised": (UINT8 / 60 - 2, [
        (UINT8 / 60 - 2, None), (UINT8 / 90 - 1, None), (UINT8, "refused"),
        (UINT8.astype(int), "refused"),
    ]),
    "resized 0 to 255": (UINT8 / 1.03, [
        (UINT8 / 1.03, None), (UINT8, "float32"), (UINT8.astype(int), None),
        (UINT8 / 255, "refused"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_read_with_the_scale_of_the_training(case):
    fitted, others = CASES[case]
    scale = PixelScale.of(PixelRange.of(fitted))
    for given, expected in others:
        seen = PixelRange.of(given)
        if expected == "refused":
            with pytest.raises(ValueError, match=re.escape(f"X holds {seen}, but this class")):
                scale.reading_of(seen)
        else:
            assert scale.reading_of(seen) == expected, str(seen)


@pytest.mark.parametrize("case", CASES)
def test_the_pixels_of_the_training_are_always_accepted(case):
    fitted, _ = CASES[case]
    scale = PixelScale.of(PixelRange.of(fitted))
    for part in (fitted, fitted[:1], fitted[:1, :1, :1]):
        assert scale.reading_of(PixelRange.of(part)) is None
