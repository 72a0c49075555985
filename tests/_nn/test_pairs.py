"""Encoded pairs give each tower the cells that there are."""

from __future__ import annotations

import numpy as np
import pytest

from sklearn_epee._nn.batching import EncodedTexts
from sklearn_epee._nn.pairs import DeferredSamples, EncodedPairs
from tests._nn.exits import N_SAMPLES
from tests._nn.towers import make_pairs, make_present

EVERY = np.arange(N_SAMPLES)


def test_lengths_are_the_positions_of_both_towers():
    pairs = make_pairs()
    text = np.where(pairs.present[:, 0], pairs.first.lengths, 0)
    assert (pairs.lengths == text + 17 * pairs.present[:, 1]).all()


def test_cells_that_are_missing_are_never_encoded():
    pairs, encoded_rows = make_pairs(), []

    class Watched:
        windows, lengths = None, pairs.second.lengths

        def __len__(self):
            return N_SAMPLES

        def batch(self, rows):
            encoded_rows.extend(rows.tolist())
            return pairs.second.batch(rows)

    present = make_present()
    EncodedPairs(pairs.first, Watched(), present).batch(EVERY)
    assert encoded_rows == np.flatnonzero(present[:, 1]).tolist()


def test_halves_must_be_of_one_length():
    pairs = make_pairs()
    with pytest.raises(ValueError, match="one length; got 19, 18 and 19"):
        EncodedPairs(pairs.first, DeferredSamples(18, pairs.second_of), pairs.present)


def test_texts_of_several_windows_are_not_trained_on():
    ids, windows = np.ones(12, np.int32), np.array([2, 1])
    texts = EncodedTexts(ids, np.array([4, 4, 4]), None, 0, windows)
    pairs = EncodedPairs(texts, texts, np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="one window each"):
        pairs.batch(np.arange(2))
