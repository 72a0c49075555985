"""Batches wait, are merged and halved, and every sample runs through its layers once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee._nn.active_batch import ActiveBatch
from sklearn_epee._nn.batch_layout import BatchLayout
from sklearn_epee._nn.batch_scheduler import BatchScheduler
from sklearn_epee._nn.exit_rules import ExitState
from sklearn_epee._nn.prediction_batches import BatchLimit, batches_by_length


class Samples:
    """Samples of which only the lengths, and how many windows each has, are known."""

    def __init__(self, lengths, windows=None) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.windows = windows

    def __len__(self) -> int:
        return len(self.lengths)


class Step:
    """Counts what it runs; each sample exits at a layer that was chosen beforehand."""

    def __init__(self, exit_layers, most: int | None = None) -> None:
        self.exit_layers = np.asarray(exit_layers)
        self.visited = np.zeros(len(self.exit_layers), int)
        self.runs: list[tuple[int, int, int]] = []
        self.most = most

    def start(self, samples: Samples, rows: np.ndarray) -> ActiveBatch:
        self._check_room(rows)
        lengths = torch.from_numpy(samples.lengths[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return ActiveBatch(0, rows, mask.float().unsqueeze(-1), BatchLayout(mask))

    def advance(self, active: ActiveBatch) -> ActiveBatch | None:
        self._check_room(active.rows)
        assert (self.visited[active.rows] == active.layer).all()
        # Hidden states stay with their samples.
        torch.testing.assert_close(active.hidden[..., 0], active.layout.mask.float())
        self.visited[active.rows] += 1
        self.runs.append((active.layer + 1, *active.layout.mask.shape))
        remaining = np.flatnonzero(self.exit_layers[active.rows] > active.layer + 1)
        if not len(remaining):
            return None
        index = torch.from_numpy(remaining)
        return ActiveBatch(
            active.layer + 1,
            active.rows[remaining],
            active.hidden[index],
            active.layout.take(remaining, index),
        )

    def _check_room(self, rows: np.ndarray) -> None:
        if self.most is not None and len(rows) > self.most:
            raise torch.OutOfMemoryError("full")


def run(lengths, exit_layers, limit: BatchLimit, most: int | None = None) -> Step:
    samples, step = Samples(lengths), Step(exit_layers, most)
    BatchScheduler(step, limit).run(samples, batches_by_length(samples.lengths, limit))
    np.testing.assert_array_equal(step.visited, step.exit_layers)
    return step


def test_every_sample_runs_to_its_exit():
    rng = np.random.default_rng(0)
    for limit in (BatchLimit(samples=1), BatchLimit(samples=7), BatchLimit(positions=60)):
        run(rng.integers(1, 30, 50), rng.integers(1, 7, 50), limit)


def test_underfilled_batches_of_a_length_are_merged():
    # Seven of eight samples exit at layer 1.
    exit_layers = np.where(np.arange(64) % 8 == 0, 3, 1)
    step = run(np.full(64, 10), exit_layers, BatchLimit(samples=8))
    # One sample of each batch goes on; five of them fill more than half of a batch.
    later = [(layer, n, 10) for layer in (2, 3) for n in (3, 5)]
    assert sorted(step.runs) == [(1, 8, 10)] * 8 + later


@pytest.mark.parametrize(("calls", "n_batches"), [(64, 2), (1024, 1)])
def test_lengths_are_mixed_where_padding_costs_less_than_another_batch(calls, n_batches):
    lengths = np.repeat([100, 10], 8)
    exit_layers = np.where(np.arange(16) % 8 < 2, 2, 1)
    step = run(lengths, exit_layers, BatchLimit(samples=8, calls=calls))
    assert len([layer for layer, *_ in step.runs if layer == 2]) == n_batches


def test_without_room_batches_are_halved_until_they_fit():
    with pytest.warns(RuntimeWarning, match="batch of 16 samples") as seen:
        step = run(np.full(16, 10), np.full(16, 2), BatchLimit(samples=16), most=5)
    assert len(seen) == 1
    assert max(n for _, n, _ in step.runs) <= 5


def test_without_room_for_one_sample_there_is_an_error():
    with pytest.raises(MemoryError, match="a single sample") as raised:
        run([10], [2], BatchLimit(samples=16), most=0)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


def batch(rows: list[int], width: int, predicted: list[int], agreeing: list[int]) -> ActiveBatch:
    return ActiveBatch(
        2,
        np.array(rows),
        torch.full((len(rows), width, 1), float(width)),
        BatchLayout(
            torch.ones(len(rows), width, dtype=torch.bool), torch.tensor([[row, 0] for row in rows])
        ),
        ExitState(torch.tensor(predicted), torch.tensor(agreeing), None),
    )


def test_merged_batches_keep_rows_masks_and_states_together():
    parts = [batch([4, 5], 2, [0, 1], [1, 2]), batch([9], 3, [2], [3])]
    merged = ActiveBatch.merge(parts)
    assert merged.layer == 2
    assert merged.rows.tolist() == [4, 5, 9]
    assert merged.layout.mask.tolist() == [[True, True, False]] * 2 + [[True] * 3]
    assert merged.hidden[..., 0].tolist() == [[2, 2, 0]] * 2 + [[3, 3, 3]]
    assert merged.layout.read.tolist() == [[4, 0], [5, 0], [9, 0]]
    first, second = merged.halves()
    assert first.rows.tolist() == [4]
    assert second.rows.tolist() == [5, 9]
    assert second.layout.read.tolist() == [[5, 0], [9, 0]]
    assert second.state.predicted.tolist() == [1, 2]
    assert second.state.agreeing.tolist() == [2, 3]
    assert second.hidden[..., 0].tolist() == [[2, 2, 0], [3, 3, 3]]
