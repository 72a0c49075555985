"""Fixed and tuned policies around the package's own classifiers of texts and images."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import (
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    speedup_score,
)
from sklearn_epee._base import estimator as base
from sklearn_epee._nn.training import train_network
from sklearn_epee.datasets import make_supplement_notes
from tests.classifiers import tiny_text_classifier

# On a GPU the last digits of a probability depend on the batch. A threshold lies halfway between
# two entropies, but where these differ in the last digits alone, a sample may move.
EXACT = "cpu"


def upper(texts):
    return [text.upper() for text in texts]


@pytest.fixture(scope="module")
def other_notes():
    return make_supplement_notes(150, random_state=1)


@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
@pytest.mark.parametrize("wishes", [{"min_speedup": 0.3}, {"max_accuracy_drop": 0.05}])
def test_prediction_does_what_was_promised(ensemble, wishes, text_classifier, other_notes):
    X, y = other_notes
    text_classifier.set_params(exit_ensemble=ensemble, tau=0.123, device=EXACT)
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(text_classifier), **wishes).fit(X, y)
    scores = exit_scores(tuned, X, y)
    assert scores["accuracy"] == tuned.score(X, y)
    assert scores["macro_f1"] == pytest.approx(tuned.best_score_)
    assert scores["speedup"] == pytest.approx(tuned.best_speedup_)
    assert (text_classifier.tau, text_classifier.patience) == (0.123, None)


def test_all_policies_of_the_front_predict_what_was_promised(text_classifier, other_notes):
    X, y = other_notes
    frozen = FrozenEstimator(text_classifier.set_params(device=EXACT))
    front = TunedExitPolicyClassifierCV(frozen, scoring="accuracy").fit(X, y).pareto_front_
    fixed = FixedExitPolicyClassifier(frozen).fit(X, y)
    for i in np.linspace(0, len(front["tau"]) - 1, 12).astype(int):
        fixed.set_params(tau=front["tau"][i], patience=int(front["patience"][i]))
        assert speedup_score(fixed, X) == pytest.approx(front["speedup"][i])
        assert fixed.score(X, y) == pytest.approx(front["score"][i])


def test_what_was_learned_is_shared(text_classifier, texts, labels):
    frozen = FrozenEstimator(text_classifier)
    fixed = FixedExitPolicyClassifier(frozen, tau=0.0, patience=2).fit(texts, labels)
    assert fixed.estimator_.estimator.net_ is text_classifier.net_
    alone, wrapped = (len(pickle.dumps(each)) for each in (text_classifier, fixed))
    assert wrapped < 1.1 * alone
    loaded = pickle.loads(pickle.dumps(fixed))
    assert_array_equal(loaded.predict_exit_layer(texts), fixed.predict_exit_layer(texts))
    twin = copy.deepcopy(fixed)
    assert_array_equal(twin.predict_proba(texts), fixed.predict_proba(texts))


@pytest.mark.parametrize("container", [list, np.array, pd.Series])
def test_cross_validation_over_texts(container, notes):
    X, y = notes
    tuned = TunedExitPolicyClassifierCV(
        make_pipeline(FunctionTransformer(upper), tiny_text_classifier(max_epochs=1)),
        min_speedup=0.3,
        cv=2,
    ).fit(container(X), y)
    assert tuned.best_speedup_ >= 0.3
    assert tuned.n_layers_ == 3
    assert tuned.predict(container(X)).shape == (len(y),)
    assert_array_equal(tuned.classes_, np.unique(y))


def test_pairs_of_texts(notes):
    X, y = notes
    pairs = pd.DataFrame({"first": X, "second": X[::-1]})
    tuned = TunedExitPolicyClassifierCV(tiny_text_classifier(max_epochs=1), cv=0.3).fit(pairs, y)
    assert tuned.predict_exit_layer(pairs).max() <= 3


def test_an_image_classifier_is_as_fast_as_its_policy_was_chosen(image_classifier, digits):
    X, y = digits
    image_classifier.set_params(device=EXACT)
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(image_classifier), min_speedup=0.4)
    assert speedup_score(tuned.fit(X, y), X) == pytest.approx(tuned.best_speedup_)


def test_the_risk_of_a_text_classifier_is_certified(text_classifier, other_notes):
    X, y = other_notes
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(text_classifier),
        risk=lambda _, answer, full: 0.1 * (answer != full),
        max_risk=0.09,
        confidence=0.9,
        random_state=0,
    ).fit(X, y)
    assert tuned.certified_
    assert speedup_score(tuned, X) > 0


def test_a_search_over_criteria_trains_as_often_as_without_it(notes, monkeypatch):
    n_trained = 0

    def counted(*arguments):
        nonlocal n_trained
        n_trained += 1
        return train_network(*arguments)

    monkeypatch.setattr(base, "train_network", counted)
    counts = []
    for criteria in ([0.1], [0.1, 0.3, 0.5]):
        n_trained = 0
        estimator = tiny_text_classifier(max_epochs=1, random_state=None)
        tuned = TunedExitPolicyClassifierCV(estimator, cv=2)
        GridSearchCV(tuned, {"min_speedup": criteria}, cv=3).fit(*notes)
        counts.append(n_trained)
    assert counts[0] == counts[1] <= (3 + 1) * (2 + 1)
