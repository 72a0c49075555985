"""Positions in the attention: rotations, biases and neighborhoods, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sklearn_epee._nn.backbones import Rotary, for_each_head, joined_scores_mask, near_keys
from sklearn_epee._nn.backbones._positions import DisentangledBias, RelativeBias, TableBias

HEADS, LENGTH, WIDTH = 3, 6, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Each row of the second sample stands somewhere else.
SOME_ROWS = torch.tensor([[0, 2], [5, 1]])


def rows_of(whole: Tensor, positions: Tensor) -> Tensor:
    """Return some rows of (n or 1, heads, t, ...)."""
    whole = whole.expand(len(positions), *whole.shape[1:])
    samples = torch.arange(len(positions))[:, None]
    return whole.transpose(1, 2)[samples, positions].transpose(1, 2)


def test_rotated_products_depend_on_the_distance_alone():
    rotary = Rotary.of_frequencies(torch.tensor([1.0, 0.1]), 20)
    query, key = draw(1, 1, 1, WIDTH), draw(1, 1, 1, WIDTH, seed=1)

    def product(i: int, j: int) -> float:
        at = [rotary.at(torch.tensor([[place]]), 1) for place in (i, j)]
        return float((at[0].rotate(query) * at[1].rotate(key)).sum())

    assert product(3, 1) == pytest.approx(product(17, 15), abs=1e-5)
    assert product(3, 3) == pytest.approx(float((query * key).sum()), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)


def test_rotations_are_by_the_angle_of_the_position():
    frequencies = torch.tensor([1.0, 0.1])
    heads = draw(2, HEADS, LENGTH, WIDTH)
    points = torch.complex(*heads.chunk(2, dim=-1))
    turns = torch.polar(torch.ones(LENGTH, 2), torch.arange(LENGTH)[:, None] * frequencies)
    expected = torch.view_as_real(points * turns).movedim(-1, -2).flatten(-2)
    rotary = Rotary.of_frequencies(frequencies, 10)
    found = rotary.at(None, LENGTH).rotate(heads)
    torch.testing.assert_close(found, expected)
    some = rotary.at(SOME_ROWS, 2).rotate(rows_of(heads, SOME_ROWS))
    torch.testing.assert_close(some, rows_of(expected, SOME_ROWS))


def test_a_position_that_is_not_to_be_rotated_stays():
    heads = draw(1, HEADS, 2, WIDTH)
    rotary = Rotary(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    found = rotary.rotate(heads)
    torch.testing.assert_close(found[:, :, 0], heads[:, :, 0], atol=0, rtol=0)
    assert (found[:, :, 1] - heads[:, :, 1]).abs().max() > 0.1


def by_pairs(entry) -> Tensor:
    """Return (2, heads, t, t), each entry from sample, query and key."""
    cells = [[[entry(n, i, j) for j in range(LENGTH)] for i in range(LENGTH)] for n in range(2)]
    return torch.stack([
        torch.stack([torch.stack(row, dim=-1) for row in sample], dim=-2) for sample in cells
    ])  # fmt: skip


def check_bias(bias, expected: Tensor) -> None:
    query, k = draw(2, HEADS, LENGTH, WIDTH), draw(2, HEADS, LENGTH, WIDTH, seed=1)
    found = bias.of(query, k, None, LENGTH, LENGTH).expand_as(expected)
    torch.testing.assert_close(found, expected)
    some = bias.of(rows_of(query, SOME_ROWS), k, SOME_ROWS, 2, LENGTH)
    torch.testing.assert_close(some.expand(2, -1, -1, -1), rows_of(expected, SOME_ROWS))
    # More queries and keys than there are, as the engine may have them.
    more = [torch.nn.functional.pad(part, (0, 0, 0, 5), value=9.0) for part in (query, k)]
    found = bias.of(*more, None, LENGTH, LENGTH).expand_as(expected)
    torch.testing.assert_close(found, expected)
    assert bias.fits(LENGTH)
    assert bias.to(torch.bfloat16).of(query.bfloat16(), k.bfloat16(), None, LENGTH, LENGTH).dtype


def test_a_bias_by_distance():
    table = draw(HEADS, 2 * 9 - 1)
    bias = RelativeBias(table)
    check_bias(bias, by_pairs(lambda _n, i, j: table[:, 8 + j - i]))
    assert bias.fits(9)
    assert not bias.fits(10)


def test_a_bias_by_pairs_of_positions_is_for_one_length():
    table = draw(HEADS, LENGTH, LENGTH)
    bias = TableBias(table)
    check_bias(bias, by_pairs(lambda _n, i, j: table[:, i, j]))
    assert not bias.fits(LENGTH - 1)


@pytest.mark.parametrize("terms", ["both", "keys", "queries"])
def test_a_bias_by_contents_and_distance(terms):
    tables = draw(2, HEADS, 2 * 8 - 1, WIDTH, seed=2)
    keys = None if terms == "queries" else tables[0]
    queries = None if terms == "keys" else tables[1]
    query, k = draw(2, HEADS, LENGTH, WIDTH), draw(2, HEADS, LENGTH, WIDTH, seed=1)

    def entry(n: int, i: int, j: int) -> Tensor:
        total = torch.zeros(HEADS)
        if keys is not None:
            total = total + (query[n, :, i] * keys[:, 7 + j - i]).sum(-1)
        if queries is not None:
            total = total + (k[n, :, j] * queries[:, 7 + i - j]).sum(-1)
        return total

    bias = DisentangledBias(keys, queries)
    check_bias(bias, by_pairs(entry))
    assert bias.fits(8)
    assert not bias.fits(9)


def test_biases_pass_gradients_to_their_tables():
    query, k = draw(2, HEADS, LENGTH, WIDTH), draw(2, HEADS, LENGTH, WIDTH, seed=1)
    for make, shape in (
        (RelativeBias, (HEADS, 2 * LENGTH - 1)),
        (lambda table: DisentangledBias(table, table), (HEADS, 2 * LENGTH - 1, WIDTH)),
    ):
        table = draw(*shape, seed=3).requires_grad_()
        make(table).of(query, k, None, LENGTH, LENGTH).sum().backward()
        assert (table.grad != 0).any(dim=-1).all()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
def test_near_keys_are_those_within_the_window(is_causal, window):
    mask = torch.tensor([[True] * LENGTH, [True] * 4 + [False] * 2])
    expected = torch.zeros(2, 1, LENGTH, LENGTH, dtype=torch.bool)
    for n in range(2):
        for i in range(LENGTH):
            for j in range(LENGTH):
                near = (window is None or abs(i - j) < window) and not (is_causal and j > i)
                expected[n, 0, i, j] = (near and mask[n, j]) or i == j
    assert torch.equal(near_keys(mask, None, is_causal, window), expected)
    some = near_keys(mask, SOME_ROWS, is_causal, window)
    assert torch.equal(some, rows_of(expected, SOME_ROWS))


def test_a_bias_and_a_mask_become_one():
    bias = draw(1, HEADS, 2, 2)
    mask = torch.tensor([[[[True, False]]], [[[True, True]]]])
    assert joined_scores_mask(None, mask, 2, is_causal=True) == (mask, True)
    found, is_causal = joined_scores_mask(bias, mask, 2, is_causal=False)
    assert not is_causal
    assert torch.isinf(found[0, :, :, 1]).all()
    torch.testing.assert_close(found[1], bias[0])
    found, is_causal = joined_scores_mask(bias, None, 2, is_causal=True)
    assert not is_causal
    assert torch.isinf(found[0, :, 0, 1]).all()
    torch.testing.assert_close(found[0, :, 1], bias[0, :, 1])


def test_query_heads_share_keys_in_groups_of_neighbors():
    shared = draw(2, 2, LENGTH, WIDTH)
    found = for_each_head(shared, 6)
    torch.testing.assert_close(found, shared[:, [0, 0, 0, 1, 1, 1]])
    assert for_each_head(shared, 2) is shared
