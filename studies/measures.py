"""Evaluate networks from saved probabilities: layers, grids, degenerate cases, steps of ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._exits.sweep import PolicySpace
from studies.bootstrap import Floats, draws, interval, quotient, seed_means
from studies.exit_rules import Network

TAUS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
N_TAUS_ALONE = 12


def of_networks(networks: Sequence[Network], n_draws: int = 500) -> dict[str, Any]:
    """Return the results of the networks of one cell for the report, as means over the networks.

    Parameters
    ----------
    networks : sequence of Network
        For the same data set and backbone, one per seed.
    n_draws : int, default=500
        Resamples of bootstrap intervals.
    """
    hits = [n.test.predictions[..., 0] == n.test_y[:, np.newaxis] for n in networks]
    by_layer = [found.mean(axis=0) for found in hits]
    return {
        "accuracy": np.mean(by_layer, axis=0),
        "accuracy_low": np.min(by_layer, axis=0),
        "accuracy_high": np.max(by_layer, axis=0),
        "entropy": np.mean([n.test.head_entropies[..., 0].mean(axis=0) for n in networks], axis=0),
        "oracle": np.mean([np.logical_or.accumulate(h, axis=1).mean(axis=0) for h in hits], axis=0),
        "grid": grid(networks),
        "degenerate": degenerate(networks),
        "steps": steps(networks),
        "overthinking": overthinking(networks, n_draws),
    }


def grid(networks: Sequence[Network], taus: Sequence[float] = TAUS) -> dict[str, Any]:
    """Return score and ratio of every tau with every patience on the test part.

    Returns
    -------
    dict
        "taus", "patiences", and "score" and "ratio" of shape (n_patiences, n_taus).
    """
    patiences = range(1, networks[0].n_layers + 1)
    found = np.array(
        [[[at(n, tau, patience) for tau in taus] for patience in patiences] for n in networks]
    ).mean(axis=0)
    return {
        "taus": list(taus),
        "patiences": list(patiences),
        "score": found[..., 1],
        "ratio": found[..., 0],
    }


def at(network: Network, tau: float, patience: int) -> tuple[float, float]:
    """Return ratio and score of a policy on the test part."""
    return measured(network, network.test.exit_layers(tau, patience))


def measured(network: Network, exits: NDArray[np.int64]) -> tuple[float, float]:
    """Return ratio and score of samples that exit at some layers, on the test part."""
    predicted = network.test.predictions[np.arange(len(exits)), exits - 1, 0]
    score = network.score(predicted, network.test_y)
    return 1 - float(exits.mean()) / network.n_layers, score


def degenerate(networks: Sequence[Network]) -> dict[str, Any]:
    """Compare EPEE with patience M, and with tau 0, to separate implementations of both rules.

    Returns
    -------
    dict
        For "entropy" and "patience" the ratios and scores of EPEE and of the separate rule, as
        means over the networks; "n_decisions", the number of compared exits, and "n_different",
        the number of those that differ.
    """
    n_layers, n_different, n_decisions = networks[0].n_layers, 0, 0
    found: dict[str, Any] = {}
    for name, settings in (
        ("entropy", np.linspace(0.02, 0.98, N_TAUS_ALONE).tolist()),
        ("patience", list(range(1, n_layers + 1))),
    ):
        rows = np.empty((len(networks), len(settings), 4))
        for which, network in enumerate(networks):
            for column, setting in enumerate(settings):
                pair = (setting, n_layers) if name == "entropy" else (0.0, setting)
                epee = network.test.exit_layers(*pair)
                alone = ALONE[name](network, setting)
                n_different += int((epee != alone).sum())
                n_decisions += len(epee)
                rows[which, column] = *measured(network, epee), *measured(network, alone)
        ratio, score, _, alone_score = rows.mean(axis=0).T
        order = np.argsort(ratio, kind="stable")
        found[name] = {
            "ratio": ratio[order],
            "epee": score[order],
            "alone": alone_score[order],
        }
    return found | {"n_decisions": n_decisions, "n_different": n_different}


def entropy_alone(network: Network, tau: float) -> NDArray[np.int64]:
    """Return the first layer whose entropy is below tau, or the last if there is none."""
    return np.array([
        next((m for m, entropy in enumerate(row, 1) if entropy < tau), len(row))
        for row in network.test.head_entropies[..., 0]
    ])  # fmt: skip


def patience_alone(network: Network, patience: int) -> NDArray[np.int64]:
    """Return the first layer with `patience` consecutive equal predictions, or the last layer."""
    exits = []
    for row in network.test.predictions[..., 0].tolist():
        ends = range(patience, len(row) + 1)
        exits.append(next((m for m in ends if len(set(row[m - patience : m])) == 1), len(row)))
    return np.array(exits)


ALONE = {"entropy": entropy_alone, "patience": patience_alone}


def steps(networks: Sequence[Network]) -> dict[str, float]:
    """Return the largest gap between neighboring ratios of the policies of a family.

    Returns
    -------
    dict
        For "epee" (all pairs of tau and patience) and "patience" (tau 0), the largest gap in any
        of the networks.
    """
    gaps: dict[str, list[float]] = {"epee": [], "patience": []}
    for network in networks:
        space = PolicySpace(network.test)
        ratios = [space.speedups(space.sweep(p)) for p in range(1, network.n_layers + 1)]
        for name, found in (
            ("epee", np.concatenate(ratios)),
            ("patience", np.array([r[0] for r in ratios])),
        ):
            gaps[name].append(float(np.diff(np.unique(found)).max()))
    return {name: max(found) for name, found in gaps.items()}


def overthinking(networks: Sequence[Network], n_draws: int) -> dict[str, Any]:
    """Measure overthinking, and how much the best fixed layer gains.

    Returns
    -------
    dict
        "lost": the fraction of test samples for which some exit is correct and the last is wrong.
        "layer": for each network, the layer with the best score on dev, on ties the earliest.
        "to_full": the test score of that layer minus that of the last, with its interval.
    """
    lost, chosen, differences = [], [], []
    for network in networks:
        hits = network.test.predictions[..., 0] == network.test_y[:, np.newaxis]
        lost.append(float((hits.any(axis=1) & ~hits[:, -1]).mean()))
        dev = [network.score(said, network.dev_y) for said in network.dev.predictions[..., 0].T]
        layer = int(np.argmax(dev)) + 1
        chosen.append(layer)
        scores = resampled(network, network.test.predictions[:, [layer - 1, -1], 0].T, n_draws)
        differences.append(scores[:, 0] - scores[:, 1])
    return {
        "lost": float(np.mean(lost)),
        "layer": chosen,
        "to_full": interval(seed_means(differences, 0)),
    }


def resampled(network: Network, predicted: NDArray[np.int64], n_draws: int) -> Floats:
    """Return the test scores of predictions on the samples and on every resample.

    Parameters
    ----------
    network : Network
    predicted : ndarray of shape (n_models, n_samples), int
    n_draws : int

    Returns
    -------
    ndarray of shape (1 + n_draws, n_models)
    """
    above, below = network.score.counts(predicted, network.test_y)
    weights = draws(len(network.test_y), n_draws, 0)
    return quotient(weights @ above.T, weights @ below.T)
