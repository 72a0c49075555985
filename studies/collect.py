"""Read the results of all jobs and summarize them for the report, rounded.

The result of `collect` is written to `studies/results/study.json`. Tables, pictures and pages are
made from this file alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import studies.kinds  # noqa: F401 - registers the kinds of jobs
from benchmarks._report import describe
from studies import events, jobs, measures
from studies.missing import missing
from studies.ordering import by_set_and_backbone, shared_notes
from studies.policies import CHOICES, MIN_RATIO, TOLERANCE, cuts_beside, policies
from studies.rules import N_DRAWS, compare, network_of
from studies.sets import SETS
from studies.span_rules import SpanNetwork

FORMAT = 1
DIGITS = 4
GOALS = {
    "saving": f"best at a ratio of {MIN_RATIO:g} or more",
    "tolerance": f"fastest within {100 * TOLERANCE:g} points",
}
NETWORKS = ("exits", "events")  # kinds of jobs that train one network with all exits
ORDER = ("tfidf", "forest", "cnn", "embeddings", "cut", "distilled", "full", "exits", "events")
NO_EPOCHS = ("image_size", "n_epochs")  # options without effect on jobs without a backbone
# Options in words, for titles; others are shown by their names.
OPTION_WORDS = {
    "n_train": "{:,} training samples",
    "n_eval": "at most {:,} test samples",
    "n_epochs": "{} epochs",
    "image_size": "{} pixels",
}


@dataclass(frozen=True)
class Done:
    """A finished job.

    Attributes
    ----------
    data, backbone, kind : str
    seed : int
    options : dict
    result : dict
    folder : Path
    """

    data: str
    backbone: str
    kind: str
    seed: int
    options: dict[str, Any]
    result: dict[str, Any]
    folder: Path

    @classmethod
    def read(cls, path: Path) -> Done:
        """Read a file `result.json`."""
        result = json.loads(path.read_text())
        job = result["job"]
        return cls(
            job["data"], job["backbone"], job["kind"], job["seed"], job["options"], result,
            path.parent,
        )  # fmt: skip

    @property
    def machine(self) -> str:
        """Description of the machine and the versions."""
        return describe(self.result["machine"]).partition(", commit")[0] + "."

    @property
    def group(self) -> tuple[str, str, str]:
        """Data set, backbone and options: the same for jobs that only differ in kind and seed."""
        return self.data, self.backbone, json.dumps(self.options, sort_keys=True)


def collect(out: Path, *, n_draws: int = N_DRAWS) -> dict[str, Any]:
    """Return the data of the report.

    Parameters
    ----------
    out : Path
        The folder of the jobs. The report lists the jobs that are missing.
    n_draws : int, default=500
        Resamples of bootstrap intervals.

    Returns
    -------
    dict
        Can be saved as JSON: "machines", "cells" (one for each data set, backbone and set of
        options) and "missing".
    """
    done = [Done.read(path) for path in sorted(out.rglob("result.json"))]
    machines = list(dict.fromkeys(job.machine for job in done))
    groups: dict[tuple[str, str, str], list[Done]] = defaultdict(list)
    for job in done:
        groups[job.group].append(job)
    found = [
        cell_of(members, _without_backbone(members[0], done), machines, n_draws)
        for members in groups.values()
        if members[0].backbone != jobs.NO_BACKBONE
    ]
    cells = sorted((cell for cell in found if cell), key=by_set_and_backbone)
    return rounded({
        "format": FORMAT,
        "machines": machines,
        "commits": sorted({job.result["machine"]["commit"] or "unknown" for job in done}),
        "n_draws": n_draws,
        "notes": shared_notes(cells),
        "cells": cells,
        "missing": [*missing(cells), *_failed(out)],
    })  # fmt: skip


def _failed(out: Path) -> list[str]:
    return [f"Failed: {path.parent.relative_to(out)}." for path in sorted(out.rglob("error.txt"))]


def _without_backbone(like: Done, done: Iterable[Done]) -> list[Done]:
    """Return the jobs without a backbone on the same samples."""

    def of_samples(options: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key not in NO_EPOCHS}

    return [
        job
        for job in done
        if job.backbone == jobs.NO_BACKBONE
        and job.data == like.data
        and of_samples(job.options) == of_samples(like.options)
    ]


def rounded(found: Any) -> Any:
    """Return a nested structure with its numbers rounded to four significant digits."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [rounded(value) for value in found]
    if isinstance(found, np.ndarray):
        return rounded(found.tolist())
    if isinstance(found, (float, np.floating)):
        return float(f"{found:.{DIGITS}g}")
    return int(found) if isinstance(found, np.integer) else found


