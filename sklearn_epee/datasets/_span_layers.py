"""Annotated mentions as layers of spans for tags of words, and spans that tags cannot represent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sklearn_epee._spans import fit_spans, split_words

Piece = tuple[int, int]
# Start, end and label; or the pieces of a mention, and its label.
AnySpan = tuple[Any, ...]

DISCONTINUOUS = ("leave_out", "pieces", "whole")


@dataclass(frozen=True)
class Annotation:
    """A mention in a text: its layer, its label and its pieces, ascending."""

    layer: str
    label: str
    pieces: tuple[Piece, ...]

    @property
    def span(self) -> AnySpan:
        """The mention as (start, end, label), or ((start, end), ..., label) if it has pieces."""
        if len(self.pieces) == 1:
            return (*self.pieces[0], self.label)
        return (*self.pieces, self.label)


@dataclass
class SpanLayers:
    """The spans of texts by layer: those for a token classifier, and all spans.

    Attributes
    ----------
    target : list of dict of str to list of (start, end, label)
        Spans that start and end with a word and do not overlap others of their layer.
    all_spans : list of dict of str to list of tuple
        All spans; those of several pieces are ((start, end), (start, end), ..., label).
    n_left_out : dict of str to Counter
        By layer, the number of spans that are not in the target: those in several "pieces", those
        that do not start and end with "words", and those that "overlap" others.
    """

    names: Sequence[str]
    discontinuous: str
    target: list[dict[str, list[AnySpan]]] = field(default_factory=list)
    all_spans: list[dict[str, list[AnySpan]]] = field(default_factory=list)
    n_left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, text: str, annotations: Iterable[Annotation]) -> None:
        """Add the mentions of one more text."""
        words = split_words(text)
        target: dict[str, list[AnySpan]] = {name: [] for name in self.names}
        every: dict[str, list[AnySpan]] = {name: [] for name in self.names}
        candidates: dict[str, list[tuple[int, int, str]]] = {name: [] for name in self.names}
        for found in dict.fromkeys(annotations):
            every[found.layer].append(found.span)
            candidates[found.layer] += self._candidates(found)
        starts, ends = {start for start, _ in words}, {end for _, end in words}
        for name in self.names:
            kept, lost = fit_spans(candidates[name], words)
            target[name] = list(kept)
            every[name].sort(key=_position)
            for start, end, _ in lost:
                fits = start in starts and end in ends
                self.count(name, "overlap" if fits else "words")
        self.target.append(target)
        self.all_spans.append(every)

    def _candidates(self, found: Annotation) -> list[tuple[int, int, str]]:
        """Return the spans of a mention in the target."""
        if len(found.pieces) == 1 or self.discontinuous == "pieces":
            return [(start, end, found.label) for start, end in found.pieces]
        if self.discontinuous == "whole":
            return [(found.pieces[0][0], found.pieces[-1][1], found.label)]
        self.count(found.layer, "pieces")
        return []

    def count(self, layer: str, reason: str) -> None:
        """Count a mention of a layer that is not in the target."""
        self.n_left_out.setdefault(layer, Counter())[reason] += 1

    @property
    def labels(self) -> dict[str, list[str]]:
        """The labels of every layer, sorted."""
        return {
            name: sorted({span[-1] for spans in self.all_spans for span in spans[name]})
            for name in self.names
        }


def check_discontinuous(discontinuous: Any) -> str:
    """Return `discontinuous`, which says how mentions in several pieces are converted.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    if discontinuous not in DISCONTINUOUS:
        raise ValueError(
            f"discontinuous must be one of {', '.join(map(repr, DISCONTINUOUS))}; got "
            f"{discontinuous!r}."
        )
    return str(discontinuous)


def counts_in_words(n_left_out: Mapping[str, Mapping[str, int]]) -> str:
    """Return the numbers of mentions that are left out, by layer and reason, as text."""
    reasons = {
        "pieces": "in several pieces",
        "words": "that do not start and end with a word",
        "overlap": "that overlap others",
        "sentences": "in no sentence as a whole",
    }
    parts = [
        f"{sum(counts[reason] for counts in n_left_out.values())} {said}"
        for reason, said in reasons.items()
        if any(counts.get(reason) for counts in n_left_out.values())
    ]
    return ", ".join(parts) or "none"


def _position(span: AnySpan) -> tuple[int, int, str]:
    first = span[0]
    start, end = (span[0], span[1]) if not isinstance(first, tuple) else (first[0], span[-2][1])
    return start, end, span[-1]
