"""Scores of several labels against scikit-learn's own functions, one policy at a time."""

import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    coverage_error,
    f1_score,
    fbeta_score,
    get_scorer,
    jaccard_score,
    make_scorer,
    precision_score,
    recall_score,
)

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.label_scores import positive_f1_score, task_accuracy_score
from sklearn_epee._exits.policy_scores import ScorerScore, exact_score
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.policy import JOINT_EXITS
from tests.model_selection.staged import label_thresholds, staged_labels

few = settings(deadline=None, max_examples=5)


def truth_for(proba, seed, *, unknown=False):
    """True labels, right more often than not; some of them not known."""
    rng = np.random.default_rng(seed)
    shape = proba[:, -1].shape
    truth = np.where(rng.random(shape) < 0.7, proba[:, -1] > 0.5, rng.random(shape) < 0.3)
    hidden = (rng.random(shape) < 0.3) & unknown
    hidden[0, 0] = False
    return np.where(hidden, -1, truth)


def assert_exact(scoring, by_hand, proba, truth, weights=None, **options):
    """The scores of all thresholds of all patience values are those of every policy by itself."""
    staged = StagedPredictions.from_labels(proba, **options)
    tasks = Tasks(np.arange(proba.shape[2]), multilabel=True)
    score, rows = exact_score(scoring, tasks)(staged, truth, weights), np.arange(len(truth))
    for patience in range(1, staged.n_layers + 1):
        sweep = PolicySpace(staged).sweep(patience)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = [
                by_hand(
                    truth,
                    staged.predictions[rows, exits - 1],
                    staged.proba_at(exits)[0],
                    {} if weights is None else {"sample_weight": weights},
                )
                for exits in sweep.exit_layers()
            ]
        assert_allclose(score(sweep), expected, atol=1e-9)


FUNCTIONS = [
    (f1_score, {}),
    (fbeta_score, {"beta": 0.5}),
    (precision_score, {}),
    (recall_score, {}),
    (jaccard_score, {}),
]


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "samples"])
@pytest.mark.parametrize(("function", "options"), FUNCTIONS)
@given(
    proba=staged_labels(),
    seed=st.integers(0, 2**32 - 1),
    chosen=st.none() | st.lists(st.integers(0, 3), min_size=1, unique=True),
    zero_division=st.sampled_from(["warn", 0, 1.0, np.nan]),
    weighted=st.booleans(),
    joint_exit=st.sampled_from(JOINT_EXITS),
    thresholds=label_thresholds,
)
@few
def test_scores_are_those_of_scikit_learn(  # noqa: PLR0917 - pytest's and hypothesis's
    function,
    options,
    average,
    proba,
    seed,
    chosen,
    zero_division,
    weighted,
    joint_exit,
    thresholds,
):
    if proba.shape[2] == 1:  # no indicator for scikit-learn
        proba = np.repeat(proba, 2, axis=2)
    if function is jaccard_score and zero_division not in ("warn", 0, 1):
        zero_division = 0  # scikit-learn refuses NaN there
    labels = None if chosen is None else [c for c in chosen if c < proba.shape[2]] or None
    rng = np.random.default_rng(seed)
    weights = rng.choice([0.3, 2.0], size=len(proba)) if weighted else None
    if thresholds is not None:
        thresholds = np.random.default_rng(thresholds).random(proba.shape[2])
    given_options = {"labels": labels, "average": average, "zero_division": zero_division}

    def by_hand(truth, predicted, _, params):
        return function(truth, predicted, **given_options, **options, **params)

    assert_exact(
        make_scorer(function, **given_options, **options),
        by_hand,
        proba,
        truth_for(proba, seed),
        weights,
        joint_exit=joint_exit,
        label_thresholds=thresholds,
    )


def masked(function):
    """Score labels one by one, those known of each."""

    def by_hand(truth, predicted, proba, params):
        scores = []
        for column in range(truth.shape[1]):
            known = truth[:, column] >= 0
            ours = {name: values[known] for name, values in params.items()}
            scores.append(function(truth[known, column], predicted[known, column], **ours))
        return np.mean(scores)

    return by_hand


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ensemble", [None, "weighted"])
def test_labels_that_are_not_known_count_for_nothing(weighted, ensemble):
    proba = np.random.default_rng(0).beta(0.5, 0.5, (14, 3, 3))
    truth = truth_for(proba, 1, unknown=True)
    weights = np.random.default_rng(2).uniform(0.1, 2, 14) if weighted else None
    options = {"exit_ensemble": ensemble}
    known = truth >= 0
    assert 0 < known.mean() < 1
    for scoring, function in (
        ("f1_macro", lambda y, p, **w: f1_score(y, p, zero_division=0, **w)),
        ("recall_macro", lambda y, p, **w: recall_score(y, p, zero_division=0, **w)),
        ("balanced_accuracy", balanced_accuracy_score),
    ):
        assert_exact(scoring, masked(function), proba, truth, weights, **options)

    n_samples, n_labels = truth.shape
    ours = np.ones(n_samples) if weights is None else weights
    pairs = np.repeat(ours, n_labels).reshape(known.shape)[known]
    some = known.any(axis=1)

    def micro(truth, predicted, *_):
        return f1_score(truth[known], predicted[known], sample_weight=pairs)

    def of_pairs(truth, predicted, *_):
        return accuracy_score(truth[known], predicted[known], sample_weight=pairs)

    def of_sets(truth, predicted, *_):
        right = ((truth == predicted) | ~known).all(axis=1)
        return np.average(right[some], weights=ours[some])

    def ranked(truth, _, proba, __):
        each = [
            average_precision_score(truth[rows, k], proba[rows, k], sample_weight=ours[rows])
            for k, rows in enumerate(known.T)
        ]
        return np.mean(each)

    for scoring, by_hand in (
        ("f1_micro", micro),
        (task_accuracy_score, of_pairs),
        ("accuracy", of_sets),
        ("average_precision", ranked),
    ):
        assert_exact(scoring, by_hand, proba, truth, weights, **options)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "samples"])
