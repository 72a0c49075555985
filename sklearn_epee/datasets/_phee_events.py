"""Load the events of PHEE: triggers, arguments and sub-arguments as layers of spans."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._compat import StrOptions, validate_params
from sklearn_epee.datasets._download import download_all
from sklearn_epee.datasets._loading import SUBSETS, data_folder, subsets_of
from sklearn_epee.datasets._phee import SOURCE, article_of, find_files
from sklearn_epee.datasets._source import json_lines
from sklearn_epee.datasets._span_layers import (
    DISCONTINUOUS,
    Annotation,
    SpanLayers,
    counts_in_words,
)

_DESCR = """PHEE: pharmacovigilance events in sentences of case reports, as layers of spans

Each sentence tells of one event or several. The layers: "trigger", the words that tell of the
event, labeled with its type; "argument", Subject, Treatment and Effect; "sub_argument", such as
Subject.Age and Treatment.Drug; "combination", the drugs that are given together, which are
drugs of the treatment as well. Whether an event is negated, speculated or severe is left out.

Rows (train / dev / test): 2,898 / 961 / 968.

all_spans has every mention. The target has those that tags of words can represent.
Mentions in the part loaded here ({subset}): {all}.
Of these not in the target: {left_out} ({reasons}).

Events of one sentence share its layers, so that a span that belongs to two of them is there once,
and which span belongs to which event is told by `events` alone: {several} of {rows} sentences have
several.

