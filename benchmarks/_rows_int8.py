"""Rows on precision="int8": against our bfloat16, and against other 8-bit implementations."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import Seconds, interleaved, medians, quotient
from benchmarks._models import FAMILIES, NotMeasuredError, encode, prepared, real_texts
from benchmarks._onnx_rivals import export, onnx_sessions, quiet, require_onnx
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_rivals import text_family
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.int8_linear import why_not_int8
from sklearn_epee._nn.prediction_batches import batches_by_length

# Number of texts for the calibration, also that of the rivals.
N_CALIBRATION = 64
# Target speed-up over our bfloat16, by batch size.
WANTED = {"auto": 1.5, 16: 1.5, 1: 1.2}
# Target speed-up over onnxruntime's dynamic int8 at full depth.
WANTED_OF_ONNX = 3.5
# Batch size and number of texts.
BLOCKS: tuple[tuple[int | str, int], ...] = (("auto", 256), (16, 128), (1, 24))
QUICK: tuple[tuple[int | str, int], ...] = ((16, 32),)

# Takes the tensors of a batch and returns logits.
Forward = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Ours:
    """One network, in 8 bits and in the precision of "auto"."""

    int8: Any
    auto: Any


def ours(family: str) -> Ours:
    """Return the estimator of a family, calibrated on real texts."""
    if reason := why_not_int8():
        raise NotMeasuredError(f"this processor has no 8-bit products: {reason}")
    estimator = copy.copy(prepared(family, "cpu", "auto"))
    estimator.calibrate_int8(real_texts(N_CALIBRATION))
    return Ours(copy.copy(estimator).set_params(precision="int8"), estimator)


def on_cpu(settings: Settings) -> None:
    """Raise NotMeasuredError on another device."""
    if settings.device != "cpu":
        raise NotMeasuredError("8-bit products are made on the CPU only")


def against_bfloat16(settings: Settings, *, family: str) -> Iterator[Line]:
    """Compare int8 with the precision of "auto", at mean exit M/3 and at full depth."""
    on_cpu(settings)
    both = ours(family)
    n_layers = both.auto.n_layers_
    for batch_size, n in QUICK if settings.quick else BLOCKS:
        encoded = encode(both.auto, real_texts(n))
        for share in (1 / 3, 1):
            schedule = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
            competitors = {
                name: functools.partial(dynamic, estimator, encoded, batch_size, schedule)
                for name, estimator in (("auto", both.auto), ("int8", both.int8))
            }
            seconds = interleaved(competitors, settings.repetitions)
            depth = "M/3" if share < 1 else "M"
            yield _own_line(FAMILIES[family].title, (batch_size, n), depth, seconds)


def _own_line(title: str, block: tuple[int | str, int], depth: str, seconds: Seconds) -> Line:
    (batch_size, n), speedup = block, quotient(seconds, "auto", "int8")
    found = medians(seconds)
    wanted = WANTED[batch_size]
    return Line(
        f"{title}, precision=int8, batch {batch_size}, {n} texts, mean exit {depth}; the rival: "
        "ours in the precision of auto",
        f"{speedup:.2f}x ({1000 * found['int8'] / n:.2f} against {1000 * found['auto'] / n:.2f} "
        "ms a text)",
        f">= {wanted}x",
        speedup >= wanted,
        settings={"n_samples": n, "batch_size": batch_size, "mean_exit": depth},
        values={"speedup": speedup},
        seconds=seconds,
    )


# ----------------------------------------------------------------------------------------- rivals


def calibration_batches(estimator: Any) -> list[dict[str, np.ndarray]]:
    """Return batches of one calibration text each, in the form for the rivals."""
    encoded = encode(estimator, real_texts(N_CALIBRATION))
    return [as_arrays(encoded.batch(np.array([row]))) for row in range(len(encoded))]


def as_arrays(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}


def static_onnx(plain: Path, batches: list[dict[str, np.ndarray]]) -> Forward:
    """Return onnxruntime's static int8, calibrated on some batches."""
    # Installed for this row only.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import (  # noqa: PLC0415
        CalibrationDataReader,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    quantized = plain.with_name("static.onnx")
    with quiet():
        quantize_static(
            str(plain),
            str(quantized),
            Reader(),
            per_channel=True,
            use_external_data_format=True,  # the exporter keeps weights in a file beside the model
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(quantized), options, providers=["CPUExecutionProvider"]
    )
    return lambda batch: session.run(None, batch)[0]