@pytest.mark.parametrize("name", ["f1", "precision", "recall", "jaccard"])
def test_scorers_by_name(name, average):
    proba = np.random.default_rng(1).random((30, 4, 3))
    functions = dict(
        zip(
            ("f1", "precision", "recall", "jaccard"),
            [f for f, _ in FUNCTIONS if f is not fbeta_score],
            strict=True,
        )
    )

    def by_hand(truth, predicted, _, params):
        return functions[name](truth, predicted, average=average, **params)

    assert_exact(f"{name}_{average}", by_hand, proba, truth_for(proba, 0))


def test_accuracy_is_of_whole_sets():
    proba = np.random.default_rng(1).random((30, 4, 2))
    truth = truth_for(proba, 0)
    for scoring in ("accuracy", make_scorer(accuracy_score)):
        assert_exact(scoring, lambda y, p, _, w: accuracy_score(y, p, **w), proba, truth)


@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_any_other_scorer(n_labels):
    """It gets an indicator and probabilities of the labels, however many there are."""
    proba = np.random.default_rng(1).random((30, 4, n_labels))
    truth, tasks = truth_for(proba, 0), Tasks(np.arange(n_labels), multilabel=True)
    staged = StagedPredictions.from_labels(proba)
    sweep = PolicySpace(staged).sweep(2, np.array([0.0, 0.5]))
    by_name = {
        "neg_coverage": make_scorer(
            lambda y, p: -coverage_error(y, p), response_method="predict_proba"
        ),
        "own": lambda estimator, X, y: float((estimator.predict(X) == y).mean()),
        "score": lambda estimator, X, y: estimator.score(X, y),
    }
    if n_labels > 1:
        by_name["roc_auc"] = get_scorer("roc_auc")
        by_name["ap"] = get_scorer("average_precision")
    for name, scorer in by_name.items():
        if n_labels == 1 and name != "own":
            continue
        options = {"staged": staged, "tasks": tasks, "X": None, "y": truth, "params": {}}
        assert np.isfinite(ScorerScore(scorer, **options)(sweep)).all()
    found = exact_score("average_precision", tasks)(staged, truth)(sweep)
    if n_labels > 1:
        options = {"staged": staged, "tasks": tasks, "X": None, "y": truth, "params": {}}
        assert_allclose(ScorerScore(by_name["ap"], **options)(sweep), found)


def test_labels_that_are_not_known_are_refused_by_other_scorers():
    staged = StagedPredictions.from_labels(np.full((2, 3, 2), 0.5))
    truth, tasks = np.array([[1, 0], [0, -1]]), Tasks(np.arange(2), multilabel=True)
    with pytest.raises(ValueError, match=r"y does not say of every sample which labels it has"):
        ScorerScore(get_scorer("roc_auc"), staged=staged, tasks=tasks, X=None, y=truth, params={})


@pytest.mark.parametrize(
    "scorer",
    [
        "neg_log_loss",
        make_scorer(f1_score),  # binary
        make_scorer(f1_score, average=None),
        make_scorer(f1_score, labels=[0, 3], average="micro"),
        make_scorer(f1_score, labels=["a"], average="micro"),
        make_scorer(positive_f1_score, negative_class=0),
        lambda *_: 0.5,
    ],
)
def test_other_scores_are_left_to_their_scorers(scorer):
    assert exact_score(scorer, Tasks(np.arange(3), multilabel=True)) is None


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "samples"])
def test_scores_do_not_depend_on_the_unit_of_weights(unit, average):
    rng = np.random.default_rng(0)
    proba, weights = rng.random((30, 3, 4)), rng.uniform(0.1, 2, 30)
    truth = truth_for(proba, 0).astype(int)
    by_hand = partial(f1_score, average=average)
    assert_exact(
        make_scorer(f1_score, average=average),
        lambda truth, labels, _, params: by_hand(truth, labels, **params),
        proba,
        truth,
        unit * weights,
    )
