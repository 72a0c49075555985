"""A policy chosen elsewhere, over fitted and unfitted classifiers."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    speedup_score,
)
from sklearn_epee.policy import apply_policy

from .staged import N_LAYERS, NumericExits, blobs


@pytest.fixture(scope="module")
def data():
    return blobs()


def expected_of(classifier, X, tau, patience):
    staged = np.stack(list(classifier.staged_predict_proba(X)), axis=1)
    return apply_policy(staged, tau, patience)


WRAPPED = {
    "classifier": lambda: NumericExits(tau=0.0),
    "pipeline": lambda: make_pipeline(StandardScaler(), NumericExits(tau=0.0)),
    "search": lambda: GridSearchCV(NumericExits(), {"tau": [0.0, 0.4]}, cv=2),
    "pipeline in pipeline": lambda: make_pipeline(
        StandardScaler(), make_pipeline(StandardScaler(), NumericExits(tau=0.0))
    ),
    "frozen in pipeline": lambda: make_pipeline(
        StandardScaler(), FrozenEstimator(NumericExits(tau=0.0).fit(*blobs(seed=3)))
    ),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
def test_samples_leave_by_the_given_policy(name, frozen, data):
    X, y = data
    estimator = WRAPPED[name]()
    if frozen:
        estimator = FrozenEstimator(estimator.fit(X, y))
    before = pickle.dumps(estimator)
    fixed = FixedExitPolicyClassifier(estimator, tau=0.3, patience=3).fit(X, y)
    assert pickle.dumps(estimator) == before
    staged = np.stack(list(fixed.staged_predict_proba(X)), axis=1)
    expected = apply_policy(staged, 0.3, 3)
    result = fixed.predict_with_exits(X)
    assert_array_equal(result.exit_layer, expected.exit_layer)
    assert_array_equal(result.proba, expected.proba)
    assert_array_equal(fixed.predict_exit_layer(X), expected.exit_layer)
    assert_array_equal(fixed.predict_proba(X), expected.proba)
    assert_array_equal(fixed.predict(X), fixed.classes_[expected.prediction])
    assert_array_equal(list(fixed.staged_predict(X))[-1], fixed.classes_[staged[:, -1].argmax(1)])
    assert fixed.n_layers_ == N_LAYERS
    assert 1 < expected.exit_layer.mean() < N_LAYERS
    assert speedup_score(fixed, X) == 1 - expected.exit_layer.sum() / (len(X) * N_LAYERS)
    assert exit_scores(make_pipeline(fixed), X, y)["accuracy"] == fixed.score(X, y)


def test_the_policy_can_be_changed_after_fit(data):
    X, y = data
    inner = NumericExits(tau=0.0).fit(X, y)
    fixed = FixedExitPolicyClassifier(FrozenEstimator(inner), tau=0.3).fit(X, y)
    for tau, patience in ((0.3, None), (0.9, 2), (0.0, None), (0.0, 1), (2.0, None)):
        fixed.set_params(tau=tau, patience=patience)
        expected = expected_of(inner, X, tau, patience)
        assert_array_equal(fixed.predict_exit_layer(X), expected.exit_layer)
        assert_array_equal(fixed.predict(X), inner.classes_[expected.prediction])
    assert (inner.tau, inner.patience) == (0.0, None)
    for bad in ({"tau": -1.0}, {"tau": np.nan}, {"tau": 0.1, "patience": 0}):
        with pytest.raises(ValueError, match="must be"):
            fixed.set_params(**bad).predict(X)


def test_a_frozen_classifier_is_not_trained(data):
    inner = NumericExits().fit(*data)
    before = NumericExits.n_fits
    FixedExitPolicyClassifier(FrozenEstimator(inner)).fit(*data)
    assert NumericExits.n_fits == before
    FixedExitPolicyClassifier(inner).fit(*data)
    assert NumericExits.n_fits == before + 1


def test_weights_reach_the_classifier(data):
    X, y = data
    weight = np.linspace(0.1, 2, len(y))
    expected = NumericExits().fit(X, y, sample_weight=weight)
    fixed = FixedExitPolicyClassifier(NumericExits()).fit(X, y, sample_weight=weight)
    assert_array_equal(fixed.estimator_.centroids_, expected.centroids_)
    with config_context(enable_metadata_routing=True):
        inner = NumericExits().set_fit_request(sample_weight=True)
        fixed = FixedExitPolicyClassifier(inner).fit(X, y, sample_weight=weight)
    assert_array_equal(fixed.estimator_.centroids_, expected.centroids_)


def test_scores_are_weighted_where_weights_are_requested(data):
    X, y = data
    weight = np.arange(len(y)) % 2.0
    with config_context(enable_metadata_routing=True):
        inner = NumericExits().set_fit_request(sample_weight=False)
        fixed = FixedExitPolicyClassifier(inner, tau=0.5)
        with pytest.raises(UnsetMetadataPassedError, match=r"FixedExitPolicyClassifier\.score"):
            GridSearchCV(fixed, {"patience": [2]}, cv=KFold(2)).fit(X, y, sample_weight=weight)
        fixed.set_score_request(sample_weight=True)
        search = GridSearchCV(fixed, {"patience": [2]}, cv=KFold(2))
        search.fit(X, y, sample_weight=weight)
        piped = make_pipeline(fixed).fit(X, y).score(X, y, sample_weight=weight)
    expected = [
        clone(fixed)
        .set_params(patience=2)
        .fit(X[some], y[some])
        .score(X[rest], y[rest], weight[rest])
        for some, rest in KFold(2).split(X)
    ]
    found = [search.cv_results_[f"split{fold}_test_score"][0] for fold in range(2)]
    assert found == pytest.approx(expected)
    assert piped == pytest.approx(fixed.fit(X, y).score(X, y, weight))


def test_copies_and_pickles_predict_the_same(data):
    X, y = data
    fixed = FixedExitPolicyClassifier(NumericExits(), tau=0.4, patience=2)
    twin = clone(fixed)
    assert twin.get_params()["estimator__tau"] == 0.3
    assert twin.get_params()["tau"] == 0.4
    loaded = pickle.loads(pickle.dumps(fixed.fit(X, y)))
    assert_array_equal(loaded.predict_proba(X), fixed.predict_proba(X))
    search = GridSearchCV(fixed, {"tau": [0.0, 0.9], "estimator__n_layers": [3, 5]}, cv=2)
    assert search.fit(X, y).best_estimator_.n_layers_ in {3, 5}


def test_predictions_need_a_fit(data):
    X, y = data
    fixed = FixedExitPolicyClassifier(NumericExits())
    for method in ("predict", "predict_proba", "predict_exit_layer", "predict_with_exits"):
        with pytest.raises(NotFittedError):
            getattr(fixed, method)(X)
    with pytest.raises(NotFittedError):
        next(fixed.staged_predict_proba(X))
    with pytest.raises(NotFittedError):
        speedup_score(fixed, X)
    with pytest.raises(NotFittedError):
        FixedExitPolicyClassifier(FrozenEstimator(NumericExits())).fit(X, y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"tau": -0.1},
        {"tau": "0.1"},
        {"tau": np.nan},
        {"tau": np.inf},
        {"patience": 0},
        {"patience": 1.5},
    ],
)
def test_bad_policies_are_refused(parameters, data):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))}.* must be"):
        FixedExitPolicyClassifier(NumericExits(), **parameters).fit(*data)


@pytest.mark.parametrize("make", [FixedExitPolicyClassifier, TunedExitPolicyClassifierCV])
@pytest.mark.parametrize(
    ("estimator", "path"),
    [
        (LogisticRegression(), "LogisticRegression"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "Pipeline > LogisticRegression"),
        (
            FrozenEstimator(GridSearchCV(LogisticRegression(), {})),
            "FrozenEstimator > GridSearchCV > LogisticRegression",
        ),
        (FixedExitPolicyClassifier(NumericExits()), "FixedExitPolicyClassifier"),
        (TunedExitPolicyClassifierCV(NumericExits()), "TunedExitPolicyClassifierCV"),
    ],
)
def test_estimators_without_exits_of_their_own_are_refused(make, estimator, path, data):
    with pytest.raises(TypeError, match=f"must be a classifier with early exits.*got {path}\\."):
        make(estimator).fit(*data)


def test_a_search_that_prefers_a_classifier_without_exits_is_refused(data):
    X, y = data
    steps = Pipeline([("last", NumericExits())])
    grid = {"last": [NumericExits(tau=2.0), LogisticRegression()]}
    search = GridSearchCV(steps, grid, cv=2).fit(X, y)
    assert isinstance(search.best_estimator_[-1], LogisticRegression)
    for estimator in (search, FrozenEstimator(search)):
        with pytest.raises(TypeError, match=r"early exits.*got .*LogisticRegression"):
            FixedExitPolicyClassifier(estimator).fit(X, y)


def test_pickles_from_before_several_labels():
    X, y = blobs(60)
    fixed = FixedExitPolicyClassifier(NumericExits(), patience=2).fit(X, y)
    before = fixed.score(X, y), np.array(list(fixed.staged_predict(X)))
    del fixed.multilabel_
    again = pickle.loads(pickle.dumps(fixed))
    assert again.score(X, y) == before[0]
    assert_array_equal(np.array(list(again.staged_predict(X))), before[1])
