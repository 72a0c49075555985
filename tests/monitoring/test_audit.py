"""ExitAudit: what it counts, when it alarms, what it tightens, and how it is continued."""

import json
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import FixedExitPolicyClassifier, TunedExitPolicyClassifierCV, monitoring
from sklearn_epee.exceptions import ExitAlarmWarning
from sklearn_epee.monitoring import ExitAudit
from tests.model_selection.staged import NumericExits, NumericTasks, blobs, task_blobs

X, Y = blobs(3000)
CLASSIFIER = NumericExits(tau=0.9).fit(X[:300], Y[:300])


def full_depth(X):
    return CLASSIFIER.classes_[list(CLASSIFIER.staged_predict_proba(X))[-1].argmax(axis=1)]


def quiet(audit, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExitAlarmWarning)
        return audit.predict_with_exits(X)


def test_predictions_stay_and_audits_are_counted():
    audit = ExitAudit(CLASSIFIER, max_disagreement=0.9, share=0.3, random_state=0)
    found = audit.predict_with_exits(X[:500])
    expected = CLASSIFIER.predict_with_exits(X[:500])
    for name in expected:
        assert_array_equal(found[name], expected[name])
    assert found.audited.sum() == audit.n_audited_
    assert 0.2 < found.audited.mean() < 0.4
    differs = (found.labels != full_depth(X[:500]))[found.audited]
    assert audit.n_disagreed_ == differs.sum() > 0
    report = audit.report()
    assert report["disagreement"] == differs.mean()
    assert report["low"] <= differs.mean() <= report["high"]
    assert (report["n_seen"], report["promise"]) == (500, "kept")
    json.dumps(report)


@pytest.mark.parametrize(
    "estimator",
    [
        FixedExitPolicyClassifier(FrozenEstimator(CLASSIFIER), tau=0.9),
        TunedExitPolicyClassifierCV(FrozenEstimator(CLASSIFIER), min_speedup=0.7),
        make_pipeline(StandardScaler(), NumericExits(tau=0.9)),
        make_pipeline(StandardScaler(), FixedExitPolicyClassifier(NumericExits(), tau=0.9)),
        GridSearchCV(FixedExitPolicyClassifier(NumericExits()), {"tau": [0.9]}, cv=2),
    ],
    ids=["fixed", "tuned", "pipeline", "fixed in a pipeline", "fixed in a search"],
)
def test_wrapped_classifiers(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X[:300], Y[:300])
    audit = ExitAudit(estimator, max_disagreement=0.02, share=1.0, tighten=True, random_state=0)
    predicted = estimator.predict(X)
    assert_array_equal(quiet(audit, X).labels, predicted)
    assert audit.alarm_
    assert audit.tau_ < 0.9
    after = quiet(audit, X)
    assert after.exit_layer.mean() > 1
    assert_array_equal(estimator.predict(X), predicted)  # it stays as it is


def test_wrappers_that_may_predict_otherwise_are_refused():
    binary = Y != "cow"
    wrapped = FixedThresholdClassifier(NumericExits(tau=0.9), threshold=0.2, pos_label="ant")
    with pytest.raises(TypeError, match="contains a FixedThresholdClassifier, which may change"):
        ExitAudit(wrapped.fit(X[binary], Y[binary]), max_disagreement=0.1)


def test_an_alarm_warns_once_and_says_what_to_do():
    audit = ExitAudit(CLASSIFIER, max_disagreement=0.01, share=1.0, random_state=0)
    with pytest.warns(ExitAlarmWarning, match=r"above 0\.01 \(confidence 0\.95\).*Tune the policy"):
        audit.predict(X[:500])
    assert audit.alarm_
    assert audit.evidence_ > 20
    first = audit.alarms_[0]
    assert (first["tau"], first["patience"]) == (0.9, None)
    assert 0 < first["n_audited"] <= first["n_seen"] == 500
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit.predict(X[500:1000])
    assert len(audit.alarms_) == 1
    assert audit.tau_ == 0.9
    assert audit.report()["promise"] == "broken"


def test_tightening_stops_where_the_promise_is_kept():
    audit = ExitAudit(
        CLASSIFIER, max_disagreement=0.05, share=1.0, tighten=True, n_steps=8, random_state=0
    )
    for _ in range(3):
        quiet(audit, X)
    assert [alarm["tau"] for alarm in audit.alarms_] == sorted(
        (alarm["tau"] for alarm in audit.alarms_), reverse=True
    )
    assert 0 < audit.tau_ < 0.9
    assert audit.estimator_.tau == audit.tau_
    assert CLASSIFIER.tau == 0.9
    differs = audit.predict(X) != full_depth(X)
    assert differs.mean() < 0.05
    assert audit.n_disagreed_ / audit.n_audited_ == pytest.approx(differs.mean())


