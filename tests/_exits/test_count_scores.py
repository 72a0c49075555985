"""Scores from counts against scikit-learn's own functions, one policy at a time."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    fbeta_score,
    get_scorer,
    jaccard_score,
    make_scorer,
    precision_score,
    recall_score,
)

from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits import count_scores
from sklearn_epee._exits.label_scores import positive_f1_score
from sklearn_epee._exits.policy_scores import exact_score
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from tests.model_selection.staged import codes_for, staged_arrays

no_deadline = settings(deadline=None, max_examples=25)
WORDS = np.array(["advise", "effect", "false", "int"])


def expected_scores(scorer, classes, staged, codes, *, sweep, weights):
    """Ask scikit-learn policy by policy."""
    params = {} if weights is None else {"sample_weight": weights}
    rows, y = np.arange(len(codes)), classes[codes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            scorer._sign
            * scorer._score_func(
                y, classes[staged.predictions[rows, exits - 1, 0]], **scorer._kwargs, **params
            )
            for exits in sweep.exit_layers()
        ]


def assert_exact(scorer, classes, proba, seed=0, weights=None):
    """The scores of all thresholds of all patience values are scikit-learn's."""
    staged, codes = StagedPredictions.from_proba([proba]), codes_for(proba, seed)
    score = exact_score(scorer, Tasks(classes))(staged, codes[:, np.newaxis], weights)
    assert score.is_cheap
    for patience in range(1, staged.n_layers + 1):
        sweep = PolicySpace(staged).sweep(patience)
        expected = expected_scores(scorer, classes, staged, codes, sweep=sweep, weights=weights)
        assert_allclose(score(sweep), expected, atol=1e-12)


FUNCTIONS = [
    (f1_score, {}),
    (fbeta_score, {"beta": 0.5}),
    (fbeta_score, {"beta": 0}),
    (fbeta_score, {"beta": np.inf}),
    (precision_score, {}),
    (recall_score, {}),
    (jaccard_score, {}),
]


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize(("function", "options"), FUNCTIONS)
@given(
    proba=staged_arrays(),
    seed=st.integers(0, 2**32 - 1),
    chosen=st.none() | st.lists(st.integers(0, 5), min_size=1, unique=True),
    zero_division=st.sampled_from(["warn", 0, 1.0, np.nan]),
    kind=st.sampled_from(["words", "numbers", "objects"]),
    weighted=st.booleans(),
)
@no_deadline
def test_scores_are_those_of_scikit_learn(  # noqa: PLR0917 - pytest's and hypothesis's
    function, options, average, proba, seed, chosen, zero_division, kind, weighted
):
    names = [*WORDS, "unknown", "unseen"] if kind != "numbers" else [-3, 0, 2, 7, 11, 12]
    classes = np.array(names[: proba.shape[2]], dtype=object if kind == "objects" else None)
    if function is jaccard_score and zero_division not in ("warn", 0, 1):
        zero_division = 0  # scikit-learn refuses NaN there
    labels = None if chosen is None else [names[i] for i in chosen]
    scorer = make_scorer(
        function, labels=labels, average=average, zero_division=zero_division, **options
    )
    rng = np.random.default_rng(seed)
    weights = rng.choice([0.0, 0.3, 2.0], size=len(proba)) + 1e-3 if weighted else None
    assert_exact(scorer, classes, proba, seed, weights)


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("weighted", [False, True])
@given(proba=staged_arrays(max_classes=4), seed=st.integers(0, 2**32 - 1))
@no_deadline
def test_a_negative_class_is_left_out(average, weighted, proba, seed):
    classes = WORDS[: proba.shape[2]]
    codes = codes_for(proba, seed)
    negative = classes[codes[0]]  # there, so that it is not refused
    weights = np.random.default_rng(seed).uniform(0.1, 2, len(codes)) if weighted else None
    scorer = make_scorer(positive_f1_score, negative_class=negative, average=average)
    assert_exact(scorer, classes, proba, seed, weights)


@pytest.mark.parametrize("name", ["f1", "precision", "recall", "jaccard"])
@pytest.mark.parametrize("ending", ["_micro", "_macro", "_weighted"])
def test_scorers_by_name(name, ending):
    proba = np.random.default_rng(1).dirichlet(np.ones(3), size=(30, 4))
    assert_exact(get_scorer(name + ending), WORDS[:3], proba)


@pytest.mark.parametrize("pos_label", ["effect", "advise"])
def test_binary_scores_equal_those_of_scikit_learn(pos_label):
    proba = np.random.default_rng(2).dirichlet(np.ones(2), size=(30, 4))
    for function in (f1_score, precision_score, recall_score, jaccard_score):
        assert_exact(make_scorer(function, pos_label=pos_label), WORDS[:2], proba)
    assert_exact(get_scorer("f1"), np.array([0, 1]), proba)


def test_lower_is_better():
    proba = np.random.default_rng(2).dirichlet(np.ones(3), size=(30, 4))
    scorer = make_scorer(recall_score, greater_is_better=False, average="macro")
    assert_exact(scorer, WORDS[:3], proba)


@pytest.mark.parametrize("function", [accuracy_score, balanced_accuracy_score])
def test_accuracies_as_scorers(function):
    proba = np.random.default_rng(2).dirichlet(np.ones(3), size=(30, 4))
    assert_exact(make_scorer(function), WORDS[:3], proba)


def test_many_classes_are_counted_in_blocks(monkeypatch):
    proba = np.random.default_rng(0).dirichlet(np.ones(4), size=(40, 4))
    scorer = make_scorer(f1_score, labels=["int", "advise", "false"], average="weighted")
    for size in (1, 50):
        monkeypatch.setattr(count_scores, "_BLOCK", size)
        assert_exact(scorer, WORDS, proba)


@pytest.mark.parametrize(
    ("scorer", "classes"),
    [
        ("neg_log_loss", WORDS),
        (make_scorer(cohen_kappa_score), WORDS),
        (make_scorer(f1_score, average="samples"), WORDS),
        (make_scorer(f1_score), WORDS),  # more than two classes
        (make_scorer(f1_score, pos_label="absent"), WORDS[:2]),
        (make_scorer(f1_score, labels=[1, 2], average="micro"), WORDS),
        (make_scorer(f1_score, labels=["int", "int"], average="micro"), WORDS),
        (make_scorer(f1_score, labels=[], average="micro"), WORDS),
        (make_scorer(f1_score, average="macro", zero_division=0.5), WORDS),
        (make_scorer(f1_score, average="macro", unknown=1), WORDS),
        (make_scorer(fbeta_score, beta=-1, average="macro"), WORDS),
        (make_scorer(f1_score, average="macro"), np.array([0.5, 1.5])),
        (make_scorer(accuracy_score, normalize=False), WORDS),
        (make_scorer(positive_f1_score, negative_class="False"), WORDS),
        (make_scorer(max), WORDS),
        (max, WORDS),
        (make_scorer(f1_score, average="macro"), [WORDS, WORDS]),
    ],
)
def test_what_counts_do_not_decide_is_left_to_the_scorer(scorer, classes):
    assert exact_score(scorer, Tasks(classes)) is None


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 1e12])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_scores_do_not_depend_on_the_unit_of_weights(unit, average):
    rng = np.random.default_rng(0)
    proba, weights = rng.dirichlet(np.ones(4), (30, 3)), rng.uniform(0.1, 2, 30)
    assert_exact(make_scorer(f1_score, average=average), WORDS, proba, weights=unit * weights)
