"""Jobs "events" and their rivals: token classifiers with an exit after every layer, for spans.

Sentences exit as a whole. The exits and counts of every policy of a grid are stored as arrays, so
that policies can be chosen on dev and evaluated on test later (`measured`), over all seeds and in
comparison with the cut backbones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback

from benchmarks._phee_scores import paper_scores
from benchmarks.events import Staged
from sklearn_epee import EPEETokenClassifier
from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from studies.bootstrap import draws, interval, quotient, seed_means
from studies.exits import fitted
from studies.jobs import BACKBONES, Folder, Job, Kind, reads
from studies.policies import CHOICES, METHODS, cuts_beside, equal_cost
from studies.rivals.cut import MAX_LAYERS, compact_config, cut_checkpoint
from studies.rules import N_DRAWS
from studies.sets import SETS, Parts
from studies.span_rules import JOINT_EXITS, SpanNetwork, words_of

N_TAUS = 24
HEAD_RATES = (1e-3, 5e-3, 2e-2)
RATIOS = np.round(np.arange(0.0, 0.85, 0.05), 2)
PAPER = ("trigger", "main", "sub")
PAPER_F1 = tuple(f"{name}_f1" for name in PAPER)


def token_classifier(job: Job, backbone: Any, **parameters: Any) -> EPEETokenClassifier:
    """Return a token classifier for a job, with the package's defaults."""
    return EPEETokenClassifier(
        backbone,
        max_epochs=job.option("n_epochs", "auto"),
        memory=None,
        random_state=job.seed,
        **parameters,
    )


# ------------------------------------------------------------------------------------ scores


def span_counts(true: Sequence[Any], predicted: Sequence[Any]) -> NDArray[np.int64]:
    """Return the numbers of correct, predicted and true spans of each sentence, (n, 3).

    A span is correct if its layer, start, end and label are; one in several pieces counts as
    missed.
    """
    counts = []
    for ours, theirs in zip(predicted, true, strict=True):
        found, wanted = _distinct(ours), _distinct(theirs)
        counts.append((len(found & wanted), len(found), len(wanted)))
    return np.array(counts, np.int64).reshape(-1, 3)


def _distinct(spans: Mapping[str, Sequence[Any]]) -> set[Any]:
    return {(layer, *span) for layer, of_layer in spans.items() for span in of_layer}


def span_f1(counts: NDArray[np.integer], weights: NDArray[np.floating] | None = None) -> Any:
    """Return the strict micro F1 of spans from counts (..., n, 3), optionally weighted.

    With weights (draws, n) the result has an additional first axis for the draws.
    """
    above, below = 2 * counts[..., 0], counts[..., 1] + counts[..., 2]
    if weights is None:
        return quotient(above.sum(-1), below.sum(-1))
    return quotient(weights @ above, weights @ below)


def scores_of(bunch: Any, spans: Sequence[Any]) -> dict[str, float]:
    """Return the strict F1 of all spans and, for events, F1 as defined by the authors of PHEE."""
    strict = float(span_f1(span_counts(bunch.all_spans, spans)))
    paper = paper_scores(bunch, spans) if "events" in bunch else {}
    return {"span_f1": strict} | {f"{name}_f1": paper[name]["f1"] for name in paper}


