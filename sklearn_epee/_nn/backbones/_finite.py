"""Find tensors with values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite values.

    A sum is the quickest test and right in nearly every case; where it is not finite, every value
    is looked at.
    """
    floats = [(name, part.detach()) for name, part in weights.items() if part.is_floating_point()]
    suspects = [(name, part) for name, part in floats if not torch.isfinite(part.sum())]
    return [name for name, part in suspects if not torch.isfinite(part).all()]
