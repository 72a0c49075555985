"""What an exit rule brings to the host, and what the choice of the row first learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._nn import exit_rules
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import DynamicRule, Exits, RecordingRule, to_host
from sklearn_epee._nn.row_first import RowCosts, RowFirst
from tests._nn.test_engine import (
    ENSEMBLES,
    N_LAYERS,
    assert_equal_predictions,
    exit_policy,
    make_network,
    make_samples,
)


@pytest.mark.parametrize("shape", [(), (1,), (4,)])
@pytest.mark.parametrize("transfer", [to_host, lambda *parts: exit_rules._in_one_transfer(parts)])
def test_tensors_reach_the_host_as_they_are(shape, transfer):
    generator = torch.Generator().manual_seed(0)
    exits = torch.rand(7, generator=generator) < 0.5
    proba, entropy = (torch.rand(7, *extra, generator=generator) for extra in ((3,), shape))
    for found, expected in zip(
        transfer(exits, proba, entropy), (exits, proba, entropy), strict=True
    ):
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_predictions_fetched_in_one_transfer_are_the_same(monkeypatch, ensemble):
    engine, samples = Engine(make_network("bert", "cls")), make_samples("bert")
    staged = engine.staged(samples)
    transfers: list[int] = []

    def in_one(*parts):
        transfers.append(len(parts))
        return exit_rules._in_one_transfer(parts)

    monkeypatch.setattr(exit_rules, "to_host", in_one)
    rule = exit_policy(float(np.median(policy.normalized_entropy(staged))), 3, ensemble)
    assert_equal_predictions(engine.dynamic(samples, rule, 5), staged, rule)
    assert set(transfers) == {2, 3}  # at the last layer there is nothing to decide


def test_the_row_comes_first_where_enough_samples_exit():
    row_first = RowFirst(N_LAYERS, RowCosts(timed=False))
    rule = DynamicRule(exit_policy(0.5), N_LAYERS, Exits.empty(1, 3))
    choice = row_first.choice(rule, reads_one_row=True)
    for _ in range(50):
        choice.note_exits(1, reached=8, exited=8)
        choice.note_exits(2, reached=8, exited=0)
    again = row_first.choice(DynamicRule(exit_policy(0.5), N_LAYERS, Exits.empty(1, 3)), True)
    assert [again.pays(layer, 8, 20) for layer in range(1, N_LAYERS + 1)] == [
        True,
        False,
        True,  # nothing is known yet: a sixth of the samples is taken to exit
        True,  # all samples exit at the last layer
    ]
    other = row_first.choice(DynamicRule(exit_policy(0.4), N_LAYERS, Exits.empty(1, 3)), True)
    assert other.pays(2, 8, 20)
    assert not row_first.choice(rule, reads_one_row=False).pays(N_LAYERS, 8, 20)


def test_recording_chooses_the_row_first_at_its_last_layer_only():
    rule = RecordingRule(3, 3, np.empty((1, 1, 3), np.float32))
    choice = RowFirst(N_LAYERS, RowCosts(timed=False)).choice(rule, reads_one_row=True)
    choice.note_exits(3, reached=8, exited=8)
    assert [choice.pays(layer, 8, 20) for layer in range(1, N_LAYERS)] == [False, False, True]


def test_a_row_is_computed_alone_only_where_it_saves_more_than_its_calls_take():
    assert RowCosts(timed=False).row_first_pays(8, 20, 0.5)
    costs = RowCosts(timed=False, calls=1000)
    assert not costs.row_first_pays(8, 20, 0.5)
    assert costs.row_first_pays(200, 20, 0.5)
