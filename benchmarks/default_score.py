"""Measure how the score by which an exit policy is chosen affects rare classes.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.default_score --checkpoint all-MiniLM-L6-v2 --out benchmarks/results

One network per data set is trained for 3 epochs on 1,800 texts (ddi2013) or 1,200. Its predictions
at every exit, for dev and test together, are saved in ``--store``. These samples are repeatedly
split into two random parts. On one half, or on 300 samples, the fastest policy whose score is
within a tolerance of full depth is chosen for each score, as by `TunedExitPolicyClassifierCV` with
``max_accuracy_drop``; on the rest, the chosen policy is compared with full depth. ddi2013 is
subsampled to 72 % of the class "false".
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score, recall_score
from sklearn.model_selection import StratifiedShuffleSplit

from benchmarks._data import load, staged_probabilities
from sklearn_epee import positive_f1_scorer
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.policy_scores import MeanScore, PolicyScore, exact_score
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import PolicyGrid, pareto_front, policy_tables
from sklearn_epee.model_selection._class_recall import ClassReport
from sklearn_epee.model_selection._selection import SelectionCriterion
from sklearn_epee.model_selection._staging import Validation

N_TRAIN = {"ddi2013": 1800, "git": 1200, "phee": 1200, "health_advice": 1200}
NEGATIVE_SHARE = 0.72
MAX_EPOCHS = 3
# Samples for choosing the policy, and tolerances.
SETTINGS = {"half": (0.01, 0.02), "300": (0.01,)}
# Minimum number of samples of a class in the second part for its recall to be compared.
FEWEST = 10

Policy = tuple[float, int]


@dataclass(frozen=True)
class Exits:
    """Predictions of every exit for texts that the network was not trained on.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_classes), float32
    codes : ndarray of shape (n_samples,), int
        Column of the true class.
    classes : ndarray of shape (n_classes,), str
    """

    proba: np.ndarray
    codes: np.ndarray
    classes: np.ndarray

    @cached_property
    def staged(self) -> StagedPredictions:
        """The predictions in the form for the exit rule."""
        return StagedPredictions.from_proba([self.proba])

    @property
    def negative(self) -> int:
        """Column of the most frequent class."""
        return int(np.bincount(self.codes).argmax())

    def take(self, rows: np.ndarray) -> Exits:
        """Return some of the texts."""
        return Exits(self.proba[rows], self.codes[rows], self.classes)


# ------------------------------------------------------------------------------- training


def thinned(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows in random order, of which at most 72 % are negative ("false")."""
    negative, positive = np.flatnonzero(y == "false"), np.flatnonzero(y != "false")
    most = round(len(positive) * NEGATIVE_SHARE / (1 - NEGATIVE_SHARE))
    return rng.permutation(np.concatenate([positive, rng.permutation(negative)[:most]]))


def exits_of(name: str, checkpoint: str, store: Path, seed: int = 0) -> Exits:
    """Return the staged predictions of a network for a data set, trained if not in the store."""
    path = store / f"{name}_{seed}.npz"
    if not path.exists():
        exits = _trained(name, checkpoint, seed)
        np.savez(path, proba=exits.proba, codes=exits.codes, classes=exits.classes)
    with np.load(path) as kept:
        return Exits(**{key: kept[key] for key in kept.files})


def _trained(name: str, checkpoint: str, seed: int) -> Exits:
    from sklearn_epee import EPEEClassifier  # noqa: PLC0415 - torch is for training alone

    rng = np.random.default_rng(seed)
    X, y = load(name, "train")
    rows = thinned(y, rng)[: N_TRAIN[name]]
    estimator = EPEEClassifier(
        checkpoint, max_epochs=MAX_EPOCHS, random_state=seed, memory=None
    ).fit([X[row] for row in rows], y[rows])
    proba, labels = [], []
    for part in ("dev", "test"):
        X, y = load(name, part)
        rows = thinned(y, rng)
        proba.append(staged_probabilities(estimator, [X[row] for row in rows]))
        labels.append(y[rows])
    codes = np.searchsorted(estimator.classes_, np.concatenate(labels))
    return Exits(np.concatenate(proba), codes, estimator.classes_.astype(str))


# ------------------------------------------------------------------------------- choosing


def counted(scoring: object) -> Callable[[Exits], PolicyScore]:
    """Return a score that is computed from predicted labels."""

    def score(exits: Exits) -> PolicyScore:
        asked = scoring(exits) if scoring is without_negative else scoring
        return exact_score(asked, Tasks(exits.classes))(exits.staged, exits.codes[:, np.newaxis])

    return score


def without_negative(exits: Exits) -> object:
    """Return the scorer that leaves the most frequent class out."""
    return positive_f1_scorer(exits.classes[exits.negative])


def log_loss(exits: Exits) -> MeanScore:
    """Return the negative log loss."""
    proba = exits.proba[np.arange(len(exits.codes)), :, exits.codes].astype(np.float64)
    return MeanScore(np.log(np.maximum(proba, np.finfo(np.float32).eps)), len(proba))


