"""Jobs "clock": seconds per sample of all rivals, of every exit and of chosen policies.

Everything runs in one process, in turns in every round, so that other load on the machine affects
all of them; the result is the median over the rounds. All networks, including those of rivals, run
on the package's engine in its default precision. The time of a network with K layers does not
depend on its weights, so that of the first K layers with one head is used for cut and for distilled
networks.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from benchmarks._measure import Seconds, interleaved, medians
from benchmarks._models import encode
from benchmarks._rivals import FullDepth
from sklearn_epee import EPEETokenClassifier
from studies import events, exits
from studies.exit_rules import RULES
from studies.jobs import NO_BACKBONE, Folder, Job, Kind
from studies.policies import CHOICES, METHODS, chosen
from studies.rivals import cnn, distilled, embeddings, forest, tfidf
from studies.rules import apply, network_of
from studies.sets import Parts

# A round has as many samples as the full network predicts in this number of seconds, within bounds.
SECONDS = 2.0
N_BATCHED = (32, 200)
N_SINGLE = (16, 50)
N_ROUNDS = 5
# Rivals with a stored model: those without a backbone, and those with the job's own.
KEPT = {"none": (*tfidf.KINDS, *forest.KINDS, *cnn.KINDS), "own": tuple(embeddings.KINDS)}
# Poolings of classifiers with which the forward pass of transformers is measured.
PLAIN_POOLINGS = ("mean", "cls", "last")

# The kind of the jobs that train a network with exits, by what a data set has.
NETWORKS = {"texts": "exits", "images": "exits", "spans": "events"}

PARAMETERS = ("tau", "patience", "joint_exit")

Predict = Callable[[Any], Any]


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Measure all available models, on a batch and on single samples."""
    network = folder.of(job.of_kind(NETWORKS[parts.kind]))
    model = joblib.load(network / "model.joblib")
    policies = (
        events.chosen_policies(events.Network.read(network))
        if parts.kind == "spans"
        else chosen_policies(job.data, network, own_scale(model, len(parts.classes)))
    )
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
        Functions that predict samples.
    calls : sequence of samples
        Arguments of the calls in a round.
    n_samples : int
        Total number of samples of all calls.
    """
    runs = {name: partial(_each, predict, calls) for name, predict in competitors.items()}
    found: Seconds = interleaved(runs, N_ROUNDS)
    return {name: value / n_samples for name, value in medians(found).items()}


def _each(predict: Predict, calls: Sequence[Any]) -> None:
    for samples in calls:
        predict(samples)


def drawn(X: Any, n: int) -> Any:
    """Return a random subset of the samples, in random order."""
    rows = np.random.default_rng(0).permutation(len(X))[:n]
    return X[rows] if isinstance(X, np.ndarray) else [X[row] for row in rows]


def numbers(model: Any, samples: Any) -> tuple[int, int]:
    """Return the numbers of samples that are measured in a batch, and one by one."""
    few = samples[: N_SINGLE[0]]
    model.predict_at_layer(few, -1)
    start = time.perf_counter()
    model.predict_at_layer(few, -1)
    fitting = int(SECONDS * len(few) / (time.perf_counter() - start))
    n_batched, n_single = (
        min(max(fitting, least), most, len(samples)) for least, most in (N_BATCHED, N_SINGLE)
    )
    return n_batched, n_single


# ------------------------------------------------------------------------------- competitors


def of_rivals(job: Job, folder: Folder) -> dict[str, Predict]:
    """Return the applicable rivals whose models were stored."""
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
    """Return every exit, networks cut to every depth, and the full network in transformers."""
    found: dict[str, Predict] = {}
    for layer in range(1, model.n_layers_ + 1):
        found[f"budget-{layer}"] = partial(model.predict_at_layer, layer=layer)
        name = "full" if layer == model.n_layers_ else f"cut-{layer}"
        found[name] = last_exit(model.first_layers(layer))
    if getattr(model, "pooling_", None) in PLAIN_POOLINGS:
        _, dtype = model._setting()
        device = str(next(model.net_.module_.parameters()).device)
        found["transformers"] = partial(by_transformers, model, FullDepth(model, dtype, device))
    return found


def of_policies(model: Any, policies: dict[str, dict[str, Any]]) -> dict[str, Predict]:
    """Return the network with exits under each policy."""
    return {name: with_policy(model, policy).predict for name, policy in policies.items()}


def with_policy(model: Any, policy: dict[str, Any]) -> Any:
    """Return the same fitted network with another policy."""
    parameters = {name: policy[name] for name in PARAMETERS if name in policy}
    return copy.copy(model).set_params(**parameters)


def mean_exit(model: Any, policy: dict[str, Any], samples: Any) -> float:
    """Return the mean exit layer of samples under a policy; of sentences that of their tokens."""
    model = with_policy(model, policy)
    if not isinstance(model, EPEETokenClassifier):
        return float(model.predict_exit_layer(samples).mean())
    found = model.predict_with_exits(samples)
    return float(model.n_layers_ * found.rows_computed.sum() / found.rows_total.sum())


def last_exit(model: Any) -> Predict:
    """Return a function that predicts with the last exit of a network."""
    return partial(model.predict_at_layer, layer=-1)


def by_transformers(model: Any, plain: FullDepth, samples: Any) -> np.ndarray:
    """Predict with the forward pass of transformers, in batches of similar length."""
    return plain.proba(encode(model, samples), "auto")


def own_scale(model: Any, n_classes: int) -> float:
    """Return the factor from entropies normalized by all classes of the set to those of a network.

    A network normalizes by the number of classes in its training samples, which can be smaller.
    """
    return float(np.log(n_classes) / np.log(len(model.classes_)))


def chosen_policies(data: str, folder: Path, scale: float = 1.0) -> dict[str, dict[str, Any]]:
    """Return the policies that were chosen on dev for a classifier, by method and choice.

    Thresholds are for the network's own entropies: `scale` times the saved ones.

    Parameters
    ----------
    data : str
    folder : Path
        Of the job "exits".
    scale : float, default=1.0
    """
    network = network_of(data, folder)
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
    """Return the seconds of each competitor; for distilled networks those of their depth."""
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
    """Return whether there are such jobs: if there are networks with exits."""
    return exits.applies(data, backbone) or events.applies(data, backbone)


KINDS = {"clock": Kind(run, applies, needs=("exits",), one_seed=True, last=True)}
