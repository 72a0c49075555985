"""Policies and thresholds of several labels around the package's own classifier of texts."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import GridSearchCV

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
    exit_scores,
    speedup_score,
    task_accuracy_score,
)
from sklearn_epee._base import estimator as base
from sklearn_epee._nn.training import train_network
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.policy import JOINT_EXITS, apply_policy
from tests.classifiers import tiny_text_classifier

WORDS = np.array(["OTC", "not", "stopped"])


def labelled(n_samples, seed):
    texts, _ = make_supplement_notes(n_samples, random_state=seed)
    return texts, np.array([[word in text for word in WORDS] for text in texts]).astype(int)


@pytest.fixture(scope="module")
def notes():
    return labelled(120, 1)


@pytest.fixture(scope="module")
def trained():
    classifier = tiny_text_classifier(device="cpu", max_epochs=3)
    return classifier.fit(*labelled(120, 0))


@pytest.fixture
def fitted(trained):
    twin = clone(trained)
    vars(twin).update(vars(trained))
    return twin


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
@pytest.mark.parametrize("ensemble", [None, "weighted"])
def test_prediction_does_what_was_promised(joint_exit, ensemble, fitted, notes):
    X, y = notes
    fitted.set_params(joint_exit=joint_exit, exit_ensemble=ensemble)
    fitted.set_params(label_thresholds=[0.3, 0.4, 0.2])
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(fitted), min_speedup=0.3).fit(X, y)
    found = tuned.predict_with_exits(X)
    assert speedup_score(tuned, X) == pytest.approx(tuned.best_speedup_)
    scores = exit_scores(tuned, X, y)
    assert scores["macro_f1"] == pytest.approx(tuned.best_score_)
    assert scores["macro_f1"] == pytest.approx(f1_score(y, found.labels, average="macro"))
    assert scores["average_precision"] == pytest.approx(average_precision_score(y, found.proba))
    assert scores["accuracy"] == tuned.score(X, y) == tuned.estimator_.score(X, y)
    assert scores["label_accuracy"] == task_accuracy_score(tuned, X, y)
    expected = apply_policy(
        np.stack(list(fitted.staged_predict_proba(X)), axis=1),
        tuned.best_tau_,
        tuned.best_patience_,
        ensemble,
        joint_exit=joint_exit,
        multilabel=True,
        label_thresholds=[0.3, 0.4, 0.2],
    )
    assert_array_equal(found.exit_layer, expected.exit_layer)
    assert_array_equal(found.labels, expected.prediction)
    assert_allclose(found.entropy, expected.entropy, atol=1e-5)


def test_thresholds_then_policy(fitted, notes):
    X, y = notes
    tuned = TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted)).fit(X[:60], y[:60])
    proba = list(fitted.staged_predict_proba(X))[-1]
    assert_array_equal(list(tuned.staged_predict(X))[-1], proba > tuned.best_thresholds_)
    assert (tuned.best_scores_ >= tuned.default_scores_).all()
    fast = TunedExitPolicyClassifierCV(FrozenEstimator(tuned), min_speedup=0.3)
    fast.fit(X[60:], y[60:])
    assert speedup_score(fast, X[60:]) == pytest.approx(fast.best_speedup_)
    again = pickle.loads(pickle.dumps(fast))
    assert_array_equal(again.predict(X), fast.predict(X))
    fixed = FixedExitPolicyClassifier(FrozenEstimator(tuned), tau=0.0, patience=2).fit(X, y)
    expected = clone(fitted)
    vars(expected).update(vars(fitted))
    expected.set_params(tau=0.0, patience=2, label_thresholds=tuned.best_thresholds_)
    assert_array_equal(fixed.predict_exit_layer(X), expected.predict_exit_layer(X))
    assert_array_equal(fixed.predict(X), expected.predict(X))
    assert fitted.label_thresholds is None


def test_one_training_a_fold_for_thresholds_and_policies(monkeypatch, notes):
    X, y = notes
    trainings = []

    def counted(*args, **kwargs):
        trainings.append(1)
        return train_network(*args, **kwargs)

    monkeypatch.setattr(base, "train_network", counted)
    estimator = tiny_text_classifier(max_epochs=1)
    lists = [WORDS[row == 1].tolist() for row in y]
    model = TunedLabelThresholdsClassifierCV(estimator, cv=2, min_samples=1).fit(X, lists)
    assert len(trainings) == 3
    assert_array_equal(model.classes_, WORDS)
    trainings.clear()
    grid = {"label_thresholds": [None, 0.3, [0.2, 0.5, 0.1]], "tau": [0.0, 0.9]}
    for scoring in ("f1_micro", "f1_macro", "average_precision"):
        search = GridSearchCV(estimator, grid, scoring=scoring, cv=2).fit(X, y)
        assert 0 <= search.best_score_ <= 1
    assert len(trainings) == 3


def test_what_cannot_be_done_is_refused(fitted, notes):
    X, y = notes
    with pytest.raises(ValueError, match="calibrates the exits of one task, but y holds 3 labels"):
        ExitCalibratedClassifier(FrozenEstimator(fitted)).fit(X, y)
    tasks = tiny_text_classifier(target_type="tasks", max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="is for several labels per sample"):
        TunedLabelThresholdsClassifierCV(FrozenEstimator(tasks)).fit(X, y)
    model = TunedExitPolicyClassifierCV(FrozenEstimator(tasks), scoring="accuracy").fit(X, y)
    assert not model.multilabel_
    assert isinstance(model.predict_proba(X[:2]), list)
