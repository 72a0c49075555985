"""Relations of concepts, such as MeSH identifiers, as relations of their mentions."""

from __future__ import annotations

import re

from ._relations import Document

_SEPARATORS = re.compile(r"[|;,]")


def concepts_in(field: str) -> set[str]:
    """Return the concepts of a mention: what is written as a whole, and its parts.

    A composite mention has several, but there are also names of variants with separators in them.
    """
    found = {field.strip(), *(part.strip() for part in _SEPARATORS.split(field))}
    return found - {"", "-", "-1", "None"}


def relate_concepts(
    document: Document,
    concepts: dict[str, set[str]],
    relations: list[tuple[str, str, str]],
) -> None:
    """Add the relations of concepts to a document, for every two mentions of them.

    Parameters
    ----------
    document : Document
        Changed in place.
    concepts : dict of str to set of str
        Concepts of each mention, by its name.
    relations : list of (label, concept, concept)
    """
    for label, first, second in relations:
        pairs = [
            (label, one, two)
            for one, of_one in concepts.items()
            for two, of_two in concepts.items()
            if first in of_one and second in of_two and one != two
        ]
        document.relations.extend(pairs)
        document.n_other += not pairs
