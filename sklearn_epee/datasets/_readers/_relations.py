"""Annotated relations as rows: a text, two spans in it, and their relation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import check_pandas_support

Span = tuple[int, int]
Sentences = Callable[[str], Iterable[Sequence[int]]]


@dataclass(frozen=True)
class Mention:
    """A mention of an entity: its pieces as [start, end) in characters of the document."""

    name: str
    kind: str
    pieces: tuple[Span, ...]

    @property
    def start(self) -> int:
        """Start of the mention."""
        return min(start for start, _ in self.pieces)

    @property
    def end(self) -> int:
        """End of the mention."""
        return max(end for _, end in self.pieces)


@dataclass(frozen=True)
class Passage:
    """A passage of a document, with its start."""

    text: str
    offset: int = 0


@dataclass
class Document:
    """A document: its passages, its mentions by name, and its relations."""

    name: str
    passages: list[Passage]
    mentions: dict[str, Mention] = field(default_factory=dict)
    # Label, and the names of the two mentions.
    relations: list[tuple[str, str, str]] = field(default_factory=list)
    # Number of relations that are not between two mentions.
    n_other: int = 0

    def text_of(self, start: int, end: int) -> str | None:
        """Return the characters of a span; None if it is not inside one passage."""
        for passage in self.passages:
            if passage.offset <= start <= end <= passage.offset + len(passage.text):
                return passage.text[start - passage.offset : end - passage.offset]
        return None


@dataclass(frozen=True)
class Candidates:
    """Which pairs of mentions become rows.

    Parameters
    ----------
    split_sentences : callable or None
        Returns the [start, end) of each sentence of a text; None takes passages as a whole.
    negative_label : str or None
        Label of two mentions in one sentence that are not related; None: they are left out.
    pair_types : sequence of (str, str) or None
        Types of the first and second mention that can be related; None: all.
    """

    split_sentences: Sentences | None
    negative_label: str | None
    pair_types: Sequence[tuple[str, str]] | None


def checked_candidates(
    split_sentences: Sentences | None, negative_label: str | None, pair_types: Any
) -> Candidates:
    """Return which pairs become rows.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as described.
    """
    if split_sentences is not None and not callable(split_sentences):
        raise TypeError(
            "split_sentences must be a function from a text to the (start, end) of its sentences, "
            f"or None; got {type(split_sentences).__name__}."
        )
    if negative_label is not None and not isinstance(negative_label, str):
        raise TypeError(f"negative_label must be str or None; got {negative_label!r}.")
    if pair_types is not None:
        pair_types = [tuple(pair) for pair in pair_types]
        if not pair_types or not all(
            len(pair) == 2 and all(isinstance(kind, str) for kind in pair) for pair in pair_types
        ):
            raise ValueError(
                "pair_types must be a list of pairs of types, such as [('Chemical', 'Disease')]; "
                f"got {pair_types!r}."
            )
    return Candidates(split_sentences, negative_label, pair_types)


def relations_bunch(
    documents: Iterable[Document], candidates: Candidates, *, as_frame: bool, description: str
) -> Bunch:
    """Return the rows of documents as a `Bunch`."""
    rows: list[dict[str, Any]] = []
    n_relations = n_left_out = n_other = 0
    for document in documents:
        found, left_out = _rows_of(document, candidates)
        rows.extend(found)
        n_relations += len(document.relations)
        n_left_out += left_out
        n_other += document.n_other
    if n_left_out or n_other:
        warnings.warn(
            f"Of {n_relations + n_other} annotated relations {n_left_out} join mentions that are "
            f"not in one sentence, and {n_other} do not join two mentions; they are left out.",
            UserWarning,
            stacklevel=3,
        )
    return rows_bunch(
        rows, as_frame=as_frame, description=description, n_left_out=n_left_out + n_other
    )


def rows_bunch(
    rows: list[dict[str, Any]], *, as_frame: bool, description: str, **more: Any
) -> Bunch:
    """Return a `Bunch` of rows, labels and documents."""
    if not rows:
        raise ValueError(
            "There is no pair of mentions in one sentence, so there is nothing to classify. Pass "
            "split_sentences=None, a negative_label or other pair_types."
        )
    target = np.array([row["label"] for row in rows])
    groups = np.array([row["document"] for row in rows])
    frame = None
    if as_frame:
        frame = check_pandas_support("as_frame=True").DataFrame(rows)
    return Bunch(
        data=rows if frame is None else frame.drop(columns="label"),
        target=target if frame is None else frame["label"],
        target_names=np.unique(target),
        groups=groups,
        frame=frame,
        DESCR=description,
        **more,
    )


def span_of(pieces: Sequence[Span]) -> Span | list[Span]:
    """Return a mention as one span, or as a list of its pieces if there are several."""
    return pieces[0] if len(pieces) == 1 else list(pieces)


def whole_span(span: Span | list[Span]) -> Span:
    """Return a span from the first to the last character of a mention."""
    pieces = span if isinstance(span, list) else [span]
    return min(start for start, _ in pieces), max(end for _, end in pieces)


def _rows_of(document: Document, candidates: Candidates) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a document, and the number of relations that are not in one sentence."""
    related: dict[frozenset[str], list[tuple[str, str, str]]] = {}
    for relation in document.relations:
        related.setdefault(frozenset(relation[1:]), []).append(relation)
    rows: list[dict[str, Any]] = []
    met = 0
    for text, offset in sentences_of(document, candidates.split_sentences):
        within = sorted(
            (
                m
                for m in document.mentions.values()
                if offset <= m.start and m.end <= offset + len(text)
            ),
            key=lambda mention: (mention.start, mention.end),
        )
        for first, second in combinations(within, 2):
            pairs = related.get(frozenset((first.name, second.name)), [])
            met += len(pairs)
            for label, one, two in pairs or _negatives(first, second, candidates):
                ends = document.mentions[one], document.mentions[two]
                name = f"{document.name}.r{len(rows)}"
                others = [_span(mention, offset) for mention in within if mention not in ends]
                row = {"text": text, **_ends(ends, offset), "others": others, "label": label}
                rows.append(row | {"document": document.name, "id": name})
    return rows, len(document.relations) - met


