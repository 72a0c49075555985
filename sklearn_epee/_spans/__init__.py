"""Spans in texts, as offsets and as tags of words, and conversions between them."""

from .offsets import fit_spans, in_characters, spans_to_tags
from .schemes import (
    SCHEMES,
    Span,
    check_scheme,
    check_tags,
    convert_scheme,
    spans_of_words_to_tags,
    tag_set,
    tags_to_spans,
)
from .scorers import SpanF1Scorer, all_span_scores, span_f1_scorer
from .scores import (
    distinct_spans,
    layers_by_sample,
    span_f1_score,
    span_precision_score,
    span_recall_score,
    span_scores,
    spans_as_predicted,
)
from .transitions import (
    check_transition_weight,
    most_probable_tags,
    transition_counts,
    transition_scores,
    valid_transitions,
)
from .words import split_words

__all__ = [
    "SCHEMES",
    "Span",
    "SpanF1Scorer",
    "all_span_scores",
    "check_scheme",
    "check_tags",
    "check_transition_weight",
    "convert_scheme",
    "distinct_spans",
    "fit_spans",
    "in_characters",
    "layers_by_sample",
    "most_probable_tags",
    "span_f1_score",
    "span_f1_scorer",
    "span_precision_score",
    "span_recall_score",
    "span_scores",
    "spans_as_predicted",
    "spans_of_words_to_tags",
    "spans_to_tags",
    "split_words",
    "tag_set",
    "tags_to_spans",
    "transition_counts",
    "transition_scores",
    "valid_transitions",
]
