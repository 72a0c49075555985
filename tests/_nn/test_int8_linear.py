"""Products of 8-bit numbers give what the same rounding gives in NumPy, and each row by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional
from transformers.activations import ACT2FN

from sklearn_epee._compat import Int8Linear
from sklearn_epee._nn import int8_linear
from sklearn_epee._nn.backbones import LinearWeights
from sklearn_epee._nn.int8_linear import (
    InputScale,
    Int8Product,
    RoundedWeight,
    RowRounder,
    why_not_int8,
)
from tests._nn.affine_maps import make_affine, make_rows

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
ACTIVATIONS = ["gelu", "gelu_new", "relu", "silu", "quick_gelu"]

with_int8 = pytest.mark.skipif(bool(why_not_int8()), reason=f"no 8-bit products: {why_not_int8()}")


@pytest.fixture
def checked_anew():
    """Whether there are 8-bit products is checked anew, and again after the test."""
    why_not_int8.cache_clear()
    yield
    why_not_int8.cache_clear()


def make_scale(width: int = 40) -> InputScale:
    generator = np.random.default_rng(0)
    factor = torch.from_numpy(generator.uniform(20, 60, width).astype(np.float32)).bfloat16()
    shift = np.rint(generator.uniform(120, 136, width)).astype(np.float32)
    mean = generator.normal(0, 0.1, width).astype(np.float32)
    return InputScale(factor.float().numpy(), shift, mean)


def common_scale(width: int) -> InputScale:
    columns = (np.full(width, value, np.float32) for value in (40, 20, 0))
    return InputScale(*columns, is_common=True)


def in_numpy(affine: LinearWeights, scale: InputScale, rounded: np.ndarray) -> np.ndarray:
    """The outcome for rounded rows, from the definition of the rounding."""
    weight = affine.weight.numpy().astype(np.float64)
    stretched = weight / scale.factor
    step = np.abs(stretched).max(axis=1, keepdims=True) / 127
    whole = np.rint(stretched / step)
    assert np.abs(whole).max() == 127
    # What rounding the weight gets wrong of the mean row is put right.
    mean = scale.mean * scale.factor + scale.shift
    bias = 0 if affine.bias is None else affine.bias.numpy().astype(np.float64)
    exact_of_mean = weight @ scale.mean.astype(np.float64)
    return (rounded - mean) @ (whole * step).T + exact_of_mean + bias


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_rounded_column_by_column(dtype):
    scale, rows = make_scale(), make_rows().to(dtype) * 3
    found = RowRounder(scale)(rows)
    assert found.dtype == torch.uint8
    expected = np.clip(rows.float().numpy() * scale.factor + scale.shift, 0, 255)
    assert {0, 255} <= set(found.unique().tolist())
    assert np.abs(found.numpy() - expected).max() <= 0.5001


@with_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_products_are_those_of_the_same_rounding_in_numpy(name, bias, dtype):
    affine, scale = make_affine(bias=bias), make_scale()
    rounded = RowRounder(scale)(make_rows().to(dtype))
    others = make_rows(70, 48, 2).to(dtype)
    expected = in_numpy(affine, scale, rounded.numpy())
    product = Int8Product(affine, scale, dtype, ACT2FN[name])
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    assert_allclose(RoundedWeight(affine, scale)(rounded), expected, atol=1e-4)
    assert_allclose(product(rounded).float(), expected, **close)
    activated = ACT2FN[name](torch.from_numpy(expected)).numpy()
    assert not product.rounds
    assert_allclose(product.activated(rounded).float(), activated, **close)
    added = product.added(rounded, others)
    assert added.dtype == dtype
    assert_allclose(added.float(), expected + others.float().numpy(), **close)


@with_int8
@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
def test_what_is_activated_is_rounded_for_the_next_product(name):
    affine, scale, after = make_affine(), make_scale(), common_scale(48)
    rounded = RowRounder(scale)(make_rows() * 2)
    product = Int8Product(affine, scale, torch.bfloat16, ACT2FN[name], after)
    assert product.rounds
    activated = ACT2FN[name](torch.from_numpy(in_numpy(affine, scale, rounded.numpy())))
    expected = np.clip(np.rint(activated.numpy() * 40 + 20), 0, 255)
    found = product.activated(rounded)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - expected).max() <= 1
    # What is not an activation of oneDNN's, and what is rounded column by column, is rounded after
    # it.
    assert not Int8Product(affine, scale, torch.bfloat16, ACT2FN["quick_gelu"], after).rounds
    assert not Int8Product(affine, scale, torch.bfloat16, ACT2FN[name], make_scale(48)).rounds


@with_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_out", "n_in"), [(48, 40), (384, 384), (384, 1536), (1536, 384)])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype, n_out, n_in):
    scale, after = make_scale(n_in), common_scale(n_out)
    product = Int8Product(make_affine(n_out, n_in), scale, dtype, functional.gelu, after)
    rows, others = make_rows(70, n_in).to(dtype), make_rows(70, n_out, 2).to(dtype)
    rounder = RowRounder(scale)
    rounded = rounder(rows)
    alone = product(rounded), product.activated(rounded), product.added(rounded, others)
    for start, stop in ((0, 1), (3, 4), (0, 2), (5, 12), (10, 43)):
        part = rounder(rows[start:stop])
        few = product(part), product.activated(part), product.added(part, others[start:stop])
        for found, expected in zip(few, alone, strict=True):
            torch.testing.assert_close(found, expected[start:stop], atol=0, rtol=0)


@with_int8
def test_a_weight_that_is_kept_transposed():
    affine, scale = make_affine(), make_scale()
    rounded = RowRounder(scale)(make_rows())
    transposed = LinearWeights(affine.weight.T.contiguous().T, affine.bias)
    found = [Int8Product(one, scale, torch.float32)(rounded) for one in (affine, transposed)]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_the_mean_row_is_mapped_exactly():
    affine, scale = make_affine(), make_scale()
    mean = torch.from_numpy(scale.mean * scale.factor + scale.shift).unsqueeze(0)
    exact = functional.linear(torch.from_numpy(scale.mean), affine.weight, affine.bias)
    assert_allclose(RoundedWeight(affine, scale)(mean)[0], exact, atol=1e-4)


# ---------------------------------------------------------------------------- where there are none


@pytest.mark.usefixtures("checked_anew")
def test_a_processor_that_adds_up_in_16_bits_has_none(monkeypatch):
    monkeypatch.setattr(int8_linear, "cpu_capabilities", lambda: {"avx2": True})
    assert "AVX-512 VNNI" in why_not_int8()


@pytest.mark.usefixtures("checked_anew")
def test_a_torch_without_the_operators_has_none(monkeypatch):
    def gone():
        raise AttributeError("no qlinear_pointwise")

    monkeypatch.setattr(int8_linear, "cpu_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.setattr(int8_linear, "int8_linear", gone)
    assert "no qlinear_pointwise" in why_not_int8()


class OwnOperators:
    """The operators in plain torch, with something wrong of each row."""

    def __init__(self, wrong):
        self._wrong = wrong

    def linear(  # noqa: PLR0917 - as the operator
        self, rows, _, __, weight, scales, ___, bias, scale, zero, dtype, name, *____
    ):
        found = (rows.float() @ weight.float().T) * scales + bias
        found = (functional.gelu(found) if name == "gelu" else found) + self._wrong(len(rows))
        if dtype == torch.uint8:
            found = (found / scale + zero).round().clamp(0, 255)
        return found.to(dtype)

    def linear_add(self, rows, _, __, weight, scales, ___, other, bias, *____):
        return self.linear(rows, 1, 0, weight, scales, 0, bias, 1, 0, other.dtype, "") + other

    def all(self):
        return Int8Linear(lambda weight, _: weight, self.linear, self.linear_add)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(lambda _: 1.0, "wrong results"), (lambda n: 1e-6 * n, "other rows"), (lambda _: 0.0, "")],
    ids=["wrong", "neighbors", "right"],
)
def test_operators_are_tried_before_they_are_used(monkeypatch, wrong, reason):
    monkeypatch.setattr(int8_linear, "int8_linear", OwnOperators(wrong).all)
    found = int8_linear._fault()
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_common_scale_has_a_whole_zero():
    found = common_scale(4)
    assert_array_equal(found.shift, np.rint(found.shift))
