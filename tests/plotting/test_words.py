"""Displays of classifiers of words: policies on spans and words, exits of sentences, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee.metrics import exit_scores, span_f1_scorer
from sklearn_epee.plotting import (
    ExitHistogramDisplay,
    ExitPolicyHeatmapDisplay,
    ExitReliabilityDisplay,
    ExitTradeoffDisplay,
    LayerwiseDisplay,
)
from tests.tagged import tagged_sentences, tiny_token_classifier

WORDS, TAGS = tagged_sentences(50, seed=3)
LAYERS = [{"drugs": [t if "Drug" in t else "O" for t in tags], "all": tags} for tags in TAGS]


@pytest.fixture(scope="module")
def fitted():
    return tiny_token_classifier(max_epochs=5, tau=0.4, patience=2).fit(WORDS, TAGS)


@pytest.fixture(scope="module")
def layered():
    return tiny_token_classifier(max_epochs=3, tau=0.4).fit(WORDS, LAYERS)


def test_the_marked_policy_does_what_the_classifier_does(fitted):
    display = ExitTradeoffDisplay.from_estimator(fitted, WORDS, TAGS, scoring=span_f1_scorer())
    scores = exit_scores(fitted, WORDS, TAGS)
    assert display.chosen["score"] == pytest.approx(scores["span_f1"])
    assert display.chosen["speedup"] == pytest.approx(scores["speedup"])
    assert display.score_name == "span_f1"
    assert (
        display.full_depth_score
        == exit_scores(copy.copy(fitted).set_params(tau=0, patience=3), WORDS, TAGS)["span_f1"]
    )


def test_a_tuned_policy_is_marked(fitted):
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(fitted), min_speedup=0.4, scoring=span_f1_scorer()
    ).fit(WORDS, TAGS)
    display = ExitTradeoffDisplay.from_estimator(tuned, WORDS, TAGS, scoring="f1_micro")
    assert display.chosen["score"] == pytest.approx(tuned.best_score_)
    assert display.chosen["speedup"] == pytest.approx(tuned.best_speedup_)


def test_the_heatmap_shows_single_policies(fitted):
    display = ExitPolicyHeatmapDisplay.from_estimator(
        fitted, WORDS, TAGS, taus=[0.0, 0.3, 0.8], patiences=[2, 3], scoring="f1_macro"
    )
    for row, patience in enumerate((2, 3)):
        for column, tau in enumerate((0.0, 0.3, 0.8)):
            policy = copy.copy(fitted).set_params(tau=tau, patience=patience)
            scores = exit_scores(policy, WORDS, TAGS)
            assert display.score[row, column] == pytest.approx(scores["span_macro_f1"])
            assert display.speedup[row, column] == pytest.approx(scores["speedup"])


def test_accuracy_is_of_words(fitted):
    display = ExitTradeoffDisplay.from_estimator(fitted, WORDS, TAGS)
    right = np.concatenate(fitted.predict_tags(WORDS)) == np.concatenate(TAGS)
    assert display.chosen["score"] == pytest.approx(right.mean())


def test_layers_show_the_accuracy_and_the_entropy_of_words(fitted):
    display = LayerwiseDisplay.from_estimator(fitted, WORDS, TAGS)
    expected = [
        np.mean(np.concatenate(tags) == np.concatenate(TAGS))
        for tags in fitted.staged_predict_tags(WORDS)
    ]
    assert_allclose(display.accuracy, expected)
    full = copy.copy(fitted).set_params(tau=0, patience=3).predict_with_exits(WORDS)
    assert display.mean_entropy[-1] == pytest.approx(np.concatenate(full.entropy).mean(), rel=1e-5)


def test_spans_exit_with_their_sentences(layered):
    display = ExitHistogramDisplay.from_estimator(layered, WORDS, LAYERS)
    assert display.classes.tolist() == ["all Drug", "all Effect", "drugs Drug"]
    exits = layered.predict_exit_layer(WORDS)
    drugs = [sum(tag == "B-Drug" for tag in tags) for tags in TAGS]
    expected = np.bincount(np.repeat(exits, drugs), minlength=4)[1:]
    assert_array_equal(display.counts[0], expected)
    assert_array_equal(display.counts[2], expected)
    assert display.speedup_ == pytest.approx(exit_scores(layered, WORDS, LAYERS)["speedup"])


def test_exits_of_texts_without_spans(fitted):
    predicted = next(i for i, spans in enumerate(fitted.predict(WORDS)) if spans)
    words, none = [WORDS[predicted]], [["O"] * len(WORDS[predicted])]
    assert not ExitHistogramDisplay.from_estimator(fitted, words, none).counts.any()
    never = copy.deepcopy(fitted)
    for head in never.net_.module_.heads:
        head.get_parameter("out.weight").data.zero_()
        head.get_parameter("out.bias").data.copy_(torch.tensor(never.classes_ == "O") * 9.0)
    with pytest.raises(ValueError, match="y has no spans, and none are predicted"):
        ExitHistogramDisplay.from_estimator(never, words, none)


@pytest.mark.parametrize(
    "display", [ExitTradeoffDisplay, ExitPolicyHeatmapDisplay, ExitHistogramDisplay]
)
def test_words_that_exit_one_by_one_are_refused_by_name(fitted, display):
    by_word = copy.copy(fitted).set_params(token_exit="token")
    with pytest.raises(ValueError, match=r"token_exit='token'.*every policy needs a separate pass"):
        display.from_estimator(by_word, WORDS, TAGS)


def test_reliability_is_not_for_words(fitted):
    with pytest.raises(TypeError, match=r"predicts words.*ExitTradeoffDisplay.*GridSearchCV"):
        ExitReliabilityDisplay.from_estimator(fitted, WORDS, TAGS)


def test_other_scores_and_other_layers_are_refused(fitted):
    with pytest.raises(ValueError, match="no score of words or spans"):
        ExitTradeoffDisplay.from_estimator(fitted, WORDS, TAGS, scoring="roc_auc")
    with pytest.raises(ValueError, match=r"y\[0\] has the layers of spans"):
        ExitTradeoffDisplay.from_estimator(fitted, WORDS, LAYERS)
