"""Every public argument of policy, metrics, model_selection and plotting, with values of any kind.

A call may accept a value, or refuse it by a TypeError or ValueError that names the argument.
"""

import copy
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
    metrics,
    plotting,
    policy,
)

from .bad_values import BAD_VALUES, bad_columns, bad_probabilities, outcome
from .model_selection.staged import MappedExits, NumericExits, NumericLabels, blobs, label_clouds

X, Y = blobs(60)
SETS = label_clouds(60)[1]
CLASSIFIER = MappedExits(tau=0.3).fit(X, Y)
PROBA = policy.stack_layers(CLASSIFIER.staged_predict_proba(X))
FROZEN = FrozenEstimator(CLASSIFIER)
CV_RESULTS = {
    "param_tau": [0.1, 0.2],
    "param_patience": [1, 2],
    "mean_test_accuracy": [0.9, 0.8],
    "mean_test_speedup": [0.1, 0.5],
    "params": [{}, {}],
}


def fit(estimator, **arguments):
    """Return a call that fits an estimator."""
    return lambda **given: clone(estimator).fit(**{"X": X, "y": Y} | arguments | given)


def constructed(make, y=Y, **arguments):
    """Return a call that makes and fits an estimator."""

    def call(**given):
        parameters = {**arguments, **given}
        return make(**parameters).fit(X, y)

    return call


def rule(make):
    """Return a call that makes a refit rule and applies it."""
    return lambda **given: make(**given)(CV_RESULTS)


GUARANTEE = {"estimator": FROZEN, "confidence": 0.9, "random_state": 0}
LABELS = {"y_true": Y, "staged_proba": PROBA}
FITTED = {"estimator": CLASSIFIER, "X": X, "y": Y}