# ------------------------------------------------------------------------------------- the jobs


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Train the network; store the results of every exit and every policy of the grid."""
    return run_with(job, parts, folder)


def run_with(job: Job, parts: Parts, folder: Folder, **parameters: Any) -> dict[str, Any]:
    """Run a job like `run`, with other parameters of the classifier than the defaults."""
    model, cost = fitted(token_classifier(job, folder.backbone, **parameters), parts.train)
    # Tokens are counted in a separate pass.
    staged = {name: Staged.of(model, parts.bunches[name]) for name in ("dev", "test")}
    words = {name: _joined(found) for name, found in staged.items()}
    policies = grid(words["dev"], staged["dev"].word_counts)
    arrays: dict[str, Any] = {}
    for name, found in staged.items():
        counts = [span_counts(parts.bunches[name].all_spans, spans) for spans in found.spans]
        arrays |= {
            f"{name}_counts": np.stack(counts, axis=1).astype(np.int16),
            f"{name}_exits": exits_of(policies, words[name], found.word_counts),
            f"{name}_tokens": found.tokens,
        } | _for_rules(model, name, parts, found)
    arrays["test_paper"] = _paper_of(policies, arrays["test_exits"], staged["test"].spans, parts)
    tau, patience, joint = zip(*policies, strict=True)
    folder.save_predictions(tau=tau, patience=patience, joint_exit=joint, **arrays)
    if job.seed == 0:
        folder.save_model(model)
    layers = {
        name: [scores_of(parts.bunches[name], spans) for spans in found.spans]
        for name, found in staged.items()
    }
    return {"layers": layers} | cost


def _for_rules(model: Any, name: str, parts: Parts, staged: Staged) -> dict[str, Any]:
    """Return the inputs of the exit rules for the words of a part."""
    bunch = parts.bunches[name]
    proba = dict(zip(staged.names, staged.proba, strict=True))
    count = partial(span_counts, bunch.all_spans)
    words = words_of(model, bunch.data, proba, staged.word_counts, count)
    return {f"{name}_{key}": values for key, values in words.items()}


def _joined(staged: Staged) -> dict[str, StagedPredictions]:
    return {
        joint: StagedPredictions.from_proba(staged.proba, joint_exit=joint) for joint in JOINT_EXITS
    }


def grid(
    words: Mapping[str, StagedPredictions], word_counts: NDArray[np.int64]
) -> list[tuple[float, int, str]]:
    """Return the policies that are compared: (tau, patience, joint_exit).

    Thresholds are 0 and quantiles on dev of the values that they are compared with: the largest,
    the mean or the smallest entropy of the words of a sentence.
    """
    found = []
    for joint, of_words in words.items():
        entropies = _of_sentences(of_words.entropies, word_counts, joint)
        found += _policies_of(joint, entropies, of_words.n_layers)
    return found


def _policies_of(
    joint: str, entropies: NDArray[np.floating], n_layers: int
) -> list[tuple[float, int, str]]:
    taus = np.unique([0.0, *np.quantile(entropies, np.linspace(0, 1, N_TAUS))])
    return [(float(tau), patience, joint) for patience in range(1, n_layers + 1) for tau in taus]


def _of_sentences(
    entropies: NDArray[np.floating], word_counts: NDArray[np.int64], joint: str
) -> NDArray[np.floating]:
    """Return the entropy of every sentence with words at every layer, (n, M)."""
    counts = word_counts[word_counts > 0]
    starts = np.cumsum(counts) - counts
    if joint == "all":
        return np.maximum.reduceat(entropies.max(axis=2), starts)
    if joint == "any":
        return np.minimum.reduceat(entropies.min(axis=2), starts)
    return np.add.reduceat(entropies.mean(axis=2), starts) / counts[:, np.newaxis]


def exits_of(
    policies: Sequence[tuple[float, int, str]],
    words: Mapping[str, StagedPredictions],
    word_counts: NDArray[np.int64],
) -> NDArray[np.int8]:
    """Return the exit layer of each sentence under each policy, (n_policies, n)."""
    rows = [
        sentence_exit_layers(words[joint], word_counts, tau, patience)
        for tau, patience, joint in policies
    ]
    return np.array(rows, np.int8)


def _paper_of(
    policies: Sequence[Any], exits: NDArray[np.int8], spans: Sequence[Any], parts: Parts
) -> NDArray[np.float64]:
    """Return F1 as defined by the authors of PHEE for each policy on test, (n_policies, 3).

    (n_policies, 0) for data sets without events.
    """
    if "events" not in parts.bunches["test"]:
        return np.empty((len(policies), 0))
    known: dict[bytes, list[float]] = {}
    for row in exits:
        if row.tobytes() not in known:
            taken = [spans[layer - 1][number] for number, layer in enumerate(row)]
            scores = paper_scores(parts.bunches["test"], taken)
            known[row.tobytes()] = [scores[name]["f1"] for name in PAPER]
    return np.array([known[row.tobytes()] for row in exits]).reshape(len(policies), len(PAPER))


def run_cut(job: Job, parts: Parts, folder: Folder, n_layers: int | None = None) -> dict[str, Any]:
    """Train the first layers, or all layers, with one head."""
    n_layers = n_layers or BACKBONES[job.backbone].n_layers
    weights = [0.0] * (n_layers - 1) + [1.0]
    with tempfile.TemporaryDirectory() as place:
        source: Any = place
        more: dict[str, Any] = {}
        if folder.backbone is None:
            source, more = compact_config(parts.train.X, "texts", n_layers)
        else:
            cut_checkpoint(folder.backbone, n_layers, place, "text")
        model = token_classifier(job, source, exit_loss_weights=weights, **more)
        model, cost = fitted(model, parts.train)
    return _kept(job, parts, folder, model) | cost


class FrozenBackbone(Callback):
    """Only train the heads, which are then logistic regressions on the hidden states of words."""

    def on_train_begin(self, net: Any, **_: Any) -> None:
        """Freeze the backbone, and turn off its dropout."""
        backbone = net.module_.backbone.requires_grad_(False)
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


def run_embeddings(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Train logistic regressions on the last hidden states; keep the best learning rate on dev."""
    weights = [0.0] * (BACKBONES[job.backbone].n_layers - 1) + [1.0]
    found: list[tuple[float, float, Any, dict[str, Any]]] = []
    for rate in HEAD_RATES:
        model = token_classifier(
            job,
            folder.backbone,
            exit_loss_weights=weights,
            head_learning_rate=rate,
            callbacks=[FrozenBackbone()],
        )
        model, cost = fitted(model, parts.train)
        spans = model.predict_at_layer(parts.dev.X, -1)
        score = float(span_f1(span_counts(parts.bunches["dev"].all_spans, spans)))
        found.append((score, rate, model, cost))
    _, rate, model, cost = max(found, key=lambda each: each[:2])
    cost["training_cpu_seconds"] = sum(each[3]["training_cpu_seconds"] for each in found)
    tried = [{"setting": {"head_learning_rate": at}, "dev": round(dev, 4)} for dev, at, *_ in found]
    chosen = {"setting": {"head_learning_rate": rate}, "tried": tried}
    return _kept(job, parts, folder, model) | cost | chosen


