"""A part of `python -m benchmarks.mutated_folders`: damaged folders are refused, or load equal."""

from __future__ import annotations

from benchmarks.mutated_folders import run


def test_damaged_folders_are_refused_or_load_as_they_were():
    counts, faults, _ = run(120, seed=10**6)
    assert not faults
    became = {kind for _, _, kind in counts}
    assert {"refused", "loaded, equal"} <= became
    assert sum(counts.values()) == 120
