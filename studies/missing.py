"""List the jobs of the study that are missing from a report, as sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import studies.kinds  # noqa: F401 - registers the kinds of jobs
from studies import jobs
from studies.sets import SETS

# Data set, backbone and kind of a job.
Key = tuple[str, str, str]


def missing(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which of all possible jobs are missing in the cells of a report.

    Parameters
    ----------
    cells : sequence of dict
        The "cells" of `collect`.

    Returns
    -------
    list of str
        First missing pairs of set and backbone, then missing kinds, then kinds with fewer seeds
        than others.
    """
    seeds = [found for cell in cells for found in _seeds_of_kinds(cell)]
    known = {key for key, _ in seeds}
    backbones = [name for name in jobs.BACKBONES if name != jobs.NO_BACKBONE]
    planned = {(j.data, j.backbone, j.kind) for j in jobs.planned(list(SETS), backbones, 1)}
    lacking: dict[tuple[str, str], list[str]] = defaultdict(list)
    for data, backbone, kind in sorted(planned - known, key=_order):
        lacking[data, backbone].append(kind)
    untouched: dict[str, list[str]] = defaultdict(list)
    lines = []
    for (data, backbone), kinds in lacking.items():
        if any(key[:2] == (data, backbone) for key in known):
            lines.append(f"{_where(data, backbone)}: {', '.join(kinds)}.")
        else:
            alone = backbone == jobs.NO_BACKBONE
            untouched[data].append("rivals without a backbone" if alone else backbone)
    return [
        *(f"{data}, all of it: {', '.join(words)}." for data, words in untouched.items()),
        *lines,
        *_fewer_seeds(seeds),
    ]


def _seeds_of_kinds(cell: Mapping[str, Any]) -> list[tuple[Key, int]]:
    """Return the jobs of a cell, each with its number of seeds."""
    data, backbone = cell["data"], cell["backbone"]
    network = "events" if cell["kind"] == "spans" else "exits"
    found = [((data, backbone, network), len(cell["seeds"]))]
    if cell["clock"]:
        found.append(((data, backbone, "clock"), 1))
    for point in cell["points"]:
        kind = point["kind"]
        if kind in jobs.KINDS:
            alone = jobs.KINDS[kind].applies(data, jobs.NO_BACKBONE)
            key = (data, jobs.NO_BACKBONE if alone else backbone, kind)
            found.append((key, point["n_seeds"]))
    return found


def _order(key: Key) -> tuple[int, int, int]:
    data, backbone, kind = key
    return (
        list(SETS).index(data),
        list(jobs.BACKBONES).index(backbone),
        list(jobs.KINDS).index(kind),
    )


def _where(data: str, backbone: str) -> str:
    return data if backbone == jobs.NO_BACKBONE else f"{data}, {backbone}"


def _fewer_seeds(found: Iterable[tuple[Key, int]]) -> list[str]:
    """Return the kinds with fewer seeds than others."""
    of_all = {key: n for key, n in found if not jobs.KINDS[key[2]].one_seed}
    most = max(of_all.values(), default=0)
    kinds: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    for (data, backbone, kind), n in of_all.items():
        if n < most:
            kinds[data, backbone, n].append(kind)
    return [
        f"{_where(data, backbone)}: {n} of {most} seeds of {', '.join(sorted(names))}."
        for (data, backbone, n), names in kinds.items()
    ]
