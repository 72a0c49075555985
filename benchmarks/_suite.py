"""Rows of the benchmark suite, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._report import Line
from sklearn_epee._nn.devices import has_native_bfloat16


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    quick : bool
        Whether to use small settings, for two minutes in total.
    repetitions : int
        Number of measured rounds of every competitor.
    minilm : Path or None
        Folder of the all-MiniLM-L6-v2 checkpoint.
    cache : Path
        Folder for fine-tuned estimators.
    """

    device: str
    quick: bool
    repetitions: int
    minilm: Path | None
    cache: Path

    def enough(self, n: int, batch_size: int | str) -> int:
        """Return a sufficient number of samples to use the device: more in batches on a GPU."""
        factors = {1: 1, "auto": 32}
        return n * factors.get(batch_size, 8) if self.device == "cuda" else n

    def fast_precision(self) -> str:
        """Return bfloat16 if the device supports it natively, otherwise float32."""
        native = has_native_bfloat16(torch.device(self.device))
        return "bfloat16" if native else "float32"


@dataclass(frozen=True)
class Row:
    """One row of the suite.

    Parameters
    ----------
    name : str
        Name for ``--rows``, where prefixes select rows, too.
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
