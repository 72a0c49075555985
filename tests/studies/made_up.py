"""A made-up folder of results, in the form in which the jobs of the study write theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from studies import events
from studies.jobs import NO_BACKBONE, Job
from studies.sets import SETS, score_all

LAYERS = {"scratch": 4, "all-MiniLM-L6-v2": 6, "all-mpnet-base-v2": 12, "dinov2-small": 12}
CLASSES = {
    "ddi2013": ["advise", "effect", "false", "int", "mechanism"],
    "git": [f"RELATION_{number}" for number in range(6)],
    "phee": ["adverse", "therapeutic"],
    "breastmnist": ["benign", "malignant"],
    "phee_events": [],
}
MACHINE = {
    "system": "Linux", "architecture": "x86_64", "cpu": "Some CPU", "cores": 2, "threads": 1,
    "device": "cpu", "python": "3.11.7", "commit": "abc1234",
    "packages": {"torch": "2.13.0", "transformers": "5.24.0", "scikit-learn": "1.9.1"},
}  # fmt: skip


Options = tuple[tuple[str, Any], ...]


def write_study(
    out: Path, *, n_eval: int = 160, seeds: int = 2, short: bool = False, options: Options = ()
) -> None:
    """Write results of several sets, backbones, seeds and kinds; some are missing.

    Parameters
    ----------
    out : Path
    n_eval : int
        Samples of the dev and of the test part.
    seeds : int
    short : bool
        One set with one backbone only.
    options : tuple of (str, value)
        Of every job.
    """
    cells = [("phee", "all-MiniLM-L6-v2", True)]
    if not short:
        cells += [
            ("ddi2013", "all-MiniLM-L6-v2", True),
            ("phee", "all-mpnet-base-v2", False),  # neither rivals nor a clock yet
            ("breastmnist", "scratch", True),
            ("phee_events", "scratch", False),
        ]
    for seed in range(seeds):
        for data in dict.fromkeys(data for data, *_ in cells if CLASSES[data]):
            _write_plain_rivals(out, Job(data, NO_BACKBONE, seed, "", options), n_eval)
        for data, backbone, has_rivals in cells:
            job = Job(data, backbone, seed, "exits", options)
            (_write_events if data == "phee_events" else _write_exits)(out, job, n_eval)
            for kind, depth in rivals_of(backbone).items() if has_rivals else ():
                _write_rival(out, job.of_kind(kind), n_eval, depth)
    for data, backbone, has_clock in cells:
        if has_clock:
            _write_clock(out, Job(data, backbone, 0, "clock", options), n_eval)


def staged(data: str, n_layers: int, seed: int, n: int, part: str) -> tuple[Any, Any]:
    """Return probabilities of exits that know more the deeper they are, and labels."""
    n_classes = len(CLASSES[data])
    fixed = np.random.default_rng([len(data), n, part == "test"])  # the same samples for all seeds
    share = np.where(np.arange(n_classes) == min(2, n_classes - 1), 3.0, 1.0)
    y = fixed.choice(n_classes, size=n, p=share / share.sum())
    easy = fixed.normal(1.0, 1.2, size=n)
    rng = np.random.default_rng([seed, n_layers, n, part == "test"])
    depth = np.linspace(0.25, 1.0, n_layers) ** 0.7
    logits = rng.normal(size=(n, n_layers, n_classes)) * 0.5
    logits += rng.normal(size=(n, 1, n_classes)) * 0.6
    logits[np.arange(n), :, y] += (easy + 1.6)[:, np.newaxis] * depth
    logits *= 1 + 2 * depth[:, np.newaxis]
    proba = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (proba / proba.sum(axis=2, keepdims=True)).astype(np.float32), y


def write_job(out: Path, job: Job, n_eval: int, found: dict[str, Any], **arrays: Any) -> None:
    """Write one job's folder."""
    folder = out / job.name
    folder.mkdir(parents=True)
    if arrays:
        np.savez_compressed(folder / "predictions.npz", **arrays)
    result = {
        "job": {"data": job.data, "backbone": job.backbone, "seed": job.seed, "kind": job.kind,
                "options": dict(job.options), "name": job.name},
        "n_train": job.option("n_train", 500),
        "n_dev": n_eval,
        "n_test": n_eval,
        "classes": CLASSES[job.data],
        "main_score": SETS[job.data].main_score,
        **found,
        "cpu_seconds": 12.5,
        "wall_seconds": 13.0,
        "finished": "2026-01-01T00:00:00Z",
        "machine": MACHINE,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


def _write_exits(out: Path, job: Job, n: int) -> None:
    n_layers = LAYERS[job.backbone]
    parts = {part: staged(job.data, n_layers, job.seed, n, part) for part in ("dev", "test")}
    layers = {
        part: [score_all(job.data, y, found) for found in proba.argmax(2).T]
        for part, (proba, y) in parts.items()
    }
    arrays = {f"{part}_proba": proba for part, (proba, _) in parts.items()}
    arrays |= {f"{part}_y": y for part, (_, y) in parts.items()}
    found = {"layers": layers, "training_cpu_seconds": 100.0, "n_epochs": 5,
             "n_layers": n_layers, "n_parameters": 22_000_000, "pooling": "mean"}  # fmt: skip
    write_job(out, job, n, found, **arrays)


def _write_events(out: Path, job: Job, n: int) -> None:
    """Write a network for spans with the policies of a coarse grid."""
    n_layers, rng = LAYERS[job.backbone], np.random.default_rng(job.seed)
    policies = [(tau, p) for p in range(1, n_layers + 1) for tau in (0.0, 0.2, 0.5)]
    arrays: dict[str, Any] = {}
    scores = {}
    for part in ("dev", "test"):
        wanted = rng.integers(1, 5, size=(n, 1)).repeat(n_layers, axis=1)
        found = rng.binomial(wanted, np.linspace(0.4, 0.8, n_layers))
        counts = np.stack([found, np.maximum(found, wanted - 1), wanted], axis=2)
        sure = rng.integers(1, n_layers + 1, size=n)
        exits = [np.minimum(p, np.where(tau == 0, p, sure)) for tau, p in policies]
        arrays |= {f"{part}_counts": counts, f"{part}_exits": np.array(exits, np.int8)}
        arrays[f"{part}_tokens"] = rng.integers(8, 40, size=n)
        scores[part] = [{"span_f1": float(events.span_f1(counts[:, m]))} for m in range(n_layers)]
    tau, patience = np.array(policies).T
    arrays |= {"tau": tau, "patience": patience.astype(int), "test_paper": np.ones((len(tau), 3)),
               "joint_exit": np.array(["mean"] * len(tau))}  # fmt: skip
    found = {"layers": scores, "training_cpu_seconds": 100.0, "n_epochs": 5,
             "n_layers": n_layers, "n_parameters": 22_000_000, "pooling": None}  # fmt: skip
    write_job(out, job.of_kind("events"), n, found, **arrays)


def _write_rival(out: Path, job: Job, n: int, depth: float) -> None:
    """Write a rival that is as good as a layer of a network that was trained for itself."""
    found, arrays = {}, {}
    for part in ("dev", "test"):
        proba, y = staged(job.data, 12, job.seed + 100 + len(job.kind), n, part)
        predicted = proba[:, round(12 * depth) - 1].argmax(1)
        found[part] = score_all(job.data, y, predicted)
        arrays |= {f"{part}_pred": predicted, f"{part}_y": y}
    write_job(out, job, n, {"scores": found, "training_cpu_seconds": 40.0}, **arrays)


def _write_plain_rivals(out: Path, job: Job, n: int) -> None:
    kinds = {"tfidf": 0.3} if SETS[job.data].kind == "texts" else {"forest": 0.25, "cnn": 0.5}
    for kind, depth in kinds.items():
        _write_rival(out, job.of_kind(kind), n, depth)


def rivals_of(backbone: str) -> dict[str, float]:
    """Return the kinds of rivals with a backbone, and how deep a network each is worth."""
    n_layers = LAYERS[backbone]
    kinds = {f"cut-{k}": max(k / n_layers, 1 / 6) for k in range(1, n_layers)}
    return kinds | {f"distilled-{n_layers // 2}": 0.7, "embeddings": 0.45, "full": 1.0}


def _write_clock(out: Path, job: Job, n: int) -> None:
    n_layers = LAYERS[job.backbone]
    kinds = {f"budget-{m}": 0.001 + 0.002 * m for m in range(1, n_layers + 1)}
    kinds |= {f"cut-{m}": 0.001 + 0.0019 * m for m in range(1, n_layers)}
    kinds |= {"full": kinds[f"budget-{n_layers}"], "tfidf": 0.0003, "forest": 0.006,
              "cnn": 0.0008, "transformers": 0.003 * n_layers, "embeddings": 0.002 * n_layers,
              f"distilled-{n_layers // 2}": kinds[f"cut-{n_layers // 2}"],
              "epee/saving": 0.001 * n_layers + 0.0012,
              "epee/tolerance": 0.0013 * n_layers + 0.0012}  # fmt: skip
    seconds = {kind: {"single": s, "batched": s / 3} for kind, s in kinds.items()}
    write_job(out, job, n, {"seconds": seconds, "n_single": 50, "n_batched": 150})
