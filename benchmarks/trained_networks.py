"""Measure the time of trained networks under their chosen policies, in comparison with rivals.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``, on networks that the study has trained (``python -m studies``):

    python -m benchmarks.trained_networks --study FOLDER --networks phee/all-mpnet-base-v2

A network with exits runs under the two policies that the study chose on the validation part, in the
precision of "auto" and in int8. The rivals at full depth are transformers in float32 and bfloat16,
and onnxruntime in float32 and dynamic int8. Another rival, on our engine, is the backbone cut to
the fewest layers that reach the policy's test score when fine-tuned alone. All take raw samples and
return labels, in turns: a part of the test samples at once, and some one by one. Scores are for the
whole test part. Writes ``trained_networks.md`` and ``.json`` into ``--out``.

On a shared machine, ``OMP_NUM_THREADS=1 ... --own --cpu-time`` only compares variants of the
network with exits, in CPU seconds.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from benchmarks._measure import Seconds, interleaved, medians, quotient
from benchmarks._models import NotMeasuredError, encode
from benchmarks._onnx_rivals import check_export, onnx_logits, onnx_sessions, require_onnx
from benchmarks._report import describe, machine
from benchmarks._rivals import FullDepth
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee._nn.prediction_batches import batches_by_length
from studies.clock import chosen_policies, drawn, own_scale, with_policy
from studies.collect import GOALS
from studies.jobs import Folder, Job
from studies.policies import cuts_beside
from studies.sets import Parts, load_parts, score_all

N_BATCHED = 200
N_SINGLE = 25
# References for relative times; the second without rivals.
YARDSTICK = "transformers, bfloat16, full depth"
OWN_YARDSTICK = "exits, full depth"
HEADER = (
    "| | {score} | ms a sample, batches | times as fast as {yardstick} | "
    "ms, one at a time | times as fast |\n" + "| --- " * 6 + "|"
)

# Takes raw samples and returns codes of classes.
Predict = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Competitor:
    """A way to predict.

    Attributes
    ----------
    predict : callable
    layers : str
        What it runs of all layers.
    score : float
        The main score of the test part.
    """

    predict: Predict
    layers: str
    score: float


def jobs_of(study: Path, wanted: list[str] | None) -> Iterator[tuple[Job, Folder]]:
    """Yield the jobs with stored networks with exits, for seed 0."""
    for path in sorted(study.glob("*/*/seed0/exits*/model.joblib")):
        fields = json.loads((path.parent / "result.json").read_text())["job"]
        job = Job(fields["data"], fields["backbone"], 0, "exits", tuple(fields["options"].items()))
        if wanted is None or f"{job.data}/{job.backbone}" in wanted:
            yield job, Folder(path.parent, study, None)


# ------------------------------------------------------------------------------------ competitors


@dataclass(frozen=True)
class Trained:
    """A network with exits of the study, and its data."""

    job: Job
    folder: Folder
    parts: Parts
    model: Any

    @classmethod
    def load(cls, job: Job, folder: Folder) -> Trained:
        """Load the network of a job, and its data."""
        model = joblib.load(folder.path / "model.joblib").set_params(device="cpu")
        return cls(job, folder, load_parts(job.data), model)

    def competitor(self, predict: Predict, n_layers: float | None = None) -> Competitor:
        """Return a way to predict with its score; by default it runs all layers."""
        total = self.model.n_layers_
        layers = f"{total if n_layers is None else n_layers:.3g} of {total}"
        return Competitor(predict, layers, self.score(predict(self.parts.test.X)))

    def score(self, codes: np.ndarray) -> float:
        """Return the main score of predicted codes of the test part."""
        found = score_all(self.job.data, self.parts.test.y, codes)
        return float(found[self.parts.main_score])

    def codes(self, proba: np.ndarray) -> np.ndarray:
        """Return the codes of the predicted classes, given probabilities."""
        return self.model.classes_[proba.argmax(axis=1)]


def competitors(trained: Trained, scratch: Path) -> dict[str, Competitor]:
    """Return all ways to predict that can be measured for a network, by name."""
    own = own_ways(trained)
    return {
        **by_transformers(trained),
        **by_onnxruntime(trained, scratch),
        **own,
        **cut_networks(
            trained, [one.score for name, one in own.items() if OWN_YARDSTICK not in name]
        ),
    }


def own_ways(trained: Trained) -> dict[str, Competitor]:
    """Return the network with exits, at full depth and under its policies, by name."""
    networks = in_both_precisions(trained)
    full = {
        OWN_YARDSTICK + suffix: trained.competitor(
            functools.partial(at_full_depth, trained, network)
        )
        for suffix, network in networks.items()
    }
    return full | by_policies(trained, networks)


def by_transformers(trained: Trained) -> dict[str, Competitor]:
    """Return transformers' forward pass at full depth."""
    return {
        f"transformers, {name}, full depth": trained.competitor(
            functools.partial(at_once, trained, FullDepth(trained.model, dtype).proba)
        )
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }


