"""Measure the extraction of PHEE's events: exact match F1 by layer of spans, exit and policy.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and the folder of a checkpoint (the rates are those of all-MiniLM-L6-v2):

    python -m benchmarks.events FOLDER --epochs 6 --learning-rate 2e-4 --head-learning-rate 2e-3

A run trains one token classifier on the training part, with the layers of spans of
`load_phee_events`. It predicts the dev part with every policy of a grid (`policies`), for sentences
that exit as a whole and for exits of words, and chooses the policies with the best F1 at some
speed-up ratios. These, and all layers, are scored on the test part, once with the most probable
tags and once with valid sequences and the `transition_weight` that is best on dev. The network and
the results of each policy are cached in the folder ``--cache``. The results of all runs are written
to ``results/events.json`` and ``.md``; ``--report`` only does that.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np

from benchmarks._phee_scores import LAYERS, paper_scores
from benchmarks._report import describe, machine
from benchmarks.relations import write
from sklearn_epee import EPEETokenClassifier
from sklearn_epee._base.sentences import as_sentences
from sklearn_epee._base.word_predictions import PredictedSentences
from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import span_scores

RESULTS = Path(__file__).parent / "results"
# File of the results of a run; earlier results without transitions are in "result.json".
RESULT = "scores.json"
TAUS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
MANY_TAUS = np.round(np.geomspace(0.005, 0.7, 25), 4)
KINDS = {
    "sentence, all": {"token_exit": "sentence", "joint_exit": "all"},
    "sentence, mean": {"token_exit": "sentence", "joint_exit": "mean"},
    "token, all": {"token_exit": "token", "joint_exit": "all"},
    "token, mean": {"token_exit": "token", "joint_exit": "mean"},
}
FULL = {"tau": 0.0, "patience": None, "token_exit": "sentence", "joint_exit": "all"}
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4)
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6)
PUBLISHED = {"trigger": 70.1, "main": 68.6, "sub": 76.2}
TITLES = {"trigger": "triggers", "main": "main arguments", "sub": "sub-arguments"}


@dataclass(frozen=True)
class Run:
    """Settings of a run, and the folder of its files."""

    backbone: str
    epochs: int
    learning_rate: float
    head_learning_rate: float
    exit_loss_weights: str
    pieces: str
    seed: int
    cache: Path

    @property
    def settings(self):
        """Settings on which the results depend."""
        found = {name: value for name, value in vars(self).items() if name != "cache"}
        return found | {"backbone": Path(self.backbone).name}

    @property
    def folder(self):
        """Folder of the network and its predictions."""
        name = "-".join(str(value) for value in self.settings.values())
        return self.cache / re.sub(r"[^\w.-]+", "_", name)


def trained(run):
    """Return the fitted classifier and the CPU seconds of its training."""
    train = load_phee_events(subset="train", discontinuous=run.pieces)
    model = EPEETokenClassifier(
        run.backbone,
        max_epochs=run.epochs,
        learning_rate=run.learning_rate,
        head_learning_rate=run.head_learning_rate,
        exit_loss_weights=run.exit_loss_weights,
        memory=None,
        random_state=run.seed,
        verbose=2,
    )
    cpu = time.process_time()
    model.fit(train.data, train.target)
    return model, time.process_time() - cpu


def kept(path, make):
    """Return the content of a JSON or pickle file, which is created if it does not exist."""
    if not path.exists():
        found = make()
        if path.suffix == ".json":
            write(path, json.dumps(found))
        else:
            draft = path.with_suffix(".draft")
            joblib.dump(found, draft)
            draft.replace(path)
    return json.loads(path.read_text()) if path.suffix == ".json" else joblib.load(path)


@dataclass(frozen=True)
class Staged:
    """Predictions of all exits for the sentences of a part, from one pass.

    Parameters
    ----------
    spans : list of length M of list of dict
        Predictions of each exit.
    proba : list of ndarray of shape (W, M, K)
        Probabilities of the words, one array per layer of spans.
    word_counts, tokens : ndarray of shape (n,)
    names : sequence of str
        The layers of spans.
    """

    spans: list
    proba: list
    word_counts: np.ndarray
    tokens: np.ndarray
    names: Sequence[str] = LAYERS

    @classmethod
    def of(cls, model, part):
        """Return the exits of a model for a part of the data."""
        stages = list(model.staged_predict_proba(part.data))
        names = list(part.target[0])
        proba = [
            np.stack([np.concatenate([found[name] for found in stage]) for stage in stages], axis=1)
            for name in names
        ]
        counts = np.array([len(found[names[0]]) for found in stages[0]])
        model.set_params(**FULL | {"tau": 9.0})  # the cheapest pass that counts tokens
        tokens = model.predict_with_exits(part.data).rows_total // model.n_layers_
        return cls(list(model.staged_predict(part.data)), proba, counts, tokens, names)

    def exit_layers(self, policy):
        """Return the layer (n,) at which each sentence exits."""
        words = StagedPredictions.from_proba(self.proba, joint_exit=policy["joint_exit"])
        patience = policy["patience"] or len(self.spans)
        return sentence_exit_layers(words, self.word_counts, policy["tau"], patience)

    def exits(self, policy):
        """Return the spans and the speed-up ratio of a policy under which sentences exit."""
        n_layers, layers = len(self.spans), self.exit_layers(policy)
        spans = [self.spans[layer - 1][row] for row, layer in enumerate(layers)]
        return spans, 1 - float(layers @ self.tokens) / float(n_layers * self.tokens.sum())

    def proba_at(self, layers):
        """Return probabilities of words by layer of spans, given one exit layer per sentence."""
        of_words = np.repeat(layers, self.word_counts) - 1
        rows = np.arange(len(of_words))
        return {
            name: part[rows, of_words] for name, part in zip(self.names, self.proba, strict=True)
        }


def scored(model, part, staged, policy):
    """Return the scores of a policy, and the speed-up ratio."""
    if policy["token_exit"] == "sentence":
        spans, ratio = staged.exits(policy)
    else:
        found = model.set_params(**policy).predict_with_exits(part.data)
        spans = found.spans
        ratio = 1 - int(found.rows_computed.sum()) / int(found.rows_total.sum())
    return {"ratio": ratio} | scores_of(part, spans)


def proba_of(model, part, staged, policy):
    """Return the probabilities of words at their exits under a policy, by layer of spans."""
    if policy["token_exit"] == "sentence":
        return staged.proba_at(staged.exit_layers(policy))
    found = model.set_params(**policy).predict_proba(part.data)
    return {name: np.concatenate([proba[name] for proba in found]) for name in LAYERS}


def with_transitions(tasks, parts, probas):
    """Return the weight of transitions that is best on dev, and the scores of dev and test with it.

    Parameters
    ----------
    tasks : TagLayers
        With the transitions of the training part.
    parts : list of Bunch
        Dev and test.
    probas : list of dict of str to ndarray
        Probabilities of their words by layer of spans.
    """

    def score(number, weight):
        packed = np.concatenate([probas[number][name] for name in tasks.by_name], axis=1)
        sentences = as_sentences(parts[number].data)
        return scores_of(parts[number], PredictedSentences(sentences, tasks, weight).spans(packed))

    tried = {weight: score(0, weight) for weight in WEIGHTS}
    weight = max(WEIGHTS, key=lambda weight: mean_f1(tried[weight]))
    return {"weight": weight, "dev": tried[weight], "test": score(1, weight)}


def scores_of(part, spans):
    """Return exact match F1, as defined in the paper, and for the offsets of all mentions."""
    strict = span_scores(part.all_spans, spans)
    return {
        "paper": paper_scores(part, spans),
        "offsets": {name: strict["layers"][name] for name in LAYERS},
    }


def mean_f1(scores):
    """Return the mean F1 of triggers, main arguments and sub-arguments, to choose policies."""
    return sum(found["f1"] for found in scores["paper"].values()) / len(scores["paper"])


def measure(run):
    """Run, or continue, one run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    model, cpu = kept(run.folder / "network.joblib", lambda: trained(run))
    parts = [load_phee_events(subset=subset) for subset in ("dev", "test")]
    staged = [
        kept(run.folder / f"{name}.joblib", lambda part=part: Staged.of(model, part))
        for name, part in zip(("dev", "test"), parts, strict=True)
    ]
    train = load_phee_events(subset="train", discontinuous=run.pieces)
    tasks = model._prepare(as_sentences(train.data), train.target, None, None).tasks

    def at_layer(layer):
        probas = [found.proba_at(np.full(len(found.tokens), layer)) for found in staged]
        return with_transitions(tasks, parts, probas)

    return {
        "settings": run.settings,
        "training_cpu_seconds": cpu,
        "left_out": counts(parts[1]),
        "layers": [scores_of(parts[1], spans) for spans in staged[1].spans],
        "transitions": [
            kept(run.folder / f"transitions-layer-{layer}.json", partial(at_layer, layer))
            for layer in range(1, model.n_layers_ + 1)
        ],
        "front": list(front(run.folder, model, tasks, parts, staged)),
        "machine": machine("cpu"),
    }


