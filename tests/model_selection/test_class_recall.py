"""What tuned policies do to each class: the figures, and when a warning says so."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, recall_score

from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee.exceptions import ClassRecallWarning
from sklearn_epee.model_selection._class_recall import ClassReport
from sklearn_epee.model_selection._staging import Validation

from .staged import NumericExits, NumericTasks, blobs


@pytest.fixture(scope="module")
def fitted():
    return NumericExits(tau=0.0).fit(*blobs(seed=7))


@pytest.fixture(scope="module")
def rare():
    """One class in three quarters of the samples."""
    X, y = blobs(400)
    kept = (y == "ant") | (np.random.default_rng(0).random(len(y)) < 0.2)
    return X[kept], y[kept]


def tuned(estimator, **parameters):
    return TunedExitPolicyClassifierCV(FrozenEstimator(estimator), **parameters)


@pytest.mark.parametrize("weighted", [False, True])
def test_report_of_the_chosen_policy(weighted, fitted, rare):
    X, y = rare
    weights = np.linspace(0.0, 2, len(y)) if weighted else None
    model = tuned(fitted, scoring="accuracy", max_accuracy_drop=0.03)
    with pytest.warns(ClassRecallWarning):
        model.fit(X, y, sample_weight=weights)
    report = model.class_report_
    assert_array_equal(report["class"], model.classes_)
    expected = recall_score(y, model.predict(X), average=None, sample_weight=weights)
    assert_allclose(report["recall"], expected)
    staged = list(model.staged_predict(X))
    expected = recall_score(y, staged[-1], average=None, sample_weight=weights)
    assert_allclose(report["full_depth_recall"], expected)
    layers = model.predict_exit_layer(X)
    for i, label in enumerate(model.classes_):
        ours = y == label
        mean = np.average(layers[ours], weights=None if weights is None else weights[ours])
        assert report["mean_exit_layer"][i] == pytest.approx(mean)
        assert report["n_samples"][i] == ours.sum() - (weighted and ours[0])  # one has no weight


def test_the_warning_names_the_classes_and_how_much(fitted, rare):
    model = tuned(fitted, scoring="accuracy", max_accuracy_drop=0.03)
    with pytest.warns(ClassRecallWarning) as caught:
        model.fit(*rare)
    (warning,) = caught
    assert warning.filename == __file__
    report = model.class_report_
    message = str(warning.message)
    for label in ("bee", "cow"):
        row = list(report["class"]).index(label)
        figures = report["full_depth_recall"][row], report["recall"][row]
        assert f"'{label}' from {figures[0]:.3f} to {figures[1]:.3f} (" in message
    assert "'ant'" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ClassRecallWarning)
        model.fit(*rare)


@pytest.mark.filterwarnings("ignore::sklearn_epee.exceptions.ClassRecallWarning")
@pytest.mark.parametrize("scoring", ["f1_macro", "balanced_accuracy"])
def test_scores_by_which_every_class_counts_keep_rare_classes(scoring, fitted, rare):
    kept, lost = (
        tuned(fitted, scoring=name, max_accuracy_drop=0.03).fit(*rare).class_report_["recall"]
        for name in (scoring, "accuracy")
    )
    assert kept.min() > lost.min() + 0.3


def test_every_class_counts_by_default(fitted, rare):
    X, y = rare
    model = TunedExitPolicyClassifierCV(FrozenEstimator(fitted), max_accuracy_drop=0.01).fit(X, y)
    assert model.best_score_ == pytest.approx(f1_score(y, model.predict(X), average="macro"))


def test_no_warning_at_full_depth(fitted, rare):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned(fitted, policies={"tau": [0.0], "patience": [5]}).fit(*rare)


def report_of(right_at_full_depth, right, codes, n_classes=2):
    """A report of samples that exit at layer 1, right there or not, and right at layer 2 or not."""
    codes = np.asarray(codes)
    columns = [
        np.where(hits, codes, (codes + 1) % n_classes) for hits in (right, right_at_full_depth)
    ]
    proba = np.eye(n_classes)[np.stack(columns, axis=1)]
    staged = StagedPredictions.from_proba([proba])
    classes = np.arange(n_classes)
    rows = np.arange(len(codes))
    validation = Validation(staged, rows, codes[:, np.newaxis], Tasks(classes), rows >= 0)
    return ClassReport.of(validation, 0.5, 2)


@pytest.mark.parametrize(
    ("n_lost", "n_rare", "warned"),
    [
        (4, 4, False),  # all lost, but four of four may be chance
        (5, 5, True),
        (5, 60, False),  # not by chance, but 0.08 of the recall is not much
        (8, 60, True),
    ],
)
def test_much_and_not_by_chance(n_lost, n_rare, warned):
    codes = np.repeat([0, 1], [300, n_rare])
    right = np.ones(len(codes), dtype=bool)
    right[300 : 300 + n_lost] = False
    report = report_of(np.ones(len(codes), dtype=bool), right, codes)
    assert report.loses_much.tolist() == [False, warned]
    assert report.p_value[1] == pytest.approx(0.5**n_lost)


def test_half_of_a_small_recall_is_much():
    codes = np.repeat([0, 1], [300, 200])
    full = codes == 0
    full[300:312] = True  # recall 0.06
    right = codes == 0
    right[300:305] = True
    assert report_of(full, right, codes).loses_much.tolist() == [False, True]


def test_classes_that_lose_as_all_do_are_not_named():
    codes = np.tile([0, 1], 100)
    right = np.arange(200) >= 50  # a quarter of each class is lost
    assert not report_of(np.ones(200, dtype=bool), right, codes).loses_much.any()


def test_what_is_won_back_does_not_count_as_lost():
    codes = np.repeat([0, 1], [300, 40])
    full, right = codes == 0, codes == 0
    full[300:320], right[315:340] = True, True  # 15 lost, 20 gained
    report = report_of(full, right, codes)
    assert not report.loses_much.any()
    assert report.p_value[1] > 0.5


def test_a_class_without_samples():
    report = report_of([True, True], [True, True], [0, 0])
    assert report.n_samples.tolist() == [2, 0]
    assert np.isnan(report.recall[1])
    assert not report.loses_much.any()
    assert report.table()["class"].tolist() == [0, 1]


def test_at_most_five_classes_are_named():
    codes = np.repeat(np.arange(8), [900, *[10] * 7])
    right = codes == 0
    report = report_of(np.ones(len(codes), dtype=bool), right, codes, n_classes=8)
    with pytest.warns(ClassRecallWarning, match=r"of 7 of 8 classes .*; and 2 more\."):
        report.warn("tau=0.5, patience=2", 1)


def test_tasks_have_reports_of_their_own():
    X, y = blobs(300)
    tasks = np.stack([y, np.where(y == "ant", "no", "yes")], axis=1)
    model = tuned(NumericTasks().fit(X, tasks)).fit(X, tasks)
    report = model.class_report_
    assert report["task"].tolist() == [0] * (len(report["task"]) - 2) + [1, 1]
    assert report["class"].tolist()[-2:] == ["no", "yes"]


def test_the_tested_samples_are_reported_with_a_guarantee(fitted):
    X, y = blobs(600)
    model = tuned(fitted, max_accuracy_drop=0.2, confidence=0.9, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassRecallWarning)
        model.fit(X, y)
    assert model.class_report_["n_samples"].sum() == model.n_calibration_


def test_models_from_before_have_no_report_and_still_predict(fitted, rare):
    X, y = rare
    model = tuned(fitted, scoring="f1_macro").fit(X, y)
    expected = model.predict(X)
    del model.class_report_
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), expected)
