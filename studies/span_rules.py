"""Exit rules of the literature for spans; sentences exit as a whole.

The doubt of a sentence is the largest ("all") or the mean ("mean") of the doubts of its words; both
are variants of a rule. The score, the micro F1 of spans, is a ratio of sums over sentences. The
rules are those of `studies.exit_rules`, with the same names; the oracle exits at the layer with the
fewest wrong and missing spans of a sentence.

Jobs "events" store the inputs of the rules (`words_of`), so that networks need not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._base.sentences import as_sentences
from sklearn_epee._base.word_predictions import PredictedSentences
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._word_exits import StagedSentences, unread_words
from studies.bootstrap import quotient
from studies.exit_rules import (
    RULES,
    VOTE_EXPONENTS,
    Rule,
    beem_doubts,
    first_layers,
    from_layer,
    gate_doubts,
    largest_of_last,
    least_confidence,
    small_margin,
    votes,
)
from studies.rule_sums import Sums

Floats = NDArray[np.float64]

JOINT_EXITS = ("all", "mean", "any")
PARTS = ("dev", "test")


class SpanScore(NamedTuple):
    """The score of these rules, by its name in results."""

    name: str = "span_f1"


@dataclass(frozen=True)
class SpanPart:
    """Inputs of the rules for the sentences of a part.

    Attributes
    ----------
    counts : ndarray of shape (n, M, 3), int
        Numbers of correct, predicted and true spans of every sentence at every exit.
    voted_counts : ndarray of shape (n, M, 3), int
        The same, if words get the tags that most of the visited exits predict.
    tokens, word_counts : ndarray of shape (n,), int
        Numbers of tokens, and of words that are read, of each sentence.
    entropies, doubts, margins : ndarray of shape (W, M, T), float32
        For words at every exit, by layer of spans: the entropy, 1 minus the largest probability,
        and 1 minus the difference of the two largest.
    counters, votes : ndarray of shape (W, M, T), int8
        Number of consecutive layers that agree, and of visited exits that predict the most
        frequent tag.
    """

    counts: NDArray[Any]
    voted_counts: NDArray[Any]
    tokens: NDArray[Any]
    word_counts: NDArray[Any]
    entropies: NDArray[Any]
    doubts: NDArray[Any]
    margins: NDArray[Any]
    counters: NDArray[Any]
    votes: NDArray[Any]

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return int(self.counts.shape[1])

    @property
    def errors(self) -> NDArray[np.int64]:
        """Wrong and missing spans of every sentence at every exit, (n, M)."""
        right, predicted, true = np.moveaxis(self.counts.astype(np.int64), 2, 0)
        return predicted + true - 2 * right

    def f1(self) -> Floats:
        """Return the micro F1 of every exit, (M,)."""
        right, predicted, true = self.counts.sum(axis=0, dtype=np.int64).T
        return quotient(2 * right, predicted + true)

    def by_doubts(self, doubts: NDArray[Any], joint_exit: str) -> StagedSentences:
        """Return sentences that exit by the doubts of their words (W, M, T), without patience."""
        none = np.zeros(doubts.shape, np.int64)
        return self._sentences(doubts, none, joint_exit)

    def by_words(self, joint_exit: str) -> StagedSentences:
        """Return sentences that exit by the entropies and counters of their words."""
        return self._sentences(self.entropies, self.counters.astype(np.int64), joint_exit)

    def by_sentence(self, doubts: NDArray[Any]) -> StagedSentences:
        """Return sentences that exit by their doubts (n, M)."""
        there = self.word_counts > 0
        staged = self.by_doubts(doubts[there][..., np.newaxis], "mean")
        return replace(staged, word_counts=there.astype(np.int64))

    def _sentences(
        self, entropies: NDArray[Any], counters: NDArray[np.int64], joint_exit: str
    ) -> StagedSentences:
        return StagedSentences(
            entropies.astype(np.float64),
            counters,
            self.word_counts.astype(np.int64),
            self.tokens.astype(np.int64),
            joint_exit,
        )


@dataclass(frozen=True)
class SpanNetwork:
    """The inputs of the rules for the dev and test sentences of a trained network.

    Attributes
    ----------
    dev, test : SpanPart
    """

    dev: SpanPart
    test: SpanPart

    score = SpanScore()

    @classmethod
    def read(cls, folder: Path) -> SpanNetwork | None:
        """Read the arrays of a job "events"; None if they have no inputs of the rules."""
        names = [field.name for field in fields(SpanPart)]
        with np.load(folder / "predictions.npz") as saved:
            if "dev_voted_counts" not in saved:
                return None
            dev, test = (
                SpanPart(**{name: saved[f"{part}_{name}"] for name in names}) for part in PARTS
            )
        return cls(dev, test)

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.dev.n_layers

    @property
    def n_dev(self) -> int:
        """Number of dev sentences."""
        return len(self.dev.counts)

    @property
    def n_test(self) -> int:
        """Number of test sentences."""
        return len(self.test.counts)

    def full_depth(self) -> float:
        """Return the score of the last exit on test."""
        return float(self.test.f1()[-1])


@dataclass(frozen=True)
class SpanVariant:
    """A rule with all parameters except the threshold; see `studies.exit_rules.Variant`.

    Attributes
    ----------
    parameters : dict
    dev, test : StagedSentences
    patience : int
    thresholds : ndarray or None
    votes : bool
        Whether words get the tags that most exits predict.
    """

    parameters: dict[str, Any]
    dev: StagedSentences
    test: StagedSentences
    patience: int
    thresholds: Floats | None = None
    votes: bool = False


Variants = Iterator[SpanVariant]


# ------------------------------------------------------------------------------ stored arrays


def words_of(
    model: Any,
    X: Any,
    proba: Mapping[str, NDArray[np.floating]],
    word_counts: NDArray[np.int64],
    count: Callable[[list[Any]], NDArray[np.int64]],
) -> dict[str, NDArray[Any]]:
    """Return the inputs of the rules for the words of a part, without counts and tokens.

    Parameters
    ----------
    model : EPEETokenClassifier
    X : samples
    proba : mapping of str to ndarray of shape (W, M, K)
        Probabilities of all words by layer of spans.
    word_counts : ndarray of shape (n,)
        Number of words of each sentence.
    count : callable
        Takes the spans of all sentences; returns the numbers of correct, predicted and true ones,
        (n, 3).

    Returns
    -------
    dict of str to ndarray
        Fields of `SpanPart`.
    """
    read = ~unread_words(list(proba.values()))
    owners = np.repeat(np.arange(len(word_counts)), word_counts)
    words = StagedPredictions.from_proba([task[read] for task in proba.values()])
    each = [
        StagedPredictions.from_proba([task]) for task in words.head_proba
    ]  # the rules on classes are for one task
    shares = {name: votes(StagedPredictions.from_proba([task])) for name, task in proba.items()}
    won = [np.floor(share.max(axis=2))[read] for share in shares.values()]
    return {
        "word_counts": np.bincount(owners[read], minlength=len(word_counts)),
        "entropies": words.entropies.astype(np.float32),
        "doubts": np.stack([least_confidence(one) for one in each], axis=2).astype(np.float32),
        "margins": np.stack([small_margin(one) for one in each], axis=2).astype(np.float32),
        "counters": words.counters.astype(np.int8),
        "votes": np.stack(won, axis=2).astype(np.int8),
        "voted_counts": _voted(model, X, shares, count).astype(np.int16),
    }


def _voted(
    model: Any,
    X: Any,
    shares: Mapping[str, Floats],
    count: Callable[[list[Any]], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Return the counts of the spans of the most frequent tags at every layer, (n, M, 3)."""
    tasks = model._fitted().tasks
    predicted = PredictedSentences(as_sentences(X), tasks)
    packed = np.concatenate([shares[name] for name in tasks.by_name], axis=2).astype(np.float32)
    layers = np.moveaxis(packed, 1, 0)
    return np.stack([count(predicted.spans(layer)) for layer in layers], axis=1)


