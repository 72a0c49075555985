"""Annotated mentions as spans of texts, shared by the readers of spans."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee.datasets._span_layers import (
    Annotation,
    SpanLayers,
    check_discontinuous,
    counts_in_words,
)

from ._relations import Document, Sentences, checked_candidates, sentences_of

# Name of the layer of spans if they are not separated by type.
_ONE = ""


@dataclass(frozen=True)
class SpanChoice:
    """Which mentions become spans, and of which texts.

    Parameters
    ----------
    split_sentences : callable or None
        Returns the [start, end) of each sentence of a text; None takes passages as a whole.
    types : list of str or None
        None takes all.
    by_type : bool
        Whether each type is a layer of its own.
    discontinuous : {"leave_out", "pieces", "whole"}
    """

    split_sentences: Sentences | None
    types: Sequence[str] | None
    by_type: bool
    discontinuous: str

    def layer_of(self, kind: str) -> str:
        """Return the layer of a type."""
        return kind if self.by_type else _ONE


def checked_choice(
    split_sentences: Sentences | None, types: Any, by_type: bool, discontinuous: Any
) -> SpanChoice:
    """Return which mentions become spans.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as described.
    """
    checked_candidates(split_sentences, None, None)
    if types is not None:
        types = [types] if isinstance(types, str) else list(types)
        if not types or not all(isinstance(kind, str) for kind in types):
            raise ValueError(f"types must be a list of names of types, or None; got {types!r}.")
    if not isinstance(by_type, (bool, np.bool_)):
        raise TypeError(f"by_type must be True or False; got {by_type!r}.")
    return SpanChoice(split_sentences, types, bool(by_type), check_discontinuous(discontinuous))


def spans_bunch(documents: Iterable[Document], choice: SpanChoice, *, description: str) -> Bunch:
    """Return the texts of documents with their spans as a `Bunch`."""
    chosen = [(document, _chosen(document, choice)) for document in documents]
    names = sorted({choice.layer_of(kind) for _, kinds in chosen for kind in kinds.values()})
    layers = SpanLayers(names if choice.by_type else [_ONE], choice.discontinuous)
    texts: list[str] = []
    groups: list[str] = []
    for document, kinds in chosen:
        met: set[str] = set()
        for text, offset in sentences_of(document, choice.split_sentences):
            within = _within(document, kinds, text, offset)
            met.update(within)
            layers.add(text, [_moved(document, name, offset, choice) for name in within])
            texts.append(text)
            groups.append(document.name)
        for name in kinds.keys() - met:
            layers.count(choice.layer_of(kinds[name]), "sentences")
    return _bunch(texts, groups, layers, choice, description)


def _chosen(document: Document, choice: SpanChoice) -> dict[str, str]:
    """Return the types of the mentions that become spans, by the names of the mentions."""
    return {
        name: mention.kind
        for name, mention in document.mentions.items()
        if choice.types is None or mention.kind in choice.types
    }


def _within(document: Document, kinds: dict[str, str], text: str, offset: int) -> list[str]:
    mentions = [document.mentions[name] for name in kinds]
    return [
        mention.name
        for mention in mentions
        if offset <= mention.start and mention.end <= offset + len(text)
    ]


def _moved(document: Document, name: str, offset: int, choice: SpanChoice) -> Annotation:
    """Return a mention in the characters of a text that starts somewhere in the document."""
    mention = document.mentions[name]
    pieces = tuple((start - offset, end - offset) for start, end in sorted(mention.pieces))
    return Annotation(choice.layer_of(mention.kind), mention.kind, pieces)


def _bunch(
    texts: list[str],
    groups: list[str],
    layers: SpanLayers,
    choice: SpanChoice,
    description: str,
) -> Bunch:
    if not any(layers.labels.values()):
        wanted = "" if choice.types is None else f" of the types {list(choice.types)}"
        raise ValueError(f"No mention{wanted} lies in a text, so that there is nothing to find.")
    left_out = counts_in_words(layers.n_left_out)
    if layers.n_left_out:
        warnings.warn(
            f"Of the annotated mentions, tags of words cannot represent {left_out}: they are in "
            "all_spans, but not in the target.",
            UserWarning,
            stacklevel=4,
        )
    counts = sum((Counter(found) for found in layers.n_left_out.values()), Counter())
    apart = choice.by_type
    return Bunch(
        data=texts,
        target=layers.target if apart else [found[_ONE] for found in layers.target],
        all_spans=layers.all_spans if apart else [found[_ONE] for found in layers.all_spans],
        target_names=layers.labels if apart else layers.labels[_ONE],
        groups=np.array(groups),
        n_left_out=dict(counts),
        DESCR=f"{description}\nMentions that are not in the target: {left_out}.\n",
    )
