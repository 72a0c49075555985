"""Measure the effect of precision="int8" on real data: scores at full depth and under a policy.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``, on networks that the study has trained (``python -m studies``):

    python -m benchmarks.int8_accuracy --study STUDY_FOLDER

Every stored network with exits of the study is calibrated on training samples and run on the
validation and the test part in float32, bfloat16 and int8. The policy is the fastest threshold that
loses at most half a point on the validation part, chosen once on float32 and once on int8
predictions. Scores are for the test part; changed labels, exits and probabilities, which are less
noisy, are counted in both parts. Writes ``int8.md`` into ``--out``.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from benchmarks._data import staged_probabilities
from benchmarks._report import describe, machine
from sklearn_epee.policy import apply_policy, normalized_entropy
from studies.sets import Parts, load_parts, score_all, spread

PRECISIONS = ("float32", "bfloat16", "int8")
# Maximum loss of the policy on the validation part.
TOLERANCE = 0.005
N_THRESHOLDS = 100
HEADER = (
    "| network | score | full depth: float32 | bfloat16 | int8 | policy of float32: float32 | "
    "bfloat16 | int8 | policy of int8: int8 | products in 8 bits | labels changed, full depth | "
    "exits changed | probabilities changed, mean over all exits |\n" + "| --- " * 13 + "|"
)


@dataclass(frozen=True)
class Policy:
    """A threshold, and its results on the validation part."""

    tau: float
    score: float
    mean_exit: float


def models(study: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield data set, backbone and file of the stored networks with exits of a study."""
    for path in sorted(study.glob("*/*/seed0/exits*/model.joblib")):
        # exits, or exits,image_size=56
        _, _, options = path.parts[-2].partition(",")
        yield path.parts[-5], ", ".join(filter(None, [path.parts[-4], options])), path


def score(data: str, parts: Parts, y: np.ndarray, proba: np.ndarray) -> float:
    """Return the main score of the data set."""
    return float(score_all(data, y, proba.argmax(axis=1))[parts.main_score])


def fastest(data: str, parts: Parts, proba: np.ndarray) -> Policy:
    """Return the fastest threshold within `TOLERANCE` on the validation part."""
    wanted = score(data, parts, parts.dev.y, proba[:, -1]) - TOLERANCE
    taus = np.quantile(normalized_entropy(proba), np.linspace(0, 1, N_THRESHOLDS))
    found = []
    for tau in np.unique(np.append(taus, 0.0)):
        exits = apply_policy(proba, float(tau))
        reached = score(data, parts, parts.dev.y, exits.proba)
        if reached >= wanted:
            found.append(Policy(float(tau), reached, float(exits.exit_layer.mean())))
    return min(found, key=lambda policy: policy.mean_exit)


def row(data: str, backbone: str, path: Path) -> str:
    """Measure one network; return its row of the table."""
    parts = load_parts(data)
    model = joblib.load(path).set_params(device="cpu")
    model.calibrate_int8(parts.train.X)
    print(model.precision_report_, flush=True)
    dev, test = {}, {}
    for precision in PRECISIONS:
        twin = copy.copy(model).set_params(precision=precision)
        dev[precision], test[precision] = (
            spread(staged_probabilities(twin, part.X), model.classes_, len(parts.classes))
            for part in (parts.dev, parts.test)
        )
    return _line((data, backbone), parts, model, dev, test)


def _line(
    name: tuple[str, str],
    parts: Parts,
    model: Any,
    dev: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
) -> str:
    data, backbone = name
    full = [f"{score(data, parts, parts.test.y, test[p][:, -1]):.4f}" for p in PRECISIONS]
    exact, own = (fastest(data, parts, dev[p]) for p in ("float32", "int8"))
    exits = {p: apply_policy(test[p], exact.tau) for p in PRECISIONS}
    by_policy = [_scored(data, parts, exits[p]) for p in PRECISIONS]
    kinds = [kind for layer in model.precision_report_.layers for kind in layer.values()]
    before, after = (np.concatenate([dev[p], test[p]]) for p in ("float32", "int8"))
    labels = (before[:, -1].argmax(1) != after[:, -1].argmax(1)).mean()
    layers = [apply_policy(proba, exact.tau).exit_layer for proba in (before, after)]
    changed = np.abs(before - after).sum(axis=2).mean() / 2
    cells = [
        f"{backbone} on {data}", parts.main_score, *full, *by_policy,
        _scored(data, parts, apply_policy(test["int8"], own.tau)),
        f"{kinds.count('int8')} of {len(kinds)}", f"{labels:.2%}",
        f"{(layers[0] != layers[1]).mean():.2%}", f"{changed:.4f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _scored(data: str, parts: Parts, exits: Any) -> str:
    reached = score(data, parts, parts.test.y, exits.proba)
    return f"{reached:.4f} (mean exit {exits.exit_layer.mean():.2f})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, required=True, help="folder of python -m studies")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--data", nargs="+", default=None, help="data sets; all by default")
    parser.add_argument("--backbones", nargs="+", default=None, help="all by default")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*longer than max_length")
    rows = []
    for data, backbone, path in models(args.study):
        wanted = args.backbones is None or path.parts[-4] in args.backbones
        if wanted and (args.data is None or data in args.data):
            rows.append(row(data, backbone, path))
            print(rows[-1], flush=True)
            args.out.mkdir(parents=True, exist_ok=True)
            text = "\n".join([describe(machine("cpu")), "", HEADER, *rows]) + "\n"
            (args.out / "int8.md").write_text(text)
    if not rows:
        raise SystemExit(f"--study: no network with exits in {args.study}")


if __name__ == "__main__":
    main()