def at_once(trained: Trained, proba: Callable[..., np.ndarray], samples: Any) -> np.ndarray:
    """Return the codes predicted by a rival for encoded samples."""
    return trained.codes(proba(encode(trained.model, samples), "auto"))


def by_onnxruntime(trained: Trained, scratch: Path) -> dict[str, Competitor]:
    """Return onnxruntime at full depth; empty if it is not installed."""
    try:
        require_onnx()
    except NotMeasuredError as error:
        print(f"onnxruntime is not measured: {error}")
        return {}
    rival = FullDepth(trained.model, torch.float32)
    encoded = encode(trained.model, trained.parts.train.X[:4])
    sessions = onnx_sessions(rival, encoded, scratch)
    check_export(rival, sessions["float32"], encoded)
    names = {"float32": "float32", "int8": "dynamic int8"}
    return {
        f"onnxruntime, {names[name]}, full depth": trained.competitor(
            functools.partial(at_once, trained, functools.partial(by_session, session))
        )
        for name, session in sessions.items()
    }


def by_session(session: Any, encoded: Any, batch_size: Any) -> np.ndarray:
    """Return logits (n, K), in the batches of `predict`."""
    found: np.ndarray | None = None
    for rows in batches_by_length(encoded.lengths, batch_size):
        logits = onnx_logits(session, encoded.batch(rows))
        found = np.empty((len(encoded), logits.shape[1])) if found is None else found
        found[rows] = logits
    if found is None:
        raise ValueError("no samples")
    return found


def at_full_depth(trained: Trained, model: Any, samples: Any) -> np.ndarray:
    """Return the codes of a network's last exit."""
    return trained.codes(model.predict_proba_at_layer(samples, layer=-1))


def in_both_precisions(trained: Trained) -> dict[str, Any]:
    """Return the network in "auto" and, if there are 8-bit products, in int8."""
    if reason := why_not_int8():
        print(f"int8 is not measured: {reason}")
        return {"": trained.model}
    trained.model.calibrate_int8(trained.parts.train.X)
    print(trained.model.precision_report_, flush=True)
    return {"": trained.model, ", int8": copy.copy(trained.model).set_params(precision="int8")}


def by_policies(trained: Trained, networks: dict[str, Any]) -> dict[str, Competitor]:
    """Return the network under the chosen policies of the study, in all precisions."""
    scale = own_scale(trained.model, len(trained.parts.classes))
    policies = chosen_policies(trained.job.data, trained.folder.path, scale)
    return {
        f"exits, {goal}{suffix}": by_policy(trained, network, policies[f"epee/{choice}"])
        for choice, goal in GOALS.items()
        if f"epee/{choice}" in policies
        for suffix, network in networks.items()
    }


def by_policy(trained: Trained, model: Any, policy: dict[str, Any]) -> Competitor:
    """Return the network with exits under a policy."""
    at_it = with_policy(model, policy)
    mean = float(at_it.predict_exit_layer(trained.parts.test.X).mean())
    return trained.competitor(lambda X: trained.codes(at_it.predict_proba(X)), mean)


