"""Tune the exit policy of words on real events: chosen on dev by F1 of spans, reported on test.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and the folder of a checkpoint (the rates are those of all-MiniLM-L6-v2):

    python -m benchmarks.tuned_words FOLDER --n-train 1500 --epochs 2

It trains `EPEETokenClassifier` on a part of PHEE's events, a few CPU minutes, and tunes it with
`TunedExitPolicyClassifierCV` on the dev part: every policy of whole sentences, with `joint_exit`
"all" and "mean", and a few of words that exit one by one. The network is kept in the folder
``--cache``. Results are written to ``results/tuned_words.md``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

from benchmarks._report import describe, machine
from benchmarks.events import kept
from benchmarks.relations import write
from sklearn_epee import EPEETokenClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import exit_scores, span_f1_scorer

RESULTS = Path(__file__).parent / "results" / "tuned_words.md"
RATES = {"learning_rate": 2e-4, "head_learning_rate": 2e-3}
GOALS = {
    "best at a ratio of at least .3": {"min_speedup": 0.3},
    "best at a ratio of at least .5": {"min_speedup": 0.5},
    "fastest within a point of full depth": {"max_accuracy_drop": 0.01},
}
CERTIFIED = {"risk": "disagreement", "max_risk": 0.2, "confidence": 0.95, "random_state": 0}
POLICIES = {"tau": [0.02, 0.05, 0.1, 0.2, 0.35, 0.5], "patience": [3, 6]}
READING = """\
Micro F1 of spans (start, end and label exact; only mentions that tags of words can say), in
percent. Policies are chosen on the dev part and read once on the test part; the ratio counts rows,
tokens times layers. Policies were compared in the time given, their predictions included."""


def trained(options):
    """Return a network for words, fitted to a part of the training sentences."""
    train = load_phee_events(subset="train", discontinuous="leave_out")
    rows = np.random.default_rng(0).permutation(len(train.data))[: options.n_train]
    model = EPEETokenClassifier(
        options.backbone, max_epochs=options.epochs, memory=None, random_state=0, **RATES
    )
    cpu = time.process_time()
    model.fit([train.data[row] for row in rows], [train.target[row] for row in rows])
    return model, time.process_time() - cpu


def tuned(model, dev, parameters, **settings):
    """Return a tuned policy of a network with other settings, and the seconds that it took."""
    estimator = FrozenEstimator(copy.copy(model).set_params(**settings))
    found = TunedExitPolicyClassifierCV(
        estimator, scoring=span_f1_scorer(), store_cv_results=True, **parameters
    )
    start = time.perf_counter()
    found.fit(dev.data, dev.target)
    return found, time.perf_counter() - start


def rows_of(model, dev, test):
    """Yield the lines of the table: what was tuned, its policy, and its scores."""
    full = copy.copy(model).set_params(tau=0.0, patience=None)
    scores = [exit_scores(full, part.data, part.target) for part in (dev, test)]
    yield line("full depth", "", "", (0.0, scores[0]["span_f1"]), (0.0, scores[1]["span_f1"]))
    for joint in ("all", "mean"):
        for goal, parameters in GOALS.items():
            name = f"sentences, {joint}: {goal}"
            yield measured(name, tuned(model, dev, parameters, joint_exit=joint), test)
    certified = tuned(model, dev, CERTIFIED, joint_exit="mean")
    bound = "at most 20 % of sentences differ from full depth, 95 % sure"
    yield measured(f"sentences, mean: {bound}", certified, test)
    for goal, parameters in GOALS.items():
        runs = parameters | {"policies": POLICIES}
        found = tuned(model, dev, runs, token_exit="token", joint_exit="mean")
        yield measured(f"words one by one, mean: {goal}", found, test)


def measured(name, found, test):
    """Return the line of a tuned policy."""
    policy, seconds = found
    scores = exit_scores(policy, test.data, test.target)
    print(f"{name}: {scores['span_f1']:.4f} {scores['speedup']:.3f}", flush=True)
    return line(
        name,
        f"tau={policy.best_tau_:.3g}, patience={policy.best_patience_}",
        f"{len(policy.cv_results_['tau']):,} in {seconds:.0f} s",
        (policy.best_speedup_, policy.best_score_),
        (scores["speedup"], scores["span_f1"]),
    )


def line(name, policy, count, dev, test):
    cells = [f"{ratio:.2f} | {100 * f1:.1f}" for ratio, f1 in (dev, test)]
    return f"| {name} | {policy} | {count} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", help="folder of a checkpoint")
    parser.add_argument("--n-train", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=2)
    default = Path(tempfile.gettempdir()) / "sklearn-epee-tuned-words"
    parser.add_argument("--cache", type=Path, default=default)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    name = f"{Path(options.backbone).name}-{options.n_train}-{options.epochs}.joblib"
    model, cpu = kept(options.cache / name, lambda: trained(options))
    dev, test = (
        load_phee_events(subset=subset, discontinuous="leave_out") for subset in ("dev", "test")
    )
    command = f"python -m benchmarks.tuned_words FOLDER --n-train {options.n_train}"
    about = (
        f"{describe(machine('cpu'))}\n\nCommand: `{command} --epochs {options.epochs}`. "
        f"{Path(options.backbone).name}, {options.n_train:,} training sentences of PHEE's events, "
        f"{options.epochs} epochs ({cpu:.0f} CPU seconds), {len(dev.data):,} dev and "
        f"{len(test.data):,} test sentences."
    )
    lines = [
        f"# Exit policies of words, tuned by F1 of spans\n\n{about}\n\n{READING}\n",
        "| tuned | policy | policies | dev ratio | dev F1 | test ratio | test F1 |",
        "| --- |" + " --- |" * 6,
        *rows_of(model, dev, test),
    ]
    write(RESULTS, "\n".join(lines))


if __name__ == "__main__":
    main()
