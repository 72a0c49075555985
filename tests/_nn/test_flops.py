"""The work of layers and heads is that of their products."""

from __future__ import annotations

import torch

from sklearn_epee._nn.flops import head_work, layer_flops
from sklearn_epee._nn.heads import ExitHead
from tests._nn.exits import N_LAYERS, make_network


def test_the_work_of_a_layer_is_its_products():
    adapter = make_network("bert", "cls").adapter
    tokens = {
        "input_ids": torch.ones(1, 10, dtype=torch.long),
        "attention_mask": torch.ones(1, 10, dtype=torch.long),
    }
    embedding, *layers = layer_flops(adapter, tokens)
    # Products with four square matrices and two of twice the width, scores and their sums.
    expected = 2 * 10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 2 * 10 * 10 * 32
    assert embedding == 0
    assert layers == [expected] * N_LAYERS


def test_the_work_of_patches_is_counted():
    embedding, *_ = layer_flops(
        make_network("vit", "cls").adapter, {"pixel_values": torch.zeros(1, 3, 16, 16)}
    )
    # 16 patches of 4 x 4 pixels.
    assert embedding == 2 * 16 * 3 * 4 * 4 * 32


def test_the_work_of_a_head_is_that_of_its_linear_maps():
    linear = 2 * (40 * 16 + 16 * 3)
    assert head_work(ExitHead(32, 3, 16, 0.0, context_size=8)) == linear
    both = ExitHead(32, 3, 16, 0.0, context_size=8, kind="bottleneck")
    assert head_work(both) == linear + 2 * (40 * 10 + 10 * 40)
