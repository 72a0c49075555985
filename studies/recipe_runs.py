"""What the network of a training recipe reaches on the test part, and tables of differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import describe
from studies.bootstrap import draws, interval, quotient, seed_means
from studies.exit_rules import Rule
from studies.rules import N_DRAWS, AnyNetwork, Group, apply, curves

BASE = "defaults"
# The speed-up ratio of policies that run a quarter of the layers.
FAST_RATIO = 0.75

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """A way to train the exits.

    Parameters
    ----------
    what : str
        In words.
    parameters : dict
        Parameters of the estimator that differ from the package's defaults.
    """

    what: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A trained network on the test part.

    The score of a policy or of a layer is the quotient of two sums over the samples: right
    predictions and samples, or twice the right spans and all spans, predicted and true.

    Attributes
    ----------
    seed : int
    result : dict
        What the job has written.
    policy : dict
        The chosen policy: its parameters, "ratio" on test and further scores.
    policy_sums : ndarray of shape (n_samples, 2)
        What each sample adds to numerator and denominator under the chosen policy.
    fast_sums : ndarray of shape (n_samples, 2)
        The same under the policy of best score on dev at a ratio of at least `FAST_RATIO`.
    layer_sums : ndarray of shape (n_samples, n_layers, 2)
        The same of every exit.
    areas : ndarray of shape (1 + N_DRAWS,) or None
        The area under the front of EPEE (see `studies.rules`), in percent, for every resample;
        None if the job has not saved what it takes.
    cut_sums : ndarray of shape (n_samples, 2) or None
        What each sample adds to the score of the backbone cut to the layers that cost at least as
        much as the chosen policy, and trained alone; None if there is none beside the job.
    """

    seed: int
    result: dict[str, Any]
    policy: dict[str, Any]
    policy_sums: NDArray[Any]
    fast_sums: NDArray[Any]
    layer_sums: NDArray[Any]
    areas: NDArray[np.float64] | None = None
    cut_sums: NDArray[Any] | None = None

    @property
    def layer_scores(self) -> NDArray[np.float64]:
        """The score of every exit, (n_layers,)."""
        sums = self.layer_sums.sum(axis=0)
        return quotient(sums[:, 0], sums[:, 1])

    @property
    def policy_score(self) -> float:
        """The score of the chosen policy."""
        return float(quotient(*self.policy_sums.sum(axis=0)))

    @property
    def full_depth(self) -> NDArray[Any]:
        """What each sample adds at the last exit, (n_samples, 2)."""
        return self.layer_sums[:, -1]

    @property
    def first_half(self) -> NDArray[Any]:
        """What each sample adds at each exit of the first half, (n_samples, n_layers // 2, 2)."""
        return self.layer_sums[:, : self.layer_sums.shape[1] // 2]


def areas_of(network: AnyNetwork, rule: Rule) -> NDArray[np.float64]:
    """Return the area under the front of a rule in percent, for every resample; see `Run`."""
    dev, test = (draws(n, N_DRAWS, 0) for n in (network.n_dev, network.n_test))
    areas: NDArray[np.float64] = 100 * curves(apply(rule, network), dev, test).mean(axis=1)
    return areas


def difference_of_areas(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any] | None:
    """Return the difference of two areas per seed in points, with its interval, if both are known.

    Parameters
    ----------
    pairs : sequence of (Run, Run)
        Per seed, the run and the one whose area is subtracted.
    """
    values = [a.areas - b.areas for a, b in pairs if a.areas is not None and b.areas is not None]
    return interval(seed_means(values, 0)) if len(values) == len(pairs) else None


def difference_to_cuts(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return by how much policies are above the cut backbones of equal cost, if all are there."""
    pairs = [(run.policy_sums, run.cut_sums) for run in runs if run.cut_sums is not None]
    return difference(pairs) if len(pairs) == len(runs) else None


def difference(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, Any]:
    """Return the difference of two scores in points, with its interval.

    Parameters
    ----------
    pairs : sequence of (ndarray, ndarray)
        Per seed, what each test sample adds to the score, and to the one that is subtracted:
        (n_samples, 2), or (n_samples, n_layers, 2) for the mean score of these layers.

    Returns
    -------
    dict
        See `studies.bootstrap.interval`. Resamples draw test samples and seeds anew.
    """
    values = []
    for ours, theirs in pairs:
        weights = draws(len(ours), N_DRAWS, 0)
        values.append(100 * (_scores(ours, weights) - _scores(theirs, weights)))
    return interval(seed_means(values, 0))


def _scores(sums: NDArray[Any], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the score on every resample, (n_draws,)."""
    layers = sums if sums.ndim == 3 else sums[:, np.newaxis]
    scores = [
        quotient(weights @ each[:, 0], weights @ each[:, 1]) for each in layers.swapaxes(0, 1)
    ]
    return np.asarray(np.mean(scores, axis=0))


# ------------------------------------------------------------------------------------------ rows


def row_of(
    group: Group, recipe: str, runs: Sequence[Run], base: Mapping[int, Run]
) -> dict[str, Any]:
    """Return the results of a recipe on a data set; JSON can hold them.

    Parameters
    ----------
    group : Group
        Data set, backbone and options.
    recipe : str
    runs : sequence of Run
        One per seed.
    base : mapping of int to Run
        The networks with the package's defaults, by their seeds.
    """
    pairs = [(run, base[run.seed]) for run in runs]
    is_base = recipe == BASE
    first = runs[0].result
    return {
        "data": group.data,
        "backbone": group.backbone,
        "options": group.options,
        "recipe": recipe,
        "seeds": [run.seed for run in runs],
        **{name: first[name] for name in ("n_train", "n_epochs", "n_test", "main_score")},
        "layers": np.mean([run.layer_scores for run in runs], axis=0).tolist(),
        "policy": float(np.mean([run.policy_score for run in runs])),
        "ratio": float(np.mean([run.policy["ratio"] for run in runs])),
        "to_defaults": None
        if is_base
        else difference([(a.policy_sums, b.policy_sums) for a, b in pairs]),
        "fast": None if is_base else difference([(a.fast_sums, b.fast_sums) for a, b in pairs]),
        "front": None if is_base else difference_of_areas(pairs),
        "early": None if is_base else difference([(a.first_half, b.first_half) for a, b in pairs]),
        "to_full_depth": difference([(a.policy_sums, b.full_depth) for a, b in pairs]),
        "to_own_depth": difference([(run.policy_sums, run.full_depth) for run in runs]),
        "to_cut": difference_to_cuts(runs),
        "training_cpu_seconds": float(
            np.mean([run.result["training_cpu_seconds"] for run in runs])
        ),
        "policies": [run.policy for run in runs],
        "machines": list(dict.fromkeys(describe(run.result["machine"]) for run in runs)),
    }


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what identifies a row: data set, backbone, options and recipe."""
    return row["data"], row["backbone"], row["options"], row["recipe"]


def merged(old: Rows, new: Rows) -> Rows:
    """Return the new rows, and the old ones of which there is no new one."""
    replaced = {key_of(row) for row in new}
    return [*new, *(row for row in old if key_of(row) not in replaced)]


# ---------------------------------------------------------------------------------------- tables

HEADER = (
    "| recipe | seeds | layers 1 to M | policy | ratio | to defaults | fast | front | early | "
    "to full depth | own depth | cut | fit s |\n" + "| --- " * 13 + "|"
)
SUMMARY_HEADER = (
    "| recipe | pairs | to defaults | fast | front | early | to full depth | own depth | cut |\n"
    + "| --- " * 9
    + "|"
)
DIFFERENCES = (
    "to_defaults", "fast", "front", "early", "to_full_depth", "to_own_depth", "to_cut",
)  # fmt: skip
SCORES = {"accuracy": "accuracy", "micro_f1": "micro F1", "span_f1": "strict micro F1 of spans"}


def tables(rows: Rows, order: Iterable[str]) -> Iterator[str]:
    """Yield one Markdown table per data set, backbone and options; whole data sets come first.

    Parameters
    ----------
    rows : list of dict
    order : iterable of str
        The names of the recipes, in the order of the lines.
    """
    places = _places(order)
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(key_of(row)[:-1], []).append(row)
    for _, group in sorted(groups.items(), key=lambda item: ("n_train" in item[0][2], item[0])):
        lines = sorted(group, key=lambda row: places.get(row["recipe"], len(places)))
        yield f"\n## {_title(lines[0])}\n\n{_samples(lines[0])}\n\n{HEADER}"
        yield from map(_line, lines)


def _places(order: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate((BASE, *order))}


def summary(rows: Rows, order: Iterable[str]) -> str:
    """Return a Markdown table of all recipes over the pairs of data set and backbone.

    Parameters
    ----------
    rows : list of dict
        Those of parts of the data are left out.
    order : iterable of str
        The names of the recipes, in the order of the lines.
    """
    by_recipe: dict[str, Rows] = {name: [] for name in _places(order)}
    for row in rows:
        if "n_train" not in row["options"]:
            by_recipe[row["recipe"]].append(row)
    return "\n".join([SUMMARY_HEADER, *(_counted(*item) for item in by_recipe.items() if item[1])])


def _counted(recipe: str, rows: Rows) -> str:
    cells = [recipe, str(len(rows)), *(_count(rows, name) for name in DIFFERENCES)]
    return "| " + " | ".join(cells) + " |"


def _count(rows: Rows, name: str) -> str:
    """Return the mean of a difference, and on how many pairs it is above 0."""
    found = [row[name] for row in rows if row.get(name)]
    if not found:
        return ""
    estimates = np.array([each["estimate"] for each in found])
    beyond = np.array([each["beyond_chance"] for each in found])
    above, below = (int(np.sum(beyond & side)) for side in (estimates > 0, estimates < 0))
    # Estimates of 0 are not below what they are compared with.
    n_kept = int(np.sum(estimates >= 0))
    return f"{estimates.mean():+.1f}, {n_kept} of {len(found)} (+{above} -{below})"


def _title(row: Mapping[str, Any]) -> str:
    options = row["options"]
    size = f"{row['n_train']} training samples" if "n_train" in options else options
    return ", ".join(word for word in (row["data"], row["backbone"], size) if word)


def _samples(row: Mapping[str, Any]) -> str:
    return (
        f"{row['n_train']} training samples, {row['n_epochs']} epochs, {row['n_test']} test "
        f"samples; scores are {SCORES[row['main_score']]}."
    )


def _line(row: Mapping[str, Any]) -> str:
    cells = [
        row["recipe"],
        str(len(row["seeds"])),
        " ".join(f"{100 * score:.1f}" for score in row["layers"]),
        f"{100 * row['policy']:.1f}",
        f"{row['ratio']:.2f}",
        # Older results do not have all of them.
        *(_shown(row.get(name)) for name in DIFFERENCES),
        f"{row['training_cpu_seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    text = f"{found['estimate']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"
    return f"**{text}**" if found["beyond_chance"] else text
