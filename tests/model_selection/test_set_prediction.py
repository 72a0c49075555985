"""`conformalize` and `predict_set` of every classifier with a policy chosen from outside."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
)
from sklearn_epee.datasets import make_supplement_notes
from tests.classifiers import tiny_multimodal_classifier

from .staged import (
    MappedExits,
    NumericExits,
    NumericLabels,
    NumericTasks,
    blobs,
    label_clouds,
    task_blobs,
)

X, Y = blobs(900)
TRAIN, HELD, NEW = slice(0, 200), slice(200, 600), slice(600, 900)
FROZEN = FrozenEstimator(MappedExits(tau=0.3).fit(X[TRAIN], Y[TRAIN]))


def fixed(**policy):
    return FixedExitPolicyClassifier(FROZEN, **policy).fit(X, Y)


def sets_at_exits(clf, samples):
    """The sets of all exits, read at the exits that the policy takes."""
    staged = np.stack(list(clf.staged_predict_set(samples)), axis=1)
    return staged[np.arange(len(samples)), clf.predict_exit_layer(samples) - 1]


@pytest.mark.parametrize(
    "clf",
    [
        FixedExitPolicyClassifier(FROZEN, tau=0.3),
        TunedExitPolicyClassifierCV(FROZEN, min_speedup=0.3),
        ExitCalibratedClassifier(FROZEN),
        TunedExitPolicyClassifierCV(ExitCalibratedClassifier(FROZEN), min_speedup=0.3, cv=2),
        FixedExitPolicyClassifier(
            FrozenEstimator(make_pipeline(StandardScaler(), NumericExits()).fit(X[TRAIN], Y[TRAIN]))
        ),
    ],
    ids=["fixed", "tuned", "calibrated", "tuned and calibrated", "pipeline"],
)
@pytest.mark.parametrize("per_class", [False, True])
def test_sets_are_those_of_the_exits_and_cover(clf, per_class):
    clf = clone(clf).fit(X[TRAIN], Y[TRAIN])
    proba = clf.predict_proba(X[NEW])
    assert clf.conformalize(X[HELD], Y[HELD], per_class=per_class, random_state=0) is clf
    sets = clf.predict_set(X[NEW])
    assert sets.shape == (300, 3)
    assert sets.dtype == bool
    assert sets.any(axis=1).all()
    assert_array_equal(sets, sets_at_exits(clf, X[NEW]))
    inside = sets[np.arange(300), np.searchsorted(clf.classes_, Y[NEW])]
    assert inside.mean() > 0.82
    assert_array_equal(clf.predict_proba(X[NEW]), proba)


def test_another_policy_needs_no_other_sets_unless_they_are_for_one():
    clf = fixed(tau=0.3, patience=3).conformalize(X[HELD], Y[HELD], random_state=0)
    for policy in ({"tau": 0.9}, {"tau": 0.0, "patience": None}):
        clf.set_params(**policy)
        assert_array_equal(clf.predict_set(X[NEW]), sets_at_exits(clf, X[NEW]))
    clf = fixed(tau=0.3, patience=3)
    clf.conformalize(X[HELD], Y[HELD], valid_for="policy", random_state=0)
    assert clf.predict_set(X[NEW]).shape == (300, 3)
    with pytest.raises(ValueError, match="valid_for='policy', for the visited exits only"):
        next(clf.staged_predict_set(X[NEW]))
    with pytest.raises(
        ValueError,
        match=r"valid for tau=0\.3, patience=3, min_exit_layer=1, but the policy is now tau=0",
    ):
        clf.set_params(tau=0.0).predict_set(X[NEW])


def test_higher_coverage_makes_larger_sets():
    clf = fixed()
    sets = [
        clf.conformalize(X[HELD], Y[HELD], coverage=coverage, random_state=0).predict_set(
            X[NEW], allow_empty=True
        )
        for coverage in (0.3, 0.8, 0.95)
    ]
    assert (sets[0] <= sets[1]).all()
    assert (sets[1] <= sets[2]).all()
    assert not sets[0].any(axis=1).all()


def test_too_few_samples_warn():
    with pytest.warns(UserWarning, match="All classes are in every set: a coverage of 0.9 needs 9"):
        sets = fixed().conformalize(X[:8], Y[:8]).predict_set(X[NEW])
    assert sets.all()
    rare = np.flatnonzero(Y == "cow")[10:]
    few = np.setdiff1d(np.arange(400), rare)
    message = r"The classes 'cow' \(\d samples\) are in every set.* of each class"
    with pytest.warns(UserWarning, match=message):
        sets = fixed().conformalize(X[few], Y[few], per_class=True).predict_set(X[NEW])
    assert sets[:, 2].all()
    assert not sets[:, 0].all()


def test_sets_need_calibration_of_this_fit():
    clf = fixed()
    with pytest.raises(NotFittedError, match="call 'conformalize' with held-out samples"):
        clf.predict_set(X)
    with pytest.raises(NotFittedError):
        FixedExitPolicyClassifier(FROZEN).conformalize(X, Y)
    clf.conformalize(X[HELD], Y[HELD])
    assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_set(X), clf.predict_set(X))
    clf.fit(X, Y)
    with pytest.raises(NotFittedError):
        clf.predict_set(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coverage": 1.0}, "coverage must be a float in"),
        ({"coverage": "high"}, "coverage must be a float in"),
        ({"coverage": True}, "coverage must be a float in"),
        ({"per_class": "yes"}, "per_class must be True or False"),
        ({"valid_for": "all"}, "valid_for must be 'any_policy' or 'policy'; got 'all'"),
        ({"y": Y[NEW]}, "different|samples|inconsistent"),
        ({"y": np.where(Y[HELD] == "ant", "emu", Y[HELD])}, "emu"),
    ],
)
def test_bad_arguments_are_named_and_change_nothing(arguments, message):
    clf = fixed().conformalize(X[HELD], Y[HELD])
    before = clf.predict_set(X[NEW])
    with pytest.raises((TypeError, ValueError), match=message):
        clf.conformalize(**{"X": X[HELD], "y": Y[HELD]} | arguments)
    assert_array_equal(clf.predict_set(X[NEW]), before)


def test_tasks_and_labels_are_refused():
    cloud, sets = label_clouds(80)
    tuned = TunedLabelThresholdsClassifierCV(
        FrozenEstimator(NumericLabels().fit(cloud, sets)), min_samples=1
    ).fit(cloud, sets)
    with pytest.raises(ValueError, match="y has several labels per sample"):
        tuned.conformalize(cloud, sets)
    cloud, tasks = task_blobs(80)
    clf = FixedExitPolicyClassifier(FrozenEstimator(NumericTasks().fit(cloud, tasks)))
    with pytest.raises(ValueError, match="one class per sample, but y has 2 tasks"):
        clf.fit(cloud, tasks).conformalize(cloud, tasks)


# ------------------------------------------------------------------- the package's own networks


def assert_visited(clf, samples):
    staged = np.stack(list(clf.staged_predict_proba(samples)), axis=1)
    visited = clf.visited_predict_proba(samples)
    layers = np.arange(1, clf.n_layers_ + 1)
    own = ~np.isnan(staged[..., 0])
    expected = (layers <= clf.predict_exit_layer(samples)[:, np.newaxis]) & own
    assert_array_equal(~np.isnan(visited[..., 0]), expected)
    np.testing.assert_allclose(visited[expected], staged[expected], atol=1e-5)


@pytest.mark.parametrize("policy", [{"tau": 0.95}, {"tau": 0.0, "patience": 2}, {"tau": 0.0}])
def test_visited_probabilities_stop_at_the_exit(text_classifier, texts, policy):
    assert_visited(text_classifier.set_params(device="cpu", **policy), texts)


def test_visited_probabilities_of_two_towers(texts, labels, digits):
    images = [image for image, _ in zip(digits[0], texts, strict=False)]
    rows = list(zip(texts, images, strict=False))
    rows[0], rows[1] = (None, images[0]), (texts[1], None)
    clf = tiny_multimodal_classifier(max_epochs=1, hand_over_after=2)
    clf.fit(rows, labels[: len(rows)])
    for policy in ({"tau": 0.97}, {"tau": 0.0, "patience": 2}):
        assert_visited(clf.set_params(device="cpu", **policy), rows)


@pytest.mark.parametrize("valid_for", ["policy", "any_policy"])
def test_sets_are_saved_without_pickle(text_classifier, tmp_path, valid_for):
    X_new, y_new = make_supplement_notes(80, random_state=1)
    clf = FixedExitPolicyClassifier(FrozenEstimator(text_classifier), tau=0.9).fit(X_new, y_new)
    clf.conformalize(X_new, y_new, valid_for=valid_for, random_state=0).save_pretrained(tmp_path)
    loaded = FixedExitPolicyClassifier.from_pretrained(tmp_path)
    assert_array_equal(loaded.predict_set(X_new), clf.predict_set(X_new))


def test_predict_set_runs_no_layer_above_the_exit(text_classifier, monkeypatch):
    X_new, y_new = make_supplement_notes(120, random_state=1)
    clf = FixedExitPolicyClassifier(FrozenEstimator(text_classifier), tau=0.97)
    clf.fit(X_new, y_new).conformalize(X_new, y_new, coverage=0.7, random_state=0)
    expected = sets_at_exits(clf, X_new)
    monkeypatch.setattr(type(text_classifier), "staged_predict_proba", None)
    assert_array_equal(clf.predict_set(X_new), expected)
