"""Layers taken apart give what the adapters give, and see each sample by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sklearn_epee._nn.backbones import adapter_for, load_backbone
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.fast_attention import Neighborhood
from sklearn_epee._nn.fast_backbone import fast_backbone
from tests.checkpoints import (
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    kind_of,
    random_batch,
    randomise,
    tiny_config,
)

CPU = torch.device("cpu")
exact_bfloat16 = pytest.mark.skipif(
    prediction_dtype("auto", CPU) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)


VARIANTS = [(family, {}) for family in TEXT_FAMILIES + IMAGE_FAMILIES] + [
    ("dinov2", {"use_swiglu_ffn": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 4}),
]


def make_adapter(family: str, **options: Any):
    config = tiny_config(family, **options)
    return adapter_for(randomise(load_backbone(config, kind_of(family)), seed=0).eval())


@pytest.mark.parametrize(("family", "options"), VARIANTS)
@torch.inference_mode()
def test_every_family_runs_layer_by_layer_as_its_adapter(family, options):
    adapter = make_adapter(family, **options)
    fast = fast_backbone(adapter, torch.float32)
    assert fast is not None
    hidden, mask = adapter.embed(random_batch(family))
    first = torch.zeros(len(hidden), 1, dtype=torch.long)
    torch.testing.assert_close(fast.pool(hidden), adapter.pool(hidden))
    for layer in range(1, adapter.n_layers + 1):
        expected = adapter.layer(layer, hidden, mask)
        k, v = fast.keys_values(layer, hidden)
        found = fast.rows(layer, hidden, k, v, mask)
        row = fast.rows(layer, hidden[:, :1], k, v, mask, first)
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(row[mask[:, 0]], found[:, :1][mask[:, 0]], atol=1e-6, rtol=1e-6)
        hidden = expected


@pytest.mark.parametrize("family", ["bert", "gpt2", "albert"])
@torch.inference_mode()
def test_keys_values_and_queries_read_the_same_rows(family):
    adapter = make_adapter(family)
    fast, other = (fast_backbone(adapter, torch.float32) for _ in range(2))
    read = []
    layer = fast.layers[1]
    layer.readers = layer.readers._replace(attention=lambda rows: (read.append(rows), rows)[1])
    hidden, mask = adapter.embed(random_batch(family))
    expected = other.rows(2, hidden, *other.keys_values(2, hidden), mask)
    k, v = fast.keys_values(2, hidden)
    assert torch.equal(fast.rows(2, hidden, k, v, mask), expected)
    assert len(read) == 1
    # Other positions, or the same once more, are read by themselves.
    for other_hidden in (hidden.clone(), hidden):
        assert torch.equal(fast.rows(2, other_hidden, k, v, mask), expected)
    assert len(read) == 3


def test_layers_that_share_weights_share_their_packed_copy():
    fast = fast_backbone(make_adapter("albert"), torch.float32)
    assert len(set(fast.layers)) < len(fast.layers)


def test_gpt2_that_scales_attention_by_layer():
    config = tiny_config("gpt2")
    config.scale_attn_by_inverse_layer_idx = True
    adapter = adapter_for(randomise(load_backbone(config, "text"), seed=0).eval())
    fast = fast_backbone(adapter, torch.float32)
    with torch.inference_mode():
        hidden, mask = adapter.embed(random_batch("gpt2"))
        for layer in range(1, adapter.n_layers + 1):
            found = fast.rows(layer, hidden, *fast.keys_values(layer, hidden), mask)
            expected = adapter.layer(layer, hidden, mask)
            torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)


def text_batch(config, n: int, t: int, length: int) -> dict[str, torch.Tensor]:
    """Return texts of t tokens, of which the last has fewer."""
    ids = torch.randint(5, config.vocab_size, (n, t), generator=torch.Generator().manual_seed(t))
    mask = torch.ones_like(ids)
    mask[-1, length:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, config.pad_token_id or 0),
            "attention_mask": mask}  # fmt: skip


@exact_bfloat16
@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize(("length", "t"), [(5, 9), (31, 33), (60, 64)])
@torch.inference_mode()
def test_bfloat16_layers_of_a_text_are_its_own(family, length, t):
    adapter = make_adapter(family)
    check_own_bits(adapter, text_batch(adapter.model.config, 3, t, length), length)


@exact_bfloat16
@pytest.mark.parametrize(("length", "t"), [(100, 300), (257, 300)])
@torch.inference_mode()
def test_bfloat16_layers_of_a_long_text_are_its_own(length, t):
    adapter = make_adapter("modernbert", max_position_embeddings=512)
    check_own_bits(adapter, text_batch(adapter.model.config, 3, t, length), length)


def check_own_bits(adapter, batch, length: int) -> None:
    fast = fast_backbone(adapter, torch.bfloat16)
    hidden, mask = fast.embed(batch)
    one, own_mask = fast.embed({name: part[-1:, :length] for name, part in batch.items()})
    for layer in range(1, adapter.n_layers + 1):
        k, v = fast.keys_values(layer, hidden)
        above = fast.rows(layer, hidden, k, v, mask)
        alone = fast.rows(layer, one, *fast.keys_values(layer, one), own_mask)
        assert torch.equal(alone[0], above[-1, :length])
        for position in (0, length // 2, length - 1):
            at = torch.full((len(hidden), 1), position)
            row = fast.rows(layer, hidden[:, position : position + 1], k, v, mask, at)
            assert torch.equal(row, above[:, position : position + 1])
        hidden, one = above, alone


@pytest.mark.parametrize("t", [150, 300])
@torch.inference_mode()
def test_local_layers_of_long_texts_go_block_by_block(t):
    adapter = make_adapter("modernbert", max_position_embeddings=512)
    fast = fast_backbone(adapter, torch.float32)
    hidden, mask = adapter.embed(text_batch(adapter.model.config, 2, t, t // 3))
    assert Neighborhood(mask, adapter.window(2), is_causal=False).spares(t) == (t > 192)
    for layer in range(1, adapter.n_layers + 1):
        found = fast.rows(layer, hidden, *fast.keys_values(layer, hidden), mask)
        hidden = adapter.layer(layer, hidden, mask)
        size = float(hidden[mask].abs().mean())
        torch.testing.assert_close(found[mask], hidden[mask], atol=1e-5 * size, rtol=1e-5)