# ------------------------------------------------------------------------------------ the rules


def _pairs(
    network: SpanNetwork,
    parameters: dict[str, Any],
    doubts: Callable[[SpanPart], NDArray[Any]],
    **more: Any,
) -> Variants:
    """Yield the variants of a rule with doubts of words, one per joint exit of sentences."""
    parts = [(part, doubts(part)) for part in (network.dev, network.test)]
    for joint in JOINT_EXITS:
        dev, test = (part.by_doubts(found, joint) for part, found in parts)
        found = parameters | {"joint_exit": joint}
        yield SpanVariant(found, dev, test, network.n_layers, **more)


def _sentences(
    network: SpanNetwork, parameters: dict[str, Any], dev: Floats, test: Floats
) -> SpanVariant:
    """Return a variant of a rule with doubts of sentences."""
    pair = network.dev.by_sentence(dev), network.test.by_sentence(test)
    return SpanVariant(parameters, *pair, network.n_layers)


def _max_probability(network: SpanNetwork) -> Variants:
    yield from _pairs(network, {}, lambda part: part.doubts)


def _margin(network: SpanNetwork) -> Variants:
    yield from _pairs(network, {}, lambda part: part.margins)


def _entropy(network: SpanNetwork) -> Variants:
    yield from _pairs(network, {}, lambda part: part.entropies)


