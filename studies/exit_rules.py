"""Exit rules of the literature on staged probabilities, all in one form.

Every rule converts the probabilities of all exits to uncertainties, called doubts: a sample exits
at the first layer whose doubt is below a threshold, and at the last layer if there is none. Rules
differ in their doubts and in their predictions: the class of the exit, or one on which the visited
exits agree. So the package's exit rule on arrays (`sklearn_epee._exits`) can apply all of them, for
any number of thresholds at once, with doubts instead of entropies. Doubts are between 0 and 1, or
infinite at layers at which samples never exit.

A rule has variants, such as values of patience or weights. Thresholds are chosen later, on dev.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee.model_selection._exit_maps import ExitMaps, fit_temperature
from studies.bootstrap import Score

Floats = NDArray[np.float64]

ACCURACY = Score()
N_FOLDS = 5
# Exponents of the number of layers by which the votes of a class are divided.
VOTE_EXPONENTS = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Network:
    """The predictions of all exits of a trained network for the dev and test samples.

    Attributes
    ----------
    dev, test : StagedPredictions
        Predictions for one task.
    dev_y, test_y : ndarray of shape (n_samples,), int
        Codes of the true classes.
    score : Score
        The main score of the data set.
    """

    dev: StagedPredictions
    test: StagedPredictions
    dev_y: NDArray[np.int64]
    test_y: NDArray[np.int64]
    score: Score = ACCURACY

    @classmethod
    def from_arrays(
        cls,
        dev_proba: Any,
        dev_y: Any,
        test_proba: Any,
        test_y: Any,
        score: Score = ACCURACY,
    ) -> Network:
        """Create it from probabilities (n_samples, n_layers, n_classes) and class codes."""
        return cls(
            StagedPredictions.from_proba([dev_proba]),
            StagedPredictions.from_proba([test_proba]),
            np.asarray(dev_y),
            np.asarray(test_y),
            score,
        )

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.dev.n_layers

    @property
    def n_dev(self) -> int:
        """Number of dev samples."""
        return len(self.dev_y)

    @property
    def n_test(self) -> int:
        """Number of test samples."""
        return len(self.test_y)

    def full_depth(self) -> float:
        """Return the score of the last exit on test."""
        return self.score(self.test.predictions[:, -1, 0], self.test_y)


@dataclass(frozen=True)
class Variant:
    """A rule with all parameters except the threshold.

    Attributes
    ----------
    parameters : dict
        Parameters in which the variants of the rule differ.
    dev, test : StagedPredictions
        Predictions of the rule, with its doubts instead of entropies.
    patience : int
        Samples also exit at the first layer at which this number of consecutive layers agree.
    thresholds : ndarray or None
        The possible thresholds; None: any.
    """

    parameters: dict[str, Any]
    dev: StagedPredictions
    test: StagedPredictions
    patience: int
    thresholds: Floats | None = None


@dataclass(frozen=True)
class Rule:
    """An exit rule.

    Attributes
    ----------
    name, title, source : str
        Key in results, title, and reference.
    variants : callable
        Yields its variants for a network. Rules that are trained use the dev samples.
    reads_labels : bool
        Whether it uses the labels of the test samples, so that it is a bound and not a rule.
    """

    name: str
    title: str
    source: str
    variants: Callable[[Any], Iterator[Any]]
    reads_labels: bool = False


def with_doubts(staged: StagedPredictions, doubts: Floats) -> StagedPredictions:
    """Return staged predictions with doubts of shape (n, M) instead of entropies."""
    return replace(staged, entropies=doubts[..., np.newaxis])


def _variant(network: Network, parameters: dict[str, Any], dev: Floats, test: Floats) -> Variant:
    """Return a variant without patience."""
    pair = with_doubts(network.dev, dev), with_doubts(network.test, test)
    return Variant(parameters, pair[0], pair[1], network.n_layers)


def _by_doubts(
    doubts: Callable[[StagedPredictions], Floats],
) -> Callable[[Network], Iterator[Variant]]:
    """Return the single variant of a rule without parameters and patience."""

    def variants(network: Network) -> Iterator[Variant]:
        yield _variant(network, {}, doubts(network.dev), doubts(network.test))

    return variants


# -------------------------------------------------------------- confidence of the exit, patience


def least_confidence(staged: StagedPredictions) -> Floats:
    """Return 1 minus the largest probability, (n_samples, n_layers)."""
    return 1.0 - staged.head_proba[0].max(axis=2).astype(np.float64)


def small_margin(staged: StagedPredictions) -> Floats:
    """Return 1 minus the difference of the two largest probabilities, (n_samples, n_layers)."""
    return 1.0 - _margin(staged)


def _margin(staged: StagedPredictions) -> Floats:
    proba = staged.head_proba[0].astype(np.float64)
    if proba.shape[2] == 1:
        return np.ones(proba.shape[:2])
    largest = np.partition(proba, -2, axis=2)[..., -2:]
    return np.clip(largest[..., 1] - largest[..., 0], 0, 1)


def _entropy(network: Network) -> Iterator[Variant]:
    yield Variant({}, network.dev, network.test, network.n_layers)


def _patience(network: Network) -> Iterator[Variant]:
    for variant in _epee(network):
        yield replace(variant, thresholds=np.zeros(1))


def _epee(network: Network) -> Iterator[Variant]:
    for patience in range(1, network.n_layers + 1):
        yield Variant({"patience": patience}, network.dev, network.test, patience)


def _epee_from(network: Network) -> Iterator[Variant]:
    """Yield EPEE with every value of `min_exit_layer`."""
    for first in range(1, max(2, network.n_layers)):
        dev, test = (replace(s, min_exit_layer=first) for s in (network.dev, network.test))
        for variant in _epee(replace(network, dev=dev, test=test)):
            yield replace(variant, parameters={"min_exit_layer": first, **variant.parameters})


def _epee_first(network: Network) -> Iterator[Variant]:
    """Yield EPEE on the first layers alone, for every number of them."""
    for last in range(1, network.n_layers + 1):
        dev, test = (replace(s, last_layer=last) for s in (network.dev, network.test))
        for patience in range(1, last + 1):
            yield Variant({"n_layers": last, "patience": patience}, dev, test, patience)


def _epee_mean(network: Network) -> Iterator[Variant]:
    dev, test = (replace(s, exit_ensemble="mean") for s in (network.dev, network.test))
    yield from _epee(replace(network, dev=dev, test=test))


def _epee_calibrated(network: Network) -> Iterator[Variant]:
    proba, all_samples = _log_proba(network.dev), np.ones(len(network.dev_y))
    temperatures = [
        fit_temperature(proba[:, layer], network.dev_y, all_samples)
        for layer in range(network.n_layers)
    ]
    maps = ExitMaps.from_temperatures(np.array(temperatures), proba.shape[2])
    dev, test = (
        StagedPredictions.from_proba([np.exp(maps.log_proba(_log_proba(staged)))])
        for staged in (network.dev, network.test)
    )
    yield from _epee(replace(network, dev=dev, test=test))


def _log_proba(staged: StagedPredictions) -> Floats:
    return np.log(np.maximum(staged.head_proba[0].astype(np.float64), np.finfo(np.float32).tiny))


def largest_of_last(doubts: Floats, count: int) -> Floats:
    """Return the largest of the doubts of a layer and the `count` - 1 before it.

    Parameters
    ----------
    doubts : ndarray of shape (n_samples, n_layers)
    count : int

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
        Infinite at the first `count` - 1 layers.
    """
    found = np.full(doubts.shape, np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(doubts, count, axis=1)
    found[:, count - 1 :] = windows.max(axis=2)
    return found


def _pcee(network: Network) -> Iterator[Variant]:
    for count in range(1, network.n_layers + 1):
        dev, test = (
            largest_of_last(staged.joint_entropies, count) for staged in (network.dev, network.test)
        )
        yield _variant(network, {"patience": count}, dev, test)


# ------------------------------------------------------------------- several exits combined


def beem_doubts(
    doubts: NDArray[np.floating], counters: NDArray[np.integer], weights: Floats
) -> Floats:
    """Return 1 minus the sum of the weighted confidences of the consecutive exits that agree.

    Parameters
    ----------
    doubts : ndarray of shape (n_samples, n_layers)
        1 minus the largest probability.
    counters : ndarray of shape (n_samples, n_layers)
        Number of consecutive layers that agree.
    weights : ndarray of shape (n_layers,)
        With sum 1.

    Returns
    -------
    ndarray of shape (n_samples, n_layers), float64
    """
    sums = (weights * (1.0 - doubts)).cumsum(axis=1)
    before = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    layers = np.arange(1, doubts.shape[1] + 1)
    first = layers - counters  # layers before the run of agreement
    return np.clip(1.0 - (sums - np.take_along_axis(before, first, axis=1)), 0, 1)


def _beem(network: Network) -> Iterator[Variant]:
    n_layers = network.n_layers
    hits = network.dev.predictions[..., 0] == network.dev_y[:, np.newaxis]
    weightings = {
        "cost": np.arange(1.0, n_layers + 1),
        "accuracy": hits.mean(axis=0) + 1 / (1 + len(hits)),
    }
    for name, weights in weightings.items():
        share = weights / weights.sum()
        dev, test = (
            beem_doubts(least_confidence(staged), staged.counters[..., 0], share)
            for staged in (network.dev, network.test)
        )
        yield _variant(network, {"weights": name}, dev, test)


def votes(staged: StagedPredictions) -> Floats:
    """Return the number of visited exits that predict each class.

    Returns
    -------
    ndarray of shape (n_samples, n_layers, n_classes), float64
        Half of the mean probability of the class is added to break ties.
    """
    proba = staged.head_proba[0].astype(np.float64)
    is_predicted = staged.predictions[..., 0][..., np.newaxis] == np.arange(proba.shape[2])
    layers = np.arange(1, staged.n_layers + 1)[:, np.newaxis]
    return is_predicted.cumsum(axis=1) + 0.5 * np.minimum(proba.cumsum(axis=1) / layers, 1)


def _voting(network: Network) -> Iterator[Variant]:
    layers = np.arange(1.0, network.n_layers + 1)
    both = votes(network.dev), votes(network.test)
    shares = [found / (layers[:, np.newaxis] + 0.5) for found in both]
    judged = replace(
        network,
        dev=replace(network.dev, head_proba=[shares[0]]),
        test=replace(network.test, head_proba=[shares[1]]),
    )
    for exponent in VOTE_EXPONENTS:
        # The doubt is 0 if all exits up to the last predict one class, for any exponent.
        weights = layers**-exponent / layers[-1] ** (1 - exponent)
        dev, test = (1.0 - np.floor(found.max(axis=2)) * weights for found in both)
        yield _variant(judged, {"exponent": exponent}, dev, test)


# ------------------------------------------------------------------------- trained rules, and bound


def gate_features(staged: StagedPredictions) -> Floats:
    """Return the features of the gate for each exit.

    Returns
    -------
    ndarray of shape (n_samples, n_layers, 3 + n_layers), float64
        Entropy, margin, the fraction of visited layers that agree consecutively, and the layer,
        one-hot encoded.
    """
    shape = staged.entropies.shape[:2]
    agreement = staged.counters[..., 0] / np.arange(1, shape[1] + 1)
    seen = np.stack([staged.joint_entropies, _margin(staged), agreement], axis=2)
    layers = np.broadcast_to(np.eye(shape[1]), (*shape, shape[1]))
    return np.concatenate([seen, layers], axis=2)


def _gate(target_of: Callable[[Network], NDArray[np.bool_]]) -> Callable[..., Iterator[Variant]]:
    """Return the variant of a gate that is trained on dev with a target (n_samples, n_layers)."""

    def variants(network: Network) -> Iterator[Variant]:
        features = gate_features(network.dev), gate_features(network.test)
        yield _variant(network, {}, *gate_doubts(*features, target_of(network)))

    return variants


def gate_doubts(
    dev_features: Floats, test_features: Floats, target: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return the doubts of a gate that is trained on dev.

    Parameters
    ----------
    dev_features, test_features : ndarray of shape (n_samples, n_layers, n_features)
        Features of the dev and test samples.
    target : ndarray of shape (n_samples, n_layers), bool
        Target for the dev samples.

    Returns
    -------
    dev, test : ndarray of shape (n_samples, n_layers), float64
        For dev, from cross-validation.
    """
    dev = np.empty(dev_features.shape[:2])
    folds = KFold(min(N_FOLDS, len(dev)), shuffle=True, random_state=0)
    for rows, held_out in folds.split(dev):
        dev[held_out] = _learned_doubts(dev_features[rows], target[rows], dev_features[held_out])
    return dev, _learned_doubts(dev_features, target, test_features)


