"""Sort the cells of a report, and find their common notes."""

from __future__ import annotations

from typing import Any

from studies import jobs
from studies.sets import SETS


def by_set_and_backbone(cell: dict[str, Any]) -> tuple[int, int, list[str]]:
    """Return the sort key of a cell: data sets and backbones in the order of their lists."""
    names, backbones = list(SETS), list(jobs.BACKBONES)
    return names.index(cell["data"]), backbones.index(cell["backbone"]), cell["notes"]


def shared_notes(cells: list[dict[str, Any]]) -> list[str]:
    """Remove the notes that all cells have from the cells, and return them."""
    first = cells[0]["notes"] if cells else []
    shared = [note for note in first if all(note in cell["notes"] for cell in cells)]
    for cell in cells:
        cell["notes"] = [note for note in cell["notes"] if note not in shared]
    return shared
