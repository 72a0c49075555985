"""Fast heads give what the heads give, and leave alone what may compute something else."""

from __future__ import annotations

import pytest
import torch

from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.fast_heads import FastHead, NarrowRows, fast_head
from sklearn_epee._nn.heads import HEADS, Bottleneck, ExitHead, make_head
from sklearn_epee._nn.packed_linear import can_pack
from sklearn_epee._nn.tasks import TaskHeads

WIDTH = 24


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dense", [None, WIDTH])
@pytest.mark.parametrize("n_classes", [3, (2, 3), (5, 1, 9), LabelCount(4)])
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
@pytest.mark.parametrize("n_tasks", [1, 3])
@torch.inference_mode()
def test_a_row_through_a_bottleneck_does_not_depend_on_those_beside_it(n_tasks):
    torch.manual_seed(0)
    packed = NarrowRows([Bottleneck(WIDTH) for _ in range(n_tasks)])
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


@torch.inference_mode()
def test_tasks_with_trained_bottlenecks_and_norms_of_their_own():
    torch.manual_seed(0)
    head = make_head((2, 7, 3), WIDTH, None, 0.1, kind="bottleneck").eval()
    for weight in head.parameters():
        weight.normal_()
    pooled = torch.randn(9, WIDTH)
    torch.testing.assert_close(fast_head(head)(pooled), head(pooled), atol=1e-4, rtol=1e-5)


def test_tasks_that_read_the_same_rows_are_computed_together():
    for dense, kind in [(None, "linear"), (WIDTH, "linear"), (None, "bottleneck")]:
        assert isinstance(fast_head(make_head((2, 3), WIDTH, dense, 0.1, kind=kind)), FastHead)
    own = make_head((2, 3), WIDTH, None, 0.1, attends=True)
    assert not isinstance(fast_head(own), FastHead)


def test_heads_of_another_class_are_run_as_they_are():
    class Doubled(ExitHead):
        def forward(self, pooled):
            return super().forward(2 * pooled)

    head = Doubled(WIDTH, 3, WIDTH, 0.0).eval()
    assert fast_head(head) is head
    tasks = TaskHeads([head, ExitHead(WIDTH, 2, WIDTH, 0.0)]).eval()
    pooled = torch.randn(4, WIDTH)
    with torch.inference_mode():
        found = fast_head(tasks)(pooled)
        torch.testing.assert_close(found, tasks(pooled), atol=1e-6, rtol=1e-6)
