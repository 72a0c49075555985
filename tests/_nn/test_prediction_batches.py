"""Prediction batches: every sample once, of similar length, as large as the device likes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sklearn_epee._nn.prediction_batches import (
    AUTO_POSITIONS,
    BatchLimit,
    batch_limit,
    batches_by_length,
    calls_in_positions,
)


@pytest.mark.parametrize("batch_size", [1, 3, 1000, "auto"])
def test_prediction_batches_cover_every_sample_longest_first(batch_size):
    lengths = np.random.default_rng(0).integers(1, 3000, 700)
    batches = list(batches_by_length(lengths, batch_size))
    assert sorted(np.concatenate(batches)) == list(range(700))
    in_order = lengths[np.concatenate(batches)]
    assert (np.diff(in_order) <= 0).all()
    for batch in batches:
        if batch_size == "auto":
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= AUTO_POSITIONS["cpu"]
        else:
            assert len(batch) <= batch_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_of_a_gpu_are_fewer_and_larger(dtype):
    lengths = np.random.default_rng(0).integers(5, 250, 1000)
    on_cpu = list(batches_by_length(lengths, "auto"))
    limit = batch_limit("auto", torch.device("cuda"), dtype)
    on_gpu = list(batches_by_length(lengths, limit))
    assert sorted(np.concatenate(on_gpu)) == list(range(1000))
    assert len(on_gpu) < len(on_cpu) / 4
    assert limit.positions == {torch.float32: 16384, torch.bfloat16: 65536}[dtype]
    for batch in on_gpu:
        assert len(batch) * lengths[batch].max() <= limit.positions


def test_calls_cost_more_positions_the_faster_a_device_computes():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert calls_in_positions(cpu, torch.float32) == calls_in_positions(cpu, torch.bfloat16)
    assert (
        calls_in_positions(cpu, torch.float32)
        < calls_in_positions(gpu, torch.float32)
        < calls_in_positions(gpu, torch.bfloat16)
    )
    assert batch_limit(8, cpu) == BatchLimit(samples=8)


@pytest.mark.parametrize(
    ("version", "multiprocessors", "low", "high"),
    [((9, 0), 132, 8192, 8192), ((8, 0), 108, 2000, 3500), ((8, 9), 58, 800, 1500)],
)
def test_slower_gpus_wait_less_for_their_calls(monkeypatch, version, multiprocessors, low, high):
    found = SimpleNamespace(
        major=version[0], minor=version[1], multi_processor_count=multiprocessors
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    gpu = torch.device("cuda")
    assert low <= calls_in_positions(gpu, torch.bfloat16) <= high
    assert calls_in_positions(gpu, torch.float32) == 1024
    assert batch_limit("auto", gpu, torch.bfloat16).positions >= AUTO_POSITIONS["cuda"]


def test_a_limit_counts_samples_positions_or_both():
    assert BatchLimit(samples=8).size(1000) == 8
    assert BatchLimit(positions=100).size(30) == 3
    assert BatchLimit(positions=100).size(1000) == 1
    assert BatchLimit(positions=100).at_most(2).size(30) == 2
    assert BatchLimit(samples=8).is_underfilled(4, 10)
    assert not BatchLimit(samples=8).is_underfilled(5, 10)