def front(folder, model, tasks, parts, staged):
    """Yield the policies chosen on dev with their scores, each cached."""
    dev, test = zip(parts, staged, strict=True)
    tried = []
    for kind, policy in [("full", FULL), *policies()]:
        name = file_name(kind, policy)
        found = kept(folder / f"dev-{name}", partial(scored, model, *dev, policy))
        tried.append((kind, policy, found))
        print(name, f"{found['ratio']:.3f} {mean_f1(found):.4f}", flush=True)

    def weighted(policy):
        probas = [proba_of(model, *part, policy) for part in (dev, test)]
        return with_transitions(tasks, parts, probas)

    for point in chosen(tried):
        policy = point["policy"]
        name = file_name(point["kind"], policy)
        found = kept(folder / f"test-{name}", partial(scored, model, *test, policy))
        transitions = kept(folder / f"transitions-{name}", partial(weighted, policy))
        print(name, "on test; weight of transitions", transitions["weight"], flush=True)
        yield point | {"test": found, "transitions": transitions}


def file_name(kind, policy):
    return f"{kind}-{policy['tau']}-{policy['patience']}.json".replace(" ", "")


def policies():
    """Return the policies of the grid, by kind; more of the kind that needs no separate pass."""
    found = []
    for kind, settings in KINDS.items():
        whole = settings["token_exit"] == "sentence"
        taus, patiences = (MANY_TAUS, (None, 2, 3)) if whole else (TAUS, (None, 3))
        alone = (1, 2, 3, 4, 5) if whole else ()
        grid = [(float(tau), p) for tau in taus for p in patiences] + [(0.0, p) for p in alone]
        found += [(kind, {"tau": tau, "patience": p, **settings}) for tau, p in grid]
    return found