def cut_networks(trained: Trained, wanted: list[float]) -> dict[str, Competitor]:
    """Return the fewest layers that reach each wanted score when they are trained alone.

    Their time is that of the first layers of the network with exits; the scores are those of the
    networks that the study trained.
    """
    n_layers = trained.model.n_layers_
    cuts = {
        k: trained.score(codes) for k, codes in cuts_beside(trained.folder.path, n_layers).items()
    }
    enough = [[k for k, reached in cuts.items() if reached >= least] for least in wanted]
    return {
        f"first {k} layers, trained alone": Competitor(
            functools.partial(at_full_depth, trained, trained.model.first_layers(k)),
            f"{k} of {n_layers}",
            cuts[k],
        )
        for k in sorted({min(found) if found else max(cuts) for found in enough if cuts})
    }


# ---------------------------------------------------------------------------------------- measure


def measured(
    trained: Trained, repetitions: int, *, own: bool = False, cpu_time: bool = False
) -> tuple[str, dict[str, Any]]:
    """Measure one network; return its table and the seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        found = own_ways(trained) if own else competitors(trained, Path(scratch))
        samples = drawn(trained.parts.test.X, N_BATCHED)
        singles = [samples[row : row + 1] for row in range(min(N_SINGLE, len(samples)))]
        calls = {"batches": [samples], "singles": singles}
        clock = time.process_time if cpu_time else time.perf_counter
        seconds = {way: timed(found, given, repetitions, clock) for way, given in calls.items()}
    numbers = {"batches": len(samples), "singles": len(singles)}
    how = (
        f"{numbers['batches']} test samples in batches, {numbers['singles']} one by one; medians "
        f"of {repetitions} rounds in turns"
        + (f", in seconds of the processor on {torch.get_num_threads()} thread(s)" * cpu_time)
        + "; in brackets the layers that are run."
    )
    yardstick = OWN_YARDSTICK if own else YARDSTICK
    score = trained.parts.main_score.replace("_", " ")
    lines = [
        f"## {trained.job.data}, {trained.job.backbone}",
        "",
        how,
        "",
        HEADER.format(score=score, yardstick=yardstick.removesuffix(", full depth")),
    ]
    lines += [_line((name, yardstick), one, seconds, numbers) for name, one in found.items()]
    scores = {name: one.score for name, one in found.items()}
    return "\n".join(lines) + "\n", {"scores": scores, "seconds": seconds, "n_samples": numbers}


def timed(
    found: dict[str, Competitor], calls: list[Any], repetitions: int, clock: Callable[[], float]
) -> Seconds:
    """Return the seconds of all calls, round by round."""
    runs = {name: functools.partial(_each, one.predict, calls) for name, one in found.items()}
    return interleaved(runs, repetitions, clock=clock)


def _each(predict: Predict, calls: list[Any]) -> None:
    for samples in calls:
        predict(samples)


def _line(
    names: tuple[str, str],
    competitor: Competitor,
    seconds: dict[str, Seconds],
    numbers: dict[str, int],
) -> str:
    name, yardstick = names
    cells = [f"{name} ({competitor.layers})", f"{competitor.score:.4f}"]
    for way, found in seconds.items():
        cells.append(f"{1000 * medians(found)[name] / numbers[way]:.2f}")
        cells.append(f"{quotient(found, yardstick, name):.2f}x")
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, required=True, help="folder of python -m studies")
    parser.add_argument("--networks", nargs="+", default=None, help="data/backbone; all by default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--own", action="store_true", help="leave the rivals out")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*longer than max_length")
    tables, kept = [], {}
    for job, folder in jobs_of(args.study, args.networks):
        table, found = measured(
            Trained.load(job, folder), args.repetitions, own=args.own, cpu_time=args.cpu_time
        )
        print(table, flush=True)
        tables.append(table)
        kept[f"{job.data}/{job.backbone}"] = found
        args.out.mkdir(parents=True, exist_ok=True)
        head = f"{describe(machine('cpu'))}\n\n"
        (args.out / "trained_networks.md").write_text(head + "\n".join(tables))
        written = {"machine": machine("cpu"), "networks": kept}
        (args.out / "trained_networks.json").write_text(json.dumps(written, indent=1) + "\n")
    if not tables:
        raise SystemExit(f"--study: no network with exits in {args.study}")


if __name__ == "__main__":
    main()
