"""Bins of confidence and the one calibration error there is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.reliability import Reliability, check_n_bins


def staged(*confidences):
    """One exit, two classes; the first one is predicted."""
    first = np.array(confidences)
    return np.stack([first, 1 - first], axis=1)[:, np.newaxis]


def test_bins_are_closed_above_also_after_rounding_to_float32():
    proba = staged(0.6, 0.61, 0.8, 1.0)
    for given in (proba, proba.astype(np.float32)):
        found = Reliability.of(given, np.zeros(4, dtype=int), n_bins=5)
        assert_array_equal(found.counts, [[0, 0, 1, 2, 1]])


@pytest.mark.parametrize("n_bins", [10, 15, 20, 100])
def test_the_precision_of_the_probabilities_does_not_matter(n_bins):
    confidence = np.arange(50, 101) / 100
    codes = np.arange(51) % 2
    exact, rounded = (
        Reliability.of(staged(*confidence.astype(kind)), codes, n_bins).error
        for kind in (np.float64, np.float32)
    )
    assert_allclose(exact, rounded, atol=1e-6)


def test_the_error_by_hand_with_and_without_weights():
    proba = staged(0.9, 0.9, 0.7, 0.7)
    codes = np.array([0, 1, 0, 0])
    assert_allclose(Reliability.of(proba, codes).error, [(2 * 0.4 + 2 * 0.3) / 4])
    weights = np.array([1.0, 0.0, 1.0, 1.0])
    assert_allclose(Reliability.of(proba, codes, weights=weights).error, [(0.1 + 2 * 0.3) / 3])
    doubled = Reliability.of(np.repeat(proba, 2, axis=0), np.repeat(codes, 2))
    assert_allclose(Reliability.of(proba, codes, weights=np.full(4, 2.0)).counts, doubled.counts)


@pytest.mark.parametrize("n_bins", [0, -1, 10_001, 10**9])
def test_numbers_of_bins_that_make_no_sense(n_bins):
    with pytest.raises(ValueError, match="n_bins must be an integer from 1 to 10000; got"):
        check_n_bins(n_bins)


@pytest.mark.parametrize("n_bins", [2.5, True, "15", None, [3]])
def test_what_is_no_number_of_bins(n_bins):
    with pytest.raises(TypeError, match="n_bins must be an integer from 1 to 10000; got"):
        check_n_bins(n_bins)
