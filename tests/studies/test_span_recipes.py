"""The comparison of training recipes for spans, from what its jobs keep."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sklearn_epee import EPEETokenClassifier
from studies import span_recipes
from studies.jobs import Job

N_SENTENCES, N_LAYERS = 40, 4
MACHINE = {"versions": {}, "cpu": "a CPU", "n_cores": 1, "threads": 1, "python": "3"}


def write_job(out, kind, seed, right_at_layer):
    """Keep a job whose exits find so many of four spans, and one policy per layer."""
    folder = out / Job("git_arguments", span_recipes.BACKBONE, seed, kind, ()).name
    folder.mkdir(parents=True)
    counts = np.zeros((N_SENTENCES, N_LAYERS, 3), np.int16)
    counts[:, :, 0] = right_at_layer
    counts[:, :, 1:] = 4
    exits = np.repeat(np.arange(1, N_LAYERS + 1)[:, np.newaxis], N_SENTENCES, axis=1)
    arrays = {
        "tau": np.zeros(N_LAYERS),
        "patience": np.arange(1, N_LAYERS + 1),
        "joint_exit": np.repeat("all", N_LAYERS),
        "test_paper": np.empty((N_LAYERS, 0)),
    }
    for part in ("dev", "test"):
        arrays[f"{part}_counts"] = counts
        arrays[f"{part}_exits"] = exits.astype(np.int8)
        arrays[f"{part}_tokens"] = np.ones(N_SENTENCES, np.int64)
    np.savez(folder / "predictions.npz", **arrays)
    result = {"n_train": 9, "n_epochs": 5, "n_test": N_SENTENCES, "machine": MACHINE}
    (folder / "result.json").write_text(
        json.dumps(result | {"training_cpu_seconds": 12.0, "job": {"kind": kind}})
    )


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(span_recipes, "describe", lambda machine: machine["cpu"])
    for seed in (0, 1):
        write_job(tmp_path, "events", seed, [0, 1, 3, 4])
    write_job(tmp_path, "bottleneck heads", 0, [1, 2, 3, 4])
    write_job(tmp_path, "distillation", 1, [0, 1, 3, 4])
    span_recipes.report(tmp_path, tmp_path / "results")
    text = (tmp_path / "results" / "span_recipes.md").read_text()
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    kept = json.loads((tmp_path / "results" / "span_recipes.json").read_text())
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}, kept["runs"]


def test_policies_save_enough_and_are_compared_with_the_same_seeds(rows):
    table, runs = rows
    # Of four layers only the first saves 0.52: layer 2 saves half.
    assert table["defaults"][:4] == ["2", "0.0 25.0 75.0 100.0", "0.0", "0.75"]
    assert table["bottleneck heads"][:4] == ["1", "25.0 50.0 75.0 100.0", "25.0", "0.75"]
    assert table["bottleneck heads"][4] == "**+25.0 (+25.0 to +25.0)**"
    assert table["bottleneck heads"][5] == "**+25.0 (+25.0 to +25.0)**"
    assert table["bottleneck heads"][6] == "**-75.0 (-75.0 to -75.0)**"
    assert table["distillation"][4] == "+0.0 (+0.0 to +0.0)"
    assert [run["policy"]["patience"] for run in runs] == [1, 1, 1, 1]


def test_recipes_without_runs_have_no_row(rows):
    table, _ = rows
    assert "uniform weights" not in table
    assert not list(span_recipes.table_of("phee_events", []))


def test_all_recipes_are_parameters_of_the_classifier():
    known = set(EPEETokenClassifier().get_params())
    for recipe in span_recipes.RECIPES.values():
        assert set(recipe.parameters) <= known