def by_openvino(plain: Path, batches: list[dict[str, np.ndarray]]) -> Forward:
    """Return OpenVINO's int8, calibrated on some batches by NNCF."""
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    with quiet():
        quantized = nncf.quantize(
            core.read_model(str(plain)),
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = core.compile_model(quantized, "CPU", {"PERFORMANCE_HINT": "LATENCY", **threads})
    return lambda batch: compiled(batch)[0]


def rivals(estimator: Any, folder: Path) -> dict[str, Forward | str]:
    """Return the 8-bit rivals at full depth, or for each the reason why it cannot run."""
    network = FullDepth(estimator, torch.float32)
    encoded = encode(estimator, real_texts(4))
    batches = calibration_batches(estimator)
    session = onnx_sessions(network, encoded, folder)["int8"]
    found: dict[str, Forward | str] = {
        "onnxruntime, dynamic int8": lambda batch: session.run(None, batch)[0]
    }
    plain = folder / "float32.onnx"
    if not plain.exists():
        export(network, encoded.batch(np.arange(2)), plain)
    makers = {
        "onnxruntime, static int8": (static_onnx, ()),
        "OpenVINO, int8": (by_openvino, ("openvino", "nncf")),
    }
    for name, (make, packages) in makers.items():
        missing = [package for package in packages if find_spec(package) is None]
        try:
            found[name] = f"{missing[0]} is not installed" if missing else make(plain, batches)
        except Exception as error:  # noqa: BLE001 - any error of a rival's converter is reported
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return found


def run_rival(forward: Forward, encoded: Any, batch_size: int | str) -> np.ndarray:
    """Return labels of encoded texts, in the batches of `predict`."""
    limit: Any = batch_size
    out = np.empty(len(encoded), np.int64)
    for rows in batches_by_length(encoded.lengths, limit):
        out[rows] = forward(as_arrays(encoded.batch(rows))).argmax(axis=1)
    return out


def against_others(settings: Settings) -> Iterator[Line]:
    """Compare int8 at mean exit M/3 with that of rivals at full depth, in the same batches."""
    on_cpu(settings)
    require_onnx()
    family = text_family(settings)
    estimator = ours(family).int8
    with tempfile.TemporaryDirectory() as folder:
        others = rivals(estimator, Path(folder))
    title = FAMILIES[family].title
    for name, other in others.items():
        if isinstance(other, str):
            yield Line.not_measured(f"{title}; the rival: {name}", other)
    forwards = {name: other for name, other in others.items() if not isinstance(other, str)}
    for batch_size, most in QUICK if settings.quick else BLOCKS:
        n = min(most, 128)
        encoded = encode(estimator, real_texts(n))
        schedule = forced_exits(n, estimator.n_layers_, estimator.n_layers_ / 3, encoded.lengths)
        competitors: dict[str, Any] = {
            name: functools.partial(run_rival, forward, encoded, batch_size)
            for name, forward in forwards.items()
        }
        competitors["ours"] = functools.partial(dynamic, estimator, encoded, batch_size, schedule)
        seconds = interleaved(competitors, settings.repetitions)
        for name in forwards:
            yield _rival_line(title, (batch_size, n), name, seconds)


def _rival_line(title: str, block: tuple[int | str, int], rival: str, seconds: Seconds) -> Line:
    (batch_size, n), speedup = block, quotient(seconds, rival, "ours")
    found = medians(seconds)
    wanted = WANTED_OF_ONNX if "dynamic" in rival else None
    return Line(
        f"{title}, precision=int8, batch {batch_size}, {n} texts, mean exit M/3; the rival: "
        f"{rival}, full depth, same batches",
        f"{speedup:.2f}x ({1000 * found['ours'] / n:.2f} against {1000 * found[rival] / n:.2f} ms "
        "a text)",
        f">= {wanted}x" if wanted else "",
        speedup >= wanted if wanted else None,
        settings={"n_samples": n, "batch_size": batch_size, "rival": rival},
        values={"speedup": speedup},
        seconds={rival: seconds[rival], "ours": seconds["ours"]},
    )


ROWS = [
    Row(
        f"int8-{family}",
        f"{FAMILIES[family].title} in int8 against our own bfloat16",
        functools.partial(against_bfloat16, family=family),
        in_quick=family == "minilm",
    )
    for family in ("bert", "minilm")
] + [Row("int8-rivals", "int8 at mean exit M/3 against onnxruntime and OpenVINO", against_others)]
