"""Displays of several labels show what the predictions say."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import f1_score

from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.plotting import (
    ExitHistogramDisplay,
    ExitPolicyHeatmapDisplay,
    ExitReliabilityDisplay,
    ExitTradeoffDisplay,
    LayerwiseDisplay,
)
from tests.model_selection.staged import NumericLabels, NumericTasks, label_clouds


@pytest.fixture(scope="module")
def fitted():
    return NumericLabels(tau=0.6, patience=3, label_thresholds=0.4).fit(*label_clouds(seed=7))


@pytest.fixture(scope="module")
def data():
    return label_clouds(60)


def test_layers_of_labels_have_the_accuracy_of_whole_sets(fitted, data):
    X, y = data
    proba = list(fitted.staged_predict_proba(X))
    display = LayerwiseDisplay.from_estimator(fitted, X, y)
    assert_allclose(display.accuracy, [((p > 0.4) == y).all(axis=1).mean() for p in proba])
    assert (display.mean_entropy > 0).all()


def test_where_the_samples_of_each_label_exit(fitted, data):
    X, y = data
    exits = fitted.predict_exit_layer(X)
    display = ExitHistogramDisplay.from_estimator(fitted, X, y)
    for label in range(3):
        found = np.bincount(exits[y[:, label] == 1], minlength=6)[1:]
        assert_array_equal(display.counts[label], found)
    assert display.speedup_ == speedup_ratio(exits, 5)


def test_policies_of_labels_are_drawn_with_their_scores(fitted, data):
    X, y = data
    display = ExitTradeoffDisplay.from_estimator(fitted, X, y, scoring="f1_macro")
    full = list(fitted.staged_predict_proba(X))[-1] > 0.4
    assert display.full_depth_score == pytest.approx(f1_score(y, full, average="macro"))
    found = f1_score(y, fitted.predict(X), average="macro")
    assert display.chosen["score"] == pytest.approx(found)
    heatmap = ExitPolicyHeatmapDisplay.from_estimator(
        fitted, X, y, taus=[0.0, 0.6], patiences=[3], scoring="f1_macro"
    )
    assert heatmap.score[0, 1] == pytest.approx(found)
    for scoring in ("average_precision", "roc_auc"):
        with pytest.raises(ValueError, match="scoring must be one of"):
            ExitTradeoffDisplay.from_estimator(fitted, X, y, scoring=scoring)


def test_reliability_of_pairs(fitted, data):
    X, y = data
    display = ExitReliabilityDisplay.from_estimator(fitted, X, y, n_bins=5)
    assert_array_equal(display.counts.sum(axis=1), y.size)
    last = list(fitted.staged_predict_proba(X))[-1]
    sure = np.maximum(last, 1 - last) > 0.8
    right = ((last > 0.5) == y)[sure]
    assert display.accuracy[-1, -1] == pytest.approx(right.mean())


def test_labels_that_are_not_known_are_left_out(fitted, data):
    X, y = data
    hidden = y.astype(float)
    hidden[:30, 0] = np.nan
    display = ExitReliabilityDisplay.from_estimator(fitted, X, hidden)
    assert_array_equal(display.counts.sum(axis=1), y.size - 30)
    LayerwiseDisplay.from_estimator(fitted, X, hidden)


def test_samples_without_a_known_label_are_right_at_no_layer(fitted, data):
    X, y = data
    hidden = y.astype(float)
    hidden[::2] = np.nan
    display = LayerwiseDisplay.from_estimator(fitted, X, hidden)
    expected = LayerwiseDisplay.from_estimator(fitted, X[1::2], y[1::2])
    assert_allclose(display.accuracy, expected.accuracy)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_exits_of_samples_without_any_label_are_an_empty_picture(value, fitted, data):
    X, y = data
    display = ExitHistogramDisplay.from_estimator(fitted, X, np.full(y.shape, value))
    assert not display.counts.any()
    assert [bar.get_height() for bars in display.bars_ for bar in bars] == [0] * display.counts.size
    assert display.speedup_ == speedup_ratio(fitted.predict_exit_layer(X), 5)


@pytest.mark.filterwarnings("error")
def test_reliability_without_a_known_label_has_no_points(fitted, data):
    X, y = data
    display = ExitReliabilityDisplay.from_estimator(fitted, X, np.full(y.shape, np.nan))
    assert np.isnan(display.ece).all()


def test_arrays_of_several_labels_are_refused(fitted, data):
    X, y = data
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)
    for display in (LayerwiseDisplay, ExitReliabilityDisplay):
        with pytest.raises(ValueError, match="staged_proba must hold probabilities that sum to 1"):
            display.from_predictions(y, staged)
    with pytest.raises(ValueError, match="For several labels per sample, use from_estimator"):
        LayerwiseDisplay.from_predictions(y, staged / staged.sum(axis=2, keepdims=True))
    with pytest.raises(TypeError, match="predicts 3 tasks, but a display is for one"):
        LayerwiseDisplay.from_estimator(NumericTasks().fit(X, y), X, y)
