"""Read BRAT's standoff files: texts (.txt) with their annotations (.ann)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from sklearn.utils import Bunch

from ._files import CorpusFile, corpus_files
from ._relations import Document, Mention, Passage, Sentences, checked_candidates, relations_bunch
from ._spans import checked_choice, spans_bunch

_DESCR = """Pairs of mentions, read from BRAT files: {path}.

Lines that are neither mentions (T) nor relations (R), by their first letter: {ignored}.
"""
_MENTION = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
_RELATION = re.compile(r"(\S+) (\S+?):(\S+) (\S+?):(\S+)\s*")


def read_brat(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    negative_label: str | None = "false",
    pair_types: Any = None,
    encoding: str = "utf-8",
    as_frame: bool = False,
) -> Bunch:
    r"""Read relations of two mentions from BRAT files.

    A document is a text, ``name.txt``, with its annotations, ``name.ann``: mentions (T), of which
    one may have several pieces, and relations (R) of two mentions [1]_. Events, attributes,
    normalizations and notes (E, A, M, N, #, ``*``) are counted in `DESCR` and left out.

    Parameters
    ----------
    path : str or path-like
        A folder with such files, a zip archive, which is not unpacked, or one ``.ann`` file with
        its text in the same folder.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; rows are pairs of mentions in one sentence. None takes texts as a whole.
    negative_label : str or None, default="false"
        Label of two mentions in one sentence that are not related. None gives related pairs only.
    pair_types : list of (str, str), default=None
        Types of the first and of the second mention of the pairs that get `negative_label`. None:
        all pairs.
    encoding : str, default="utf-8"
        Encoding of the files.
    as_frame : bool, default=False
        If True, `data` and `target` are pandas objects and `frame` is given.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of dict (or DataFrame), one row per pair: ``text``, the spans ``span1`` and
          ``span2`` as (start, end) in characters, the end excluded, or a list of these for a
          mention in several pieces, the types ``type1`` and ``type2``, the spans of ``others`` in
          the text, ``label``, ``document`` and ``id``; as :class:`~sklearn_epee.EntityMarker`
          takes them. The first span is the first argument of a relation or, for a pair without
          one, the first in the text;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels;
        - `target_names`: ndarray, the labels that occur, sorted;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `n_left_out`: int, relations that are not between two mentions of one sentence;
        - `frame`: DataFrame if `as_frame`, otherwise None;
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or a text is missing.
    ValueError
        If a line is not as described, or a mention differs from the text; the message names the
        file and the line.

    Warns
    -----
    UserWarning
        If relations are left out.

    References
    ----------
    .. [1] Stenetorp, P., Pyysalo, S., Topic, G., Ohta, T., Ananiadou, S., Tsujii, J.: brat: a
       web-based tool for NLP-assisted text annotation. EACL 2012.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import read_brat
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     note = pathlib.Path(folder, "note.txt")
    ...     _ = note.write_text("Rash after penicillin. No fever.")
    ...     _ = note.with_suffix(".ann").write_text(
    ...         "T1\tSymptom 0 4\tRash\nT2\tDrug 11 21\tpenicillin\n"
    ...         "T3\tSymptom 26 31\tfever\nR1\tcaused_by Arg1:T1 Arg2:T2\n"
    ...     )
    ...     found = read_brat(folder)
    >>> found.target.tolist()
    ['caused_by', 'false', 'false']
    >>> found.data[0]["span1"], found.data[0]["type1"], found.groups[0].item()
    ((0, 4), 'Symptom', 'note')
    """
    candidates = checked_candidates(split_sentences, negative_label, pair_types)
    ignored: Counter[str] = Counter()
    documents = list(_documents(path, encoding, ignored))
    description = _DESCR.format(path=path, ignored=dict(ignored) or "none")
    return relations_bunch(documents, candidates, as_frame=as_frame, description=description)


def read_brat_spans(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    types: Any = None,
    by_type: bool = False,
    discontinuous: str = "leave_out",
    encoding: str = "utf-8",
) -> Bunch:
    r"""Read mentions as spans from BRAT files (token classification).

    A document is a text, ``name.txt``, with its annotations, ``name.ann``, of which the mentions
    (T) are taken. Relations of mentions are read by :func:`read_brat`.

    Parameters
    ----------
    path : str or path-like
        A folder with such files, a zip archive, which is not unpacked, or one ``.ann`` file with
        its text in the same folder.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; each is a sample. None takes texts as a whole.
    types : list of str, default=None
        Types of the mentions that become spans. None: all.
    by_type : bool, default=False
        If True, the spans of each type are a separate layer, so that mentions of different types
        can overlap.
    discontinuous : {"leave_out", "pieces", "whole"}, default="leave_out"
        How mentions in several pieces are converted in `target`: they are left out, each piece is a
        span, or the mention is one span from its first to its last character.
    encoding : str, default="utf-8"
        Encoding of the files.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of str, the texts;
        - `target`: list of list of ``(start, end, label)``, the spans of each text in characters,
          the end excluded, or with `by_type` list of dict of such lists by type; spans of a layer
          do not overlap, and start and end with words;
        - `all_spans`: the same with all mentions of the text, for scores; one in several pieces is
          ``((start, end), (start, end), label)``;
        - `target_names`: list of str, the labels, or with `by_type` dict of such lists;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `n_left_out`: dict of the numbers of mentions that are not in `target`: in several
          "pieces", not starting and ending with "words", in "overlap" with others, and in no
          text as a whole ("sentences");
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or a text is missing.
    ValueError
        If a file is not as described, or a mention differs from the text; the message names the
        file and the line.

    Warns
    -----
    UserWarning
        If mentions are not in `target`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import read_brat_spans
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     note = pathlib.Path(folder, "note.txt")
    ...     _ = note.write_text("Rash after penicillin. No fever.")
    ...     _ = note.with_suffix(".ann").write_text(
    ...         "T1\tSymptom 0 4\tRash\nT2\tDrug 11 21\tpenicillin\nT3\tSymptom 26 31\tfever\n"
    ...     )
    ...     found = read_brat_spans(folder)
    >>> found.target
    [[(0, 4, 'Symptom'), (11, 21, 'Drug'), (26, 31, 'Symptom')]]
    """
    choice = checked_choice(split_sentences, types, by_type, discontinuous)
    documents = _documents(path, encoding, Counter())
    return spans_bunch(documents, choice, description=f"Mentions, read from BRAT files: {path}.")


def _documents(
    path: str | os.PathLike[str], encoding: str, ignored: Counter[str]
) -> Iterator[Document]:
    given = os.fspath(path)
    if given.lower().endswith((".ann", ".txt")):
        stem = given[:-4]
        files = [
            file
            for suffix in (".txt", ".ann")
            for file in corpus_files(stem + suffix, (suffix,), what="read_brat")
        ]
    else:
        files = list(corpus_files(path, (".ann", ".txt"), what="read_brat"))
    texts = {_stem(file.relative): file for file in files if _ends_in(file, ".txt")}
    annotations = [file for file in files if _ends_in(file, ".ann")]
    if not annotations:
        raise ValueError(f"read_brat: {given!r} holds no file that ends in .ann.")
    for file in annotations:
        name = _stem(file.relative)
        if name not in texts:
            raise FileNotFoundError(f"{file.name} has no text: {name}.txt is missing.")
        yield _document(name, texts[name].text(encoding), file, encoding, ignored)


def _ends_in(file: CorpusFile, suffix: str) -> bool:
    return file.relative.suffix.lower() == suffix


def _stem(relative: PurePosixPath) -> str:
    return str(relative.with_suffix(""))


def _document(
    name: str, text: str, file: CorpusFile, encoding: str, ignored: Counter[str]
) -> Document:
    document = Document(name, [Passage(text)])
    relations = []
    lines = [line.rstrip("\r") for line in file.text(encoding).split("\n")]
    for number, line in enumerate(lines, start=1):
        place = f"{file.name}, line {number}"
        if not line.strip():
            continue
        if line[0] == "T":
            mention = _mention(line, text, place)
            if mention.name in document.mentions:
                raise ValueError(f"{place}: there is another mention {mention.name!r} before it.")
            document.mentions[mention.name] = mention
        elif line[0] == "R":
            relations.append((_relation(line, place), place))
        else:
            ignored[line[0]] += 1
    for (label, one, two), place in relations:
        for argument in (one, two):
            if argument[0] == "T" and argument not in document.mentions:
                raise ValueError(
                    f"{place}: the relation refers to {argument!r}, which does not exist."
                )
        if one in document.mentions and two in document.mentions and one != two:
            document.relations.append((label, one, two))
        else:
            document.n_other += 1
    return document


def _mention(line: str, text: str, place: str) -> Mention:
    name, _, rest = line.partition("\t")
    middle, _, shown = rest.partition("\t")
    found = _MENTION.fullmatch(middle)
    if found is None:
        raise ValueError(
            f"{place}: a mention must be 'T1<tab>Type start end<tab>text', several pieces "
            f"separated by ';'; got {line!r}."
        )
    pieces = [tuple(map(int, piece.split())) for piece in found[2].split(";")]
    if not all(start < end <= len(text) for start, end in pieces):
        raise ValueError(
            f"{place}: a mention must lie within the {len(text)} characters of the text; got "
            f"{pieces}."
        )
    written = " ".join(text[start:end] for start, end in pieces)
    if shown and "".join(shown.split()) != "".join(written.split()):
        raise ValueError(
            f"{place}: the mention is {shown!r}, but the text has {written!r} there. Offsets count "
            "characters, line ends as they are in the file."
        )
    return Mention(name, found[1], tuple(sorted((start, end) for start, end in pieces)))


def _relation(line: str, place: str) -> tuple[str, str, str]:
    found = _RELATION.fullmatch(line.partition("\t")[2])
    if found is None:
        raise ValueError(
            f"{place}: a relation must be 'R1<tab>Type Arg1:T1 Arg2:T2'; got {line!r}."
        )
    return found[1], found[3], found[5]