def chosen(tried):
    """Yield full depth and, for each kind, the best policy on dev at every speed-up ratio."""
    _, policy, scores = tried[0]
    yield {"kind": "full", "least": 0.0, "policy": policy, "dev": scores}
    for kind in KINDS:
        for least in RATIOS:
            allowed = [one for one in tried if one[0] == kind and one[2]["ratio"] >= least]
            if allowed:
                _, policy, scores = max(allowed, key=lambda one: (mean_f1(one[2]), one[2]["ratio"]))
                yield {"kind": kind, "least": least, "policy": policy, "dev": scores}


def counts(part):
    """Return the number of mentions in a part, and of those that tags cannot represent."""
    every = sum(len(spans) for found in part.all_spans for spans in found.values())
    return {"mentions": every} | dict(sum(map(Counter, part.n_left_out.values()), Counter()))


# ------------------------------------------------------------------------------------ the report
READING = """\
Exact match F1 on the test part, in percent. "As published" counts as the code of the data set's
authors does: by sentence and by the type of the event with the role, the texts of the spans,
without case, articles and punctuation; each part of a mention is a span of its own, and of a
trigger the first part counts. A predicted argument belongs to the event type of the nearest
predicted trigger. Best published figures (Sun et al. 2022): triggers 70.1, main arguments 68.6,
sub-arguments 76.2. "Offsets" is strict: start, end and label of every mention, of which those in
several parts, those that overlap others of their layer and those that end within a word cannot be
predicted and count as missed. Policies are chosen on the dev part, by the mean of the three F1 of
the first kind, and so is the weight of transitions (`transition_weight`, 0 to 0.4) for each exit
and policy: the figures behind it are those with this weight. The ratio, 1 - rows computed / (tokens
x layers), does not depend on it."""