def _kept(job: Job, parts: Parts, folder: Folder, model: Any) -> dict[str, Any]:
    """Save the predictions of a rival's last exit and its model; return its scores."""
    spans = {name: model.predict_at_layer(parts.bunches[name].data, -1) for name in ("dev", "test")}
    counts = {
        f"{name}_counts": span_counts(parts.bunches[name].all_spans, found)
        for name, found in spans.items()
    }
    folder.save_predictions(**counts)
    if job.seed == 0:
        folder.save_model(model)
    return {"scores": {n: scores_of(parts.bunches[n], found) for n, found in spans.items()}}


def embeds(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: for spans, with a checkpoint."""
    return applies(data, backbone) and backbone != "scratch"


def applies(data: str, backbone: str, n_layers: int | None = None) -> bool:
    """Return whether there are such jobs: for spans, and fewer than all layers if `n_layers`."""
    fewer = n_layers is None or n_layers < BACKBONES[backbone].n_layers
    return SETS[data].kind == "spans" and reads(data, backbone) and fewer


KINDS = (
    {"events": Kind(run, applies, aliases=("exits",)), "embeddings": Kind(run_embeddings, embeds)}
    | {
        f"cut-{k}": Kind(partial(run_cut, n_layers=k), partial(applies, n_layers=k))
        for k in range(1, MAX_LAYERS)
    }
    | {"full": Kind(run_cut, applies)}
)


# ------------------------------------------------------------------------ policies, afterwards


@dataclass(frozen=True)
class Network:
    """The stored arrays of a job "events".

    Parameters
    ----------
    tau, patience, joint_exit : ndarray of shape (n_policies,)
    dev_exits, test_exits : ndarray of shape (n_policies, n), int8
    dev_counts, test_counts : ndarray of shape (n, M, 3), int16
    dev_tokens, test_tokens : ndarray of shape (n,)
    test_paper : ndarray of shape (n_policies, 3), or (n_policies, 0)
        F1 as defined by the authors of PHEE, for events only; NaN where it is not known.
    """

    tau: NDArray[np.float64]
    patience: NDArray[np.int64]
    joint_exit: NDArray[np.str_]
    dev_exits: NDArray[np.int8]
    test_exits: NDArray[np.int8]
    dev_counts: NDArray[np.int16]
    test_counts: NDArray[np.int16]
    dev_tokens: NDArray[np.int64]
    test_tokens: NDArray[np.int64]
    test_paper: NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path) -> Network:
        """Read the arrays of a job; those of earlier versions get the policies with "any"."""
        with np.load(folder / "predictions.npz") as saved:
            network = cls(**{name: saved[name] for name in cls.__dataclass_fields__})
        words = None if "any" in network.joint_exit else SpanNetwork.read(folder)
        return network if words is None else network.with_any(words)

    def with_any(self, words: SpanNetwork) -> Network:
        """Return the network with policies by which sentences exit by their first sure word."""
        staged = {"dev": words.dev.by_words("any"), "test": words.test.by_words("any")}
        entropies = staged["dev"].joint_entropies[words.dev.word_counts > 0]
        policies = _policies_of("any", entropies, self.n_layers)
        exits = {
            name: np.array([found.exit_layers(tau, count) for tau, count, _ in policies], np.int8)
            for name, found in staged.items()
        }
        tau, patience, joint = zip(*policies, strict=True)
        unknown = np.full((len(policies), self.test_paper.shape[1]), np.nan)
        return replace(
            self,
            tau=np.concatenate([self.tau, tau]),
            patience=np.concatenate([self.patience, patience]),
            joint_exit=np.concatenate([self.joint_exit, joint]),
            dev_exits=np.concatenate([self.dev_exits, exits["dev"]]),
            test_exits=np.concatenate([self.test_exits, exits["test"]]),
            test_paper=np.concatenate([self.test_paper, unknown]),
        )

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.test_counts.shape[1]

    @property
    def paper(self) -> tuple[str, ...]:
        """The names of the columns of `test_paper`."""
        return PAPER[: self.test_paper.shape[1]]

    def ratios(self, part: str) -> NDArray[np.float64]:
        """Return the speed-up ratio of each policy: the fraction of tokens times layers saved."""
        exits, tokens = getattr(self, f"{part}_exits"), getattr(self, f"{part}_tokens")
        return 1 - (exits @ tokens.astype(np.float64)) / (self.n_layers * tokens.sum())

    def counts(self, part: str, policy: int) -> NDArray[np.int64]:
        """Return the counts of each sentence at its exit under a policy, (n, 3)."""
        exits, counts = getattr(self, f"{part}_exits")[policy], getattr(self, f"{part}_counts")
        return counts[np.arange(len(counts)), exits - 1].astype(np.int64)

    def scores(self, part: str) -> NDArray[np.float64]:
        """Return the strict F1 of each policy."""
        return np.array([float(span_f1(self.counts(part, p))) for p in range(len(self.tau))])

    def of_method(self, method: str) -> NDArray[np.int64]:
        """Return the indices of the policies that belong to a method of the paper."""
        of = {
            "entropy": self.patience == self.n_layers,
            "patience": self.tau == 0,
            "epee": np.ones(len(self.tau), bool),
        }
        return np.flatnonzero(of[method])


def measured(folders: Sequence[Path], n_draws: int = N_DRAWS, seed: int = 0) -> dict[str, Any]:
    """Choose policies on dev and evaluate them on test, for the networks of all seeds.

    Parameters
    ----------
    folders : sequence of Path
        Folders of jobs "events" that only differ in the seed. Policies are compared with the jobs
        "cut-K" and "full" in the same parent folders.
    n_draws, seed : int
        Resamples of sentences.

    Returns
    -------
    dict
        "full_depth" and "methods" as in `studies.policies.policies`; "fronts", by method the test
        scores and test ratios of the policies with the best dev score at a ratio of at least each
        of `RATIOS`.
    """
    networks = [Network.read(folder) for folder in folders]
    cuts = [
        cuts_beside(folder, n.n_layers, "test_counts")
        for folder, n in zip(folders, networks, strict=True)
    ]
    dev = [(n.ratios("dev"), n.scores("dev")) for n in networks]
    full = [float(span_f1(n.test_counts[:, -1])) for n in networks]
    resamples = n_draws, seed
    methods: dict[str, Any] = {}
    fronts: dict[str, Any] = {}
    for method in METHODS:
        chosen = {choice: _chosen(networks, dev, method, choice) for choice in CHOICES}
        methods[method] = {
            choice: None if found is None else _reported(networks, found, dev, cuts, resamples)
            for choice, found in chosen.items()
        }
        fronts[method] = _front(networks, dev, method)
    return {"full_depth": {"span_f1": float(np.mean(full))}, "methods": methods, "fronts": fronts}


Dev = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]


def _chosen(networks: Sequence[Network], dev: Dev, method: str, choice: str) -> list[int] | None:
    """Return the index of the chosen policy of each network; None if one has none."""
    found = []
    for network, (ratios, scores) in zip(networks, dev, strict=True):
        own = network.of_method(method)
        full = float(span_f1(network.dev_counts[:, -1]))
        policy = CHOICES[choice](ratios[own], scores[own], full)
        if policy is None:
            return None
        found.append(int(own[policy]))
    return found


def chosen_policies(network: Network) -> dict[str, dict[str, Any]]:
    """Return the policies that were chosen on dev for a network, by method and choice."""
    dev = [(network.ratios("dev"), network.scores("dev"))]
    found = {}
    for method in METHODS:
        for choice in CHOICES:
            policies = _chosen([network], dev, method, choice)
            if policies is not None:
                (policy,) = policies
                found[f"{method}/{choice}"] = {
                    "tau": float(network.tau[policy]),
                    "patience": int(network.patience[policy]),
                    "joint_exit": str(network.joint_exit[policy]),
                    "ratio": float(network.ratios("test")[policy]),
                }
    return found


def _reported(
    networks: Sequence[Network],
    policies: list[int],
    dev: Dev,
    cuts: Sequence[Mapping[int, NDArray[Any]]],
    resamples: tuple[int, int],
) -> dict[str, Any]:
    runs = [_run(*each) for each in zip(networks, policies, dev, cuts, strict=True)]
    ours = [n.counts("test", p) for n, p in zip(networks, policies, strict=True)]
    full = [n.test_counts[:, -1] for n in networks]
    layers = [run["cut_layers"] for run in runs]
    beside = [of[n] for of, n in zip(cuts, layers, strict=True) if n is not None]
    names = ["span_f1", *(name for name in PAPER_F1 if all(name in run for run in runs))]
    return {
        "ratio": float(np.mean([run["ratio"] for run in runs])),
        "scores": {name: float(np.mean([run[name] for run in runs])) for name in names},
        "to_full_depth": difference(ours, full, *resamples),
        "to_cut": difference(ours, beside, *resamples) if len(beside) == len(runs) else None,
        "runs": runs,
    }


def _run(
    network: Network, policy: int, dev: tuple[Any, Any], cuts: Mapping[int, Any]
) -> dict[str, Any]:
    """Return the results of a policy of a network."""
    ratio = float(network.ratios("test")[policy])
    cost = network.n_layers * (1 - ratio)
    paper = zip(network.paper, network.test_paper[policy], strict=True)
    return {
        "tau": float(network.tau[policy]),
        "patience": int(network.patience[policy]),
        "joint_exit": str(network.joint_exit[policy]),
        "dev_ratio": float(dev[0][policy]),
        "dev_score": float(dev[1][policy]),
        "ratio": ratio,
        "span_f1": float(span_f1(network.counts("test", policy))),
        **{f"{name}_f1": float(score) for name, score in paper if np.isfinite(score)},
        "cut_layers": equal_cost(cuts, cost),
    }


def difference(
    ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]], n_draws: int, seed: int
) -> dict[str, Any]:
    """Return the difference in F1 between two sets of counts, with an interval."""
    values = []
    for one, other in zip(ours, theirs, strict=True):
        weights = draws(len(one), n_draws, seed)
        values.append(span_f1(one, weights) - span_f1(other, weights))
    return interval(seed_means(values, seed))


def _front(networks: Sequence[Network], dev: Dev, method: str) -> dict[str, list[float]]:
    """Return ratios and scores on test of the policies with the best dev score at each ratio."""
    found: dict[str, list[float]] = {"ratio": [], "score": []}
    for least in RATIOS:
        points = []
        for network, (ratios, scores) in zip(networks, dev, strict=True):
            own = network.of_method(method)
            allowed = own[ratios[own] >= least - 1e-9]
            if len(allowed):
                best = int(allowed[np.lexsort((ratios[allowed], scores[allowed]))[-1]])
                score = float(span_f1(network.counts("test", best)))
                points.append((float(network.ratios("test")[best]), score))
        if len(points) == len(networks):
            ratio, score = np.mean(points, axis=0)
            found["ratio"].append(float(ratio))
            found["score"].append(float(score))
    return found
