"""Precision, recall and F1 of spans, counted by seqeval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from sklearn_epee._checks.arrow import without_arrow
from sklearn_epee._checks.messages import SampleError, shown

from .offsets import in_characters
from .schemes import check_scheme, check_tags, tags_to_spans
from .words import split_words

_AVERAGES = ("micro", "macro", "weighted", None)
_SPAN = (
    "tags, or spans (start, end, label), or ((start, end), (start, end), ..., label) for spans of "
    "several pieces; or a dict of these by the name of their layer"
)


def span_scores(
    y_true: Any, y_pred: Any, *, scheme: str = "IOB2", zero_division: float = 0.0
) -> dict[str, Any]:
    """Return precision, recall, F1 and number of spans: overall, per layer and per label.

    A span is correct if a true span has the same start, end and label. Tags are decoded as in the
    strict mode of seqeval, which also computes the scores.

    Parameters
    ----------
    y_true, y_pred : sequence of length n_samples
        For each sample a list of tags, one per word; or a list of spans ``(start, end, label)``,
        both in words or both in characters; or a dict of these by layer of spans, or a frame with
        a column for each layer. Tags are in words, but `predict` returns spans of texts in
        characters; `score` and :func:`span_f1_scorer` convert them before they are compared.
        Duplicate spans count once. True spans that a model cannot predict, such as spans of several
        pieces, ``((start, end), (start, end), label)``, count as missed.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.
    zero_division : float, default=0.0
        The score if there are no predicted spans, or no true ones.

    Returns
    -------
    scores : dict
        `micro`, over all spans; `macro`, the mean over the labels; `layers`, a dict with those of
        each layer (only with several layers); `labels`, a dict by label, or by (layer, label) with
        several layers. Each has the keys `precision`, `recall`, `f1` and `support`, the number of
        true spans.

    Raises
    ------
    ValueError
        If y_true and y_pred differ in length or layers, or are not tags or spans.

    Examples
    --------
    >>> from sklearn_epee.metrics import span_scores
    >>> y_true = [["B-Drug", "I-Drug", "O", "B-Effect"]]
    >>> y_pred = [["B-Drug", "I-Drug", "O", "O"]]
    >>> scores = span_scores(y_true, y_pred)
    >>> scores["micro"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    >>> scores["labels"]["Effect"]["recall"]
    0.0
    """
    y_true, y_pred = layers_by_sample(y_true), layers_by_sample(y_pred)
    true, predicted = _entities_of_both(y_true, y_pred, scheme)
    layers = _names(true, predicted, 0)
    scores: dict[str, Any] = {
        average: _averaged(true, predicted, average, zero_division)
        for average in ("micro", "macro")
    }
    if layers not in ([], [""]):
        scores["layers"] = {
            layer: _averaged(_only(true, layer), _only(predicted, layer), "micro", zero_division)
            for layer in layers
        }
    scores["labels"] = _per_label(true, predicted, zero_division)
    return scores


def span_f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    layer: str | None = None,
    scheme: str = "IOB2",
    zero_division: float = 0.0,
) -> Any:
    """Return the F1 score of spans, the harmonic mean of their precision and recall.

    Parameters
    ----------
    y_true, y_pred : sequence of length n_samples
        Tags, spans, or a dict of these by layer, for each sample; see :func:`span_scores`.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        "micro": over all spans. "macro" and "weighted": the mean over the labels, for "weighted"
        weighted by their numbers of true spans. None: a dict with the score of each label.
    layer : str or None, default=None
        The layer of spans to score; None: all.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.
    zero_division : float, default=0.0
        The score if there are no predicted spans, or no true ones.

    Returns
    -------
    score : float, or dict of label to float

    Raises
    ------
    ValueError
        If y_true and y_pred differ in length or layers, or are not tags or spans,
        or a parameter is not as described.

    Examples
    --------
    >>> from sklearn_epee.metrics import span_f1_score
    >>> span_f1_score([[(0, 7, "Drug"), (9, 12, "Effect")]], [[(0, 7, "Drug")]])
    0.6666666666666666
    """
    found: dict[str, Any] = {"average": average, "layer": layer, "scheme": scheme}
    return _score("f1", y_true, y_pred, zero_division, **found)


def span_precision_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    layer: str | None = None,
    scheme: str = "IOB2",
    zero_division: float = 0.0,
) -> Any:
    """Return the precision of spans: the fraction of predicted spans that are correct.

    Parameters
    ----------
    y_true, y_pred : sequence of length n_samples
        Tags, spans, or a dict of these by layer, for each sample; see :func:`span_scores`.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        "micro": over all spans. "macro" and "weighted": the mean over the labels, for "weighted"
        weighted by their numbers of true spans. None: a dict with the score of each label.
    layer : str or None, default=None
        The layer of spans to score; None: all.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.
    zero_division : float, default=0.0
        The score if there are no predicted spans, or no true ones.

    Returns
    -------
    score : float, or dict of label to float

    Raises
    ------
    ValueError
        If y_true and y_pred differ in length or layers, or are not tags or spans,
        or a parameter is not as described.

    Examples
    --------
    >>> from sklearn_epee.metrics import span_precision_score
    >>> span_precision_score([[(0, 7, "Drug"), (9, 12, "Effect")]], [[(0, 7, "Drug")]])
    1.0
    """
    found: dict[str, Any] = {"average": average, "layer": layer, "scheme": scheme}
    return _score("precision", y_true, y_pred, zero_division, **found)


def span_recall_score(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "micro",
    layer: str | None = None,
    scheme: str = "IOB2",
    zero_division: float = 0.0,
) -> Any:
    """Return the recall of spans: the fraction of true spans that are predicted.

    Parameters
    ----------
    y_true, y_pred : sequence of length n_samples
        Tags, spans, or a dict of these by layer, for each sample; see :func:`span_scores`.
    average : {"micro", "macro", "weighted"} or None, default="micro"
        "micro": over all spans. "macro" and "weighted": the mean over the labels, for "weighted"
        weighted by their numbers of true spans. None: a dict with the score of each label.
    layer : str or None, default=None
        The layer of spans to score; None: all.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.
    zero_division : float, default=0.0
        The score if there are no predicted spans, or no true ones.

    Returns
    -------
    score : float, or dict of label to float

    Raises
    ------
    ValueError
        If y_true and y_pred differ in length or layers, or are not tags or spans,
        or a parameter is not as described.

    Examples
    --------
    >>> from sklearn_epee.metrics import span_recall_score
    >>> span_recall_score([[(0, 7, "Drug"), (9, 12, "Effect")]], [[(0, 7, "Drug")]])
    0.5
    """
    found: dict[str, Any] = {"average": average, "layer": layer, "scheme": scheme}
    return _score("recall", y_true, y_pred, zero_division, **found)


def spans_as_predicted(X: Any, y: Any, scheme: str = "IOB2") -> list[Any]:
    """Convert tags or spans to spans in the units in which a classifier predicts them.

    Parameters
    ----------
    X : sequence of length n_samples
        Texts, whose spans are in characters, or lists of words, whose spans are in words.
    y : sequence of length n_samples
        Tags, spans, or a dict of these by layer.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.

    Returns
    -------
    list of list of spans, or list of dict of these
    """
    return [
        {layer: _in_units(sample, part, scheme, row) for layer, part in found.items()}
        if isinstance(found, Mapping)
        else _in_units(sample, found, scheme, row)
        for row, (sample, found) in enumerate(zip(X, layers_by_sample(y), strict=True))
    ]


def layers_by_sample(y: Any) -> Any:
    """Return tags or spans by sample, given these or a frame with a column for each layer."""
    y = without_arrow(y)
    if not hasattr(y, "columns"):
        return y
    columns = [list(y[name]) for name in y.columns]
    return [dict(zip(map(str, y.columns), row, strict=True)) for row in zip(*columns, strict=True)]


def _in_units(sample: Any, found: Any, scheme: str, row: int) -> list[Any]:
    if not _are_tags(found):
        return list(found)
    words = split_words(sample) if isinstance(sample, str) else None
    n_words = len(sample) if words is None else len(words)
    spans = tags_to_spans(check_tags(found, n_words, scheme, row), scheme)
    return spans if words is None else in_characters(spans, words)


def _score(
    name: str,
    y_true: Any,
    y_pred: Any,
    zero_division: float,
    *,
    average: str | None,
    layer: str | None,
    scheme: str,
) -> Any:
    check_average(average)
    y_true, y_pred = layers_by_sample(y_true), layers_by_sample(y_pred)
    true, predicted = _entities_of_both(y_true, y_pred, scheme)
    if layer is not None:
        layers = _layers_of(y_true) | _layers_of(y_pred)
        if layer not in layers:
            raise ValueError(f"layer must be one of {sorted(layers - {''})}; got {layer!r}.")
        true, predicted = _only(true, layer), _only(predicted, layer)
    if average is None:
        found = _per_label(true, predicted, zero_division)
        return {label: scores[name] for label, scores in found.items()}
    return _averaged(true, predicted, average, zero_division)[name]


def check_average(average: Any) -> None:
    """Raise if `average` is unknown."""
    if average not in _AVERAGES:
        raise ValueError(f"average must be one of {_AVERAGES}; got {average!r}.")


def _layers_of(y: Any) -> set[str]:
    return {layer for found in y if isinstance(found, Mapping) for layer in found}


# ------------------------------------------------------------------------- from y to seqeval
def _entities_of_both(y_true: Any, y_pred: Any, scheme: str) -> tuple[list[Any], list[Any]]:
    """Convert the true and the predicted spans of all samples to seqeval's entities."""
    check_scheme(scheme)
    if len(y_true) != len(y_pred):
        raise ValueError(
            f"y_true and y_pred must be of the same length; got {len(y_true)} and {len(y_pred)}."
        )
    for row, (true, predicted) in enumerate(zip(y_true, y_pred, strict=True)):
        layers = [set(part) if isinstance(part, Mapping) else {""} for part in (true, predicted)]
        if layers[0] != layers[1]:
            raise ValueError(
                f"y_true[{row}] has the layers of spans {sorted(layers[0])}, and y_pred[{row}] "
                f"{sorted(layers[1])}; expected the same."
            )
    return _entities(y_true, "y_true", scheme), _entities(y_pred, "y_pred", scheme)


def _entities(y: Any, name: str, scheme: str) -> list[Any]:
    entity = _seqeval().Entity
    return [
        entity(row, start, end, (layer, label))
        for row, found in enumerate(y)
        for layer, part in (found.items() if isinstance(found, Mapping) else [("", found)])
        for start, end, label in _spans_in(part, name, scheme, row)
    ]


def _spans_in(part: Any, name: str, scheme: str, row: int) -> Iterator[tuple[Any, Any, str]]:
    """Yield start, end and label of every span; for one in pieces, the pieces and None as end."""
    try:
        if _are_tags(part):
            yield from tags_to_spans(check_tags(part, None, scheme, row), scheme)
            return
        for span in part:
            *place, label = span
            if len(place) == 2 and all(isinstance(side, (int, np.integer)) for side in place):
                yield int(place[0]), int(place[1]), label
            else:
                yield tuple((int(start), int(end)) for start, end in place), None, label
    except SampleError as error:
        raise ValueError(f"{name}[{row}] {error.reason}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}[{row}] is {shown(part)}; expected {_SPAN}.") from error


def distinct_spans(found: Any, name: str, row: int, scheme: str = "IOB2") -> set[Any]:
    """Return the unique spans of one sample: start, end and (layer, label).

    For a span in pieces, the pieces and None as end. A single layer has the name "".

    Parameters
    ----------
    found : sequence or mapping
        Spans or tags, or a dict of these by layer.
    name : str
        Name of the argument, for messages.
    row : int
        Number of the sample, for messages.
    scheme : {"IOB2", "BIOES", "IO"}, default="IOB2"
        Scheme of the tags.
    """
    return {
        (start, end, (layer, label))
        for layer, part in (found.items() if isinstance(found, Mapping) else [("", found)])
        for start, end, label in _spans_in(part, name, scheme, row)
    }


def _are_tags(part: Any) -> bool:
    return len(part) > 0 and isinstance(part[0], str)


def _names(true: Sequence[Any], predicted: Sequence[Any], which: int) -> list[str]:
    return sorted({entity.tag[which] for entity in [*true, *predicted]})


def _only(entities: list[Any], layer: str) -> list[Any]:
    return [entity for entity in entities if entity.tag[0] == layer]


# ------------------------------------------------------------------------- scores by seqeval
def _averaged(
    true: list[Any], predicted: list[Any], average: str, zero_division: float
) -> dict[str, Any]:
    if not true and not predicted:  # no label to average over
        return dict.fromkeys(("precision", "recall", "f1"), float(zero_division)) | {"support": 0}
    *scores, support = _counted(true, predicted, average, zero_division)
    names = ("precision", "recall", "f1")
    return dict(zip(names, map(float, scores), strict=True)) | {"support": int(support)}


def _per_label(
    true: list[Any], predicted: list[Any], zero_division: float
) -> dict[Any, dict[str, Any]]:
    tags = sorted({entity.tag for entity in [*true, *predicted]})
    if not tags:
        return {}
    columns = zip(*_counted(true, predicted, None, zero_division), strict=True)
    in_layers = {layer for layer, _ in tags} != {""}
    return {
        (tag if in_layers else tag[1]): {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for tag, (precision, recall, f1, support) in zip(tags, columns, strict=True)
    }


def _counted(
    true: list[Any], predicted: list[Any], average: str | None, zero_division: float
) -> tuple[Any, Any, Any, Any]:
    """Return the scores that seqeval computes from entities, which it gets instead of tags."""
    seqeval = _seqeval()
    both = []
    for found in (true, predicted):
        entities = seqeval.Entities([], seqeval.IOB2)
        entities.entities = [found]
        both.append(entities)
    return seqeval.precision_recall_fscore_support(
        [[]],
        [[]],
        average=average,
        zero_division=zero_division,
        entities_true=both[0],
        entities_pred=both[1],
    )


def _seqeval() -> SimpleNamespace:
    """Import seqeval when it is first needed, and return the parts that are used."""
    try:
        from seqeval.metrics.v1 import precision_recall_fscore_support  # noqa: PLC0415
        from seqeval.scheme import IOB2, Entities, Entity  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "The scores of spans need the package seqeval: pip install seqeval."
        ) from error
    return SimpleNamespace(
        precision_recall_fscore_support=precision_recall_fscore_support,
        IOB2=IOB2,
        Entities=Entities,
        Entity=Entity,
    )
