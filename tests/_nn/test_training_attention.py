"""Attention for training on a CPU in bfloat16, against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sklearn_epee._nn.backbones import _training_attention
from sklearn_epee._nn.backbones._training_attention import attention

N, HEADS, LENGTH, WIDTH, SCALE = 4, 3, 20, 16, 0.3


def inputs(seed=0, queries=LENGTH):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, HEADS, length, WIDTH) for length in (queries, LENGTH, LENGTH)]
    return [torch.randn(shape, generator=generator).bfloat16().requires_grad_() for shape in shapes]


def key_mask():
    mask = torch.ones(N, 1, 1, LENGTH, dtype=torch.bool)
    mask[0, ..., 7:] = False
    mask[2, ..., 1:] = False
    return mask


def near_mask():
    places = torch.arange(LENGTH)
    return (places[:, None] - places[None, :]).abs() < 4


MASKS = {
    "none": (None, False),
    "keys": (key_mask(), False),
    "near": (near_mask(), False),
    "causal": (None, True),
}


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of torch's attention."""
    counted = []

    def counting(*args, **options):
        counted.append(args)
        return own(*args, **options)

    own = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", counting)
    return counted


def run(parts, gradient, function, mask, is_causal):
    out = function(*parts, mask=mask, dropout=0.0, is_causal=is_causal, scale=SCALE)
    out.backward(gradient.to(out.dtype))
    grads = [part.grad for part in parts]
    return [out.detach(), *grads]


def reference(query, k, v, *, mask, dropout, is_causal, scale):
    return functional.scaled_dot_product_attention(
        query, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale
    )


@pytest.mark.parametrize("name", MASKS)
def test_results_and_gradients_are_those_of_torch(name, calls):
    mask, is_causal = MASKS[name]
    parts = inputs()
    exact = [part.detach().double().requires_grad_() for part in parts]
    gradient = torch.randn(N, HEADS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    found = run(parts, gradient, attention, mask, is_causal)
    assert not calls
    expected = run(exact, gradient, reference, mask, is_causal)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=0.05, atol=0.03)


def test_a_mask_that_is_learned_gets_its_gradient():
    parts = inputs()
    bias = torch.randn(1, HEADS, LENGTH, LENGTH).bfloat16()
    exact = [part.detach().double().requires_grad_() for part in parts]
    learned, expected = bias.clone().requires_grad_(), bias.double().requires_grad_()
    gradient = torch.randn(N, HEADS, LENGTH, WIDTH)
    for each, mask, function in (
        (parts, learned, attention),
        (exact, expected, reference),
    ):
        joined = mask.masked_fill(~key_mask(), float("-inf"))
        run(each, gradient, function, joined, False)
    torch.testing.assert_close(learned.grad.double(), expected.grad, rtol=0.05, atol=0.05)
    for ours, theirs in zip(parts, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.05, atol=0.05)


def test_gradients_with_dropout_are_those_of_the_weights_that_are_kept(monkeypatch):
    parts = inputs(queries=7)
    keep = torch.rand(N, HEADS, 7, LENGTH, generator=torch.Generator().manual_seed(2)) > 0.25
    monkeypatch.setattr(_training_attention, "_kept", lambda *_: keep)
    exact = [part.detach().double().requires_grad_() for part in parts]
    gradient = torch.randn(N, HEADS, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    out = attention(*parts, mask=key_mask(), dropout=0.25, is_causal=False, scale=SCALE)
    out.backward(gradient.bfloat16())
    query, k, v = exact
    scores = (query @ k.transpose(2, 3) * SCALE).masked_fill(~key_mask(), float("-inf"))
    expected = (scores.softmax(-1) * keep / 0.75) @ v
    expected.backward(gradient.double())
    torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.03)
    for ours, theirs in zip(parts, exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_has_its_rate_everywhere_and_follows_the_seed(dropout):
    shape = torch.Size((101, 1003))
    torch.manual_seed(0)
    first = _training_attention._kept(shape, dropout)
    second = _training_attention._kept(shape, dropout)
    torch.manual_seed(0)
    assert torch.equal(_training_attention._kept(shape, dropout), first)
    assert not torch.equal(first, second)
    assert first.float().mean().item() == pytest.approx(1 - dropout, abs=0.005)
    for place in range(4):  # each of the numbers that are drawn together
        share = first.flatten()[place::4].float().mean().item()
        assert share == pytest.approx(1 - dropout, abs=0.01)
    both = (first & second).float().mean().item()
    assert both == pytest.approx((1 - dropout) ** 2, abs=0.01)


@pytest.mark.parametrize("case", ["float32", "no gradient", "frozen"])
def test_elsewhere_it_is_torchs_own(case, calls):
    parts = inputs()
    if case == "float32":
        parts = [part.detach().float().requires_grad_() for part in parts]
    if case == "frozen":
        parts = [part.detach() for part in parts]
    with torch.set_grad_enabled(case != "no gradient"):
        attention(*parts, mask=None, dropout=0.0, is_causal=False, scale=SCALE)
    assert len(calls) == 1


def test_a_query_without_keys_gets_a_number():
    parts = inputs()
    mask = torch.zeros(N, 1, 1, LENGTH, dtype=torch.bool)
    out = attention(*parts, mask=mask, dropout=0.0, is_causal=False, scale=SCALE)
    out.sum().backward()
    assert all(part.isfinite().all() for part in (out, *(part.grad for part in parts)))
