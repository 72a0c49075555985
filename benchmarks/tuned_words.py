"""Tune exit policies of a token classifier on real events, by F1 of spans on dev; report on test.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and the folder of a checkpoint (the rates are those of all-MiniLM-L6-v2):

    python -m benchmarks.tuned_words FOLDER --n-train 1500 --epochs 2 --n-eval 400

It trains `EPEETokenClassifier` on a part of PHEE's events, for a few CPU minutes, and tunes it with
`TunedExitPolicyClassifierCV` on the dev part: all policies for sentences that exit as a whole, with
`joint_exit` "all", "mean" and "any", and the best of the three, with all layers and with the first
ones alone, a few for words that exit one by one, and one with a guarantee. Policies for several
goals are taken from the front of one tuning. The network and the results are cached in the folder
``--cache``. Results are written to ``results/tuned_words.md``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

from benchmarks._report import describe, machine
from benchmarks.events import kept
from benchmarks.relations import write
from sklearn_epee import EPEETokenClassifier, FixedExitPolicyClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import exit_scores, span_f1_scorer

RESULTS = Path(__file__).parent / "results" / "tuned_words.md"
RATES = {"learning_rate": 2e-4, "head_learning_rate": 2e-3}
RATIOS = (0.3, 0.5)
DROP = 0.01
CERTIFIED = {"risk": "disagreement", "max_risk": 0.3, "confidence": 0.9, "random_state": 0}
POLICIES = {"tau": [0.05, 0.15, 0.4], "patience": [6]}
WAYS = ["all", "mean", "any"]
TUNED = {
    "sentences, all": ({"joint_exit": "all"}, {}),
    "sentences, mean": ({"joint_exit": "mean"}, {}),
    "sentences, any": ({"joint_exit": "any"}, {}),
    "sentences, the best of these": ({}, {"policies": {"joint_exit": WAYS}}),
    "sentences, all, and the number of layers": (
        {"joint_exit": "all"},
        {"policies": {"n_layers": "all"}},
    ),
    "sentences, mean, and the number of layers": (
        {"joint_exit": "mean"},
        {"policies": {"n_layers": "all"}},
    ),
    "sentences, the best of the three, and the number of layers": (
        {},
        {"policies": {"joint_exit": WAYS, "n_layers": "all"}},
    ),
    "words one by one, mean": (
        {"token_exit": "token", "joint_exit": "mean"},
        {"policies": POLICIES},
    ),
}
READING = """\
Micro F1 of spans (start, end and label exact; only mentions that tags of words can say), in
percent. Policies are chosen on the dev part and read once on the test part; the ratio counts rows,
tokens times layers, of all six layers. Where words exit one by one, four policies were run and
compared. The policy with a guarantee has the dev scores of the sentences that it was tested on."""


def trained(options):
    """Return a token classifier, fitted on a part of the training sentences."""
    model = EPEETokenClassifier(
        options.backbone, max_epochs=options.epochs, memory=None, random_state=0, **RATES
    )
    cpu = time.process_time()
    model.fit(*part("train", options.n_train))
    return model, time.process_time() - cpu


def fronts(model, parts, kind):
    """Return the rows of one kind of exits: policies chosen on dev for every goal, run on test."""
    settings, parameters = TUNED[kind]
    estimator = FrozenEstimator(copy.copy(model).set_params(**settings))
    tuned = TunedExitPolicyClassifierCV(
        estimator, scoring=span_f1_scorer(), store_cv_results=True, **parameters
    ).fit(*parts[0])
    front = tuned.pareto_front_  # from the slowest, which is the best
    goals = {
        f"best at a ratio of at least {least:g}": front["speedup"] >= least for least in RATIOS
    }
    near = front["score"] >= tuned.full_depth_score_ - DROP
    rows = {name: np.flatnonzero(reached)[:1] for name, reached in goals.items()}
    rows["fastest within a point of full depth"] = np.flatnonzero(near)[-1:]
    count = len(tuned.cv_results_["tau"])
    full = {"tau": 0.0, "patience": model.n_layers_, "speedup": 0, "score": tuned.full_depth_score_}
    return [
        *([measured("full depth", estimator, full, parts, 1)] if kind == next(iter(TUNED)) else []),
        *(
            measured(
                f"{kind}: {goal}", estimator, {k: v[row] for k, v in front.items()}, parts, count
            )
            for goal, found in rows.items()
            for row in found
        ),
    ]


def measured(name, estimator, policy, parts, count):
    """Return the row of a policy, evaluated on test."""
    chosen = {"tau": float(policy["tau"]), "patience": int(policy["patience"])}
    model = estimator.estimator
    if "joint_exit" in policy:
        model = copy.copy(model).set_params(joint_exit=str(policy["joint_exit"]))
    n_layers = int(policy.get("n_layers", model.n_layers_))
    shorter = FrozenEstimator(model.first_layers(n_layers))
    scores = exit_scores(FixedExitPolicyClassifier(shorter, **chosen).fit(*parts[1]), *parts[1])
    # The scores of a shorter network count its own layers.
    ratio = 1 - (1 - scores["speedup"]) * n_layers / model.n_layers_
    print(f"{name}: {scores['span_f1']:.4f} {ratio:.3f}", flush=True)
    layers = f"the first {n_layers} layers, " if n_layers < model.n_layers_ else ""
    way = f"{model.joint_exit}, " if "best of" in name else ""
    return {
        "name": name,
        "policy": f"{layers}{way}tau={chosen['tau']:.3g}, patience={chosen['patience']}",
        "count": f"{count:,}",
        "dev": [float(policy["speedup"]), float(policy["score"])],
        "test": [ratio, scores["span_f1"]],
    }


def certified(model, parts):
    """Return the row of a policy with a guaranteed bound on changed sentences."""
    estimator = FrozenEstimator(copy.copy(model).set_params(joint_exit="mean"))
    tuned = TunedExitPolicyClassifierCV(estimator, scoring=span_f1_scorer(), **CERTIFIED)
    tuned.fit(*parts[0])
    policy = {
        "tau": tuned.best_tau_,
        "patience": tuned.best_patience_,
        "speedup": tuned.best_speedup_,
        "score": tuned.best_score_,
    }
    name = (
        "sentences, mean: 90 % sure that at most 30 % of new sentences differ from full depth "
        f"({100 * tuned.risk_:.0f} % of {tuned.n_calibration_} tested ones do)"
    )
    count = len(tuned.candidates_["tau"])
    return measured(name, estimator, policy, parts, count)


def line(row):
    cells = [f"{ratio:.2f} | {100 * f1:.1f}" for ratio, f1 in (row["dev"], row["test"])]
    return f"| {row['name']} | {row['policy']} | {row['count']} | {' | '.join(cells)} |"


def part(subset, n_eval):
    """Return sentences and spans of a part, or a random subset of given size."""
    found = load_phee_events(subset=subset, discontinuous="leave_out")
    rows = np.random.default_rng(0).permutation(len(found.data))[:n_eval]
    return [found.data[row] for row in rows], [found.target[row] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", help="folder of a checkpoint")
    parser.add_argument("--n-train", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--n-eval", type=int, default=400, help="at most so many of dev and test")
    default = Path(tempfile.gettempdir()) / "sklearn-epee-tuned-words"
    parser.add_argument("--cache", type=Path, default=default)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    name = f"{Path(options.backbone).name}-{options.n_train}-{options.epochs}"
    model, cpu = kept(options.cache / f"{name}.joblib", lambda: trained(options))
    parts = [part(subset, options.n_eval) for subset in ("dev", "test")]

    def rows(key, make):
        return kept(options.cache / f"{name}-{options.n_eval}-{key}.json".replace(" ", ""), make)

    of_kinds = [rows(kind, partial(fronts, model, parts, kind)) for kind in TUNED]
    found = rows("certified", partial(certified, model, parts))
    about = (
        f"{describe(machine('cpu'))}\n\nCommand: `python -m benchmarks.tuned_words FOLDER "
        f"--n-train {options.n_train} --epochs {options.epochs} --n-eval {options.n_eval}`. "
        f"{Path(options.backbone).name}, {options.n_train:,} training sentences of PHEE's events, "
        f"{options.epochs} epochs ({cpu:.0f} CPU seconds), {len(parts[0][0]):,} dev and "
        f"{len(parts[1][0]):,} test sentences, one seed."
    )
    lines = [
        f"# Exit policies of words, tuned by F1 of spans\n\n{about}\n\n{READING}\n",
        "| tuned | policy | policies | dev ratio | dev F1 | test ratio | test F1 |",
        "| --- |" + " --- |" * 6,
        *(line(row) for of_kind in of_kinds for row in of_kind),
        line(found),
    ]
    write(RESULTS, "\n".join(lines))


if __name__ == "__main__":
    main()
