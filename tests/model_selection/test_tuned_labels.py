"""The tuned policy of several labels: found as by brute force, for the network's own joint exit."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, recall_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    refit_fastest_within,
    speedup_score,
    task_accuracy_score,
)
from sklearn_epee._exits.rule import label_entropies
from sklearn_epee.exceptions import ClassRecallWarning
from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.policy import JOINT_EXITS, apply_policy

from .staged import N_LAYERS, NumericLabels, NumericTasks, label_clouds

METRICS = {
    "accuracy": accuracy_score,
    "f1_micro": lambda y, p: f1_score(y, p, average="micro"),
    "f1_macro": lambda y, p: f1_score(y, p, average="macro"),
    "f1_samples": lambda y, p: f1_score(y, p, average="samples", zero_division=0),
    task_accuracy_score: lambda y, p: (y == p).mean(),
}


@pytest.fixture(scope="module")
def data():
    return label_clouds(120)


@pytest.fixture(scope="module")
def fitted():
    return NumericLabels(tau=0.0).fit(*label_clouds(seed=7))


def tuned(estimator, **parameters):
    return TunedExitPolicyClassifierCV(FrozenEstimator(estimator), **parameters)


def every_policy(classifier, X, y, metric, ensemble):
    """Score and speed-up of all policies that differ on these samples, one by one."""
    proba = np.stack([*classifier.staged_predict_proba(X)], axis=1)
    entropies = label_entropies(proba)
    taus = np.unique([*entropies.ravel(), *entropies.mean(axis=-1).ravel()])
    found = {}
    for tau in [0.0, *np.nextafter(taus, 2)]:
        for patience in range(1, N_LAYERS + 1):
            result = apply_policy(
                proba,
                tau,
                patience,
                ensemble,
                joint_exit=classifier.joint_exit,
                multilabel=True,
                label_thresholds=classifier.label_thresholds,
            )
            exits = tuple(result.exit_layer)
            if exits not in found:
                found[exits] = metric(y, result.prediction), speedup_ratio(exits, N_LAYERS)
    return np.array(list(found.values()))


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
@pytest.mark.parametrize(
    ("scoring", "ensemble"),
    [*((scoring, None) for scoring in METRICS), ("f1_macro", "mean")],
)
def test_the_choice_is_the_best_of_all_policies(scoring, joint_exit, ensemble):
    X, y = label_clouds(20, seed=3)
    estimator = NumericLabels(
        joint_exit=joint_exit, exit_ensemble=ensemble, label_thresholds=[0.3, 0.5, 0.6]
    ).fit(*label_clouds(seed=7))
    scores, speedups = every_policy(estimator, X, y, METRICS[scoring], ensemble).T
    model = tuned(estimator, scoring=scoring, min_speedup=0.4).fit(X, y)
    assert model.best_score_ == pytest.approx(scores[speedups >= 0.4].max())
    full_depth = scores[speedups == 0][0]
    assert model.full_depth_score_ == pytest.approx(full_depth)
    model = tuned(estimator, scoring=scoring, max_accuracy_drop=0.05).fit(X, y)
    assert model.best_speedup_ == pytest.approx(speedups[scores >= full_depth - 0.05 - 1e-9].max())


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
def test_prediction_does_what_was_promised(joint_exit, data):
    X, y = data
    estimator = NumericLabels(joint_exit=joint_exit, label_thresholds=0.4).fit(
        *label_clouds(seed=7)
    )
    model = tuned(estimator, scoring="accuracy", min_speedup=0.5).fit(X, y)
    assert (model.n_outputs_, model.multilabel_) == (3, True)
    assert_array_equal(model.classes_, [0, 1, 2])
    predicted = model.predict(X)
    assert model.score(X, y) == pytest.approx(model.best_score_)
    assert speedup_score(model, X) == model.best_speedup_
    scores = exit_scores(model, X, y)
    assert scores["accuracy"] == pytest.approx(model.best_score_)
    assert scores["label_accuracy"] == task_accuracy_score(model, X, y) == (predicted == y).mean()
    for average in ("micro", "macro", "samples"):
        expected = f1_score(y, predicted, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(expected)
    assert scores["average_precision"] == pytest.approx(
        average_precision_score(y, model.predict_proba(X))
    )
    exits = model.predict_exit_layer(X)
    for label in range(3):
        there = y[:, label] == 1
        assert scores[f"recall_{label}"] == pytest.approx(
            recall_score(y, predicted, average=None)[label]
        )
        assert scores[f"mean_exit_layer_{label}"] == pytest.approx(exits[there].mean())
    assert_array_equal(
        list(model.staged_predict(X))[-1], estimator.set_params(tau=0, patience=None).predict(X)
    )


def test_average_precision_needs_no_thresholds(data, fitted):
    X, y = data
    policies = {"tau": [0.0, 0.2, 0.5], "patience": [5]}
    best = [
        tuned(
            NumericLabels(tau=0, label_thresholds=given).fit(*label_clouds(seed=7)),
            scoring="average_precision",
            policies=policies,
        ).fit(X, y)
        for given in (None, 0.9)
    ]
    assert best[0].best_score_ == best[1].best_score_
    assert best[0].best_score_ == pytest.approx(
        average_precision_score(y, best[0].predict_proba(X))
    )


def test_forms_of_y(data):
    X, y = data
    names = np.array(["far", "high", "right"])
    lists = [names[row == 1].tolist() for row in y]
    expected = TunedExitPolicyClassifierCV(NumericLabels(), cv=2).fit(X, y)
    frame = pd.DataFrame(y, columns=names)
    for form in (y.tolist(), y.astype(bool), csr_matrix(y), frame, lists):
        found = TunedExitPolicyClassifierCV(NumericLabels(), cv=2).fit(X, form)
        assert found.best_score_ == expected.best_score_
        assert found.score(X, form) == expected.score(X, y)
        assert exit_scores(found, X, form)["macro_f1"] == exit_scores(expected, X, y)["macro_f1"]
        assert_array_equal(found.classes_, names if form is frame or form is lists else range(3))


def test_labels_that_are_not_known_count_for_nothing(data, fitted):
    X, y = data
    hidden = y.astype(float)
    hidden[np.random.default_rng(0).random(y.shape) < 0.3] = np.nan
    model = tuned(fitted, scoring="f1_micro").fit(X, hidden)
    known = ~np.isnan(hidden)
    assert model.best_score_ == pytest.approx(f1_score(hidden[known], model.predict(X)[known]))
    scores = exit_scores(model, X, hidden)
    assert scores["micro_f1"] == pytest.approx(model.best_score_)
    with pytest.raises(ValueError, match="y does not say of every sample which labels it has"):
        tuned(fitted, scoring="roc_auc").fit(X, hidden)


def test_a_label_that_a_fold_lacks(data):
    X, y = data
    lists = [["right"] * row[2] for row in y]
    lists[0] = ["right", "seldom"]
    model = TunedExitPolicyClassifierCV(
        NumericLabels(), cv=[(range(60, 120), range(60)), (range(60), range(60, 120))]
    )
    model.fit(X, lists)
    assert_array_equal(model.classes_, ["right", "seldom"])
    assert_array_equal(model.class_report_["class"], ["right", "seldom"])
    assert model.class_report_["recall"][1] == 0


def test_sample_weights_count(data):
    X, y = data
    weights = np.random.default_rng(0).random(len(X))
    policies = {"tau": [0.0, 0.2], "patience": [2]}
    for scoring in (*METRICS, "average_precision", "roc_auc"):
        model = TunedExitPolicyClassifierCV(
            NumericLabels(), cv=2, scoring=scoring, policies=policies
        )
        assert model.fit(X, y, sample_weight=weights).best_score_ != model.fit(X, y).best_score_


def test_inside_pipelines_and_searches(data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), NumericLabels())
    model = TunedExitPolicyClassifierCV(pipeline, cv=2, min_speedup=0.3).fit(X, y)
    assert model.best_speedup_ >= 0.3
    grid = {"tau": [0.0, 0.3, 0.6], "patience": [2, None], "joint_exit": list(JOINT_EXITS)}
    search = GridSearchCV(
        NumericLabels(),
        grid,
        scoring=exit_scores,
        refit=refit_fastest_within(0.02, metric="macro_f1"),
        cv=2,
    ).fit(X, y)
    assert "mean_test_average_precision" in search.cv_results_
    for scoring in ("f1_micro", "f1_macro", "f1_samples", "average_precision"):
        found = GridSearchCV(NumericLabels(), {"tau": [0.0, 0.5]}, scoring=scoring, cv=2).fit(X, y)
        assert 0 < found.best_score_ <= 1


def test_a_fixed_policy(data, fitted):
    X, y = data
    fixed = FixedExitPolicyClassifier(FrozenEstimator(fitted), tau=0.0, patience=2).fit(X, y)
    assert (fixed.n_outputs_, fixed.multilabel_) == (3, True)
    assert fixed.score(X, y) == (fixed.predict(X) == y).all(axis=1).mean()
    expected = apply_policy(
        np.stack(list(fitted.staged_predict_proba(X)), axis=1), 0.0, 2, multilabel=True
    )
    assert_array_equal(fixed.predict_exit_layer(X), expected.exit_layer)
    assert_array_equal(fixed.predict(X), expected.prediction)


def test_warns_of_labels_that_lose_their_recall():
    rng = np.random.default_rng(0)
    X, y = label_clouds(400, seed=2)
    fitted = NumericLabels().fit(*label_clouds(seed=7))
    fitted.each_[0].centroids_ = fitted.each_[0].centroids_ + rng.normal(0, 0.01, (2, 2))
    with pytest.warns(ClassRecallWarning, match=r"recall of . of 3 labels against full depth.*: "):
        model = tuned(fitted, scoring="accuracy", min_speedup=0.79).fit(X, y)
    report, full = model.class_report_, list(model.staged_predict(X))[-1]
    predicted, exits = model.predict(X), model.predict_exit_layer(X)
    for label in range(3):
        there = y[:, label] == 1
        assert report["n_samples"][label] == there.sum()
        assert_allclose(report["recall"][label], predicted[there, label].mean())
        assert_allclose(report["full_depth_recall"][label], full[there, label].mean())
        assert_allclose(report["mean_exit_layer"][label], exits[there].mean())


@pytest.mark.parametrize(
    "risk", ["disagreement", "error", "accuracy_drop", ("miss", 1), "callable"]
)
def test_risks_of_certified_policies_are_within_the_bound(risk):
    X, y = label_clouds(2000)
    estimator = NumericLabels(joint_exit="mean").fit(*label_clouds(seed=7))
    full = list(estimator.staged_predict_proba(X))[-1] > 0.5
    measure = {
        "disagreement": lambda labels: (labels != full).any(axis=1).mean(),
        "error": lambda labels: (labels != y).any(axis=1).mean(),
        "accuracy_drop": lambda labels: (
            (full == y).all(axis=1).mean() - (labels == y).all(axis=1).mean()
        ),
        ("miss", 1): lambda labels: 1 - labels[y[:, 1] == 1, 1].mean(),
        "callable": lambda labels: (labels != full).mean(),
    }[risk]
    given = risk
    if risk == "callable":
        given = lambda _, labels, full: (labels != full).mean(axis=1)  # noqa: E731
    bound = 0.6 if risk in ("error", ("miss", 1)) else 0.2
    name = "max_accuracy_drop" if risk == "accuracy_drop" else "max_risk"
    model = tuned(estimator, confidence=0.9, random_state=0, risk=given, **{name: bound})
    model.fit(X, y)
    assert model.certified_
    assert model.risk_ == pytest.approx(measure(model.predict(X)), abs=0.04)
    assert model.risk_ <= bound


def test_what_does_not_fit_is_refused(data, fitted):
    X, y = data
    model = tuned(fitted, confidence=0.9, max_accuracy_drop=0.1, per_class=True)
    with pytest.raises(ValueError, match=r"per_class=True needs samples of one class each"):
        model.fit(X, y)
    with pytest.raises(ValueError, match=r"knows 3"):
        tuned(fitted).fit(X, y[:, :2])
    with pytest.raises(ValueError, match=r"risk=\('miss', 'far'\) names no class"):
        tuned(fitted, confidence=0.9, risk=("miss", "far"), max_risk=0.1).fit(X, y)
    named = NumericLabels().fit(*label_clouds(as_lists=True))
    with pytest.raises(ValueError, match=r"y\[119\] holds the labels \['low'\]"):
        tuned(named).fit(X, [["far"]] * 119 + [["low"]])
    with pytest.raises(ValueError, match="negative_class='far' must be None, because"):
        exit_scores(named, X, [["far"]] * 120, negative_class="far")


def test_an_indicator_that_was_taken_for_tasks_stays_so(data):
    X, y = data
    fitted = NumericTasks().fit(X, y)
    model = tuned(fitted, scoring="accuracy").fit(X, y)
    assert not model.multilabel_
    assert isinstance(model.predict_proba(X), list)
