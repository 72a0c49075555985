"""Scores of spans over all policies, against seqeval policy by policy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import f1_score, make_scorer, precision_score

from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._word_exits import (
    check_word_scoring,
    count_spans,
    right_words,
    true_spans,
    true_tags,
    word_score,
)
from sklearn_epee.metrics import (
    span_f1_score,
    span_f1_scorer,
    span_precision_score,
    span_recall_score,
)

from .test_staged import COUNTS, N_LAYERS, sentences

LABELS = ("Drug", "Effect", "Dose")


def random_spans(rng, layered, labels=LABELS):
    """The spans of one sentence after another."""

    def one(count):
        starts = [n for n in range(count) if rng.random() < 0.6]
        return [(n, n + 1, str(rng.choice(labels))) for n in starts]

    if layered:
        return [{"event": one(n), "drug": one(n)} for n in COUNTS]
    return [one(n) for n in COUNTS]


def at_exits(exits, layers):
    return [layers[layer - 1][row] for row, layer in enumerate(exits)]


@pytest.fixture(params=[False, True], ids=["one layer", "two layers"])
def spans(request):
    rng = np.random.default_rng(1)
    true = random_spans(rng, request.param)
    # A label that the truth lacks, at one exit alone.
    layers = [random_spans(rng, request.param) for _ in range(N_LAYERS - 1)]
    layers.insert(1, random_spans(rng, request.param, (*LABELS, "Only here")))
    return true, layers


def check(scoring, expected, spans):
    true, layers = spans
    space = PolicySpace(sentences("all"))
    score = word_score(scoring, count_spans(true, layers))
    assert score.is_cheap
    for patience in (2, 4, N_LAYERS):
        sweep = space.sweep(patience)
        found = score(sweep)
        each = [expected(true, at_exits(exits, layers)) for exits in sweep.exit_layers()]
        assert_allclose(found, each, atol=1e-12)
        assert len(np.unique(found)) > 2


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_span_f1_is_that_of_seqeval_for_every_policy(average, spans):
    check(
        span_f1_scorer(average=average),
        lambda true, found: span_f1_score(true, found, average=average),
        spans,
    )
    check(
        f"f1_{average}",
        lambda true, found: span_f1_score(true, found, average=average),
        spans,
    )


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_precision_and_recall_of_spans(average, spans):
    for name, function in [("precision", span_precision_score), ("recall", span_recall_score)]:
        check(
            f"{name}_{average}",
            lambda true, found, function=function: function(true, found, average=average),
            spans,
        )


def test_one_layer_of_spans():
    rng = np.random.default_rng(2)
    spans = random_spans(rng, True), [random_spans(rng, True) for _ in range(N_LAYERS)]
    check(
        span_f1_scorer(layer="drug"),
        lambda true, found: span_f1_score(true, found, layer="drug"),
        spans,
    )
    with pytest.raises(ValueError, match=r"layer must be one of \['drug', 'event'\]; got 'dose'"):
        word_score(span_f1_scorer(layer="dose"), count_spans(*spans))


def test_named_labels_count_alone():
    rng = np.random.default_rng(3)
    spans = random_spans(rng, False), [random_spans(rng, False) for _ in range(N_LAYERS)]

    def of_drugs(true, found):
        parts = [[[s for s in one if s[2] == "Drug"] for one in part] for part in (true, found)]
        return span_f1_score(*parts)

    check(make_scorer(f1_score, labels=["Drug"], average="micro"), of_drugs, spans)
    check(
        make_scorer(f1_score, labels=["Drug", "Unknown"], average="macro"),
        lambda true, found: of_drugs(true, found) / 2,
        spans,
    )
    check(
        make_scorer(precision_score, average="micro", greater_is_better=False),
        lambda true, found: -span_precision_score(true, found),
        spans,
    )


def test_spans_that_are_there_twice_count_once_and_those_in_pieces_are_missed():
    true = [[(0, 1, "Drug"), (0, 1, "Drug"), ((2, 3), (4, 5), "Effect")]]
    counts = count_spans(true, [[[(0, 1, "Drug"), (0, 1, "Drug")]], [[]]])
    assert counts.labels == [("", "Drug"), ("", "Effect")]
    assert_array_equal(counts.true, [[1, 1]])
    assert_array_equal(counts.predicted, [[[1, 0], [0, 0]]])
    assert_array_equal(counts.right, [[[1, 0], [0, 0]]])
    assert_array_equal(counts.wrong, [[True, True]])
    assert_array_equal(counts.same, [[False, True]])


def test_without_any_span_the_score_is_that_of_seqeval():
    nothing = [[] for _ in COUNTS]
    check_free = PolicySpace(sentences("all")).sweep(3)
    for scoring in ("f1_macro", "f1_micro", span_f1_scorer(average="weighted")):
        found = word_score(scoring, count_spans(nothing, [nothing] * N_LAYERS))(check_free)
        assert_array_equal(found, np.zeros(len(check_free.taus)))


def test_accuracy_counts_words_that_are_right_in_all_layers():
    true = [{"a": ["O", "B-X"], "b": ["O", "O"]}, {"a": ["O"], "b": ["B-Y"]}]
    exits = [[{"a": ["O", "B-X"], "b": ["O", "B-Y"]}, {"a": ["O"], "b": ["B-Y"]}], true]
    assert_array_equal(right_words(true, exits), [[1, 2, 2], [1, 1, 1]])


def test_tags_of_spans_leave_out_what_tags_cannot_say():
    X = ["Rash from insulin.", ["zinc", "helps"]]
    y = [[(0, 4, "Effect"), (0, 3, "Drug"), ((5, 9), (10, 17), "Drug")], ["B-Drug", "O"]]
    assert true_tags(X, y, "IOB2") == [["B-Effect", "O", "O", "O"], ["B-Drug", "O"]]


@pytest.mark.parametrize(
    "scoring",
    ["f1", "balanced_accuracy", "roc_auc", "neg_log_loss", "no such score", 3, max],
    ids=str,
)
def test_other_scores_are_refused_by_name(scoring):
    with pytest.raises(ValueError, match=r"no score of words or spans; expected span_f1_scorer"):
        check_word_scoring(scoring)
    with pytest.raises(ValueError, match=r"no score of words or spans; expected span_f1_scorer"):
        word_score(scoring, count_spans([[(0, 1, "A")]], [[[(0, 1, "B")]]]))


@pytest.mark.parametrize(
    "scoring",
    [
        "accuracy",
        "f1_macro",
        "jaccard_micro",
        span_f1_scorer(layer="drug"),
        make_scorer(f1_score, pos_label="Drug"),
    ],
    ids=str,
)
def test_scores_are_known_before_there_are_labels(scoring):
    check_word_scoring(scoring)


def test_truth_of_another_form_than_predictions_is_refused():
    with pytest.raises(ValueError, match=r"y\[1\] has the layers of spans \[\]; .* \['a'\]"):
        true_spans(["x", "y"], [{"a": []}, []], [{"a": []}, {"a": []}], "IOB2")
    with pytest.raises(ValueError, match="X has 2, y has 1"):
        true_spans(["x", "y"], [[]], [[], []], "IOB2")


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_scores_do_not_depend_on_the_unit_of_weights(average):
    rng = np.random.default_rng(4)
    counts = count_spans(random_spans(rng, False), [random_spans(rng, False)] * N_LAYERS)
    weights = rng.uniform(0.1, 2, len(COUNTS))
    sweep = PolicySpace(sentences("all")).sweep(2)
    expected = word_score(f"f1_{average}", counts, weights=weights)(sweep)
    assert expected.max() > 0
    for unit in (1e-12, 1e12):
        found = word_score(f"f1_{average}", counts, weights=unit * weights)(sweep)
        assert_allclose(found, expected)
