"""Samples join a walk at any time, are merged at their layers, dropped, and run each layer once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.layer_walk import Group, LayerWalk, catch_up, groups_by_length
from sklearn_epee._nn.prediction_batches import BatchLimit
from tests._nn.exits import (
    N_LAYERS,
    N_SAMPLES,
    assert_equal_predictions,
    exit_policy,
    make_network,
    make_samples,
)
from tests._nn.test_batch_scheduler import Samples, Step, batch

LIMIT = BatchLimit(positions=80, calls=16)


def walk_of(exit_layers, most=2, limit=LIMIT, room=None):
    step = Step(exit_layers, room)
    return LayerWalk(step, limit, partial(catch_up, most=most)), step


def enter(walk, lengths, slots):
    walk.enter(Samples(lengths), np.asarray(slots))


def run_out(walk):
    done = []
    while walk.n_samples:
        done.extend(walk.advance().tolist())
    return done


@pytest.mark.parametrize("most", [0, 3, 10**6])
def test_samples_that_join_at_any_time_run_to_their_exits(most):
    rng = np.random.default_rng(0)
    n = 60
    exit_layers, slots = rng.integers(1, 7, n), rng.permutation(n)
    walk, step = walk_of(exit_layers, most)
    done, start = [], 0
    while start < n or walk.n_samples:
        size = min(int(rng.integers(0, 5)), n - start)
        if size and walk.takes_more:
            enter(walk, rng.integers(1, 30, size), slots[start : start + size])
            start += size
        done.extend(walk.advance().tolist())
    assert sorted(done) == list(range(n))
    np.testing.assert_array_equal(step.visited, exit_layers)
    assert walk.n_samples_run == exit_layers.sum()
    assert walk.n_runs == len(step.runs) < exit_layers.sum()


def test_new_samples_are_merged_with_those_that_wait():
    walk, step = walk_of([3, 3, 3], most=10)
    enter(walk, [10], [0])
    walk.advance()
    enter(walk, [10, 10], [1, 2])
    assert run_out(walk) == [0, 1, 2]
    assert step.runs == [(1, 1, 10), (1, 2, 10), (2, 3, 10), (3, 3, 10)]


def test_a_sample_is_overtaken_for_so_many_runs_only():
    walk, step = walk_of([3] * 6, most=2)
    enter(walk, [10], [0])
    walk.advance()
    for slot in range(1, 6):
        enter(walk, [10], [slot])
        walk.advance()
    layers = [layer for layer, *_ in step.runs]
    # The first new one is run before it, and it goes on with that one from there.
    assert layers[:3] == [1, 1, 2]
    assert 3 in layers[:5]


def test_dropped_samples_are_run_no_further():
    walk, step = walk_of([4] * 5)
    enter(walk, [10] * 4, [0, 1, 2, 3])
    walk.advance()
    enter(walk, [10], [4])
    walk.drop(np.array([1, 4]))
    assert walk.n_samples == 3
    assert sorted(run_out(walk)) == [0, 2, 3]
    assert step.visited.tolist() == [4, 1, 4, 4, 0]


def test_with_nothing_to_run_nothing_happens():
    walk, _ = walk_of([1])
    walk.drop(np.array([0]))
    assert walk.advance().tolist() == []
    assert walk.n_runs == 0


def test_no_more_is_taken_than_fills_some_batches():
    walk, _ = walk_of([1] * 40)
    entered = 0
    while walk.takes_more:
        enter(walk, [10], [entered])
        entered += 1
    assert entered == 32  # four batches of 80 positions


def test_lengths_are_mixed_up_to_the_padding_of_a_run():
    parts = [batch([row], width, [0], [1]) for row, width in enumerate([4, 12, 5, 20, 20])]
    widths = [[part.width for part in group] for group in groups_by_length(parts, LIMIT)]
    assert widths == [[20, 20, 12], [5, 4]]
    many = [batch([row], 20, [0], [1]) for row in range(5)]
    assert [len(group) for group in groups_by_length(many, LIMIT)] == [4, 1]


def test_catching_up_ends_with_the_age_of_a_sample():
    high = Group([batch([0], 5, [0], [1])], oldest=3)
    low = Group([replace(batch([1], 5, [0], [1]), layer=0)], oldest=5)
    assert catch_up([low, high], now=6, most=4) is low
    assert catch_up([low, high], now=7, most=4) is high


def test_without_room_batches_go_on_in_halves():
    walk, step = walk_of([2] * 8, limit=BatchLimit(positions=80), room=5)
    with pytest.warns(RuntimeWarning, match="batch of 8 samples") as seen:
        enter(walk, [10] * 8, range(8))
    assert len(seen) == 1
    assert sorted(run_out(walk)) == list(range(8))
    assert max(n for _, n, _ in step.runs) <= 5


def test_without_room_in_a_layer_the_batch_is_halved():
    walk, step = walk_of([2] * 4)
    enter(walk, [10] * 4, range(4))
    step.most = 2
    with pytest.warns(RuntimeWarning, match="batch of 4 samples"):
        assert walk.advance().tolist() == []
    assert sorted(run_out(walk)) == [0, 1, 2, 3]


def test_a_sample_that_has_no_room_by_itself_is_an_error():
    walk, step = walk_of([2])
    step.most = 0
    with pytest.raises(MemoryError, match="a single sample"):
        enter(walk, [10], [0])
    assert walk.n_samples == 0


def test_samples_of_which_one_cannot_be_embedded_do_not_enter():
    walk, step = walk_of([2] * 3)
    start, calls = step.start, []

    def failing(samples, rows):
        calls.append(rows)
        if 2 in rows:
            raise ValueError("damaged")
        return start(samples, rows)

    step.start = failing
    with pytest.raises(ValueError, match="damaged"):
        enter(walk, [30, 30, 5], range(3))
    assert len(calls) == 2
    assert walk.n_samples == 0


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "cls"), ("gpt2", "last"), ("vit", "mean")]
)
@pytest.mark.parametrize("ensemble", [None, "weighted"])
def test_a_walk_of_an_engine_predicts_as_the_policy_does(family, pooling, ensemble):
    samples, engine = make_samples(family), Engine(make_network(family, pooling))
    policy = exit_policy(0.8, 3, ensemble)
    walk, rule = engine.walk(policy, 2 * N_SAMPLES)
    slots = np.random.default_rng(0).permutation(2 * N_SAMPLES)[:N_SAMPLES]
    for slot in slots:
        rule.set_policy(slot, policy.tau, policy.patience)
    walk.enter(samples, slots)
    assert sorted(run_out(walk)) == sorted(slots)
    found = type(rule.out)(
        rule.out.proba[slots], rule.out.exit_layer[slots], rule.out.entropy[slots]
    )
    assert 1 < len(np.unique(found.exit_layer)) <= N_LAYERS
    assert_equal_predictions(found, engine.staged(samples), policy)


def test_memory_errors_of_other_kinds_are_not_hidden():
    walk, step = walk_of([2])
    enter(walk, [10], [0])
    step.most = 0
    with pytest.raises(MemoryError, match="a single sample"):
        walk.advance()
