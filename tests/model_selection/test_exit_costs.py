"""Classifiers whose exits cost different amounts, for samples that lack some: scores and tuner."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    speedup_score,
)
from sklearn_epee._exits.own_exits import relative_costs
from sklearn_epee.plotting import LayerwiseDisplay
from sklearn_epee.policy import apply_policy

from .staged import N_LAYERS, NumericExits, blobs

COSTS = np.array([0.02, 0.04, 0.36, 0.68, 1.0])


class TwoParts(NumericExits):
    """Exits 1 and 2 are missing where feature 0 is below -1, and the others where it is above 4."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.exit_costs_ = COSTS
        return self

    def _staged(self, X):
        staged = super()._staged(X)
        first = np.asarray(X)[:, 0]
        staged[first < -1, :2] = np.nan
        staged[first > 4, 2:] = np.nan
        return staged

    def predict_with_exits(self, X):
        staged = self._staged(X)
        found = apply_policy(staged, self.tau, self.patience)
        costs = relative_costs(COSTS, ~np.isnan(staged[..., 0]))
        taken = costs[np.arange(len(costs)), found.exit_layer - 1] / costs[:, -1]
        labels = self.classes_[found.prediction]
        return Bunch(labels=labels, exit_cost=taken, **found._asdict())


class TwoPartsWithLogits(TwoParts):
    """Its logits can be mapped, for which they need not change here."""

    def map_exit_logits(self, matrix, shift):
        return self


@pytest.fixture(scope="module")
def data():
    return blobs(240)


def test_speed_up_counts_work_where_it_is_known(data):
    X, y = data
    classifier = TwoParts(tau=0.6).fit(X, y)
    found = classifier.predict_with_exits(X)
    assert len(np.unique(found.exit_layer)) > 2
    expected = 1 - found.exit_cost.mean()
    assert speedup_score(classifier, X) == pytest.approx(expected)
    assert exit_scores(classifier, X, y)["speedup"] == pytest.approx(expected)
    weights = np.arange(1.0, len(y) + 1)
    weighted = exit_scores(classifier, X, y, sample_weight=weights)["speedup"]
    assert weighted == pytest.approx(1 - np.average(found.exit_cost, weights=weights))


def test_full_depth_saves_nothing_also_where_exits_are_lacking(data):
    X, y = data
    classifier = TwoParts(tau=0).fit(X, y)
    exits = classifier.predict_exit_layer(X)
    assert set(exits) == {2, N_LAYERS}
    assert speedup_score(classifier, X) == 0


@pytest.mark.parametrize("wrapper", [TunedExitPolicyClassifierCV, FixedExitPolicyClassifier])
def test_wrappers_pass_the_costs_on(data, wrapper):
    X, y = data
    wrapped = wrapper(TwoParts(tau=0.6)).fit(X, y)
    assert_array_equal(wrapped.exit_costs_, COSTS)
    found = wrapped.predict_with_exits(X)
    assert speedup_score(wrapped, X) == pytest.approx(1 - found.exit_cost.mean())


@pytest.mark.filterwarnings("ignore::sklearn_epee.exceptions.ClassRecallWarning")
def test_the_tuner_chooses_by_work(data):
    X, y = data
    tuned = TunedExitPolicyClassifierCV(
        TwoParts(), max_accuracy_drop=0.02, cv=0.5, refit=False, random_state=0
    ).fit(X, y)
    # More than by layers, of which the two cheap ones are a part of 2 / 5.
    assert tuned.best_speedup_ > 0.1
    twin = TunedExitPolicyClassifierCV(
        TwoParts(), min_speedup=0.9, cv=0.5, refit=False, random_state=0
    ).fit(X, y)
    assert twin.best_speedup_ >= 0.9  # cannot be reached by layers, of which there are 5


def test_the_table_of_the_tuner_is_what_the_classifier_does(data):
    X, y = data
    fitted = TwoParts().fit(X, y)
    tuned = TunedExitPolicyClassifierCV(
        fitted, cv="prefit", refit=False, store_cv_results=True
    ).fit(X, y)
    table = tuned.cv_results_
    for row in range(0, len(table["tau"]), len(table["tau"]) // 20):
        fitted.set_params(tau=table["tau"][row], patience=int(table["patience"][row]))
        assert speedup_score(fitted, X) == pytest.approx(table["speedup"][row])


def test_displays_show_the_nearest_exit(data):
    pytest.importorskip("matplotlib")
    X, y = data
    classifier = TwoParts().fit(X, y)
    display = LayerwiseDisplay.from_estimator(classifier, X, y)
    assert np.isfinite(display.mean_entropy).all()
    staged = np.stack(list(classifier.staged_predict_proba(X)), axis=1)
    again = LayerwiseDisplay.from_predictions(y, staged)
    assert_allclose(again.accuracy, display.accuracy)


def test_exits_are_calibrated_on_samples_that_have_them_all(data):
    X, y = data
    classifier = TwoPartsWithLogits(tau=0.3).fit(X, y)
    has_all = (X[:, 0] >= -1) & (X[:, 0] <= 4)
    every = ExitCalibratedClassifier(FrozenEstimator(classifier)).fit(X, y)
    some = ExitCalibratedClassifier(FrozenEstimator(classifier)).fit(X[has_all], y[has_all])
    assert 0 < has_all.sum() < len(y)
    assert_allclose(every.temperatures_, some.temperatures_)