def _correct(network: Network) -> NDArray[np.bool_]:
    return network.dev.predictions[..., 0] == network.dev_y[:, np.newaxis]


def _no_loss(network: Network) -> NDArray[np.bool_]:
    """Return whether an exit is correct, or the last exit is wrong, too."""
    hits = _correct(network)
    return hits | ~hits[:, -1:]


def _same(network: Network) -> NDArray[np.bool_]:
    """Return whether an exit predicts the same as the last exit; this needs no labels."""
    predictions = network.dev.predictions[..., 0]
    return predictions == predictions[:, -1:]


def _learned_doubts(features: Floats, target: NDArray[np.bool_], new_features: Floats) -> Floats:
    """Return the probability that the target is False, (n_samples, n_layers), for other samples."""
    if target.all() or not target.any():
        return np.full(new_features.shape[:2], 1.0 - target.flat[0])
    gate = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    gate.fit(features.reshape(-1, features.shape[2]), target.ravel())
    doubts = gate.predict_proba(new_features.reshape(-1, new_features.shape[2]))[:, 0]
    return doubts.reshape(new_features.shape[:2])


def _fixed(network: Network) -> Iterator[Variant]:
    """Yield variants in which all samples exit at one layer."""
    for layer in range(1, network.n_layers + 1):
        pair = (
            from_layer(staged.n_samples, network.n_layers, layer)
            for staged in (network.dev, network.test)
        )
        yield replace(_variant(network, {"layer": layer}, *pair), thresholds=np.full(1, 0.5))


