"""Run all tests and benchmarks that need a GPU, in one command of at most eight minutes.

    python -m benchmarks.gpu --data-home DIR --out OUT

Runs the tests that need a GPU, then rows of the benchmark suite, the most important ones first.
None is started after `--minutes`; the report lists the rows that were not run. Writes
``gpu-tests.txt``, ``results-cuda.json``, ``results-cuda.md`` and ``gpu.md`` into OUT. Nothing is
downloaded: `--wheels` prints the packages that are missing on a machine with torch and
transformers, with a command to download them elsewhere. Needs the folders of health_advice and
git, 1.5 MB.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Packages that only the tests need.
TESTING = ("pytest", "hypothesis", "accelerate")
TEST_SECONDS = 150
# Runs pytest such that it can be interrupted, even if this process ignores interrupts, as those
# that a shell starts in the background do.
_PYTEST = (
    "import signal, sys, pytest; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.exit(pytest.main(sys.argv[1:]))"
)
# The most important rows first. The first one compares all batch sizes with the full depth, with
# and without compilation.
ROWS = (
    "compiled-bert",
    "latency-bert",
    "training-bfloat16",
    "throughput-bert-float32",
    "throughput-vit-bfloat16",
    "throughput-gpt2-bfloat16",
    "throughput-bert-bfloat16",
    "attention",
    "compiled-vit",
    "compiled-gpt2",
    "latency-vit",
    "latency-gpt2",
    "training-float32",
    "throughput-vit-float32",
    "throughput-gpt2-float32",
    "tokens-bert",
    "towers",
)


@dataclass(frozen=True)
class Clock:
    """The remaining time of the command."""

    minutes: float
    began: float

    def left(self) -> float:
        """Return the seconds until nothing more is started."""
        return 60 * self.minutes - (time.perf_counter() - self.began)


# ---------------------------------------------------------------------------------- what is there


def requirements(root: Path = ROOT) -> list[str]:
    """Return the requirements of the package and its tests, as in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *TESTING]


def missing(wanted: Sequence[str]) -> list[str]:
    """Return the requirements that are not installed, whatever their version.

    Examples
    --------
    >>> missing(["numpy>=1.26", "a-package-that-nobody-has>=2"])
    ['a-package-that-nobody-has']
    """
    names = [re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0] for requirement in wanted]
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def wheels_command(names: Sequence[str]) -> str:
    """Return the command that downloads wheels for this Python on a machine with a network."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"python -m pip download --no-deps --only-binary=:all: --python-version {python} "
        f"-d wheels {' '.join(names)}"
    )


# -------------------------------------------------------------------------------------- the tests


def files_with(marker: str) -> list[str]:
    """Return the test files that use a marker; others can import missing packages."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if f"mark.{marker}" in path.read_text()
    )


def run_tests(out: Path, seconds: float, marker: str = "gpu") -> str:
    """Run the tests that need a GPU; return pytest's last line.

    Parameters
    ----------
    out : Path
        Folder of the log, ``gpu-tests.txt``.
    seconds : float
        Time after which they are interrupted; results until then are reported.
    marker : str, default="gpu"
    """
    command = [
        sys.executable, "-c", _PYTEST, "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short",
        "-m", marker, *files_with(marker),
    ]  # fmt: skip
    log = out / "gpu-tests.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else "nothing ran"


# --------------------------------------------------------------------------------------- the rows


def run_rows(names: Sequence[str], out: Path, device: str, clock: Clock, quick: bool) -> list[str]:
    """Run rows as long as there is time; return a line for each.

    Parameters
    ----------
    names : sequence of str
    out : Path
        Folder of the results.
    device : {"cuda", "cpu"}
    clock : Clock
    quick : bool
        Whether to use small settings, to check that everything runs.
    """
    from benchmarks import __main__ as suite  # noqa: PLC0415 - missing packages are reported first

    given = ["--device", device, "--out", str(out), *(["--quick"] if quick else [])]
    settings = suite.settings_from(suite.parse_args(given))
    results = suite.Results(out, device)
    rows = {row.name: row for row in suite.ROWS}
    lines = []
    for name in names:
        if clock.left() <= 0:
            lines.append(f"{name}: not run, out of time")
            continue
        began = time.perf_counter()
        outcome = _measured(suite, rows[name], settings, results, clock)
        lines.append(f"{name}: {outcome}, {time.perf_counter() - began:.0f} s")
        print(lines[-1], flush=True)
    results.sort([row.name for row in suite.ROWS])
    return lines


def _measured(suite: Any, row: Any, settings: Any, results: Any, clock: Clock) -> str:
    """Measure the lines of a row until the time is up; return the outcome."""
    results.start(row.name, row.title, quick=settings.quick)
    n = 0
    try:
        for line in row.lines(settings):
            suite.keep(row, line, results)
            n += 1
            if clock.left() <= 0:
                return f"{n} lines, then out of time"
    except suite.NotMeasuredError as reason:
        suite.keep(row, suite.Line.not_measured(row.title, str(reason)), results)
        return f"not measured: {reason}"
    except Exception as error:  # noqa: BLE001 - the other rows still run
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        suite.keep(row, suite.Line.not_measured(row.title, text), results)
        return f"failed after {n} lines: {text}"
    return f"{n} lines"


# ------------------------------------------------------------------------------------ the command


def report(out: Path, tests: str, rows: Sequence[str]) -> Iterator[str]:
    """Yield the lines of ``gpu.md``."""
    yield "# On a GPU\n"
    yield f"Tests (`pytest -m gpu`): {tests}\n"
    yield from (f"- {line}" for line in rows)
    tables = sorted(out.glob("results*.md"))
    yield from ("\n" + table.read_text() for table in tables)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, help="folder of what is written")
    add("--data-home", type=Path, help="default: SKLEARN_EPEE_DATA names it")
    add("--minutes", type=float, default=7.0, help="start nothing after these (default: 7)")
    add("--rows", nargs="+", default=list(ROWS), metavar="NAME", help="in this order")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--quick", action="store_true", help="small: to see whether it runs")
    add("--no-tests", action="store_true")
    add("--wheels", action="store_true", help="print missing packages, and exit")
    given = parser.parse_args(argv)
    if given.out is None and not given.wheels:
        parser.error("--out is required, except with --wheels")
    return given


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 1 if something is missing."""
    given = parse_args(argv)
    lacking = missing(requirements())
    if given.wheels or lacking:
        print(f"missing: {', '.join(lacking) or 'nothing'}")
        if lacking:
            print(f"fetch: {wheels_command(lacking)}")
        return int(bool(lacking))
    if given.data_home:
        os.environ["SKLEARN_EPEE_DATA"] = str(given.data_home.absolute())
    clock = Clock(given.minutes, time.perf_counter())
    given.out.mkdir(parents=True, exist_ok=True)
    tests = "not run"
    if not given.no_tests:
        tests = run_tests(given.out, min(TEST_SECONDS, clock.left()))
        print(f"tests: {tests}", flush=True)
    rows = run_rows(given.rows, given.out, given.device, clock, given.quick)
    (given.out / "gpu.md").write_text("\n".join(report(given.out, tests, rows)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
