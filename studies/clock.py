"""Jobs "clock": seconds per sample of all rivals, of every exit and of chosen policies, in turns.

Everything runs in one process, one after another in every round, so that a busy moment of the
machine hits all alike; what counts is the median over the rounds. Networks run on the package's
engine in its default precision, also those of rivals: a network cut to K layers takes the time of
the first K layers with one head, whatever it learned, and so do its taught likes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import joblib
import numpy as np

from benchmarks._measure import Seconds, interleaved, medians
from benchmarks._models import encode
from benchmarks._rivals import FullDepth
from studies import exits
from studies.exit_rules import RULES
from studies.jobs import NO_BACKBONE, Folder, Job, Kind
from studies.policies import CHOICES, METHODS, chosen
from studies.rivals import cnn, distilled, embeddings, forest, tfidf
from studies.rivals.assembled import first_layers
from studies.rules import apply, network_of
from studies.sets import Parts

# Samples of a round: as many as the full depth predicts in so many seconds, within bounds.
SECONDS = 2.0
N_BATCHED = (32, 200)
N_SINGLE = (16, 50)
N_ROUNDS = 5
# Rivals with a model of their own, and where they are.
KEPT = {"none": (*tfidf.KINDS, *forest.KINDS, *cnn.KINDS), "own": tuple(embeddings.KINDS)}
# What the plain forward pass of transformers is measured with.
PLAIN_POOLINGS = ("mean", "cls", "last")

Predict = Callable[[Any], Any]


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Measure everything that is there, a batch and single samples."""
    model = joblib.load(folder.of(job.of_kind("exits")) / "model.joblib")
    policies = chosen_policies(job, folder, own_scale(model, len(parts.classes)))
    competitors = {
        **of_rivals(job, folder),
        **of_depths(model),
        **of_policies(model, policies),
    }
    samples = drawn(parts.test.X, N_BATCHED[1])
    n_batched, n_single = numbers(model, samples)
    batch, singles = samples[:n_batched], [samples[i : i + 1] for i in range(n_single)]
    seconds = {
        "batched": per_sample(competitors, [batch], n_batched),
        "single": per_sample(competitors, singles, n_single),
    }
    return {
        "n_batched": n_batched,
        "n_single": n_single,
        "n_rounds": N_ROUNDS,
        "policies": {
            name: policy | {"mean_exit": mean_exit(model, policy, batch)}
            for name, policy in policies.items()
        },
        "seconds": _by_kind(job, seconds),
    }


def per_sample(
    competitors: dict[str, Predict], calls: Sequence[Any], n_samples: int
) -> dict[str, float]:
    """Return the median seconds per sample of each competitor.

    Parameters
    ----------
    competitors : dict of str to callable
        Each predicts samples.
    calls : sequence of samples
        What each is given in a round, call by call.
    n_samples : int
        In all calls together.
    """
    runs = {name: partial(_each, predict, calls) for name, predict in competitors.items()}
    found: Seconds = interleaved(runs, N_ROUNDS)
    return {name: value / n_samples for name, value in medians(found).items()}


def _each(predict: Predict, calls: Sequence[Any]) -> None:
    for samples in calls:
        predict(samples)


def drawn(X: Any, n: int) -> Any:
    """Return some samples, drawn at random, in random order."""
    rows = np.random.default_rng(0).permutation(len(X))[:n]
    return X[rows] if isinstance(X, np.ndarray) else [X[row] for row in rows]


def numbers(model: Any, samples: Any) -> tuple[int, int]:
    """Return how many samples are measured in a batch, and one by one."""
    few = samples[: N_SINGLE[0]]
    model.predict_proba_at_layer(few, -1)
    start = time.perf_counter()
    model.predict_proba_at_layer(few, -1)
    fitting = int(SECONDS * len(few) / (time.perf_counter() - start))
    n_batched, n_single = (
        min(max(fitting, least), most, len(samples)) for least, most in (N_BATCHED, N_SINGLE)
    )
    return n_batched, n_single


# ------------------------------------------------------------------------------- competitors


