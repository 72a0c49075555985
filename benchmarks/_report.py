"""The lines of a row, and the two files with the results: results.json and results.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch", "transformers", "skorch", "scikit-learn", "numpy", "tokenizers", "onnxruntime",
    "accelerate",
)  # fmt: skip
HEADER = "| row | configuration | measured | target | reached |\n| --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Parameters
    ----------
    configuration : str
        Backbone, pooling, precision, batch size and so on, as text.
    measured : str
        The result, as text.
    target : str
        The target; "" if there is none.
    reached : bool or None
        None if there is no target or nothing was measured.
    settings : dict
        The configuration.
    values : dict of str to float
        The result.
    seconds : dict of str to list of float
        Times of every repetition of every competitor.
    """

    configuration: str
    measured: str
    target: str = ""
    reached: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def not_measured(cls, configuration: str, reason: str) -> Line:
        return cls(configuration, f"not measured: {reason}")


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the versions."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str | None:
    try:
        completed = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return completed.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Results:
    """The results so far; both files are written again after every line.

    Parameters
    ----------
    folder : Path
        Rows of earlier runs in it are kept until they are measured again.
    device : str
        Results on a GPU are written to separate files.
    """

    def __init__(self, folder: Path, device: str) -> None:
        suffix = "" if device == "cpu" else f"-{device}"
        self._json = folder / f"results{suffix}.json"
        self._markdown = folder / f"results{suffix}.md"
        self._machine = machine(device)
        self.rows: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self._json.exists():
            self.rows = json.loads(self._json.read_text())["rows"]

    def start(self, row: str, title: str, *, quick: bool) -> None:
        """Begin a row; its first line replaces the results of an earlier run."""
        self._pending = {
            "title": title,
            "quick": quick,
            "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": self._machine,
            "lines": [],
        }
        self._row = row

    def add(self, line: Line) -> None:
        """Add a line to the current row, in both files."""
        self._pending["lines"].append(asdict(line))
        self.rows[self._row] = self._pending
        self._write()

    def sort(self, order: Iterable[str]) -> None:
        """Sort the rows in the order of the suite."""
        known = [name for name in order if name in self.rows]
        self.rows = {name: self.rows[name] for name in known}

    def _write(self) -> None:
        content = {"machine": self._machine, "rows": self.rows}
        _replace(self._json, json.dumps(content, indent=1, allow_nan=False) + "\n")
        _replace(self._markdown, as_markdown(self.rows))


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    draft.replace(path)


def as_markdown(rows: dict[str, Any]) -> str:
    """Return a Markdown table of the rows, after a description of the machines."""
    machines = {describe(row["machine"]): None for row in rows.values()}
    table = [table_row(name, line) for name, row in rows.items() for line in row["lines"]]
    quick = [name for name, row in rows.items() if row["quick"]]
    notes = [f"Quick runs, small and noisy: {', '.join(quick)}.", ""] if quick else []
    return "\n".join([*machines, "", *notes, HEADER, *table]) + "\n"


def describe(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {got}" for name, got in found["packages"].items() if got)
    return (
        f"{found['cpu']} ({found['architecture']}), {found['cores']} cores, {found['threads']} "
        f"threads, device {found['device']}, Python {found['python']}, {versions}, commit "
        f"{found['commit']}.  "
    )


def table_row(name: str, line: dict[str, Any]) -> str:
    reached = {True: "yes", False: "no", None: ""}[line["reached"]]
    cells = [name, line["configuration"], line["measured"], line["target"], reached]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