def easy_and_hard(tau=0.9):
    """Samples that agree with full depth under a policy, and samples that do not."""
    clf = NumericExits(tau=tau).fit(X[:300], Y[:300])
    differs = clf.predict(X) != full_depth(X)
    return clf, X[~differs], X[differs]


def mixed(easy, hard, n, share):
    """n samples of which so many differ from full depth, evenly."""
    is_hard = np.diff(np.floor(np.arange(n + 1) * share)) > 0
    rows = np.where(is_hard, np.cumsum(is_hard) % len(hard), np.cumsum(~is_hard) % len(easy))
    return np.where(is_hard[:, np.newaxis], hard[rows], easy[rows])


def test_tau_is_lower_before_the_promise_is_broken_and_rises_again():
    clf, easy, hard = easy_and_hard()
    audit = ExitAudit(
        clf, max_disagreement=0.1, share=1.0, tighten=True, window=400, random_state=0
    )
    audit.predict(mixed(easy, hard, 600, 0.05))
    assert (audit.tau_, audit.alarm_) == (0.9, False)
    audit.predict(mixed(easy, hard, 600, 0.09))  # below the promise, but by too little
    assert audit.tau_ < 0.9
    assert not audit.alarm_
    audit.predict(mixed(easy, hard, 800, 0.02))
    assert audit.tau_ == 0.9


def test_a_policy_that_an_alarm_was_about_does_not_come_back():
    clf, easy, hard = easy_and_hard()
    audit = ExitAudit(
        clf, max_disagreement=0.1, share=1.0, tighten=True, window=400, random_state=0
    )
    quiet(audit, mixed(easy, hard, 600, 0.5))
    assert audit.alarms_[0]["tau"] == 0.9
    n_alarms = len(audit.alarms_)
    quiet(audit, mixed(easy, hard, 800, 0.0))
    assert audit.tau_ == pytest.approx(max(0.9 - 0.09 * n_alarms, 0))


def test_threads_that_predict_while_the_policy_changes():
    clf, easy, hard = easy_and_hard()
    audit = ExitAudit(clf, max_disagreement=0.1, share=1.0, tighten=True, window=40, random_state=0)

    def predict(number):
        samples = hard if number // 100 % 2 else easy
        return len(audit.predict(samples[number % 50 : number % 50 + 5]))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(6) as threads:
            warnings.simplefilter("ignore", ExitAlarmWarning)
            assert sum(threads.map(predict, range(600))) == audit.n_audited_
    finally:
        sys.setswitchinterval(interval)


def test_patience_grows_when_tau_is_0():
    patient = NumericExits(tau=0.1, patience=2).fit(X[:300], Y[:300])
    audit = ExitAudit(
        patient, max_disagreement=0.02, share=1.0, tighten=True, n_steps=1, random_state=0
    )
    assert audit._policies == [(0.1, 2), (0.0, 2), (0.0, 3), (0.0, 4), (0.0, None)]
    quiet(audit, X)
    assert audit.tau_ == 0
    assert audit.patience_ in (3, 4, None)
    assert (quiet(audit, X).labels != full_depth(X)).mean() < 0.02


def test_full_depth_is_the_end():
    always_first = NumericExits(tau=0.0, patience=1).fit(X[:300], Y[:300])
    audit = ExitAudit(always_first, max_disagreement=0.001, share=1.0, tighten=True, window=3000)
    with pytest.warns(ExitAlarmWarning, match="The policy is tau=0, patience=None from now on"):
        audit.predict(X)
    assert (audit.tau_, audit.patience_) == (0.0, None)
    assert_array_equal(audit.predict(X), full_depth(X))
    assert audit.n_disagreed_ == 0


def test_several_tasks_and_frames():
    cloud, tasks = task_blobs(300)
    clf = NumericTasks(tau=0.9).fit(cloud, tasks)
    audit = ExitAudit(clf, max_disagreement=0.9, share=1.0)
    early = audit.predict(cloud)
    full = np.column_stack([
        classes[proba.argmax(axis=1)]
        for classes, proba in zip(clf.classes_, [*clf.staged_predict_proba(cloud)][-1], strict=True)
    ])  # fmt: skip
    assert audit.n_disagreed_ == (early != full).any(axis=1).sum()
    other = ExitAudit(clf, max_disagreement=0.9).update(early, full)
    assert (other.n_audited_, other.n_disagreed_) == (300, audit.n_disagreed_)
    framed = ExitAudit(CLASSIFIER, max_disagreement=0.9, share=0.5, random_state=0)
    assert len(framed.predict(pd.DataFrame(X[:40]).to_numpy())) == 40


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_update_takes_batches_of_which_nothing_was_audited(shape):
    audit = ExitAudit(CLASSIFIER, max_disagreement=0.1)
    assert audit.update(np.empty(shape, str), np.empty(shape, str)).n_audited_ == 0


