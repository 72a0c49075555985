"""Attention on a CPU is softmax attention, and sees each sample by itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sklearn_epee._nn import fast_attention
from sklearn_epee._nn.backbones import near_keys
from sklearn_epee._nn.devices import prediction_dtype
from sklearn_epee._nn.fast_attention import Neighborhood, Seen, attend

exact_bfloat16 = pytest.mark.skipif(
    prediction_dtype("auto", torch.device("cpu")) != torch.bfloat16,
    reason="this processor predicts in float32 by itself",
)


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


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [1, 65, 66, 100])
@torch.inference_mode()
def test_neighborhoods_see_what_a_mask_lets_them(window, is_causal):
    query, k, v = make_heads(2, 500, torch.float32)
    mask = torch.ones(2, 500, dtype=torch.bool)
    mask[1, 130:] = False
    expected = attend(query, k, v, Seen(near_keys(mask, None, is_causal, window)))
    found = attend(query, k, v, Seen(neighborhood=Neighborhood(mask, window, is_causal)))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_the_scores_of_a_long_text_are_made_a_few_queries_at_a_time(monkeypatch):
    query, k, v = make_heads(3, 100, torch.bfloat16)
    mask = torch.ones(3, 1, 1, 100, dtype=torch.bool)
    mask[1, ..., 70:] = False
    cases = [
        Seen(),
        Seen(is_causal=True),
        Seen(mask),
        Seen(near_keys(mask[:, 0, 0], None, True, 9)),
    ]
    expected = [attend(query, k, v, seen) for seen in cases]
    monkeypatch.setattr(fast_attention, "_SCORES_BYTES", 4 * 112 * 2 * 20)
    monkeypatch.setattr(fast_attention, "_SCORES_BYTES_OF_ONE", 4 * 112 * 2 * 20)
    made = []
    original = fast_attention._attend_by_products
    monkeypatch.setattr(
        fast_attention,
        "_attend_by_products",
        lambda query, *rest, **more: made.append(query.shape[2]) or original(query, *rest, **more),
    )
    for seen, whole in zip(cases, expected, strict=True):
        torch.testing.assert_close(attend(query, k, v, seen), whole, atol=1e-2, rtol=1e-2)
    assert max(made) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_query_heads_that_share_their_keys(dtype):
    query, k, v = make_heads(2, 9, dtype)
    expected = attend(query, k[:, [0, 0, 1, 1]], v[:, [0, 0, 1, 1]], Seen())
    torch.testing.assert_close(attend(query, k[:, :2], v[:, :2], Seen()), expected, atol=0, rtol=0)


@pytest.mark.parametrize("agrees", [True, False])
@torch.inference_mode()
def test_many_scores_and_few_have_the_same_softmax(agrees, monkeypatch):
    if agrees and not fast_attention._rounds_like_float32():
        pytest.skip("torch's softmax in bfloat16 rounds otherwise here")
    monkeypatch.setattr(fast_attention, "_rounds_like_float32", lambda: agrees)
    query, k, v = make_heads(3, 40, torch.bfloat16)
    mask = torch.ones(3, 1, 1, 40, dtype=torch.bool)
    mask[1, ..., 21:] = False
    cases = [Seen(), Seen(mask), Seen(is_causal=True)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    few = [attend(query, k, v, seen) for seen in cases]
    with monkeypatch.context() as one_thread:
        one_thread.setattr(torch, "get_num_threads", lambda: 1)
        for seen, expected in zip(cases, few, strict=True):
            assert torch.equal(attend(query, k, v, seen), expected)
    monkeypatch.setattr(fast_attention, "_FEW_SCORES", 0)
    # Two samples at a time, then two heads of one sample.
    for together in (8 * 48 * 48, 2 * 48 * 48):
        monkeypatch.setattr(fast_attention, "_FLOATS_TOGETHER", together)
        for seen, expected in zip(cases, few, strict=True):
            torch.testing.assert_close(attend(query, k, v, seen), expected, atol=0, rtol=0)
