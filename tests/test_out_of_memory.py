"""Which errors mean that the memory is full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee._compat import is_out_of_memory


def test_a_full_cpu_by_torchs_own_words():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert is_out_of_memory(raised.value)


def test_a_full_cpu_by_numpys_own_words():
    with pytest.raises(MemoryError) as raised:
        np.empty(10**17, np.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_a_full_device(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        ValueError("not enough memory"),
    ],
)
def test_other_errors_are_not_out_of_memory(error):
    assert not is_out_of_memory(error)
