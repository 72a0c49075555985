"""Scores of spans: as seqeval's own of tags, of spans in all forms, and in layers."""

import sys

import numpy as np
import pytest
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2, IOBES

from sklearn_epee._spans import spans_as_predicted, tags_to_spans
from sklearn_epee.metrics import (
    span_f1_score,
    span_precision_score,
    span_recall_score,
    span_scores,
)

from .test_schemes import random_tags

SCORES = (span_precision_score, span_recall_score, span_f1_score)
TRUE = [[(0, 7, "Drug"), (9, 12, "Effect")], [], [(3, 5, "Drug")]]
PREDICTED = [[(0, 7, "Drug"), (9, 11, "Effect")], [(0, 1, "Drug")], [(3, 5, "Drug")]]


@pytest.mark.parametrize(("scheme", "theirs"), [("IOB2", IOB2), ("BIOES", IOBES)])
@pytest.mark.parametrize("average", ["micro", "macro", "weighted", None])
def test_scores_of_tags_are_seqevals(scheme, theirs, average):
    y_true, y_pred = (random_tags(scheme, seed, n_sentences=300, longest=4) for seed in (0, 1))
    y_pred = [(b * 4)[: len(a)] for a, b in zip(y_true, y_pred, strict=True)]
    expected = precision_recall_fscore_support(
        y_true, y_pred, average=average, scheme=theirs, zero_division=0
    )
    for score, theirs_score in zip(SCORES, expected, strict=False):
        ours = score(y_true, y_pred, average=average, scheme=scheme)
        if average is None:
            assert list(ours) == ["X", "Y", "_"]
            ours = list(ours.values())
        np.testing.assert_array_equal(ours, theirs_score)
        assert np.all(np.asarray(theirs_score) > 0)


def test_spans_score_as_their_tags():
    y_true, y_pred = (random_tags("IOB2", seed, n_sentences=200) for seed in (0, 1))
    y_pred = [(b * 9)[: len(a)] for a, b in zip(y_true, y_pred, strict=True)]
    spans = [[tags_to_spans(tags) for tags in y] for y in (y_true, y_pred)]
    assert span_scores(*spans) == span_scores(y_true, y_pred)
    assert span_scores(y_true, spans[1]) == span_scores(y_true, y_pred)


def test_scores_count_by_hand():
    scores = span_scores(TRUE, PREDICTED)
    expected = {"precision": 0.5, "recall": 2 / 3, "f1": 4 / 7, "support": 3}
    assert scores["micro"] == pytest.approx(expected)
    assert scores["labels"]["Drug"] == {
        "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2,
    }  # fmt: skip
    assert scores["macro"]["f1"] == 0.4
    assert span_f1_score(TRUE, PREDICTED, average=None) == {"Drug": 0.8, "Effect": 0.0}
    assert "layers" not in scores


def test_layers_are_scored_together_and_apart():
    y_true = [{"drugs": a, "effects": [(0, 2, "Drug")]} for a in TRUE]
    y_pred = [{"effects": [(0, 2, "Drug")], "drugs": b} for b in PREDICTED]
    scores = span_scores(y_true, y_pred)
    assert scores["layers"]["drugs"] == span_scores(TRUE, PREDICTED)["micro"]
    assert scores["layers"]["effects"]["f1"] == 1.0
    assert scores["micro"]["support"] == 6
    assert list(scores["labels"]) == [("drugs", "Drug"), ("drugs", "Effect"), ("effects", "Drug")]
    assert span_f1_score(y_true, y_pred, layer="drugs") == pytest.approx(4 / 7)
    # The same label in two layers is two labels.
    assert span_f1_score(y_true, y_pred, average="macro") == pytest.approx((0.8 + 0 + 1) / 3)


def test_a_span_in_pieces_is_missed_unless_all_pieces_are_there():
    y_true = [[((0, 3), (5, 7), "Effect"), (9, 11, "Drug")]]
    assert span_recall_score(y_true, [[(0, 3, "Effect"), (9, 11, "Drug")]]) == 0.5
    assert span_recall_score(y_true, [[(0, 7, "Effect"), (9, 11, "Drug")]]) == 0.5
    assert span_recall_score(y_true, y_true) == 1.0


def test_what_is_there_twice_counts_once_and_arrays_do():
    assert span_precision_score([[(0, 1, "X")]], [[(0, 1, "X"), (0, 1, "X")]]) == 1.0
    assert span_f1_score([np.array(["B-X", "O"])], [[(np.int64(0), np.int64(1), "X")]]) == 1.0


def test_scores_without_any_spans_are_zero_division():
    for empty in ([[], []], [["O"], ["O", "O"]]):
        assert span_f1_score(empty, empty) == 0.0
        assert span_f1_score(empty, empty, zero_division=1.0) == 1.0
        assert span_f1_score(empty, empty, average=None) == {}
        assert span_scores(empty, empty)["micro"]["support"] == 0
    assert span_recall_score([[]], [[(0, 1, "X")]], zero_division=1.0) == 1.0


def test_tags_become_spans_in_the_units_of_predictions():
    tags = [["B-X", "I-X", "O"], ["O", "B-Y"]]
    assert spans_as_predicted(["a bc d", "e (".ljust(4)], tags) == [[(0, 4, "X")], [(2, 3, "Y")]]
    assert spans_as_predicted([["a", "bc", "d"], ["e", "("]], tags) == [
        [(0, 2, "X")],
        [(1, 2, "Y")],
    ]
    layered = [{"one": ["O", "B-X"], "two": [(0, 3, "Y")]}]
    assert spans_as_predicted(["ab c"], layered) == [{"one": [(3, 4, "X")], "two": [(0, 3, "Y")]}]


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([[]], [[], []], "of the same length; got 1 and 2"),
        ([{"a": []}], [[]], r"y_true\[0\] has the layers of spans \['a'\]"),
        ([["B-X", "?"]], [[]], r"y_true\[0\] has the tag '\?' at word 1"),
        ([[]], [[(1, "X")]], r"y_pred\[0\] is .*; expected tags, or spans"),
        ([[]], [3], r"y_pred\[0\] is 3; expected tags"),
    ],
)
def test_other_things_are_refused(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        span_f1_score(y_true, y_pred)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="average must be one of"):
        span_f1_score(TRUE, PREDICTED, average="samples")
    with pytest.raises(ValueError, match="scheme must be one of"):
        span_f1_score(TRUE, PREDICTED, scheme="IOE2")
    with pytest.raises(ValueError, match=r"layer must be one of \['a'\]; got 'b'"):
        span_f1_score([{"a": []}], [{"a": []}], layer="b")


def test_without_seqeval_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.scheme", None)
    with pytest.raises(ImportError, match="pip install seqeval"):
        span_f1_score(TRUE, PREDICTED)
