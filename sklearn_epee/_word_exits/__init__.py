"""Exit policies of token classifiers on arrays, for sentences that exit as a whole."""

from .counts import SpanCounts, count_spans, true_spans
from .predictions import (
    SentencePredictions,
    check_exits_by_sentence,
    sentence_predictions,
    unread_words,
)
from .scores import check_word_scoring, is_word_accuracy, right_words, true_tags, word_score
from .staged import StagedSentences

__all__ = [
    "SentencePredictions",
    "SpanCounts",
    "StagedSentences",
    "check_exits_by_sentence",
    "check_word_scoring",
    "count_spans",
    "is_word_accuracy",
    "right_words",
    "sentence_predictions",
    "true_spans",
    "true_tags",
    "unread_words",
    "word_score",
]
