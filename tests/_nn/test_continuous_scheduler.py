"""Samples enter a scheduler at any time, are merged and dropped, and run each layer once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from sklearn_epee._nn.continuous_scheduler import (
    ContinuousScheduler,
    Group,
    catch_up,
    groups_by_length,
)
from sklearn_epee._nn.engine import Engine
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


def make_scheduler(exit_layers, most=2, limit=LIMIT, room=None):
    step = Step(exit_layers, room)
    return ContinuousScheduler(step, limit, partial(catch_up, most=most)), step


def enter(scheduler, lengths, slots):
    scheduler.enter(Samples(lengths), np.asarray(slots))


def run_out(scheduler):
    done = []
    while scheduler.n_samples:
        done.extend(scheduler.advance().tolist())
    return done


@pytest.mark.parametrize("most", [0, 3, 10**6])
def test_samples_that_join_at_any_time_run_to_their_exits(most):
    rng = np.random.default_rng(0)
    n = 60
    exit_layers, slots = rng.integers(1, 7, n), rng.permutation(n)
    scheduler, step = make_scheduler(exit_layers, most)
    done, start = [], 0
    while start < n or scheduler.n_samples:
        size = min(int(rng.integers(0, 5)), n - start)
        if size and scheduler.takes_more:
            enter(scheduler, rng.integers(1, 30, size), slots[start : start + size])
            start += size
        done.extend(scheduler.advance().tolist())
    assert sorted(done) == list(range(n))
    np.testing.assert_array_equal(step.visited, exit_layers)
    assert scheduler.n_samples_run == exit_layers.sum()
    assert scheduler.n_runs == len(step.runs) < exit_layers.sum()


def test_new_samples_are_merged_with_those_that_wait():
    scheduler, step = make_scheduler([3, 3, 3], most=10)
    enter(scheduler, [10], [0])
    scheduler.advance()
    enter(scheduler, [10, 10], [1, 2])
    assert run_out(scheduler) == [0, 1, 2]
    assert step.runs == [(1, 1, 10), (1, 2, 10), (2, 3, 10), (3, 3, 10)]


def test_a_sample_is_overtaken_for_so_many_runs_only():
    scheduler, step = make_scheduler([3] * 6, most=2)
    enter(scheduler, [10], [0])
    scheduler.advance()
    for slot in range(1, 6):
        enter(scheduler, [10], [slot])
        scheduler.advance()
    layers = [layer for layer, *_ in step.runs]
    # The first new one is run before it, and it goes on with that one from there.
    assert layers[:3] == [1, 1, 2]
    assert 3 in layers[:5]


def test_dropped_samples_are_run_no_further():
    scheduler, step = make_scheduler([4] * 5)
    enter(scheduler, [10] * 4, [0, 1, 2, 3])
    scheduler.advance()
    enter(scheduler, [10], [4])
    scheduler.drop(np.array([1, 4]))
    assert scheduler.n_samples == 3
    assert sorted(run_out(scheduler)) == [0, 2, 3]
    assert step.visited.tolist() == [4, 1, 4, 4, 0]


def test_with_nothing_to_run_nothing_happens():
    scheduler, _ = make_scheduler([1])
    scheduler.drop(np.array([0]))
    assert scheduler.advance().tolist() == []
    assert scheduler.n_runs == 0


def test_no_more_is_taken_than_fills_some_batches():
    scheduler, _ = make_scheduler([1] * 40)
    entered = 0
    while scheduler.takes_more:
        enter(scheduler, [10], [entered])
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
    scheduler, step = make_scheduler([2] * 8, limit=BatchLimit(positions=80), room=5)
    with pytest.warns(RuntimeWarning, match="batch of 8 samples") as seen:
        enter(scheduler, [10] * 8, range(8))
    assert len(seen) == 1
    assert sorted(run_out(scheduler)) == list(range(8))
    assert max(n for _, n, _ in step.runs) <= 5


def test_without_room_in_a_layer_the_batch_is_halved():
    scheduler, step = make_scheduler([2] * 4)
    enter(scheduler, [10] * 4, range(4))
    step.most = 2
    with pytest.warns(RuntimeWarning, match="batch of 4 samples"):
        assert scheduler.advance().tolist() == []
    assert sorted(run_out(scheduler)) == [0, 1, 2, 3]


def test_a_sample_that_has_no_room_by_itself_is_an_error():
    scheduler, step = make_scheduler([2])
    step.most = 0
    with pytest.raises(MemoryError, match="a single sample"):
        enter(scheduler, [10], [0])
    assert scheduler.n_samples == 0


def test_samples_of_which_one_cannot_be_embedded_do_not_enter():
    scheduler, step = make_scheduler([2] * 3)
    start, calls = step.start, []

    def failing(samples, rows):
        calls.append(rows)
        if 2 in rows:
            raise ValueError("damaged")
        return start(samples, rows)

    step.start = failing
    with pytest.raises(ValueError, match="damaged"):
        enter(scheduler, [30, 30, 5], range(3))
    assert len(calls) == 2
    assert scheduler.n_samples == 0


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "cls"), ("gpt2", "last"), ("vit", "mean")]
)
@pytest.mark.parametrize("ensemble", [None, "weighted"])
def test_a_scheduler_of_an_engine_predicts_as_the_policy_does(family, pooling, ensemble):
    samples, engine = make_samples(family), Engine(make_network(family, pooling))
    policy = exit_policy(0.8, 3, ensemble)
    scheduler, rule = engine.scheduler(policy, 2 * N_SAMPLES)
    slots = np.random.default_rng(0).permutation(2 * N_SAMPLES)[:N_SAMPLES]
    for slot in slots:
        rule.set_policy(slot, policy.tau, policy.patience)
    scheduler.enter(samples, slots)
    assert sorted(run_out(scheduler)) == sorted(slots)
    found = type(rule.out)(
        rule.out.proba[slots], rule.out.exit_layer[slots], rule.out.entropy[slots]
    )
    assert 1 < len(np.unique(found.exit_layer)) <= N_LAYERS
    assert_equal_predictions(found, engine.staged(samples), policy)


def test_memory_errors_of_other_kinds_are_not_hidden():
    scheduler, step = make_scheduler([2])
    enter(scheduler, [10], [0])
    step.most = 0
    with pytest.raises(MemoryError, match="a single sample"):
        scheduler.advance()
