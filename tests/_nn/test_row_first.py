"""Where the row that a head reads is computed before the others."""

from __future__ import annotations

import numpy as np

from sklearn_epee._nn.exit_rules import DynamicRule, Exits, RecordingRule
from sklearn_epee._nn.row_first import RowCosts, RowFirst
from tests._nn.exits import N_LAYERS, exit_policy


def test_the_row_comes_first_where_enough_samples_exit():
    row_first = RowFirst(N_LAYERS, RowCosts(timed=False))
    rule = DynamicRule(exit_policy(0.5), N_LAYERS, Exits.empty(1, 3))
    choice = row_first.choice(rule, n_read=1)
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
    assert not row_first.choice(rule, n_read=0).pays(N_LAYERS, 8, 20)


def test_recording_chooses_the_row_first_at_its_last_layer_only():
    rule = RecordingRule(3, 3, np.empty((1, 1, 3), np.float32))
    choice = RowFirst(N_LAYERS, RowCosts(timed=False)).choice(rule, n_read=1)
    choice.note_exits(3, reached=8, exited=8)
    assert [choice.pays(layer, 8, 20) for layer in range(1, N_LAYERS)] == [False, False, True]


def test_a_row_is_computed_alone_only_where_it_saves_more_than_its_calls_take():
    assert RowCosts(timed=False).row_first_pays(8, 20, 0.5)
    # Two rows of twenty, and what comes with them.
    assert RowCosts(timed=False).row_first_pays(8, 20, 0.14)
    assert not RowCosts(timed=False).row_first_pays(8, 20, 0.14, n_read=2)
    costs = RowCosts(timed=False, calls=1000)
    assert not costs.row_first_pays(8, 20, 0.5)
    assert costs.row_first_pays(200, 20, 0.5)


def test_a_row_is_dearer_or_cheaper_than_its_share_by_the_clock():
    costs = RowCosts(timed=True)
    for _ in range(3):
        costs.note_row(8, 8e-3)
        costs.note_rest(8 * 20, 16e-3)
    # The rows take half as long as the whole layer.
    assert not costs.row_first_pays(8, 20, 0.5)
    assert costs.row_first_pays(8, 20, 0.6)
    # A single late measurement says little.
    costs.note_rest(8 * 20, 1.0)
    assert not costs.row_first_pays(8, 20, 0.4)
