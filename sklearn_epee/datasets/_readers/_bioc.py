"""Read BioC, as XML or JSON: documents with passages, mentions and relations."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sklearn.utils import Bunch

from ._concepts import concepts_in, relate_concepts
from ._files import CorpusFile, corpus_files
from ._relations import Document, Mention, Passage, Sentences, checked_candidates, relations_bunch
from ._spans import checked_choice, spans_bunch
from ._xml import Node, parse_xml

_DESCR = """Pairs of mentions, read from BioC files: {path}.

A relation of two concepts holds for every two mentions of them.
"""


def read_bioc(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    negative_label: str | None = "false",
    pair_types: Any = None,
    as_frame: bool = False,
) -> Bunch:
    """Read relations of two mentions from BioC files, XML or JSON.

    A document contains passages (or sentences in passages) with mentions at their offsets in the
    document. Relations are between two mentions (``node``), or between two concepts in the
    ``infon`` of mentions [1]_. A relation of two concepts is applied to every pair of their
    mentions in one sentence, which is a weak label for each pair. Offsets are in characters, or in
    bytes of UTF-8 if only these match the texts of the mentions.

    Parameters
    ----------
    path : str or path-like
        A file, also compressed with gzip, a folder with ``.xml`` or ``.json`` files, or a zip
        archive, which is not unpacked.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; rows are pairs of mentions in one sentence. None takes passages as a whole, or the
        sentences of a file that has them.
    negative_label : str or None, default="false"
        Label of two mentions in one sentence that are not related. None gives related pairs only.
    pair_types : list of (str, str), default=None
        Types of the first and of the second mention of the pairs that get `negative_label`. None:
        all pairs.
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
          takes them. The first span is the first node of a relation or, for a pair without one,
          the first in the text;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels;
        - `target_names`: ndarray, the labels that occur, sorted;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `n_left_out`: int, relations that are not between two mentions of one sentence;
        - `frame`: DataFrame if `as_frame`, otherwise None;
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a file is not as described, or a mention differs from the text; the message names the
        file, and the line or the document.

    Warns
    -----
    UserWarning
        If relations are left out.

    References
    ----------
    .. [1] Comeau, D. C., Islamaj Dogan, R., Ciccarese, P., et al.: BioC: a minimalist approach to
       interoperability for biomedical text processing. Database 2013, bat064 (2013).

    Examples
    --------
    >>> import json, tempfile, pathlib
    >>> from sklearn_epee.datasets import read_bioc
    >>> def mention(name, kind, text, offset):
    ...     place = {"offset": offset, "length": len(text)}
    ...     return {"id": name, "infons": {"type": kind}, "text": text, "locations": [place]}
    >>> passage = {
    ...     "offset": 0,
    ...     "text": "Coma after paracetamol",
    ...     "annotations": [
    ...         mention("1", "Disease", "Coma", 0),
    ...         mention("2", "Chemical", "paracetamol", 11),
    ...     ],
    ... }
    >>> nodes = [{"refid": "2", "role": "cause"}, {"refid": "1", "role": "effect"}]
    >>> relations = [{"id": "R1", "infons": {"type": "causes"}, "nodes": nodes}]
    >>> document = {"id": "7", "passages": [passage], "relations": relations}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.json").write_text(json.dumps({"documents": [document]}))
    ...     found = read_bioc(folder)
    >>> found.data[0]["type1"], found.data[0]["span1"], found.target.tolist()
    ('Chemical', (11, 22), ['causes'])
    """
    candidates = checked_candidates(split_sentences, negative_label, pair_types)
    documents = _documents(path, "read_bioc")
    return relations_bunch(
        documents, candidates, as_frame=as_frame, description=_DESCR.format(path=path)
    )


def read_bioc_spans(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    types: Any = None,
    by_type: bool = False,
    discontinuous: str = "leave_out",
) -> Bunch:
    """Read mentions as spans from BioC files, XML or JSON (token classification).

    Each passage, or each sentence of a file that has them, is a sample. Offsets are in characters,
    or in bytes of UTF-8 if only these match the texts of the mentions. Relations are read by
    :func:`read_bioc`.

    Parameters
    ----------
    path : str or path-like
        A file, also compressed with gzip, a folder with ``.xml`` or ``.json`` files, or a zip
        archive, which is not unpacked.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; each is a sample. None takes passages as a whole, or the
        sentences of a file that has them.
    types : list of str, default=None
        Types of the mentions that become spans. None: all.
    by_type : bool, default=False
        If True, the spans of each type are a separate layer, so that mentions of different types
        can overlap.
    discontinuous : {"leave_out", "pieces", "whole"}, default="leave_out"
        How mentions in several pieces are converted in `target`: they are left out, each piece is a
        span, or the mention is one span from its first to its last character.

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
        If there is no such file or folder.
    ValueError
        If a file is not as described, or a mention differs from the text; the message names the
        file, and the line or the document.

    Warns
    -----
    UserWarning
        If mentions are not in `target`.

    Examples
    --------
    >>> import json, tempfile, pathlib
    >>> from sklearn_epee.datasets import read_bioc_spans
    >>> place = {"offset": 11, "length": 11}
    >>> mention = {"id": "1", "infons": {"type": "Chemical"}, "text": "paracetamol"}
    >>> mention["locations"] = [place]
    >>> passage = {"offset": 0, "text": "Coma after paracetamol", "annotations": [mention]}
    >>> document = {"id": "7", "passages": [passage], "relations": []}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.json").write_text(json.dumps({"documents": [document]}))
    ...     found = read_bioc_spans(folder)
    >>> found.data, found.target
    (['Coma after paracetamol'], [[(11, 22, 'Chemical')]])
    """
    choice = checked_choice(split_sentences, types, by_type, discontinuous)
    return spans_bunch(
        _documents(path, "read_bioc_spans"),
        choice,
        description=f"Mentions, read from BioC files: {path}.",
    )


def _documents(path: str | os.PathLike[str], what: str) -> list[Document]:
    suffixes = (".xml", ".json", ".jsonl", ".xml.gz", ".json.gz", ".jsonl.gz")
    return [
        _document(part)
        for file in corpus_files(path, suffixes, what=what)
        for part in _parts_of(file)
    ]


@dataclass
class _Part:
    """One document, XML or JSON: its passages, annotations and relations as in the file."""

    place: str
    name: str
    passages: list[tuple[int, str]] = field(default_factory=list)
    annotations: list[_Annotation] = field(default_factory=list)
    relations: list[_Relation] = field(default_factory=list)


@dataclass(frozen=True)
class _Annotation:
    place: str
    name: str
    text: str
    infons: dict[str, Any]
    locations: list[tuple[int, int]]


@dataclass(frozen=True)
class _Relation:
    place: str
    infons: dict[str, Any]
    nodes: list[str]


def _parts_of(file: CorpusFile) -> Iterator[_Part]:
    if _is_xml(file.content):
        root = parse_xml(file)
        if root.tag != "collection":
            raise ValueError(
                f"{file.name}, line {root.line}: expected <collection>, as in BioC; got "
                f"<{root.tag}>."
            )
        for element in root.all("document"):
            yield _from_xml(file, element)
    else:
        for document in _json_documents(file):
            yield _from_json(file, document)


def _is_xml(content: bytes) -> bool:
    """Return whether a file starts like XML, in an encoding that XML can declare."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True  # JSON is UTF-8
    return content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<")


