"""Build wheel and sdist, install each in a separate environment, and run the tests there.

    python tools/check_release.py [--out dist] [--tests "tests -m 'not slow'"]

The environments can import the packages of the running Python, so that nothing large is downloaded
again; only the build backend, hatchling, may be. The tests are those in the sdist. For the sdist,
they run in its folder; for the wheel, in a folder without the sources of the package.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Tests that read the sources of the package, which are missing when a wheel is tested.
OF_SOURCES = ["tests/test_architecture.py"]
MUST_BE_FROM = """
import pathlib, sys, sklearn_epee
assert pathlib.Path(sklearn_epee.__file__).is_relative_to(sys.prefix), sklearn_epee.__file__
print("tested:", sklearn_epee.__file__, sklearn_epee.__version__)
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Print and run a command; raise if it fails."""
    print("$", shlex.join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, check=True)  # noqa: S603


def build(out: Path, work: Path) -> tuple[Path, Path]:
    """Build wheel and sdist in a separate environment, and return their paths."""
    python = environment(work / "build", see_ours=True)
    run(python, "-m", "pip", "install", "-q", "hatchling", cwd=work)
    run(python, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", out, cwd=ROOT)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


def environment(folder: Path, *, see_ours: bool) -> Path:
    """Create a virtual environment that can import the packages here; return its Python."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if see_ours:  # --system-site-packages would use those of the base Python instead
        (ours,) = (path for path in sys.path if path.endswith("site-packages"))
        site = next(folder.rglob("site-packages"))
        # Paths in a .pth file come after the environment's packages, and ignore editable installs.
        (site / "ours.pth").write_text(f"{ours}\n", encoding="utf-8")
    return python


def unpack(sdist: Path, folder: Path) -> Path:
    """Return the folder of an unpacked sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (only,) = folder.iterdir()
    return only


def check(package: Path, sdist: Path, tests: list[str], work: Path) -> None:
    """Install a package and run the tests of the sdist with it."""
    kind = "wheel" if package.suffix == ".whl" else "sdist"
    python = environment(work / kind, see_ours=True)
    flags = ["--no-deps", "--force-reinstall", "--no-build-isolation", "-q"]
    if kind == "sdist":
        run(python, "-m", "pip", "install", "-q", "hatchling", cwd=work)
    run(python, "-m", "pip", "install", *flags, package, cwd=work)
    folder = work / f"{kind}_tests"
    folder.mkdir()
    folder = unpack(sdist, folder)
    # Tests must import the installed package, not the sources next to them.
    sources = folder / "sklearn_epee"
    if kind == "wheel":
        shutil.rmtree(sources)
        tests = [*tests, *(f"--ignore={path}" for path in OF_SOURCES)]
        run(python, "-c", MUST_BE_FROM, cwd=folder)
    run(python, "-m", "pytest", "-q", *tests, cwd=folder)


def main() -> None:
    """Build both and check both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the two files go")
    parser.add_argument("--tests", default="tests", help="arguments of pytest")
    options = parser.parse_args()
    # Background commands of a shell ignore interrupts, which some tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        wheel, sdist = build(out, work)
        for package in (wheel, sdist):
            check(package, sdist, shlex.split(options.tests), work)
    print(f"{wheel.name} and {sdist.name} pass their tests")


if __name__ == "__main__":
    main()
