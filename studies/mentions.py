"""Convert marked pairs to spans: drug names of ddi2013, subjects and objects of git.

Both sets have a row for each pair of entities of a sentence. Here each sentence occurs once, with
the entities of all its rows. Sentences that are also in a later part are left out, so that no
sentence of dev or test is used for training, and none of test for tuning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sklearn.utils import Bunch

from sklearn_epee import datasets
from sklearn_epee.datasets._span_layers import Annotation, SpanLayers

Home = str | os.PathLike[str] | None
Piece = tuple[int, int]
# For each part, the parts whose sentences are left out of it.
LATER = {"train": ("dev", "test"), "dev": ("test",), "test": ()}
MARK = re.compile(r"\[(E[12])\] | \[/(E[12])\]")


def unmarked(text: str) -> tuple[str, dict[str, Piece]]:
    """Return a text without the marks around two entities, and the places of the entities.

    Parameters
    ----------
    text : str
        With "[E1] ... [/E1]" and "[E2] ... [/E2]", which may overlap.

    Returns
    -------
    sentence : str
    places : dict of str to (start, end)
        Places of "E1" and "E2", in characters.

    Raises
    ------
    ValueError
        If a mark is missing or occurs twice.

    Examples
    --------
    >>> unmarked("[E1] Zinc [/E1] with [E2] iron [/E2].")
    ('Zinc with iron.', {'E1': (0, 4), 'E2': (10, 14)})
    """
    pieces: list[str] = []
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    last = length = n_marks = 0
    for mark in MARK.finditer(text):
        pieces.append(text[last : mark.start()])
        length += len(pieces[-1])
        last = mark.end()
        n_marks += 1
        opened, closed = mark.groups()
        (starts if opened else ends)[opened or closed] = length
    if n_marks != 4 or not starts.keys() == ends.keys() == {"E1", "E2"}:
        raise ValueError(f"Expected each mark of [E1] and [E2] once; got {text!r}.")
    sentence = "".join([*pieces, text[last:]])
    return sentence, {name: (starts[name], ends[name]) for name in sorted(starts)}


def by_sentence(texts: Sequence[str]) -> dict[str, list[dict[str, Piece]]]:
    """Return the places of the entities in each sentence, in the order of the first rows."""
    found: dict[str, list[dict[str, Piece]]] = {}
    for text in texts:
        sentence, places = unmarked(text)
        found.setdefault(sentence, []).append(places)
    return found


def load_mentions(
    load: Callable[..., Any],
    layers: Mapping[str, str],
    *,
    subset: str,
    data_home: Home = None,
) -> Bunch:
    """Load a part of a set of marked pairs as sentences with spans.

    Parameters
    ----------
    load : callable
        The loader of the pairs.
    layers : mapping of str to str
        The names of the layers of spans of "E1" and "E2", which are also their labels.
    subset : {"train", "dev", "test"}
    data_home : str, path-like or None, default=None

    Returns
    -------
    Bunch
        `data`, `target`, `all_spans` and `n_left_out` as in `load_phee_events`. Mentions in
        several parts are spans from the first to the last character, as they are marked. If spans
        of a layer overlap, `target` has one of them, and `all_spans` all.
    """
    own = by_sentence(load(subset=subset, data_home=data_home).data)
    for later in LATER[subset]:
        for text in load(subset=later, data_home=data_home).data:
            own.pop(unmarked(text)[0], None)
    spans = SpanLayers(list(dict.fromkeys(layers.values())), "whole")
    for sentence, rows in own.items():
        spans.add(sentence, _annotations(rows, layers))
    return Bunch(
        data=list(own),
        target=spans.target,
        all_spans=spans.all_spans,
        n_left_out=spans.n_left_out,
    )


def _annotations(
    rows: Sequence[Mapping[str, Piece]], layers: Mapping[str, str]
) -> Iterator[Annotation]:
    for places in rows:
        for name, place in places.items():
            yield Annotation(layers[name], layers[name], (place,))


load_drugs = partial(load_mentions, datasets.load_ddi2013, {"E1": "drug", "E2": "drug"})
load_arguments = partial(load_mentions, datasets.load_git, {"E1": "subject", "E2": "object"})
