"""The attention of a head: what it computes, over windows, and in which layer it reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.batch_layout import BatchLayout
from sklearn_epee._nn.fast_head_attention import (
    FastHeadAttention,
    PackedWordHead,
    PlainWordHead,
    fast_reader,
    word_head,
)
from sklearn_epee._nn.head_attention import HEAD_WIDTH, N_HEADS, HeadAttention, attended_means
from sklearn_epee._nn.heads import ExitHead, make_head
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.packed_linear import can_pack
from tests._nn.exits import make_samples
from tests.checkpoints import tiny_config

N, T, D, FEATURES = 3, 7, 16, 24


@pytest.fixture
def attention():
    return trained(HeadAttention(FEATURES, D))


def trained(module):
    """Return a module with weights that are far from zero."""
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module.eval()


def make_batch():
    generator = torch.Generator().manual_seed(1)
    pooled, hidden = (
        torch.randn(*shape, generator=generator) for shape in ((N, FEATURES), (N, T, D))
    )
    mask = torch.arange(T) < torch.tensor([[7], [1], [4]])
    return pooled, hidden, mask


def by_head(rows):
    return rows.unflatten(-1, (N_HEADS, HEAD_WIDTH)).transpose(1, 2)


@torch.no_grad()
def test_it_is_attention_with_the_pooled_state_as_the_only_query(attention):
    pooled, hidden, mask = make_batch()
    query = by_head(attention.query(pooled).unsqueeze(1))
    k, v = by_head(attention.key(hidden)), by_head(attention.value(hidden))
    read = functional.scaled_dot_product_attention(query, k, v, attn_mask=mask[:, None, None])
    expected = pooled + attention.out(read.transpose(1, 2).flatten(1))
    torch.testing.assert_close(attention(pooled, hidden, BatchLayout(mask)), expected)
    attention.begin_as_identity()
    assert torch.equal(attention(pooled, hidden, BatchLayout(mask)), pooled)


@torch.no_grad()
def test_padding_is_not_read(attention):
    pooled, hidden, mask = make_batch()
    expected = attention(pooled, hidden, BatchLayout(mask))
    hidden[~mask] = 1e6
    torch.testing.assert_close(attention(pooled, hidden, BatchLayout(mask)), expected)


@torch.no_grad()
def test_words_read_what_their_sentence_reads_with_them_as_the_only_query():
    attention = trained(HeadAttention(D, D))
    _, hidden, mask = make_batch()
    rows, positions = torch.tensor([0, 0, 2]), torch.tensor([3, 6, 1])
    expected = attention(hidden[rows, positions], hidden[rows], BatchLayout(mask[rows]))
    torch.testing.assert_close(attention.of_words(hidden, mask, rows, positions), expected)
    found = attention.of_positions(hidden, mask)[rows, positions]
    torch.testing.assert_close(found, expected)
    whole = torch.ones_like(mask)
    found = attention.of_words(hidden, None, rows, positions)
    torch.testing.assert_close(found, attention.of_words(hidden, whole, rows, positions))


@pytest.mark.parametrize("dense", [None, D])
@pytest.mark.parametrize("n_classes", [3, (2, 5)])
@torch.inference_mode()
def test_fast_heads_of_words_give_what_the_heads_give(n_classes, dense):
    head = trained(make_head(n_classes, D, dense, 0.1, kind="attention"))
    _, hidden, mask = make_batch()
    rows, positions = torch.tensor([0, 0, 2]), torch.tensor([3, 6, 1])
    expected = head(head.attention.of_words(hidden, mask, rows, positions))
    plain = PlainWordHead(head, head.attention)(hidden, mask, rows * T + positions)
    torch.testing.assert_close(plain, expected)
    for dtype, atol in ((torch.float32, 1e-4), (torch.bfloat16, 1.0)):
        fast = word_head(head, head.attention, dtype)
        found = fast(hidden.to(dtype), mask, rows * T + positions)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
        if isinstance(fast, PackedWordHead) and can_pack(dtype):
            # In a batch of its own, where nothing is padding.
            alone = fast(hidden[2:, :4].to(dtype), None, torch.tensor([1]))
            torch.testing.assert_close(alone, found[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="nothing is packed here")
@torch.inference_mode()
def test_what_words_read_in_bfloat16_does_not_depend_on_the_batch():
    head = trained(make_head(3, D, None, 0.1, kind="attention"))
    _, hidden, mask = make_batch()
    hidden = hidden.bfloat16()
    fast = word_head(head, head.attention, torch.bfloat16)
    # The rows of the layers after the attention, whose own products are in float32.
    fast._head = nn.Identity()
    both = fast(hidden, mask, torch.tensor([2 * T + 1, 6]))
    alone = [
        fast(hidden[2:, :4], None, torch.tensor([1])),
        fast(hidden[:1], None, torch.tensor([6])),
    ]
    assert torch.equal(torch.cat(alone), both)


def test_words_of_a_head_of_another_class_are_read_plainly():
    class Doubled(ExitHead):
        def forward(self, pooled):
            return super().forward(2 * pooled)

    head = Doubled(D, 3, None, 0.0, kind="attention").eval()
    assert isinstance(word_head(head, head.attention, torch.float32), PlainWordHead)
    assert fast_reader(head) is None


@pytest.mark.parametrize("windows", [None, np.array([2, 1])])
@torch.inference_mode()
def test_the_fast_version_reads_the_same_with_and_without_padding(attention, windows):
    pooled, hidden, mask = make_batch()
    fast = FastHeadAttention(attention)
    pooled = pooled if windows is None else pooled[:2]
    before = pooled.clone()
    for layout in (BatchLayout(mask, None, windows), BatchLayout(mask | True, None, windows)):
        torch.testing.assert_close(
            fast(pooled, hidden, layout), attention(pooled, hidden, layout), atol=1e-4, rtol=1e-5
        )
    if windows is None:
        for row, length in enumerate((7, 1, 4)):
            one = slice(row, row + 1)
            alone = fast(pooled[one], hidden[one, :length], BatchLayout(mask[one, :length]))
            expected = attention(pooled, hidden, BatchLayout(mask))[one]
            torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(pooled, before)


@pytest.mark.parametrize("n_classes", [3, (2, 3), LabelCount(4)])
@torch.inference_mode()
def test_fast_readers_read_for_one_task_several_and_labels(n_classes):
    head = trained(make_head(n_classes, FEATURES, None, 0.0, kind="attention", hidden_size=D))
    pooled, hidden, mask = make_batch()
    states = [pooled, torch.stack([pooled, 2 * pooled], dim=1)] if n_classes == (2, 3) else [pooled]
    for state in states:
        found = fast_reader(head)(state, hidden, BatchLayout(mask))
        expected = head.read_positions(state, hidden, BatchLayout(mask))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert fast_reader(make_head(n_classes, FEATURES, None, 0.0)) is None


def test_windows_are_read_as_one_long_row(attention):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(1, 12, D, generator=generator)
    queries = torch.randn(1, N_HEADS, D, generator=generator, requires_grad=True)
    whole = attended_means(hidden, BatchLayout(torch.ones(1, 12).bool()), queries)
    (expected,) = torch.autograd.grad(whole.sum(), queries)
    # Beside another text of one window.
    rows = torch.cat([hidden.reshape(3, 4, D), torch.randn(1, 4, D, generator=generator)])
    layout = BatchLayout(torch.ones(4, 4).bool(), windows=np.array([3, 1]))
    both = torch.cat([queries, torch.randn(1, N_HEADS, D, generator=generator)])
    found = attended_means(rows, layout, both)
    torch.testing.assert_close(found[:1], whole)
    torch.testing.assert_close(torch.autograd.grad(found[0].sum(), queries)[0], expected)


@pytest.mark.parametrize(("pooling", "reads_below"), [("mean", False), ("cls", True)])
@torch.no_grad()
def test_heads_of_one_position_read_the_layer_below(pooling, reads_below):
    backbone = load_backbone(tiny_config("bert"), "text")
    torch.manual_seed(0)
    network = MultiExitNetwork(backbone, 3, pooling, 0.0, head="attention").eval()
    hidden, layout = network.embed(make_samples("bert").batch(np.arange(4)))
    below, hidden = torch.randn_like(hidden), torch.randn_like(hidden)
    expected = network.pooled(1, hidden, below, layout)
    above = torch.randn_like(hidden)
    above[:, 0] = hidden[:, 0]
    same = (
        network.pooled(1, above, below, layout)
        if reads_below
        else network.pooled(1, hidden, torch.randn_like(below), layout)
    )
    torch.testing.assert_close(same, expected)
    other = (
        network.pooled(1, hidden, torch.randn_like(below), layout)
        if reads_below
        else network.pooled(1, above, below, layout)
    )
    assert not torch.allclose(other, expected)
