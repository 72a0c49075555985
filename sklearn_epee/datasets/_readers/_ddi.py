"""Read the XML of the DDI corpora: sentences, drugs and pairs of drugs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

from sklearn.utils import Bunch

from ._files import CorpusFile, corpus_files
from ._relations import Span, rows_bunch, span_of
from ._xml import Node, attribute, parse_xml

NEGATIVE = "false"

_DESCR = """Pairs of drugs in sentences, read from files in the XML of the DDI corpora: {path}.

Each pair that the files name is a row; its label is the type of the interaction, or "false".
"""


def read_ddi_xml(path: str | os.PathLike[str], *, as_frame: bool = False) -> Bunch:
    """Read pairs of drugs from files in the XML of the DDI corpora.

    Documents contain sentences with entities (``charOffset``, including the last character, pieces
    separated by ";") and pairs of entities (``ddi`` and ``type``) [1]_. Every pair is a row,
    related or not.

    Parameters
    ----------
    path : str or path-like
        An XML file, a folder with such files, or a zip archive, which is not unpacked.
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
          takes them;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels;
        - `target_names`: ndarray, the labels that occur, sorted;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `frame`: DataFrame if `as_frame`, otherwise None;
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is not XML of this kind; the message names the file and the line.

    References
    ----------
    .. [1] Herrero-Zazo, M., Segura-Bedmar, I., Martinez, P., Declerck, T.: The DDI corpus:
       An annotated corpus with pharmacological substances and drug-drug interactions.
       Journal of Biomedical Informatics 46(5), 914-920 (2013).

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import read_ddi_xml
    >>> content = '''<document id="d0"><sentence id="d0.s0" text="Avoid aspirin with warfarin.">
    ... <entity id="e0" charOffset="6-12" type="drug" text="aspirin"/>
    ... <entity id="e1" charOffset="19-26" type="drug" text="warfarin"/>
    ... <pair id="p0" e1="e0" e2="e1" ddi="true" type="advise"/></sentence></document>'''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "d0.xml").write_text(content)
    ...     found = read_ddi_xml(folder)
    >>> found.data[0]["span1"], found.data[0]["span2"], found.target.tolist()
    ((6, 13), (19, 27), ['advise'])
    """
    rows = [row for file in corpus_files(path, (".xml",), what="read_ddi_xml")
            for row in ddi_rows(file)]  # fmt: skip
    warn_of_offsets(rows)
    rows = [{name: row[name] for name in _COLUMNS} for row in rows]
    return rows_bunch(rows, as_frame=as_frame, description=_DESCR.format(path=path))


_COLUMNS = ("text", "span1", "span2", "type1", "type2", "others", "label", "document", "id")


def warn_of_offsets(rows: list[dict[str, Any]]) -> None:
    """Warn of mentions that differ from the text at their offsets."""
    wrong = [row["id"] for row in rows if not row["is_exact"]]
    if wrong:
        warnings.warn(
            f"In {len(wrong)} of {len(rows)} pairs the text of a mention differs from the sentence "
            f"at its offsets, which are used; the first is {wrong[0]!r}.",
            UserWarning,
            stacklevel=3,
        )


def ddi_rows(file: CorpusFile) -> Iterator[dict[str, Any]]:
    """Yield the pairs of one document, with the texts of mentions and whether they are exact."""
    root = parse_xml(file)
    if root.tag != "document":
        raise ValueError(
            f"{file.name}, line {root.line}: expected <document>, as in the DDI corpora; got "
            f"<{root.tag}>."
        )
    document = attribute(root, "id", file)
    for sentence in root.all("sentence"):
        text = attribute(sentence, "text", file)
        entities = _entities(file, sentence)
        pieces = {name: _pieces(file, node, text) for name, node in entities.items()}
        for pair in sentence.all("pair"):
            ends = _ends_of(file, pair, pieces)
            others = [span_of(part) for name, part in pieces.items() if name not in ends]
            yield {
                "text": text,
                **_mentions([entities[end] for end in ends], [pieces[end] for end in ends], text),
                "others": others,
                "label": _label(file, pair),
                "document": document,
                "id": attribute(pair, "id", file),
            }


def _entities(file: CorpusFile, sentence: Node) -> dict[str, Node]:
    """Return the entities of a sentence by their names."""
    found: dict[str, Node] = {}
    for node in sentence.all("entity"):
        name = attribute(node, "id", file)
        if name in found:
            raise ValueError(
                f"{file.name}, line {node.line}: there is another entity {name!r} before it in the "
                "sentence."
            )
        found[name] = node
    return found


def _ends_of(file: CorpusFile, pair: Node, pieces: dict[str, list[Span]]) -> list[str]:
    ends = [attribute(pair, name, file) for name in ("e1", "e2")]
    for end in ends:
        if end not in pieces:
            raise ValueError(
                f"{file.name}, line {pair.line}: the pair refers to the entity {end!r}, which is "
                f"not in its sentence; there are {sorted(pieces)}."
            )
    return ends


def _mentions(ends: list[Node], pieces: list[list[Span]], text: str) -> dict[str, Any]:
    """Return the spans, types and texts of two mentions, and whether their texts match."""
    names = [end.attributes.get("text", "") for end in ends]
    return {
        "span1": span_of(pieces[0]),
        "span2": span_of(pieces[1]),
        "type1": ends[0].attributes.get("type", ""),
        "type2": ends[1].attributes.get("type", ""),
        "entity1": names[0],
        "entity2": names[1],
        "is_exact": all(
            not name or name == " ".join(text[start:end] for start, end in part)
            for name, part in zip(names, pieces, strict=True)
        ),
    }


def _label(file: CorpusFile, pair: Node) -> str:
    """Return the type of an interaction; a pair that is related without a type counts as none."""
    related = attribute(pair, "ddi", file).lower()
    if related not in {"true", "false"}:
        raise ValueError(
            f"{file.name}, line {pair.line}: ddi must be 'true' or 'false'; got {related!r}."
        )
    return pair.attributes.get("type", NEGATIVE) if related == "true" else NEGATIVE


def _pieces(file: CorpusFile, entity: Node, text: str) -> list[Span]:
    """Return the pieces of a mention; in the file the last character is part of a piece."""
    given = attribute(entity, "charOffset", file)
    pieces = []
    for part in given.split(";"):
        start, separator, last = part.strip().partition("-")
        is_span = separator and start.isdigit() and last.isdigit()
        if not is_span or not int(start) <= int(last) < len(text):
            raise ValueError(
                f"{file.name}, line {entity.line}: charOffset must be 'first-last', several pieces "
                f"separated by ';', within the {len(text)} characters of the sentence; got "
                f"{given!r}."
            )
        pieces.append((int(start), int(last) + 1))
    return sorted(pieces)