# ---------------------------------------------------------------------------------- one cell


def cell_of(
    members: Sequence[Done], others: Sequence[Done], machines: Sequence[str], n_draws: int
) -> dict[str, Any] | None:
    """Return the results for a data set with a backbone; None if no network is trained yet.

    Parameters
    ----------
    members : sequence of Done
        Jobs with this data set, backbone and options.
    others : sequence of Done
        Jobs without a backbone on the same samples.
    machines : sequence of str
    n_draws : int
    """
    exits = sorted((job for job in members if job.kind in NETWORKS), key=lambda job: job.seed)
    if not exits:
        return None
    cell = _about(exits, machines)
    cell["points"] = [*_budgets(exits), *_rivals([*members, *others])]
    known = [job for job in exits if (job.folder / "predictions.npz").exists()]
    if known:
        of_kind = _of_spans if cell["kind"] == "spans" else _of_classes
        cell |= of_kind(cell, [job.folder for job in known], n_draws)
    _add_times(cell, [job for job in members if job.kind == "clock"])
    return cell


def _of_classes(cell: dict[str, Any], folders: Sequence[Path], n_draws: int) -> dict[str, Any]:
    """Return the results that are computed from the probabilities of all exits."""
    networks = [network_of(cell["data"], folder) for folder in folders]
    found = compare(networks, n_draws=n_draws)
    cuts = [cuts_beside(folder, cell["n_layers"]) for folder in folders]
    chosen = policies(cell["data"], networks, cuts, n_draws)
    return measures.of_networks(networks, n_draws) | {
        "fronts": _fronts(found),
        "areas": _areas(found),
        "area_interval": found["range"],
        "policies": _policies(chosen["methods"], cell["main_score"], cell["n_layers"]),
    }


def _of_spans(cell: dict[str, Any], folders: Sequence[Path], n_draws: int) -> dict[str, Any]:
    """Return the results that are computed from the counts of spans at all exits."""
    found = events.measured(folders, n_draws)
    policies = _policies(found["methods"], cell["main_score"], cell["n_layers"])
    networks = [network for folder in folders if (network := SpanNetwork.read(folder))]
    if len(networks) < len(folders):  # trained before jobs kept what the rules read
        return {"fronts": found["fronts"], "policies": policies}
    rules = compare(networks, n_draws=n_draws)
    return {
        "fronts": _fronts(rules),
        "areas": _areas(rules),
        "area_interval": rules["range"],
        "policies": policies,
    }


def _about(exits: Sequence[Done], machines: Sequence[str]) -> dict[str, Any]:
    """Return what tells how the networks with exits were trained, and their scores by layer."""
    first = exits[0].result
    main = first["main_score"]
    by_seed = [[scores[main] for scores in job.result["layers"]["test"]] for job in exits]
    used = {job.machine for job in exits}
    return {
        "data": exits[0].data,
        "backbone": exits[0].backbone,
        "options": exits[0].options,
        "notes": [
            OPTION_WORDS.get(key, key + " {}").format(value)
            for key, value in sorted(exits[0].options.items())
        ],
        "kind": SETS[exits[0].data].kind,
        "main_score": main,
        "seeds": [job.seed for job in exits],
        "machines": sorted(machines.index(one) + 1 for one in used),
        "layers": {
            "main": np.mean(by_seed, axis=0),
            "low": np.min(by_seed, axis=0),
            "high": np.max(by_seed, axis=0),
        },
        "learned": bool(np.mean(by_seed, axis=0)[-1] > np.mean([_floor(job) for job in exits])),
        "training_cpu_seconds": _mean(job.result["training_cpu_seconds"] for job in exits),
        "policies": [],
        "fronts": {},
        "areas": {},
    } | {
        key: first.get(key)
        for key in ("n_train", "n_dev", "n_test", "n_layers", "n_epochs", "n_parameters", "pooling")
    }


def _floor(job: Done) -> float:
    """Return the main score of who always predicts the largest class of the test part."""
    if job.result["main_score"] != "accuracy":
        return 0.0
    with np.load(job.folder / "predictions.npz") as saved:
        return float(np.bincount(saved["test_y"]).max() / len(saved["test_y"]))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _mean_scores(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: _mean(scores[name] for scores in found) for name in found[0]}


def _budgets(exits: Sequence[Done]) -> list[dict[str, Any]]:
    """Return every exit, predicting for all samples."""
    layers = [job.result["layers"]["test"] for job in exits]
    return [
        {
            "family": "budget",
            "kind": f"budget-{number}",
            "layers": number,
            "scores": _mean_scores([scores[number - 1] for scores in layers]),
            "n_seeds": len(exits),
        }
        for number in range(1, len(layers[0]) + 1)
    ]


