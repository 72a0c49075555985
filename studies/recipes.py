"""Compare training recipes with the package's defaults, at their training time, on real data.

Run from the repository root:

    python -m studies.recipes --data-home DIR --checkpoints DIR --out OUT

`OUT` is the folder of the study, whose networks have the package's defaults; those that are
missing are trained first. Every recipe trains one network per seed, chooses on dev the policy of
best score at a speed-up ratio of at least 0.52, and reads it on test. Trainings are jobs like those
of the study: they are kept one by one and not repeated. The results are written to
``results/recipes.json`` and ``.md``; ``--report`` does only this, ``--keep`` keeps results that are
not in `OUT`, and ``--docs`` writes the committed tables into ``docs/training_recipes.md``.

With ``--small``, texts are classified after short trainings on small parts of the data. Use another
`OUT` for them, so that their networks are not reported as the study's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from studies import class_recipes, span_recipes
from studies.jobs import BACKBONES as ALL_BACKBONES
from studies.jobs import NO_BACKBONE, Job, Work, options_of
from studies.policies import MIN_RATIO
from studies.recipe_runs import BASE, FAST_RATIO, Recipe, Rows, merged, row_of, summary, tables
from studies.report import replaced_block
from studies.rules import RANGE, Group, jobs_in

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "training_recipes.md"
DOCS_BLOCK = "<!-- begin: python -m studies.recipes --docs -->", "<!-- end -->"
BACKBONES = ("all-MiniLM-L6-v2", "dinov2-small")
CHECKPOINTS = [name for name in ALL_BACKBONES if name != NO_BACKBONE]
OUT = Path(tempfile.gettempdir()) / "sklearn-epee-study"
N_SEEDS = 2

# The recipes of classes, and those of spans.
MODULES = (class_recipes, span_recipes)
SETS = (*class_recipes.DATA, *span_recipes.DATA)
RECIPES: dict[str, Recipe] = {**class_recipes.RECIPES, **span_recipes.RECIPES}


def module_of(data: str) -> Any:
    """Return the module of the recipes of a data set."""
    return class_recipes if data in class_recipes.DATA else span_recipes


def jobs(
    sets: Sequence[str] = SETS,
    recipes: Sequence[str] = tuple(RECIPES),
    n_seeds: int = N_SEEDS,
    *,
    small: bool = False,
    backbones: Sequence[str] = BACKBONES,
    image_size: int | None = None,
) -> list[Job]:
    """Return the jobs in their order: all of seed 0 first; the kind of a job is its recipe.

    Parameters
    ----------
    sets, recipes : sequence of str
    n_seeds : int
    small : bool, default=False
        Short trainings on small parts of the data, of the sets that have any.
    backbones : sequence of str
        Of which each data set has those that can read it.
    image_size : int, default=None
        Pixels of images; None: as many as the checkpoint expects.
    """
    return [
        Job(data, backbone, seed, kind, _options(data, backbone, small, image_size))
        for seed in range(n_seeds)
        for data in sets
        if not small or data in class_recipes.SMALL
        for backbone in backbones
        for kind, how in module_of(data).KINDS.items()
        if kind in (module_of(data).DEFAULTS, *recipes) and how.applies(data, backbone)
    ]


def _options(
    data: str, backbone: str, small: bool, image_size: int | None
) -> tuple[tuple[str, Any], ...]:
    if small:
        return tuple(class_recipes.SMALL[data].items())
    return options_of(data, backbone, {"image_size": image_size})


def rows_in(out: Path) -> Rows:
    """Return the results of all recipes of which a folder has trained networks."""
    return [row for module in MODULES for row in _rows_of(out, module)]


def _rows_of(out: Path, module: Any) -> Iterator[dict[str, Any]]:
    for group, folders in _folders_in(out, module).items():
        runs = {
            recipe: [module.read(group.data, seed, folder) for seed, folder in by_seed.items()]
            for recipe, by_seed in folders.items()
        }
        base = {run.seed: run for run in runs[BASE]}
        for recipe, of_recipe in runs.items():
            comparable = [run for run in of_recipe if run.seed in base]
            if comparable:
                yield row_of(group, recipe, comparable, base)


def _folders_in(out: Path, module: Any) -> dict[Group, dict[str, dict[int, Path]]]:
    """Return the folders of jobs by recipe and seed, of data with a recipe and the defaults."""
    kinds = {BASE: module.DEFAULTS} | {recipe: recipe for recipe in module.RECIPES}
    found: dict[Group, dict[str, dict[int, Path]]] = {}
    for recipe, kind in kinds.items():
        for group, seed, folder in jobs_in(out, kind):
            if group.data in module.DATA:
                found.setdefault(group, {}).setdefault(recipe, {})[seed] = folder
    return {group: by for group, by in found.items() if BASE in by and len(by) > 1}


# ---------------------------------------------------------------------------------- the report

READING = f"""\
All training samples and the package's number of epochs, unless the title has another number. Scores
are of the test part, in percent, means over the seeds. "policy" is the one of best score on dev at
a speed-up ratio of at least {MIN_RATIO} there, "ratio" its ratio on test. "to defaults" is its
score less that of the policy of the package's defaults with the same seeds, "fast" the same for the
policies of best score on dev at a ratio of at least {FAST_RATIO}, "front" the mean score over all
ratios from {RANGE[0]} to {RANGE[1]} (along the front of policies chosen on dev) less theirs,
"early" the mean score of the exits of the first half less theirs, "to full depth" the policy's
score less that of the defaults' last exit, "own depth" less that of its own last exit, "cut" less
that of the backbone cut to the layers that cost at least as much, and trained alone with one linear
head (0 or more in these two reaches the aim). In brackets are 95 %
bootstrap intervals over samples and seeds, paired; bold ones leave out 0. The line of the defaults
may have more seeds than the others. "fit s" are CPU seconds of the training, on one thread of a
machine that others used at the same time."""

SUMMARY_READING = """\
Means over the pairs of data set and backbone that a recipe was measured on (not the same for all
recipes), in points, on how many of them the difference is not below 0, and in brackets on how many
it is above and below 0 beyond chance."""


def report(out: Path, folder: Path, keep: bool = False) -> None:
    """Write the results.

    Parameters
    ----------
    out : Path
        The folder of the jobs.
    folder : Path
        The folder of ``recipes.json`` and ``recipes.md``.
    keep : bool, default=False
        Keep the rows of ``recipes.json`` that are not in `out`.
    """
    rows = rows_in(out)
    path = folder / "recipes.json"
    if keep and path.exists():
        rows = merged(json.loads(path.read_text())["rows"], rows)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    (folder / "recipes.md").write_text(markdown(rows).rstrip() + "\n")


def markdown(rows: Rows) -> str:
    """Render the results as one table per data set."""
    machines = dict.fromkeys(machine for row in rows for machine in row["machines"])
    command = "Command: `python -m studies.recipes --data-home DIR --checkpoints DIR --out OUT`."
    what = [
        f"- {name}: {recipe.what}." for module in MODULES for name, recipe in module.RECIPES.items()
    ]
    return "\n".join(
        [
            *(*machines, "", command, "", READING, "", *dict.fromkeys(what)),
            *("", "## All pairs", "", SUMMARY_READING, "", summary(rows, RECIPES)),
            *tables(rows, RECIPES),
        ]
    )


def docs(results: Path = RESULTS) -> str:
    """Return what the page of recipes shows of the results: how to read them, and the tables."""
    text = (results / "recipes.md").read_text()
    tables_of_text = text[text.index("\n## ") :].replace("\n## ", "\n### ")
    return f"{READING}\n{tables_of_text}"


def write_docs(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the tables into the page of recipes."""
    page.write_text(replaced_block(page.read_text(), docs(results), DOCS_BLOCK))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a job failed."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.recipes", description=__doc__.split("\n", maxsplit=1)[0]
    )
    add = parser.add_argument
    add("--data-home", type=Path, help="default: SKLEARN_EPEE_DATA names it")
    add("--checkpoints", type=Path, help="has a folder for each checkpoint")
    add("--out", type=Path, default=OUT, help=f"folder of the study's jobs ({OUT})")
    add("--results", type=Path, default=RESULTS, help="folder of the report")
    add("--sets", nargs="+", choices=SETS, default=SETS)
    add("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--backbones", nargs="+", choices=CHECKPOINTS, default=BACKBONES)
    add("--seeds", type=int, default=N_SEEDS, help=f"number of seeds ({N_SEEDS})")
    add("--image-size", type=int, help="pixels that checkpoints read (default: their own)")
    add("--small", action="store_true", help="short trainings on small parts of the data")
    add("--minutes", type=float, default=float("inf"), help="start no job after these")
    add("--report", action="store_true", help="write the results, train nothing")
    add("--keep", action="store_true", help="keep results of --results that are not in --out")
    add("--docs", action="store_true", help="write the results into the docs, no more")
    given = parser.parse_args(arguments)
    if given.docs:
        write_docs(given.results)
        return 0
    failed = [] if given.report else _trained(given)
    report(given.out, given.results, given.keep)
    return int(bool(failed))


def _trained(given: argparse.Namespace) -> list[Job]:
    """Train what is missing; return the jobs that failed."""
    warnings.filterwarnings("ignore", message=".*longer than max_length.*")
    wanted = jobs(
        given.sets,
        given.recipes,
        given.seeds,
        small=given.small,
        backbones=given.backbones,
        image_size=given.image_size,
    )
    until = time.time() + 60 * given.minutes
    failed: list[Job] = []
    for module in MODULES:
        of_module = [job for job in wanted if module_of(job.data) is module]
        work = Work(
            of_module, given.out, given.data_home, given.checkpoints, until, kinds=module.KINDS
        )
        failed += work.run()
    return failed


if __name__ == "__main__":
    sys.exit(main())
