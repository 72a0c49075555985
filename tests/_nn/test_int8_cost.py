"""What 8-bit products save, by arithmetic."""

from __future__ import annotations

import pytest

from sklearn_epee._nn.backbones import LayerParts, adapter_for, load_backbone
from sklearn_epee._nn.int8_cost import layer_gains, layer_products
from tests.checkpoints import tiny_config


def make_parts(width: int, family: str = "bert") -> LayerParts:
    config = tiny_config(
        family, hidden_size=width, intermediate_size=4 * width, num_attention_heads=4,
        **({"num_key_value_heads": 4} if family == "llama" else {}),
    )  # fmt: skip
    config.num_hidden_layers = 1
    parts = adapter_for(load_backbone(config, "text").eval()).layer_parts(1)
    assert parts is not None
    return parts


def test_wide_products_of_many_rows_save_most():
    base, small = (layer_gains(make_parts(width), 40, rounds_down=True) for width in (768, 384))
    few = layer_gains(make_parts(384), 4, rounds_down=True)
    for name, gain in base.items():
        assert 0 < few[name] + 0.05 < small[name] + 0.05 < gain + 0.05
    assert 0.3 < sum(base.values()) < 0.5
    # One product for one rounding, and a quarter of the feed-forward's work.
    assert min(base, key=base.get) == min(small, key=small.get) == "out"
    assert few["out"] < 0


def test_rows_that_are_rounded_by_the_product_before_cost_nothing():
    parts = make_parts(384)
    within, apart = (layer_gains(parts, 40, rounds_down=rounds) for rounds in (True, False))
    assert within["down"] > apart["down"]
    assert {name: gain for name, gain in within.items() if name != "down"} == {
        name: gain for name, gain in apart.items() if name != "down"
    }


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_gate_is_a_product_of_the_rows_that_the_feed_forward_reads(family):
    products = layer_products(make_parts(64, family))
    assert [len(group) for group in products.values()] == [3, 1, 2 if family == "llama" else 1, 1]
