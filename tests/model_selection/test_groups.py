"""Groups, such as patients, are never on both sides of the splits that a policy is tuned on."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold

from sklearn_epee import ExitCalibratedClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.model_selection._risk_control import Groups, split_rows

from .staged import MappedExits, NumericExits, blobs


@pytest.fixture(scope="module")
def data():
    return blobs()


class Watched(NumericExits):
    """Records the samples that networks learn from, and predict, the first column being a name."""

    learned: ClassVar = []
    predicted: ClassVar = []

    def fit(self, X, y, sample_weight=None):
        self.learned.append(X[:, 0])
        return super().fit(X, y, sample_weight)

    def staged_predict_proba(self, X):
        self.predicted.append(X[:, 0])
        yield from super().staged_predict_proba(X)


@pytest.mark.parametrize("routing", [False, True])
@pytest.mark.parametrize("cv", [None, 3, 0.3])
def test_no_group_is_on_both_sides(cv, routing, data):
    X, y = data
    groups = np.random.default_rng(0).integers(0, 40, size=len(y)) + 100
    named = np.column_stack([np.arange(len(y)), X])
    Watched.learned, Watched.predicted = [], []
    model = TunedExitPolicyClassifierCV(Watched(), cv=cv, refit=cv != 0.3, random_state=0)
    with config_context(enable_metadata_routing=routing):
        model.fit(named, y, groups=groups)
    n_splits = {None: 5, 3: 3, 0.3: 1}[cv]
    assert len(Watched.predicted) == n_splits
    tested = np.concatenate(Watched.predicted).astype(int)
    assert len(np.unique(tested)) == len(tested)
    assert len(tested) == pytest.approx(300 if n_splits > 1 else 90, abs=10 * (n_splits == 1))
    for names in zip(Watched.learned, Watched.predicted, strict=False):
        train, test = (part.astype(int) for part in names)
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == len(y)
        shares = [np.mean(y[test] == label) - np.mean(y == label) for label in np.unique(y)]
        assert np.abs(shares).max() < 0.1


def test_a_float_draws_groups_at_random(data):
    X, y = data
    groups = np.arange(len(y)) % 30
    fronts = [
        TunedExitPolicyClassifierCV(NumericExits(), cv=0.3, refit=False, random_state=seed)
        .fit(X, y, groups=groups)
        .pareto_front_["score"]
        for seed in (0, 0, 1)
    ]
    assert_array_equal(fronts[0], fronts[1])
    assert len(fronts[0]) != len(fronts[2]) or (fronts[0] != fronts[2]).any()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(300), "groups must hold at least two groups"),
        (np.arange(300) % 3, "5 folds need as many groups; got 3"),
        (np.arange(299), "X and groups have inconsistent numbers of samples"),
    ],
)
def test_groups_that_cannot_be_split(groups, message, data):
    with pytest.raises(ValueError, match=message):
        TunedExitPolicyClassifierCV(NumericExits()).fit(*data, groups=groups)


def test_no_group_finds_candidates_and_tests_them():
    together = np.random.default_rng(0).integers(0, 50, size=400)
    labels = Groups.from_labels(None, np.full(400, True))
    parts = split_rows(replace(labels, together=together), np.random.RandomState(0))
    assert not set(together[parts.seen]) & set(together[parts.tested])
    assert sorted([*parts.seen, *parts.tested]) == list(range(400))
    assert 80 <= len(parts.seen) <= 120


def test_a_guarantee_keeps_groups_together(data):
    X, y = blobs(900)
    groups = np.repeat(np.arange(3), 300) * 10
    model = TunedExitPolicyClassifierCV(
        FrozenEstimator(NumericExits().fit(*data)),
        risk="disagreement",
        max_risk=0.3,
        confidence=0.9,
        random_state=0,
    ).fit(X, y, groups=groups)
    assert model.n_calibration_ == 600  # two of the three
    with pytest.raises(ValueError, match="groups must hold at least two groups"):
        model.fit(X, y, groups=np.zeros(900))


class HoldsOut(NumericExits):
    """Takes groups itself."""

    seen: ClassVar = []

    def __init__(self, validation_fraction=0.0, tau=0.3, patience=None):
        super().__init__(tau, patience)
        self.validation_fraction = validation_fraction

    def fit(self, X, y, sample_weight=None, groups=None):
        self.seen.append(groups)
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_groups_reach_an_estimator_that_holds_samples_out(fraction, data):
    X, y = data
    HoldsOut.seen = []
    groups = np.arange(len(y)) % 20
    TunedExitPolicyClassifierCV(HoldsOut(fraction), cv=2).fit(X, y, groups=groups)
    lengths = [None if seen is None else len(seen) for seen in HoldsOut.seen]
    assert len(lengths) == 3
    assert lengths[-1] == (len(y) if fraction else None)


class WatchedMapped(Watched, MappedExits):
    """Records the same, and can be calibrated."""


class HoldsOutMapped(HoldsOut, MappedExits):
    """Takes groups itself, and can be calibrated."""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_groups_reach_a_calibration_that_is_tuned(data):
    X, y = data
    groups = np.arange(len(y)) % 20
    named = np.column_stack([np.arange(len(y)), X])
    Watched.learned, Watched.predicted = [], []
    calibrated = ExitCalibratedClassifier(WatchedMapped(), cv=2)
    TunedExitPolicyClassifierCV(calibrated, cv=0.3, refit=False, random_state=0).fit(
        named, y, groups=groups
    )
    assert len(Watched.predicted) == 3  # two splits of the calibration, one of the policy
    for names in zip(Watched.learned, Watched.predicted, strict=True):
        train, test = (part.astype(int) for part in names)
        assert not set(groups[train]) & set(groups[test])


def test_groups_reach_a_search_that_is_tuned(data):
    X, y = data
    groups = np.arange(len(y)) % 20
    search = GridSearchCV(NumericExits(), {"tau": [0.1, 0.3]}, cv=GroupKFold(2))
    tuned = TunedExitPolicyClassifierCV(search, cv=2).fit(X, y, groups=groups)
    assert tuned.estimator_.n_splits_ == 2


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_groups_reach_an_estimator_that_is_calibrated(fraction, data):
    X, y = data
    HoldsOut.seen = []
    groups = np.arange(len(y)) % 20
    ExitCalibratedClassifier(HoldsOutMapped(fraction), cv=2).fit(X, y, groups=groups)
    lengths = [None if seen is None else len(seen) for seen in HoldsOut.seen]
    assert len(lengths) == 3
    assert lengths[-1] == (len(y) if fraction else None)


def test_a_fitted_estimator_that_held_samples_out_is_tuned_with_groups(data):
    X, y = data
    groups = np.arange(len(y)) % 20
    fitted = HoldsOut(0.2).fit(X, y)
    tuned = TunedExitPolicyClassifierCV(fitted, cv="prefit", refit=False)
    expected = TunedExitPolicyClassifierCV(FrozenEstimator(fitted)).fit(X, y)
    assert tuned.fit(X, y, groups=groups).best_score_ == expected.best_score_
