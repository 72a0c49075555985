"""Exit policies on arrays, against loops written from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.checks import (
    check_exit_ensemble,
    check_exit_loss_weights,
    check_patience,
    check_tau,
)
from sklearn_epee.policy import (
    PolicyResult,
    apply_policy,
    exit_layers,
    normalized_entropy,
    patience_counters,
    stack_layers,
)
from tests.model_selection.staged import staged_arrays

TAUS = st.floats(0, 1.2)

no_deadline = settings(deadline=None)  # a busy machine is not a failure


def entropy_of(p):
    if len(p) == 1:
        return 0.0
    return -sum(float(x) * math.log(float(x)) for x in p if x > 0) / math.log(len(p))


def exit_of(proba, entropies, tau, patience):
    """Walk through the layers of one sample, as the definition reads."""
    n_layers = len(proba)
    counter = 0
    for m in range(1, n_layers + 1):
        agrees = m > 1 and proba[m - 1].argmax() == proba[m - 2].argmax()
        counter = counter + 1 if agrees else 1
        if float(entropies[m - 1]) < tau or counter >= patience:
            return m
    return n_layers


# --------------------------------------------------------------------------- entropy


def test_entropy_of_known_distributions():
    proba = [[1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]
    assert_allclose(normalized_entropy(proba), [0, 1, 0.5], atol=1e-15)


@given(staged_arrays())
@no_deadline
def test_entropy_equals_its_definition(proba):
    expected = [[entropy_of(p) for p in layers] for layers in proba]
    assert_allclose(normalized_entropy(proba), expected, atol=1e-6)


@given(staged_arrays())
@no_deadline
def test_entropy_stays_in_the_unit_interval_and_keeps_type_and_shape(proba):
    entropy = normalized_entropy(proba)
    assert entropy.dtype == proba.dtype
    assert entropy.shape == proba.shape[:-1]
    assert (entropy >= 0).all()
    assert (entropy <= 1).all()


@pytest.mark.parametrize("n_classes", [2, 3, 7, 22, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_of_the_uniform_distribution_does_not_exceed_one(n_classes, dtype):
    entropy = normalized_entropy(np.full((1, n_classes), 1 / n_classes, dtype=dtype))
    assert_allclose(entropy, 1, rtol=1e-6)
    assert entropy[0] <= 1


def test_one_class_is_certain():
    assert_array_equal(normalized_entropy(np.ones((3, 2, 1))), np.zeros((3, 2)))


def test_vanishing_probabilities_count_nothing():
    tiny = np.array([1.0, np.nextafter(np.float32(0), np.float32(1))], dtype=np.float32)
    assert normalized_entropy(tiny) == pytest.approx(0, abs=1e-6)


def test_half_precision_and_integers_are_widened():
    assert normalized_entropy(np.array([0.5, 0.5], dtype=np.float16)).dtype == np.float32
    assert normalized_entropy(np.array([1, 0])).dtype == np.float64


@pytest.mark.parametrize(
    ("proba", "error", "message"),
    [
        ([-3.0, 2.0], ValueError, "probabilities between 0 and 1"),
        ([0.5, np.nan], ValueError, "probabilities between 0 and 1"),
        ([50, 50], ValueError, "got values from 50.0 to 50.0"),
        (np.empty((3, 0)), ValueError, "at least one class"),
        (0.5, ValueError, "at least one class"),
        (["a", "b"], TypeError, "proba must be an array of numbers"),
    ],
)
def test_what_is_no_probability_is_refused(proba, error, message):
    with pytest.raises(error, match=message):
        normalized_entropy(proba)


# --------------------------------------------------------------------------- counters


def test_counter_starts_at_one_and_restarts_at_one():
    assert_array_equal(patience_counters([[2, 2, 2, 0, 0, 2]]), [[1, 2, 3, 1, 2, 1]])


@given(st.integers(0, 5), st.integers(0, 8), st.integers(0, 2**32 - 1))
@no_deadline
def test_counters_equal_a_loop(n_samples, n_layers, seed):
    predictions = np.random.default_rng(seed).integers(0, 2, size=(n_samples, n_layers))
    expected = np.zeros_like(predictions)
    for i, row in enumerate(predictions):
        for m, label in enumerate(row):
            expected[i, m] = expected[i, m - 1] + 1 if m and label == row[m - 1] else 1
    counters = patience_counters(predictions)
    assert counters.dtype == np.int64
    assert_array_equal(counters, expected)


def test_labels_count_like_columns():
    assert_array_equal(patience_counters([["a", "a", "b"]]), [[1, 2, 1]])


def test_counters_need_two_dimensions():
    with pytest.raises(ValueError, match=r"\(n_samples, n_layers\).*\(3,\)"):
        patience_counters([0, 1, 1])


# --------------------------------------------------------------------------- exits


@given(staged_arrays(), TAUS, st.none() | st.integers(1, 8))
@no_deadline
def test_exit_layers_equal_a_loop(proba, tau, patience):
    entropies = normalized_entropy(proba)
    n_layers = proba.shape[1]
    limit = n_layers if patience is None else patience
    expected = [exit_of(p, h, tau, limit) for p, h in zip(proba, entropies, strict=True)]
    exits = exit_layers(proba, tau, patience)
    assert exits.dtype == np.int64
    assert_array_equal(exits, expected)


@given(staged_arrays(), TAUS, TAUS, st.integers(1, 8))
@no_deadline
def test_a_larger_tau_never_leaves_later(proba, tau, other, patience):
    low, high = sorted([tau, other])
    assert (exit_layers(proba, high, patience) <= exit_layers(proba, low, patience)).all()


@given(staged_arrays(), TAUS, st.integers(1, 8), st.integers(1, 8))
@no_deadline
def test_a_larger_patience_never_leaves_earlier(proba, tau, patience, other):
    low, high = sorted([patience, other])
    assert (exit_layers(proba, tau, low) <= exit_layers(proba, tau, high)).all()


@given(staged_arrays(), st.integers(1, 8))
@no_deadline
def test_tau_zero_leaves_patience_alone(proba, patience):
    reached = patience_counters(proba.argmax(axis=-1)) >= patience
    reached[:, -1] = True
    assert_array_equal(exit_layers(proba, 0, patience), reached.argmax(axis=1) + 1)


@given(staged_arrays(), TAUS, st.integers(0, 3))
@no_deadline
def test_patience_of_all_layers_leaves_entropy_alone(proba, tau, more):
    n_layers = proba.shape[1]
    below = normalized_entropy(proba).astype(float) < tau
    below[:, -1] = True
    expected = below.argmax(axis=1) + 1
    assert_array_equal(exit_layers(proba, tau), expected)
    assert_array_equal(exit_layers(proba, tau, n_layers + more), expected)


@given(staged_arrays())
@no_deadline
def test_patience_one_and_tau_above_one_leave_at_once(proba):
    first = np.ones(len(proba))
    assert_array_equal(exit_layers(proba, 0, patience=1), first)
    assert_array_equal(exit_layers(proba, 1.0001), first)


def test_pabee_patience_is_one_less():
    # Three layers agree, which PABEE counts as two agreements.
    proba = np.array([[[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]])
    assert exit_layers(proba, 0, patience=3) == [3]


@given(staged_arrays(), st.data())
@no_deadline
def test_comparison_with_tau_is_strict(proba, data):
    entropies = normalized_entropy(proba)
    i = data.draw(st.integers(0, len(proba) - 1))
    m = data.draw(st.integers(0, proba.shape[1] - 1))
    tau = float(entropies[i, m])
    left = exit_layers(proba, tau)[i]
    assert left == proba.shape[1] or left != m + 1
    if (entropies[i, :m].astype(float) > tau).all():
        assert exit_layers(proba, np.nextafter(tau, 2))[i] == m + 1


@pytest.mark.parametrize("tau_type", [float, np.float32, np.float64])
def test_tau_keeps_its_value_whatever_its_type(tau_type):
    proba = np.array([[[0.9, 0.1], [0.5, 0.5]]], dtype=np.float32)
    tau = float(normalized_entropy(proba)[0, 0])
    assert exit_layers(proba, tau_type(tau)) == [2]
    assert exit_layers(proba, float(np.nextafter(tau, 1))) == [1]


@given(staged_arrays(), TAUS, st.none() | st.integers(1, 8), st.randoms(use_true_random=False))
@no_deadline
def test_samples_do_not_see_each_other(proba, tau, patience, random):
    order = list(range(len(proba)))
    random.shuffle(order)
    together = apply_policy(proba, tau, patience, exit_ensemble="weighted")
    shuffled = apply_policy(proba[order], tau, patience, exit_ensemble="weighted")
    for whole, part in zip(together, shuffled, strict=True):
        assert_array_equal(whole[order], part)
    for i in range(len(proba)):
        alone = apply_policy(proba[i : i + 1], tau, patience, exit_ensemble="weighted")
        for whole, part in zip(together, alone, strict=True):
            assert_array_equal(whole[i], part[0])


def test_no_samples_give_no_exits():
    result = apply_policy(np.empty((0, 3, 2)), 0.1, exit_ensemble="mean")
    assert [len(field) for field in result] == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(3, 2), (2, 0, 2), (1, 2, 2, 2)])
def test_staged_probabilities_have_three_dimensions(shape):
    with pytest.raises(ValueError, match="n_samples, n_layers, n_classes"):
        exit_layers(np.full(shape, 0.5), 0.1)


def test_input_is_left_as_it_was():
    proba = np.array([[[0.7, 0.3], [0.2, 0.8]]])
    before = proba.copy()
    apply_policy(proba, 0.5, 2, exit_ensemble="weighted")
    assert_array_equal(proba, before)


# --------------------------------------------------------------------------- results


@given(staged_arrays(), TAUS, st.none() | st.integers(1, 8))
@no_deadline
def test_result_is_that_of_the_exit(proba, tau, patience):
    result = apply_policy(proba, tau, patience)
    assert isinstance(result, PolicyResult)
    assert_array_equal(result.exit_layer, exit_layers(proba, tau, patience))
    rows = np.arange(len(proba))
    assert_array_equal(result.proba, proba[rows, result.exit_layer - 1])
    assert_array_equal(result.entropy, normalized_entropy(proba)[rows, result.exit_layer - 1])
    assert_array_equal(result.prediction, result.proba.argmax(axis=1))


@given(
    staged_arrays(),
    TAUS,
    st.none() | st.integers(1, 8),
    st.sampled_from(["mean", "weighted"]),
    st.data(),
)
@no_deadline
def test_ensembles_average_the_visited_exits(proba, tau, patience, ensemble, data):
    n_layers = proba.shape[1]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=n_layers, max_size=n_layers))
    result = apply_policy(proba, tau, patience, ensemble, exit_loss_weights=weights)
    used = np.ones(n_layers) if ensemble == "mean" else np.array(weights)
    for i, m in enumerate(result.exit_layer):
        expected = np.average(proba[i, :m], axis=0, weights=used[:m])
        assert_allclose(result.proba[i], expected, atol=1e-6)
    assert result.proba.dtype == proba.dtype
    assert_allclose(result.proba.sum(axis=1), 1, atol=1e-5)
    assert_array_equal(result.prediction, result.proba.argmax(axis=1))
    own = apply_policy(proba, tau, patience)
    assert_array_equal(result.exit_layer, own.exit_layer)
    assert_array_equal(result.entropy, own.entropy)


def test_ensemble_may_overrule_the_exit():
    proba = np.array([[[0.1, 0.9], [0.55, 0.45]]])
    assert apply_policy(proba, 0).prediction == [0]
    assert apply_policy(proba, 0, exit_ensemble="mean").prediction == [1]


def test_weights_ascend_by_default():
    proba = np.array([[[0.1, 0.9], [0.7, 0.3]]])
    result = apply_policy(proba, 0, exit_ensemble="weighted")
    assert_allclose(result.proba, [[0.5, 0.5]])


def test_visited_exits_without_weight_fall_back_to_the_exit():
    proba = np.array([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]])
    result = apply_policy(proba, 0.6, exit_ensemble="weighted", exit_loss_weights=[0, 0, 1])
    assert_array_equal(result.exit_layer, [1])
    assert_array_equal(result.proba, [[0.9, 0.1]])


def test_layers_not_visited_do_not_count():
    proba = np.array([[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]])
    other = proba.copy()
    other[:, 1:] = [[0.5, 0.5], [1.0, 0.0]]
    for ensemble in (None, "mean", "weighted"):
        first = apply_policy(proba, 0.6, exit_ensemble=ensemble)
        second = apply_policy(other, 0.6, exit_ensemble=ensemble)
        assert_array_equal(first.proba, second.proba)


# --------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("tau", [0, 0.5, 1, 3.5, np.float32(0.25), np.int64(1), np.float64(0)])
def test_tau_is_returned_as_a_float(tau):
    assert check_tau(tau) == tau
    assert type(check_tau(tau)) is float


@pytest.mark.parametrize("tau", [-0.1, -1, np.nan, np.inf, -np.inf, np.float32("nan")])
def test_tau_out_of_range(tau):
    with pytest.raises(ValueError, match=r"tau must be a real number in \[0, inf\); got"):
        check_tau(tau)


@pytest.mark.parametrize("tau", [True, "0.1", None, [0.1], np.array([0.1]), 1j, np.bool_(True)])
def test_tau_of_another_type(tau):
    with pytest.raises(TypeError, match=r"tau must be a real number in \[0, inf\); got"):
        check_tau(tau)


@pytest.mark.parametrize("patience", [1, 3, np.int32(3), np.uint8(2), 100])
def test_patience_is_returned_as_an_int(patience):
    assert check_patience(patience, n_layers=12) == patience
    assert type(check_patience(patience)) is int


def test_no_patience_is_the_number_of_layers():
    assert check_patience(None) is None
    assert check_patience(None, n_layers=12) == 12


@pytest.mark.parametrize("patience", [0, -1, np.int64(0)])
def test_patience_out_of_range(patience):
    with pytest.raises(ValueError, match="patience must be an integer >= 1 or None; got"):
        check_patience(patience)


@pytest.mark.parametrize("patience", [1.0, 2.5, True, "2", np.nan, [2], np.bool_(True)])
def test_patience_of_another_type(patience):
    with pytest.raises(TypeError, match="patience must be an integer >= 1 or None; got"):
        check_patience(patience)


def test_policies_check_their_arguments():
    proba = np.full((1, 2, 2), 0.5)
    with pytest.raises(ValueError, match="tau must be"):
        exit_layers(proba, np.nan)
    with pytest.raises(ValueError, match="patience must be"):
        exit_layers(proba, 0.1, 0)
    with pytest.raises(ValueError, match="exit_ensemble must be"):
        apply_policy(proba, 0.1, exit_ensemble="median")
    with pytest.raises(ValueError, match="one weight for each of the 2 layers"):
        apply_policy(proba, 0.1, exit_ensemble="weighted", exit_loss_weights=[1, 2, 3])


@pytest.mark.parametrize("value", [None, "mean", "weighted"])
def test_known_exit_ensembles_are_accepted(value):
    assert check_exit_ensemble(value) == value


@pytest.mark.parametrize(
    ("value", "error"), [("max", ValueError), (True, TypeError), (1, TypeError)]
)
def test_unknown_exit_ensembles(value, error):
    with pytest.raises(error, match="exit_ensemble must be None, 'mean' or 'weighted'; got"):
        check_exit_ensemble(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ascending", [1, 2, 3]),
        ("descending", [3, 2, 1]),
        ("uniform", [1, 1, 1]),
        ([0, 0.5, 2], [0, 0.5, 2]),
        (np.array([1, 2, 4]), [1, 2, 4]),
    ],
)
def test_exit_loss_weights(value, expected):
    weights = check_exit_loss_weights(value, n_layers=3)
    assert weights.dtype == np.float64
    assert_array_equal(weights, expected)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("rising", ValueError, "got 'rising'"),
        ([1, 2], ValueError, r"each of the 3 layers.*\(2,\)"),
        ([[1, 2, 3]], ValueError, r"\(1, 3\)"),
        ([[1], [2, 3]], ValueError, r"exit_loss_weights must be .* got \[\[1\], \[2, 3\]\]"),
        ([1, -1, 1], ValueError, "finite, >= 0 and not all zero"),
        ([1, np.nan, 1], ValueError, "finite, >= 0 and not all zero"),
        ([0, 0, 0], ValueError, "finite, >= 0 and not all zero"),
        (["1", "2", "3"], TypeError, "exit_loss_weights must be one of"),
        (None, TypeError, "exit_loss_weights must be one of"),
    ],
)
def test_bad_exit_loss_weights(value, error, message):
    with pytest.raises(error, match=message):
        check_exit_loss_weights(value, n_layers=3)


# --------------------------------------------------------------------------- layers as yielded


@given(staged_arrays())
@no_deadline
def test_layers_one_by_one_become_what_policies_read(proba):
    layers = [proba[:, layer] for layer in range(proba.shape[1])]
    assert_array_equal(stack_layers(iter(layers)), proba)
    assert_array_equal(stack_layers([layer.tolist() for layer in layers]), proba)
    first, second = stack_layers([layer, layer[:, :1]] for layer in layers)
    assert_array_equal(first, proba)
    assert_array_equal(second, proba[:, :, :1])


@pytest.mark.parametrize(("layers", "message"), [
    ([], "at least one layer"),
    ([np.ones((2, 3)), np.ones((3, 2))], r"one shape; got the shapes \[\(2, 3\), \(3, 2\)\]"),
    ([0.5, 0.5], "arrays of the same samples"),
    ([[np.ones((2, 2))], [np.ones((2, 2))] * 2], r"as many tasks each; got lists of \[1, 2\]"),
])  # fmt: skip
def test_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=f"layers must hold .*{message}"):
        stack_layers(iter(layers))
    with pytest.raises(TypeError, match="layers must be an iterable with an array for each layer"):
        stack_layers(3)