# ------------------------------------------------------------------------------------------- XML


def _from_xml(file: CorpusFile, document: Node) -> _Part:
    place = f"{file.name}, line {document.line}"
    part = _Part(place, (document.first_text("id") or "").strip())
    for passage in document.all("passage"):
        # If a passage has sentences, these contain the texts.
        for unit in list(passage.all("sentence")) or [passage]:
            offset = _number(
                unit.first_text("offset"), f"{file.name}, line {unit.line}", "<offset>"
            )
            part.passages.append((offset, unit.first_text("text") or ""))
            _add_xml(file, part, unit)
        if any(passage.all("sentence")):
            _add_xml(file, part, passage)
    _add_xml(file, part, document)
    return part


def _add_xml(file: CorpusFile, part: _Part, node: Node) -> None:
    for annotation in node.all("annotation"):
        place = f"{file.name}, line {annotation.line}"
        part.annotations.append(
            _Annotation(
                place,
                annotation.attributes.get("id", ""),
                annotation.first_text("text") or "",
                _xml_infons(annotation),
                [_xml_location(location, place) for location in annotation.all("location")],
            )
        )
    for relation in node.all("relation"):
        nodes = [member.attributes.get("refid", "") for member in relation.all("node")]
        place = f"{file.name}, line {relation.line}"
        part.relations.append(_Relation(place, _xml_infons(relation), nodes))


