"""Exports of estimators as graphs of ONNX, and what they must agree on."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee.onnx_runtime import OnnxExits, OnnxTokenExits
from sklearn_epee.policy import normalized_entropy

from .classifiers import tiny_training

# Heads that have learned something: entropies that differ.
LEARNT = tiny_training(max_epochs=1, head_learning_rate=0.05)


def exported(fitted, folder, **options):
    """Export an estimator, and open what was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.export_onnx(folder, **options)
    of_words = hasattr(fitted, "predict_tags")
    return (OnnxTokenExits if of_words else OnnxExits)(folder, n_threads=1)


def agree(fitted, found, X):
    """Check a dict of the driver against the estimator, under a policy with a margin."""
    own = fitted.predict_with_exits(X)
    assert_array_equal(found["exit_layer"], own.exit_layer)
    assert_array_equal(found["labels"], own.labels)
    assert np.asarray(found["labels"]).dtype == own.labels.dtype
    pairs = [(found["proba"], own.proba)]
    if isinstance(own.proba, list):
        pairs = list(zip(*pairs[0], strict=True))
    for first, second in pairs:
        assert_allclose(first, second, atol=1e-4)
    assert_allclose(found["entropy"], own.entropy, atol=1e-3)
    if "towers" in own:
        assert_array_equal(found["towers"], own.towers)


def middle_of_the_widest_gap(values):
    """Return a threshold far from any value, with about a quarter of them below it at least."""
    values = np.sort(np.asarray(values)[np.isfinite(values)])
    inner = values[len(values) // 4 : -len(values) // 4]
    place = int(np.diff(inner).argmax())
    return float(inner[place : place + 2].mean())


def mixed_policy(fitted, X):
    """Let some of the samples exit early, by a threshold far from any entropy of any layer."""
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)
    entropies = normalized_entropy(staged)[:, :-1]
    low, high = np.quantile(entropies[:, 0], [0.25, 0.75])
    inner = np.sort(entropies[(entropies >= low) & (entropies <= high)])
    place = int(np.diff(inner).argmax())
    return fitted.set_params(tau=float(inner[place : place + 2].mean()))
