"""Read PubTator's files: title, abstract, mentions and relations of concepts, line by line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from sklearn.utils import Bunch

from ._concepts import concepts_in, relate_concepts
from ._files import CorpusFile, corpus_files
from ._relations import Document, Mention, Passage, Sentences, checked_candidates, relations_bunch
from ._spans import checked_choice, spans_bunch

_DESCR = """Pairs of mentions, read from PubTator files: {path}.

A relation of two concepts holds for every two mentions of them.
"""
_PASSAGE = re.compile(r"(.+?)\|([ta])\|(.*)")


def read_pubtator(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    negative_label: str | None = "false",
    pair_types: Any = None,
    encoding: str = "utf-8",
    as_frame: bool = False,
) -> Bunch:
    r"""Read relations of two mentions from PubTator files.

    A document is a title (``id|t|...``) and an abstract (``id|a|...``), mentions (identifier,
    start, end, text, type and concepts, separated by tabs) and relations of two concepts
    (identifier, label and the concepts), as in the BioCreative V corpus of chemicals and diseases
    [1]_ and in BioRED [2]_. A relation of two concepts is applied to every pair of their mentions
    in one sentence, which is a weak label for each pair.

    Parameters
    ----------
    path : str or path-like
        A file, also compressed with gzip, a folder with ``.txt`` or ``.pubtator`` files, or a zip
        archive, which is not unpacked.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; rows are pairs of mentions in one sentence. None takes titles and abstracts as a
        whole.
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
          ``span2`` as (start, end) in characters, the end excluded, the types ``type1`` and
          ``type2``, the spans of ``others`` in the text, ``label``, ``document`` and ``id``; as
          :class:`~sklearn_epee.EntityMarker` takes them. The first span is a mention of the
          relation's first concept or, for a pair without one, the first in the text;
        - `target`: ndarray (or Series) of shape (n_samples,), the labels;
        - `target_names`: ndarray, the labels that occur, sorted;
        - `groups`: ndarray of shape (n_samples,), the documents;
        - `n_left_out`: int, relations of two mentions that are not in one sentence, and of concepts
          without mentions;
        - `frame`: DataFrame if `as_frame`, otherwise None;
        - `DESCR`: str.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If a line is not as described, or a mention differs from the text; the message names the
        file and the line.

    Warns
    -----
    UserWarning
        If relations are left out.

    References
    ----------
    .. [1] Li, J., Sun, Y., Johnson, R. J., et al.: BioCreative V CDR task corpus: a resource for
       chemical disease relation extraction. Database 2016, baw068 (2016).
    .. [2] Luo, L., Lai, P.-T., Wei, C.-H., Arighi, C. N., Lu, Z.: BioRED: a rich biomedical
       relation extraction dataset. Briefings in Bioinformatics 23(5), bbac282 (2022).

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sklearn_epee.datasets import read_pubtator
    >>> lines = [
    ...     "1|t|Coma after paracetamol",
    ...     "1|a|No rash.",
    ...     "1\t0\t4\tComa\tDisease\tD003128",
    ...     "1\t11\t22\tparacetamol\tChemical\tD000082",
    ...     "1\tCID\tD000082\tD003128",
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "sample.txt").write_text("\n".join(lines))
    ...     found = read_pubtator(folder)
    >>> found.data[0]["type1"], found.data[0]["span1"], found.target.tolist()
    ('Chemical', (11, 22), ['CID'])
    """
    candidates = checked_candidates(split_sentences, negative_label, pair_types)
    documents = _read(path, encoding, "read_pubtator")
    return relations_bunch(
        documents, candidates, as_frame=as_frame, description=_DESCR.format(path=path)
    )


def read_pubtator_spans(
    path: str | os.PathLike[str],
    *,
    split_sentences: Sentences | None = None,
    types: Any = None,
    by_type: bool = False,
    discontinuous: str = "leave_out",
    encoding: str = "utf-8",
) -> Bunch:
    r"""Read mentions as spans from PubTator files (token classification).

    A document is a title and an abstract, ``id|t|...`` and ``id|a|...``, each a sample, with lines
    of mentions. Relations of concepts are read by :func:`read_pubtator`.

    Parameters
    ----------
    path : str or path-like
        A file, also compressed with gzip, a folder with ``.txt`` or ``.pubtator`` files, or a zip
        archive, which is not unpacked.
    split_sentences : callable, default=None
        Takes a text and returns the ``(start, end)`` of its sentences, in characters and in their
        order; each is a sample. None takes titles and abstracts as a whole.
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
        If there is no such file or folder.
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
    >>> from sklearn_epee.datasets import read_pubtator_spans
    >>> lines = [
    ...     "1|t|Coma after paracetamol",
    ...     "1|a|No rash.",
    ...     "1\t0\t4\tComa\tDisease\tD003128",
    ...     "1\t11\t22\tparacetamol\tChemical\tD000082",
    ...     "1\t26\t30\trash\tDisease\tD005076",
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "sample.txt").write_text("\n".join(lines))
    ...     found = read_pubtator_spans(folder)
    >>> found.target
    [[(0, 4, 'Disease'), (11, 22, 'Chemical')], [(3, 7, 'Disease')]]
    """
    choice = checked_choice(split_sentences, types, by_type, discontinuous)
    return spans_bunch(
        _read(path, encoding, "read_pubtator_spans"),
        choice,
        description=f"Mentions, read from PubTator files: {path}.",
    )


def _read(path: str | os.PathLike[str], encoding: str, what: str) -> list[Document]:
    suffixes = (".txt", ".pubtator", ".txt.gz", ".pubtator.gz")
    files = corpus_files(path, suffixes, what=what)
    return [document for file in files for document in _documents(file, encoding)]


def _documents(file: CorpusFile, encoding: str) -> Iterator[Document]:
    block: list[tuple[str, str]] = []
    for number, line in enumerate(file.text(encoding).split("\n"), start=1):
        if line.strip():
            block.append((f"{file.name}, line {number}", line.rstrip("\r")))
        elif block:
            yield _document(block)
            block = []
    if block:
        yield _document(block)


def _document(block: list[tuple[str, str]]) -> Document:
    passages: list[Passage] = []
    name = ""
    rest: list[tuple[str, list[str]]] = []
    for place, line in block:
        found = _PASSAGE.fullmatch(line)
        if found is not None and not rest:
            offset = passages[-1].offset + len(passages[-1].text) + 1 if passages else 0
            passages.append(Passage(found[3], offset))
            name = name or found[1]
        else:
            rest.append((place, line.split("\t")))
        given = found[1] if found is not None and not rest else line.split("\t")[0]
        if not passages or given != name:
            raise ValueError(
                f"{place}: expected a line of the document {name!r}, which starts with a title, "
                f"'id|t|...', and ends with an empty line; got {line[:80]!r}."
            )
    document = Document(name, passages)
    concepts: dict[str, set[str]] = {}
    relations = []
    for place, fields in rest:
        if len(fields) >= 5 and fields[1].isdigit() and fields[2].isdigit():
            mention = _mention(document, fields, place)
            document.mentions[mention.name] = mention
            concepts[mention.name] = concepts_in(fields[5] if len(fields) > 5 else "")
        elif len(fields) >= 4 and not fields[1].isdigit():
            relations.append((fields[1], fields[2].strip(), fields[3].strip()))
        else:
            raise ValueError(
                f"{place}: expected a mention (id, start, end, text, type, concepts) or a relation "
                f"(id, label, concept, concept), separated by tabs; got {fields}."
            )
    relate_concepts(document, concepts, relations)
    return document


def _mention(document: Document, fields: list[str], place: str) -> Mention:
    start, end = int(fields[1]), int(fields[2])
    written = document.text_of(start, end)
    # In some releases, blanks in titles and abstracts were changed.
    if written is None or "".join(written.split()) != "".join(fields[3].split()):
        raise ValueError(
            f"{place}: the mention is {fields[3]!r}, but the document has {written!r} from {start} "
            f"to {end}. Offsets count characters, with one between title and abstract."
        )
    return Mention(f"T{len(document.mentions) + 1}", fields[4], ((start, end),))
