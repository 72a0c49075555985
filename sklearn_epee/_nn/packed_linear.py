"""Linear layers with weights that are packed for the processor, on CPUs where this is faster."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sklearn_epee._compat import mkldnn_linear

from .backbones import LinearWeights

# Activations that oneDNN can fuse with a product, by its names for them and for variants of GELU.
_FUSED: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("gelu", "none"): functional.gelu,
    ("gelu", "tanh"): functools.partial(functional.gelu, approximate="tanh"),
    ("relu", ""): functional.relu,
    ("swish", ""): functional.silu,
}


class Product(Protocol):
    """Interface of a linear layer, applied to the rows of a matrix."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (r, in), mapped to (r, out)."""
        ...

    def activated(self, rows: Tensor) -> Tensor:
        """Return the rows, mapped and with the activation of the product applied."""
        ...

    def added(self, rows: Tensor, other: Tensor) -> Tensor:
        """Return the rows, mapped and added to others (r, out)."""
        ...


class PlainProduct:
    """A linear layer as torch computes it.

    Parameters
    ----------
    affine : LinearWeights
    dtype : torch.dtype
    activation : callable or None
        For `activated`.
    """

    def __init__(
        self,
        affine: LinearWeights,
        dtype: torch.dtype,
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._weight = affine.weight.detach().to(dtype)
        self._bias = None if affine.bias is None else affine.bias.detach().to(dtype)
        self._activation = activation

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (r, in), mapped to (r, out)."""
        return functional.linear(rows, self._weight, self._bias)

    def activated(self, rows: Tensor) -> Tensor:
        """Return the rows, mapped and through the activation."""
        product = self(rows)
        return product if self._activation is None else self._activation(product)

    def added(self, rows: Tensor, other: Tensor) -> Tensor:
        """Return the rows, mapped and added to others (r, out)."""
        return self(rows).add_(other)


class PackedLinear:
    """A linear layer with its weight in oneDNN's own layout.

    In float32, this is two to three times as fast as torch's own product on processors that MKL
    does not support well. In bfloat16, torch would convert the layout of the weight at every call,
    which takes most of the time for small batches. The result of a row is bitwise independent of
    other rows.

    Parameters
    ----------
    affine : LinearWeights
    dtype : torch.dtype
    activation : callable or None
        For `activated`; common ones are fused with the product.

    Notes
    -----
    Uses the operators that torch.compile uses on a CPU; `can_pack` checks that they are available
    and correct.
    """

    def __init__(
        self,
        affine: LinearWeights,
        dtype: torch.dtype,
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        operators = mkldnn_linear()
        self._linear, self._linear_add = operators.linear, operators.linear_add
        weight = affine.weight.detach().to(dtype).contiguous()
        self._weight = operators.reorder(weight, None)
        self._bias = None if affine.bias is None else affine.bias.detach().to(dtype).contiguous()
        self._fused = fused_activation(activation)
        self._activation = None if self._fused else activation

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (r, in), mapped to (r, out)."""
        return self._multiply(rows, "none", "")

    def activated(self, rows: Tensor) -> Tensor:
        """Return the rows, mapped and through the activation."""
        if self._fused:
            return self._multiply(rows, *self._fused)
        product = self._multiply(rows, "none", "")
        return product if self._activation is None else self._activation(product)

    def added(self, rows: Tensor, other: Tensor) -> Tensor:
        """Return the rows, mapped and added to others (r, out)."""
        if len(rows) == 1:
            return self.added(rows.repeat(2, 1), other.repeat(2, 1))[:1]
        return self._linear_add(rows, other, self._weight, self._bias, "add")

    def _multiply(self, rows: Tensor, activation: str, variant: str) -> Tensor:
        if len(rows) == 1:
            # For a single row, another kernel would be used, with another order of summation.
            return self._multiply(rows.repeat(2, 1), activation, variant)[:1]
        return self._linear(rows, self._weight, self._bias, activation, [], variant)


def make_product(
    affine: LinearWeights, dtype: torch.dtype, activation: Callable[[Tensor], Tensor] | None = None
) -> Product:
    """Return the fastest available product for a linear layer.

    Parameters
    ----------
    affine : LinearWeights
        On its device.
    dtype : torch.dtype
        Data type of the rows.
    activation : callable, default=None
        For `Product.activated`.

    Returns
    -------
    Product
    """
    packs = affine.weight.device.type == "cpu" and can_pack(dtype)
    return (PackedLinear if packs else PlainProduct)(affine, dtype, activation)


def rounded(n: int) -> int:
    """Round a number of rows up by a few per cent, to one of about a hundred sizes.

    oneDNN compiles a product for every number of rows and caches the last thousand; batches from
    which samples exit have more different sizes than that.
    """
    step = 4 if n <= 64 else 16 if n <= 512 else 64
    return n + -n % step


def filled_up(rows: Tensor) -> Tensor:
    """Append rows of zeros to rows (r, d), up to the number `rounded`; their results are unused."""
    missing = rounded(rows.shape[0]) - rows.shape[0]
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether packed products are available, correct, and independent of other rows.

    Parameters
    ----------
    dtype : torch.dtype
        Data type of rows and weights.

    Warns
    -----
    RuntimeWarning
        Once, if torch was built with oneDNN and they do not work.
    """
    reason = _why_not_packed(dtype)
    if reason and torch.backends.mkldnn.is_available():
        warnings.warn(
            f"oneDNN's packed products cannot be used in {dtype} by torch {torch.__version__} on "
            f"this processor ({reason}); torch's plain products are used instead. Predictions on "
            "the CPU take up to three times as long.",
            RuntimeWarning,
            stacklevel=2,
        )
    return not reason


def _why_not_packed(dtype: torch.dtype) -> str:
    """Return what is wrong with packed products on this machine; an empty string if they work."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(96, 256, generator=generator).to(dtype)
    weight = torch.randn(1024, 256, generator=generator).mul_(0.05).to(dtype)
    affine = LinearWeights(weight, torch.randn(1024, generator=generator).to(dtype))
    with torch.inference_mode():
        try:
            packed = PackedLinear(affine, dtype, functional.gelu)
            found = packed.activated(rows)
            summed = packed.added(rows, found)
            parts = [
                (packed.activated(rows[:n])[0], packed.added(rows[:n], found[:n])[0])
                for n in (1, 2, 7, 33)
            ]
        except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
            # Another processor, or a version of torch whose operators have other names.
            return str(error).partition("\n")[0] or type(error).__name__
        plain = PlainProduct(affine, dtype, functional.gelu)
        expected = plain.activated(rows)
        if not (_is_close(found, expected) and _is_close(summed, plain.added(rows, found))):
            return "they give wrong results"
    if not all(torch.equal(a, found[0]) and torch.equal(b, summed[0]) for a, b in parts):
        return "the result of a row depends on other rows"
    return ""


def _is_close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-5 if found.dtype == torch.float32 else 3e-2
    return torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


def fused_activation(activation: Callable[[Tensor], Tensor] | None) -> tuple[str, str] | None:
    """Return oneDNN's name and variant of an activation, recognized by its values; else None."""
    if activation is None:
        return None
    grid = torch.linspace(-8, 8, 257)
    values = activation(grid)
    for name, known in _FUSED.items():
        if torch.allclose(values, known(grid), rtol=0, atol=1e-6):
            return name
    return None
