"""The best threshold of each label against scikit-learn's metrics at every threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    fbeta_score,
    jaccard_score,
    make_scorer,
    precision_score,
    recall_score,
)

from sklearn_epee._exits.label_thresholds import best_thresholds, threshold_score

METRICS = {
    "f1": f1_score,
    "jaccard": jaccard_score,
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
    make_scorer(fbeta_score, beta=2): lambda y, p, **w: fbeta_score(y, p, beta=2, **w),
}


def every_threshold(column):
    """One of each way to split a column, and those that split nothing off."""
    seen = np.unique(column)
    return [0.0, 0.5, 1.0, *seen, *((seen[:-1] + seen[1:]) / 2)]


@pytest.mark.parametrize("scoring", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 2**32 - 1), coarse=st.booleans(), unknown=st.booleans())
@settings(deadline=None, max_examples=10)
def test_no_threshold_is_better(scoring, weighted, seed, coarse, unknown):
    rng = np.random.default_rng(seed)
    proba = rng.integers(0, 5, (20, 3)) / 4 if coarse else rng.random((20, 3))
    codes = (rng.random((20, 3)) < 0.5 * proba + 0.2).astype(np.int64)
    codes[:2] = [[0] * 3, [1] * 3]
    if unknown:
        codes[2:][rng.random((18, 3)) < 0.3] = -1
    weights = rng.uniform(0.1, 2, 20) if weighted else None
    found = best_thresholds(codes, proba, threshold_score(scoring), 1, weights)
    metric = METRICS[scoring]
    for label in range(3):
        known = codes[:, label] >= 0
        truth, column = codes[known, label], proba[known, label]
        params = {"sample_weight": weights[known]} if weighted else {}
        scores = [metric(truth, column > t, **params) for t in every_threshold(column)]
        at_best = metric(truth, column > found.thresholds[label], **params)
        assert_allclose(at_best, max(scores))
        assert_allclose(found.scores[label], at_best)
        assert_allclose(found.default_scores[label], metric(truth, column > 0.5, **params))


def test_labels_without_enough_samples_keep_the_default():
    codes = np.zeros((20, 4), dtype=np.int64)
    codes[:, 1] = 1
    codes[:4, 2] = 1
    codes[:5, 3] = 1
    proba = np.tile(np.linspace(0.4, 0.1, 20)[:, np.newaxis], 4)
    found = best_thresholds(codes, proba, threshold_score("f1"), 5)
    assert_array_equal(found.is_tuned, [False, False, False, True])
    assert_array_equal(found.thresholds[:3], 0.5)
    assert 0.3 < found.thresholds[3] < 0.4
    assert_array_equal(np.isnan(found.scores), [True, True, False, False])
    assert_array_equal(found.counts, [[20, 0], [0, 20], [16, 4], [15, 5]])
    assert found.scores[3] == 1


def test_of_equal_thresholds_the_nearest_to_one_half():
    codes, proba = np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.3], [0.7], [0.9]])
    assert best_thresholds(codes, proba, threshold_score("f1"), 1).thresholds == 0.5
    proba = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert best_thresholds(codes, proba, threshold_score("f1"), 1).thresholds == 0.5


def test_samples_without_weight_do_not_count():
    codes, proba = np.array([[0], [1], [1]]), np.array([[0.2], [0.4], [0.1]])
    weights = np.array([1.0, 1.0, 0.0])
    found = best_thresholds(codes, proba, threshold_score("f1"), 1, weights)
    assert found.thresholds == pytest.approx(0.3)
    assert_array_equal(found.counts, [[1, 1]])


@pytest.mark.parametrize(
    "scoring",
    [
        "recall",
        "f1_macro",
        "nope",
        make_scorer(precision_score),
        make_scorer(recall_score),
        make_scorer(f1_score, pos_label=0),
        make_scorer(f1_score, greater_is_better=False),
        lambda *_: 0.5,
    ],
)
def test_other_scores_are_refused(scoring):
    with pytest.raises(ValueError, match="scoring must score one label: 'f1', 'jaccard'"):
        threshold_score(scoring)
