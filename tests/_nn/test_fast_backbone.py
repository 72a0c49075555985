"""Layers taken apart give what the adapters give, and attention sees each sample by itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sklearn_epee._nn.backbones import adapter_for, load_backbone
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.fast_backbone import Seen, attend, fast_backbone
from tests.checkpoints import IMAGE_FAMILIES, TEXT_FAMILIES, random_batch, randomise, tiny_config

CPU = torch.device("cpu")
exact_bfloat16 = pytest.mark.skipif(
    prediction_dtype("auto", CPU) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)


def make_adapter(family: str):
    kind = "text" if family in TEXT_FAMILIES else "image"
    return adapter_for(randomise(load_backbone(tiny_config(family), kind), seed=0).eval())


@pytest.mark.parametrize("family", TEXT_FAMILIES + IMAGE_FAMILIES)
@torch.inference_mode()
def test_every_family_runs_layer_by_layer_as_its_adapter(family):
    adapter = make_adapter(family)
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


def test_layers_that_share_weights_share_their_packed_copy():
    fast = fast_backbone(make_adapter("albert"), torch.float32)
    assert len(set(fast._layers)) < len(fast._layers)


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


def test_a_gated_feed_forward_is_left_to_the_adapter():
    config = tiny_config("dinov2")
    config.use_swiglu_ffn = True
    adapter = adapter_for(load_backbone(config, "image"))
    assert adapter.layer_parts(1) is None
    assert fast_backbone(adapter, torch.float32) is None


def make_heads(n: int, t: int, dtype: torch.dtype, heads: int = 4, width: int = 8):
    generator = torch.Generator().manual_seed(t)
    return torch.randn(3, n, heads, t, width, generator=generator).to(dtype).unbind()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t", [1, 5, 16, 33])
@torch.inference_mode()
def test_attention_is_softmax_attention(t, dtype):
    query, k, v = make_heads(3, t, dtype)
    mask = torch.ones(3, 1, 1, t, dtype=torch.bool)
    mask[1, ..., t // 2 + 1 :] = False
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for allowed, is_causal in ((None, False), (None, True), (mask, False)):
        expected = functional.scaled_dot_product_attention(
            query.float(), k.float(), v.float(), attn_mask=allowed, is_causal=is_causal, scale=1.0
        )
        found = attend(query, k, v, Seen(allowed, is_causal)).float()
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@exact_bfloat16
@pytest.mark.parametrize("t", [1, 3, 16, 31, 47, 64, 100])
@pytest.mark.parametrize("is_causal", [False, True])
@torch.inference_mode()
def test_bfloat16_attention_of_a_sample_is_its_own(t, is_causal):
    query, k, v = make_heads(5, t, torch.bfloat16)
    expected = attend(query, k, v, Seen(None, is_causal))
    alone = attend(query[2:3], k[2:3], v[2:3], Seen(None, is_causal))
    torch.testing.assert_close(alone, expected[2:3], atol=0, rtol=0)
    if is_causal:
        return
    one = attend(query[:, :, :1], k, v, Seen())
    torch.testing.assert_close(one, expected[:, :, :1], atol=0, rtol=0)
    for more in (1, 7, 40):
        padded = [functional.pad(part, (0, 0, 0, more), value=3.0) for part in (query, k, v)]
        mask = (torch.arange(t + more) < t).expand(5, 1, 1, -1)
        found = attend(*padded, Seen(mask))[:, :, :t]
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("t", [2, 31, 32, 33, 100, 200])
@torch.inference_mode()
def test_a_float32_query_by_itself_is_the_first_of_many(t):
    query, k, v = make_heads(3, t, torch.float32)
    expected = attend(query, k, v, Seen())[:, :, :1]
    found = attend(query[:, :, :1], k, v, Seen())
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