# What is called, with arguments that it accepts, and the arguments that are varied.
CALLS = {
    "normalized_entropy": (policy.normalized_entropy, {"proba": PROBA}, ["proba"]),
    "patience_counters": (
        policy.patience_counters,
        {"predictions": PROBA.argmax(axis=2)},
        ["predictions"],
    ),
    "stack_layers": (policy.stack_layers, {"layers": [PROBA[:, 0], PROBA[:, 1]]}, ["layers"]),
    "exit_layers": (
        policy.exit_layers,
        {"proba": PROBA, "tau": 0.3},
        ["proba", "tau", "patience", "joint_exit"],
    ),
    "apply_policy": (
        policy.apply_policy,
        {"proba": PROBA, "tau": 0.3, "exit_ensemble": "weighted"},
        ["proba", "tau", "patience", "exit_ensemble", "exit_loss_weights", "joint_exit"],
    ),
    "speedup_ratio": (
        metrics.speedup_ratio,
        {"exit_layers": [1, 2, 3, 4, 5, 5], "n_layers": 5},
        ["exit_layers", "n_layers", "sample_weight"],
    ),
    "speedup_score": (metrics.speedup_score, FITTED, ["estimator", "sample_weight"]),
    "exit_scores": (metrics.exit_scores, FITTED, ["estimator", "y", "sample_weight"]),
    "task_accuracy_score": (metrics.task_accuracy_score, FITTED, ["y", "sample_weight"]),
    "refit_accuracy_at_speedup": (
        rule(metrics.refit_accuracy_at_speedup),
        {"min_speedup": 0.3},
        ["min_speedup", "metric", "speedup"],
    ),
    "refit_fastest_within": (
        rule(metrics.refit_fastest_within),
        {"tolerance": 0.3},
        ["tolerance", "metric", "speedup"],
    ),
    "FixedExitPolicyClassifier": (
        constructed(FixedExitPolicyClassifier, estimator=FROZEN),
        {},
        ["estimator", "tau", "patience"],
    ),
    "FixedExitPolicyClassifier.score": (
        FixedExitPolicyClassifier(FROZEN).fit(X, Y).score,
        {"X": X, "y": Y},
        ["y", "sample_weight"],
    ),
    "TunedExitPolicyClassifierCV": (
        constructed(TunedExitPolicyClassifierCV, estimator=NumericExits(), cv=2),
        {},
        [
            "estimator",
            "objective",
            "min_speedup",
            "max_accuracy_drop",
            "scoring",
            "policies",
            "cv",
            "refit",
            "random_state",
            "store_cv_results",
        ],
    ),
    "TunedExitPolicyClassifierCV, cv=0.5": (
        constructed(TunedExitPolicyClassifierCV, estimator=NumericExits(), cv=0.5),
        {},
        ["random_state"],
    ),
    "TunedExitPolicyClassifierCV, guarantee": (
        constructed(TunedExitPolicyClassifierCV, **GUARANTEE, max_accuracy_drop=0.5),
        {},
        [
            "objective",
            "min_speedup",
            "max_accuracy_drop",
            "confidence",
            "per_class",
            "policies",
            "random_state",
        ],
    ),
    "TunedExitPolicyClassifierCV, risk": (
        constructed(TunedExitPolicyClassifierCV, **GUARANTEE, risk="error", max_risk=0.5),
        {},
        ["risk", "max_risk"],
    ),
    "TunedExitPolicyClassifierCV, miss": (
        lambda risk: constructed(TunedExitPolicyClassifierCV, **GUARANTEE, max_risk=0.5)(
            risk=("miss", risk)
        ),
        {},
        ["risk"],
    ),
    **{
        f"TunedExitPolicyClassifierCV, policies of {key}": (
            lambda policies, key=key: constructed(TunedExitPolicyClassifierCV, estimator=FROZEN)(
                policies={key: policies}
            ),
            {},
            ["policies"],
        )
        for key in ("tau", "patience")
    },
    "TunedExitPolicyClassifierCV.fit": (
        fit(TunedExitPolicyClassifierCV(**GUARANTEE, max_accuracy_drop=0.5)),
        {},
        ["y", "risk_groups", "sample_weight"],
    ),
    "ExitCalibratedClassifier": (
        constructed(ExitCalibratedClassifier, estimator=MappedExits(), cv=2),
        {},
        ["estimator", "method", "cv", "random_state"],
    ),
    "ExitCalibratedClassifier.fit": (
        fit(ExitCalibratedClassifier(FROZEN)),
        {},
        ["y", "sample_weight"],
    ),
    "TunedLabelThresholdsClassifierCV": (
        constructed(
            TunedLabelThresholdsClassifierCV, y=SETS, estimator=NumericLabels(), min_samples=1, cv=2
        ),
        {},
        ["estimator", "scoring", "min_samples", "cv", "random_state"],
    ),
    "TunedLabelThresholdsClassifierCV.fit": (
        fit(TunedLabelThresholdsClassifierCV(NumericLabels(), cv=2)),
        {"y": SETS},
        ["y", "sample_weight"],
    ),
    "apply_policy of labels": (
        partial(policy.apply_policy, multilabel=True),
        {"proba": np.linspace(0, 1, 24).reshape(4, 2, 3), "tau": 0.1},
        ["label_thresholds", "multilabel"],
    ),
    **{
        f"{name}.from_predictions": (
            getattr(plotting, name).from_predictions,
            LABELS | arguments,
            ["y_true", "staged_proba", "labels", "ax", *varied],
        )
        for name, arguments, varied in (
            ("LayerwiseDisplay", {}, ["name"]),
            ("ExitHistogramDisplay", {"tau": 0.3}, ["tau", "patience"]),
            ("ExitReliabilityDisplay", {}, ["n_bins"]),
            (
                "ExitTradeoffDisplay",
                {"tau": 0.3, "exit_ensemble": "weighted"},
                ["tau", "patience", "exit_ensemble", "exit_loss_weights", "scoring"],
            ),
            (
                "ExitPolicyHeatmapDisplay",
                {"exit_ensemble": "weighted"},
                ["taus", "patiences", "exit_ensemble", "exit_loss_weights", "scoring"],
            ),
        )
    },
    **{
        f"{name}.from_estimator": (
            getattr(plotting, name).from_estimator,
            FITTED,
            ["estimator", "y", *varied],
        )
        for name, varied in (
            ("LayerwiseDisplay", []),
            ("ExitHistogramDisplay", []),
            ("ExitReliabilityDisplay", ["n_bins"]),
            ("ExitTradeoffDisplay", ["scoring"]),
            ("ExitPolicyHeatmapDisplay", ["taus", "patiences", "scoring"]),
        )
    },
    **{
        f"{name}.from_cv_results": (
            getattr(plotting, name).from_cv_results,
            {"search": CV_RESULTS},
            ["search", "metric", "speedup", "n_layers"],
        )
        for name in ("ExitTradeoffDisplay", "ExitPolicyHeatmapDisplay")
    },
}
PER_SAMPLE = {"y", "y_true", "sample_weight", "risk_groups"}
STAGED = {"proba", "staged_proba"}
VARIED = [(name, argument) for name, (_, _, arguments) in CALLS.items() for argument in arguments]


@pytest.fixture(autouse=True)
def _figures_in_memory():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_that_are_varied_work(name):
    call, arguments, _ = CALLS[name]
    if "miss" not in name and "policies of" not in name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(**arguments)


def values_for(argument):
    """Return the values that an argument is tried with."""
    shaped = bad_columns(len(Y)) if argument in PER_SAMPLE else {}
    shaped |= bad_probabilities(PROBA) if argument in STAGED else {}
    return BAD_VALUES | shaped


@pytest.mark.parametrize(("name", "argument"), VARIED)
def test_bad_values_are_accepted_or_refused_by_name(name, argument):
    call, arguments, _ = CALLS[name]
    wrong = {}
    for kind, value in values_for(argument).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = arguments | {argument: value}
            found = outcome(lambda given=given: call(**given), argument)
        if found not in {"accepted", "refused"}:
            wrong[kind] = found
        plt.close("all")
    assert not wrong


def test_refusals_leave_estimators_as_they_were():
    model = TunedExitPolicyClassifierCV(FROZEN).fit(X, Y)
    before = copy.copy(vars(model))
    for name, value in (("min_speedup", 2), ("scoring", "nope"), ("policies", {"a": 1})):
        with pytest.raises(ValueError, match=name):
            model.set_params(**{name: value}).fit(X, Y)
        model.set_params(**{name: before[name]})
        assert vars(model) == before
