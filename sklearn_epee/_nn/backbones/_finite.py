"""Find tensors with values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinite values.

    The sum of a tensor is tested first, which is fast; single values are only tested if it is not
    finite.
    """
    floats = [(name, part.detach()) for name, part in weights.items() if part.is_floating_point()]
    suspects = [(name, part) for name, part in floats if not torch.isfinite(part.sum())]
    return [name for name, part in suspects if not torch.isfinite(part).all()]
