"""Thresholds of labels from held-out samples, and the policy that comes after them."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
    exit_scores,
    speedup_score,
)

from .staged import MappedExits, NumericExits, NumericLabels, NumericTasks, label_clouds


@pytest.fixture(scope="module")
def data():
    return label_clouds(300)


@pytest.fixture(scope="module")
def fitted():
    return NumericLabels(tau=0.0).fit(*label_clouds(seed=7))


@pytest.fixture
def tuned(fitted, data):
    return TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted)).fit(*data)


def test_each_label_has_the_threshold_of_the_best_score(tuned, fitted, data):
    X, y = data
    proba = list(fitted.staged_predict_proba(X))[-1]
    for label in range(3):
        scores = [f1_score(y[:, label], proba[:, label] > t) for t in np.unique(proba[:, label])]
        assert tuned.best_scores_[label] == pytest.approx(max(scores))
        default = f1_score(y[:, label], proba[:, label] > 0.5)
        assert tuned.default_scores_[label] == pytest.approx(default)
    assert_allclose(f1_score(y, tuned.predict(X), average=None), tuned.best_scores_)
    assert tuned.best_scores_[0] > tuned.default_scores_[0] + 0.02  # the rare one
    assert_array_equal(tuned.n_positives_, y.sum(axis=0))
    assert tuned.is_tuned_.all()
    assert fitted.label_thresholds is None
    assert_array_equal(tuned.estimator_.estimator.label_thresholds, tuned.best_thresholds_)
    assert_array_equal(list(tuned.staged_predict(X))[-1], tuned.predict(X))


def test_held_out_samples_are_others_than_those_trained_on(data):
    X, y = data
    NumericLabels.n_fits = 0
    model = TunedLabelThresholdsClassifierCV(NumericLabels(tau=0.0), cv=3).fit(X, y)
    assert NumericLabels.n_fits == 4
    trained_on = TunedLabelThresholdsClassifierCV(NumericLabels(tau=0.0).fit(X, y), cv="prefit")
    trained_on.fit(X, y)
    assert NumericLabels.n_fits == 5
    assert (model.best_thresholds_ != trained_on.best_thresholds_).any()
    again = TunedLabelThresholdsClassifierCV(NumericLabels(tau=0.0), cv=0.3, random_state=0)
    assert again.fit(X, y).n_positives_.sum() == pytest.approx(0.3 * y.sum(), rel=0.2)


def test_forms_of_y_and_weights(tuned, data):
    X, y = data
    names = np.array(["far", "high", "right"])
    lists = [names[row == 1].tolist() for row in y]
    expected = TunedLabelThresholdsClassifierCV(NumericLabels(), cv=2).fit(X, y)
    for form in (y.tolist(), csr_matrix(y), pd.DataFrame(y, columns=names), lists):
        found = TunedLabelThresholdsClassifierCV(NumericLabels(), cv=2).fit(X, form)
        assert_array_equal(found.best_thresholds_, expected.best_thresholds_)
    hidden = y.astype(float)
    hidden[:150, 1] = np.nan
    frozen = TunedLabelThresholdsClassifierCV(tuned.estimator)
    half = clone(frozen).fit(X[150:], y[150:]).best_thresholds_
    found = clone(frozen).fit(X, hidden).best_thresholds_
    assert_array_equal(found, [tuned.best_thresholds_[0], half[1], tuned.best_thresholds_[2]])
    weighted = clone(frozen).fit(X, y, sample_weight=np.repeat([0.0, 1.0], 150))
    assert_array_equal(weighted.best_thresholds_, half)


def test_thresholds_first_then_the_policy(tuned, data):
    """The policy is chosen for the thresholds that are used, so it keeps what it promised."""
    X, y = data
    policies = {"tau": [0.0], "patience": [2, 3]}
    for estimator in (FrozenEstimator(tuned), FrozenEstimator(tuned.estimator_)):
        model = TunedExitPolicyClassifierCV(estimator, policies=policies, min_speedup=0.3)
        model.fit(X, y)
        assert speedup_score(model, X) == model.best_speedup_
        assert f1_score(y, model.predict(X), average="macro") == pytest.approx(model.best_score_)
        assert exit_scores(model, X, y)["macro_f1"] == pytest.approx(model.best_score_)


def test_the_other_order_breaks_the_promise(tuned, fitted, data):
    X, y = data
    policies = {"tau": [0.0], "patience": [2, 3]}
    first = TunedExitPolicyClassifierCV(
        FrozenEstimator(fitted), policies=policies, min_speedup=0.3
    ).fit(X, y)
    inner = clone(fitted).set_params(
        tau=first.best_tau_,
        patience=first.best_patience_,
        label_thresholds=tuned.best_thresholds_,
    )
    assert speedup_score(inner.fit(*label_clouds(seed=7)), X) != first.best_speedup_
    for wrapper in (first, FixedExitPolicyClassifier(FrozenEstimator(fitted)).fit(X, y)):
        for given in (wrapper, FrozenEstimator(wrapper)):
            with pytest.raises(TypeError, match="has a policy that other thresholds would change"):
                TunedLabelThresholdsClassifierCV(given).fit(X, y)


def test_entropy_alone_is_the_same_for_all_thresholds(tuned, fitted, data):
    X, y = data
    policies = {"tau": "all", "patience": [5]}
    both = [
        TunedExitPolicyClassifierCV(
            FrozenEstimator(one), scoring="average_precision", policies=policies, min_speedup=0.4
        ).fit(X, y)
        for one in (fitted, tuned)
    ]
    assert both[0].best_tau_ == both[1].best_tau_
    assert both[0].best_score_ == both[1].best_score_


def test_folds_have_thresholds_of_their_own(data):
    X, y = data
    inner = TunedLabelThresholdsClassifierCV(NumericLabels(), cv=2)
    model = TunedExitPolicyClassifierCV(inner, cv=2, min_speedup=0.3).fit(X, y)
    assert model.best_speedup_ >= 0.3
    assert (model.estimator_.best_thresholds_ != 0.5).any()
    found = GridSearchCV(inner, {"estimator__tau": [0.0, 0.5]}, scoring="f1_macro", cv=2).fit(X, y)
    assert 0 < found.best_score_ <= 1
    piped = make_pipeline(StandardScaler(), NumericLabels())
    assert TunedLabelThresholdsClassifierCV(piped, cv=2).fit(X, y).best_thresholds_.shape == (3,)


def test_rare_and_constant_labels_keep_the_default(fitted, data):
    X, y = data
    rare = np.column_stack([np.arange(300) < 9, np.zeros(300), y[:, 2]]).astype(int)
    model = TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted))
    with pytest.warns(UserWarning, match=r"\[0, 1\] keep the threshold 0.5: fewer than min"):
        model.fit(X, rare)
    assert_array_equal(model.is_tuned_, [False, False, True])
    assert_array_equal(model.best_thresholds_[:2], 0.5)
    assert_array_equal(np.isnan(model.best_scores_), [False, True, False])
    assert model.set_params(min_samples=9).fit(X, y).is_tuned_.all()


def test_what_does_not_fit_is_refused(fitted, data):
    X, y = data
    with pytest.raises(ValueError, match="is for several labels per sample: y must be an indic"):
        TunedLabelThresholdsClassifierCV(NumericLabels()).fit(X, np.where(y[:, 0], "far", "near"))
    with pytest.raises(ValueError, match="scoring must score one label"):
        TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted), scoring="recall").fit(X, y)
    with pytest.raises(ValueError, match="knows 3"):
        TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted)).fit(X, y[:, :2])
    for wrong in (NumericExits(), NumericTasks()):
        with pytest.raises(TypeError, match="with the parameter label_thresholds"):
            TunedLabelThresholdsClassifierCV(wrong).fit(X, y)
    with pytest.raises(TypeError, match="must be a classifier with early exits"):
        TunedLabelThresholdsClassifierCV(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match="min_samples"):
        TunedLabelThresholdsClassifierCV(FrozenEstimator(fitted), min_samples=0).fit(X, y)


def test_calibration_is_refused(data):
    class Mapped(NumericLabels):
        map_exit_logits = MappedExits.map_exit_logits

    with pytest.raises(ValueError, match="calibrates the exits of one task, but y holds 3 labels"):
        ExitCalibratedClassifier(Mapped()).fit(*data)
