"""Layouts of batches keep masks and read positions with their samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee._nn.batch_layout import BatchLayout


def layout(lengths: list[int], read: list[list[int]] | None = None) -> BatchLayout:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return BatchLayout(mask, None if read is None else torch.tensor(read))


def test_the_rows_read_are_those_of_each_sample_in_order():
    hidden = torch.arange(12.0).view(2, 3, 2)
    found = layout([3, 2], [[2, 0], [1, 1]]).rows_read(hidden)
    assert found.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_heads_that_read_all_positions_have_no_rows():
    with pytest.raises(RuntimeError, match="all positions"):
        layout([2]).rows_read(torch.zeros(1, 2, 3))


def test_some_samples_keep_their_positions():
    part = layout([3, 1, 2], [[2, 0], [0, 0], [1, 0]]).take(
        np.array([2, 1]), torch.tensor([2, 1]), 2
    )
    assert part.mask.tolist() == [[True, True], [True, False]]
    assert part.read.tolist() == [[1, 0], [0, 0]]
    assert part.width == 2


def test_merged_layouts_are_padded_to_the_widest():
    merged = BatchLayout.merge([layout([1], [[0]]), layout([2, 3], [[1], [2]])])
    assert merged.mask.sum(1).tolist() == [1, 2, 3]
    assert merged.read.tolist() == [[0], [1], [2]]
    assert BatchLayout.merge([layout([1]), layout([2])]).read is None


@pytest.mark.parametrize("windows", [None, np.array([1, 2, 1])])
def test_contexts_stay_with_their_samples(windows):
    n_rows = 3 if windows is None else 4
    whole = BatchLayout(
        torch.ones(n_rows, 2, dtype=torch.bool), None, windows, torch.arange(6.0).view(3, 2)
    )
    samples = np.array([2, 1])
    part = whole.take(samples, torch.from_numpy(whole.rows_of(samples)))
    assert part.context.tolist() == [[4, 5], [2, 3]]
    merged = BatchLayout.merge([part, whole])
    assert merged.context.tolist() == [[4, 5], [2, 3], [0, 1], [2, 3], [4, 5]]
    assert BatchLayout.merge([layout([1]), layout([2])]).context is None