def test_update_is_for_one_policy_and_equal_shapes():
    audit = ExitAudit(CLASSIFIER, max_disagreement=0.1)
    with pytest.raises(ValueError, match=r"same shape.*\(2,\) and \(3,\)"):
        audit.update([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="tighten=True compares several"):
        ExitAudit(CLASSIFIER, max_disagreement=0.1, tighten=True).update([1], [1])


@pytest.mark.parametrize("tighten", [False, True])
def test_json_continues_where_it_was(tighten):
    parameters = {"max_disagreement": 0.03, "share": 0.5, "tighten": tighten, "random_state": 0}
    audit = ExitAudit(CLASSIFIER, **parameters)
    quiet(audit, X[:1000])
    text = audit.to_json()
    again = ExitAudit.from_json(text, CLASSIFIER)
    copied = pickle.loads(pickle.dumps(audit))
    assert again.to_json() == text
    for one in (audit, again, copied):
        quiet(one, X[1000:])
    assert audit.report() == again.report() == copied.report()
    assert audit.alarms_ == again.alarms_


def test_states_of_the_first_schema_are_read():
    audit = ExitAudit(CLASSIFIER, max_disagreement=0.1, share=0.5, random_state=0)
    quiet(audit, X[:500])
    state = json.loads(audit.to_json()) | {"schema": 1}
    del state["recent"], state["parameters"]["window"]
    again = ExitAudit.from_json(json.dumps(state), CLASSIFIER)
    assert again.report() == audit.report()


def test_seeds_decide_what_is_audited():
    drawn = [
        ExitAudit(CLASSIFIER, max_disagreement=0.5, share=0.5, random_state=seed).draw(100)
        for seed in (0, 0, 1)
    ]
    assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def broken(**changes):
    state = json.loads(ExitAudit(CLASSIFIER, max_disagreement=0.1).to_json())
    return json.dumps(state | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "text is not JSON"),
        ("[]", "not a state of ExitAudit; got 'list'"),
        (broken(kind="ExitMonitor"), "not a state of ExitAudit; got 'ExitMonitor'"),
        (broken(schema=3), "written with schema 3; this version reads 1 to 2"),
        (broken(recent="00"), "recent samples does not fit the window"),
        (broken(recent="no"), "not a valid state"),
        (broken(policy=[0.1, None]), "audit is of tau=0.1, patience=None, but the estimator"),
        (broken(disagreed=[0, 0]), "does not fit its parameters"),
        (broken(evidence={}), "not a valid state"),
        (broken(in_force=7), "not a valid state"),
        (broken(random={"bit_generator": "MT19937"}), "not a valid state"),
    ],
)
def test_states_of_something_else_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ExitAudit.from_json(text, CLASSIFIER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_disagreement": 0}, r"max_disagreement must be a float in \(0, 1\)"),
        ({"max_disagreement": "low"}, "max_disagreement must be"),
        ({"confidence": 1.0}, "confidence must be"),
        ({"share": 0.0}, r"share must be a float in \(0, 1\]"),
        ({"share": True}, "share must be"),
        ({"alarm_at": 0.2}, "alarm_at must not be above max_disagreement=0.1"),
        ({"tighten": 1}, "tighten must be True or False"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"window": 10.0}, "window must be an integer or None"),
        ({"window": 28}, "window must be at least 29: fewer samples cannot show"),
        ({"random_state": "seed"}, "seed"),
        ({"estimator": LogisticRegression().fit(X[:99], Y[:99])}, "exits by other rules"),
        ({"estimator": NumericExits()}, "not fitted"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    given = {"estimator": CLASSIFIER, "max_disagreement": 0.1} | arguments
    with pytest.raises((TypeError, ValueError), match=message):
        ExitAudit(given.pop("estimator"), **given)


def test_a_policy_that_is_changed_meanwhile_is_noticed():
    clf = NumericExits(tau=0.3).fit(X[:300], Y[:300])
    audit = ExitAudit(clf, max_disagreement=0.1)
    clf.set_params(tau=0.5)
    with pytest.raises(ValueError, match=r"audit is of tau=0\.3.*estimator now has tau=0\.5"):
        audit.predict(X)


def test_words_are_refused():
    class Words(BaseEstimator):
        def __init__(self, tau=0.1, patience=None):
            self.tau, self.patience = tau, patience

        def fit(self, X, y):
            self.fitted_ = True
            return self

        def predict_tags(self, X):
            return X

    with pytest.raises(TypeError, match="predicts words"):
        ExitAudit(Words().fit(X, Y), max_disagreement=0.1)


def test_the_room_has_two_names():
    assert monitoring.__all__ == ["ExitAudit", "ExitMonitor"]
