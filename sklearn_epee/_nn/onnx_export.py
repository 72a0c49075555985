"""Export a torch module as an ONNX graph, and check it on other batch sizes.

torch has two exporters. The older one traces the operations of one batch; it is fast, but
deprecated. The one based on `torch.export` needs the package onnxscript and takes many times as
long. The first one is used as long as torch has it. With either of them, every graph is compared
with the module on batches of other sizes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OPSETS = {"traced": 17, "exported": 18}
# Largest difference of hidden states and logits on batches of other sizes.
_TOLERANCE = 1e-3
# Names of the axes that differ between batches, by input or output.
Axes = Mapping[str, Mapping[int, str]]


class CannotExportError(ValueError):
    """A network cannot be exported; the message says why."""


@functools.cache
def exporter() -> str:
    """Return which of torch's exporters is used, "traced" or "exported".

    Raises
    ------
    ImportError
        If torch has no tracing exporter, and onnxscript is missing.
    """
    if _traces():
        return "traced"
    if importlib.util.find_spec("onnxscript") is None:
        raise ImportError(
            f"export_onnx needs onnxscript with torch {torch.__version__}, which no longer traces "
            "graphs: pip install onnxscript."
        )
    return "exported"


def _traces() -> bool:
    """Return whether torch still has the tracing exporter, by trying it."""
    try:
        with _quiet():
            memory: Any = io.BytesIO()
            torch.onnx.export(nn.Identity(), (torch.ones(1),), memory, dynamo=False)
    except Exception:  # noqa: BLE001 - it is unknown which error a future torch will raise
        return False
    return True


@torch.no_grad()
def write_graph(
    part: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    outputs: list[str],
    axes: Axes,
    file: Path,
) -> None:
    """Write a module as a graph, and compare the graph with the module.

    Parameters
    ----------
    part : Module
        Takes the values of a batch in their order, and returns a tensor or a tuple of tensors.
    batches : sequence of dict of str to Tensor
        Of different sizes; the graph is exported with the first one.
    outputs : list of str
        Names of the outputs.
    axes : dict of str to dict of int to str
        For inputs and outputs, the dynamic axes and their names.
    file : Path
        Path of the graph.

    Raises
    ------
    ImportError
        If a package is missing.
    CannotExportError
        If the module cannot be exported, or the graph gives other results.
    """
    which = exporter()
    names, example = list(batches[0]), tuple(batches[0].values())
    shared: dict[str, Any] = {
        "input_names": names,
        "output_names": outputs,
        "opset_version": _OPSETS[which],
    }
    try:
        with _quiet():
            if which == "traced":
                traced = {name: dict(axes[name]) for name in (*names, *outputs)}
                torch.onnx.export(
                    part.eval(), example, str(file), dynamo=False, dynamic_axes=traced, **shared
                )
            else:
                _write_exported(part.eval(), example, axes, file, shared)
    except OSError:  # of the disk, not of the module
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotExportError(f"{file.name}: torch cannot export it ({reason})") from error
    _compare(part, batches, file)


def _write_exported(
    part: nn.Module, example: tuple[Tensor, ...], axes: Axes, file: Path, shared: dict[str, Any]
) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(axes[name], dynamic) for name in shared["input_names"])
    # All inputs of a module go to one parameter, `*inputs`.
    torch.onnx.export(
        part,
        example,
        str(file),
        dynamo=True,
        dynamic_shapes=(shapes,),
        external_data=False,
        verbose=False,
        **shared,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and output of the exporters; errors are found by comparing the results."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _compare(part: nn.Module, batches: Sequence[Mapping[str, Tensor]], file: Path) -> None:
    import onnxruntime  # noqa: PLC0415 - an optional package

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    read = {one.name for one in session.get_inputs()}
    for batch in batches:
        feed = {name: given.numpy() for name, given in batch.items() if name in read}
        try:
            found = session.run(None, feed)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise CannotExportError(
                f"{file.name} does not run on other sizes ({reason})"
            ) from error
        expected = part(*batch.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        for own, theirs in zip(expected, found, strict=True):
            _compare_output(own.numpy(), theirs, batch.get("attention_mask"), file.name)


def _compare_output(own: Any, theirs: Any, mask: Tensor | None, name: str) -> None:
    difference = np.abs(own - theirs)
    if own.ndim == 3 and mask is not None:
        difference = difference[mask.bool().numpy()]
    scale = max(1.0, float(np.abs(own).max(initial=0.0)))
    if not difference.max(initial=0.0) <= _TOLERANCE * scale:
        raise CannotExportError(
            f"{name} differs from the network by up to {difference.max():.2g} on other sizes than "
            "those of the exported batch"
        )


@torch.no_grad()
def check_logits(
    part: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Tensor],
    at: int | None,
    name: str,
) -> None:
    """Compare the logits of an exportable module with those of the network.

    Parameters
    ----------
    part : Module
    batches : sequence of dict of str to Tensor
    expected : sequence of Tensor
        Logits of the network for each batch.
    at : int or None
        Index of the logits in the module's outputs; None: they are the only output.
    name : str
        Name of the graph, for error messages.

    Raises
    ------
    CannotExportError
        If they differ.
    """
    for batch, logits in zip(batches, expected, strict=True):
        found = part(*batch.values())
        own = found if at is None else found[at]
        _compare_output(logits.numpy(), own.numpy(), batch.get("attention_mask"), name)
