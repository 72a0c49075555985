"""Words and open positions of a batch, as words exit and batches shrink and merge."""

from __future__ import annotations

import numpy as np
import torch

from sklearn_epee._nn.word_layout import WordLayout
from tests._nn.words import make_sentences


def make_layout(rows: list[int]) -> WordLayout:
    batch = make_sentences().batch(np.array(rows))
    return WordLayout.of_batch(batch, batch["attention_mask"].bool())


def assert_consistent(layout: WordLayout) -> None:
    assert layout.counts.sum() == len(layout.numbers) == len(layout.positions)
    at = layout.rows, layout.positions
    np.testing.assert_array_equal(layout.pieces[at], layout.numbers)
    assert layout.open[at].all()
    special = layout.mask.numpy() & (layout.pieces < 0)
    np.testing.assert_array_equal(layout.open & special, special & (layout.counts > 0)[:, None])
    assert not (layout.open & ~layout.mask.numpy()).any()


def test_the_layout_of_a_batch():
    layout = make_layout([4, 0, 2])
    assert_consistent(layout)
    np.testing.assert_array_equal(layout.open, layout.mask.numpy())
    np.testing.assert_array_equal(layout.real, layout.mask.numpy())
    places = layout.rows * layout.width + layout.positions
    assert layout.word_index.tolist() == places.tolist()
    assert layout.first_pieces.flat.tolist() == places.tolist()
    assert layout.open_rows.flat.tolist() == torch.nonzero(layout.mask.flatten())[:, 0].tolist()


def test_pieces_of_words_that_exit_are_frozen_and_special_tokens_last():
    layout = make_layout([4, 0, 2])
    left = np.flatnonzero(layout.rows != 1)[::2]
    later = layout.with_words(left)
    assert_consistent(later)
    assert later.counts[1] == 0
    assert not later.open[1].any()
    np.testing.assert_array_equal(later.numbers, layout.numbers[left])
    pairs = set(zip(later.rows.tolist(), later.numbers.tolist(), strict=True))
    for row, position in zip(*np.nonzero(layout.pieces >= 0), strict=True):
        is_open = (int(row), int(layout.pieces[row, position])) in pairs
        assert later.open[row, position] == is_open
    # Once frozen, for good.
    assert not (later.with_words(np.arange(2)).open & ~later.open).any()


def test_take_and_merge_keep_words_with_their_sentences():
    layout = make_layout([4, 0, 2, 7])
    later = layout.with_words(np.arange(0, len(layout.numbers), 2))
    samples = np.array([3, 1])
    width = int(later.mask[samples].sum(1).max())
    part = later.take(samples, torch.from_numpy(samples), width)
    assert_consistent(part)
    assert part.width == width
    np.testing.assert_array_equal(part.counts, later.counts[samples])
    np.testing.assert_array_equal(part.numbers, later.numbers[later.predicted(samples)])
    other = later.take(np.array([0]), torch.tensor([0]))
    merged = part.merge([part, other])
    assert_consistent(merged)
    np.testing.assert_array_equal(merged.counts, later.counts[[3, 1, 0]])
    np.testing.assert_array_equal(merged.open.sum(1), later.open[[3, 1, 0]].sum(1))
