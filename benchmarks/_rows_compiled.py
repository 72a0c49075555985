"""Rows on the engine against `torch.compile` at full depth."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._measure import Seconds, interleaved, medians, quotient
from benchmarks._models import FAMILIES, NotMeasuredError, encode, prepared, samples
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._rows_throughput import FULL, check_same_predictions, fraction
from benchmarks._suite import Row, Settings

COMPILED = "transformers, compiled"
# Mean exits, as shares of M.
MEANS = (1 / 3, 1 / 2, 1)
# Batch size and samples, those of a GPU multiplied by `Settings.enough`.
BLOCKS = ((1, 12), (16, 64), (64, 128), ("auto", 128))
QUICK = ((16, 32),)
# The mean exit from which on the engine must not be slower.
SLOWEST = 1 / 2


class Compiled(FullDepth):
    """The rival with its layers compiled for any batch size and length.

    Parameters
    ----------
    rival : FullDepth
        Its weights are shared.
    """

    def __init__(self, rival: FullDepth) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(copy.copy(rival).__dict__)
        self._modules = dict(rival._modules)
        self._modules["backbone"] = torch.compile(rival.backbone, dynamic=True)


def compiled(settings: Settings, *, family: str) -> Iterator[Line]:
    """Measure the engine at some mean exits against transformers, compiled and not."""
    precision = settings.fast_precision()
    estimator = prepared(family, settings.device, precision)
    rival = FullDepth(estimator, getattr(torch, precision), settings.device)
    faster = Compiled(rival)
    try:
        check_same_predictions(estimator, faster, family)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise NotMeasuredError(f"torch.compile: {error}") from error
    for batch_size, n in QUICK if settings.quick else BLOCKS:
        encoded = encode(estimator, samples(family, settings.enough(n, batch_size)))
        seconds = _timed(settings, estimator, (rival, faster), encoded, batch_size)
        for share in MEANS:
            yield _line(estimator, family, batch_size, share, seconds)


def _timed(
    settings: Settings,
    estimator: Any,
    rivals: tuple[FullDepth, FullDepth],
    encoded: Any,
    batch_size: int | str,
) -> Seconds:
    n, n_layers = len(encoded), estimator.n_layers_
    competitors = {
        name: functools.partial(rival.proba, encoded, batch_size)
        for name, rival in zip((FULL, COMPILED), rivals, strict=True)
    }
    for share in MEANS:
        schedule = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
        competitors[fraction(share)] = functools.partial(
            dynamic, estimator, encoded, batch_size, schedule
        )
    return interleaved(competitors, settings.repetitions)


def _line(
    estimator: Any, family: str, batch_size: int | str, share: float, seconds: Seconds
) -> Line:
    ours = fraction(share)
    found = {name: quotient(seconds, name, ours) for name in (FULL, COMPILED)}
    milliseconds = {name: 1000 * value for name, value in medians(seconds).items()}
    has_target = share <= SLOWEST
    return Line(
        f"{FAMILIES[family].title}, {estimator.precision}, batch {batch_size}, mean exit {ours}",
        f"{found[COMPILED]:.2f}x the compiled full depth, {found[FULL]:.2f}x the plain one "
        f"({milliseconds[ours]:.1f}, {milliseconds[COMPILED]:.1f}, {milliseconds[FULL]:.1f} ms)",
        ">= 1x the compiled one" if has_target else "",
        found[COMPILED] >= 1 if has_target else None,
        settings={"precision": estimator.precision, "batch_size": batch_size, "share": share},
        values={"over_compiled": found[COMPILED], "over_plain": found[FULL]},
        seconds={name: seconds[name] for name in (FULL, COMPILED, ours)},
    )


ROWS = [
    Row(
        f"compiled-{family}",
        f"{FAMILIES[family].title} against torch.compile at full depth",
        functools.partial(compiled, family=family),
        in_quick=False,
    )
    for family in ("bert", "vit", "gpt2", "minilm")
]