def of_rivals(job: Job, folder: Folder) -> dict[str, Predict]:
    """Return the rivals whose models were kept, of those that apply."""
    there = {
        **{kind: folder.of(without_backbone(job, kind)) for kind in KEPT["none"]},
        **{kind: folder.of(job.of_kind(kind)) for kind in KEPT["own"]},
    }
    models = {
        kind: joblib.load(path / "model.joblib")
        for kind, path in there.items()
        if (path / "model.joblib").exists()
    }
    return {
        kind: last_exit(model) if kind in KEPT["own"] else model.predict
        for kind, model in models.items()
    }


def without_backbone(job: Job, kind: str) -> Job:
    """Return the job of a kind without a backbone on the same samples."""
    options = tuple((name, value) for name, value in job.options if name != "image_size")
    return Job(job.data, NO_BACKBONE, job.seed, kind, options)


def of_depths(model: Any) -> dict[str, Predict]:
    """Return every exit, and networks of so many layers; the whole one by transformers as well."""
    found: dict[str, Predict] = {}
    for layer in range(1, model.n_layers_ + 1):
        found[f"budget-{layer}"] = partial(model.predict_proba_at_layer, layer=layer)
        name = "full" if layer == model.n_layers_ else f"cut-{layer}"
        found[name] = last_exit(first_layers(model, layer))
    if model.pooling_ in PLAIN_POOLINGS:
        _, dtype = model._setting()
        device = str(next(model.net_.module_.parameters()).device)
        found["transformers"] = partial(by_transformers, model, FullDepth(model, dtype, device))
    return found


def of_policies(model: Any, policies: dict[str, dict[str, Any]]) -> dict[str, Predict]:
    """Return the network with exits by some policies."""
    return {name: with_policy(model, policy).predict for name, policy in policies.items()}


def with_policy(model: Any, policy: dict[str, Any]) -> Any:
    """Return the same fitted network with another policy."""
    return copy.copy(model).set_params(tau=policy["tau"], patience=policy["patience"])


def mean_exit(model: Any, policy: dict[str, Any], samples: Any) -> float:
    """Return the mean exit layer of samples by a policy."""
    return float(with_policy(model, policy).predict_exit_layer(samples).mean())


def last_exit(model: Any) -> Predict:
    """Return what predicts with the last exit of a network."""
    return partial(model.predict_proba_at_layer, layer=-1)


def by_transformers(model: Any, plain: FullDepth, samples: Any) -> np.ndarray:
    """Predict as transformers runs a model, in batches of similar length."""
    return plain.proba(encode(model, samples), "auto")


def own_scale(model: Any, n_classes: int) -> float:
    """Return the entropy that a network tells of a sample over that of all classes of the set.

    It is normalized by the classes that the network saw in training, which can be fewer.
    """
    return float(np.log(n_classes) / np.log(len(model.classes_)))


def chosen_policies(job: Job, folder: Folder, scale: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return the policies that were chosen on dev for this network, by method and choice.

    Thresholds are those of the network's own entropies, `scale` times the saved ones.
    """
    network = network_of(job.data, folder.of(job.of_kind("exits")))
    found = {}
    for method in METHODS:
        applied = apply(RULES[method], network)
        for choice in CHOICES:
            policy = chosen(network, applied, choice)
            if policy is not None:
                found[f"{method}/{choice}"] = {
                    "tau": scale * policy.tau,
                    "patience": policy.patience,
                    "ratio": policy.ratio,
                }
    return found


def _by_kind(job: Job, seconds: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the seconds of each competitor, and of taught networks those of their depth."""
    found = {
        name: {way: by_name[name] for way, by_name in seconds.items()}
        for name in seconds["batched"]
    }
    taught = [
        (kind, f"cut-{kind.rpartition('-')[2]}")
        for kind, how in distilled.KINDS.items()
        if how.applies(job.data, job.backbone)
    ]
    return found | {kind: found[cut] for kind, cut in taught if cut in found}


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: where there are networks with exits."""
    return exits.applies(data, backbone)


KINDS = {"clock": Kind(run, applies, needs=("exits",), one_seed=True, last=True)}
