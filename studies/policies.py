"""The three methods of the paper (entropy only, patience only, EPEE): chosen on dev, run on test.

The settings of each method are those of `studies.rules`: for EPEE the grid of all patience values
and of thresholds at quantiles of the entropies on dev, for the others the two edges of this grid.
Two policies of each method are chosen on dev: the one with the best score among those that save
enough, and the fastest within a tolerance of the score at full depth. Test samples are only used
for the result. Intervals are for the chosen policies; test samples and networks are resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.bootstrap import Floats, Score, draws, interval, quotient, seed_means
from studies.exit_rules import RULES, Network
from studies.jobs import job_in
from studies.rules import N_DRAWS, Applied, Group, apply, jobs_in, network_of
from studies.sets import score_all

METHODS = ("entropy", "patience", "epee")
MIN_RATIO = 0.52
TOLERANCE = 0.005
# Tolerance for rounding errors of ratios and scores.
ROUNDING = 1e-9

# Predictions on test of the backbone cut to a number of layers, with one head, by this number.
Cuts = Mapping[int, NDArray[np.int64]]


def best_that_saves(
    ratios: NDArray[np.float64],
    scores: NDArray[np.float64],
    full_depth: float,
    min_ratio: float = MIN_RATIO,
) -> int | None:
    """Return the setting with the best score at a ratio >= `min_ratio`, the fastest on ties."""
    del full_depth
    return _first(np.flatnonzero(ratios >= min_ratio - ROUNDING), scores, ratios)


def fastest_that_keeps(
    ratios: NDArray[np.float64], scores: NDArray[np.float64], full_depth: float
) -> int | None:
    """Return the fastest setting that loses at most `TOLERANCE`, the best one on ties."""
    return _first(np.flatnonzero(scores >= full_depth - TOLERANCE - ROUNDING), ratios, scores)


def _first(
    allowed: NDArray[np.intp], wanted: NDArray[np.float64], then: NDArray[np.float64]
) -> int | None:
    if not len(allowed):
        return None
    return int(allowed[np.lexsort((then[allowed], wanted[allowed]))[-1]])


Choice = Callable[[NDArray[np.float64], NDArray[np.float64], float], int | None]

CHOICES: dict[str, Choice] = {
    "saving": best_that_saves,
    "tolerance": fastest_that_keeps,
}


@dataclass(frozen=True)
class Chosen:
    """A policy chosen for a network, with its results on test.

    Attributes
    ----------
    tau : float
    patience : int
    dev : dict
        "ratio" and "score" on dev.
    exits, predicted : ndarray of shape (n_samples,), int64
        Exit layers and predicted codes on test.
    network : Network
    """

    tau: float
    patience: int
    dev: dict[str, float]
    exits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    network: Network

    @property
    def ratio(self) -> float:
        """The speed-up ratio on test."""
        return self.network.test.speedup(self.exits)

    def equal_cost(self, cuts: Cuts) -> int | None:
        """Return the smallest number of layers in `cuts` that costs at least as much, if any."""
        return equal_cost(cuts, float(self.exits.mean()))


def equal_cost(cuts: Iterable[int], cost: float) -> int | None:
    """Return the smallest number of layers that costs at least as much, if any."""
    return min((n for n in cuts if n >= cost - ROUNDING), default=None)


def chosen(network: Network, applied: Applied, choice: str | Choice) -> Chosen | None:
    """Return the chosen policy of a method; None if no setting is good enough.

    Parameters
    ----------
    network : Network
    applied : Applied
        The settings of one of `METHODS`.
    choice : {"saving", "tolerance"} or callable (ratios, scores, full_depth) -> int or None
    """
    choose = CHOICES[choice] if isinstance(choice, str) else choice
    all_samples = np.ones((1, len(network.dev_y)), np.float32)
    ratios, scores = applied.dev.ratios(all_samples)[0], applied.dev.scores(all_samples)[0]
    full = network.score(network.dev.predictions[:, -1, 0], network.dev_y)
    setting = choose(ratios, scores, full)
    if setting is None:
        return None
    parameters, tau = applied.settings[setting]
    patience = parameters.get("patience", network.n_layers)
    exits = network.test.exit_layers(tau, patience)
    predicted = network.test.predictions[np.arange(len(exits)), exits - 1, 0]
    dev = {"ratio": float(ratios[setting]), "score": float(scores[setting])}
    return Chosen(tau, patience, dev, exits, predicted, network)


def policies(
    data: str,
    networks: Sequence[Network],
    cuts: Sequence[Cuts] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Choose policies of the paper's methods on dev, and evaluate them on test.

    Parameters
    ----------
    data : str
        The data set, a key of `studies.sets.SETS`.
    networks : sequence of Network
        One per seed.
    cuts : sequence of mapping, default=None
        For each network, test predictions of the backbone cut to its first layers.
    n_draws, seed : int
        Resamples.

    Returns
    -------
    dict
        By method and choice; None if a network has no setting that is good enough. Otherwise
        "ratio" and "scores" on test, as means over the networks; "to_full_depth" and "to_cut",
        differences of the main score with intervals; and the policy of each network as "runs".
    """
    found: dict[str, Any] = {}
    beside = [{}] * len(networks) if cuts is None else cuts
    for method in METHODS:
        applied = [apply(RULES[method], network) for network in networks]
        found[method] = {}
        for choice in CHOICES:
            runs = [chosen(n, a, choice) for n, a in zip(networks, applied, strict=True)]
            done = [run for run in runs if run is not None]
            complete = len(done) == len(runs)
            found[method][choice] = (
                _reported(data, done, beside, n_draws, seed) if complete else None
            )
    full = [score_all(data, n.test_y, n.test.predictions[:, -1, 0]) for n in networks]
    return {"full_depth": _means(full), "methods": found}


