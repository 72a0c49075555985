"""Random augmentation of training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_ROTATION = 10.0  # degrees, either way
MAX_SCALING = 0.1
MAX_SHIFT = 0.08  # of the image's side
MAX_INTENSITY = 0.2  # of a standard deviation, for contrast and for brightness


def jitter(pixels: Tensor) -> Tensor:
    """Rotate, scale and shift images and change their brightness and contrast at random, a little.

    Images are not mirrored, because this can change their class: letters, or the side of an organ.

    Parameters
    ----------
    pixels : Tensor of shape (n, c, h, w), float32
        Standardized images.

    Returns
    -------
    Tensor of shape (n, c, h, w), float32
        Random numbers come from torch's global generator.
    """
    grid = functional.affine_grid(
        _transformations(len(pixels), pixels.shape[-1] / pixels.shape[-2]),
        list(pixels.shape),
        align_corners=False,
    )
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    contrast, brightness = (_uniform(len(pixels), 1, 1, 1) * MAX_INTENSITY for _ in range(2))
    return moved * (1 + contrast) + brightness


def _transformations(n: int, aspect: float) -> Tensor:
    """Return random affine matrices (n, 2, 3), in coordinates from -1 to 1 along each side."""
    angle = _uniform(n) * math.radians(MAX_ROTATION)
    scale = 1 + _uniform(n) * MAX_SCALING
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    # Coordinates are scaled by the sides; the aspect ratio makes the map a rotation in pixels.
    linear = torch.stack([cosine, -sine / aspect, sine * aspect, cosine], dim=1).view(n, 2, 2)
    return torch.cat([linear, _uniform(n, 2, 1) * 2 * MAX_SHIFT], dim=2)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1
