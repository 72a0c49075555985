"""Trained networks beside their rivals: what is compared, not how long it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec

import pytest

from benchmarks import _onnx_rivals, trained_networks
from sklearn_epee._nn.int8_linear import why_not_int8
from studies import exits
from studies.jobs import Job
from studies.rivals import cut
from tests.studies.small_parts import folder_for, image_parts, text_parts

HAS_ONNX = all(find_spec(package) for package in _onnx_rivals.PACKAGES)
OPTIONS = (("n_epochs", 1),)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(trained_networks, "N_BATCHED", 8)
    monkeypatch.setattr(trained_networks, "N_SINGLE", 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "images"])
def test_a_network_is_measured_beside_its_rivals(kind, tmp_path, monkeypatch):
    texts = kind == "texts"
    with_onnx = texts and HAS_ONNX
    if not with_onnx:
        monkeypatch.setattr(_onnx_rivals, "PACKAGES", ("not_installed",))
    parts = text_parts() if texts else image_parts(size=8)
    job = Job("phee" if texts else "breastmnist", "scratch", 0, "exits", OPTIONS)
    folder = folder_for(job, tmp_path)
    exits.run(job, parts, folder)
    about = asdict(job) | {"options": dict(job.options)}
    (folder.path / "result.json").write_text(json.dumps({"job": about}))
    beside = job.of_kind("cut-2")
    cut_folder = folder_for(beside, tmp_path)
    found = cut.KINDS["cut-2"].run(beside, parts, cut_folder)
    (cut_folder.path / "result.json").write_text("{}")
    monkeypatch.setattr(trained_networks, "load_parts", lambda _: parts)

    trained = trained_networks.Trained.load(job, folder)
    table, kept = trained_networks.measured(trained, repetitions=1)
    scores = kept["scores"]
    assert scores["transformers, float32, full depth"] == pytest.approx(
        scores["exits, full depth"], abs=0.2
    )
    assert ("onnxruntime, dynamic int8, full depth" in scores) == with_onnx
    chosen = [name for name in scores if name.startswith("exits, ") and "depth" not in name]
    assert chosen
    assert any(name.endswith(", int8") for name in chosen) == (not why_not_int8())
    assert scores["first 2 layers, trained alone"] == pytest.approx(
        found["scores"]["test"][parts.main_score]
    )
    assert all(f"| {name} (" in table for name in scores)
    assert set(kept["seconds"]["batches"]) == set(kept["seconds"]["singles"]) == set(scores)

    table, kept = trained_networks.measured(trained, repetitions=1, own=True, cpu_time=True)
    assert set(kept["scores"]) == {name for name in scores if name.startswith("exits, ")}
    assert "in seconds of the processor" in table


def test_only_networks_that_were_kept_are_measured(tmp_path):
    with pytest.raises(SystemExit, match="no network with exits"):
        trained_networks.main(["--study", str(tmp_path)])