def brier(exits: Exits) -> MeanScore:
    """Return the negative Brier score, halved so that it lies in [-1, 0]."""
    truth = np.eye(len(exits.classes))[exits.codes][:, np.newaxis]
    return MeanScore(-((exits.proba - truth) ** 2).sum(axis=2) / 2, len(exits.codes))


SCORES: dict[str, Callable[[Exits], PolicyScore]] = {
    "accuracy": counted("accuracy"),
    "balanced_accuracy": counted("balanced_accuracy"),
    "f1_macro": counted("f1_macro"),
    "f1_weighted": counted("f1_weighted"),
    "micro-F1 without the majority": counted(without_negative),
    "neg_log_loss": log_loss,
    "neg_brier_score": brier,
}


def chosen(space: PolicySpace, score: PolicyScore, drops: Sequence[float]) -> list[Policy]:
    """Return the fastest policy within each tolerance of full depth."""
    tables = policy_tables(space, score, PolicyGrid.from_parameter("all", space.n_layers))
    front = pareto_front(tables)
    full_depth = float(score(space.sweep(space.n_layers, np.array([0.0])))[0])
    criteria = [SelectionCriterion("max_speedup", max_drop=drop) for drop in drops]
    found = [criterion.choose(front, full_depth, space.n_layers) for criterion in criteria]
    return [(policy["tau"], policy["patience"]) for policy in found]


# ------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Outcome:
    """Losses of a chosen policy against full depth on other samples, and its speed-up."""

    accuracy: float
    macro_f1: float
    positive_f1: float
    worst_recall: float
    speedup: float
    warned: float

    COLUMNS = (
        "accuracy lost",
        "macro-F1 lost",
        "micro-F1 without the majority lost",
        "most recall lost by a class",
        "speed-up ratio",
        "warned",
    )

    def cells(self) -> np.ndarray:
        """Return the figures in the order of the columns."""
        return np.array(list(vars(self).values()))


def labels_score(exits: Exits, predicted: np.ndarray) -> np.ndarray:
    """Return accuracy, macro-F1 and micro-F1 without the majority, then the classes' recalls."""
    options = {"zero_division": 0.0}
    others = np.delete(np.arange(len(exits.classes)), exits.negative)
    recalls = recall_score(
        exits.codes, predicted, labels=np.arange(len(exits.classes)), average=None, **options
    )
    return np.concatenate(
        [
            [
                np.mean(predicted == exits.codes),
                f1_score(exits.codes, predicted, average="macro", **options),
                f1_score(exits.codes, predicted, labels=others, average="micro", **options),
            ],
            recalls,
        ]
    )


def outcome(first: Exits, second: Exits, tau: float, patience: int) -> Outcome:
    """Compare a policy with full depth on the second half; the warning is that of the first."""
    staged = second.staged
    exits = staged.exit_layers(tau, patience)
    predicted = staged.predictions[np.arange(len(exits)), exits - 1, 0]
    lost = labels_score(second, staged.predictions[:, -1, 0]) - labels_score(second, predicted)
    is_measured = np.bincount(second.codes, minlength=len(second.classes)) >= FEWEST
    rows = np.arange(len(first.codes))
    seen = Validation(first.staged, rows, first.codes[:, None], Tasks(first.classes), rows >= 0)
    return Outcome(
        *lost[:3],
        worst_recall=lost[3:][is_measured].max(),
        speedup=1 - exits.mean() / staged.n_layers,
        warned=float(ClassReport.of(seen, tau, patience).loses_much.any()),
    )


Setting = tuple[str, float, str]


def measured(exits: Exits, n_draws: int) -> dict[Setting, np.ndarray]:
    """Return the results for every size, tolerance and score, one row per draw."""
    found: dict[Setting, list[np.ndarray]] = {}
    for size, drops in SETTINGS.items():
        n_first = 0.5 if size == "half" else int(size)
        halves = StratifiedShuffleSplit(n_draws, train_size=n_first, test_size=None, random_state=0)
        for rows, others in halves.split(exits.codes, exits.codes):
            first, second = exits.take(rows), exits.take(others)
            space = PolicySpace(first.staged)
            for name, make in SCORES.items():
                policies = chosen(space, make(first), drops)
                for drop, policy in zip(drops, policies, strict=True):
                    cells = outcome(first, second, *policy).cells()
                    found.setdefault((size, drop, name), []).append(cells)
    return {key: np.array(rows) for key, rows in found.items()}


# ------------------------------------------------------------------------------- the report