def _negatives(
    first: Mention, second: Mention, candidates: Candidates
) -> Iterator[tuple[str, str, str]]:
    """Yield the pair of two mentions that are not related, if it is a candidate."""
    if candidates.negative_label is None or first.pieces == second.pieces:
        return
    for one, two in ((first, second), (second, first)):
        if candidates.pair_types is None or (one.kind, two.kind) in candidates.pair_types:
            yield candidates.negative_label, one.name, two.name
            return


def _ends(ends: tuple[Mention, Mention], offset: int) -> dict[str, Any]:
    """Return the spans and types of two mentions, in a text that starts somewhere."""
    return {
        "span1": _span(ends[0], offset),
        "span2": _span(ends[1], offset),
        "type1": ends[0].kind,
        "type2": ends[1].kind,
    }


def _span(mention: Mention, offset: int) -> Span | list[Span]:
    return span_of([(start - offset, end - offset) for start, end in mention.pieces])


def sentences_of(document: Document, split: Sentences | None) -> Iterator[tuple[str, int]]:
    """Yield the sentences of a document, or its passages, with where they start in it."""
    for passage in document.passages:
        if split is None:
            yield passage.text, passage.offset
            continue
        for start, end in _checked_spans(split(passage.text), passage.text, document.name):
            yield passage.text[start:end], passage.offset + start


def _checked_spans(spans: Iterable[Sequence[int]], text: str, name: str) -> Iterator[Span]:
    last = 0
    for span in spans:
        try:
            start, end = (int(side) for side in span)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"split_sentences must return the (start, end) of each sentence; got {span!r} for "
                f"the document {name!r}."
            ) from error
        if not last <= start < end <= len(text):
            raise ValueError(
                "split_sentences must return sentences in their order that do not overlap, within "
                f"the {len(text)} characters of the text; got ({start}, {end}) after {last} for "
                f"the document {name!r}."
            )
        last = end
        yield start, end