def _patience(network: SpanNetwork) -> Variants:
    for variant in _epee(network):
        if variant.parameters["joint_exit"] != "mean":  # its counters are those of "all"
            yield replace(variant, thresholds=np.zeros(1))


def _epee(network: SpanNetwork) -> Variants:
    for joint in JOINT_EXITS:
        pair = network.dev.by_words(joint), network.test.by_words(joint)
        for patience in range(1, network.n_layers + 1):
            yield SpanVariant({"patience": patience, "joint_exit": joint}, *pair, patience)


def _epee_from(network: SpanNetwork) -> Variants:
    """Yield EPEE with every value of `min_exit_layer`."""
    for variant in _epee(network):
        for first in range(1, max(2, network.n_layers)):
            yield replace(
                variant,
                parameters={"min_exit_layer": first, **variant.parameters},
                dev=replace(variant.dev, min_exit_layer=first),
                test=replace(variant.test, min_exit_layer=first),
            )


def _epee_first(network: SpanNetwork) -> Variants:
    """Yield EPEE on the first layers alone, for every number of them."""
    for variant in _epee(network):
        for last in range(variant.patience, network.n_layers + 1):
            yield replace(
                variant,
                parameters={"n_layers": last, **variant.parameters},
                dev=replace(variant.dev, last_layer=last),
                test=replace(variant.test, last_layer=last),
            )


def _pcee(network: SpanNetwork) -> Variants:
    for joint in JOINT_EXITS:
        dev, test = (part.by_words(joint).joint_entropies for part in (network.dev, network.test))
        for count in range(1, network.n_layers + 1):
            pair = largest_of_last(dev, count), largest_of_last(test, count)
            yield _sentences(network, {"patience": count, "joint_exit": joint}, *pair)


def _beem(network: SpanNetwork) -> Variants:
    weightings = {
        "cost": np.arange(1.0, network.n_layers + 1),
        "accuracy": network.dev.f1() + 1 / (1 + network.n_dev),
    }
    for name, weights in weightings.items():
        share = weights / weights.sum()

        def doubts(part: SpanPart, share: Floats = share) -> Floats:
            each = zip(
                np.moveaxis(part.doubts, 2, 0), np.moveaxis(part.counters, 2, 0), strict=True
            )
            return np.stack([beem_doubts(d, c, share) for d, c in each], axis=2)

        yield from _pairs(network, {"weights": name}, doubts)


def _voting(network: SpanNetwork) -> Variants:
    layers = np.arange(1.0, network.n_layers + 1)
    for exponent in VOTE_EXPONENTS:
        weights = layers**-exponent / layers[-1] ** (1 - exponent)

        def doubts(part: SpanPart, weights: Floats = weights) -> Floats:
            return np.clip(1.0 - part.votes * weights[:, np.newaxis], 0, 1)

        yield from _pairs(network, {"exponent": exponent}, doubts, votes=True)