def _xml_infons(node: Node) -> dict[str, Any]:
    return {infon.attributes.get("key", ""): infon.text for infon in node.all("infon")}


def _xml_location(location: Node, place: str) -> tuple[int, int]:
    offset, length = (
        _number(location.attributes.get(name), place, name) for name in ("offset", "length")
    )
    return offset, offset + length


# ------------------------------------------------------------------------------------------ JSON


def _json_documents(file: CorpusFile) -> Iterator[dict[str, Any]]:
    """Yield the documents of a collection, of a list, or of a file with one document per line."""
    content = _json_content(file)
    collections = content if isinstance(content, list) else [content]
    for collection in collections:
        found = collection
        if isinstance(found, dict):
            # In PubTator3 files, the list has the key "PubTator3".
            found = found.get("documents", found.get("PubTator3", [found]))
        for document in found if isinstance(found, list) else [found]:
            if not isinstance(document, dict) or not isinstance(document.get("passages"), list):
                raise ValueError(  # noqa: TRY004 - of a file, not of an argument
                    f"{file.name} must hold documents with passages, as in BioC; got "
                    f"{str(document)[:80]!r}."
                )
            yield document


def _json_content(file: CorpusFile) -> Any:
    text = file.text()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.split("\n")
        wrong = f"{file.name}, line {error.lineno}: no valid JSON: {error.msg}."
        try:
            first = json.loads(lines[0])
        except json.JSONDecodeError:
            raise ValueError(wrong) from error
    except RecursionError as error:
        raise ValueError(f"{file.name} is nested too deeply to be BioC.") from error
    found = [first]
    for number, line in enumerate(lines[1:], start=2):
        try:
            found.extend([json.loads(line)] if line.strip() else [])
        except json.JSONDecodeError as error:
            raise ValueError(f"{file.name}, line {number}: no valid JSON: {error.msg}.") from error
    return found


def _from_json(file: CorpusFile, document: dict[str, Any]) -> _Part:
    name = str(document.get("id", ""))
    place = f"{file.name}, document {name!r}"
    part = _Part(place, name)
    try:
        for passage in document["passages"]:
            sentences = passage.get("sentences") or []
            for unit in sentences or [passage]:
                offset = _number(unit.get("offset"), place, "offset")
                part.passages.append((offset, unit.get("text") or ""))
                _add_json(part, unit)
            if sentences:
                _add_json(part, passage)
        _add_json(part, document)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is not as in BioC: {error!r}.") from error
    return part


def _add_json(part: _Part, unit: dict[str, Any]) -> None:
    for annotation in unit.get("annotations") or []:
        name = str(annotation.get("id", ""))
        place = f"{part.place}, annotation {name!r}"
        locations = [
            (_number(at["offset"], place, "offset"), _number(at["length"], place, "length"))
            for at in annotation.get("locations") or []
        ]
        part.annotations.append(
            _Annotation(
                place,
                name,
                annotation.get("text") or "",
                annotation.get("infons") or {},
                [(offset, offset + length) for offset, length in locations],
            )
        )
    for relation in unit.get("relations") or []:
        place = f"{part.place}, relation {relation.get('id')!r}"
        nodes = [str(node.get("refid", "")) for node in relation.get("nodes") or []]
        part.relations.append(_Relation(place, relation.get("infons") or {}, nodes))


# ------------------------------------------------------------------------------- both to documents