Source: https://github.com/ZhaoyueSun/PHEE, data/json; the split is the source's.
Licence: MIT (licence of the repository).
Citation: Sun, Z., Li, J., Pergola, G., Wallace, B. C., John, B., Greene, N., Kim, J., He, Y.:
PHEE: A dataset for pharmacovigilance event extraction from text. EMNLP 2022.
"""

_LAYERS = ("trigger", "argument", "sub_argument", "combination")
_SUB_ARGUMENTS = {
    "Subject": ("Age", "Disorder", "Gender", "Population", "Race"),
    "Treatment": ("Disorder", "Dosage", "Drug", "Duration", "Freq", "Route", "Time_elapsed"),
    "Effect": (),
}
_CONSTRAINTS: dict[str, list[Any]] = {
    "subset": [StrOptions({*SUBSETS, "all"})],
    "data_home": [str, os.PathLike, None],
    "discontinuous": [StrOptions(set(DISCONTINUOUS))],
    "return_X_y": ["boolean"],
}


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_phee_events(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    discontinuous: str = "leave_out",
    return_X_y: bool = False,
) -> Any:
    """Load the events of PHEE as layers of spans (classification of words).

    Sentences of medical case reports, with the triggers of pharmacovigilance events, their
    arguments and the parts of these [1]_.

    Nothing is downloaded: the source's own files `{train,dev,test}.json` must be there, which may
    be compressed with gzip or lie in a folder `source`, in the folder `phee`;
    :func:`fetch_phee_events` downloads them.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder that holds the folder `phee`. By default the environment variable
        `SKLEARN_EPEE_DATA` names it.
    discontinuous : {"leave_out", "pieces", "whole"}, default="leave_out"
        How mentions in several pieces are converted in `target`: they are left out, each piece is a
        span, or the mention is one span from its first to its last character.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str, of length n_samples, the sentences;
        - `target`: list of dict, for each sentence its spans ``(start, end, label)`` in characters
          by layer: "trigger", "argument", "sub_argument" and "combination". Spans of a layer lie
          apart and start and end with words;
        - `all_spans`: list of dict, the same with all mentions, for scores; one in several pieces
          is ``((start, end), (start, end), label)``;
        - `events`: list of list of dict, for each sentence its events: their ``event_type`` and
          their own mentions by layer;
        - `target_names`: dict of str to list of str, the labels of each layer;
        - `groups`: ndarray of shape (n_samples,), the articles;
        - `n_left_out`: dict by layer of the numbers of mentions that are not in `target`: in
          several "pieces", not starting and ending with "words", or in "overlap" with others;
        - `DESCR`: str, with the source, the licence and the citation.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If neither `data_home` nor the environment variable names a folder, if a parameter is
        not as described, or a file is not as expected; the message names the file and the line.
    FileNotFoundError
        If the folder or a file in it does not exist.

    References
    ----------
    .. [1] Sun, Z., Li, J., Pergola, G., Wallace, B. C., John, B., Greene, N., Kim, J., He,
       Y.: PHEE: A dataset for pharmacovigilance event extraction from text. EMNLP 2022.

    Examples
    --------
    >>> from sklearn_epee.datasets import load_phee_events
    >>> X, y = load_phee_events(subset="dev", return_X_y=True)
    >>> start, end, label = y[0]["trigger"][0]
    >>> X[0][start:end], label
    ('occur', 'Adverse_event')
    """
    folder = data_folder(data_home) / "phee"
    return _events_in(folder, subset, discontinuous, return_X_y)


@validate_params(
    _CONSTRAINTS | {"download_if_missing": ["boolean"]}, prefer_skip_nested_validation=True
)
def fetch_phee_events(
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    discontinuous: str = "leave_out",
    return_X_y: bool = False,
) -> Any:
    """Download PHEE if necessary, and load its events as layers of spans (classification of words).

    As :func:`load_phee_events`, with the source's own files downloaded first where none are there.
    An interrupted download is resumed by the next call.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="train"
        The part to load; "all" is train, dev and test, one after the other.
    data_home : str or path-like, default=None
        The folder into which sets are downloaded, each into a folder of its own. By default the
        environment variable `SKLEARN_EPEE_DATA` names it, otherwise it is `~/sklearn_epee_data`.
    download_if_missing : bool, default=True
        If False, raise an error if files are missing.
    discontinuous : {"leave_out", "pieces", "whole"}, default="leave_out"
        How mentions in several pieces are converted in `target`: they are left out, each piece is a
        span, or the mention is one span from its first to its last character.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a `Bunch`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_phee_events` returns it.

    (data, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ValueError
        If a parameter is not as described, or a file is not as expected.
    FileNotFoundError
        If files are missing and `download_if_missing` is False.
    OSError
        If a file cannot be downloaded; the message says where to get it and where to put it.

    Examples
    --------
    >>> from sklearn_epee.datasets import fetch_phee_events
    >>> X, y = fetch_phee_events(subset="dev", return_X_y=True)
    >>> len(X) == len(y)
    True
    """
    folder = data_folder(data_home, create=download_if_missing) / "phee"
    if find_files(folder) is None and download_if_missing:
        download_all(SOURCE.remote, folder, page=SOURCE.page)
    return _events_in(folder, subset, discontinuous, return_X_y)


def _events_in(folder: Path, subset: str, discontinuous: str, return_X_y: bool) -> Any:
    files = find_files(folder) or {}
    texts: list[str] = []
    names: list[str] = []
    events: list[list[dict[str, Any]]] = []
    layers = SpanLayers(_LAYERS, discontinuous)
    for part in subsets_of(subset):
        if part not in files:
            raise FileNotFoundError(
                f"data_home: the file {part}.json of the source is missing in {str(folder)!r}. Get "
                f"{SOURCE.files} from {SOURCE.page}, or call fetch_phee_events."
            )
        for name, text, found in _sentences(files[part]):
            texts.append(text)
            names.append(name)
            events.append([_by_layer(event_type, mentions) for event_type, mentions in found])
            layers.add(text, [mention for _, mentions in found for mention in mentions])
    if return_X_y:
        return texts, layers.target
    return Bunch(
        data=texts,
        target=layers.target,
        all_spans=layers.all_spans,
        events=events,
        target_names=layers.labels,
        groups=np.array([article_of(name) for name in names]),
        n_left_out={name: dict(counts) for name, counts in layers.n_left_out.items()},
        DESCR=_description(subset, layers, events),
    )


def _description(subset: str, layers: SpanLayers, events: list[list[dict[str, Any]]]) -> str:
    return _DESCR.format(
        subset=subset,
        left_out=sum(sum(counts.values()) for counts in layers.n_left_out.values()),
        all=sum(len(spans) for found in layers.all_spans for spans in found.values()),
        reasons=counts_in_words(layers.n_left_out),
        several=sum(len(found) > 1 for found in events),
        rows=len(events),
    )


def _sentences(path: Path) -> Iterator[tuple[str, str, list[tuple[str, list[Annotation]]]]]:
    """Yield the name and the text of every sentence, and its events with their mentions."""
    for number, found in json_lines(path):
        try:
            text = found["context"]
            events = [
                (event["event_type"], list(_mentions(event, text)))
                for part in found["annotations"]
                for event in part["events"]
            ]
            yield found["id"], text, events
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a sentence with events, as in PHEE; {error!r}."
            ) from error


def _mentions(event: dict[str, Any], text: str) -> Iterator[Annotation]:
    """Yield the mentions of one event."""
    yield from _annotations("trigger", event["event_type"], event["Trigger"], text)
    for role, parts in _SUB_ARGUMENTS.items():
        if role not in event:
            continue
        yield from _annotations("argument", role, event[role], text)
        for part in parts:
            if part in event[role]:
                yield from _annotations("sub_argument", f"{role}.{part}", event[role][part], text)
        for combination in event[role].get("Combination", []):
            if "Drug" in combination:
                yield from _annotations("combination", "Drug", combination["Drug"], text)


def _annotations(layer: str, label: str, found: dict[str, Any], text: str) -> Iterator[Annotation]:
    for pieces, starts in zip(found["text"], found["start"], strict=True):
        spans = sorted(
            (start, start + len(piece)) for piece, start in zip(pieces, starts, strict=True)
        )
        if "".join(text[start:end] for start, end in spans) != "".join(
            piece for _, piece in sorted(zip(starts, pieces, strict=True))
        ):
            raise ValueError(f"the text has other characters than {pieces} at {starts}")
        yield Annotation(layer, label, tuple(spans))


def _by_layer(event_type: str, mentions: list[Annotation]) -> dict[str, Any]:
    found: dict[str, Any] = {"event_type": event_type}
    for layer in _LAYERS:
        found[layer] = [mention.span for mention in mentions if mention.layer == layer]
    return found
