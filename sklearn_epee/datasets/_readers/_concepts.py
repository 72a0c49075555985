"""Relations of concepts, such as MeSH identifiers, as relations of their mentions."""

from __future__ import annotations

import re

from ._relations import Document

_SEPARATORS = re.compile(r"[|;,]")


def concepts_in(field: str) -> set[str]:
    """Return the possible concepts of a mention: the whole field, and its parts.

    Composite mentions have several concepts, but names of variants can contain separators, too.
    """
    found = {field.strip(), *(part.strip() for part in _SEPARATORS.split(field))}
    return found - {"", "-", "-1", "None"}


def relate_concepts(
    document: Document,
    concepts: dict[str, set[str]],
    relations: list[tuple[str, str, str]],
) -> None:
    """Add the relations of concepts to a document, for every pair of their mentions.

    Parameters
    ----------
    document : Document
        Modified in place.
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
