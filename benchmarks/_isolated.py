"""Run functions in separate processes, to measure memory and times without shared state.

``python -m benchmarks._isolated MODULE:FUNCTION ARGUMENTS-AS-JSON`` prints the result as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks._measure import synchronize
from benchmarks._models import NotMeasuredError

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_NEXT = "next"


def isolated(function: str, **arguments: Any) -> dict[str, Any]:
    """Call ``module:function`` with JSON arguments in a new process, and return the result.

    Raises
    ------
    NotMeasuredError
        If the process fails, with the last line of its error output.
    """
    done = subprocess.run(
        _command(function, arguments),
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if done.returncode:
        raise NotMeasuredError(_complaint(done.stderr))
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turns(calls: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Run functions in separate processes, in turns, one step of one function at a time.

    Each function calls `Turns.hand_over` before every step. Times of the same turn can be compared
    even if the load of the machine varies.

    Parameters
    ----------
    calls : mapping of str to (str, dict)
        ``module:function`` and its JSON arguments, by name.

    Returns
    -------
    dict
        The results of the functions, by name.

    Raises
    ------
    NotMeasuredError
        If a process fails, with the last line of its error output.
    """
    with contextlib.ExitStack() as stack:
        running = {}
        for name, call in calls.items():
            running[name] = stack.enter_context(_Player(_command(*call)))
            running[name].play()  # up to its first step, while no other process runs
        while any(player.result is None for player in running.values()):
            for player in running.values():
                player.play()
        return {name: player.result or {} for name, player in running.items()}


class Turns:
    """Controls the turns of a process started by `in_turns`.

    Attributes
    ----------
    seconds : list of float
        Duration of each step.
    cpu_seconds : list of float
        Processor time of all threads in the same steps, which depends less on the load of the
        machine.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._start: tuple[float, float] | None = None

    def hand_over(self) -> None:
        """End a step, wait for the steps of the others, and start the next."""
        synchronize()
        if self._start is not None:
            start, cpu_start = self._start
            self.seconds.append(time.perf_counter() - start)
            self.cpu_seconds.append(time.process_time() - cpu_start)
        print(_NEXT, file=sys.__stdout__, flush=True)
        sys.stdin.readline()
        self._start = time.perf_counter(), time.process_time()


class _Player:
    """A process that takes turns with others."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self.result: dict[str, Any] | None = None

    def __enter__(self) -> _Player:
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self._started = False
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def play(self) -> None:
        """Let the process continue to its next turn, or to its end."""
        if self.result is not None:
            return
        if self._started:
            _pipe(self._process.stdin).write("\n")
            _pipe(self._process.stdin).flush()
        self._started = True
        line = _pipe(self._process.stdout).readline().strip()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise NotMeasuredError(_complaint(self._errors.read()))
        if line != _NEXT:
            self.result = json.loads(line)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("The process was started without pipes.")
    return pipe


def _command(function: str, arguments: Mapping[str, Any]) -> list[str]:
    return [sys.executable, "-m", "benchmarks._isolated", function, json.dumps(arguments)]


def _complaint(errors: str) -> str:
    return (errors.strip().splitlines() or ["the process died"])[-1]


def memory_in_use(device: str) -> int:
    """Return the number of bytes in use, on the GPU or resident in this process."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return _resident("VmRSS")


class PeakMemory:
    """Peak memory in bytes since this object was created."""

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
    raise NotMeasuredError(f"{_STATUS} has no {name}")


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