def report(name: str, exits: Exits, found: dict[Setting, np.ndarray]) -> Iterator[str]:
    """Yield the lines of one data set."""
    hits = exits.proba.argmax(axis=2) == exits.codes[:, np.newaxis]
    full = labels_score(exits, exits.proba[:, -1].argmax(axis=1))
    shares = np.bincount(exits.codes, minlength=len(exits.classes)) / len(exits.codes)
    yield f"\n## {name}\n"
    yield (
        f"{len(exits.codes):,} texts, {len(exits.classes)} classes, of which "
        f"{exits.classes[exits.negative]} holds {shares.max():.1%} and the smallest "
        f"{shares.min():.1%}. Full depth: accuracy {full[0]:.3f}, macro-F1 {full[1]:.3f}, micro-F1 "
        f"without the majority {full[2]:.3f}. Accuracy of the layers: "
        + " ".join(f"{share:.3f}" for share in hits.mean(axis=0))
        + ".\n"
    )
    yield f"| chosen on | tolerance | score | {' | '.join(Outcome.COLUMNS)} |"
    yield "| --- | --- | --- |" + " --- |" * len(Outcome.COLUMNS)
    for (size, drop, score), draws in found.items():
        cells = draws.mean(axis=0)
        row = " | ".join(f"{cell:.3f}" for cell in cells[:-1])
        yield f"| {size} | {drop} | {score} | {row} | {cells[-1]:.0%} |"


def one_case(exits: Exits) -> Iterator[str]:
    """Yield the effect of one policy chosen by accuracy on each class, on the other half."""
    halves = StratifiedShuffleSplit(1, test_size=0.5, random_state=0)
    rows, others = next(halves.split(exits.codes, exits.codes))
    first, second = exits.take(rows), exits.take(others)
    at = np.arange(len(others))
    columns = {"full depth": second.staged.predictions[:, -1, 0]}
    ratios = {"full depth": 0.0}
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "micro-F1 without the majority"):
        policies = chosen(PolicySpace(first.staged), SCORES[name](first), [0.01])
        layers = second.staged.exit_layers(*policies[0])
        columns[name] = second.staged.predictions[at, layers - 1, 0]
        ratios[name] = 1 - layers.mean() / second.staged.n_layers
    names = ["accuracy", "macro-F1", "micro-F1 without the majority"]
    names += [f"recall of {label}" for label in exits.classes]
    scores = {name: labels_score(second, predicted) for name, predicted in columns.items()}
    yield "\nThe first of the draws, tolerance 0.01, each column chosen by another score:\n"
    yield f"| | {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * len(columns)
    for i, title in enumerate(names):
        yield f"| {title} | {' | '.join(f'{scores[name][i]:.3f}' for name in columns)} |"
    yield f"| speed-up ratio | {' | '.join(f'{ratio:.3f}' for ratio in ratios.values())} |"


def on_few(exits: Exits, n_draws: int) -> Iterator[str]:
    """Yield how often a policy chosen on few samples loses the positive classes."""
    yield "\nChosen on few samples, tolerance 0.01; losses of micro-F1 without the majority:\n"
    yield "| chosen on | score | mean loss | draws losing > 0.1 | > 0.2 | most lost |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for n_first in (100, 200, 300):
        for name in ("accuracy", "f1_macro"):
            lost = []
            draws = StratifiedShuffleSplit(
                n_draws, train_size=n_first, test_size=None, random_state=0
            )
            for rows, others in draws.split(exits.codes, exits.codes):
                first, second = exits.take(rows), exits.take(others)
                space = PolicySpace(first.staged)
                (policy,) = chosen(space, SCORES[name](first), [0.01])
                lost.append(outcome(first, second, *policy).positive_f1)
            share = [np.mean(np.array(lost) > most) for most in (0.1, 0.2)]
            cells = f"{np.mean(lost):.3f} | {share[0]:.0%} | {share[1]:.0%} | {max(lost):.3f}"
            yield f"| {n_first} | {name} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoint", required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", nargs="+", default=list(N_TRAIN), choices=list(N_TRAIN))
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--store", type=Path, help="keeps predictions; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the written tables; default: none")
    arguments = parser.parse_args()
    store = arguments.store or Path(tempfile.gettempdir()) / "sklearn_epee_default_score"
    store.mkdir(parents=True, exist_ok=True)
    heading = (
        f"{platform.machine()}, numpy {version('numpy')}, scikit-learn {version('scikit-learn')}; "
        f"command: `python -m benchmarks.default_score`, {arguments.draws} draws. Means over the "
        "draws of what the policy loses against full depth on the half it was not chosen on; "
        f"classes with fewer than {FEWEST} samples there are left out of the last but two. "
        "'warned': share of the draws with a ClassRecallWarning."
    )
    print(heading, flush=True)
    lines = [heading]
    for name in arguments.data:
        exits = exits_of(name, arguments.checkpoint, store)
        found = [*report(name, exits, measured(exits, arguments.draws))]
        if name == "ddi2013":
            found += [*one_case(exits), *on_few(exits, arguments.draws)]
        print(*found, sep="\n", flush=True)
        lines += found
        if arguments.out:
            (arguments.out / "default_score.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
