"""Networks of two towers, samples with missing cells, and the plain loop that runs one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sklearn_epee._nn.batching import EncodedTexts
from sklearn_epee._nn.exit_rules import ExitPolicy
from sklearn_epee._nn.network import ExitHead, MultiExitNetwork
from sklearn_epee._nn.pairs import EncodedPairs
from sklearn_epee._nn.two_towers import TwoTowerNetwork
from tests._nn.exits import N_CLASSES, N_LAYERS, N_SAMPLES, make_network, make_samples
from tests.checkpoints import kind_of

# Families and poolings of the first tower and the second.
PAIRS = (
    (("bert", "mean"), ("vit", "cls+mean")),
    (("vit", "cls"), ("bert", "cls")),
    (("gpt2", "last"), ("dinov2", "attention")),
    (("siglip", "mean"), ("mpnet", "mean")),
)
N_EXITS = 2 * N_LAYERS


def make_towers(
    first: tuple[str, str] = PAIRS[0][0],
    second: tuple[str, str] = PAIRS[0][1],
    counts: Any = N_CLASSES,
    **options: Any,
) -> TwoTowerNetwork:
    """Return towers with random weights at a scale at which exits disagree."""
    towers: list[MultiExitNetwork] = []
    for family, pooling in (first, second):
        backbone = make_network(family, pooling).backbone
        fused = {"has_dense": True, "context_size": towers[0].n_features} if towers else {}
        towers.append(MultiExitNetwork(backbone, counts, pooling, 0.0, **fused))
    network = TwoTowerNetwork(*towers, **options)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        network.no_context.normal_(generator=generator)
        for head in (part for part in network.modules() if isinstance(part, ExitHead)):
            for linear, scale in ((head.dense, 1.0), (head.out, 4.0)):
                if linear is not None:
                    deviation = scale / linear.in_features**0.5
                    linear.weight.normal_(0, deviation, generator=generator)
                    linear.bias.normal_(0, 0.3, generator=generator)
            if head.query is not None:
                head.query.normal_(generator=generator)
    return network.eval()


def make_present(n: int = N_SAMPLES) -> np.ndarray:
    """Return which cells there are: of every seven samples one lacks the first, one the second."""
    present = np.ones((n, 2), bool)
    present[2::7, 0] = False
    present[4::7, 1] = False
    return present


def make_pairs(
    first: str = "bert", second: str = "vit", present: np.ndarray | None = None, order: Any = None
) -> EncodedPairs:
    """Return random samples of two families, in an order."""
    present = make_present() if present is None else present
    order = np.arange(len(present)) if order is None else np.asarray(order)
    halves = [make_samples(family, len(present), order) for family in (first, second)]
    if kind_of(first) == kind_of(second) == "text":
        halves[1] = _reversed_texts(halves[1])
    return EncodedPairs(*halves, present[order])


def _reversed_texts(texts: EncodedTexts) -> EncodedTexts:
    rows = [texts.batch(np.array([i]))["input_ids"][0].numpy()[::-1] for i in range(len(texts))]
    ids = np.concatenate(rows).astype(np.int32)
    return EncodedTexts(ids, np.array([len(row) for row in rows]), None, pad_id=0)


def tower_policy(tau: float, patience: int | None = None, ensemble: str | None = None) -> Any:
    weights = np.arange(1, N_EXITS + 1, dtype=np.float64)
    return ExitPolicy(tau, N_EXITS if patience is None else patience, ensemble, weights)


@dataclass
class Found:
    """What the plain loop found of a sample."""

    exit_layer: int
    proba: np.ndarray
    entropy: float
    margin: float
    """How far from another decision it ever was."""


@torch.no_grad()
def one_by_one(network: TwoTowerNetwork, pairs: EncodedPairs, rule: ExitPolicy) -> list[Found]:
    """Return what happens to each sample by itself: a loop over its exits, without the engine."""
    return [_alone(network, pairs, rule, number) for number in range(len(pairs))]


def _alone(network: TwoTowerNetwork, pairs: EncodedPairs, rule: ExitPolicy, number: int) -> Found:
    row = np.array([number])
    has_first, has_second = pairs.present[number]
    context = network.no_context[None]
    counter, before, visited, margin = 0, None, [], np.inf
    steps: Any = []
    if has_first:
        steps.append((network.first, pairs.first.batch(row), 0))
    if has_second:
        steps.append((network.second, pairs.second.batch(row), N_LAYERS))
    for tower, batch, offset in steps:
        hidden, layout = tower.embed(batch | ({"context": context} if offset else {}))
        for layer in range(1, tower.n_layers + 1):
            below, hidden = hidden, tower.adapter.layer(layer, hidden, layout.mask)
            logits = tower.exit_logits(layer, hidden, below, layout)[0]
            proba = torch.softmax(logits.double(), -1).numpy()
            entropy = -(proba * np.log(proba)).sum() / np.log(len(proba))
            top = np.sort(proba)[-2:]
            margin = min(margin, abs(entropy - rule.tau) if rule.tau else 1, top[1] - top[0])
            counter = counter + 1 if proba.argmax() == before else 1
            before = proba.argmax()
            visited.append((offset + layer, proba))
            last = offset + layer == N_EXITS or (layer == tower.n_layers and not has_second)
            if entropy < rule.tau or counter >= rule.patience or last:
                return Found(offset + layer, _combined(visited, rule), entropy, margin)
            settled = network.hand_over_after is not None and counter >= network.hand_over_after
            if tower is network.first and has_second and (settled or layer == tower.n_layers):
                pooled = tower.pooled(layer, hidden, below, layout)
                context = network.context_norm(pooled.float())
                break
    raise AssertionError("a sample without an exit")


def _combined(visited: list[tuple[int, np.ndarray]], rule: ExitPolicy) -> np.ndarray:
    if rule.exit_ensemble is None:
        return visited[-1][1]
    by_number = rule.exit_ensemble == "weighted"
    weights = np.array([rule.exit_weights[at - 1] if by_number else 1.0 for at, _ in visited])
    return np.average([proba for _, proba in visited], axis=0, weights=weights)
