"""The tuned policy of several tasks: found as by brute force, for the network's own joint exit."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    positive_f1_scorer,
    refit_fastest_within,
    speedup_score,
    task_accuracy_score,
)
from sklearn_epee._exits.wrappers import stack_tasks
from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.plotting import LayerwiseDisplay
from sklearn_epee.policy import JOINT_EXITS, apply_policy, normalized_entropy
from tests.classifiers import tiny_text_classifier

from .staged import N_LAYERS, NumericTasks, task_blobs


def over_tasks(metric):
    return lambda y, p: np.mean([metric(y[:, t], p[:, t]) for t in range(y.shape[1])])


METRICS = {
    "accuracy": lambda y, p: (y == p).all(axis=1).mean(),
    "balanced_accuracy": over_tasks(lambda y, p: recall_score(y, p, average="macro")),
    "f1_macro": over_tasks(lambda y, p: f1_score(y, p, average="macro")),
    task_accuracy_score: over_tasks(accuracy_score),
}


@pytest.fixture(scope="module")
def data():
    return task_blobs()


@pytest.fixture(scope="module")
def fitted():
    return NumericTasks(tau=0.0).fit(*task_blobs(seed=7))


def tuned(estimator, **parameters):
    return TunedExitPolicyClassifierCV(
        FrozenEstimator(estimator), **{"scoring": "accuracy"} | parameters
    )


def every_policy(classifier, X, y, metric, ensemble):
    """Score and speed-up of all policies that differ on these samples, one by one."""
    tasks = stack_tasks([*classifier.staged_predict_proba(X)])
    entropies = np.stack([normalized_entropy(task) for task in tasks], axis=-1)
    # Each task's own entropies, and their mean.
    taus = np.unique([*entropies.ravel(), *entropies.mean(axis=-1).ravel()])
    codes = [np.searchsorted(c, y[:, t]) for t, c in enumerate(classifier.classes_)]
    truth, found = np.stack(codes, axis=1), {}
    for tau in [0.0, *np.nextafter(taus, 2)]:
        for patience in range(1, N_LAYERS + 1):
            result = apply_policy(tasks, tau, patience, ensemble, joint_exit=classifier.joint_exit)
            exits = tuple(result.exit_layer)
            if exits not in found:  # the metrics of scikit-learn are slow
                speedup = speedup_ratio(exits, N_LAYERS)
                found[exits] = metric(truth, result.prediction), speedup
    return np.array(list(found.values()))


@pytest.mark.parametrize("ensemble", [None, "mean"])
@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
@pytest.mark.parametrize("scoring", METRICS)
def test_the_best_of_all_policies(scoring, joint_exit, ensemble, fitted):
    X, y = task_blobs(16)
    estimator = clone(fitted).set_params(exit_ensemble=ensemble, joint_exit=joint_exit)
    estimator.fit(*task_blobs(seed=7))
    scores, speedups = every_policy(estimator, X, y, METRICS[scoring], ensemble).T
    for wishes, expected in (
        ({}, scores.max()),
        ({"min_speedup": 0.4}, scores[speedups >= 0.4].max()),
        ({"min_speedup": 0.7}, scores[speedups >= 0.7].max()),
    ):
        model = tuned(estimator, scoring=scoring, **wishes).fit(X, y)
        assert model.best_score_ == pytest.approx(expected)
        assert model.best_speedup_ >= wishes.get("min_speedup", 0)
    full_depth = scores[speedups == 0][0]
    assert model.full_depth_score_ == pytest.approx(full_depth)
    model = tuned(estimator, scoring=scoring, max_accuracy_drop=0.05).fit(X, y)
    assert model.best_speedup_ == pytest.approx(speedups[scores >= full_depth - 0.05 - 1e-9].max())


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_prediction_does_what_was_promised(joint_exit, data):
    X, y = data
    estimator = NumericTasks(joint_exit=joint_exit).fit(*task_blobs(seed=7))
    model = tuned(estimator, min_speedup=0.5).fit(X, y)
    assert model.n_outputs_ == 2
    assert model.score(X, y) == pytest.approx(model.best_score_)
    assert speedup_score(model, X) == model.best_speedup_
    scores = exit_scores(model, X, y)
    assert scores["accuracy"] == pytest.approx(model.best_score_)
    assert scores["task_accuracy"] == pytest.approx((model.predict(X) == y).mean())
    assert scores["task_accuracy"] == pytest.approx(task_accuracy_score(model, X, y))
    for name in ("balanced_accuracy", "f1_macro"):
        found = scores[{"f1_macro": "macro_f1"}.get(name, name)]
        assert found == pytest.approx(METRICS[name](y, model.predict(X)))
    assert_array_equal(list(model.staged_predict(X))[-1].shape, y.shape)
    assert [part.shape[1] for part in model.predict_proba(X)] == [3, 2]


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("cv", [3, 0.3, StratifiedKFold(2), None])
def test_splits_know_every_class(cv, mixed):
    X, y = task_blobs(120, mixed=mixed)
    NumericTasks.n_fits = 0
    model = TunedExitPolicyClassifierCV(NumericTasks(), cv=cv, random_state=0).fit(X, y)
    n_splits = {3: 3, 0.3: 1, None: 5}.get(cv, 2) if not isinstance(cv, StratifiedKFold) else 2
    assert NumericTasks.n_fits == n_splits + 1
    assert model.predict(X).shape == y.shape
    assert {type(label) for label in model.predict(X)[:, 1]} == {type(y[0, 1])}


def test_forms_of_y(data):
    X, y = data
    expected = TunedExitPolicyClassifierCV(NumericTasks(), cv=2).fit(X, y)
    for form in (y.tolist(), pd.DataFrame(y, columns=["kind", "side"])):
        found = TunedExitPolicyClassifierCV(NumericTasks(), cv=2).fit(X, form)
        assert found.best_score_ == expected.best_score_


def test_sample_weights_count(data):
    X, y = data
    weights = np.random.default_rng(0).random(len(X))
    for scoring in (*METRICS, lambda e, X, y, sample_weight=None: e.score(X, y, sample_weight)):
        model = TunedExitPolicyClassifierCV(
            NumericTasks(), cv=2, scoring=scoring, policies={"tau": [0.0, 0.2], "patience": [2]}
        )
        assert model.fit(X, y, sample_weight=weights).best_score_ != model.fit(X, y).best_score_


def test_any_scorer_of_several_tasks(data, fitted):
    X, y = data

    def by_hand(estimator, X, y):
        assert [part.shape for part in estimator.predict_proba(X)] == [(300, 3), (300, 2)]
        assert estimator.score(X, y) == (estimator.predict(X) == y).all(axis=1).mean()
        return (estimator.predict(X)[:, 0] == y[:, 0]).mean()

    model = tuned(fitted, scoring=by_hand, policies=20).fit(X, y)
    assert model.best_score_ == (model.predict(X)[:, 0] == y[:, 0]).mean()


def test_scores_of_one_task_are_refused(data, fitted):
    with pytest.raises(ValueError, match="positive_f1_score is for one task"):
        tuned(fitted, scoring=positive_f1_scorer("bee")).fit(*data)
    with pytest.raises(ValueError, match="multiclass-multioutput is not supported"):
        tuned(fitted, scoring="f1_micro").fit(*data)


def test_inside_pipelines_and_searches(data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), NumericTasks())
    model = TunedExitPolicyClassifierCV(pipeline, cv=2, min_speedup=0.3).fit(X, y)
    assert model.best_speedup_ >= 0.3
    grid = {"tau": [0.0, 0.3, 0.6], "patience": [2, None], "joint_exit": list(JOINT_EXITS)}
    search = GridSearchCV(
        NumericTasks(), grid, scoring=exit_scores, refit=refit_fastest_within(0.02), cv=2
    ).fit(X, y)
    assert "mean_test_task_accuracy" in search.cv_results_
    outer = GridSearchCV(model, {"min_speedup": [0.2, 0.4]}, cv=2).fit(X, y)
    assert 0 < outer.best_score_ <= 1


def test_a_fixed_policy(data):
    X, y = data
    fitted = NumericTasks(joint_exit="any").fit(X, y)
    fixed = FixedExitPolicyClassifier(FrozenEstimator(fitted), tau=0.0, patience=2).fit(X, y)
    assert fixed.n_outputs_ == 2
    assert fixed.predict(X).shape == y.shape
    assert fixed.score(X, y) == (fixed.predict(X) == y).all(axis=1).mean()
    expected = clone(fitted).set_params(tau=0.0, patience=2).fit(X, y).predict_exit_layer(X)
    assert_array_equal(fixed.predict_exit_layer(X), expected)


def test_tags_follow_the_estimator():
    inner = tiny_text_classifier()
    for wrapper in (FixedExitPolicyClassifier(inner), TunedExitPolicyClassifierCV(inner)):
        assert get_tags(wrapper).target_tags.multi_output


# ------------------------------------------------------------------------------------ guarantees


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_risks_of_certified_policies_are_within_the_bound(joint_exit):
    X, y = task_blobs(2500)
    estimator = NumericTasks(joint_exit=joint_exit).fit(*task_blobs(seed=7))
    full = list(tuned(estimator).fit(X, y).staged_predict(X))[-1]
    risks = {
        "disagreement": lambda labels: (labels != full).any(axis=1).mean(),
        "error": lambda labels: (labels != y).any(axis=1).mean(),
        "accuracy_drop": lambda labels: (
            (full == y).all(axis=1).mean() - (labels == y).all(axis=1).mean()
        ),
        "callable": lambda labels: (labels != full).mean(),
    }
    for name, measure in risks.items():
        bound = 0.55 if name == "error" else 0.2
        risk = name
        if name == "callable":  # the share of the tasks that differ
            risk = lambda _, answer, full: (answer != full).mean(axis=1)  # noqa: E731
        given = "max_accuracy_drop" if name == "accuracy_drop" else "max_risk"
        model = tuned(estimator, confidence=0.9, random_state=0, risk=risk, **{given: bound})
        model.fit(X, y)
        assert model.certified_
        assert model.risk_ == pytest.approx(measure(model.predict(X)), abs=0.03)
        assert model.risk_ <= bound
        assert model.best_speedup_ > 0


def test_a_task_may_name_the_groups(fitted):
    X, y = task_blobs(3000)
    model = tuned(fitted, confidence=0.9, max_accuracy_drop=0.2, random_state=0)
    model.fit(X, y, risk_groups=y[:, 1])
    assert list(model.risk_by_group_) == ["left", "right"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"per_class": True, "max_accuracy_drop": 0.1}, "per_class=True is about the classes of o"),
        (
            {"risk": ("miss", "ant"), "max_risk": 0.1},
            r"risk=\('miss', 'ant'\) is about the classes",
        ),
    ],
)
def test_risks_of_one_task_are_refused(parameters, message, data, fitted):
    model = tuned(fitted, confidence=0.9, **parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(*data)
    assert not hasattr(model, "estimator_")


def test_labels_that_do_not_fit(data, fitted):
    X, y = data
    with pytest.raises(
        ValueError, match=r"\['up'\] of task 1, which the fitted estimator does not"
    ):
        tuned(fitted).fit(X, np.where(y == "left", "up", y))
    with pytest.raises(ValueError, match=r"y holds 1 task\(s\), but the fitted estimator knows 2"):
        tuned(fitted).fit(X, y[:, 0])
    rare = np.column_stack([y[:, 0], ["common"] * 299 + ["rare"]])
    model = TunedExitPolicyClassifierCV(NumericTasks(), cv=3)
    with pytest.warns(UserWarning, match=r"no sample of the classes \['rare'\] of task 1"):
        model.fit(X, rare)
    assert [classes.tolist() for classes in model.classes_] == [
        ["ant", "bee", "cow"],
        ["common", "rare"],
    ]
    missing = np.array(y, dtype=object)
    missing[5, 1] = np.nan
    with pytest.raises((TypeError, ValueError), match=r"In task 1, y\[:, 1\]"):
        model.fit(X, missing)


# ------------------------------------------------------------------------- one task at a time


def test_calibration_is_refused(two_columns):
    X, y = two_columns
    model = ExitCalibratedClassifier(tiny_text_classifier())
    with pytest.raises(ValueError, match=r"calibrates the exits of one task, .*train a classifier"):
        model.fit(X, y)


def test_displays_show_one_task(data, fitted):
    X, y = data
    with pytest.raises(
        TypeError, match=r"predicts 2 tasks, but a display is for one\. Draw task t"
    ):
        LayerwiseDisplay.from_estimator(fitted, X, y)


@pytest.fixture
def two_columns(texts, labels):
    return texts, np.column_stack([labels, np.arange(len(labels)) % 2])
