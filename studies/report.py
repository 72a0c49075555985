"""Write the report: its data, one HTML page, Markdown, pictures, and the tables of the README.

    python -m studies.report OUT --results DIR      from the folder of the jobs
    python -m studies.report OUT --keep             and keep pairs that only study.json has
    python -m studies.report --results DIR          from DIR/study.json, which is not changed
    python -m studies.report --docs                 update the blocks of README and docs

Everything except `study.json` is made from `study.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies import tables
from studies.collect import collect
from studies.drawing import Picture, counted
from studies.figures import pictures
from studies.kept import with_kept
from studies.page import Folded, Part, Section, as_html, as_markdown
from studies.tables import Table

__all__ = ["collect", "main", "measured", "sections", "write_report"]

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
TITLE = "Early exits against everything else: the study"
# Pictures in the docs; those of single cells are only on the HTML page.
OF_DOCS = ("changes", "rivals", "tradeoff", "layers", "degenerate", "areas")
BLOCK = "<!-- begin: python -m studies.report --docs -->", "<!-- end -->"

READING = """\
Everything is chosen on the validation part: settings of the rivals, policies, settings of the
rules. The test part is read once, for what is reported.

The ratio is the share of layers that are saved, 1 - (layers run) / (layers available); the speed-up
by layers is 1 / (1 - ratio): 2.1x is a ratio of 0.52. The clock is measured apart, since layers are
not all that a prediction costs.

The main score is accuracy; of ddi2013, whose pairs are mostly “false”, it is the micro-F1 of the
other four classes; of spans (phee_events, ddi2013_drugs, git_arguments), the F1 of those that match
exactly.

Intervals are 95 % bootstrap intervals over test samples and seeds, paired: both sides of a
difference are scored on the same resamples. “Beyond chance” means that the interval does not
contain 0; of twenty comparisons of equals, one is expected to be beyond chance, too.

A cut backbone is the same checkpoint with its first layers only and one head, fine-tuned alone with
the same epochs and rates. It is what early exits must beat at equal cost."""
DOUBTS = """\
With few seeds the intervals say little about other trainings, and with one seed nothing: they are
about other samples.

Networks were trained for the package's default number of epochs where nothing else is said, not
until nothing could be gained any more. What a title notes (training samples, epochs, pixels) is a
cap that time set.

