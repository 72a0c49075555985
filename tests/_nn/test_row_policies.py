"""Samples of one batch that exit by policies of their own exit as they would by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sklearn_epee._nn.exit_rules import ExitPolicy, Exits
from sklearn_epee._nn.joint_exit_rules import dynamic_rule
from sklearn_epee._nn.row_policies import RowPolicyRule

N, N_LAYERS = 60, 5


def policy(tau, patience, ensemble=None, joint_exit="all", thresholds=None):
    weights = np.arange(1.0, N_LAYERS + 1)
    return ExitPolicy(tau, patience, ensemble, weights, joint_exit, label_thresholds=thresholds)


def row_rule(widest, counts, capacity):
    out = Exits.empty(capacity, sum(counts), len(counts))
    return RowPolicyRule(dynamic_rule(widest, N_LAYERS, out, counts), out)


def layers_of(counts, seed=0):
    """Random probabilities of every layer, (n, sum of K), that often agree with the layer below."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, sum(counts), generator=generator)
    for _ in range(N_LAYERS):
        logits = logits + 0.7 * torch.randn(N, sum(counts), generator=generator)
        yield torch.cat([part.softmax(1) for part in (2 * logits).split(list(counts), 1)], 1)


def run(rule, layers, rows):
    """Run all samples to their exits under a rule."""
    remaining, state = np.arange(N), None
    for layer, proba in enumerate(layers, 1):
        decision = rule.decide(layer, proba[remaining], rows[remaining], state)
        state = decision.state
        if decision.remaining is not None:
            state = state if state is None else state.take(torch.from_numpy(decision.remaining))
            remaining = remaining[decision.remaining]
        if not len(remaining):
            return


@pytest.mark.parametrize(
    ("counts", "options"),
    [
        ((3,), {}),
        ((3,), {"ensemble": "weighted"}),
        ((3, 2), {"joint_exit": "all"}),
        ((3, 2), {"joint_exit": "any", "ensemble": "mean"}),
        ((3, 2), {"joint_exit": "mean"}),
        ((2, 2, 2), {"joint_exit": "mean", "thresholds": np.array([0.5, 0.3, 0.6])}),
        ((2, 2, 2), {"joint_exit": "all", "thresholds": np.full(3, 0.5)}),
    ],
)
def test_each_sample_exits_as_under_its_own_policy(counts, options):
    rng = np.random.default_rng(1)
    slots = rng.permutation(2 * N)[:N]
    taus = rng.choice([0.0, 0.3, 0.6, 0.9], N)
    patiences = rng.integers(1, N_LAYERS + 1, N)
    layers = list(layers_of(counts))
    rule = row_rule(policy(0.9, 1, **options), counts, 2 * N)
    for slot, tau, patience in zip(slots, taus, patiences, strict=True):
        rule.set_policy(slot, tau, patience)
    run(rule, layers, slots)
    for tau in np.unique(taus):
        for patience in np.unique(patiences):
            alone = Exits.empty(N, sum(counts), len(counts))
            own = policy(tau, patience, **options)
            run(dynamic_rule(own, N_LAYERS, alone, counts), layers, np.arange(N))
            mine = (taus == tau) & (patiences == patience)
            for name in ("exit_layer", "proba", "entropy"):
                found = getattr(rule.out, name)[slots[mine]]
                np.testing.assert_array_equal(found, getattr(alone, name)[mine])
    assert len(np.unique(rule.out.exit_layer[slots])) >= 3


def test_heads_are_read_where_the_widest_policy_needs_them():
    full_depth = row_rule(policy(0.0, N_LAYERS), (3,), 4)
    assert [full_depth.reads(layer) for layer in (1, N_LAYERS)] == [False, True]
    early = row_rule(policy(0.0, 2), (3,), 4)
    assert early.reads(1)
    assert [early.may_exit(layer) for layer in (1, 2)] == [False, True]
