"""`min_exit_layer`: no sample exits before it, wherever policies are applied."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee._exits.sentences import sentence_exit_layers
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import pareto_front, policy_table
from sklearn_epee._nn.exit_rules import DynamicRule, ExitPolicy, Exits
from sklearn_epee._word_exits import StagedSentences
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.metrics import exit_scores, span_f1_scorer
from sklearn_epee.monitoring import ExitAudit
from sklearn_epee.policy import apply_policy, exit_layers, normalized_entropy, patience_counters
from sklearn_epee.serving import AsyncPredictor

from .checkpoints import tiny_config
from .classifiers import tiny_multimodal_classifier, tiny_training
from .onnx_exports import exported
from .tagged import tagged_sentences, tiny_token_classifier
from .trainings import Trainings

N_LAYERS = 6


def exits_by_definition(proba, tau, patience, first):
    """The definition, sample by sample: proba (n, M, K)."""
    found = []
    for entropies, counters in zip(
        normalized_entropy(proba).astype(np.float64),
        patience_counters(proba.argmax(axis=2)),
        strict=True,
    ):
        n_layers = len(entropies)
        candidates = [
            layer
            for layer in range(first, n_layers + 1)
            if entropies[layer - 1] < tau or counters[layer - 1] >= (patience or n_layers)
        ]
        found.append(candidates[0] if candidates else n_layers)
    return np.array(found)


def staged_of(classifier, X):
    return np.stack(list(classifier.staged_predict_proba(X)), axis=1)


def some_tau(proba):
    """A threshold far from any entropy, below which some samples are at some layers."""
    values = np.sort(normalized_entropy(proba)[:, :-1].ravel().astype(np.float64))
    inner = values[len(values) // 5 : -len(values) // 3]
    place = int(np.diff(inner).argmax())
    return float(inner[place : place + 2].mean())


@pytest.fixture(scope="module")
def classifier(texts, labels):
    config = tiny_config("bert", n_layers=N_LAYERS, vocab_size=300, max_position_embeddings=128)
    return EPEEClassifier(config, **tiny_training(head_learning_rate=0.05)).fit(texts, labels)


POLICIES = [
    (patience, first) for patience in (None, 1, 2, 3) for first in (1, 2, 3, 5, N_LAYERS, 40)
]


@pytest.mark.parametrize(("patience", "first"), POLICIES)
def test_predictions_follow_the_definition(classifier, texts, patience, first):
    proba = staged_of(classifier, texts)
    tau = some_tau(proba)
    clf = copy.copy(classifier).set_params(tau=tau, patience=patience, min_exit_layer=first)
    expected = exits_by_definition(proba, tau, patience, first)
    assert_array_equal(clf.predict_exit_layer(texts), expected)
    assert_array_equal(exit_layers(proba, tau, patience, min_exit_layer=first), expected)
    rows = np.arange(len(texts))
    assert_allclose(clf.predict_proba(texts), proba[rows, expected - 1], atol=1e-5)
    if first == 3 and patience is None:
        assert len(np.unique(expected)) > 1  # there is something to get wrong


def test_thresholds_of_a_sweep_are_those_of_the_rule(classifier, texts):
    proba = staged_of(classifier, texts)
    for first in (2, 4, 9):
        staged = StagedPredictions.from_proba([proba], min_exit_layer=first)
        for patience in range(1, N_LAYERS + 1):
            sweep = PolicySpace(staged).sweep(patience)
            for tau, exits in zip(sweep.taus, sweep.exit_layers(), strict=True):
                assert_array_equal(exits, exits_by_definition(proba, tau, patience, first))


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_thresholds_of_a_sweep_of_tasks_and_of_words(joint_exit):
    rng = np.random.default_rng(0)
    tasks = [rng.dirichlet(np.full(k, 0.3), size=(30, 5)) for k in (2, 3)]
    staged = StagedPredictions.from_proba(tasks, joint_exit=joint_exit, min_exit_layer=3)
    counts = np.array([3, 0, 7, 1, 19])
    words = StagedSentences.from_words(
        StagedPredictions.from_proba(tasks), counts, counts + 2, joint_exit, 3
    )
    for patience in range(1, 6):
        for samples in (staged, words):
            sweep = PolicySpace(samples).sweep(patience)
            for tau, exits in zip(sweep.taus[::7], list(map(np.copy, sweep.exit_layers()))[::7],
                                  strict=True):  # fmt: skip
                assert_array_equal(exits, samples.exit_layers(tau, patience))
                assert exits[words.word_counts > 0 if samples is words else slice(None)].min() >= 3
                if samples is staged:
                    own = exit_layers(tasks, tau, patience, joint_exit=joint_exit, min_exit_layer=3)
                else:
                    own = sentence_exit_layers(
                        StagedPredictions.from_proba(
                            tasks, joint_exit=joint_exit, min_exit_layer=3
                        ),
                        counts,
                        tau,
                        patience,
                    )
                    assert exits[1] == 1  # no words, nothing to run
                assert_array_equal(exits, own)


def test_several_tasks(texts, labels):
    y = np.column_stack([labels, np.roll(labels, 1)])
    config = tiny_config("bert", n_layers=4, vocab_size=300, max_position_embeddings=128)
    clf = EPEEClassifier(config, **tiny_training(max_epochs=1)).fit(texts, y)
    layers = list(clf.staged_predict_proba(texts))
    tasks = [np.stack([layer[t] for layer in layers], axis=1) for t in range(2)]
    tau = some_tau(tasks[0])
    for joint_exit in ("all", "any", "mean"):
        clf.set_params(tau=tau, patience=3, min_exit_layer=2, joint_exit=joint_exit)
        found = clf.predict_with_exits(texts)
        own = apply_policy(tasks, tau, 3, min_exit_layer=2, joint_exit=joint_exit)
        assert_array_equal(found.exit_layer, own.exit_layer)
        assert found.exit_layer.min() >= 2


def test_several_labels(texts, labels):
    y = np.column_stack([labels == labels[0], np.arange(len(texts)) % 2 == 0]).astype(int)
    config = tiny_config("bert", n_layers=4, vocab_size=300, max_position_embeddings=128)
    clf = EPEEClassifier(config, **tiny_training(max_epochs=1)).fit(texts, y)
    proba = staged_of(clf, texts)
    clf.set_params(tau=2.0, min_exit_layer=3)
    assert_array_equal(clf.predict_exit_layer(texts), 3)
    clf.set_params(tau=0.0, patience=2)
    own = exit_layers(proba, 0.0, 2, multilabel=True, min_exit_layer=3)
    assert_array_equal(clf.predict_exit_layer(texts), own)


def test_heads_below_are_only_read_for_patience_and_ensembles():
    def read(tau=0.1, patience=N_LAYERS, exit_ensemble=None):
        policy = ExitPolicy(tau, patience, exit_ensemble, np.ones(N_LAYERS), min_exit_layer=4)
        rule = DynamicRule(policy, N_LAYERS, Exits.empty(1, 2))
        return [layer for layer in range(1, N_LAYERS + 1) if rule.reads(layer)]

    everything = list(range(1, N_LAYERS + 1))
    assert read() == [4, 5, 6]
    assert read(tau=0.0) == [6]
    assert read(patience=2) == everything
    assert read(exit_ensemble="mean") == everything


@pytest.fixture(scope="module")
def sentences():
    words, tags = tagged_sentences()
    fitted = tiny_token_classifier(max_epochs=1, head_learning_rate=0.05).fit(words, tags)
    return fitted, [*words, []]


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
@pytest.mark.parametrize("patience", [None, 2])
def test_words(sentences, token_exit, patience):
    fitted, X = sentences
    clf = copy.copy(fitted).set_params(token_exit=token_exit, patience=patience, tau=2.0)
    found = clf.set_params(min_exit_layer=2).predict_with_exits(X)
    layers = found.exit_layer if token_exit == "sentence" else np.concatenate(found.exit_layer)
    read = layers[:-1] if token_exit == "sentence" else layers
    assert_array_equal(read, 2)
    if token_exit == "sentence":
        assert layers[-1] == 1  # without words there is nothing to run
        layer = list(fitted.staged_predict_tags(X))[1]
        assert found.tags == layer


def test_texts_with_images():
    X, y = make_case_reports(40, missing_fraction=0.5, random_state=0)
    clf = tiny_multimodal_classifier(first="text", max_epochs=1, tau=2.0).fit(X, y)
    clf.set_params(min_exit_layer=3)  # above the two layers of the text tower
    found = clf.predict_with_exits(X)
    has_text, has_image = (
        np.array([part is not None for part in column]) for column in zip(*X, strict=True)
    )
    assert_array_equal(found.exit_layer[has_image], 3)
    assert_array_equal(found.exit_layer[~has_image], 2)  # their last exit
    clf.set_params(min_exit_layer=2)
    layers = clf.predict_with_exits(X).exit_layer
    assert_array_equal(layers, np.where(has_text, 2, 3))
    proba = staged_of(clf, X)
    assert_array_equal(exit_layers(proba, 2.0, min_exit_layer=2), layers)


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_onnx_of_words(sentences, tmp_path, token_exit):
    pytest.importorskip("onnxruntime")
    fitted, X = sentences
    clf = copy.copy(fitted).set_params(token_exit=token_exit, tau=2.0, min_exit_layer=2)
    found = exported(clf, tmp_path / "export").predict_with_exits(X)
    own = clf.predict_with_exits(X)
    for theirs, layers in zip(found["exit_layer"], own.exit_layer, strict=True):
        assert_array_equal(theirs, layers)
    assert found["tags"] == own.tags


def test_onnx_of_texts(classifier, texts, tmp_path):
    pytest.importorskip("onnxruntime")
    tau = some_tau(staged_of(classifier, texts))
    clf = copy.copy(classifier).set_params(tau=tau, patience=3, min_exit_layer=3)
    found = exported(clf, tmp_path / "export").predict_with_exits(texts)
    assert_array_equal(found["exit_layer"], clf.predict_exit_layer(texts))
    assert found["exit_layer"].min() == 3


def test_serving_with_a_policy_for_each_request(classifier, texts):
    proba = staged_of(classifier, texts)
    tau = some_tau(proba)
    clf = copy.copy(classifier).set_params(tau=tau, min_exit_layer=3)
    with AsyncPredictor(clf, tau_range=(0.0, 2.0), patience_range=(1, N_LAYERS)) as server:
        patiences = [1 + row % N_LAYERS for row in range(len(texts))]
        futures = [
            server.submit(text, patience=patience)
            for text, patience in zip(texts, patiences, strict=True)
        ]
        layers = [future.result(timeout=60).exit_layer for future in futures]
    expected = [
        exits_by_definition(proba[row : row + 1], tau, patience, 3)[0]
        for row, patience in enumerate(patiences)
    ]
    assert layers == expected


def test_scores_tuning_and_searches_follow_it_without_training(texts, labels, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    config = tiny_config("bert", n_layers=4, vocab_size=300, max_position_embeddings=128)
    clf = EPEEClassifier(
        config, **tiny_training(max_epochs=1, memory=str(tmp_path / "kept"), tau=2.0),
        callbacks=[trainings],
    )  # fmt: skip
    search = GridSearchCV(
        clf, {"min_exit_layer": [1, 2, 3, 4]}, cv=2, scoring=exit_scores, refit="accuracy"
    ).fit(texts, labels)
    assert trainings.count == 3  # one for each split, and one for all samples
    assert_allclose(search.cv_results_["mean_test_speedup"], [0.75, 0.5, 0.25, 0.0])
    tuned = TunedExitPolicyClassifierCV(clone(clf).set_params(min_exit_layer=3), cv=2)
    tuned.fit(texts, labels)
    assert tuned.pareto_front_["speedup"].max() <= 0.25
    assert tuned.predict_exit_layer(texts).min() >= 3


@pytest.mark.parametrize("value", [0, -1, 1.0, "2", None, True])
def test_bad_values_are_refused(classifier, texts, labels, value):
    with pytest.raises((TypeError, ValueError), match="min_exit_layer must be an integer >= 1"):
        clone(classifier).set_params(min_exit_layer=value).fit(texts, labels)
    with pytest.raises((TypeError, ValueError), match="min_exit_layer must be an integer >= 1"):
        copy.copy(classifier).set_params(min_exit_layer=value).predict(texts)
    with pytest.raises((TypeError, ValueError), match="min_exit_layer must be an integer >= 1"):
        exit_layers(np.full((2, 3, 2), 0.5), 0.1, min_exit_layer=value)


def best_by_hand(proba, y, layers, min_speedup):
    """Search all policies of the layers one by one; scores are accuracies."""
    n_layers = proba.shape[1]
    found = []
    entropies = np.unique(normalized_entropy(proba).astype(np.float64))
    taus = [0.0, *(entropies[:-1] + entropies[1:]) / 2, 2.0]
    rows = np.arange(len(y))
    for first in layers:
        for patience in range(1, n_layers + 1):
            for tau in taus:
                exits = exit_layers(proba, tau, patience, min_exit_layer=first)
                ratio = 1 - exits.mean() / n_layers
                score = np.mean(proba[rows, exits - 1].argmax(axis=1) == y)
                if ratio >= min_speedup:
                    found.append((score, ratio))
    return max(found)


def test_the_tuner_chooses_among_first_layers(classifier, texts, labels):
    y = np.searchsorted(classifier.classes_, labels)
    proba = staged_of(classifier, texts)
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(classifier),
        policies={"min_exit_layer": [1, 3, 40]},
        min_speedup=0.2,
        scoring="accuracy",
        objective="max_score",
        store_cv_results=True,
    ).fit(texts, labels)
    score, ratio = best_by_hand(proba, y, [1, 3, N_LAYERS], 0.2)
    assert (tuned.best_score_, tuned.best_speedup_) == pytest.approx((score, ratio))
    assert set(tuned.cv_results_["min_exit_layer"]) == {1, 3, N_LAYERS}
    for first in (1, 3):
        rows = tuned.cv_results_["min_exit_layer"] == first
        assert tuned.cv_results_["speedup"][rows].max() == pytest.approx(1 - first / N_LAYERS)
    assert tuned.estimator_.min_exit_layer == tuned.best_min_exit_layer_
    assert exit_scores(tuned, texts, labels)["speedup"] == pytest.approx(ratio)
    assert classifier.min_exit_layer == 1  # it stays as it was


def test_of_equal_policies_the_most_cautious_is_chosen():
    proba = np.tile([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]], (4, 1, 1))
    tables = [
        policy_table(
            PolicySpace(StagedPredictions.from_proba([proba], min_exit_layer=first)),
            lambda sweep: np.ones(len(sweep.taus)),
            3,
            np.array([0.1]),
        )
        for first in (1, 2)
    ]
    assert pareto_front(tables)["min_exit_layer"].tolist() == [2]


def test_the_tuner_with_a_guarantee_takes_one_first_layer(classifier, texts, labels):
    def tuned(layers):
        return TunedExitPolicyClassifierCV(
            FrozenEstimator(classifier),
            policies={"min_exit_layer": layers},
            risk="disagreement",
            max_risk=0.9,
            confidence=0.5,
            random_state=0,
        )

    with pytest.raises(ValueError, match="must hold a single value"):
        tuned([1, 2]).fit(texts, labels)
    found = tuned([3]).fit(texts, labels)
    assert found.certified_
    assert found.best_min_exit_layer_ == 3
    assert found.candidates_["speedup"].max() <= 0.5
    assert found.predict_exit_layer(texts).min() >= 3


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_the_tuner_of_words_chooses_among_first_layers(token_exit):
    words, tags = tagged_sentences()
    fitted = tiny_token_classifier(max_epochs=1, token_exit=token_exit).fit(words, tags)
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(fitted),
        policies={"tau": [0.0, 0.3, 2.0], "patience": [1, 3], "min_exit_layer": [1, 2]},
        store_cv_results=True,
        scoring=span_f1_scorer(),
    ).fit(words, tags)
    table = tuned.cv_results_
    n_layers = fitted.n_layers_
    fastest = (table["tau"] == 2.0) & (table["patience"] == 3)
    by_layer = dict(zip(table["min_exit_layer"][fastest], table["speedup"][fastest], strict=True))
    assert by_layer == pytest.approx({1: 1 - 1 / n_layers, 2: 1 - 2 / n_layers})
    assert tuned.estimator_.min_exit_layer == tuned.best_min_exit_layer_


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (2, "must be 'all' or a list of integers"),
        ([], "must be 'all' or a list of integers"),
        ([0], "min_exit_layer must be an integer >= 1"),
        ([None], "min_exit_layer must be an integer >= 1"),
    ],
)
def test_bad_first_layers_of_the_tuner(classifier, texts, labels, layers, message):
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(classifier), policies={"min_exit_layer": layers}
    )
    with pytest.raises((TypeError, ValueError), match=message):
        tuned.fit(texts, labels)


def test_a_tuner_refuses_policies_before_it_trains(texts, labels, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    clf = EPEEClassifier(tiny_config("bert"), callbacks=[trainings], memory=None)
    for policies in ({"tua": [0.1]}, {"min_exit_layer": 2}, {"tau": -1}, 0):
        with pytest.raises((TypeError, ValueError), match="polic"):
            TunedExitPolicyClassifierCV(clf, policies=policies).fit(texts, labels)
    assert trainings.count == 0


def test_an_audit_refuses_an_estimator_with_another_first_layer(classifier, texts):
    clf = copy.copy(classifier).set_params(tau=2.0, min_exit_layer=2)
    audit = ExitAudit(clf, max_disagreement=0.9, share=1.0, random_state=0)
    state = audit.to_json()
    assert_array_equal(audit.predict_with_exits(texts).exit_layer, 2)
    assert ExitAudit.from_json(state, clf).n_audited_ == 0
    clf.set_params(min_exit_layer=1)
    with pytest.raises(ValueError, match="audit is of min_exit_layer=2, but the estimator now has"):
        audit.predict(texts)
    with pytest.raises(ValueError, match="audit is of min_exit_layer=2, but the estimator has"):
        ExitAudit.from_json(state, clf)
