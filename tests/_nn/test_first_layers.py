"""Networks of the first layers of another have its first exits."""

from __future__ import annotations

import pytest
import torch

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.first_layers import first_layers
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.token_network import TokenExitNetwork
from tests.checkpoints import (
    GENERIC_IMAGE_FAMILIES,
    GENERIC_TEXT_FAMILIES,
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    kind_of,
    random_batch,
    randomise,
    tiny_config,
)

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES + GENERIC_TEXT_FAMILIES + GENERIC_IMAGE_FAMILIES


def network_of(family, n_layers=4, **overrides):
    config = tiny_config(family, n_layers, **overrides)
    backbone = randomise(load_backbone(config, kind_of(family)))
    return MultiExitNetwork(backbone, 3, "mean", 0.0).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_exits_are_the_first_ones_of_the_whole_network(family):
    network, batch = network_of(family), random_batch(family)
    with torch.no_grad():
        expected = network(**batch)
        for n_layers in (1, 3, 4):
            shorter = first_layers(network, n_layers)
            assert shorter.n_layers == len(shorter.heads) == n_layers
            torch.testing.assert_close(shorter(**batch), expected[:, :n_layers])
    assert network.n_layers == 4


def test_weights_are_copies():
    network, batch = network_of("bert"), random_batch("bert")
    shorter = first_layers(network, 2)
    with torch.no_grad():
        expected = network(**batch)
        for weight in shorter.parameters():
            weight.zero_()
        torch.testing.assert_close(network(**batch), expected)


def test_types_of_layers_are_shortened():
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    network = network_of("qwen2", layer_types=types, use_sliding_window=True, sliding_window=4)
    batch = random_batch("qwen2")
    shorter = first_layers(network, 3)
    assert shorter.backbone.config.layer_types == types[:3]
    with torch.no_grad():
        torch.testing.assert_close(shorter(**batch), network(**batch)[:, :3])


def test_layers_of_a_group_stay_together():
    network, batch = network_of("albert", 2, inner_group_num=2), random_batch("albert")
    with torch.no_grad():
        shorter = first_layers(network, 2)
        torch.testing.assert_close(shorter(**batch), network(**batch)[:, :2])
    with pytest.raises(ValueError, match="not a multiple of 2"):
        first_layers(network, 3)


def test_layers_that_depend_on_their_number_are_refused(monkeypatch):
    network = network_of("opt")
    plain = type(network.adapter).pool
    monkeypatch.setattr(
        type(network.adapter), "pool", lambda self, rows: plain(self, rows) * self.n_layers
    )
    with pytest.raises(ValueError, match="opt model with 2 layers are not the first"):
        first_layers(network, 2)


def test_networks_of_words_keep_their_class():
    backbone = randomise(load_backbone(tiny_config("bert"), "text"))
    shorter = first_layers(TokenExitNetwork(backbone, (3, 2)).eval(), 2)
    assert type(shorter) is TokenExitNetwork
    assert shorter.class_counts == (3, 2)
