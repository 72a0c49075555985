"""Read CoNLL columns: one word with its tag per line, an empty line after each sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sklearn_epee._spans import tags_to_spans

from ._files import CorpusFile, corpus_files

_DOCSTART = "-DOCSTART-"
_BLANKS = re.compile(" +")
_TAGS = {
    scheme: re.compile(rf"O|[{prefixes}](-.+)?")
    for scheme, prefixes in {
        "IOB2": "BI",
        "BIOES": "BIES",
        "IO": "I",
        "IOB1": "BI",
        "BILOU": "BILU",
    }.items()
}
# Schemes that are converted, because classifiers do not support them.
_CONVERTED = {"IOB1": "IOB2", "BILOU": "BIOES"}


def read_conll(
    path: str | os.PathLike[str],
    *,
    tags: int | Mapping[str, int] = -1,
    words: int = 0,
    scheme: str = "IOB2",
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Bunch:
    r"""Read words with tags from CoNLL files (token classification).

    A line has a word and its columns, among them the tag; an empty line ends a sentence. A line
    whose word is ``-DOCSTART-`` starts a document; without these each file is one.

    Parameters
    ----------
    path : str or path-like
        A file, also compressed with gzip, a folder with ``.conll``, ``.iob``, ``.iob2``, ``.bio``,
        ``.tsv`` or ``.txt`` files, or a zip archive, which is not unpacked.
    tags : int, or dict of str to int, default=-1
        The column of the tags, counted from 0, or from -1 backwards. A dict of columns by name
        gives several layers of spans.
    words : int, default=0
        The column of the words.
    scheme : {"IOB2", "BIOES", "IO", "IOB1", "BILOU"}, default="IOB2"
        Scheme of the tags in the file. "IOB1", in which a span starts with an I unless another of
        its label ends right before it, is converted to IOB2, and "BILOU" to BIOES.
    delimiter : str or None, default=None
        Delimiter of columns. None: tabs in a line that has one, otherwise blanks.
    encoding : str, default="utf-8"
        Encoding of the files.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - `data`: list of list of str, the words of each sentence;
        - `target`: list of list of str, their tags, or with several columns list of dict of these
          by layer;
        - `target_names`: list of str, the labels of the spans, or dict of these by layer;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `scheme`: str, the scheme of the tags in `target`;
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a line lacks a column, or a tag is not in the scheme; the message names the file and the
        line. With ``scheme="IOB2"``, an I that does not continue a span is an error: such files are
        IOB1, or damaged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import read_conll
    >>> lines = ["Rash B-Effect", "after O", "high B-Dose", "doses I-Dose", "", "None O"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "train.txt")
    ...     _ = file.write_text("\n".join(lines))
    ...     found = read_conll(file)
    >>> found.data[0], found.target[0]
    (['Rash', 'after', 'high', 'doses'], ['B-Effect', 'O', 'B-Dose', 'I-Dose'])
    """
    columns = _checked_columns(tags, words)
    if scheme not in _TAGS:
        raise ValueError(f"scheme must be one of {', '.join(_TAGS)}; got {scheme!r}.")
    suffixes = tuple(
        suffix + zipped
        for suffix in (".conll", ".iob", ".iob2", ".bio", ".tsv", ".txt")
        for zipped in ("", ".gz")
    )
    sentences = [
        _with_tags(sentence, scheme)
        for file in corpus_files(path, suffixes, what="read_conll")
        for sentence in _sentences(file, columns, words, delimiter, encoding)
    ]
    if not sentences:
        raise ValueError(f"read_conll: {os.fspath(path)!r} holds no sentence.")
    written = _CONVERTED.get(scheme, scheme)
    labels = {
        name: sorted(
            {span[2] for found in sentences for span in tags_to_spans(found.tags[name], written)}
        )
        for name in columns
    }
    several = isinstance(tags, Mapping)
    return Bunch(
        data=[found.words for found in sentences],
        target=[found.tags if several else found.tags[""] for found in sentences],
        target_names=labels if several else labels[""],
        groups=np.array([found.document for found in sentences]),
        scheme=written,
        DESCR=f"Words with tags ({written}), read from CoNLL files: {path}.\n",
    )


@dataclass
class _Sentence:
    """Words and tags by layer, with their document, file and lines."""

    document: str
    file: str
    words: list[str]
    tags: dict[str, list[str]]
    lines: list[int]


def _checked_columns(tags: Any, words: Any) -> dict[str, int]:
    columns = dict(tags) if isinstance(tags, Mapping) else {"": tags}
    for name, column in [*columns.items(), ("words", words)]:
        if not isinstance(column, Integral) or isinstance(column, (bool, np.bool_)):
            raise TypeError(
                f"tags and words must be numbers of columns; got {column!r}"
                f"{f' for {name!r}' if name else ''}."
            )
    if not columns or any(column == words for column in columns.values()):
        raise ValueError(f"tags must name columns other than words={words}; got {tags!r}.")
    return {str(name): int(column) for name, column in columns.items()}


def _sentences(
    file: CorpusFile, columns: dict[str, int], words: int, delimiter: str | None, encoding: str
) -> Iterator[_Sentence]:
    name = str(file.relative)
    n_documents = 0
    sentence = _Sentence(name, file.name, [], {layer: [] for layer in columns}, [])
    # An empty line at the end closes the last sentence.
    for number, line in enumerate([*file.text(encoding).split("\n"), ""], start=1):
        fields = _fields(line.rstrip("\r"), delimiter)
        starts_document = bool(fields) and fields[0] == _DOCSTART
        if fields and not starts_document:
            _add_word(sentence, fields, columns, words, number)
            continue
        if sentence.words:
            yield sentence
        if starts_document:
            name = f"{file.relative}.d{n_documents}"
            n_documents += 1
        sentence = _Sentence(name, file.name, [], {layer: [] for layer in columns}, [])


def _fields(line: str, delimiter: str | None) -> list[str]:
    if not line.strip():
        return []
    if delimiter is not None or "\t" in line:
        return [field.strip(" ") for field in line.split(delimiter or "\t")]
    return _BLANKS.split(line.strip(" "))


def _add_word(
    sentence: _Sentence, fields: list[str], columns: dict[str, int], words: int, number: int
) -> None:
    wanted = [words, *columns.values()]
    least = max(column + 1 if column >= 0 else -column for column in wanted)
    if len(fields) < max(least, 2) or not fields[words]:
        raise ValueError(
            f"{sentence.file}, line {number}: expected a word and its tag in the columns {wanted}; "
            f"got {fields}. If the columns have another delimiter, pass it as delimiter."
        )
    sentence.words.append(fields[words])
    sentence.lines.append(number)
    for layer, column in columns.items():
        sentence.tags[layer].append(fields[column])


def _with_tags(sentence: _Sentence, scheme: str) -> _Sentence:
    """Return a sentence with checked tags, in a scheme that classifiers support."""
    for layer, tags in sentence.tags.items():
        for word, reason in _wrong_tags(tags, scheme):
            raise ValueError(f"{sentence.file}, line {sentence.lines[word]}: {reason}")
        sentence.tags[layer] = _in_a_known_scheme(tags, scheme)
    return sentence


def _wrong_tags(tags: list[str], scheme: str) -> Iterator[tuple[int, str]]:
    """Yield the words whose tags are not in the scheme, with a message."""
    last = "O"
    for word, tag in enumerate(tags):
        if _TAGS[scheme].fullmatch(tag) is None:
            known = ", ".join(_TAGS)
            problem = f"{tag!r} is not a tag of the scheme {scheme}"
            yield word, f"{problem}; pass scheme ({known}) and tags."
        elif scheme == "IOB2" and _starts_loosely(tag, last):
            yield (
                word,
                f"{tag!r} does not continue a span; if spans start with an I, pass scheme='IOB1'.",
            )
        last = tag


def _in_a_known_scheme(tags: list[str], scheme: str) -> list[str]:
    if scheme == "BILOU":
        return [tag[:1].replace("L", "E").replace("U", "S") + tag[1:] for tag in tags]
    if scheme == "IOB1":
        pairs = zip(["O", *tags], tags, strict=False)
        return [f"B{tag[1:]}" if _starts_loosely(tag, last) else tag for last, tag in pairs]
    return tags


def _starts_loosely(tag: str, last: str) -> bool:
    """Return whether a tag is an I that does not continue a span of its label."""
    return tag[0] == "I" and (last == "O" or last[1:] != tag[1:])
