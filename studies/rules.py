"""Compare exit rules on the same networks: fronts chosen on dev, evaluated on test, with areas.

    python -m studies.rules OUT [--store] [--draws 500] [--halves N] [--json FILE]

reads the networks of the study (jobs "exits" and "events" in the folder OUT) and prints, for every
data set and backbone, the area under the front of every rule and its difference to that of EPEE,
with intervals. Nothing is trained.

The front of a rule consists of the settings for which no other setting is both faster and better on
dev. On test, the score at a speed-up ratio is interpolated between neighboring settings (which a
mix of two policies reaches); below the slowest setting it is constant. The area is the mean of this
score over the ratios of `RANGE`. In every resample, dev samples, test samples and networks are
drawn and the front is chosen again, with the same draws for all rules, so that differences are
paired.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks._data import load
from benchmarks.default_score import thinned
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from studies.bootstrap import Floats, Score, draws, interval, mean_interval, seed_means
from studies.exit_rules import RULES, Network, Rule, Variant
from studies.rule_sums import Applied, Setting, Sums
from studies.sets import NEGATIVE_CODES
from studies.span_rules import SPAN_RULES, SpanNetwork, sums_of

# Number of settings of each rule, evenly distributed over its variants.
N_SETTINGS = 400
# Minimum number of settings of a variant.
MIN_SETTINGS = 8
# Range of speed-up ratios for the areas.
RANGE = (0.25, 0.75)
GRID = np.linspace(*RANGE, 51)
CURVE = np.round(np.linspace(0.0, 0.9, 46), 2)
N_DRAWS = 500
REFERENCE = "epee"

AnyNetwork = Network | SpanNetwork


def apply(rule: Rule, network: AnyNetwork, n_settings: int = N_SETTINGS) -> Applied:
    """Apply a rule to a network: all variants, with thresholds at quantiles of doubts on dev.

    Parameters
    ----------
    rule : Rule
    network : Network or SpanNetwork
    n_settings : int
        Maximum number of settings, unless variants would have fewer than `MIN_SETTINGS`.

    Returns
    -------
    Applied
    """
    variants = list(rule.variants(network))
    per_variant = max(MIN_SETTINGS, n_settings // len(variants))
    offered = [
        PolicySpace(v.dev).quantile_taus(per_variant) if v.thresholds is None else v.thresholds
        for v in variants
    ]
    pairs = list(zip(variants, offered, strict=True))
    sums: Callable[..., Sums] = sums_of if isinstance(network, SpanNetwork) else _sums
    return Applied(
        [Setting(v.parameters, float(tau)) for v, taus in pairs for tau in taus],
        sums(network, pairs, "dev"),
        sums(network, pairs, "test"),
    )


def _sums(
    network: Network, pairs: Iterable[tuple[Variant, NDArray[np.float64]]], name: str
) -> Sums:
    """Return the sums for all thresholds of all variants on a part, in order."""
    y = getattr(network, f"{name}_y")
    rows = np.arange(len(y))
    exits, predicted = [], []
    for variant, taus in pairs:
        staged = getattr(variant, name)
        found = np.stack([staged.exit_layers(tau, variant.patience) for tau in taus])
        exits.append(found)
        predicted.append(staged.predictions[..., 0][rows, found - 1])
    above, below = network.score.counts(np.concatenate(predicted), y)
    layers = np.concatenate(exits).astype(np.float32)
    return Sums(above, below, layers, network.n_layers)


def front_of(ratios: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the settings on the Pareto front, from fast to slow.

    Parameters
    ----------
    ratios, scores : ndarray of shape (n_settings,)

    Returns
    -------
    ndarray of int64
    """
    order = np.lexsort((scores, ratios))[::-1]
    best = np.maximum.accumulate(scores[order])
    is_better = np.ones(len(order), bool)
    is_better[1:] = best[1:] > best[:-1]
    return order[is_better]