def _document(part: _Part) -> Document:
    document = Document(part.name, [Passage(text, offset) for offset, text in part.passages])
    document.passages.sort(key=lambda passage: passage.offset)
    to_characters = _offsets(document, part)
    concepts: dict[str, set[str]] = {}
    for number, annotation in enumerate(part.annotations):
        if not annotation.locations:
            continue
        # An identifier can occur in several passages; relations refer to the first.
        name = annotation.name
        name = f"{name}#{number}" if not name or name in document.mentions else name
        pieces = tuple(
            (to_characters(start), to_characters(end)) for start, end in annotation.locations
        )
        kind = str(annotation.infons.get("type", ""))
        document.mentions[name] = Mention(name, kind, tuple(sorted(pieces)))
        concepts[name] = _concepts_of(annotation.infons)
    of_concepts = []
    for relation in part.relations:
        label = str(relation.infons.get("relation") or relation.infons.get("type") or "")
        named = [node for node in relation.nodes if node in document.mentions]
        ends = _named_concepts(relation.infons)
        if ends is not None:
            of_concepts.append((label, *ends))
        elif len(named) == len(relation.nodes) == 2 and named[0] != named[1]:
            document.relations.append((label, named[0], named[1]))
        elif not relation.nodes and (ends := _only_concepts(relation.infons)) is not None:
            of_concepts.append((label, *ends))
        else:
            document.n_other += 1
    relate_concepts(document, concepts, of_concepts)
    return document


def _offsets(document: Document, part: _Part) -> Callable[[int], int]:
    """Return a function that converts offsets, in characters or bytes, to characters.

    The offsets of passages are converted, too.

    Raises
    ------
    ValueError
        If the text of a mention differs from the document with both kinds of offsets.
    """
    wrong = _first_wrong(document, part, _unchanged)
    if wrong is None:
        return _unchanged
    in_characters = _character_table(document.passages)
    moved = Document("", [Passage(p.text, in_characters(p.offset)) for p in document.passages])
    if _first_wrong(moved, part, in_characters) is not None:
        annotation, written = wrong
        raise ValueError(
            f"{annotation.place}: the mention is {annotation.text!r}, but the document has "
            f"{written!r} at its locations {annotation.locations} (start, end)."
        )
    document.passages[:] = moved.passages
    return in_characters


def _unchanged(offset: int) -> int:
    return offset


def _character_table(passages: list[Passage]) -> Callable[[int], int]:
    """Return the function from offsets in bytes to offsets in characters."""
    passages = list(passages)

    def in_characters(offset: int) -> int:
        skipped = 0
        for passage in passages:
            encoded = passage.text.encode()
            if offset <= passage.offset + len(encoded):
                within = encoded[: max(0, offset - passage.offset)]
                return offset - skipped - len(within) + len(within.decode(errors="ignore"))
            skipped += len(encoded) - len(passage.text)
        return offset - skipped

    return in_characters


def _first_wrong(
    document: Document, part: _Part, to_characters: Callable[[int], int]
) -> tuple[_Annotation, str | None] | None:
    """Return the first mention whose text differs from the document at its offsets."""
    for annotation in part.annotations:
        pieces = [
            document.text_of(to_characters(start), to_characters(end))
            for start, end in sorted(annotation.locations)
        ]
        written = " ".join(piece or "" for piece in pieces)
        if None in pieces or (
            annotation.text and "".join(annotation.text.split()) != "".join(written.split())
        ):
            return annotation, written
    return None


def _concepts_of(infons: dict[str, Any]) -> set[str]:
    """Return all possible concepts of a mention, for all names of the key."""
    found: set[str] = set()
    for name, value in infons.items():
        if name != "type" and isinstance(value, (str, int)):
            found |= concepts_in(str(value))
    return found


def _named_concepts(infons: dict[str, Any]) -> tuple[str, str] | None:
    """Return the two concepts of a relation with the keys of BioRED or PubTator3."""
    for names in (("entity1", "entity2"), ("role1", "role2")):
        if all(name in infons for name in names):
            first, second = (_concept(infons[name]) for name in names)
            return first, second
    return None


def _only_concepts(infons: dict[str, Any]) -> tuple[str, str] | None:
    """Return the two concepts of a relation without other keys, as in BioCreative V."""
    others = [
        _concept(value)
        for name, value in infons.items()
        if name not in {"relation", "type", "novel", "score", "note"}
    ]
    return (others[0], others[1]) if len(others) == 2 else None


def _concept(value: Any) -> str:
    return str(value.get("identifier", "") if isinstance(value, dict) else value).strip()


def _number(value: Any, place: str, name: str) -> int:
    try:
        number = int(str(value).strip())
    except ValueError as error:
        raise ValueError(f"{place}: {name} must be a whole number; got {value!r}.") from error
    if number < 0:
        raise ValueError(f"{place}: {name} must not be negative; got {number}.")
    return number
