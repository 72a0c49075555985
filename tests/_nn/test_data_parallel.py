"""Shares of batches, and which networks and callbacks are trained by several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from skorch.callbacks import Callback, EpochScoring, PrintLog, ProgressBar
from torch import nn

from sklearn_epee._nn import data_parallel
from sklearn_epee._nn.batching import PLACES, SAMPLE_WEIGHT, EncodedTexts, LabelledSamples
from sklearn_epee._nn.data_parallel import add_gradients, train_together
from sklearn_epee._nn.word_batches import EncodedWords, LabelledWords, PlacedWords


class TwoAlike:
    """Two processes that have the same to add."""

    def sums(self, tensors):
        return (2 * tensor for tensor in tensors)


@pytest.fixture
def samples():
    lengths = np.array([3, 1, 2, 4, 2])
    ids = np.arange(lengths.sum(), dtype=np.int32)
    weights = np.linspace(0, 1, 5, dtype=np.float32)
    return LabelledSamples(EncodedTexts(ids, lengths, None, 0), np.arange(5), weights)


def words_of(*counts):
    texts = [
        PlacedWords.from_pieces(
            np.arange(n + 2), np.r_[-1, np.arange(n), -1], np.r_[False, [True] * n, False],
            np.arange(n + 2), n,
        )
        for n in counts
    ]  # fmt: skip
    encoded = EncodedWords(texts, pad_id=0)
    n = sum(counts)
    return LabelledWords(encoded, np.arange(n), np.linspace(0, 1, n, dtype=np.float32))


def test_shares_are_the_batch(samples):
    rows = [4, 0, 3]
    whole, labels = samples.collate(rows)
    places = []
    for number in range(2):
        inputs, all_labels = samples.collate_share(rows, number, 2)
        assert_array_equal(all_labels, labels)
        own = inputs[PLACES]
        assert_array_equal(inputs[SAMPLE_WEIGHT], whole[SAMPLE_WEIGHT][own])
        width = inputs["input_ids"].shape[1]
        assert_array_equal(inputs["input_ids"], whole["input_ids"][own, :width])
        places += own.tolist()
    assert sorted(places) == [0, 1, 2]


def test_shares_of_words_are_those_of_their_texts():
    words = words_of(2, 3, 1)
    rows = [2, 1, 0]
    _, labels = words.collate(rows)
    assert_array_equal(labels, [5, 2, 3, 4, 0, 1])
    places = [words.collate_share(rows, number, 2)[0][PLACES].tolist() for number in (0, 1)]
    assert places == [[0, 4, 5], [1, 2, 3]]


def test_a_share_of_no_samples_reads_one_for_nothing(samples):
    inputs, labels = samples.collate_share([3], 1, 2)
    assert inputs[PLACES].tolist() == [-1]
    assert len(inputs["input_ids"]) == 1
    assert labels.tolist() == [3]


def test_gradients_are_added_in_parts(monkeypatch):
    monkeypatch.setattr(data_parallel, "_BUCKET", 10)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(1, 1))
    module[1].weight.requires_grad_(False)
    module[1](module[0](torch.ones(2, 3))).sum().backward()
    expected = [part.grad.clone() for part in (module[0].weight, module[0].bias, module[1].bias)]
    beside = add_gradients(TwoAlike(), module, 0.25, torch.tensor([1.0, 2.0]))
    assert beside.tolist() == [2, 4]
    for part, gradient in zip(
        (module[0].weight, module[0].bias, module[1].bias), expected, strict=True
    ):
        torch.testing.assert_close(part.grad, gradient / 2)
    # The optimizer leaves out what nobody has a gradient of.
    assert module[1].weight.grad is None
    assert module[2].weight.grad is None


def test_batch_normalization_is_refused():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match=r"has batch normalization \(1\)"):
        train_together(network, None, None, None, None)


class OwnLog(PrintLog):
    pass


@pytest.mark.parametrize(
    ("callback", "reports"),
    [
        (PrintLog(), True),
        (ProgressBar, True),
        (("log", OwnLog()), True),
        (Callback(), False),
        (("scored", EpochScoring("accuracy")), False),
    ],
)
def test_callbacks_that_report_run_in_one_process(callback, reports):
    assert data_parallel._only_reports(callback) == reports
