"""A part of `python -m benchmarks.mutated_folders`: damaged folders are refused, or load equal."""

from __future__ import annotations

from benchmarks.mutated_folders import run


def test_damaged_folders_are_refused_or_load_as_they_were():
    counts, faults, _ = run(120, seed=10**6)
    assert not faults
    became = {kind for _, _, kind in counts}
    assert {"refused", "loaded, equal"} <= became
    assert sum(counts.values()) == 120


def test_a_tokenizer_that_panics_when_it_is_used_is_refused():
    # A template that asks for a special token which is not there.
    counts, faults, _ = run(1, seed=1592)
    assert faults == []
    assert counts["change_json", True, "refused"] == 1
