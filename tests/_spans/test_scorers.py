"""Scorers of predicted spans in scikit-learn's searches."""

import pickle

import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, cross_val_score

from sklearn_epee._spans import all_span_scores, split_words
from sklearn_epee.metrics import span_f1_scorer, span_scores

X = ["Insulin helps", "Rash (no insulin)", "insulin and rash"] * 2
TAGS = [["B-Drug", "O"], ["B-Effect", "O", "O", "B-Drug", "O"], ["B-Drug", "O", "B-Effect"]] * 2
SPANS = [
    [(0, 7, "Drug")],
    [(0, 4, "Effect"), (9, 16, "Drug")],
    [(0, 7, "Drug"), (12, 16, "Effect")],
] * 2


class Lexicon(BaseEstimator):
    """Finds given words, in one layer of spans or in two."""

    def __init__(self, drug="insulin", effect="rash", in_layers=False):
        self.drug = drug
        self.effect = effect
        self.in_layers = in_layers

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return [self._spans(text) for text in X]

    def _spans(self, text):
        found = {"Drug": [], "Effect": []}
        for start, end in split_words(text):
            for label, word in (("Drug", self.drug), ("Effect", self.effect)):
                if text[start:end].lower() == word:
                    found[label].append((start, end, label))
        return found if self.in_layers else found["Drug"] + found["Effect"]


@pytest.mark.parametrize("y", [TAGS, SPANS])
def test_tags_and_spans_score_alike(y):
    assert span_f1_scorer()(Lexicon(), X, y) == 1.0
    assert span_f1_scorer()(Lexicon(effect="fever"), X, y) == pytest.approx(0.75)
    assert span_f1_scorer(average="macro")(Lexicon(effect="fever"), X, y) == 0.5


def test_searches_choose_by_it():
    grid = {"drug": ["helps", "insulin"], "effect": ["no", "rash"]}
    search = GridSearchCV(Lexicon(), grid, scoring=span_f1_scorer(), cv=2).fit(X, TAGS)
    assert search.best_params_ == {"drug": "insulin", "effect": "rash"}
    scoring = {"f1": span_f1_scorer(), "macro": span_f1_scorer(average="macro")}
    search = GridSearchCV(Lexicon(), grid, scoring=scoring, refit="macro", cv=2).fit(X, SPANS)
    assert search.cv_results_["mean_test_f1"].max() == 1.0
    assert cross_val_score(Lexicon(), X, TAGS, scoring=span_f1_scorer(), cv=3).tolist() == [1, 1, 1]


def test_layers_may_be_a_frame():
    apart = [
        {kind: [span for span in found if span[2] == kind] for kind in ("Drug", "Effect")}
        for found in SPANS
    ]
    frame = pd.DataFrame(apart)
    lexicon = Lexicon(effect="fever", in_layers=True)
    for y in (apart, frame):
        assert span_f1_scorer()(lexicon, X, y) == pytest.approx(0.75)
        assert span_f1_scorer(layer="Drug")(lexicon, X, y) == 1.0
        assert span_f1_scorer(layer="Effect")(lexicon, X, y) == 0.0
    predicted = lexicon.predict(X)
    assert span_scores(frame, predicted) == span_scores(apart, predicted)
    scores = all_span_scores(X, frame, predicted)
    assert scores == pytest.approx(
        {
            "span_f1": 0.75,
            "span_precision": 1.0,
            "span_recall": 0.6,
            "span_macro_f1": 0.5,
            "span_f1_Drug": 1.0,
            "span_f1_Effect": 0.0,
        }
    )


def test_scorers_are_checked_and_pickle():
    assert pickle.loads(pickle.dumps(span_f1_scorer(layer="a"))) == span_f1_scorer(layer="a")
    for average in ("samples", None):
        with pytest.raises(ValueError, match="average must be"):
            span_f1_scorer(average=average)
    with pytest.raises(ValueError, match="scheme must be one of"):
        span_f1_scorer(scheme="IOE")
