"""What an exit rule brings to the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee import policy
from sklearn_epee._nn import exit_rules
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.exit_rules import to_host
from tests._nn.exits import (
    ENSEMBLES,
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
