"""Sources of text sets: their files, addresses, and how to read them."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn_epee.datasets._download import RemoteFile

Table = dict[str, list[str]]
Piece = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """The source of a text set.

    Parameters
    ----------
    page : str
        Web page of the source.
    files : str
        Description of the files that are expected in the folder of the set.
    parts : tuple of str
        The parts in these files.
    find : callable
        Returns the input of `read`, given the folder of the set; None if files are missing.
    read : callable
        Returns the columns of one part.
    remote : tuple of RemoteFile
        Files to download; empty if they cannot be downloaded automatically.
    """

    page: str
    files: str
    parts: tuple[str, ...]
    find: Callable[[Path], Any | None]
    read: Callable[[Any, str], Table]
    remote: tuple[RemoteFile, ...] = ()


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file with one JSON object a line, which may be compressed with gzip.

    Raises
    ------
    ValueError
        If a line is not a JSON object; the message names the file and the line.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as file
        ):
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(path, number, line)
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be UTF-8 text, one JSON object a line; {error}.") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: no valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 - of a file, not of an argument
            f"{path}, line {number}: expected a JSON object; got {line[:60]!r}."
        )
    return found


def first_existing(folder: Path, *names: str) -> Path | None:
    """Return the first of some files of a folder that exists; None if none does."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def marked(text: str, first: Piece, second: Piece) -> str:
    """Return a text with marks around two spans, outer spans outside."""
    (start1, end1), (start2, end2) = first, second
    # Position, closing before opening, then the longer span outside.
    marks = [
        (start1, 1, -end1, "[E1] "), (end1, 0, -start1, " [/E1]"),
        (start2, 1, -end2, "[E2] "), (end2, 0, -start2, " [/E2]"),
    ]  # fmt: skip
    parts, last = [], 0
    for position, _, _, mark in sorted(marks):
        parts += [text[last:position], mark]
        last = position
    return "".join([*parts, text[last:]])


def first_spans(text: str, entity1: str, entity2: str) -> tuple[Piece, Piece] | None:
    """Return the first whole-word occurrences of two entities, apart from each other if possible.

    None if one of them does not occur.
    """
    ones, twos = (_occurrences(text, entity) for entity in (entity1, entity2))
    if not ones or not twos:
        return None
    for one in ones:
        for two in twos:
            if one[1] <= two[0] or two[1] <= one[0]:
                return one, two
    return ones[0], twos[0]


def _occurrences(text: str, entity: str) -> list[Piece]:
    pattern = rf"(?<!\w){re.escape(entity)}(?!\w)"
    return [found.span() for found in re.finditer(pattern, text)]
