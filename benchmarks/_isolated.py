"""One function in a process of its own, for memory and for times that must not share a state.

``python -m benchmarks._isolated MODULE:FUNCTION ARGUMENTS-AS-JSON`` prints what it gives as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks._models import NotMeasuredError

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def isolated(function: str, **arguments: Any) -> dict[str, Any]:
    """Call ``module:function`` with JSON arguments in a fresh process and give what it returns.

    Raises
    ------
    NotMeasuredError
        If the process fails; the last line of its complaint is the reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._isolated", function, json.dumps(arguments)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if done.returncode:
        raise NotMeasuredError((done.stderr.strip().splitlines() or ["the process died"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def memory_in_use(device: str) -> int:
    """Bytes in use: of the GPU, or resident in this process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return _resident("VmRSS")


class PeakMemory:
    """Bytes at the highest point since this was made."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        if not _RESET.exists():
            raise NotMeasuredError("peak memory is read from /proc, which this system lacks")
        _RESET.write_text("5")

    def read(self) -> int:
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated()
        return _resident("VmHWM")


def _resident(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise NotMeasuredError(f"{_STATUS} does not tell {name}")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):
        yield


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    with warnings.catch_warnings(), _stdout_to_stderr():
        warnings.simplefilter("ignore")
        found = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
