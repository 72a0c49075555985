"""Merge a new report with an earlier one, whose other pairs of data set and backbone are kept.

The folder of jobs contains networks and probabilities, which are too large to keep. `study.json`
only contains the results, so pairs that were run on another day or machine can be kept while others
are run again. A pair comes from one report as a whole: from the new one if it has the pair,
otherwise from the earlier one.
"""

from __future__ import annotations

import json
from typing import Any

from studies.missing import missing
from studies.ordering import by_set_and_backbone, shared_notes


def with_kept(new: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the pairs of both.

    Parameters
    ----------
    new, earlier : dict
        Results of `collect`.

    Returns
    -------
    dict
        In the same form.

    Raises
    ------
    ValueError
        If the earlier report has another format or number of resamples.
    """
    for key in ("format", "n_draws"):
        if new[key] != earlier[key]:
            raise ValueError(
                f"the earlier report has another {key}, {earlier[key]!r} instead of {new[key]!r}; "
                "so its pairs cannot be kept."
            )
    fresh = [_with_notes(cell, new["notes"]) for cell in new["cells"]]
    there = {_pair(cell) for cell in fresh}
    old = [
        _with_notes(cell, earlier["notes"]) for cell in earlier["cells"] if _pair(cell) not in there
    ]
    machines = list(new["machines"])
    machines += [m for m in _machines(old, earlier["machines"]) if m not in machines]
    for cell in old:
        cell["machines"] = sorted(
            machines.index(earlier["machines"][number - 1]) + 1 for number in cell["machines"]
        )
    cells = sorted([*fresh, *old], key=by_set_and_backbone)
    failures = [line for line in new["missing"] if line.startswith("Failed: ")]
    return new | {
        "machines": machines,
        "commits": sorted({*new["commits"], *(earlier["commits"] if old else ())}),
        "notes": shared_notes(cells),
        "cells": cells,
        "missing": [*missing(cells), *failures],
    }


def _pair(cell: dict[str, Any]) -> str:
    return json.dumps([cell["data"], cell["backbone"], cell["options"]], sort_keys=True)


def _with_notes(cell: dict[str, Any], shared: list[str]) -> dict[str, Any]:
    return cell | {"notes": [*cell["notes"], *shared]}


def _machines(cells: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Return the machines on which some cells were run."""
    used = {number for cell in cells for number in cell["machines"]}
    return [names[number - 1] for number in sorted(used)]