def _reported(
    data: str, runs: Sequence[Chosen], cuts: Sequence[Cuts], n_draws: int, seed: int
) -> dict[str, Any]:
    scores = [score_all(data, run.network.test_y, run.predicted) for run in runs]
    layers = [run.equal_cost(of_run) for run, of_run in zip(runs, cuts, strict=True)]
    rivals = [of_run[n] for n, of_run in zip(layers, cuts, strict=True) if n is not None]
    report = {
        "ratio": float(np.mean([run.ratio for run in runs])),
        "scores": _means(scores),
        "to_full_depth": difference(
            runs, [run.network.test.predictions[:, -1, 0] for run in runs], n_draws, seed
        ),
        "to_cut": None,
        "runs": [
            {
                "tau": run.tau,
                "patience": run.patience,
                "dev_ratio": run.dev["ratio"],
                "dev_score": run.dev["score"],
                "ratio": run.ratio,
                **of_run,
                "cut_layers": n,
            }
            for run, of_run, n in zip(runs, scores, layers, strict=True)
        ],
    }
    if len(rivals) == len(runs):
        report["to_cut"] = difference(runs, rivals, n_draws, seed)
    return report


def difference(
    runs: Sequence[Chosen], others: Sequence[NDArray[np.int64]], n_draws: int, seed: int
) -> dict[str, Any]:
    """Return the difference in score between policies and other predictions for the same samples.

    Parameters
    ----------
    runs : sequence of Chosen
    others : sequence of ndarray of shape (n_samples,), int
        Predicted codes, for each network.
    n_draws, seed : int

    Returns
    -------
    dict
        The difference of main scores with its interval, see `studies.bootstrap.interval`.
    """
    per_network = []
    for run, other in zip(runs, others, strict=True):
        y, score = run.network.test_y, run.network.score
        weights = draws(len(y), n_draws, seed)
        ours, theirs = (_scores(score, codes, y, weights) for codes in (run.predicted, other))
        per_network.append(ours - theirs)
    return interval(seed_means(per_network, seed))


def _scores(
    score: Score, predicted: NDArray[np.int64], y: NDArray[np.int64], weights: Floats
) -> NDArray[np.float64]:
    above, below = score.counts(predicted, y)
    return quotient(weights @ above, weights @ below)


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in scores])) for name in scores[0]}


# ---------------------------------------------------------------------------------- all networks


def policies_in(out: Path, n_draws: int = N_DRAWS) -> dict[str, dict[str, Any]]:
    """Return the policies of every available data set and backbone, by their titles.

    Parameters
    ----------
    out : Path
        The folder of the study's jobs. The cut backbones of a network are the jobs "cut-K" with
        the same data set, backbone, seed and options.
    n_draws : int

    Returns
    -------
    dict of str to dict
    """
    groups: dict[Group, list[tuple[int, Path]]] = {}
    for group, seed, folder in jobs_in(out):
        groups.setdefault(group, []).append((seed, folder))
    found = {}
    for group, jobs in groups.items():
        networks = [network_of(group.data, folder) for _, folder in jobs]
        cuts = [
            cuts_beside(folder, n.n_layers) for n, (_, folder) in zip(networks, jobs, strict=True)
        ]
        about = {"data": group.data, "backbone": group.backbone}
        found[group.title] = about | policies(group.data, networks, cuts, n_draws)
    return found


def cuts_beside(folder: Path, n_layers: int, array: str = "test_pred") -> dict[int, NDArray[Any]]:
    """Return the test predictions of the cut backbones for a network, by number of layers.

    Parameters
    ----------
    folder : Path
        Folder of a job with exits, such as "exits", "events", or a training recipe.
    n_layers : int
        Number of layers of the network, and of the job "full".
    array : str
        Name of the saved array.
    """
    job = job_in(folder)
    found = {}
    for n in range(1, n_layers + 1):
        kinds = [f"cut-{n}"] + ["full"] * (n == n_layers)
        for kind in kinds:
            beside = folder.with_name(Path(job.of_kind(kind).name).name)
            if (beside / "result.json").exists():
                with np.load(beside / "predictions.npz") as saved:
                    found[n] = saved[array]
    return found
