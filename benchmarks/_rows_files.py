"""Row on images given as paths: time and memory compared with arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._isolated import PeakMemory, isolated, memory_in_use
from benchmarks._measure import Seconds, timed, warmed_up
from benchmarks._report import Line
from benchmarks._suite import Row, Settings
from sklearn_epee import EPEEImageClassifier

MIB = 2**20
SIDE = 224


def write_images(folder: Path, n: int) -> list[str]:
    """Write images of gradients with noise, which compress about like X-rays; return the paths."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)) * 0.4
    paths = []
    for i in range(n):
        pixels = ramp + rng.normal(0, 6, ramp.shape) + rng.uniform(10, 40)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:05}.png")
        paths.append(str(folder / f"{i:05}.png"))
    return paths


def fitted(paths: list[str], device: str) -> EPEEImageClassifier:
    """Train a compact network on a few of the images."""
    return EPEEImageClassifier(
        max_epochs=1, tau=0.0, patience=2, memory=None, device=device, random_state=0
    ).fit(paths[:8], [0, 1] * 4)


def predict_files(folder: str, n: int, device: str) -> dict[str, Any]:
    """Return bytes and seconds of `predict` for n paths, and the same for arrays."""
    paths = sorted(map(str, Path(folder).iterdir()))[:n]
    model = fitted(paths, device)
    model.predict(paths[:64])
    before, peak = memory_in_use("cpu"), PeakMemory("cpu")
    of_paths = model.predict_proba(paths)
    path_bytes = peak.read() - before
    before, peak = memory_in_use("cpu"), PeakMemory("cpu")
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    of_arrays = model.predict_proba(arrays)
    return {
        "paths": path_bytes,
        "arrays": peak.read() - before,
        "equal": bool(np.array_equal(of_paths, of_arrays)),
    }


def files(settings: Settings) -> Iterator[Line]:
    """Predict PNG files by their paths, and the same images as an array."""
    n = 200 if settings.quick else 3000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_images(folder, n)
        found = isolated(f"{__name__}:predict_files", folder=name, n=n, device=settings.device)
        yield Line(
            f"{n:,} PNG files of {SIDE} x {SIDE}, compact network",
            f"predict needs {found['paths'] / MIB:.0f} MiB for paths, {found['arrays'] / MIB:.0f} "
            f"MiB for arrays with their pixels; predictions equal: {found['equal']}",
            "equal, and less memory" if not settings.quick else "equal",
            found["equal"] and (settings.quick or found["paths"] <= found["arrays"]),
            settings={"n_samples": n, "side": SIDE},
            values={"path_bytes": found["paths"], "array_bytes": found["arrays"]},
        )
        yield _time_line(settings, paths[: n // 2])


def _time_line(settings: Settings, paths: list[str]) -> Line:
    model = fitted(paths, settings.device)
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    competitors = {
        "paths": lambda: model.predict(paths),
        "arrays": lambda: model.predict(arrays),
        "decoding": lambda: [np.asarray(Image.open(path)) for path in paths],
    }
    seconds: Seconds = {name: [] for name in competitors}
    for run in competitors.values():
        warmed_up(run)
    for _ in range(settings.repetitions):
        for name, run in competitors.items():
            seconds[name].append(timed(run))
    by_name = {name: float(np.median(values)) for name, values in seconds.items()}
    above = (by_name["paths"] - by_name["arrays"]) / by_name["decoding"]
    return Line(
        f"{len(paths):,} PNG files of {SIDE} x {SIDE}, compact network",
        f"{by_name['paths'] / by_name['arrays']:.2f} of the time for arrays; the difference is "
        f"{above:.2f} of what Pillow needs to decode the files once",
        "the difference <= 1.5 decodings",
        above <= 1.5,
        settings={"n_samples": len(paths), "side": SIDE},
        values={"quotient": by_name["paths"] / by_name["arrays"], "decodings": above},
        seconds=seconds,
    )


ROWS = [Row("files", "Images by their paths against arrays", files)]