def from_layer(n: int, n_layers: int, layer: int) -> Floats:
    """Return doubts, (n, M), with which n samples exit at a layer: 1 below it, 0 from it on."""
    return np.tile(np.where(np.arange(1, n_layers + 1) < layer, 1.0, 0.0), (n, 1))


def _oracle(network: Network) -> Iterator[Variant]:
    """Yield exits at the first correct layer up to a depth, else at layer 1, for every depth."""
    pair = ((network.dev, network.dev_y), (network.test, network.test_y))
    correct = [staged.predictions[..., 0] == y[:, np.newaxis] for staged, y in pair]
    for depth in range(1, network.n_layers + 1):
        dev, test = (np.where(first_layers(hits, depth), 0.0, 1.0) for hits in correct)
        found = _variant(network, {"depth": depth}, dev, test)
        yield replace(found, thresholds=np.full(1, 0.5))


def first_layers(hits: NDArray[np.bool_], depth: int) -> NDArray[np.bool_]:
    """Return the hits up to a layer; without a hit, the first layer, which is the cheapest."""
    in_reach = hits.copy()
    in_reach[:, depth:] = False
    in_reach[~in_reach.any(axis=1), 0] = True
    return in_reach


RULES = {
    rule.name: rule
    for rule in (
        Rule("max_probability", "Maximum probability", "BranchyNet's successors; MSDNet, arXiv "
             "1703.09844", _by_doubts(least_confidence)),
        Rule("margin", "Margin of the two largest", "common practice", _by_doubts(small_margin)),
        Rule("entropy", "Entropy only", "BranchyNet, arXiv 1709.01686; DeeBERT, 2004.12993",
             _entropy),
        Rule("patience", "Patience only", "PABEE, arXiv 2006.04152", _patience),
        Rule("epee", "EPEE", "arXiv 2503.02053", _epee),
        Rule("epee_from", "EPEE, no exit before a layer (`min_exit_layer`)", "", _epee_from),
        Rule("epee_first", "EPEE on the first layers alone (`first_layers`)", "", _epee_first),
        Rule("epee_mean", "EPEE, mean of the visited exits", "arXiv 2503.02053", _epee_mean),
        Rule("epee_calibrated", "EPEE, a temperature for each exit", "arXiv 2503.02053, 1706.04599",
             _epee_calibrated),
        Rule("pcee", "PCEE-BERT", "Findings of NAACL 2022, 10.18653/v1/2022.findings-naacl.25",
             _pcee),
        Rule("beem", "BEEM", "arXiv 2502.00745", _beem),
        Rule("voting", "Voting", "arXiv 2105.13792", _voting),
        Rule("gate", "Learned gate: correct", "logistic regression; cf. BERxiT, EACL 2021",
             _gate(_correct)),
        Rule("gate_no_loss", "Learned gate: no worse than the last exit", "logistic regression",
             _gate(_no_loss)),
        Rule("gate_same", "Learned gate: same as the last exit", "logistic regression, no labels",
             _gate(_same)),
        Rule("fixed", "One layer for all samples", "no rule: `predict_at_layer`", _fixed),
        Rule("oracle", "Oracle: first correct layer", "bound", _oracle, reads_labels=True),
    )
}  # fmt: skip
