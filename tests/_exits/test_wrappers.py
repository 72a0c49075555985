"""The way through wrappers, and classifiers and wrappers of others that keep to the protocol."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from sklearn_epee import (
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    speedup_score,
)
from sklearn_epee._exits.protocol import DelegatesExitPolicy, EarlyExitClassifier, MapsExitLogits
from sklearn_epee._exits.wrappers import (
    chain,
    check_has_exits,
    exit_classifier,
    find_exits,
    own_policy,
    staged_predictions,
    step_inwards,
    with_policy,
)
from sklearn_epee.policy import apply_policy
from tests.classifiers import tiny_text_classifier
from tests.model_selection.staged import NumericExits, blobs

X, Y = blobs(200)


class Minimal(BaseEstimator):
    """All that the protocol asks for, and nothing inherited but parameters."""

    def __init__(self, tau=0.1, patience=None):
        self.tau = tau
        self.patience = patience

    def fit(self, X, y):
        self.inner_ = NumericExits().fit(X, y)
        self.classes_, self.n_layers_ = self.inner_.classes_, self.inner_.n_layers_
        return self

    def staged_predict_proba(self, X):
        return self.inner_.staged_predict_proba(X)

    def predict_with_exits(self, X):
        proba = np.stack(list(self.staged_predict_proba(X)), axis=1)
        found = apply_policy(proba, self.tau, self.patience)
        labels = self.classes_[found.prediction]
        return Bunch(
            labels=labels, proba=found.proba, exit_layer=found.exit_layer, entropy=found.entropy
        )

    def predict_exit_layer(self, X):
        return self.predict_with_exits(X).exit_layer

    def predict(self, X):
        return self.predict_with_exits(X).labels


class PassesOn(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A meta-estimator without a policy of its own."""

    delegates_exit_policy = True

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def predict(self, X):
        return self.estimator_.predict(X)


def test_the_package_keeps_to_its_own_protocol(text_classifier):
    assert isinstance(text_classifier, EarlyExitClassifier)
    assert isinstance(text_classifier, MapsExitLogits)
    assert isinstance(Minimal().fit(X, Y), EarlyExitClassifier)
    assert isinstance(PassesOn(Minimal()).fit(X, Y), DelegatesExitPolicy)
    assert not isinstance(LogisticRegression(), EarlyExitClassifier)


@pytest.mark.parametrize("wrap", [lambda inner: inner, PassesOn])
def test_a_classifier_that_inherits_nothing_can_be_scored_and_tuned(wrap):
    classifier = wrap(Minimal()).fit(X, Y)
    fixed = FixedExitPolicyClassifier(FrozenEstimator(classifier), tau=0.0).fit(X, Y)
    assert speedup_score(fixed, X) == 0
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(classifier), min_speedup=0.4).fit(X, Y)
    assert exit_scores(tuned, X, Y)["speedup"] == pytest.approx(tuned.best_speedup_)
    assert exit_classifier(classifier).tau == 0.1


WRAPPERS = {
    "frozen": FrozenEstimator,
    "pipeline": lambda inner: make_pipeline(StandardScaler(), inner),
    "search": lambda inner: GridSearchCV(inner, {}, cv=2),
    "delegating": PassesOn,
    "nested": lambda inner: GridSearchCV(
        make_pipeline(StandardScaler(), PassesOn(inner)), {}, cv=2
    ),
}


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "frozen"])
def test_policies_are_changed_in_a_copy(name):
    wrapper = WRAPPERS[name](NumericExits(tau=0.3))
    check_has_exits(wrapper)
    wrapper.fit(X, Y)
    before = wrapper.predict(X)
    for fitted in (wrapper, FrozenEstimator(wrapper)):
        slow = with_policy(fitted, 0.0, None)
        found = find_exits(slow, X)
        assert (found.classifier.predict_exit_layer(found.X) == 5).all()
        assert found.is_transparent
        assert own_policy(slow)[:2] == (0.0, None)
        assert own_policy(fitted)[:2] == (0.3, None)
        assert_array_equal(fitted.predict(X), before)


def test_every_link_of_a_chain():
    wrapper = FrozenEstimator(WRAPPERS["nested"](NumericExits()).fit(X, Y))
    names = [type(link).__name__ for link in chain(wrapper)]
    assert names == ["FrozenEstimator", "GridSearchCV", "Pipeline", "PassesOn", "NumericExits"]


def test_a_tuned_policy_is_its_own():
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(NumericExits().fit(X, Y))).fit(X, Y)
    assert own_policy(tuned)[:2] == (tuned.best_tau_, tuned.best_patience_)
    with pytest.raises(TypeError, match=r"got TunedExitPolicyClassifierCV\."):
        exit_classifier(tuned)  # its policy is not to be overruled


def test_staged_predictions_carry_the_ensemble():
    inner = NumericExits(exit_ensemble="mean").fit(X, Y)
    staged, tasks = staged_predictions(make_pipeline(StandardScaler(), inner).fit(X, Y), X)
    assert staged.exit_ensemble == "mean"
    assert_array_equal(tasks.classes, ["ant", "bee", "cow"])
    assert not np.allclose(staged.proba[0], staged.head_proba[0])


def test_searches_without_refit_hold_nothing():
    search = GridSearchCV(NumericExits(), {}, cv=2, refit=False)
    assert step_inwards(search, fitted=False).inner is search.estimator
    search.fit(X, Y)
    with pytest.raises(ValueError, match="was fitted with refit=False"):
        find_exits(search, X)


@pytest.mark.parametrize("name", WRAPPERS)
def test_unfitted_wrappers_are_refused(name):
    with pytest.raises(NotFittedError):
        find_exits(copy.deepcopy(WRAPPERS[name](NumericExits())), X)


def test_what_has_no_exits():
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    with pytest.raises(TypeError, match="got Pipeline > LogisticRegression"):
        check_has_exits(linear)
    with pytest.raises(TypeError, match="got FrozenEstimator > Pipeline > LogisticRegression"):
        find_exits(FrozenEstimator(linear.fit(X, Y)), X)


def test_exits_are_combined_with_the_weights_of_the_fit():
    texts, labels = ["no zinc", "takes zinc", "no iron", "takes iron"] * 5, [0, 1] * 10
    clf = tiny_text_classifier(exit_ensemble="weighted", tau=0).fit(texts, labels)
    before = clf.predict_proba(texts)
    clf.set_params(exit_loss_weights="descending")
    assert_array_equal(clf.predict_proba(texts), before)
    assert clf.exit_weights_.tolist() == [1, 2, 3]
    staged, _ = staged_predictions(clf, texts)
    assert_allclose(staged.proba[0][:, -1], before, atol=1e-6)
    with pytest.raises(AttributeError, match="exit_weights_"):
        clone(clf).exit_weights_  # noqa: B018
