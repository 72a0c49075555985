"""Several tasks in one tensor are computed together as one by one."""

from __future__ import annotations

import pytest
import torch

from sklearn_epee._nn.exit_rules import normalized_entropy
from sklearn_epee._nn.tasks import (
    split_tasks,
    task_blocks,
    task_entropies,
    task_predictions,
    task_softmax,
)

# Alike and different numbers of classes; single classes; numbers too different to be padded.
COUNTS = [(3,), (3, 3), (2, 2, 2), (5, 7, 25, 3), (1, 1), (4, 1), (1, 300, 2, 2, 1), (2, 300)]


def make_logits(counts, *shape):
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.randn(*shape, sum(counts), generator=generator)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (6,), (2, 3)])
@pytest.mark.parametrize("counts", COUNTS)
def test_each_task_is_computed_as_alone(counts, shape):
    logits = make_logits(counts, *shape)
    proba = task_softmax(logits, counts)
    alone = [torch.softmax(part, dim=-1) for part in split_tasks(logits, counts)]
    torch.testing.assert_close(proba, torch.cat(alone, dim=-1), atol=1e-6, rtol=1e-6)
    entropies = [normalized_entropy(part) for part in alone]
    found = task_entropies(proba, counts)
    torch.testing.assert_close(found, torch.stack(entropies, dim=-1), atol=1e-6, rtol=1e-6)
    largest = [part.argmax(dim=-1) for part in split_tasks(logits, counts)]
    assert torch.equal(task_predictions(logits, counts), torch.stack(largest, dim=-1))


@pytest.mark.parametrize("counts", COUNTS)
def test_a_row_does_not_depend_on_others(counts):
    logits = make_logits(counts, 33)
    proba = task_softmax(logits, counts)
    entropies = task_entropies(proba, counts)
    for n in (1, 2, 7):
        assert torch.equal(task_softmax(logits[:n], counts), proba[:n])
        assert torch.equal(task_entropies(proba[:n], counts), entropies[:n])


def test_certain_predictions_have_no_entropy():
    proba = task_softmax(torch.tensor([[1e4, 0.0, 0.0, -1e4, 1e4]]), (2, 3))
    assert task_entropies(proba, (2, 3)).tolist() == [[0.0, 0.0]]
    assert task_predictions(proba, (2, 3)).tolist() == [[0, 2]]


def test_tasks_of_very_different_sizes_are_not_padded_to_the_largest():
    counts = (1000, *[2] * 50)
    blocks = task_blocks(counts, torch.device("cpu"))
    padded = [block.spread(torch.zeros(block.width), 0.0).numel() for block in blocks]
    assert sum(block.width for block in blocks) == sum(counts)
    assert sum(padded) <= 3 * sum(counts)
    assert len(blocks) == 2


def test_probabilities_have_gradients_after_a_prediction():
    logits, counts = make_logits((3, 4), 2).requires_grad_(), (3, 4)
    task_blocks.cache_clear()
    with torch.inference_mode():
        task_softmax(logits, counts)
    task_softmax(logits, counts)[:, 0].sum().backward()
    assert logits.grad.abs().sum() > 0
