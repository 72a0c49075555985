"""Measure two towers on cases of text and image: what each kind of case costs, and how it is read.

Run from the repository root, with the folders of a text and of an image backbone; without them
both towers are compact ones, trained from scratch:

    python -m benchmarks.towers
    python -m benchmarks.towers --text all-MiniLM-L6-v2 --image dinov2-small \
        --n-train 600 --max-epochs 5 --image-size 56
    python -m benchmarks.towers --report --out benchmarks/results

Cases are those of `make_case_reports`: the text names the finding, or leaves it to the image, or
says which of two findings in the image is not asked about, or, in a fourth kind, asks for the left
or the right one; ``--weights`` mixes them. Every run trains one network (`hand_over_after` of each
given number), the text first, tunes a policy on cases of their own, and keeps what came out in
``--store``; ``--report`` reads that alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import describe, machine

KINDS = ("text", "image", "both", "side")
DROP = 0.01
N_TUNE, N_TEST = 300, 600


def cases(n: int, seed: int, size: int, weights: list[int]) -> Any:
    """Return cases of all kinds; in some, the text or image is missing if it is not decisive."""
    from sklearn_epee.datasets import make_case_reports  # noqa: PLC0415

    return make_case_reports(
        n,
        kind_weights=weights,
        missing_fraction=0.15,
        image_size=size,
        return_X_y=False,
        random_state=seed,
    )


def trained(arguments: argparse.Namespace, hand_over_after: int | None) -> dict[str, Any]:
    """Train one network, tune its policy, and return the results on the test cases."""
    from sklearn_epee import (  # noqa: PLC0415 - torch is for training alone
        EPEEMultimodalClassifier,
        TunedExitPolicyClassifierCV,
    )

    train, tune, test = (
        cases(n, seed, arguments.image_size, arguments.weights)
        for seed, n in enumerate((arguments.n_train, N_TUNE, N_TEST))
    )
    start = time.process_time()
    classifier = EPEEMultimodalClassifier(
        arguments.text,
        arguments.image,
        first="text",
        hand_over_after=hand_over_after,
        max_epochs=arguments.max_epochs,
        tau=0.0,
        memory=None,
        random_state=0,
    ).fit(train.data, train.target)
    seconds = time.process_time() - start
    tuned = TunedExitPolicyClassifierCV(
        classifier, cv="prefit", refit=False, max_accuracy_drop=DROP, scoring="accuracy"
    ).fit(tune.data, tune.target)
    found = {
        name: estimator.predict_with_exits(test.data)
        for name, estimator in (("all exits", classifier), ("tuned", tuned))
    }
    first = classifier.n_tower_layers_[0]
    end = classifier.predict_at_layer(test.data, first)
    return {
        "hand_over_after": hand_over_after,
        "n_tower_layers": [int(n) for n in classifier.n_tower_layers_],
        "first_tower": float(classifier.exit_costs_[first - 1]),
        "policy": [float(tuned.best_tau_), int(tuned.best_patience_)],
        "seconds": seconds,
        "layers": _accuracies(classifier, test),
        "kinds": {
            kind: _of_kind(test.kind == kind, test.target, end, found, first)
            for kind in np.unique(test.kind).tolist()
        }
        | {"all": _of_kind(np.ones(N_TEST, dtype=bool), test.target, end, found, first)},
    }


def _accuracies(classifier: Any, test: Any) -> list[float]:
    """Return the accuracy of every exit."""
    return [
        float((labels == test.target).mean()) for labels in classifier.staged_predict(test.data)
    ]


def _of_kind(
    rows: np.ndarray, target: np.ndarray, end: np.ndarray, found: dict[str, Any], first: int
) -> dict[str, float]:
    """Return accuracies, exits and work of the cases of a kind."""
    cells = {"first tower": float((end[rows] == target[rows]).mean())}
    for name, exits in found.items():
        cells[name] = float((exits.labels[rows] == target[rows]).mean())
        cells[f"{name}: saved"] = float(1 - exits.exit_cost[rows].mean())
        cells[f"{name}: in the first"] = float((exits.exit_layer[rows] <= first).mean())
    return cells


def name_of(arguments: argparse.Namespace) -> str:
    """Return the title of a run."""
    backbones = "compact towers from scratch"
    if arguments.text:
        backbones = f"{Path(arguments.text).name}, then {Path(arguments.image).name}"
    usual = {(1, 1, 1, 0): "three kinds", (1, 1, 1, 1): "four kinds"}
    weights = tuple(arguments.weights)
    kinds = usual.get(weights, f"the kinds {' to '.join(map(str, weights))}")
    return (
        f"{backbones}; {arguments.n_train} cases of {kinds}, {arguments.image_size} pixels, "
        f"{arguments.max_epochs} epochs"
    )


# ------------------------------------------------------------------------------- the report


def report(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of all tables."""
    for name in dict.fromkeys(run["name"] for run in runs):
        yield from of_network(name, [run for run in runs if run["name"] == name])


