"""Scores of whole sweeps against scikit-learn's metrics, one policy at a time."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer, recall_score

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits import count_scores
from sklearn_epee._exits.policy_scores import EXACT_SCORES, ScorerScore
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from tests.model_selection.staged import codes_for, staged_arrays

no_deadline = settings(deadline=None)


def mean_recall(y, predicted, **options):
    return recall_score(y, predicted, labels=np.unique(y), average="macro", **options)


def mean_f1(y, predicted, **options):
    return f1_score(y, predicted, average="macro", zero_division=0, **options)


METRICS = {"accuracy": accuracy_score, "balanced_accuracy": mean_recall, "f1_macro": mean_f1}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
@given(proba=staged_arrays(), seed=st.integers(0, 2**32 - 1))
@no_deadline
def test_exact_scores_are_the_metrics(name, weighted, proba, seed):
    staged = StagedPredictions.from_proba([proba])
    codes = codes_for(proba, seed)
    weights = np.random.default_rng(seed).uniform(0.1, 2, size=len(codes)) if weighted else None
    score = EXACT_SCORES[name](staged, codes[:, np.newaxis], weights)
    rows = np.arange(len(codes))
    for patience in range(1, staged.n_layers + 1):
        sweep = PolicySpace(staged).sweep(patience)
        expected = [
            METRICS[name](codes, staged.predictions[rows, exits - 1, 0], sample_weight=weights)
            for exits in sweep.exit_layers()
        ]
        assert_allclose(score(sweep), expected, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_a_class_without_weight_counts_as_in_the_scorer_of_that_name(name):
    proba = np.random.default_rng(3).dirichlet(np.ones(3), size=(40, 4))
    codes = codes_for(proba)
    weights = np.where(codes == 1, 0.0, np.linspace(0.5, 2, 40))
    for kept in (np.full(40, True), codes != 1):  # there without weight; predicted alone
        staged = StagedPredictions.from_proba([proba[kept]])
        sweep = PolicySpace(staged).sweep(3)
        found = EXACT_SCORES[name](staged, codes[kept][:, np.newaxis], weights[kept])(sweep)
        rows = np.arange(kept.sum())
        expected = [
            get_scorer(name)._score_func(
                codes[kept],
                staged.predictions[rows, exits - 1, 0],
                sample_weight=weights[kept],
                **get_scorer(name)._kwargs,
            )
            for exits in sweep.exit_layers()
        ]
        assert_allclose(found, expected, atol=1e-12)


def many(n_classes=3):
    proba = np.random.default_rng(0).dirichlet(np.ones(n_classes), size=(60, 4))
    classes = np.array(["ant", "bee", "cow", "dog"][:n_classes])
    return StagedPredictions.from_proba([proba]), codes_for(proba), classes


def test_many_classes_are_counted_in_blocks(monkeypatch):
    staged, codes, _ = many(4)
    sweep = PolicySpace(staged).sweep(3)
    whole = EXACT_SCORES["f1_macro"](staged, codes[:, np.newaxis])(sweep)
    for size in (1, 2 * len(sweep.taus), 3 * len(sweep.taus)):
        monkeypatch.setattr(count_scores, "_BLOCK", size)
        assert_allclose(
            EXACT_SCORES["f1_macro"](staged, codes[:, np.newaxis])(sweep), whole, rtol=1e-12
        )


def test_accuracies_are_equal_to_the_last_bit():
    staged, codes, _ = many()
    sweep = PolicySpace(staged).sweep(4)
    found = EXACT_SCORES["accuracy"](staged, codes[:, np.newaxis])(sweep)
    for score, exits in zip(found, sweep.exit_layers(), strict=True):
        assert score == accuracy_score(codes, staged.predictions[np.arange(60), exits - 1, 0])


@pytest.mark.parametrize("name", ["f1_weighted", "neg_log_loss", "roc_auc_ovr"])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_scorer_sees_the_staged_at_the_exits(name, weighted):
    staged, codes, classes = many()
    params = {"sample_weight": np.linspace(0.1, 1, 60)} if weighted else {}
    scorer = get_scorer(name)
    score = ScorerScore(
        scorer, staged=staged, tasks=Tasks(classes), X=np.zeros(60), y=classes[codes], params=params
    )
    taus = PolicySpace(staged).quantile_taus(5)
    sweep = PolicySpace(staged).sweep(3, taus)
    metric = scorer._score_func
    needs_labels = name.startswith("f1")
    for found, exits in zip(score(sweep), sweep.exit_layers(), strict=True):
        proba = staged.proba_at(exits)[0]
        prediction = classes[proba.argmax(axis=1)] if needs_labels else proba
        expected = metric(classes[codes], prediction, **scorer._kwargs, **params)
        assert found == pytest.approx(scorer._sign * expected)


def test_scorers_get_the_samples():
    staged, codes, classes = many()
    X = [f"text {i}" for i in range(60)]

    def last_word(estimator, X, y):
        assert estimator.predict(X).shape == y.shape
        return float(X[7].split()[1])

    score = ScorerScore(last_word, staged=staged, tasks=Tasks(classes), X=X, y=codes, params={})
    assert score(PolicySpace(staged).sweep(1)).tolist() == [7]


@pytest.mark.parametrize("value", [{"a": 1.0}, "0.9", None, np.ones(2)])
def test_scorers_that_give_no_number(value):
    staged, codes, classes = many()
    score = ScorerScore(
        lambda *_: value, staged=staged, tasks=Tasks(classes), X=codes, y=codes, params={}
    )
    with pytest.raises(TypeError, match="scoring must return a single number"):
        score(PolicySpace(staged).sweep(1))


def test_thresholded_binary_scores():
    staged, codes, classes = many(2)
    scorer = make_scorer(f1_score, pos_label="bee")
    score = ScorerScore(
        scorer, staged=staged, tasks=Tasks(classes), X=codes, y=classes[codes], params={}
    )
    sweep = PolicySpace(staged).sweep(4, np.array([0.5]))
    exits = next(sweep.exit_layers())
    labels = classes[staged.predictions[np.arange(60), exits - 1, 0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(sweep)
    assert found == [f1_score(classes[codes], labels, pos_label="bee")]