def gate_features(part: SpanPart) -> Floats:
    """Return the features of the gate for each exit of a sentence.

    Returns
    -------
    ndarray of shape (n, M, 4 + M), float64
        The largest and the mean entropy of its words, their smallest margin, the fraction of
        visited layers that agree consecutively in all words, and the layer, one-hot encoded.
    """
    largest, mean = (part.by_words(joint).joint_entropies for joint in ("all", "mean"))
    margin = part.by_doubts(part.margins, "all").joint_entropies
    agreeing = part.by_doubts(-part.counters.astype(np.float64), "all").joint_entropies
    layers = np.arange(1, part.n_layers + 1)
    seen = np.stack([largest, mean, margin, -agreeing / layers], axis=2)
    seen = np.where(np.isfinite(seen), seen, 0.0)  # sentences without words exit at once
    which = np.broadcast_to(np.eye(part.n_layers), (*seen.shape[:2], part.n_layers))
    return np.concatenate([seen, which], axis=2)


def _gate(target_of: Callable[[SpanPart], NDArray[np.bool_]]) -> Callable[[SpanNetwork], Variants]:
    def variants(network: SpanNetwork) -> Variants:
        features = gate_features(network.dev), gate_features(network.test)
        yield _sentences(network, {}, *gate_doubts(*features, target_of(network.dev)))

    return variants


def _correct(part: SpanPart) -> NDArray[np.bool_]:
    return part.errors == 0


def _no_loss(part: SpanPart) -> NDArray[np.bool_]:
    return part.errors <= part.errors[:, -1:]


def _fixed(network: SpanNetwork) -> Variants:
    for layer in range(1, network.n_layers + 1):
        sizes = (network.n_dev, network.n_test)
        dev, test = (from_layer(n, network.n_layers, layer) for n in sizes)
        found = _sentences(network, {"layer": layer}, dev, test)
        yield replace(found, thresholds=np.full(1, 0.5))


def _oracle(network: SpanNetwork) -> Variants:
    """Yield exits at the layer with the fewest errors up to a depth, for every depth."""
    for depth in range(1, network.n_layers + 1):
        dev, test = (
            np.where(first_layers(_fewest(part.errors, depth), depth), 0.0, 1.0)
            for part in (network.dev, network.test)
        )
        found = _sentences(network, {"depth": depth}, dev, test)
        yield replace(found, thresholds=np.full(1, 0.5))


def _fewest(errors: NDArray[np.int64], depth: int) -> NDArray[np.bool_]:
    return np.asarray(errors == errors[:, :depth].min(axis=1, keepdims=True))


SPAN_RULES: dict[str, Rule] = {
    name: replace(RULES[name], variants=variants)
    for name, variants in {
        "max_probability": _max_probability,
        "margin": _margin,
        "entropy": _entropy,
        "patience": _patience,
        "epee": _epee,
        "epee_from": _epee_from,
        "epee_first": _epee_first,
        "pcee": _pcee,
        "beem": _beem,
        "voting": _voting,
        "gate": _gate(_correct),
        "gate_no_loss": _gate(_no_loss),
        "fixed": _fixed,
        "oracle": _oracle,
    }.items()
}


# ------------------------------------------------------------------------------- all settings


def sums_of(
    network: SpanNetwork,
    pairs: Iterable[tuple[SpanVariant, Floats]],
    name: str,
) -> Sums:
    """Return the sums for all thresholds of all variants on a part, in order.

    Parameters
    ----------
    network : SpanNetwork
    pairs : iterable of (SpanVariant, ndarray)
        Variants, and ascending thresholds of each.
    name : {"dev", "test"}
    """
    part = getattr(network, name)
    rows = np.arange(len(part.counts))
    layers, above, below = [], [], []
    for variant, taus in pairs:
        counts = part.voted_counts if variant.votes else part.counts
        sweep = PolicySpace(getattr(variant, name)).sweep(variant.patience, taus)
        for exits in sweep.exit_layers():
            right, predicted, true = counts[rows, exits - 1].T
            layers.append(exits.astype(np.float32))
            above.append(2 * right.astype(np.float32))
            below.append(predicted.astype(np.float32) + true)
    sizes = part.tokens.astype(np.float32)
    return Sums(np.stack(above), np.stack(below), np.stack(layers), network.n_layers, sizes)