def curve_of(
    ratios: NDArray[np.float64], scores: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the score at each ratio of a grid, interpolated between the settings of a front."""
    order = np.lexsort((scores, ratios))
    return np.interp(grid, ratios[order], scores[order])


def curves(
    applied: Applied, dev_weights: Floats, test_weights: Floats, grid: NDArray[np.float64] = GRID
) -> NDArray[np.float64]:
    """Return the test scores along the front, for every resample.

    Parameters
    ----------
    applied : Applied
    dev_weights, test_weights : ndarray of shape (n_weightings, n_samples)
    grid : ndarray of shape (n_ratios,)

    Returns
    -------
    ndarray of shape (n_weightings, n_ratios)
    """
    dev = applied.dev.ratios(dev_weights), applied.dev.scores(dev_weights)
    test = applied.test.ratios(test_weights), applied.test.scores(test_weights)
    found = np.empty((len(dev_weights), len(grid)))
    for row, (dev_ratios, dev_scores, ratios, scores) in enumerate(zip(*dev, *test, strict=True)):
        chosen = front_of(dev_ratios, dev_scores)
        found[row] = curve_of(ratios[chosen], scores[chosen], grid)
    return found


def compare(
    networks: Sequence[AnyNetwork],
    rules: Iterable[Rule] | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare exit rules on the networks of several seeds.

    Parameters
    ----------
    networks : sequence of Network or SpanNetwork
        Of the same data set and backbone, one per seed.
    rules : iterable of Rule, default=None
        Must include EPEE. None: all rules.
    n_draws : int
        Number of resamples.
    seed : int
        Seed of the resamples.

    Returns
    -------
    dict
        Can be saved as JSON. For each rule the area and its difference to that of EPEE, with
        intervals, and the curve of the front on test.
    """
    areas, shown = {}, {}
    for rule in rules_for(networks[0]) if rules is None else rules:
        per_network, curve = [], []
        for network in networks:
            applied = apply(rule, network)
            dev, test = (draws(n, n_draws, seed) for n in (network.n_dev, network.n_test))
            per_network.append(curves(applied, dev, test).mean(axis=1))
            curve.append(curves(applied, dev[:1], test[:1], CURVE)[0])
        areas[rule.name] = seed_means(per_network, seed)
        shown[rule.name] = {"title": rule.title, "source": rule.source, "bound": rule.reads_labels}
        shown[rule.name]["curve"] = np.mean(curve, axis=0).tolist()
    for name, area in areas.items():
        shown[name]["area"] = interval(area)
        shown[name]["to_epee"] = interval(area - areas[REFERENCE])
    return about(networks) | {"rules": shown}


def over_halves(
    network: Network, n_halves: int, rules: Iterable[Rule] = tuple(RULES.values())
) -> dict[str, dict[str, float]]:
    """Compare exit rules on random splits of all dev and test samples into two halves.

    This shows which differences depend on the particular dev part. The halves overlap between
    splits, so their spread is no estimate of the variation between samples.

    Parameters
    ----------
    network : Network
    n_halves : int
        Number of splits.
    rules : iterable of Rule
        Must include EPEE.

    Returns
    -------
    dict of str to dict
        By rule: "difference", the mean difference of the area to that of EPEE, and "better", the
        fraction of splits in which it is larger.
    """
    rules, areas = list(rules), []
    for seed in range(n_halves):
        half = _redrawn(network, seed)
        ones = [np.ones((1, len(y)), np.float32) for y in (half.dev_y, half.test_y)]
        areas.append([curves(apply(rule, half), ones[0], ones[1]).mean() for rule in rules])
    reference = [rule.name for rule in rules].index(REFERENCE)
    differences = np.array(areas) - np.array(areas)[:, [reference]]
    return {
        rule.name: {"difference": float(column.mean()), "better": float(np.mean(column > 0))}
        for rule, column in zip(rules, differences.T, strict=True)
    }


def _redrawn(network: Network, seed: int) -> Network:
    """Return the network with dev and test samples drawn again, as halves of all samples."""
    both = StagedPredictions.concatenate([network.dev, network.test])
    y = np.concatenate([network.dev_y, network.test_y])
    rows = np.random.default_rng(seed).permutation(len(y))
    dev, test = rows[: len(y) // 2], rows[len(y) // 2 :]
    return Network(both.take(dev), both.take(test), y[dev], y[test], network.score)


def rules_for(network: AnyNetwork) -> Iterable[Rule]:
    """Return all rules for the predictions of a network, classes or spans."""
    return (SPAN_RULES if isinstance(network, SpanNetwork) else RULES).values()


def about(networks: Sequence[AnyNetwork]) -> dict[str, Any]:
    """Return the sizes and scores of the networks of a comparison."""
    full = [network.full_depth() for network in networks]
    return {
        "score": networks[0].score.name,
        "range": list(RANGE),
        "curve_ratios": CURVE.tolist(),
        "n_seeds": len(networks),
        "n_layers": networks[0].n_layers,
        "n_dev": networks[0].n_dev,
        "n_test": networks[0].n_test,
        "full_depth": float(np.mean(full)),
    }


# ---------------------------------------------------------------------------------- all networks


class Group(NamedTuple):
    """Data set, backbone and options, which are the same for the networks of several seeds."""

    data: str
    backbone: str
    options: str = ""

    @property
    def title(self) -> str:
        """The group as text."""
        return ", ".join(word for word in self if word)


def jobs_in(out: Path, kind: str = "exits") -> Iterator[tuple[Group, int, Path]]:
    """Yield the group, seed and folder of the finished jobs of a kind, in the order of seeds."""
    found = []
    for path in out.rglob("result.json"):
        job = json.loads(path.read_text())["job"]
        if job["kind"] == kind:
            options = ",".join(f"{key}={value}" for key, value in sorted(job["options"].items()))
            found.append((Group(job["data"], job["backbone"], options), job["seed"], path.parent))
    yield from sorted(found)


def networks_in(out: Path, kind: str = "exits") -> dict[Group, list[Network]]:
    """Return the trained networks of every data set and backbone, in the order of their seeds."""
    networks: dict[Group, list[Network]] = {}
    for group, _, folder in jobs_in(out, kind):
        networks.setdefault(group, []).append(network_of(group.data, folder))
    return networks


def span_networks_in(out: Path) -> dict[Group, list[SpanNetwork]]:
    """Return the networks for spans, without those of earlier versions, which have no words."""
    networks: dict[Group, list[SpanNetwork]] = {}
    for group, _, folder in jobs_in(out, "events"):
        found = SpanNetwork.read(folder)
        if found is not None:
            networks.setdefault(group, []).append(found)
    return networks


def network_of(data: str, folder: Path) -> Network:
    """Return the network of a job, from its saved predictions."""
    with np.load(folder / "predictions.npz") as saved:
        dev = saved["dev_proba"], saved["dev_y"]
        test = saved["test_proba"], saved["test_y"]
    return Network.from_arrays(*dev, *test, Score(NEGATIVE_CODES.get(data)))


def networks_in_store(store: Path) -> dict[Group, list[Network]]:
    """Return the networks that were trained by `python -m benchmarks.default_score --store`."""
    networks: dict[Group, list[Network]] = {}
    for path in sorted(store.glob("*_*.npz")):
        data = path.stem.rpartition("_")[0]
        n_dev = len(thinned(load(data, "dev")[1], np.random.default_rng(0)))  # dev comes first
        with np.load(path) as saved:
            proba, codes = saved["proba"], saved["codes"]
        dev, test = (proba[:n_dev], codes[:n_dev]), (proba[n_dev:], codes[n_dev:])
        network = Network.from_arrays(*dev, *test, Score(NEGATIVE_CODES.get(data)))
        networks.setdefault(Group(data, "few epochs"), []).append(network)
    return networks


def compare_all(out: Path, n_draws: int = N_DRAWS) -> dict[str, dict[str, Any]]:
    """Compare the rules on every available data set and backbone, by their titles.

    Parameters
    ----------
    out : Path
        The folder of the study's jobs.
    n_draws : int
        Number of resamples.
    """
    return compare_groups({**networks_in(out), **span_networks_in(out)}, n_draws)


def compare_groups(
    groups: Mapping[Group, Sequence[AnyNetwork]], n_draws: int = N_DRAWS
) -> dict[str, dict[str, Any]]:
    """Compare the rules on the networks of every group, by their titles."""
    return {
        group.title: {"data": group.data, "backbone": group.backbone}
        | compare(networks, n_draws=n_draws)
        for group, networks in groups.items()
    }


# ------------------------------------------------------------------------------------- the table


def summary(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compare each rule with EPEE over all sets.

    Parameters
    ----------
    found : dict
        Result of `compare_all`.

    Returns
    -------
    dict of str to dict
        By rule: "better" and "worse", the titles of the sets with a significant difference; and
        "mean", the mean difference of the areas with its interval, for these sets and under the
        assumption that they are independent.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for of_set in found.values() for name in of_set["rules"]):
        to_epee = {
            title: of_set["rules"][name]["to_epee"]
            for title, of_set in found.items()
            if name in of_set["rules"]
        }
        beyond = {t: d["estimate"] for t, d in to_epee.items() if d["beyond_chance"]}
        rows[name] = {
            "better": [title for title, estimate in beyond.items() if estimate > 0],
            "worse": [title for title, estimate in beyond.items() if estimate < 0],
            "mean": mean_interval(to_epee.values()),
        }
    return rows


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Return Markdown with a table per set and one over all sets, in points."""
    lines = [line for title, of_set in found.items() for line in _table(title, of_set)]
    return "\n".join([*lines, *_summary_table(found)]) + "\n"


def _table(title: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    yield (
        f"{found['score']}, {found['n_seeds']} seed(s), {found['n_layers']} layers, "
        f"{found['n_dev']:,} dev and {found['n_test']:,} test samples, full depth "
        f"{100 * found['full_depth']:.1f}; ratios {RANGE[0]} to {RANGE[1]}.\n"
    )
    yield "| rule | area | to EPEE | beyond chance |\n| --- | --- | --- | --- |"
    for rule in found["rules"].values():
        note = "bound" if rule["bound"] else "yes" if rule["to_epee"]["beyond_chance"] else ""
        cells = rule["title"], _shown(rule["area"]), _shown(rule["to_epee"], "+"), note
        yield f"| {' | '.join(cells)} |"
    yield ""


def _summary_table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f"## All {len(found)} sets\n"
    yield "| rule | mean difference to EPEE | better beyond chance | worse beyond chance |"
    yield "| --- | --- | --- | --- |"
    for name, row in summary(found).items():
        counts = [f"{len(row[key])}" for key in ("better", "worse")]
        yield f"| {RULES[name].title} | {_shown(row['mean'], '+')} | {' | '.join(counts)} |"


def halves_table(groups: dict[Group, list[Network]], n_halves: int) -> str:
    """Return a Markdown table of `over_halves` for the first network of every group."""
    found = [over_halves(networks[0], n_halves) for networks in groups.values()]
    words = (
        f"Differences to EPEE in points, means over {n_halves} splits of dev and test into random "
        "halves; in brackets the share of the splits in which the rule is better.\n"
    )
    lines = [
        words,
        f"| rule | {' | '.join(group.title for group in groups)} |",
        "| --- |" + " --- |" * len(groups),
    ]
    for name, rule in RULES.items():
        cells = [
            f"{100 * of_group[name]['difference']:+.2f} ({of_group[name]['better']:.0%})"
            for of_group in found
        ]
        lines.append(f"| {rule.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(found: dict[str, Any], sign: str = "") -> str:
    low, middle, high = (f"{100 * found[key]:{sign}.2f}" for key in ("low", "estimate", "high"))
    return f"{middle} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m studies.rules", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder of the study's jobs")
    parser.add_argument(
        "--store",
        action="store_true",
        help="OUT was written by `python -m benchmarks.default_score --store OUT`",
    )
    parser.add_argument("--draws", type=int, default=N_DRAWS, help="resamples")
    parser.add_argument(
        "--halves",
        type=int,
        help="instead compare the rules over this number of random splits of dev and test",
    )
    parser.add_argument("--json", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args(arguments)
    groups = networks_in_store(options.out) if options.store else networks_in(options.out)
    spans = {} if options.store else span_networks_in(options.out)
    if not groups and not spans:
        parser.error(f"{options.out} contains no trained network with exits.")
    if options.halves:
        print(halves_table(groups, options.halves))
        return
    found = compare_groups({**groups, **spans}, options.draws)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))


if __name__ == "__main__":
    main()