The paper's backbones (BERT, ALBERT, GPT-2, ViT) are larger than most of these, its ICU notes and
supplement notes are not public, and its part of DDI cannot be drawn again: its numbers and these
are not of the same data."""


def write_report(
    out: Path, results: Path, *, n_draws: int | None = None, keep: bool = False
) -> dict[str, Any]:
    """Collect the results of all jobs and write the report.

    Parameters
    ----------
    out : Path
        The folder of the jobs; some jobs may be missing.
    results : Path
        Folder for `study.json`, `study.html`, `study.md` and `pictures/`.
    n_draws : int, default=None
        Number of resamples; None: the default of `collect`.
    keep : bool, default=False
        Whether to keep pairs of data set and backbone that are in `study.json` but not in `out`.

    Returns
    -------
    dict
        The content of `study.json`.
    """
    study = collect(out) if n_draws is None else collect(out, n_draws=n_draws)
    results.mkdir(parents=True, exist_ok=True)
    if keep:
        study = with_kept(study, _read(results))
    _replace(results / "study.json", as_json(study))
    write_pages(study, results)
    return study


def _read(results: Path) -> dict[str, Any]:
    study: dict[str, Any] = json.loads((results / "study.json").read_text(encoding="utf-8"))
    return study


def as_json(study: dict[str, Any]) -> str:
    """Return the study as JSON with one line per cell, for readable diffs."""
    head = {key: value for key, value in study.items() if key != "cells"}
    cells = ",\n".join(_compact(cell) for cell in study["cells"])
    return f'{_compact(head)[:-1]},"cells":[\n{cells}\n]}}\n'


def _compact(found: Any) -> str:
    return json.dumps(found, separators=(",", ":"), allow_nan=False)


def write_pages(study: dict[str, Any], results: Path) -> None:
    """Write the HTML page, the Markdown and the pictures of a study."""
    drawn = pictures(study)
    (results / "pictures").mkdir(exist_ok=True)
    for picture in drawn:
        (results / "pictures" / f"{picture.name}.png").write_bytes(picture.png)
    found = sections(study, drawn)
    _replace(results / "study.html", as_html(TITLE, found))
    _replace(results / "study.md", f"# {TITLE}\n\n{as_markdown(found, pictures='pictures')}")


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


# --------------------------------------------------------------------------------- the sections


def sections(study: dict[str, Any], drawn: Sequence[Picture] = ()) -> list[Section]:
    """Return the sections of the report.

    Parameters
    ----------
    study : dict
        Result of `collect`.
    drawn : sequence of Picture
    """
    shown = {picture.name: picture for picture in drawn}
    grids = [picture for name, picture in shown.items() if name.startswith("grid-")]
    found: list[tuple[str, Sequence[Part | None]]] = [
        ("What ran", [*_about(study), tables.what_ran(study)]),
        ("How to read it", [_points(READING)]),
        (
            "What the paper claims, what we measured",
            [
                tables.claims(study), shown.get("changes"), tables.aims(study),
                tables.overview(study),
            ],
        ),
        (
            "Against what else could be used",
            [
                shown.get("rivals"),
                tables.beaten(study),
                tables.above(study),
                _folded("Every rival: scores, times, cost of training", tables.rivals(study)),
            ],
        ),
        ("Entropy, patience, and both", [shown.get("tradeoff"), tables.policies(study)]),
        (
            "Layer by layer",
            [shown.get("layers"), _folded("Every layer in numbers", tables.layers(study))],
        ),
        ("Every tau with every patience", grids),
        ("The degenerate cases", [shown.get("degenerate")]),
        (
            "Exit rules side by side",
            [
                tables.rules(study), shown.get("areas"), shown.get("fronts-confidence"),
                shown.get("fronts-agreement"), shown.get("fronts-gates"),
                tables.rules_by_cell(study),
            ],
        ),
        ("What to doubt", [_points(DOUBTS)]),
        ("What is missing", [*_missing(study)]),
    ]  # fmt: skip
    return [Section(title, there) for title, parts in found if (there := _there(parts))]


def _points(text: str) -> tuple[str, ...]:
    return tuple(" ".join(point.split()) for point in text.split("\n\n"))


def _folded(title: str, found: Sequence[Table]) -> Folded | None:
    return Folded(title, tuple(found)) if found else None


def _there(parts: Sequence[Part | None]) -> list[Part]:
    return [part for part in parts if part]


def _about(study: dict[str, Any]) -> list[Part]:
    """Return a description of the runs and machines."""
    cells = study["cells"]
    if not cells:
        return ["Nothing is done yet."]
    sets = list(dict.fromkeys(cell["data"] for cell in cells))
    backbones = list(dict.fromkeys(cell["backbone"] for cell in cells))
    seeds = max(len(cell["seeds"]) for cell in cells)
    caps = "; ".join(study["notes"])
    words = (
        f"{counted(len(sets), 'data set')} ({', '.join(sets)}) with {', '.join(backbones)}: "
        f"{counted(len(cells), 'pair')}, up to {counted(seeds, 'seed')}. "
        + (f"All were capped: {caps}. " if caps else "")
        + ("What else was capped is in the titles. " if any(c["notes"] for c in cells) else "")
        + f"Intervals are of {study['n_draws']} resamples."
    )
    machines = [f"Machine {n}: {words}" for n, words in enumerate(study["machines"], 1)]
    return [words, (*machines, f"Commits: {', '.join(study['commits'])}.")]


def _missing(study: dict[str, Any]) -> list[Part]:
    return [tuple(study["missing"])] if study["missing"] else ["Nothing that was planned."]


# ------------------------------------------------------------------------------ README and docs


def measured(study: dict[str, Any]) -> str:
    """Return the README's section "Results", without its headline.

    Parameters
    ----------
    study : dict
        Result of `collect`.
    """
    parts: list[Part | None] = [
        (
            f"{_about(study)[0]} Written by `python -m studies`, from "
            "[studies/results/study.json](studies/results/study.json); the whole study, with "
            "machine, versions and intervals, is in [docs/study.md](docs/study.md)."
        ),
        tables.overview(study),
    ]
    return _untitled(parts)


def _untitled(parts: Sequence[Part | None]) -> str:
    """Return a section without its headline."""
    return as_markdown([Section("", _there(parts))]).partition("\n\n")[2]


def comparison(study: dict[str, Any]) -> str:
    """Return the block of docs/comparison.md: alternatives that are better than early exits.

    Parameters
    ----------
    study : dict
        Result of `collect`.
    """
    return _untitled([tables.above(study), tables.beaten(study)])


def docs(study: dict[str, Any]) -> str:
    """Return the block of docs/study.md, with links to the pictures in docs/study.

    Parameters
    ----------
    study : dict
        Result of `collect`.
    """
    drawn = [picture for picture in pictures(study) if picture.name in OF_DOCS]
    return as_markdown(sections(study, drawn), pictures="study")


def write_docs(study: dict[str, Any], root: Path = ROOT) -> None:
    """Update the tables and pictures of the README, docs/study.md and docs/comparison.md.

    Parameters
    ----------
    study : dict
    root : Path
        Root of the repository.
    """
    folder = root / "docs" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures(study):
        if picture.name in OF_DOCS:
            (folder / f"{picture.name}.png").write_bytes(picture.png)
    for path, text in (
        (root / "README.md", measured(study)),
        (root / "docs/study.md", docs(study)),
        (root / "docs/comparison.md", comparison(study)),
    ):
        _replace(path, replaced_block(path.read_text(encoding="utf-8"), text))


def replaced_block(page: str, text: str, marks: tuple[str, str] = BLOCK) -> str:
    """Replace the text between two marks of a page.

    Raises
    ------
    ValueError
        If the page does not have both marks.
    """
    begin, end = marks
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"The page must hold {begin!r} and {end!r}.")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report, or update README and docs."""
    parser = argparse.ArgumentParser(prog="python -m studies.report", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the jobs")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS.name}")
    parser.add_argument(
        "--keep", action="store_true", help="keep pairs that only study.json of --results has"
    )
    parser.add_argument("--docs", action="store_true", help="write README and docs anew")
    given = parser.parse_args(arguments)
    if given.out is not None:
        study = write_report(given.out, given.results, keep=given.keep)
    else:
        study = _read(given.results)
        write_pages(study, given.results)
    if given.docs:
        write_docs(study)


if __name__ == "__main__":
    main()