def _rivals(found: Sequence[Done]) -> list[dict[str, Any]]:
    """Return every rival, with means over its seeds."""
    by_kind: dict[str, list[Done]] = defaultdict(list)
    for job in found:
        if "scores" in job.result and job.kind not in NETWORKS:
            by_kind[job.kind].append(job)
    return [_rival(kind, same) for kind, same in sorted(by_kind.items(), key=_rival_order)]


def _rival_order(item: tuple[str, Any]) -> tuple[int, int]:
    family, number = family_of(item[0])
    return ORDER.index(family) if family in ORDER else len(ORDER), number or 0


def _rival(kind: str, same: Sequence[Done]) -> dict[str, Any]:
    family, number = family_of(kind)
    return {
        "family": family,
        "kind": kind,
        "layers": number,
        "scores": _mean_scores([job.result["scores"]["test"] for job in same]),
        "n_seeds": len(same),
        "training_cpu_seconds": _mean(
            job.result.get("training_cpu_seconds", job.result["cpu_seconds"]) for job in same
        ),
    }


def family_of(kind: str) -> tuple[str, int | None]:
    """Split a kind into its name and its number of layers.

    Examples
    --------
    >>> family_of("cut-3"), family_of("tfidf")
    (('cut', 3), ('tfidf', None))
    """
    family, _, number = kind.rpartition("-")
    return (family, int(number)) if number.isdigit() else (kind, None)


# --------------------------------------------------------------------------------- exit rules


def _fronts(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fronts of all rules, for the ratios that they reach."""
    reached = np.array(found["curve_ratios"]) <= 1 - 1 / found["n_layers"] + 1e-9
    ratios = np.array(found["curve_ratios"])[reached]
    return {
        name: {"ratio": ratios, "score": np.array(rule["curve"])[reached]}
        for name, rule in found["rules"].items()
    }


def _areas(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: rule["area"] | {"to_epee": None if name == "epee" else rule["to_epee"]}
        for name, rule in found["rules"].items()
    }


def _policies(methods: dict[str, Any], main: str, n_layers: int) -> list[dict[str, Any]]:
    """Return the chosen policies, those of EPEE first."""
    return [
        _policy(method, choice, found, main, n_layers)
        for choice in CHOICES
        for method, of_choice in reversed(methods.items())
        if (found := of_choice[choice]) is not None
    ]


def _policy(
    method: str, choice: str, found: dict[str, Any], main: str, n_layers: int
) -> dict[str, Any]:
    cuts = [run["cut_layers"] for run in found["runs"]]
    return {
        "family": method,
        "goal": choice,
        "goal_words": GOALS[choice],
        "ratio": found["ratio"],
        "score": found["scores"][main],
        "scores": found["scores"],
        "to_full": found["to_full_depth"],
        "to_cut": found["to_cut"],
        "equal_layers": max((n for n in cuts if n), default=n_layers),
        "runs": [{key: run[key] for key in ("tau", "patience", "ratio")} for run in found["runs"]],
    }


# ----------------------------------------------------------------------------------- the clock


def _add_times(cell: dict[str, Any], clocks: Sequence[Done]) -> None:
    """Add measured times to a cell, and policies to the points of its plot."""
    seconds = clocks[0].result["seconds"] if clocks else {}
    full = f"budget-{cell['n_layers']}"
    at_full = next(point for point in cell["points"] if point["kind"] == full)
    if "transformers" in seconds:
        cell["points"].append(at_full | {"family": "transformers", "kind": "transformers"})
    for policy in cell["policies"]:
        name = f"{policy['family']}/{policy['goal']}"
        if policy["family"] == "epee":
            cell["points"].append(_point_of(policy, name, len(cell["seeds"])))
        if {name, full} <= seconds.keys():
            policy["clock"] = {
                way: seconds[full][way] / seconds[name][way] for way in ("single", "batched")
            }
    for point in cell["points"]:
        point["seconds"] = seconds.get(point["kind"])
    cell["clock"] = (
        {key: clocks[0].result.get(key) for key in ("n_single", "n_batched")} if clocks else None
    )


def _point_of(policy: dict[str, Any], name: str, n_seeds: int) -> dict[str, Any]:
    return {
        "family": "policy",
        "kind": name,
        "scores": policy["scores"],
        "goal_words": policy["goal_words"],
        "n_seeds": n_seeds,
    }
