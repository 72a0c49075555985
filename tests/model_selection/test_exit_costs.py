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
from sklearn_epee._exits.missing_exits import exit_shares
from sklearn_epee._exits.wrappers import staged_predictions
from sklearn_epee.plotting import ExitHistogramDisplay, LayerwiseDisplay
from sklearn_epee.policy import apply_policy

from .staged import N_LAYERS, NumericExits, blobs

COSTS = np.array([0.02, 0.04, 0.36, 0.68, 1.0])


class TwoParts(NumericExits):
    """Exits 1 and 2 are missing where feature 0 is below -1, and the others where it is above 4."""

    n_tower_layers_ = None

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
        shares = exit_shares(~np.isnan(staged[..., 0]), COSTS, self.n_tower_layers_)
        taken = shares[np.arange(len(shares)), found.exit_layer - 1]
        labels = self.classes_[found.prediction]
        return Bunch(labels=labels, exit_cost=taken, **found._asdict())


class Skipping(TwoParts):
    """Exit 2 is skipped where feature 1 is above 0: layers 1 to 2 and 3 to 5 are towers."""

    n_tower_layers_ = (2, 3)

    def _staged(self, X):
        staged = super()._staged(X)
        skipped = (np.asarray(X)[:, 1] > 0) & ~np.isnan(staged[:, [0, 2], 0]).any(axis=1)
        staged[skipped, 1] = np.nan
        return staged


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


@pytest.mark.parametrize("kind", [TwoParts, Skipping])
@pytest.mark.parametrize("wrapper", [TunedExitPolicyClassifierCV, FixedExitPolicyClassifier])
def test_wrappers_pass_the_costs_on(data, wrapper, kind):
    X, y = data
    wrapped = wrapper(kind(tau=0.6)).fit(X, y)
    assert_array_equal(wrapped.exit_costs_, COSTS)
    assert getattr(wrapped, "n_tower_layers_", None) == kind.n_tower_layers_
    found = wrapped.predict_with_exits(X)
    assert speedup_score(wrapped, X) == pytest.approx(1 - found.exit_cost.mean())
    # A classifier with a policy of its own is asked for costs as the one inside is.
    outer, inner = (staged_predictions(one, X)[0] for one in (wrapped, wrapped.estimator_))
    assert_array_equal(outer.exit_shares, inner.exit_shares)


def test_skipped_exits_are_saved_at_full_depth(data):
    X, y = data
    classifier = Skipping(tau=0).fit(X, y)
    skipped = np.isnan(classifier._staged(X)[:, 1, 0]) & (X[:, 0] >= -1)
    expected = skipped.mean() * (COSTS[1] - COSTS[0])
    assert speedup_score(classifier, X) == pytest.approx(expected)
    assert expected > 0


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


@pytest.mark.parametrize("kind", [TwoParts, Skipping])
def test_the_table_of_the_tuner_is_what_the_classifier_does(data, kind):
    X, y = data
    fitted = kind().fit(X, y)
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


@pytest.mark.parametrize("kind", [TwoParts, Skipping])
def test_the_histogram_tells_the_work_that_is_saved(data, kind):
    pytest.importorskip("matplotlib")
    X, y = data
    classifier = kind(tau=0.6).fit(X, y)
    display = ExitHistogramDisplay.from_estimator(classifier, X, y)
    assert display.speedup_ == pytest.approx(speedup_score(classifier, X))


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_an_exit_is_calibrated_on_the_samples_that_have_it(data, method):
    X, y = data

    class Logits(Skipping):
        def map_exit_logits(self, matrix, shift):
            return self

    classifier = Logits(tau=0.3).fit(X, y)
    own = ~np.isnan(classifier._staged(X)[..., 0])
    every = ExitCalibratedClassifier(FrozenEstimator(classifier), method=method).fit(X, y)
    for layer in (0, 1, 2):
        rows = own[:, layer]
        some = ExitCalibratedClassifier(FrozenEstimator(classifier), method=method)
        some.fit(X[rows], y[rows])
        for name in ("nll_before_", "nll_after_", "ece_before_"):
            assert_allclose(getattr(every, name)[layer], getattr(some, name)[layer])
        name = "temperatures_" if method == "temperature" else "scales_"
        assert_allclose(getattr(every, name)[layer], getattr(some, name)[layer])


def test_an_exit_that_no_sample_has_stays_as_it_is(data):
    X, y = data
    rows = X[:, 0] > 4
    classifier = TwoPartsWithLogits(tau=0.3).fit(X, y)
    labels = np.resize(classifier.classes_, rows.sum())
    found = ExitCalibratedClassifier(FrozenEstimator(classifier)).fit(X[rows], labels)
    assert_array_equal(found.temperatures_[2:], 1)
    assert (found.temperatures_[:2] != 1).all()
    for figures in (found.nll_before_, found.ece_after_):
        assert_array_equal(np.isnan(figures), [False, False, True, True, True])
