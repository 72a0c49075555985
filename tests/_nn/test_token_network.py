"""Exits for words: what the heads read, and networks that are made again."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from sklearn_epee._nn.token_network import TokenExitNetwork
from tests.checkpoints import TEXT_FAMILIES

from .word_networks import SENTENCES, make_word_network, word_tokenizer


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_heads_read_the_first_piece_of_every_word(family):
    network = make_word_network(family)
    batch = word_tokenizer(family).encode(SENTENCES).batch(np.arange(len(SENTENCES)))
    with torch.no_grad():
        logits = network(**batch)
        hidden, layout = network.embed(batch)
        for layer in range(1, network.n_layers + 1):
            hidden = network.adapter.layer(layer, hidden, layout.mask)
            ready = network.adapter.pool(hidden)
            for word, (row, position) in enumerate(
                zip(batch["word_rows"], batch["word_positions"], strict=True)
            ):
                expected = network.heads[layer - 1](ready[row, position][None])[0]
                torch.testing.assert_close(logits[word, layer - 1], expected)


def test_several_layers_of_spans_lie_side_by_side():
    network = make_word_network(n_classes=(3, 5))
    batch = word_tokenizer().encode(SENTENCES).batch(np.arange(2))
    assert network(**batch).shape == (16, 3, 8)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_network_made_again_is_the_same(way):
    network = make_word_network(n_classes=(3, 5))
    again = pickle.loads(pickle.dumps(network)) if way == "pickle" else copy.deepcopy(network)
    assert type(again) is TokenExitNetwork
    batch = word_tokenizer().encode(SENTENCES).batch(np.arange(4))
    with torch.no_grad():
        assert torch.equal(again(**batch), network(**batch))