def report(cache):
    """Write the results of all runs so far."""
    path = RESULTS / "events.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    runs += [json.loads(found.read_text()) for found in sorted(cache.glob(f"*/{RESULT}"))]
    # Results without transitions are left out until the run is continued.
    runs = [run for run in runs if "transitions" in run]
    distinct = {json.dumps(run["settings"], sort_keys=True): run for run in runs}
    runs = sorted(distinct.values(), key=lambda run: json.dumps(run["settings"], sort_keys=True))
    RESULTS.mkdir(exist_ok=True)
    write(path, json.dumps({"runs": runs}, indent=1))
    text = markdown(runs)
    write(RESULTS / "events.md", text)
    return text


def markdown(runs):
    machines = {re.sub(r", commit [\w-]+", "", describe(run["machine"])): None for run in runs}
    command = "Command: `python -m benchmarks.events FOLDER`."
    lines = ["# Events: triggers and arguments of PHEE", "", *machines, "", command, "", READING]
    for run in runs:
        lines += section(run)
    return "\n".join(lines)


def section(run):
    settings = run["settings"]
    left_out = run["left_out"]
    yield (
        f"\n## {settings['backbone']}, {settings['epochs']} epochs, seed {settings['seed']}\n\n"
        f"Learning rates {settings['learning_rate']:g} and {settings['head_learning_rate']:g} "
        f"(heads), weights of the exits {settings['exit_loss_weights']}; in training, mentions in "
        f"several parts: {settings['pieces'].replace('_', ' ')}. Training "
        f"{run['training_cpu_seconds']:.0f} CPU seconds (other processes shared the machine). Of "
        f"{left_out['mentions']:,} mentions of the test part {left_out.get('pieces', 0)} are in "
        f"several parts, {left_out.get('overlap', 0)} overlap others of their layer and "
        f"{left_out.get('words', 0)} end within a word.\n"
    )
    titles = " | ".join(TITLES.values())
    yield f"| exit | ratio | {titles} | weight | {titles} | offsets: {' / '.join(LAYERS)} |"
    yield "| --- | --- |" + " --- |" * (2 * len(TITLES) + 2)
    n_layers = len(run["layers"])
    for number, pair in enumerate(zip(run["layers"], run["transitions"], strict=True), start=1):
        yield row(f"layer {number}", 1 - number / n_layers, *pair)
    for point in run["front"]:
        if point["kind"] != "full":
            title = f"{point['kind']}, at least {point['least']:g} on dev"
            yield row(
                f"{title} ({shown(point['policy'])})",
                point["test"]["ratio"],
                point["test"],
                point["transitions"],
            )


def row(title, ratio, scores, transitions):
    plain, weighted = (
        " | ".join(f"{100 * found['paper'][name]['f1']:.1f}" for name in TITLES)
        for found in (scores, transitions["test"])
    )
    strict = transitions["test"]["offsets"]
    offsets = " / ".join(f"{100 * strict[name]['f1']:.1f}" for name in LAYERS)
    return (
        f"| {title} | {ratio:.2f} | {plain} | {transitions['weight']:g} | {weighted} | {offsets} |"
    )


def shown(policy):
    return f"tau={policy['tau']:g}, patience={policy['patience']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", help="folder of a checkpoint")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--head-learning-rate", type=float, default=1e-3)
    parser.add_argument("--exit-loss-weights", default="ascending")
    parser.add_argument("--pieces", default="pieces", choices=("leave_out", "pieces", "whole"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write the results again")
    default = Path(tempfile.gettempdir()) / "sklearn-epee-events"
    parser.add_argument("--cache", type=Path, default=default)
    options = vars(parser.parse_args())
    options["cache"].mkdir(parents=True, exist_ok=True)
    if not options.pop("report"):
        run = Run(**options)
        kept(run.folder / RESULT, lambda: measure(run))
    print(report(options["cache"]))


if __name__ == "__main__":
    main()
