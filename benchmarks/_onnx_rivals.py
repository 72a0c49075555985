"""Export the rivals at full depth, and run them in onnxruntime, in float32 and in int8."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._models import NotMeasuredError
from benchmarks._rivals import FullDepth

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Largest difference of a logit between the exported model and its source.
TOLERANCE = 1e-3


class _ByPosition(torch.nn.Module):
    """The full-depth model with positional inputs, as needed by exporters."""

    def __init__(self, model: FullDepth, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits (n, K)."""
        return self.model(**dict(zip(self.names, tensors, strict=True)))


def require_onnx() -> None:
    """Raise NotMeasuredError if a package of the rivals is not installed."""
    for package in PACKAGES:
        if find_spec(package) is None:
            raise NotMeasuredError(f"{package} is not installed")


def export(rival: FullDepth, example: dict[str, Tensor], path: Path) -> None:
    """Write the model for onnxruntime, for any number and length of texts."""
    names = tuple(example)
    any_size = torch.export.Dim.DYNAMIC
    sizes = [
        {0: any_size, 1: any_size} if tensor.ndim == 2 else {0: any_size}
        for tensor in example.values()
    ]
    with quiet():
        torch.onnx.export(
            _ByPosition(rival, names).eval(),
            tuple(example.values()),
            str(path),
            input_names=list(names),
            output_names=["logits"],
            dynamic_shapes=(tuple(sizes),),
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of exporters."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def onnx_sessions(rival: FullDepth, encoded: Any, folder: Path) -> dict[str, Any]:
    """Return sessions of onnxruntime in float32 and in dynamic int8."""
    # Installed for these rows only.
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    plain, quantized = folder / "float32.onnx", folder / "int8.onnx"
    export(rival, encoded.batch(np.arange(2)), plain)
    with quiet():
        quantize_dynamic(plain, quantized, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    return {
        name: onnxruntime.InferenceSession(str(path), options, providers=providers)
        for name, path in (("float32", plain), ("int8", quantized))
    }


def onnx_logits(session: Any, batch: dict[str, Tensor]) -> np.ndarray:
    """Return the logits (n, K) of a batch."""
    return session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]


def check_export(rival: FullDepth, session: Any, encoded: Any) -> None:
    """Raise AssertionError if the predictions of the exported model differ from its source."""
    batch = encoded.batch(np.arange(3))
    with torch.inference_mode():
        difference = np.abs(rival(**batch).numpy() - onnx_logits(session, batch)).max()
    if difference > TOLERANCE:
        raise AssertionError(f"the exported model's logits differ by {difference:.2g}")
