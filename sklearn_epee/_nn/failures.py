"""What torch's failures mean: out of memory, values that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator on Windows
    "MPS backend out of memory",
)
# The whole message of oneDNN where it finds no memory for the code of a product or for its result;
# for a product that it does not know, more words follow.
_ONEDNN_OUT_OF_MEMORY = (
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that a device, a CPU as well, ran out of memory.

    torch has an exception of its own for GPUs; its CPU and MPS allocators and oneDNN raise a
    RuntimeError that only the message tells from others, and NumPy and Python raise MemoryError.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and (
        message in _ONEDNN_OUT_OF_MEMORY
        or any(phrase in message for phrase in _OUT_OF_MEMORY_PHRASES)
    )


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinite values.

    A sum is the quickest test and right in nearly every case; where it is not finite, every value
    is looked at.
    """
    floats = [(name, part.detach()) for name, part in weights.items() if part.is_floating_point()]
    suspects = [(name, part) for name, part in floats if not torch.isfinite(part.sum())]
    return [name for name, part in suspects if not torch.isfinite(part).all()]
