"""Packed heads give what the heads give, and leave alone what they cannot speed up."""

from __future__ import annotations

import pytest
import torch

from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.fast_heads import NarrowRows, PackedHead, fast_head
from sklearn_epee._nn.heads import HEADS, Bottleneck, ExitHead, make_head
from sklearn_epee._nn.packed_linear import can_pack

WIDTH = 24


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dense", [None, WIDTH])
@pytest.mark.parametrize("n_classes", [3, (2, 3), LabelCount(4)])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 70])
@torch.inference_mode()
def test_logits_are_those_of_the_head(n_classes, n, dense, kind):
    torch.manual_seed(0)
    head = make_head(n_classes, WIDTH, dense, 0.1, kind=kind).eval()
    pooled = torch.randn(n, WIDTH)
    before = pooled.clone()
    found = fast_head(head)(pooled)
    torch.testing.assert_close(found, head(pooled), atol=1e-6, rtol=1e-6)
    assert torch.equal(pooled, before)


@pytest.mark.parametrize("kind", HEADS)
@torch.inference_mode()
def test_tasks_that_read_a_row_each(kind):
    torch.manual_seed(0)
    head = make_head((2, 3), WIDTH, WIDTH, 0.1, attends=True, kind=kind).eval()
    pooled = torch.randn(5, 2, WIDTH)
    torch.testing.assert_close(fast_head(head)(pooled), head(pooled), atol=1e-6, rtol=1e-6)


@pytest.mark.skipif(not can_pack(torch.float32), reason="nothing is packed here")
@torch.inference_mode()
def test_a_row_through_a_bottleneck_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    packed = NarrowRows(Bottleneck(WIDTH))
    rows = torch.randn(64, WIDTH)
    expected = packed(rows)
    for n in (4, 8, 28):
        assert torch.equal(packed(rows[:n]), expected[:n])


def test_constant_labels_stay_constant():
    head = make_head(LabelCount(3), WIDTH, WIDTH, 0.0).eval()
    head.constants.copy_(torch.tensor([1.0, 0.0, -1.0]))
    with torch.inference_mode():
        proba = fast_head(head)(torch.randn(4, WIDTH)).unflatten(-1, (3, 2)).softmax(-1)
    assert (proba[:, 0, 1] == 1).all()
    assert (proba[:, 2, 1] == 0).all()


@pytest.mark.skipif(not can_pack(torch.float32), reason="nothing is packed here")
def test_only_wide_layers_are_packed():
    assert isinstance(fast_head(make_head(3, WIDTH, WIDTH, 0.1)), PackedHead)
    assert isinstance(fast_head(make_head(3, WIDTH, None, 0.1, kind="bottleneck")), PackedHead)
    plain = make_head(3, WIDTH, None, 0.1)
    assert fast_head(plain) is plain


def test_heads_of_another_class_are_run_as_they_are():
    class Doubled(ExitHead):
        def forward(self, pooled):
            return super().forward(2 * pooled)

    head = Doubled(WIDTH, 3, WIDTH, 0.0).eval()
    assert fast_head(head) is head
