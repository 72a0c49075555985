"""Parse XML to a tree with line numbers, and without entities, which are a security risk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from ._files import CorpusFile


@dataclass
class Node:
    """An element: its name, attributes, children, text and line."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> Iterator[Node]:
        """Yield the children of a name."""
        return (child for child in self.children if child.tag == tag)

    def first_text(self, tag: str) -> str | None:
        """Return the text of the first child of a name; None without one."""
        return next((child.text for child in self.all(tag)), None)


class _EntityError(Exception):
    """A file declares an entity, or refers to one of another file."""


def parse_xml(file: CorpusFile) -> Node:
    """Return the root of an XML file.

    Raises
    ------
    ValueError
        If it is not well-formed, or declares entities; the message names the file and the line.
    """
    parser = expat.ParserCreate()
    root = Node("", {}, 0)
    open_nodes = [root]

    def start(tag: str, attributes: dict[str, str]) -> None:
        node = Node(tag, attributes, parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_tag: str) -> None:
        open_nodes.pop()

    def add_text(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(*_: object) -> NoReturn:
        raise _EntityError

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = add_text
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(file.content, True)
    except _EntityError as error:
        raise ValueError(
            f"{file.name}, line {parser.CurrentLineNumber}: entities are refused, as they can be "
            "made to fill the memory or to read other files; write the characters themselves."
        ) from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        line = parser.CurrentLineNumber
        raise ValueError(f"{file.name}, line {line}: no well-formed XML: {error}.") from error
    return root.children[0]


def attribute(node: Node, name: str, file: CorpusFile) -> str:
    """Return an attribute that an element must have."""
    if name not in node.attributes:
        raise ValueError(
            f"{file.name}, line {node.line}: <{node.tag}> must have the attribute {name!r}; got "
            f"{sorted(node.attributes)}."
        )
    return node.attributes[name]
