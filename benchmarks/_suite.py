"""What a row of the suite is: a name, a title and a function that gives its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._report import Line
from sklearn_epee._nn.devices import has_native_bfloat16


@dataclass(frozen=True)
class Settings:
    """How the suite runs.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    quick : bool
        Small: everything ends within two minutes.
    repetitions : int
        Rounds that count, of every competitor.
    minilm : Path or None
        Folder of the all-MiniLM-L6-v2 checkpoint.
    cache : Path
        Where fine-tuned estimators are kept.
    """

    device: str
    quick: bool
    repetitions: int
    minilm: Path | None
    cache: Path

    def enough(self, n: int, batch_size: int | str) -> int:
        """Return a number of samples that keeps the device busy: more on a GPU, in batches."""
        factors = {1: 1, "auto": 32}
        return n * factors.get(batch_size, 8) if self.device == "cuda" else n

    def fast_precision(self) -> str:
        """Return bfloat16 where the device multiplies it natively, else float32."""
        native = has_native_bfloat16(torch.device(self.device))
        return "bfloat16" if native else "float32"


@dataclass(frozen=True)
class Row:
    """One row of the suite.

    Parameters
    ----------
    name : str
        As given to ``--rows``; a prefix of it selects it, too.
    title : str
    lines : callable
        Takes `Settings` and yields `Line` objects as they are measured.
    in_quick : bool
        Whether the quick mode runs it.
    """

    name: str
    title: str
    lines: Callable[[Settings], Iterator[Line]]
    in_quick: bool = True
