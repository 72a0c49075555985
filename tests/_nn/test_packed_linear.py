"""Packed products give what torch's own give, and each row by itself."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from sklearn_epee._compat import MkldnnLinear
from sklearn_epee._nn import packed_linear
from sklearn_epee._nn.backbones import LinearWeights
from sklearn_epee._nn.packed_linear import PackedLinear, PlainProduct, can_pack, make_product
from tests._nn.affine_maps import make_affine, make_rows

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
ACTIVATIONS = ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu", "tanh"]


packed = pytest.mark.skipif(
    not all(map(can_pack, DTYPES)), reason="this processor or torch has no packed products"
)


@packed
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_packed_is_plain(name, bias, dtype):
    affine, rows, others = make_affine(bias=bias), make_rows().to(dtype), make_rows(70, 48, 2)
    ours = PackedLinear(affine, dtype, ACT2FN[name])
    plain = PlainProduct(affine, dtype, ACT2FN[name])
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    with torch.inference_mode():
        torch.testing.assert_close(ours(rows), plain(rows), **close)
        torch.testing.assert_close(ours.activated(rows), plain.activated(rows), **close)
        added = plain.added(rows, others.to(dtype))
        torch.testing.assert_close(ours.added(rows, others.to(dtype)), added, **close)


@packed
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_out", "n_in"), [(48, 40), (384, 384), (384, 1536), (1536, 384)])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype, n_out, n_in):
    product = PackedLinear(make_affine(n_out, n_in), dtype, functional.gelu)
    rows, others = make_rows(70, n_in).to(dtype), make_rows(70, n_out, 2).to(dtype)
    with torch.inference_mode():
        alone = product(rows), product.activated(rows), product.added(rows, others)
        for start, stop in ((0, 1), (3, 4), (0, 2), (5, 12), (10, 43)):
            part = rows[start:stop]
            few = product(part), product.activated(part), product.added(part, others[start:stop])
            for found, expected in zip(few, alone, strict=True):
                torch.testing.assert_close(found, expected[start:stop], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("gelu", ("gelu", "none")),
        ("gelu_new", ("gelu", "tanh")),
        ("gelu_pytorch_tanh", ("gelu", "tanh")),
        ("relu", ("relu", "")),
        ("silu", ("swish", "")),
        ("quick_gelu", None),
        ("tanh", None),
    ],
)
def test_activations_are_known_by_what_they_do(name, known):
    assert packed_linear.fused_activation(ACT2FN[name]) == known


@pytest.mark.parametrize(
    "missing", ["_reorder_linear_weight", "_linear_pointwise"], ids=["packing", "multiplying"]
)
def test_without_the_operators_products_are_plain(monkeypatch, missing):
    class Gone:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(torch.ops.mkldnn, missing, Gone(), raising=False)
    can_pack.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"packed products .*float32.* three times as long"):
            assert not can_pack(torch.float32)
        with warnings.catch_warnings():  # once is enough
            warnings.simplefilter("error")
            assert isinstance(make_product(make_affine(), torch.float32), PlainProduct)
    finally:
        can_pack.cache_clear()


def test_operators_that_are_wrong_are_not_used(monkeypatch):
    def zeros(rows, *_):
        return rows.new_zeros(len(rows), 1024)

    operators = MkldnnLinear(lambda weight, _: weight, zeros, zeros)
    monkeypatch.setattr(packed_linear, "mkldnn_linear", lambda: operators)
    assert "wrong results" in packed_linear._why_not_packed(torch.float32)


def test_operators_that_look_at_neighbors_are_not_used(monkeypatch):
    def linear(rows, weight, bias, *_):
        found = functional.gelu(functional.linear(rows, weight, bias))
        return found + 1e-7 * len(rows)

    def linear_add(rows, other, weight, bias, _):
        return functional.linear(rows, weight, bias) + other

    operators = MkldnnLinear(lambda weight, _: weight, linear, linear_add)
    monkeypatch.setattr(packed_linear, "mkldnn_linear", lambda: operators)
    assert "other rows" in packed_linear._why_not_packed(torch.float32)


def test_a_build_without_onednn_is_not_warned_about(monkeypatch):
    def absent():
        raise AttributeError("mkldnn")

    monkeypatch.setattr(packed_linear, "mkldnn_linear", absent)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    can_pack.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not can_pack(torch.float32)
    finally:
        can_pack.cache_clear()


def test_the_map_of_either_kind_of_linear_module():
    linear, transposed = nn.Linear(5, 7), Conv1D(7, 5)
    rows = make_rows(3, 5)
    for module in (linear, transposed):
        found = PlainProduct(LinearWeights.of(module), torch.float32, None)(rows)
        torch.testing.assert_close(found, module(rows))


def test_scaling_a_map_scales_its_outcome():
    affine, rows = make_affine(), make_rows()
    plain = PlainProduct(affine, torch.float32, None)(rows)
    for factor in (0.25, torch.linspace(-1, 1, 48)):
        scaled = PlainProduct(affine.scaled(factor), torch.float32, None)(rows)
        torch.testing.assert_close(scaled, plain * factor)
