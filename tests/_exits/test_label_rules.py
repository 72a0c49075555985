"""Several labels on arrays exit as a loop over samples, layers and labels says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.policy import JOINT_EXITS, apply_policy, exit_layers
from tests.model_selection.staged import label_thresholds, staged_labels

few = settings(deadline=None, max_examples=25)


def binary_entropy(p):
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0) / math.log(2)


def exits_at(proba, tau, patience, joint_exit, thresholds):
    """Give the exit layer of one sample, (n_layers, n_labels), by the definition."""
    agreeing, before = 0, None
    for layer, labels in enumerate(proba, start=1):
        now = [p > t for p, t in zip(labels, thresholds, strict=True)]
        agreeing = agreeing + 1 if now == before else 1
        before = now
        entropies = [binary_entropy(p) for p in labels]
        join = {"all": max, "any": min, "mean": np.mean}[joint_exit]
        if join(entropies) < tau or agreeing >= patience:
            return layer
    return len(proba)


@given(
    staged_labels(),
    st.floats(0, 1.2),
    st.integers(1, 7),
    st.sampled_from(JOINT_EXITS),
    label_thresholds,
)
@few
def test_exit_layers_are_those_of_the_definition(proba, tau, patience, joint_exit, seed):
    proba = proba.astype(np.float64)
    thresholds = 0.5 if seed is None else np.random.default_rng(seed).random(proba.shape[2])
    found = exit_layers(
        proba, tau, patience, joint_exit=joint_exit, multilabel=True, label_thresholds=thresholds
    )
    each = np.broadcast_to(thresholds, proba.shape[2:])
    # Entropies are summed in another order here: thresholds between them only.
    rounded = {round(binary_entropy(p), 9) for p in proba.ravel()} | {0.0}
    if joint_exit != "mean" and all(abs(tau - value) > 1e-8 for value in rounded):
        expected = [exits_at(row, tau, patience, joint_exit, each) for row in proba]
        assert_array_equal(found, expected)


@pytest.mark.parametrize("joint_exit", JOINT_EXITS)
@pytest.mark.parametrize("ensemble", [None, "mean", "weighted"])
def test_predictions_are_those_of_the_exits(joint_exit, ensemble):
    rng = np.random.default_rng(0)
    proba, thresholds = rng.random((40, 5, 3)), np.array([0.2, 0.5, 0.8])
    found = apply_policy(
        proba,
        0.8,
        3,
        ensemble,
        joint_exit=joint_exit,
        multilabel=True,
        label_thresholds=thresholds,
    )
    assert found.prediction.dtype == np.int64
    for i, layer in enumerate(found.exit_layer):
        assert layer == exits_at(proba[i], 0.8, 3, joint_exit, thresholds)
        visited = proba[i, :layer]
        weights = {None: np.eye(layer)[-1], "mean": np.ones(layer)}.get(
            ensemble, np.arange(1.0, layer + 1)
        )
        combined = weights @ visited / weights.sum()
        assert_allclose(found.proba[i], combined)
        assert_array_equal(found.prediction[i], combined > thresholds)
        assert_allclose(found.entropy[i], [binary_entropy(p) for p in visited[-1]])


@given(staged_labels(), st.sampled_from(JOINT_EXITS), label_thresholds)
@few
def test_sweeps_hold_every_policy(proba, joint_exit, seed):
    thresholds = None if seed is None else np.random.default_rng(seed).random(proba.shape[2])
    options = {"joint_exit": joint_exit, "label_thresholds": thresholds}
    staged = StagedPredictions.from_labels(proba, **options)
    assert not staged.depends_on_patience
    space = PolicySpace(staged)
    for patience in range(1, staged.n_layers + 1):
        sweep = space.sweep(patience)
        for tau, exits in zip(sweep.taus, sweep.exit_layers(), strict=True):
            expected = exit_layers(proba, tau, patience, multilabel=True, **options)
            assert_array_equal(exits, expected)


@given(staged_labels(), st.floats(0, 1.2), st.integers(1, 7))
@few
def test_one_label_is_a_task_of_two_classes(proba, tau, patience):
    label = proba[..., :1]
    two = np.concatenate([1 - label, label], axis=2)
    for joint_exit in JOINT_EXITS:
        found = apply_policy(label, tau, patience, joint_exit=joint_exit, multilabel=True)
        task = apply_policy(two, tau, patience)
        assert_array_equal(found.exit_layer, task.exit_layer)
        assert_array_equal(found.prediction[:, 0], task.prediction)
        assert_array_equal(found.entropy[:, 0], task.entropy)


def test_patience_counts_whole_sets_however_entropies_are_joined():
    proba = np.array([[[0.9, 0.1], [0.9, 0.9], [0.9, 0.1], [0.9, 0.1]]])
    for joint_exit in JOINT_EXITS:
        assert exit_layers(proba, 0.0, 2, joint_exit=joint_exit, multilabel=True) == 4
    # Several tasks of the same probabilities leave with the first pair of equal predictions.
    tasks = [np.stack([1 - label, label], axis=2) for label in np.moveaxis(proba, 2, 0)]
    assert exit_layers(tasks, 0.0, 2, joint_exit="any") == 2


def test_thresholds_change_patience_and_not_entropy():
    proba = np.array([[[0.6, 0.2], [0.4, 0.2], [0.6, 0.2], [0.6, 0.2]]])
    options = {"multilabel": True, "patience": 2}
    assert exit_layers(proba, 0.0, **options) == 4
    assert exit_layers(proba, 0.0, label_thresholds=[0.3, 0.5], **options) == 2
    for thresholds in (None, 0.1, [0.3, 0.9]):
        assert exit_layers(proba, 0.98, label_thresholds=thresholds, multilabel=True) == 1 + (
            binary_entropy(0.6) >= 0.98
        )


def test_parts_with_thresholds_and_labels_of_their_own():
    rng = np.random.default_rng(0)
    first = StagedPredictions.from_labels(rng.random((4, 3, 2)), label_thresholds=[0.2, 0.3])
    second = StagedPredictions.from_labels(rng.random((5, 3, 3)), label_thresholds=0.9)
    wide = first.with_classes([np.array([0, 2])], [3])
    both = StagedPredictions.concatenate([wide, second])
    assert_array_equal(both.predictions[:4][..., [0, 2]], first.predictions)
    assert not both.predictions[:4, :, 1].any()
    assert_array_equal(both.predictions[4:], second.predictions)
    assert_array_equal(
        both.exit_layers(0.7, 2),
        np.concatenate([first.exit_layers(0.7, 2), second.exit_layers(0.7, 2)]),
    )
    assert_array_equal(both.take(np.array([8, 1])).predictions, both.predictions[[8, 1]])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("0.5", TypeError, "label_thresholds must be None, a number in .* or 3 of them; got '0.5'"),
        (True, TypeError, "of type bool"),
        ([0.5, 0.5], ValueError, r"one for each label; got an array of shape \(2,\)"),
        ([0.5, np.nan, 0.5], ValueError, r"got \[0.5 nan 0.5\]"),
        (1.5, ValueError, "got 1.5"),
        ([[0.5], [0.5, 0.2]], ValueError, "label_thresholds must be an array"),
    ],
)
def test_bad_thresholds_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        exit_layers(np.full((2, 2, 3), 0.5), 0.1, multilabel=True, label_thresholds=given)


def test_other_arguments_that_do_not_fit_are_refused():
    proba = np.full((2, 2, 3), 0.5)
    with pytest.raises(ValueError, match="label_thresholds are for several labels"):
        apply_policy(proba, 0.1, label_thresholds=0.3)
    with pytest.raises(TypeError, match="multilabel must be a bool; got 'yes'"):
        apply_policy(proba, 0.1, multilabel="yes")
    with pytest.raises(ValueError, match=r"must have shape .*; got an array of shape \(1, 2, 2, 3"):
        exit_layers([proba], 0.1, multilabel=True)