def of_network(name: str, runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of the networks that differ in `hand_over_after`."""
    first, second = runs[0]["n_tower_layers"]
    share = runs[0]["first_tower"]
    yield f"\n## {name[0].upper()}{name[1:]}\n"
    yield (
        f"Exits 1 to {first} are those of the text, {first + 1} to {first + second} those of the "
        f"image; the text takes {share:.0%} of the work of both.\n"
    )
    yield (
        "| hand_over_after | decided by | end of the text tower | all exits | work saved | tuned | "
        "exit in the text tower | work saved |"
    )
    yield "|" + " --- |" * 8
    for run in runs:
        for kind in (*KINDS, "all"):
            if kind in run["kinds"]:
                cells = run["kinds"][kind]
                yield (
                    f"| {run['hand_over_after']} | {kind} | {cells['first tower']:.3f} | "
                    f"{cells['all exits']:.3f} | {cells['all exits: saved']:.3f} | "
                    f"{cells['tuned']:.3f} | {cells['tuned: in the first']:.0%} | "
                    f"{cells['tuned: saved']:.3f} |"
                )
    for run in runs:
        tau, patience = run["policy"]
        layers = " ".join(f"{accuracy:.3f}" for accuracy in run["layers"])
        yield (
            f"\nhand_over_after={run['hand_over_after']}: accuracy of exits 1 to {first + second}: "
            f"{layers}; the policy tau={tau:.3f}, patience={patience}; "
            f"{run['seconds']:.0f} s of one core in training."
        )


HEADING = (
    "# Two towers\n\n"
    "Invented cases (`make_case_reports`), of which some lack what does not decide: accuracy "
    "on {n_test} test cases by kind, where they exit, and the share of the work of their "
    'towers that is saved. "all exits": no sample exits early (`tau=0`), so that work is saved '
    'only by handing over; "tuned": by `TunedExitPolicyClassifierCV`, the fastest policy within '
    "{drop} of the accuracy of all exits on {n_tune} other cases. One network each, one seed: "
    "the standard error of an accuracy in a kind is up to 0.035, and other trainings were not "
    "tried.\n\nCommand: `python -m benchmarks.towers`. "
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--text", help="folder of a text backbone; default: from scratch")
    parser.add_argument("--image", help="folder of an image backbone; default: from scratch")
    parser.add_argument("--n-train", type=int, default=800)
    parser.add_argument("--max-epochs", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=24, help="in pixels")
    parser.add_argument(
        "--weights", type=int, nargs=4, default=[1, 1, 1, 0], help="of text, image, both and side"
    )
    parser.add_argument("--hand-over-after", type=int, nargs="+", default=[0, 2, 3], help="0: None")
    parser.add_argument("--report", action="store_true", help="read the store, train nothing")
    parser.add_argument("--store", type=Path, help="keeps results; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the written tables; default: none")
    arguments = parser.parse_args()
    store = arguments.store or Path(tempfile.gettempdir()) / "sklearn_epee_towers"
    store.mkdir(parents=True, exist_ok=True)
    for number in [] if arguments.report else arguments.hand_over_after:
        name = name_of(arguments)
        path = store / f"{name}, {number}.json"
        if not path.exists():
            path.write_text(json.dumps({"name": name} | trained(arguments, number or None)))
            print(path.name, flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(store.glob("*.json"))]
    heading = HEADING.format(n_test=N_TEST, n_tune=N_TUNE, drop=DROP) + describe(machine("cpu"))
    lines = [heading, *report(runs)]
    print(*lines, sep="\n", flush=True)
    if arguments.out:
        (arguments.out / "towers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
