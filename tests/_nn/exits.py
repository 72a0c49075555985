"""Networks, samples and policies whose exits are spread, and the oracle: the rule on arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from sklearn_epee import policy
from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.batching import EncodedImages, EncodedTexts
from sklearn_epee._nn.exit_rules import ExitPolicy, Exits
from sklearn_epee._nn.heads import ExitHead, label_heads
from sklearn_epee._nn.network import MultiExitNetwork
from tests.checkpoints import (
    IMAGE_FAMILIES,
    IMAGE_SIZE,
    TEXT_FAMILIES,
    kind_of,
    poolings,
    randomise,
    tiny_config,
)

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES
N_LAYERS, N_CLASSES, N_SAMPLES = 4, 3, 19
# Classes of several tasks.
COUNTS = (3, 2, 4)
# How close to a threshold two orders of summation may fall on different sides.
CLOSE = 1e-5
ENSEMBLES = (None, "mean", "weighted")
DTYPES = (torch.float32, torch.bfloat16)


ALL_NETWORKS = [
    *((family, pooling) for family in FAMILIES for pooling in poolings(family)),
    *((family, "entity") for family in TEXT_FAMILIES if "cls" in poolings(family)),
]


def make_network(family: str, pooling: str, n_classes: int = N_CLASSES) -> MultiExitNetwork:
    """Random weights at a scale where layers disagree and entropies spread over [0, 1]."""
    backbone = randomise(load_backbone(tiny_config(family, N_LAYERS), kind_of(family)), seed=3)
    network = MultiExitNetwork(backbone, n_classes, pooling, dropout=0.5)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for head in network.heads:
            scale = 1.5 / head.out.in_features**0.5
            if head.dense is not None:
                scale = 4 / head.out.in_features**0.5
                head.dense.weight.normal_(0, head.dense.in_features**-0.5, generator=generator)
            head.out.weight.normal_(0, 1.5 * scale, generator=generator)
            head.out.bias.normal_(0, 0.3, generator=generator)
            if head.query is not None:
                head.query.normal_(generator=generator)
    return network.eval()


def make_tasks_network(
    family: str, pooling: str, counts: tuple[int, ...] = COUNTS
) -> MultiExitNetwork:
    """Return a network whose heads have random weights at the same scale for several tasks."""
    backbone = make_network(family, pooling).backbone
    network = MultiExitNetwork(backbone, counts, pooling, dropout=0.5)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for head in (part for part in network.heads.modules() if isinstance(part, ExitHead)):
            scale = 1.5 / head.out.in_features**0.5
            if head.query is not None:
                head.query.normal_(generator=generator)
            if head.dense is not None:
                scale = 4 / head.out.in_features**0.5
                head.dense.weight.normal_(0, head.dense.in_features**-0.5, generator=generator)
            head.out.weight.normal_(0, 1.5 * scale, generator=generator)
            head.out.bias.normal_(0, 0.3, generator=generator)
    return network.eval()


def make_labels_network(family: str, pooling: str, n_labels: int = 3) -> MultiExitNetwork:
    """Return a network whose heads have random weights at the same scale for several labels."""
    backbone = make_network(family, pooling).backbone
    network = MultiExitNetwork(backbone, LabelCount(n_labels), pooling, dropout=0.5)
    as_one_task = make_tasks_network(family, pooling, (n_labels,)).heads
    for mine, theirs in zip(label_heads(network), as_one_task, strict=True):
        mine.head.load_state_dict(theirs.state_dict())
    return network.eval()


def make_samples(family: str, n: int = N_SAMPLES, order: Sequence[int] | None = None):
    """Random texts of 1 to 14 tokens with two marks, or random images, in an order."""
    rng = np.random.default_rng(5)
    order = range(n) if order is None else order
    if kind_of(family) == "image":
        images = rng.normal(size=(n, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
        return EncodedImages(images[list(order)], images_to_tensor, n_positions=17)
    rows = [rng.integers(5, 100, 1 + (7 * i) % 14, dtype=np.int32) for i in range(n)]
    rows = [rows[i] for i in order]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    marks = np.stack([3 * lengths // 4, lengths // 3], axis=1)
    return EncodedTexts(np.concatenate(rows), lengths, None, pad_id=0, entity_positions=marks)


def images_to_tensor(images: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def exit_policy(tau: float, patience: int | None = None, ensemble: str | None = None) -> ExitPolicy:
    weights = np.arange(1, N_LAYERS + 1, dtype=np.float64)
    return ExitPolicy(tau, N_LAYERS if patience is None else patience, ensemble, weights)


def oracle(staged: np.ndarray, rule: ExitPolicy) -> policy.PolicyResult:
    return policy.apply_policy(staged, rule.tau, rule.patience, rule.exit_ensemble, "ascending")


def undecided(staged: np.ndarray, rule: ExitPolicy, last_visited: np.ndarray) -> np.ndarray:
    """Samples that floating point may send elsewhere at one of the layers they visited."""
    entropies = policy.normalized_entropy(staged)
    top_two = np.sort(staged, axis=-1)[..., -2:]
    near = (abs(entropies - rule.tau) < CLOSE) | (top_two[..., 1] - top_two[..., 0] < CLOSE)
    visited = np.arange(1, staged.shape[1] + 1) <= last_visited[:, None]
    return (near & visited).any(axis=1)


def assert_equal_predictions(found: Exits, staged: np.ndarray, rule: ExitPolicy) -> None:
    expected = oracle(staged, rule)
    last_visited = np.maximum(found.exit_layer, expected.exit_layer)
    sure = ~undecided(staged, rule, last_visited)
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(found.exit_layer[sure], expected.exit_layer[sure])
    np.testing.assert_allclose(found.proba[sure], expected.proba[sure], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.entropy[sure], expected.entropy[sure], atol=1e-5, rtol=0)


def random_policies(rng: np.random.Generator, entropies: np.ndarray) -> list[ExitPolicy]:
    """Policies between never and always, taus among the entropies that occur."""
    taus = [0.0, *rng.choice(entropies.ravel(), 4) + rng.normal(0, 0.02, 4), 1.5]
    patiences = rng.integers(1, N_LAYERS + 2, len(taus))
    ensembles = itertools.cycle(ENSEMBLES)
    return [
        exit_policy(max(0.0, float(tau)), int(patience), next(ensembles))
        for tau, patience in zip(taus, patiences, strict=True)
    ]
