"""The tuned policy chooses `joint_exit`, too: as by separate tunings, for tasks and words."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee.metrics import exit_scores, span_f1_scorer
from sklearn_epee.policy import JOINT_EXITS
from tests.tagged import tagged_sentences, tiny_token_classifier
from tests.trainings import Trainings

from .staged import NumericTasks, task_blobs

# "any" first, so that ties are not settled in favor of the estimator's own.
OFFERED = ["any", "mean", "all"]
POLICIES = {"tau": [0.0, 0.3, 0.6, 2.0], "patience": [1, 2, 3]}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn_epee.exceptions.ClassRecallWarning")


@pytest.fixture(scope="module")
def tasks():
    return NumericTasks(tau=0.0).fit(*task_blobs(seed=7))


@pytest.fixture(scope="module")
def words():
    X, y = tagged_sentences(70, seed=1)
    classifier = tiny_token_classifier(max_epochs=8, transition_weight=0.3).fit(X[:30], y[:30])
    return classifier, X[30:], y[30:]


def tuned(classifier, X, y, policies, **parameters):
    return TunedExitPolicyClassifierCV(
        FrozenEstimator(classifier), policies=policies, store_cv_results=True, **parameters
    ).fit(X, y)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.6])
def test_tasks_exit_together_as_the_best_of_three_tunings(tasks, least):
    X, y = task_blobs(60)
    about = {"scoring": "accuracy", "min_speedup": least, "objective": "max_score"}
    found = tuned(tasks, X, y, {"joint_exit": OFFERED}, **about)
    apart = [tuned(tasks, X, y, {"joint_exit": [joint]}, **about) for joint in JOINT_EXITS]
    best = max((one.best_score_, one.best_speedup_) for one in apart)
    assert (found.best_score_, found.best_speedup_) == best
    assert len(found.cv_results_["tau"]) == sum(len(one.cv_results_["tau"]) for one in apart)
    assert [one.best_joint_exit_ for one in apart] == list(JOINT_EXITS)
    own = [clone(tasks).set_params(joint_exit=joint).fit(*task_blobs(seed=7)) for joint in OFFERED]
    alone = [tuned(classifier, X, y, "all", **about) for classifier in own]
    assert max((one.best_score_, one.best_speedup_) for one in alone) == best
    assert found.estimator_.joint_exit == found.best_joint_exit_
    assert exit_scores(found, X, y)["speedup"] == pytest.approx(found.best_speedup_)
    assert (found.predict(X) == y).all(axis=1).mean() == pytest.approx(found.best_score_)
    assert tasks.joint_exit == "all"  # it stays as it was


def test_the_choice_is_not_that_of_the_estimator_alone(tasks):
    X, y = task_blobs(60)
    chosen = {
        tuned(
            tasks, X, y, {"joint_exit": OFFERED}, scoring="accuracy",
            min_speedup=least, objective="max_score",
        ).best_joint_exit_
        for least in np.linspace(0, 0.7, 8)
    }  # fmt: skip
    assert len(chosen) > 1


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_words_exit_together_as_the_best_of_three_tunings(words, token_exit):
    fitted, X, y = words
    classifier = copy.copy(fitted).set_params(token_exit=token_exit)
    about = {"scoring": span_f1_scorer(), "min_speedup": 0.3}
    found = tuned(classifier, X, y, POLICIES | {"joint_exit": OFFERED}, **about)
    apart = [
        tuned(classifier, X, y, POLICIES | {"joint_exit": [joint]}, **about) for joint in OFFERED
    ]
    best = max((one.best_score_, one.best_speedup_) for one in apart)
    assert (found.best_score_, found.best_speedup_) == pytest.approx(best)
    assert set(found.cv_results_["joint_exit"]) == set(OFFERED)
    assert found.estimator_.joint_exit == found.best_joint_exit_
    scores = exit_scores(found, X, y)
    assert scores["span_f1"] == pytest.approx(found.best_score_)
    assert scores["speedup"] == pytest.approx(found.best_speedup_)


def test_without_the_key_it_is_that_of_the_estimator(words):
    fitted, X, y = words
    classifier = copy.copy(fitted).set_params(joint_exit="mean")
    found = tuned(classifier, X, y, 20, scoring=span_f1_scorer())
    assert found.best_joint_exit_ == "mean"
    assert set(found.pareto_front_["joint_exit"]) == {"mean"}


def test_a_guarantee_takes_one_joint_exit(tasks):
    X, y = task_blobs(200)
    about = {"risk": "disagreement", "max_risk": 0.5, "confidence": 0.5, "random_state": 0}
    about["scoring"] = "accuracy"
    with pytest.raises(ValueError, match=r"policies\['joint_exit'\] must hold a single value"):
        tuned(tasks, X, y, {"joint_exit": ["all", "mean"]}, **about)
    given = {joint: tuned(tasks, X, y, {"joint_exit": [joint]}, **about) for joint in OFFERED}
    for joint, found in given.items():
        own = clone(tasks).set_params(joint_exit=joint).fit(*task_blobs(seed=7))
        alone = tuned(own, X, y, "all", **about)
        assert found.best_joint_exit_ == found.estimator_.joint_exit == joint
        assert_array_equal(found.p_values_, alone.p_values_)
        assert (found.best_tau_, found.risk_) == (alone.best_tau_, alone.risk_)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("all", r"must be a list with some of 'all', 'mean' and 'any'; got 'all'"),
        ([], "must be a list"),
        (["most"], "joint_exit must be 'all', 'any' or 'mean'; got 'most'"),
        ([1], "joint_exit must be 'all', 'any' or 'mean'; got 1"),
    ],
)
def test_bad_ways_to_exit_are_refused_before_a_training(tmp_path, values, message):
    trainings = Trainings(tmp_path / "trainings")
    X, y = tagged_sentences(8)
    classifier = tiny_token_classifier(callbacks=[trainings])
    with pytest.raises((TypeError, ValueError), match=message):
        TunedExitPolicyClassifierCV(classifier, policies={"joint_exit": values}).fit(X, y)
    assert trainings.count == 0
