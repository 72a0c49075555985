"""The tuned policy of a classifier of words: scores against the engine, choices, refusals."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
)
from sklearn_epee._word_exits import SpanCounts, right_words, true_tags
from sklearn_epee.exceptions import ClassRecallWarning
from sklearn_epee.metrics import exit_scores, span_f1_scorer
from sklearn_epee.model_selection._sentences import SentenceTarget, span_report
from tests.tagged import tagged_sentences, tiny_token_classifier

WORDS, TAGS = tagged_sentences(70, seed=1)
LAYERS = [
    {
        "drugs": [t if "Drug" in t else "O" for t in tags],
        "effects": [t if "Eff" in t else "O" for t in tags],
    }
    for tags in TAGS
]
X, Y = WORDS[30:], TAGS[30:]


@pytest.fixture(scope="module")
def fitted():
    return tiny_token_classifier(max_epochs=8).fit(WORDS[:30], TAGS[:30])


@pytest.fixture(scope="module")
def layered():
    return tiny_token_classifier(max_epochs=4).fit(WORDS[:30], LAYERS[:30])


def tuned_of(classifier, X=X, y=Y, fit_params=None, **parameters):
    parameters = {"scoring": span_f1_scorer(), "store_cv_results": True} | parameters
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(classifier), **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassRecallWarning)
        return tuned.fit(X, y, **(fit_params or {}))


def check_policies(tuned, classifier, X, y, names):
    """Some of the policies of the table do what the engine does."""
    table = tuned.cv_results_
    rows = np.unique(np.linspace(0, len(table["tau"]) - 1, 12).round().astype(int))
    for row in rows:
        policy = {name: table[name][row].item() for name in ("tau", "patience")}
        scores = exit_scores(
            FixedExitPolicyClassifier(FrozenEstimator(classifier), **policy).fit(X, y), X, y
        )
        found = {name: table[name][row] for name in names}
        assert_allclose(list(found.values()), [scores[names[n]] for n in names], atol=1e-9)


SPANS = {"score": "span_f1", "speedup": "speedup"}


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
def test_every_policy_scores_as_its_own_run_does(fitted, joint_exit):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(joint_exit=joint_exit)
    tuned = tuned_of(classifier)
    assert len(tuned.cv_results_["tau"]) > 30
    check_policies(tuned, classifier, X, Y, SPANS)


def test_policies_over_layers_of_spans_by_macro_f1(layered):
    tuned = tuned_of(layered, X, LAYERS[30:], scoring="f1_macro")
    check_policies(tuned, layered, X, LAYERS[30:], {"score": "span_macro_f1", "speedup": "speedup"})
    assert tuned.class_report_["layer"].tolist() == ["drugs", "effects"]
    assert tuned.class_report_["class"].tolist() == ["Drug", "Effect"]
    assert tuned.n_outputs_ == 2
    frame = pd.DataFrame({name: [found[name] for found in LAYERS[30:]] for name in LAYERS[0]})
    again = tuned_of(layered, X, frame, scoring="f1_macro")
    assert again.best_score_ == tuned.best_score_


def test_texts_valid_sequences_and_words_that_are_not_read(fitted):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(
        transition_weight=0.3, joint_exit="mean"
    )
    texts = [
        " ".join(words) + extra
        for words, extra in zip(X, ["", " \u200b", " \x01"] * 14, strict=False)
    ]
    texts[0] = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = classifier.predict_at_layer(texts, 2)
        y[1] = []
        tuned = tuned_of(classifier, texts, y)
        check_policies(tuned, classifier, texts, y, SPANS)


def test_accuracy_is_of_words(fitted):
    tuned = tuned_of(fitted, scoring="accuracy", min_speedup=0.2)
    predicted = tuned.predict_tags(X)
    expected = np.mean(np.concatenate(predicted) == np.concatenate(Y))
    assert tuned.best_score_ == pytest.approx(expected)
    assert_array_equal(
        right_words(true_tags(X, Y, "IOB2"), [predicted]).sum(0)[1], sum(map(len, Y))
    )


def test_objectives(fitted):
    fast = tuned_of(fitted, min_speedup=0.5)
    assert fast.best_speedup_ >= 0.5
    near = tuned_of(fitted, max_accuracy_drop=0.02)
    assert near.best_score_ >= near.full_depth_score_ - 0.02 - 1e-9
    table = near.cv_results_
    allowed = table["speedup"][table["score"] >= near.full_depth_score_ - 0.02]
    assert near.best_speedup_ == pytest.approx(allowed.max())
    scores = exit_scores(near, X, Y)
    assert scores["span_f1"] == pytest.approx(near.best_score_)
    assert scores["speedup"] == pytest.approx(near.best_speedup_)
    assert near.score(X, Y) == scores["span_f1"]
    with pytest.raises(ValueError, match=r"min_speedup=0.9 cannot be reached"):
        tuned_of(fitted, min_speedup=0.9)


def test_the_wrapper_predicts_as_its_classifier(fitted):
    tuned = tuned_of(fitted, min_speedup=0.4)
    inner = tuned.estimator_.estimator
    assert (inner.tau, inner.patience) == (tuned.best_tau_, tuned.best_patience_)
    assert fitted.tau != inner.tau
    assert tuned.predict(X) == inner.predict(X)
    assert tuned.predict_tags(X) == inner.predict_tags(X)
    assert list(tuned.staged_predict(X)) == list(inner.staged_predict(X))
    assert list(tuned.staged_predict_tags(X)) == list(inner.staged_predict_tags(X))
    assert pickle.loads(pickle.dumps(tuned)).predict(X) == tuned.predict(X)


def test_cross_validation_trains_a_network_a_split_and_one_more():
    tuned = TunedExitPolicyClassifierCV(
        tiny_token_classifier(max_epochs=2), cv=2, scoring=span_f1_scorer()
    ).fit(WORDS, TAGS)
    assert tuned.class_report_["n_samples"].sum() == sum(t[0] == "B" for row in TAGS for t in row)
    assert tuned.predict(WORDS[:2]) == tuned.estimator_.predict(WORDS[:2])
    kept = TunedExitPolicyClassifierCV(
        tiny_token_classifier(max_epochs=1),
        cv=0.3,
        refit=False,
        random_state=0,
        scoring=span_f1_scorer(),
    ).fit(np.array(WORDS, dtype=object), pd.Series(TAGS))
    assert kept.best_speedup_ >= 0


@pytest.mark.parametrize("around", [FixedExitPolicyClassifier, TunedExitPolicyClassifierCV])
def test_scikit_learn_splits_sentences_without_their_labels(around, fitted):
    wrapped = around(FrozenEstimator(fitted))
    assert not is_classifier(wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassRecallWarning)
        found = cross_val_score(wrapped, X, Y, cv=2)
    assert (found > 0).all()


def test_a_pipeline_is_looked_through(fitted):
    pipeline = make_pipeline(FunctionTransformer(), fitted)
    tuned = tuned_of(pipeline, min_speedup=0.4)
    assert tuned.best_score_ == tuned_of(fitted, min_speedup=0.4).best_score_
    assert tuned.predict_tags(X) == tuned.estimator_.estimator[-1].predict_tags(X)


def test_sample_weights_are_repetitions(fitted):
    weights = np.arange(len(X)) % 3
    weighted = tuned_of(fitted, fit_params={"sample_weight": weights}, policies=20)
    rows = np.repeat(np.arange(len(X)), weights)
    same = {name: weighted.cv_results_[name] for name in ("tau", "patience")}
    repeated = tuned_of(
        fitted,
        [X[row] for row in rows],
        [Y[row] for row in rows],
        policies={"tau": np.unique(same["tau"]).tolist(), "patience": "all"},
    )
    for name in ("score", "speedup"):
        assert_allclose(weighted.cv_results_[name], repeated.cv_results_[name], atol=1e-12)


def test_a_folder_keeps_the_policy_and_what_it_does(fitted, tmp_path):
    tuned = tuned_of(fitted, min_speedup=0.4, scoring="f1_micro")
    tuned.save_pretrained(tmp_path / "folder")
    loaded = TunedExitPolicyClassifierCV.from_pretrained(tmp_path / "folder")
    assert loaded.predict(X) == tuned.predict(X)
    assert loaded.best_speedup_ == tuned.best_speedup_
    assert_array_equal(loaded.class_report_["class"], tuned.class_report_["class"])


# ------------------------------------------------------------------------- words one by one


def test_policies_of_words_that_exit_one_by_one_are_run(fitted):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(token_exit="token")
    policies = {"tau": [0.1, 0.5, 0.8], "patience": [1, 2, 3]}
    tuned = tuned_of(classifier, policies=policies, min_speedup=0.2)
    table = tuned.cv_results_
    pairs = list(zip(table["tau"].tolist(), table["patience"].tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == 8  # one with patience 1, and full depth
    assert pairs[-1] == (0.0, 3)
    check_policies(tuned, classifier, X, Y, SPANS)
    assert tuned.best_speedup_ >= 0.2
    assert tuned.class_report_["recall"].shape == (2,)
    split = TunedExitPolicyClassifierCV(
        tiny_token_classifier(max_epochs=1, token_exit="token"),
        cv=2,
        scoring="accuracy",
        policies=policies,
    ).fit(WORDS, TAGS)
    assert split.best_score_ >= split.full_depth_score_


@pytest.mark.parametrize("policies", ["all", 10, {"tau": "all"}, {"tau": 5}, {"patience": [2]}])
def test_policies_to_run_must_be_named(fitted, policies):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(token_exit="token")
    with pytest.raises(ValueError, match=r"token_exit='token'.*policies=\{'tau'.*got policies="):
        tuned_of(classifier, policies=policies)


# ------------------------------------------------------------------------------- guarantees


@pytest.mark.parametrize("risk", ["disagreement", "error", "callable"])
def test_guarantees_are_about_sentences(fitted, risk):
    def missed(true, predicted, full):
        del full
        return [len(set(a) - set(b)) / max(len(a), 1) for a, b in zip(true, predicted, strict=True)]

    tuned = tuned_of(
        fitted,
        risk=missed if risk == "callable" else risk,
        max_risk=0.6,
        confidence=0.7,
        random_state=0,
    )
    assert tuned.certified_
    assert tuned.risk_ <= 0.6
    assert tuned.n_calibration_ == 28


def test_disagreement_is_measured_on_the_tested_sentences(fitted):
    tuned = tuned_of(fitted, risk="disagreement", max_risk=0.3, guarantee="expectation")
    differ = [a != b for a, b in zip(tuned.predict(X), fitted.predict_at_layer(X, -1), strict=True)]
    assert np.mean(differ) <= 0.5
    assert tuned.candidates_["risk"].max() <= 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_accuracy_drop": 0.05}, r"risk='accuracy_drop'.*F1 divides sums.*'disagreement'"),
        ({"risk": "brier_score", "max_risk": 0.1}, r"risk='brier_score' is about samples"),
        ({"risk": ("miss", "Drug"), "max_risk": 0.1}, r"risk=\('miss', 'Drug'\) is about samples"),
        ({"risk": "error", "max_risk": 0.1, "per_class": True}, r"per_class=True needs samples"),
    ],
)
def test_risks_that_are_no_means_over_sentences_are_refused(fitted, parameters, message):
    with pytest.raises(ValueError, match=message):
        tuned_of(fitted, confidence=0.9, **parameters)


def test_words_one_by_one_have_no_guarantee(fitted):
    classifier = pickle.loads(pickle.dumps(fitted)).set_params(token_exit="token")
    with pytest.raises(ValueError, match=r"guarantees for token_exit='sentence' alone"):
        tuned_of(
            classifier,
            risk="error",
            max_risk=0.5,
            confidence=0.9,
            policies={"tau": [0.2], "patience": [2]},
        )


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("y", [None, TAGS[:3], 3])
def test_y_must_be_as_long_as_x(fitted, y):
    with pytest.raises(ValueError, match=r"y must hold tags or spans for each of the 40 samples"):
        tuned_of(fitted, X, y)


def test_y_in_other_layers_is_refused(fitted):
    with pytest.raises(ValueError, match=r"y\[0\] has the layers of spans \['drugs', 'effects'\]"):
        tuned_of(fitted, X, LAYERS[30:])


def test_other_scores_are_refused(fitted):
    with pytest.raises(ValueError, match=r"scoring='roc_auc' is no score of words or spans"):
        tuned_of(fitted, scoring="roc_auc")
    with pytest.raises(ValueError, match=r"scoring='f1' is no score of words or spans"):
        TunedExitPolicyClassifierCV(clone(fitted), scoring="f1").fit(X, Y)  # and trains nothing


def test_sets_and_calibration_are_refused_by_name(fitted):
    tuned = tuned_of(fitted)
    with pytest.raises(TypeError, match="EPEETokenClassifier predicts words"):
        tuned.conformalize(X, Y)
    with pytest.raises(TypeError, match="got EPEETokenClassifier"):
        ExitCalibratedClassifier(FrozenEstimator(fitted)).fit(X, Y)


def test_tags_are_for_classifiers_of_words_alone(text_classifier):
    wrapper = FixedExitPolicyClassifier(text_classifier)
    assert not hasattr(wrapper, "predict_tags")
    assert hasattr(FixedExitPolicyClassifier(tiny_token_classifier()), "predict_tags")


# ------------------------------------------------------------------------------- parts


def test_splits_are_stratified_by_the_layers_that_have_spans():
    y = [["O"], ["B-X"], [], [(0, 1, "X")]] * 5
    assert_array_equal(SentenceTarget.of(y, 20).to_split(2), [0, 1, 0, 1] * 5)
    layered = [{"a": [], "b": []}, {"a": [], "b": ["B-X"]}, {"a": ["I-X"], "b": []}] * 4
    assert len(set(SentenceTarget.of(layered, 12).to_split(2))) == 3


def test_lost_labels_are_named_with_their_layers():
    right = np.array([[[0, 1], [1, 1]]] * 10)
    labels, same = [("drug", "Rare"), ("event", "Common")], np.array([[False, True]] * 10)
    counts = SpanCounts(labels, right, right, right[:, -1], same)
    report = span_report(counts, right[:, 0], np.ones(10), None)
    with pytest.warns(
        ClassRecallWarning,
        match=r"1 of 2 labels of spans.*drug 'Rare' from 1.000 to 0.000 \(10 spans\)",
    ):
        report.warn("tau=1", stacklevel=1)
