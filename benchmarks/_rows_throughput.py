"""Rows on throughput: forced exits against full depth, and the cost of running heads first."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks._forced_exits import dynamic, forced_exits, run_forced
from benchmarks._measure import Seconds, interleaved, quotient
from benchmarks._models import FAMILIES, encode, engine_of, marked, prepared, real_texts, samples
from benchmarks._report import Line
from benchmarks._rivals import FullDepth
from benchmarks._suite import Row, Settings
from sklearn_epee._nn.row_first import RowCosts, RowFirst

FULL = "transformers, full depth"
OWN_FULL = "ours, full depth"
# Share of a layer's operations that a sample saves if it exits there: all but keys and values.
SAVED_IN_LAST_LAYER = 5 / 6
# Target share of the arithmetic limit with batches of 16 and more.
LIMIT_SHARE = 0.85
# Mean exits, as shares of M.
ALL_MEANS = (1 / 4, 1 / 3, 1 / 2, 1)
TWO_MEANS = (1 / 3, 1)


@dataclass(frozen=True)
class Block:
    """One batch size of a row.

    Parameters
    ----------
    batch_size : int or "auto"
    n : int
        Number of samples.
    means : tuple of float
        Mean exits, as shares of M.
    """

    batch_size: int | str
    n: int
    means: tuple[float, ...]


TEXT_FLOAT32 = (
    Block(1, 12, TWO_MEANS),
    Block(16, 64, ALL_MEANS),
    Block(64, 128, (1 / 3,)),
    Block("auto", 128, ALL_MEANS),
)
TEXT_BFLOAT16 = (
    Block(1, 24, TWO_MEANS),
    Block(16, 128, ALL_MEANS),
    Block(64, 256, TWO_MEANS),
    Block("auto", 256, ALL_MEANS),
)
IMAGE_FLOAT32 = (Block(1, 4, TWO_MEANS), Block(16, 32, ALL_MEANS), Block("auto", 32, ALL_MEANS))
IMAGE_BFLOAT16 = (
    Block(1, 8, TWO_MEANS),
    Block(16, 48, ALL_MEANS),
    Block(64, 64, (1 / 3,)),
    Block("auto", 64, ALL_MEANS),
)
QUICK = (Block(16, 32, (1 / 3, 1)),)
# Maximum relative time of an engine that can run the head first, if this saves nothing.
MAX_PLAIN_RATIO = 1.03
# Maximum time of heads that read two marks, relative to heads that read one position.
MAX_ONE_ROW_RATIO = 1.1
CHOICE_REPETITIONS = 5
CHOICE_BLOCKS = (Block(1, 12, TWO_MEANS), Block(16, 64, TWO_MEANS), Block("auto", 128, TWO_MEANS))


def arithmetic_limit(n_layers: int, mean_exit: float) -> float:
    """Return the speed-up if an exit at layer e costs e - 5/6 layers (one pooled row)."""
    return n_layers / (mean_exit - SAVED_IN_LAST_LAYER)


def throughput(
    settings: Settings,
    *,
    family: str,
    precision: str,
    blocks: tuple[Block, ...],
    pooling: str | None = None,
) -> Iterator[Line]:
    """Measure one family in one precision at several batch sizes and mean exits."""
    estimator = prepared(family, settings.device, precision, pooling)
    rival = FullDepth(estimator, getattr(torch, precision), settings.device)
    check_same_predictions(estimator, rival, family)
    for block in QUICK if settings.quick else blocks:
        yield from _block(settings, estimator, rival, family, block)


def _block(
    settings: Settings, estimator: Any, rival: FullDepth, family: str, block: Block
) -> Iterator[Line]:
    n, n_layers = settings.enough(block.n, block.batch_size), estimator.n_layers_
    encoded = encode(estimator, samples(family, n))
    schedules = {
        f"mean exit {fraction(share)}": forced_exits(n, n_layers, share * n_layers, encoded.lengths)
        for share in block.means
    }
    competitors = {FULL: functools.partial(rival.proba, encoded, block.batch_size)}
    for label, schedule in schedules.items():
        competitors[label] = functools.partial(
            dynamic, estimator, encoded, block.batch_size, schedule
        )
    seconds = interleaved(competitors, settings.repetitions)
    for label, schedule in schedules.items():
        ours_and_theirs = {FULL: seconds[FULL], "ours": seconds[label]}
        if "mean exit M" in seconds:
            ours_and_theirs[OWN_FULL] = seconds["mean exit M"]
        yield speedup_line(
            estimator, FAMILIES[family].title, block.batch_size, schedule, ours_and_theirs
        )


def fraction(share: float) -> str:
    return "M" if share == 1 else f"M/{round(1 / share)}"


def check_same_predictions(estimator: Any, rival: FullDepth, family: str) -> None:
    """Raise if estimator and rival do not compute the same.

    Raises
    ------
    AssertionError
        If the probabilities at full depth differ from the rival's.
    """
    encoded = encode(estimator, samples(family, 4))
    ours = engine_of(estimator).budgeted(encoded, estimator.n_layers_, 4)
    difference = np.abs(ours - rival.proba(encoded, 4)).max()
    if difference > (1e-4 if estimator.precision == "float32" else 0.05):
        raise AssertionError(f"{family}: probabilities differ from the rival's by {difference:.2g}")


def speedup_line(
    estimator: Any, title: str, batch_size: int | str, schedule: np.ndarray, seconds: Seconds
) -> Line:
    """Compare the measured speed-up with the layer count and with the arithmetic limit.

    Parameters
    ----------
    estimator : EPEEClassifier or EPEEImageClassifier
    title : str
        Title of the backbone.
    batch_size : int or "auto"
    schedule : ndarray of shape (n,)
        Exit layers.
    seconds : dict
        Repetitions of `FULL`, of "ours" and, if measured, of `OWN_FULL`.
    """
    n_layers, mean_exit = estimator.n_layers_, float(schedule.mean())
    pooling = estimator.net_.module_.pooling
    speedup, factor = quotient(seconds, FULL, "ours"), n_layers / mean_exit
    # A mean-pooled exit runs its whole layer.
    limit = factor if pooling == "mean" else arithmetic_limit(n_layers, mean_exit)
    wanted = target(estimator, mean_exit)
    of_limit = LIMIT_SHARE if batch_size != 1 and pooling != "mean" and wanted else None
    own = {}
    if OWN_FULL in seconds and mean_exit < n_layers:
        own["speedup_over_own"] = quotient(seconds, OWN_FULL, "ours")
    beside = "".join(f"; {value:.2f}x our own full depth" for value in own.values())
    return Line(
        f"{title}, {pooling}, {estimator.precision}, batch {batch_size}, "
        f"mean exit {mean_exit:.3g} of {n_layers}",
        f"{speedup:.2f}x, layer count {factor:.2f}x, quotient {speedup / factor:.2f}, "
        f"{speedup / limit:.0%} of the arithmetic limit {limit:.2f}x{beside}",
        _target_text(wanted, of_limit),
        speedup / factor >= wanted and speedup / limit >= (of_limit or 0) if wanted else None,
        settings={
            "backbone": title,
            "pooling": pooling,
            "precision": estimator.precision,
            "batch_size": batch_size,
            "n_samples": len(schedule),
            "n_layers": n_layers,
            "mean_exit": mean_exit,
        },
        values={
            "speedup": speedup,
            "layer_count_factor": factor,
            "quotient": speedup / factor,
            "arithmetic_limit": limit,
            "share_of_limit": speedup / limit,
            **own,
        },
        seconds=seconds,
    )


def _target_text(quotient_wanted: float | None, of_limit: float | None) -> str:
    quotient_text = f"quotient >= {quotient_wanted:g}" if quotient_wanted else ""
    return quotient_text + (f", >= {of_limit:.0%} of the limit" if of_limit else "")


def target(estimator: Any, mean_exit: float) -> float | None:
    """Return the target for the quotient of speed-up and layer-count factor, or None."""
    if mean_exit == estimator.n_layers_:
        return 1.0
    if estimator.net_.module_.pooling == "mean" or mean_exit > estimator.n_layers_ / 2:
        return None
    if estimator.device == "cuda":
        return 0.9
    return 1.2 if estimator.precision == "float32" else 1.1


def asking_first(settings: Settings, *, family: str) -> Iterator[Line]:
    """Compare the engine, which runs heads first if this is faster, with one that never does."""
    for precision in ("float32", "bfloat16"):
        estimator = prepared(family, settings.device, precision)
        n_layers, policy = estimator.n_layers_, estimator._policy(estimator._state)
        engines = {"ours": engine_of(estimator), "plain": copy.copy(engine_of(estimator))}
        engines["plain"]._row_first = RowFirst(n_layers, _NeverPays(timed=True))
        for block in CHOICE_BLOCKS:
            encoded = encode(estimator, samples(family, block.n))
            for share in block.means:
                schedule = forced_exits(block.n, n_layers, share * n_layers, encoded.lengths)
                own = replace(policy, tau=share)  # separate statistics of exits
                runs = {
                    name: functools.partial(
                        run_forced, engine, own, encoded, block.batch_size, schedule
                    )
                    for name, engine in engines.items()
                }
                seconds = interleaved(runs, CHOICE_REPETITIONS)
                yield _choice_line(estimator, family, block, schedule, seconds)


class _NeverPays(RowCosts):
    """Costs with which the engine only runs the head first at the last layer."""

    def row_first_pays(self, n: int, t: int, rate: float, n_read: int = 1) -> bool:
        del n, t, rate, n_read
        return False


def _choice_line(
    estimator: Any, family: str, block: Block, schedule: np.ndarray, seconds: Seconds
) -> Line:
    ratio = quotient(seconds, "ours", "plain")
    return Line(
        f"{FAMILIES[family].title}, {estimator.precision}, batch {block.batch_size}, mean exit "
        f"{schedule.mean():.3g} of {estimator.n_layers_}",
        f"{ratio:.2f}x the time of an engine that never asks first",
        f"<= {MAX_PLAIN_RATIO}x",
        ratio <= MAX_PLAIN_RATIO,
        values={"ratio": ratio},
        seconds=seconds,
    )


def two_marks(settings: Settings) -> Iterator[Line]:
    """Compare heads that read two marks with heads that read one position, on the same texts."""
    for precision in ("float32", "bfloat16"):
        models = {pooling: prepared("minilm", settings.device, precision, pooling) for pooling in
                  ("cls", "entity")}  # fmt: skip
        n, n_layers = settings.enough(128, "auto"), models["cls"].n_layers_
        encoded = encode(models["entity"], marked(real_texts(n)))
        for share in TWO_MEANS:
            schedule = forced_exits(n, n_layers, share * n_layers, encoded.lengths)
            runs = {
                pooling: functools.partial(dynamic, model, encoded, "auto", schedule)
                for pooling, model in models.items()
            }
            seconds = interleaved(runs, settings.repetitions)
            ratio = quotient(seconds, "entity", "cls")
            yield Line(
                f"{FAMILIES['minilm'].title}, {precision}, batch auto, mean exit "
                f"{schedule.mean():.3g} of {n_layers}",
                f"{ratio:.2f}x the time of pooling 'cls'",
                f"<= {MAX_ONE_ROW_RATIO}x",
                ratio <= MAX_ONE_ROW_RATIO,
                values={"ratio": ratio},
                seconds=seconds,
            )


def _row(family: str, precision: str, blocks: tuple[Block, ...], suffix: str = "") -> Row:
    pooling = "mean" if suffix == "-mean" else None
    return Row(
        f"throughput-{family}{suffix}-{precision}",
        f"Throughput, {FAMILIES[family].title}, {precision}, against transformers at full depth",
        functools.partial(
            throughput, family=family, precision=precision, blocks=blocks, pooling=pooling
        ),
        in_quick=family == "bert" and precision == "bfloat16" and not suffix,
    )


# The same number of texts as in other rows of this precision.
MEAN_FLOAT32 = (Block("auto", 128, ALL_MEANS),)
MEAN_BFLOAT16 = (Block("auto", 256, ALL_MEANS),)
# Families with positions in the attention layers; two batch sizes suffice.
OTHERS_FLOAT32 = (Block(16, 64, TWO_MEANS), Block("auto", 128, TWO_MEANS))
OTHERS_BFLOAT16 = (Block(16, 128, TWO_MEANS), Block("auto", 256, TWO_MEANS))
ROWS = [
    *(_row(family, "float32", OTHERS_FLOAT32) for family in ("mpnet", "modernbert", "llama")),
    *(_row(family, "bfloat16", OTHERS_BFLOAT16) for family in ("mpnet", "modernbert", "llama")),
    # Layers that run as a whole, on a CPU only in float32.
    _row("ernie", "float32", OTHERS_FLOAT32),
    *(_row(family, "float32", TEXT_FLOAT32) for family in ("bert", "albert", "gpt2")),
    _row("vit", "float32", IMAGE_FLOAT32),
    _row("vit", "float32", (Block(64, 64, (1 / 3,)),), "-64"),
    *(_row(family, "bfloat16", TEXT_BFLOAT16) for family in ("bert", "albert", "gpt2")),
    _row("vit", "bfloat16", IMAGE_BFLOAT16),
    _row("bert", "float32", MEAN_FLOAT32, "-mean"),
    _row("bert", "bfloat16", MEAN_BFLOAT16, "-mean"),
    Row(
        "two-marks",
        "Pooling 'entity', which reads two rows, against 'cls', which reads one",
        two_marks,
        in_quick=False,
    ),
    Row(
        "asking-first-bert",
        "Asking the head first where it pays against never, BERT-base",
        functools.partial(asking_first, family="bert"),
        in_quick=False,
    ),
]
