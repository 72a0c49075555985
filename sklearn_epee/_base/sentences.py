"""Sentences as texts or lists of words, and their tags or spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_epee._checks.arrow import without_arrow
from sklearn_epee._checks.messages import SampleError, SampleLabelError, shown
from sklearn_epee._checks.texts import check_encodable
from sklearn_epee._spans import (
    check_tags,
    convert_scheme,
    fit_spans,
    in_characters,
    spans_to_tags,
    split_words,
    tags_to_spans,
)

_SENTENCES = "a list, tuple, array or Series of texts (str), or of lists of words (str)"
_LABELS = (
    "for each sample a list of tags, one per word, or of spans (start, end, label); or a dict "
    "of these by the name of their layer, or a frame with a column for each layer"
)
# Name of the layer of spans if there is only one.
UNNAMED_LAYER = ""


@dataclass(frozen=True)
class Sentence:
    """The words of one sample.

    Attributes
    ----------
    words : list of str
    places : list of (int, int)
        Start and end of each word in the caller's units: characters of a text, or words of a list.
    is_text : bool
    """

    words: list[str]
    places: list[tuple[int, int]]
    is_text: bool


def as_sentences(X: Any) -> list[Sentence]:
    """Validate texts or lists of words, and return them as sentences.

    Parameters
    ----------
    X : list, tuple, ndarray, pandas or polars Series

    Returns
    -------
    list of Sentence

    Raises
    ------
    TypeError
        If an element is neither a text nor a list of words; the message says which.
    ValueError
        If X is empty, or mixes texts and lists of words.
    """
    rows = _rows_of(without_arrow(X), "X", _SENTENCES)
    if not rows:
        raise ValueError(
            f"X holds no sentences (0 sample(s)) while a minimum of 1 is required; expected "
            f"{_SENTENCES}."
        )
    kinds = [isinstance(row, str) for row in rows]
    if any(kinds) and not all(kinds):
        text, words = kinds.index(True), kinds.index(False)
        raise ValueError(
            f"X mixes texts and lists of words: X[{text}] is a text, X[{words}] is "
            f"{shown(rows[words])}."
        )
    return [_text(row, i) if kinds[0] else _word_list(row, i) for i, row in enumerate(rows)]


def _rows_of(values: Any, name: str, expected: str) -> list[Any]:
    if isinstance(values, (str, bytes)):
        raise TypeError(
            f"{name} is a single {type(values).__name__}; expected {expected}. Wrap it in a list."
        )
    if hasattr(values, "columns"):
        raise TypeError(f"{name} is a frame; expected {expected}. Give one of its columns.")
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise TypeError(f"{name} is an array of no dimension; expected {expected}.")
    if hasattr(values, "to_list"):
        return list(values.to_list())
    if isinstance(values, Iterable) and not isinstance(values, (Mapping, set, frozenset)):
        return list(values)
    raise TypeError(f"{name} is of type {type(values).__name__}; expected {expected}.")


def _text(text: str, row: int) -> Sentence:
    text = check_encodable(str(text), f"X[{row}]")
    places = split_words(text)
    return Sentence([text[start:end] for start, end in places], places, is_text=True)


def _word_list(words: Any, row: int) -> Sentence:
    if not isinstance(words, (list, tuple, np.ndarray)) or getattr(words, "ndim", 1) != 1:
        raise TypeError(
            f"X[{row}] is {shown(words)} of type {type(words).__name__}; expected {_SENTENCES}."
        )
    for number, word in enumerate(words):
        if not isinstance(word, str):
            raise TypeError(
                f"X[{row}][{number}] is {shown(word)} of type {type(word).__name__}, not a word; "
                f"expected {_SENTENCES}."
            )
    checked = [check_encodable(str(word), f"X[{row}][{i}]") for i, word in enumerate(words)]
    return Sentence(checked, [(i, i + 1) for i in range(len(checked))], is_text=False)


@dataclass(frozen=True)
class TaggedSentences:
    """Tags of sentences, by layer of spans.

    Attributes
    ----------
    tags : dict of str to list of list of str
        For each layer, the tags of every sentence, one per word.
    n_misfits : int
        Number of spans that tags cannot represent.
    """

    tags: dict[str, list[list[str]]]
    n_misfits: int


def as_tags(
    y: Any, sentences: Sequence[Sentence], scheme: str, *, skip_misfits: bool
) -> TaggedSentences:
    """Convert tags or spans to tags.

    Parameters
    ----------
    y : sequence or frame
        Per sentence tags, spans, or a dict of these by layer.
    sentences : sequence of Sentence
    scheme : {"IOB2", "BIOES", "IO"}
        Scheme of the given and of the returned tags.
    skip_misfits : bool
        Whether spans that tags cannot represent are left out and counted; else they are an error.

    Returns
    -------
    TaggedSentences

    Raises
    ------
    TypeError, ValueError
        If y is invalid; the message contains the number of the sentence.
    """
    layers = _layers_of(y, len(sentences))
    tags, n_misfits = {}, 0
    for name, rows in layers.items():
        try:
            tags[name], n = _tags_of_layer(rows, sentences, scheme, skip_misfits=skip_misfits)
        except SampleError as error:
            where = f" In the layer of spans {name!r}." if name != UNNAMED_LAYER else ""
            raise type(error)(error.row, error.reason + where) from None
        n_misfits += n
    return TaggedSentences(tags, n_misfits)


def _layers_of(y: Any, n_sentences: int) -> dict[str, list[Any]]:
    """Return the tags or spans of every layer, by layer name."""
    if y is None:
        raise ValueError(
            "EPEETokenClassifier requires y to be passed, but the target y is None; expected "
            f"{_LABELS}."
        )
    y = without_arrow(y)
    if hasattr(y, "columns"):
        layers = {str(name): _rows_of(y[name], f"y[{name!r}]", _LABELS) for name in y.columns}
        _check_count(len(y), n_sentences)
        return layers
    rows = _rows_of(y, "y", _LABELS)
    _check_count(len(rows), n_sentences)
    if not any(isinstance(row, Mapping) for row in rows):
        return {UNNAMED_LAYER: rows}
    names = list(next(row for row in rows if isinstance(row, Mapping)))
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or set(row) != set(names):
            raise SampleLabelError(
                number,
                f"has the tags or spans {shown(row)}; expected a dict with the layers of spans "
                f"{names}, as the other samples have.",
            )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"y has the layers of spans {names}; expected names (str).")
    return {name: [row[name] for row in rows] for name in names}


def _check_count(n_labels: int, n_sentences: int) -> None:
    if n_labels != n_sentences:
        raise ValueError(
            f"X and y have inconsistent numbers of samples: X has {n_sentences}, y has {n_labels}."
        )


def _tags_of_layer(
    rows: Sequence[Any], sentences: Sequence[Sentence], scheme: str, *, skip_misfits: bool
) -> tuple[list[list[str]], int]:
    """Return the tags of one layer, and the number of spans that tags cannot represent."""
    found = [_as_list(row, number) for number, row in enumerate(rows)]
    if any(isinstance(row[0], str) for row in found if row):
        _check_no_spans(found)
        pairs = zip(found, sentences, strict=True)
        return [
            _strict_tags(row, sentence, scheme, number)
            for number, (row, sentence) in enumerate(pairs)
        ], 0
    tags, n_misfits = [], 0
    for number, (row, sentence) in enumerate(zip(found, sentences, strict=True)):
        spans, n_parts = _spans(row, number, skip_misfits=skip_misfits)
        _check_inside(spans, sentence, number)
        lost: list[Any] = []
        if skip_misfits:
            spans, lost = fit_spans(spans, sentence.places)
        tags.append(spans_to_tags(sorted(set(spans)), sentence.places, scheme, number))
        n_misfits += len(lost) + n_parts
    return tags, n_misfits


def _check_no_spans(rows: Sequence[list[Any]]) -> None:
    """Raise if some samples have spans although others have tags."""
    for number, row in enumerate(rows):
        if row and isinstance(row[0], (list, tuple)):
            raise SampleLabelError(
                number,
                f"has the spans {shown(row)}, but other samples have tags; expected tags of all "
                "samples, or spans of all.",
            )


def _as_list(row: Any, number: int) -> list[Any]:
    if hasattr(row, "tolist"):
        row = row.tolist()
    if not isinstance(row, (list, tuple)):
        raise SampleLabelError(number, f"has the tags or spans {shown(row)}; expected {_LABELS}.")
    return list(row)


def _strict_tags(row: list[Any], sentence: Sentence, scheme: str, number: int) -> list[str]:
    """Return tags unchanged; raise if a tag is not part of a span."""
    if sentence.is_text and len(row) != len(sentence.words):
        raise SampleLabelError(
            number,
            f"has {len(row)} tags, but is a text of {len(sentence.words)} words (punctuation "
            f"marks count): {shown(sentence.words)}. Pass X as lists of words, one tag for each.",
        )
    tags = check_tags(row, len(sentence.words), scheme, number)
    strict = convert_scheme(tags, scheme, scheme)
    wrong = [word for word, pair in enumerate(zip(tags, strict, strict=True)) if len(set(pair)) > 1]
    if wrong:
        raise SampleLabelError(
            number,
            f"has the tag {tags[wrong[0]]!r} at word {wrong[0]}, which is not part of a span: in "
            f"{scheme} {_BEGINS[scheme]}. Correct the tags, or give spans.",
        )
    return tags


_BEGINS = {
    "IOB2": "a span begins with B-, and continues with I- of the same label",
    "BIOES": "a span is one S-, or a B-, any number of I-, and an E-, of the same label",
    "IO": "a span is a run of I- of the same label",
}


def _spans(
    row: list[Any], number: int, *, skip_misfits: bool
) -> tuple[list[tuple[int, int, str]], int]:
    """Return the spans with a single part, and the number of spans with several parts."""
    spans, n_parts = [], 0
    for span in row:
        *place, label = span if isinstance(span, (list, tuple)) and len(span) > 1 else (None,)
        if isinstance(label, str) and label and place and _are_parts(place):
            if len(place) > 1 and not skip_misfits:
                raise SampleLabelError(
                    number,
                    f"has the span {shown(span)} of several parts, which tags cannot represent; "
                    "misfit_spans='warn' leaves it out.",
                )
            if len(place) == 1:
                spans.append((int(place[0][0]), int(place[0][1]), label))
            n_parts += len(place) > 1
        elif isinstance(label, str) and label and len(place) == 2 and _are_numbers(place):
            spans.append((int(place[0]), int(place[1]), label))
        else:
            raise SampleLabelError(
                number, f"has the span {shown(span)}; expected (start, end, label), or tags."
            )
    return spans, n_parts


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values)


def _are_parts(place: Sequence[Any]) -> bool:
    return all(isinstance(p, (list, tuple)) and len(p) == 2 and _are_numbers(p) for p in place)


def _check_inside(spans: Iterable[tuple[int, int, str]], sentence: Sentence, number: int) -> None:
    """Raise if a span is empty or not inside the text."""
    end_of_all = sentence.places[-1][1] if sentence.places else 0
    unit = "the last word ends at character" if sentence.is_text else "the number of words is"
    for start, end, label in spans:
        if not 0 <= start < end <= end_of_all:
            raise SampleLabelError(
                number,
                f"has the span ({start}, {end}, {label!r}); expected 0 <= start < end <= "
                f"{end_of_all}, where {unit} {end_of_all}.",
            )


def spans_in_units(tags: Sequence[str], sentence: Sentence, scheme: str) -> list[Any]:
    """Decode tags to spans, in characters of a text or in words of a list."""
    return in_characters(tags_to_spans(tags, scheme), sentence.places)


def true_spans(
    y: Any, sentences: Sequence[Sentence], names: Sequence[str], scheme: str
) -> dict[str, list[list[Any]]]:
    """Convert tags or spans to spans by layer; spans that tags cannot represent are kept.

    Tags are decoded as in the strict mode of seqeval: tags that are not part of a span are ignored.

    Parameters
    ----------
    y : sequence or frame
        Per sentence tags, spans, or a dict of these by layer.
    sentences : sequence of Sentence
    names : sequence of str
        Names of the expected layers of spans.
    scheme : {"IOB2", "BIOES", "IO"}

    Returns
    -------
    dict of str to list of list of spans
        In characters of texts, and in words of lists.

    Raises
    ------
    TypeError, ValueError
        If y is not as described.
    """
    layers = _layers_of(y, len(sentences))
    if set(layers) != set(names):
        given_layers, wanted = (
            "no layers" if list(given) == [UNNAMED_LAYER] else f"the layers {sorted(given)}"
            for given in (layers, names)
        )
        raise ValueError(
            f"y holds {given_layers} of spans, but the estimator was fitted on {wanted}."
        )
    return {name: _true_spans_of_layer(layers[name], sentences, scheme) for name in names}


def _true_spans_of_layer(
    rows: Sequence[Any], sentences: Sequence[Sentence], scheme: str
) -> list[list[Any]]:
    found = [_as_list(row, number) for number, row in enumerate(rows)]
    if not any(isinstance(row[0], str) for row in found if row):
        for number, row in enumerate(found):
            _spans(row, number, skip_misfits=True)
        return found
    return [
        spans_in_units(check_tags(row, len(sentence.words), scheme, number), sentence, scheme)
        for number, (row, sentence) in enumerate(zip(found, sentences, strict=True))
    ]
