"""Measure several labels per text: exits, thresholds and their order, on the roles of PHEE.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` (the JSON files of PHEE's source in its folder ``phee/source``):

    python -m benchmarks.labels --checkpoint all-MiniLM-L6-v2 --out benchmarks/results
    python -m benchmarks.labels --checkpoint all-MiniLM-L6-v2 \
        --heads shared shared-slow per-label --n-train 1500 --epochs 4 --out benchmarks/results
    python -m benchmarks.labels --report --out benchmarks/results

A sentence has a label for each type of event and each role (subject, treatment, effect, drug,
dosage, ...) that it mentions. One network is trained on the train part; its probabilities at every
exit, for the dev and test parts, are saved in ``--store``; ``--report`` only reads these.
Thresholds and policies are chosen on the dev part and measured on the test part and, because the
results for rare labels depend on the split, also on random halves of both parts together.

``--heads`` trains networks on ``--n-train`` sentences for ``--epochs`` each, and compares them
layer by layer: all labels share one head per layer ("shared"; "shared-slow", with the learning rate
of other heads; "shared-regression", with head_init="regression"), or each label has its own head
("per-label").
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import ShuffleSplit

from benchmarks._data import staged_probabilities
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.label_thresholds import LabelThresholds, best_thresholds, threshold_score
from sklearn_epee._exits.policy_scores import exact_score
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import PolicyGrid, pareto_front, policy_tables
from sklearn_epee.model_selection._selection import SelectionCriterion
from sklearn_epee.policy import JOINT_EXITS

MAX_EPOCHS = 6
# Labels share a head (with its default or the usual learning rate, or initialized by a regression),
# or have one each.
HEADS: dict[str, dict[str, Any]] = {
    "shared": {"target_type": "multilabel"},
    "shared-slow": {"target_type": "multilabel", "head_learning_rate": 1e-3},
    "shared-regression": {"target_type": "multilabel", "head_init": "regression"},
    "per-label": {"target_type": "tasks"},
}
# Labels with fewer sentences in the train part are left out.
FEWEST = 20
TOLERANCE = 0.01
MIN_SAMPLES = (1, 5, 10, 20, 50)
N_DRAWS = 20


# ------------------------------------------------------------------------------- the data


def sentences(part: str) -> tuple[list[str], list[list[str]]]:
    """Return the sentences of a part of PHEE, and the labels of each."""
    path = Path(os.environ["SKLEARN_EPEE_DATA"]) / "phee" / "source" / f"{part}.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [one["context"] for one in found], [_labels(one) for one in found]


def _labels(sentence: dict[str, Any]) -> list[str]:
    events = [event for part in sentence["annotations"] for event in part["events"]]
    labels = {event["event_type"] for event in events}
    for event in events:
        for role in ("Subject", "Treatment", "Effect"):
            if role in event:
                labels.add(role)
                labels |= {_name(role, inner) for inner in event[role] if inner[0].isupper()}
    return sorted(labels)


def _name(role: str, inner: str) -> str:
    return f"{role}.{inner}" if inner == "Disorder" else inner


# ------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Exits:
    """Predictions of every exit for sentences that the network was not trained on.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_layers, n_labels), float32
    codes : ndarray of shape (n_samples, n_labels), int
    labels : ndarray of shape (n_labels,), str
    is_test : ndarray of shape (n_samples,), bool
        Whether a sentence is in the test part.
    n_train : ndarray of shape (n_labels,), int
        Number of sentences in the train part that have the label.
    thresholds : ndarray of shape (n_labels,) or None
    seconds : float
        Processor time of the training.
    n_parameters : ndarray of shape (2,), int
        Number of parameters of the backbone, and of the heads.
    joint_exit : str
    """

    proba: np.ndarray
    codes: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray
    n_train: np.ndarray
    thresholds: np.ndarray | None = None
    seconds: float = np.nan
    n_parameters: np.ndarray | None = None
    joint_exit: str = "all"

    @cached_property
    def staged(self) -> StagedPredictions:
        """The predictions in the form for the exit rule."""
        return StagedPredictions.from_labels(
            self.proba, joint_exit=self.joint_exit, label_thresholds=self.thresholds
        )

    def take(self, rows: np.ndarray) -> Exits:
        """Return some of the sentences."""
        return replace(
            self, proba=self.proba[rows], codes=self.codes[rows], is_test=self.is_test[rows]
        )

    def predicted(self, exits: np.ndarray | None = None) -> np.ndarray:
        """Return the labels predicted at these exits, or at full depth."""
        exits = np.full(len(self.codes), self.proba.shape[1]) if exits is None else exits
        return self.staged.predictions[np.arange(len(exits)), exits - 1]


def trained(
    checkpoint: str, heads: str = "shared", epochs: int = MAX_EPOCHS, n_train: int | None = None
) -> Exits:
    """Train one network on the train part, or `n_train` of its sentences; predict dev and test."""
    from sklearn_epee import EPEEClassifier  # noqa: PLC0415 - torch is for training alone

    texts, given = sentences("train")
    names, sizes = np.unique([label for labels in given for label in labels], return_counts=True)
    known = names[sizes >= FEWEST]
    kept = np.sort(np.random.default_rng(0).permutation(len(texts))[:n_train])
    texts, given = [texts[row] for row in kept], [given[row] for row in kept]

    def indicator(labels: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([[name in row for name in known] for row in labels]).astype(np.int64)

    start = time.process_time()
    estimator = EPEEClassifier(
        checkpoint, max_epochs=epochs, random_state=0, memory=None, **HEADS[heads]
    ).fit(texts, indicator(given))
    seconds = time.process_time() - start
    network = estimator.net_.module_
    parts = [sentences(part) for part in ("dev", "test")]
    return Exits(
        np.concatenate([label_probabilities(estimator, texts) for texts, _ in parts]),
        np.concatenate([indicator(labels) for _, labels in parts]),
        known.astype(str),
        np.repeat([False, True], [len(texts) for texts, _ in parts]),
        indicator(given).sum(axis=0),
        seconds=seconds,
        n_parameters=np.array(
            [
                sum(weights.numel() for weights in part.parameters())
                for part in (network.backbone, network.heads)
            ]
        ),
    )


def label_probabilities(estimator: Any, texts: list[str]) -> np.ndarray:
    """Return the probability of every label at every exit, (n, M, n_labels)."""
    if estimator.target_type == "multilabel":
        return staged_probabilities(estimator, texts)
    layers = estimator.staged_predict_proba(texts)
    # A label that all sentences of the train part have is a task with one class.
    return np.stack([np.stack([p[:, -1] for p in tasks], axis=1) for tasks in layers], axis=1)


def exits_of(
    store: Path,
    checkpoint: str | None,
    heads: str = "shared",
    epochs: int = MAX_EPOCHS,
    n_train: int | None = None,
) -> Exits:
    """Return the predictions in the store; train a network if there are none."""
    usual = (heads, epochs, n_train) == ("shared", MAX_EPOCHS, None)
    own = "" if usual else f"_{heads}_{epochs}_{n_train}"
    path = store / f"phee_labels{own}.npz"
    if not path.exists():
        if checkpoint is None:
            raise SystemExit(f"{path} does not exist; pass --checkpoint instead of --report.")
        made = trained(checkpoint, heads, epochs, n_train)
        names = ("proba", "codes", "labels", "is_test", "n_train", "seconds", "n_parameters")
        np.savez(path, **{name: getattr(made, name) for name in names})
    with np.load(path) as kept:
        return Exits(**{key: kept[key] for key in kept.files})


# ------------------------------------------------------------------------------- choosing


def scores(exits: Exits, predicted: np.ndarray) -> tuple[float, float]:
    """Return macro-F1 and micro-F1 of predicted labels."""
    each = (
        f1_score(exits.codes, predicted, average=a, zero_division=0) for a in ("macro", "micro")
    )
    return tuple(float(score) for score in each)


def tuned_thresholds(exits: Exits, min_samples: int = 10) -> LabelThresholds:
    """Return the thresholds of the best F1 of each label at full depth."""
    return best_thresholds(exits.codes, exits.proba[:, -1], threshold_score("f1"), min_samples)


def chosen(exits: Exits, scoring: str, drop: float = TOLERANCE) -> tuple[float, int]:
    """Return the fastest policy whose score is within a tolerance of full depth."""
    space = PolicySpace(exits.staged)
    score = exact_score(scoring, Tasks(exits.labels, multilabel=True))(exits.staged, exits.codes)
    offered = PolicyGrid.from_parameter("all", space.n_layers)
    front = pareto_front(policy_tables(space, score, offered))
    full = float(score(space.sweep(space.n_layers, np.zeros(1)))[0])
    policy = SelectionCriterion("max_speedup", None, drop).choose(front, full, space.n_layers)
    return policy["tau"], policy["patience"]


@dataclass(frozen=True)
class Outcome:
    """Results of a policy on sentences that were not used to choose it."""

    macro: float
    micro: float
    lost_macro: float
    lost_micro: float
    ratio: float

    @classmethod
    def of(cls, exits: Exits, tau: float, patience: int) -> Outcome:
        """Compare a policy with full depth."""
        layers = exits.staged.exit_layers(tau, patience)
        full, found = scores(exits, exits.predicted()), scores(exits, exits.predicted(layers))
        ratio = 1 - layers.mean() / exits.staged.n_layers
        return cls(*found, full[0] - found[0], full[1] - found[1], float(ratio))

    def cells(self) -> np.ndarray:
        """Return the figures in the order of the columns."""
        return np.array([self.macro, self.micro, self.lost_macro, self.lost_micro, self.ratio])


# ------------------------------------------------------------------------------- the report


def of_layers(exits: Exits) -> Iterator[str]:
    """Yield the scores of every layer."""
    yield "\n## Every layer, test part, thresholds 0.5\n"
    yield "| layer | macro-F1 | micro-F1 | average precision | whole sets right | mean entropy |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for layer in range(1, exits.proba.shape[1] + 1):
        predicted = exits.predicted(np.full(len(exits.codes), layer))
        there = exits.codes.any(axis=0)
        ranked = average_precision_score(exits.codes[:, there], exits.proba[:, layer - 1, there])
        right = (predicted == exits.codes).all(axis=1).mean()
        entropy = exits.staged.entropies[:, layer - 1, 0].mean()
        macro, micro = scores(exits, predicted)
        cells = macro, micro, ranked, right, entropy
        yield f"| {layer} | {' | '.join(f'{cell:.3f}' for cell in cells)} |"


def of_labels(dev: Exits, test: Exits) -> Iterator[str]:
    """Yield the effect of tuned thresholds on each label."""
    found = tuned_thresholds(dev)
    tuned = replace(test, thresholds=found.thresholds)
    f1 = [
        f1_score(test.codes, one.predicted(), average=None, zero_division=0)
        for one in (test, tuned)
    ]
    yield "\n## Each label at full depth, test part\n"
    yield "| label | in train | in dev | in test | threshold | F1 at 0.5 | F1 at the threshold |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for label in np.argsort(-test.n_train):
        sizes = (
            f"{test.n_train[label]} | {dev.codes[:, label].sum()} | {test.codes[:, label].sum()}"
        )
        cells = f"{found.thresholds[label]:.3f} | {f1[0][label]:.3f} | {f1[1][label]:.3f}"
        yield f"| {test.labels[label]} | {sizes} | {cells} |"
    for name, one in (("0.5", test), ("tuned", tuned)):
        macro, micro = scores(one, one.predicted())
        yield f"\nThresholds {name}: macro-F1 {macro:.3f}, micro-F1 {micro:.3f}."


Halves = Sequence[tuple[np.ndarray, np.ndarray]]


def of_min_samples(both: Exits, draws: Halves) -> Iterator[str]:
    """Yield the gain by tuned thresholds for several values of `min_samples`."""
    yield f"\n## Thresholds tuned on one half, full depth, the other half, {len(draws)} draws\n"
    yield "| min_samples | macro-F1 | micro-F1 | lowest gain of macro-F1 | labels tuned |"
    yield "| --- | --- | --- | --- | --- |"
    rows: dict[str, list[tuple[float, ...]]] = {}
    for first, second in draws:
        ours, others = both.take(first), both.take(second)
        base = scores(others, others.predicted())
        rows.setdefault("all at 0.5", []).append((*base, 0.0, 0.0))
        for least in MIN_SAMPLES:
            found = tuned_thresholds(ours, least)
            tuned = replace(others, thresholds=found.thresholds)
            macro, micro = scores(tuned, tuned.predicted())
            cells = macro, micro, macro - base[0], float(found.is_tuned.sum())
            rows.setdefault(str(least), []).append(cells)
    for name, each in rows.items():
        table = np.array(each)
        macro, micro, _, tuned = table.mean(axis=0)
        yield f"| {name} | {macro:.3f} | {micro:.3f} | {table[:, 2].min():+.3f} | {tuned:.1f} |"


def of_policies(dev: Exits, test: Exits) -> Iterator[str]:
    """Yield the policies chosen on the dev part, measured on the test part."""
    yield f"\n## Policies chosen on dev within {TOLERANCE} of full depth, test part\n"
    yield (
        "| thresholds | joint_exit | chosen by | tau | patience | macro-F1 | micro-F1 | "
        "macro-F1 lost | micro-F1 lost | speed-up ratio |"
    )
    yield "| --- |" + " --- |" * 9
    tuned = tuned_thresholds(dev).thresholds
    for name, thresholds in (("0.5", None), ("tuned", tuned)):
        for joint_exit in JOINT_EXITS:
            options = {"thresholds": thresholds, "joint_exit": joint_exit}
            ours, others = replace(dev, **options), replace(test, **options)
            for scoring in ("f1_macro", "f1_micro"):
                tau, patience = chosen(ours, scoring)
                cells = " | ".join(f"{c:.3f}" for c in Outcome.of(others, tau, patience).cells())
                yield f"| {name} | {joint_exit} | {scoring} | {tau:.3f} | {patience} | {cells} |"


def of_joint_exits(both: Exits, draws: Halves) -> Iterator[str]:
    """Yield the joint exits compared on random halves."""
    yield (
        f"\n## Chosen by f1_macro on one half within {TOLERANCE}, measured on the other, "
        f"{len(draws)} draws\n"
    )
    yield "| thresholds | joint_exit | macro-F1 | micro-F1 | lost macro | lost micro | ratio |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    for first, second in draws:
        tuned = tuned_thresholds(both.take(first)).thresholds
        for name, thresholds in (("0.5", None), ("tuned", tuned)):
            for joint_exit in JOINT_EXITS:
                ours = replace(both, thresholds=thresholds, joint_exit=joint_exit)
                policy = chosen(ours.take(first), "f1_macro")
                cells = Outcome.of(ours.take(second), *policy).cells()
                rows.setdefault((name, joint_exit), []).append(cells)
    for (name, joint_exit), each in rows.items():
        cells = " | ".join(f"{cell:.3f}" for cell in np.mean(each, axis=0))
        yield f"| {name} | {joint_exit} | {cells} |"


def of_order(both: Exits, draws: Halves) -> Iterator[str]:
    """Yield the effect on patience policies if thresholds are tuned after the policy."""
    yield (
        "\n## Order: thresholds before the policy, or after it; patience alone (tau=0), by "
        f"f1_macro, {len(draws)} draws\n"
    )
    yield "| order | ratio promised | ratio of the other half | macro-F1 | macro-F1 lost |"
    yield "| --- | --- | --- | --- | --- |"
    rows: dict[str, list[tuple[float, ...]]] = {}
    for first, second in draws:
        tuned = tuned_thresholds(both.take(first)).thresholds
        for name, before in (("thresholds first", tuned), ("policy first", None)):
            ours = replace(both.take(first), thresholds=before)
            patience = _patience(ours)
            promised = 1 - ours.staged.patience_exits(patience).mean() / ours.staged.n_layers
            found = Outcome.of(replace(both.take(second), thresholds=tuned), 0.0, patience)
            cells = float(promised), found.ratio, found.macro, found.lost_macro
            rows.setdefault(name, []).append(cells)
    for name, each in rows.items():
        yield f"| {name} | {' | '.join(f'{cell:.3f}' for cell in np.mean(each, axis=0))} |"


def _patience(exits: Exits) -> int:
    """Return the smallest patience whose macro-F1 is within the tolerance of full depth."""
    full = scores(exits, exits.predicted())[0]
    for patience in range(2, exits.staged.n_layers):
        found = scores(exits, exits.predicted(exits.staged.patience_exits(patience)))[0]
        if found >= full - TOLERANCE:
            return patience
    return exits.staged.n_layers


def of_heads(compared: dict[str, Exits], epochs: int, n_train: int | None) -> Iterator[str]:
    """Yield the scores of every layer with one head for all labels, and with one for each."""
    which = "the train part" if n_train is None else f"{n_train:,} sentences of the train part"
    yield "\n## One head for all labels, or a head for each, test part\n"
    yield f"Networks trained for {epochs} epochs on {which}, thresholds 0.5.\n"
    yield "| layer |" + "".join(f" {name}: macro-F1 | micro-F1 |" for name in compared)
    yield "| --- |" + " --- |" * (2 * len(compared))
    test = {name: exits.take(exits.is_test) for name, exits in compared.items()}
    n_layers = next(iter(test.values())).proba.shape[1]
    for layer in range(1, n_layers + 1):
        cells = [
            scores(one, one.predicted(np.full(len(one.codes), layer))) for one in test.values()
        ]
        yield f"| {layer} | " + " | ".join(f"{a:.3f} | {b:.3f}" for a, b in cells) + " |"
    for name, exits in compared.items():
        ours, others = exits.take(~exits.is_test), test[name]
        tuned = replace(others, thresholds=tuned_thresholds(ours).thresholds)
        macro, micro = scores(tuned, tuned.predicted())
        backbone, heads = exits.n_parameters / 1e6
        yield (
            f"\n{name}: {heads:.1f} million parameters in the heads beside {backbone:.1f} in the "
            f"backbone, {exits.seconds:.0f} s of one core in training; with thresholds tuned on "
            f"dev, at full depth, macro-F1 {macro:.3f} and micro-F1 {micro:.3f}."
        )


def report(exits: Exits) -> Iterator[str]:
    """Yield the lines of all tables."""
    dev, test = exits.take(~exits.is_test), exits.take(exits.is_test)
    draws = [*ShuffleSplit(N_DRAWS, test_size=0.5, random_state=0).split(exits.codes)]
    yield (
        f"PHEE, {len(exits.labels)} labels, {exits.codes.sum(axis=1).mean():.1f} a sentence; "
        f"{len(dev.codes):,} sentences in dev and {len(test.codes):,} in test."
    )
    yield from of_layers(test)
    yield from of_labels(dev, test)
    yield from of_min_samples(exits, draws)
    yield from of_policies(dev, test)
    yield from of_joint_exits(exits, draws)
    yield from of_order(exits, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoint", help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--report", action="store_true", help="read the store, train nothing")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=[], help="compare these")
    parser.add_argument("--epochs", type=int, default=MAX_EPOCHS, help="of those compared")
    parser.add_argument("--n-train", type=int, help="sentences of those compared; default: all")
    parser.add_argument("--store", type=Path, help="keeps predictions; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="folder of the written tables; default: none")
    arguments = parser.parse_args()
    store = arguments.store or Path(tempfile.gettempdir()) / "sklearn_epee_labels"
    store.mkdir(parents=True, exist_ok=True)
    checkpoint = None if arguments.report else arguments.checkpoint
    exits = exits_of(store, checkpoint)
    size = arguments.epochs, arguments.n_train
    compared = {heads: exits_of(store, checkpoint, heads, *size) for heads in arguments.heads}
    heading = (
        f"{platform.machine()}, numpy {version('numpy')}, scikit-learn {version('scikit-learn')}; "
        f"command: `python -m benchmarks.labels`. all-MiniLM-L6-v2, {MAX_EPOCHS} epochs on the "
        "train part, one seed."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rare labels that are missing in a half
        lines = [heading, "", *report(exits)]
        if compared:
            lines += of_heads(compared, *size)
    print(*lines, sep="\n", flush=True)
    if arguments.out:
        (arguments.out / "labels.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        kept = {"heading": heading, "tables": lines[2:]}
        (arguments.out / "labels.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
