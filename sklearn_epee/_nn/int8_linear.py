"""Linear layers with 8-bit inputs and weights, on CPUs with 8-bit products.

Inputs are rounded column by column, with scales that are fixed in advance (`int8_calibration`), so
the result of a row does not depend on the other rows of its batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sklearn_epee._compat import cpu_capabilities, int8_linear

from .backbones import LinearWeights
from .packed_linear import fused_activation

# Range of rounded inputs: 0 to 255; of weights: -127 to 127.
MOST = 255
_MAX_INT8 = 127
# Between 2**23 and 2**24, float32 numbers are integers; the last byte of this number is 0.
_WHOLE = 1.5 * 2**23
# Number of values that are rounded at a time: few enough to stay in the processor's caches, and for
# the allocator to reuse their memory.
_NUMBERS_TOGETHER = 2**18
# Required instructions, by torch's names: they multiply bytes and accumulate in 32 bits. Without
# them, pairs of products are accumulated in 16 bits, which overflow.
_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")


@dataclass(frozen=True)
class InputScale:
    """8-bit scale of the input of a product: q = round(x * factor + shift), from 0 to 255.

    Parameters
    ----------
    factor, shift : ndarray of shape (in,), float32
    mean : ndarray of shape (in,), float32
        Mean input on the calibration samples; the error that rounding the weight causes for it is
        corrected in the bias.
    is_common : bool
        Whether all columns have the same factor and the same integer shift, so that the previous
        product can round its own output.
    """

    factor: NDArray[np.float32]
    shift: NDArray[np.float32]
    mean: NDArray[np.float32]
    is_common: bool = False

    @property
    def whole_shift(self) -> Tensor:
        """The shift, rounded to integers, (in,), float32."""
        return torch.from_numpy(self.shift).round()


class RowRounder:
    """Round the rows of a matrix to unsigned bytes with an `InputScale`.

    Parameters
    ----------
    scale : InputScale
    """

    def __init__(self, scale: InputScale) -> None:
        self._factor = torch.from_numpy(scale.factor)
        self._shift = scale.whole_shift + _WHOLE

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (r, in), rounded, uint8."""
        together = max(1, _NUMBERS_TOGETHER // rows.shape[1])
        if len(rows) <= together:
            return self._whole(rows).to(torch.uint8)
        rounded = torch.empty(rows.shape, dtype=torch.uint8)
        for start in range(0, len(rows), together):
            part = slice(start, start + together)
            rounded[part].copy_(self._whole(rows[part]))
        return rounded

    def _whole(self, rows: Tensor) -> Tensor:
        """Return the rounded rows in the lowest bytes of int32."""
        # Adding a large number rounds to an integer, which is then in the lowest bits. This takes
        # half as many passes over the rows as rounding and converting.
        shifted = torch.addcmul(self._shift, rows.float(), self._factor)
        return shifted.clamp_(_WHOLE, _WHOLE + MOST).view(torch.int32)


class RoundedWeight:
    """Rounded weight and bias of a linear layer, for inputs that are rounded with a scale.

    Parameters
    ----------
    affine : LinearWeights
    scale : InputScale
        Scale of the inputs.

    Attributes
    ----------
    weight : Tensor of shape (out, in), int8
    scales : Tensor of shape (out,), float32
        ``q @ (weight * scales).T + bias`` is the result for rounded rows q.
    bias : Tensor of shape (out,), float32
    """

    def __init__(self, affine: LinearWeights, scale: InputScale) -> None:
        factor, mean = map(torch.from_numpy, (scale.factor, scale.mean))
        shift = scale.whole_shift
        # The weight for rounded rows, whose columns are multiplied by the factors.
        exact = affine.weight.detach().float() / factor
        scales = exact.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        self.scales = scales / _MAX_INT8
        rounded = (exact / self.scales.unsqueeze(1)).round_()
        # GPT-2 keeps its weights transposed.
        self.weight = rounded.to(torch.int8).contiguous()
        wrong = exact - rounded.mul_(self.scales.unsqueeze(1))
        self.bias = wrong @ (mean * factor + shift) - exact @ shift
        if affine.bias is not None:
            self.bias += affine.bias.detach().float()

    def __call__(self, rounded: Tensor) -> Tensor:
        """Return the result for rounded rows (r, in), float32, computed with plain torch."""
        return (rounded.float() @ self.weight.float().T) * self.scales + self.bias


class Int8Product:
    """A linear layer for rounded inputs, computed by oneDNN's 8-bit product.

    Sums of integers are exact, so the result of a row does not depend on other rows.

    Parameters
    ----------
    affine : LinearWeights
    scale : InputScale
        Scale of the inputs.
    dtype : torch.dtype
        Data type of the result.
    activation : callable, default=None
        For `activated`; common ones are fused with the product.
    rounded_for : InputScale, default=None
        Scale of the next product, which reads the output of `activated`. If it `is_common` and the
        activation is fused, this product also rounds its output.

    Attributes
    ----------
    rounds : bool
        Whether `activated` returns rounded rows.
    """

    def __init__(
        self,
        affine: LinearWeights,
        scale: InputScale,
        dtype: torch.dtype,
        activation: Callable[[Tensor], Tensor] | None = None,
        rounded_for: InputScale | None = None,
    ) -> None:
        operators = int8_linear()
        self._linear, self._linear_add = operators.linear, operators.linear_add
        rounded = RoundedWeight(affine, scale)
        zeros = torch.zeros(len(rounded.scales), dtype=torch.int32)
        packed = operators.reorder(rounded.weight, None)
        self._weight = packed, rounded.scales, zeros
        self._bias = rounded.bias
        self._dtype = dtype
        self._fused = fused_activation(activation)
        self._activation = None if self._fused else activation
        self.rounds = bool(self._fused and rounded_for is not None and rounded_for.is_common)
        self._out = (1.0, 0, dtype)
        if self.rounds and rounded_for is not None:
            scale_out = 1 / float(rounded_for.factor[0])
            self._out = (scale_out, int(rounded_for.shift[0]), torch.uint8)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (r, in), uint8, mapped to (r, out)."""
        return self._multiply(rows, 1.0, 0, self._dtype, "none", "")

    def activated(self, rows: Tensor) -> Tensor:
        """Return the rows, mapped and through the activation, and rounded if it `rounds`."""
        if self._fused:
            return self._multiply(rows, *self._out, *self._fused)
        product = self(rows)
        return product if self._activation is None else self._activation(product)

    def added(self, rows: Tensor, other: Tensor) -> Tensor:
        """Return the rows, mapped and added to others (r, out)."""
        added: Tensor = self._linear_add(
            rows, 1.0, 0, *self._weight, other, self._bias, 1.0, 0, self._dtype,
            1.0, 0, "add", 1.0, "none", [], "",
        )  # fmt: skip
        return added

    def _multiply(self, rows: Tensor, *out: Any) -> Tensor:
        *form, name, variant = out
        product: Tensor = self._linear(
            rows, 1.0, 0, *self._weight, self._bias, *form, name, [], variant
        )
        return product


@functools.cache
def why_not_int8() -> str:
    """Return why 8-bit products cannot be used on this CPU; an empty string if they can."""
    capabilities = cpu_capabilities()
    if not any(capabilities.get(name) for name in _INSTRUCTIONS):
        return (
            "its processor has no instructions that multiply 8-bit numbers and accumulate in 32 "
            "bits (AVX-512 VNNI, AVX-VNNI or AMX)"
        )
    problem = _fault()
    return (
        f"oneDNN's 8-bit products fail in torch {torch.__version__}: {problem}" if problem else ""
    )


def _fault() -> str:
    """Return what is wrong with 8-bit products on this machine; an empty string if they work."""
    generator = torch.Generator().manual_seed(0)
    n_in, n_out = 256, 320
    rows = torch.randint(0, MOST + 1, (96, n_in), generator=generator).to(torch.uint8)
    others = torch.randn(96, n_out, generator=generator)
    weight = torch.randn(n_out, n_in, generator=generator).mul_(0.05)
    affine = LinearWeights(weight, torch.randn(n_out, generator=generator))
    columns = np.full(n_in, 40, np.float32), np.full(n_in, 128, np.float32)
    scale = InputScale(*columns, np.zeros(n_in, np.float32))
    narrow = np.full(n_out, 40, np.float32), np.full(n_out, 20, np.float32)
    common = InputScale(*narrow, np.zeros(n_out, np.float32), is_common=True)
    with torch.inference_mode():
        try:
            product = Int8Product(affine, scale, torch.float32, functional.gelu, common)
            found = [product(rows), product.activated(rows), product.added(rows, others)]
            parts = [
                [
                    product(rows[:n]),
                    product.activated(rows[:n]),
                    product.added(rows[:n], others[:n]),
                ]
                for n in (1, 2, 7, 33)
            ]
        except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
            # Another processor, or a version of torch whose operators have other names.
            return str(error).partition("\n")[0] or type(error).__name__
        plain = RoundedWeight(affine, scale)(rows)
        rounded = (functional.gelu(plain) * 40 + 20).round().clamp(0, MOST)
    if not all(_is_close(*pair) for pair in ((found[0], plain), (found[2], plain + others))):
        return "they give wrong results"
    if (found[1].float() - rounded).abs().max() > 1:
        return "they round wrongly"
    if not all(
        torch.equal(a, b[: len(a)]) for few in parts for a, b in zip(few, found, strict=True)
    ):
        return "the result of a row depends on other rows"
    return ""


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.float(), expected, rtol=1e-4, atol=1e-3)
