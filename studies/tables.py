"""Make the tables of the study from the results of `collect`, for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from studies.bootstrap import mean_interval
from studies.comparisons import beyond_chance, of_epee
from studies.drawing import counted, having, rule_name, title_of
from studies.policies import MIN_RATIO

FAMILIES = {"entropy": "entropy only", "patience": "patience only", "epee": "EPEE"}
PLAIN = ("tfidf", "forest")  # rivals without a network
RIVAL_NAMES = {
    "tfidf": "TF-IDF, logistic regression",
    "forest": "random forest on pixels",
    "cnn": "small CNN from scratch",
    "embeddings": "frozen embeddings, logistic regression",
    "full": "full network, one head",
    "cut": "first {layers} layers, one head",
    "distilled": "distilled into {layers} layers",
    "budget": "exits: layer {layers} for all samples",
    "policy": "EPEE: {goal}",
    "transformers": "exits, full depth, run by transformers",
}


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes
    ----------
    caption : str
    header : sequence of str
    rows : sequence of sequence of str
        The first cell of a row is its header.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table without its caption."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


# ------------------------------------------------------------------------------------ what ran


def what_ran(study: dict[str, Any]) -> Table | None:
    """Return a table of the trained networks with exits: sizes, seeds, cost and machine."""
    rows = [
        [
            title_of(cell),
            f"{cell['n_train']:,} / {cell['n_dev']:,} / {cell['n_test']:,}",
            ", ".join(map(str, cell["seeds"])),
            str(cell["n_epochs"]),
            f"{cell['training_cpu_seconds']:,.0f}",
            ", ".join(map(str, cell["machines"])),
            "" if cell["learned"] else "no",
        ]
        for cell in study["cells"]
    ]
    header = [
        "data, backbone",
        "train / dev / test",
        "seeds",
        "epochs",
        "CPU s",
        "machine",
        "learned",
    ]
    caption = (
        "What was trained: samples of the three parts, seeds, epochs, CPU seconds of the training "
        "of one network with all exits, and the number of the machine. “no” in the last column: at "
        "full depth it is not better than the largest class, and no claim is counted on it."
    )
    return Table(caption, header, rows) if rows else None


# ------------------------------------------------------------------- claims of the paper, and ours


def claims(study: dict[str, Any]) -> Table | None:
    """Return a table with claims of the paper and the measured values."""
    rows = [
        row
        for make in (_claimed_speed, _claimed_gain, _claimed_overthinking, _claimed_degenerate,
                     _claimed_control)
        if (row := make(learned(study)))
    ]  # fmt: skip
    caption = "What the paper claims, and what was measured here."
    return Table(caption, ["claim", "measured"], rows) if rows else None


def learned(study: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells whose networks are better than chance; others are useless for exits."""
    return [cell for cell in study["cells"] if cell["learned"]]


def _halves(cells: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every cell with its policy for a ratio of at least 0.52."""
    return [
        (cell, policy)
        for cell in having(cells, "policies")
        for policy in of_epee(cell)
        if policy["goal"] == "saving"
    ]


def _claimed_speed(cells: Iterable[dict[str, Any]]) -> list[str] | None:
    found = _halves(cells)
    if not found:
        return None
    factors = [1 / (1 - policy["ratio"]) for _, policy in found]
    words = (
        f"By layers {mean(factors):.1f}x on average over {counted(len(found), 'pair')} of data set "
        f"and backbone ({min(factors):.1f}x to {max(factors):.1f}x), with the policy of best "
        "validation score at a ratio of 0.52 or more there."
    )
    clocks = [p["clock"] for _, p in found if p.get("clock")]
    if clocks:
        single, batched = ([c[key] for c in clocks if c.get(key)] for key in ("single", "batched"))
        words += f" On the clock {mean(single):.1f}x, one sample at a time"
        words += f", and {mean(batched):.1f}x in batches" if batched else ""
        words += f" ({counted(len(clocks), 'pair')})."
    return ["2.1x mean speed-up", words]


def _claimed_gain(cells: Iterable[dict[str, Any]]) -> list[str] | None:
    found = [policy["to_full"] for _, policy in _halves(cells)]
    if not found:
        return None
    signs = [beyond_chance(difference) for difference in found]
    points = [100 * difference["estimate"] for difference in found]
    words = (
        f"{_mean_words(found)} at that ratio, of the main score, from {min(points):+.1f} to "
        f"{max(points):+.1f} by pair: better beyond chance {signs.count(1)} times, worse beyond "
        f"chance {signs.count(-1)} times, not to be told apart {signs.count(0)} times. A gain of "
        f"0.3 points or more: {sum(point >= 0.3 for point in points)} of {len(points)}."
    )
    return ["accuracy kept or improved by 0.3 to 1.7 points", words]


def _claimed_overthinking(cells: Iterable[dict[str, Any]]) -> list[str] | None:
    found = [cell["overthinking"] for cell in having(cells, "overthinking")]
    if not found:
        return None
    shares = [100 * one["lost"] for one in found]
    better = [beyond_chance(one["to_full"]) > 0 for one in found]
    points = [100 * one["to_full"]["estimate"] for one in found]
    words = (
        f"{mean(shares):.1f} in 100 test samples are right at some layer and wrong at the last "
        f"({min(shares):.1f} to {max(shares):.1f}). To use it one must know where to stop: the "
        "fixed layer that is best on the validation part changes the score by "
        f"{round(mean(points), 1) + 0.0:+.1f} points on average, and is above the last one beyond "
        f"chance {sum(better)} of {len(better)} times."
    )
    return ["overthinking: early layers are right where the last is wrong", words]


def _claimed_degenerate(cells: Iterable[dict[str, Any]]) -> list[str] | None:
    found = [cell["degenerate"] for cell in having(cells, "degenerate")]
    if not found:
        return None
    n, different = (sum(one[key] for one in found) for key in ("n_decisions", "n_different"))
    words = f"{different:,} of {n:,} exits differ from those of the two rules alone."
    return ["patience M is the entropy rule, tau 0 the patience rule", words]


def _claimed_control(cells: Iterable[dict[str, Any]]) -> list[str] | None:
    found = [cell["steps"] for cell in having(cells, "steps")]
    if not found:
        return None
    both, alone = (max(one[key] for one in found) for key in ("epee", "patience"))
    words = (
        f"Between neighboring policies the ratio changes by at most {both:.3f} with EPEE, in any "
        f"pair of data set and backbone, and by up to {alone:.2f} with patience alone, which has "
        "as many policies as layers."
    )
    return ["smooth control of the ratio", words]


# --------------------------------------------------------------------------------------- our aims


def aims(study: dict[str, Any]) -> Table | None:
    """Return a table of how often early exits reached the aims."""
    found = _halves(learned(study))
    if not found:
        return None
    enough = sum(policy["ratio"] >= MIN_RATIO for _, policy in found)
    full = [policy["to_full"] for _, policy in found]
    cut = [policy["to_cut"] for _, policy in found if policy.get("to_cut")]
    rows = [
        [f"a ratio of {MIN_RATIO:g} or more on the test part, too", f"{enough} of {len(found)}"],
        ["not below the same network at full depth", _wins(full)],
    ]
    if cut:
        rows.append(["above the backbone cut to equal cost and fine-tuned alone", _wins(cut)])
    caption = (
        "What early exits must do to be worth it: the policy chosen on the validation part at a "
        f"ratio of {MIN_RATIO:g} or more, on the test part, in pairs of data set and backbone."
    )
    return Table(caption, ["aim", "reached"], rows)


def _mean_words(found: Sequence[dict[str, Any]]) -> str:
    """Return the mean of differences with its interval, for these pairs, as text."""
    return f"{points_words(mean_interval(found))} points on average"


def _wins(found: Sequence[dict[str, Any]]) -> str:
    signs = [beyond_chance(difference) for difference in found]
    level = sum(difference["estimate"] >= 0 for difference in found)
    return (
        f"{level} of {len(found)} by the estimate; {_mean_words(found)}; beyond chance above "
        f"{signs.count(1)} times, below {signs.count(-1)} times"
    )


# -------------------------------------------------------------------------------- the short table


def overview(study: dict[str, Any]) -> Table | None:
    """Return the table of the README, one row per cell: rivals, full depth, chosen policy."""
    rows = [_overview_row(cell) for cell in study["cells"] if _half_of(cell)]
    header = [
        "data, backbone", "TF-IDF or forest", "embeddings", "cut, equal cost", "one head, full",
        "exits, full depth", "exits, chosen policy", "ratio", "layers", "clock",
    ]  # fmt: skip
    caption = (
        "Test accuracy / macro-F1 (of ddi2013: micro-F1 without “false” / macro-F1; of spans: F1 "
        "of exact matches), means over the seeds. "
        "“cut, equal cost”: the backbone cut to as many layers as the policy runs on average "
        "(rounded up), fine-tuned alone. The policy is the best on the validation part at a "
        "speed-up ratio of 0.52 or more there; “layers” and “clock” are its speed-up against full "
        "depth by layers and by measured time, one sample at a time."
    )
    return Table(caption, header, rows) if rows else None


def _half_of(cell: dict[str, Any]) -> dict[str, Any] | None:
    return next((p for p in of_epee(cell) if p["goal"] == "saving"), None)


def _overview_row(cell: dict[str, Any]) -> list[str]:
    policy = _half_of(cell)
    assert policy is not None  # noqa: S101 - checked by the caller
    points = {point["kind"]: point for point in cell["points"]}
    plain = next((points[kind] for kind in PLAIN if kind in points), None)
    same = policy["equal_layers"] == cell["n_layers"]
    cut = points.get("full" if same else f"cut-{policy['equal_layers']}")
    clock = (policy.get("clock") or {}).get("single")
    return [
        title_of(cell),
        two_scores(cell, plain),
        two_scores(cell, points.get("embeddings")),
        two_scores(cell, cut) + (f" ({policy['equal_layers']})" if cut else ""),
        two_scores(cell, points.get("full")),
        two_scores(cell, points.get(f"budget-{cell['n_layers']}")),
        two_scores(cell, policy),
        f"{policy['ratio']:.2f}",
        f"{1 / (1 - policy['ratio']):.1f}x",
        f"{clock:.1f}x" if clock else "",
    ]


def two_scores(cell: dict[str, Any], point: dict[str, Any] | None) -> str:
    """Return the main score and macro-F1 of a point as text, "" for None."""
    if point is None:
        return ""
    scores = point["scores"]
    both = [scores.get(cell["main_score"]), scores.get("macro_f1")]
    return " / ".join(f"{score:.3f}" for score in both if score is not None)


# ------------------------------------------------------------------------------ policies and rivals


def policies(study: dict[str, Any]) -> Table | None:
    """Return the chosen policies of the three families, with their intervals."""
    rows = [
        [
            title_of(cell),
            FAMILIES.get(policy["family"], policy["family"]),
            policy["goal_words"],
            f"{policy['score']:.3f}",
            f"{policy['ratio']:.2f}",
            points_words(policy.get("to_full")),
            points_words(policy.get("to_cut")),
            _clock_words(policy),
        ]
        for cell in study["cells"]
        for policy in cell["policies"]
    ]
    header = ["data, backbone", "policy", "chosen on dev as", "test score", "ratio",
              "to full depth", "to the cut backbone", "clock: single, batched"]  # fmt: skip
    caption = (
        "Chosen policies on the test part. Differences are in points, with paired 95 % bootstrap "
        "intervals over test samples and seeds: against the same network at full depth, and "
        "against the backbone that was cut to as many layers (rounded up) and fine-tuned alone."
    )
    return Table(caption, header, rows) if rows else None


def points_words(difference: dict[str, Any] | None, digits: int = 1) -> str:
    """Return a difference with its interval in points, as text."""
    if difference is None:
        return ""
    # 0.0 is added so that -0.0 is shown as 0.0.
    estimate, low, high = (
        round(100 * difference[key], digits) + 0.0 for key in ("estimate", "low", "high")
    )
    return f"{estimate:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def _clock_words(policy: dict[str, Any]) -> str:
    clock = policy.get("clock") or {}
    found = [clock.get(key) for key in ("single", "batched")]
    return ", ".join(f"{factor:.1f}x" for factor in found if factor)


def layers(study: dict[str, Any]) -> list[Table]:
    """Return a table per cell with exits of fixed layers and the backbone cut to these layers."""
    return [_layers_of(cell) for cell in study["cells"]]


def _layers_of(cell: dict[str, Any]) -> Table:
    points = {point["kind"]: point for point in cell["points"]}
    numbers = range(1, cell["n_layers"] + 1)
    rows = [["exits, one network", *(_score(cell, points.get(f"budget-{m}")) for m in numbers)]]
    if any(f"cut-{m}" in points for m in numbers):
        cuts = {m: points.get(f"cut-{m}") for m in numbers}
        cuts[cell["n_layers"]] = cuts[cell["n_layers"]] or points.get("full")
        rows.append(["cut, one network each", *(_score(cell, cuts[m]) for m in numbers)])
    distilled = {m: points.get(f"distilled-{m}") for m in numbers}
    if any(distilled.values()):
        rows.append(["distilled", *(_score(cell, distilled[m]) for m in numbers)])
    for name, words in (("entropy", "mean entropy"), ("oracle", "right by then")):
        if cell.get(name):
            rows.append([words, *(f"{value:.3f}" for value in cell[name])])
    caption = f"{title_of(cell)}: test score after every layer."
    return Table(caption, ["layer", *map(str, numbers)], rows)


def _score(cell: dict[str, Any], point: dict[str, Any] | None) -> str:
    return "" if point is None else f"{point['scores'][cell['main_score']]:.3f}"


def rivals(study: dict[str, Any]) -> list[Table]:
    """Return a table per cell with all rivals: scores, time, cost of training."""
    return [table for cell in study["cells"] if (table := _rivals_of(cell))]


def _rivals_of(cell: dict[str, Any]) -> Table | None:
    if not any(point["family"] not in ("budget", "policy") for point in cell["points"]):
        return None
    names = list(dict.fromkeys(name for point in cell["points"] for name in point["scores"]))
    rows = [
        [
            point_name(point),
            *(_number(point["scores"].get(name)) for name in names),
            *(_milliseconds(point, key) for key in ("single", "batched")),
            f"{point['training_cpu_seconds']:,.0f}" if point.get("training_cpu_seconds") else "",
            str(point.get("n_seeds", "")),
        ]
        for point in cell["points"]
    ]
    header = ["", *(name.replace("_", "-") for name in names), "ms, single", "ms, batched",
              "training, CPU s", "seeds"]  # fmt: skip
    clock = cell.get("clock") or {}
    words = (
        f" Times are medians over {clock['n_single']} single samples and a batch of "
        f"{clock['n_batched']}, in turns in one process."
        if clock.get("n_single")
        else " The clock has not run yet."
    )
    caption = f"{title_of(cell)}: everything on the test part.{words}"
    return Table(caption, header, rows)


def beaten(study: dict[str, Any]) -> Table | None:
    """Return the rivals that are at least as good and as fast as EPEE, for cells with times."""
    rows = [
        [
            title_of(cell),
            f"{_main(cell, policy):.3f}, {_milliseconds(policy, 'single')} ms",
            "; ".join(
                f"{point_name(rival)} ({_main(cell, rival):.3f}, "
                f"{_milliseconds(rival, 'single')} ms)"
                for rival in _better(cell, policy)
            )
            or "none",
        ]
        for cell in study["cells"]
        for policy in cell["points"]
        if policy["kind"] == "epee/saving" and policy.get("seconds")
    ]
    caption = (
        "Everything that has at least the test score of the policy chosen at a ratio of "
        f"{MIN_RATIO:g} or more, in at most its time (one sample at a time), by the means."
    )
    header = ["data, backbone", "chosen policy", "as good and as fast"]
    return Table(caption, header, rows) if rows else None


def above(study: dict[str, Any]) -> Table | None:
    """Return the cheapest of each kind of rivals with a higher test score than EPEE, by cell."""
    rows = [
        [
            title_of(cell),
            f"{_main(cell, policy):.3f}, {_layers_run(cell):.1f} of {cell['n_layers']} layers",
            "; ".join(_ahead(cell, policy, rival) for rival in _cheapest_above(cell, policy))
            or "none",
        ]
        for cell in study["cells"]
        for policy in cell["points"]
        if policy["kind"] == "epee/saving"
    ]
    caption = (
        f"What has a higher test score than the policy chosen at a ratio of {MIN_RATIO:g} or more, "
        "by the means: of each kind the cheapest that has, and by how many points."
    )
    header = ["data, backbone", "chosen policy", "above it"]
    return Table(caption, header, rows) if rows else None


def _layers_run(cell: dict[str, Any]) -> float:
    half = _half_of(cell)
    return float(cell["n_layers"] * (1 - half["ratio"])) if half else float("nan")


def _cheapest_above(cell: dict[str, Any], policy: dict[str, Any]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for point in sorted(cell["points"], key=lambda point: point.get("layers") or 0):
        if point["family"] not in ("policy", "transformers") and (
            _main(cell, point) > _main(cell, policy)
        ):
            found.setdefault(point["family"], point)
    return list(found.values())


def _ahead(cell: dict[str, Any], policy: dict[str, Any], rival: dict[str, Any]) -> str:
    gain = 100 * (_main(cell, rival) - _main(cell, policy))
    return f"{point_name(rival)} ({gain:+.1f})"


def _main(cell: dict[str, Any], point: dict[str, Any]) -> float:
    return float(point["scores"][cell["main_score"]])


def _better(cell: dict[str, Any], policy: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        point
        for point in cell["points"]
        if point["kind"] != policy["kind"]
        and point.get("seconds")
        and point["seconds"]["single"] <= policy["seconds"]["single"]
        and _main(cell, point) >= _main(cell, policy)
    ]


def point_name(point: dict[str, Any]) -> str:
    """Return the title of a rival, a fixed layer or a policy."""
    words = RIVAL_NAMES.get(point["family"], point["kind"])
    words = words.format(layers=point.get("layers"), goal=point.get("goal_words"))
    return words.replace("first 1 layers", "first layer").replace("into 1 layers", "into one layer")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _milliseconds(point: dict[str, Any], key: str) -> str:
    seconds = (point.get("seconds") or {}).get(key)
    return "" if seconds is None else f"{1000 * seconds:.3g}"


# ------------------------------------------------------------------------------------------ rules


def rules(study: dict[str, Any]) -> Table | None:
    """Return every exit rule against EPEE: areas under the front, wins and losses."""
    cells = having(study["cells"], "areas")
    if not cells:
        return None
    names = list(dict.fromkeys(name for cell in cells for name in cell["areas"]))
    rows = [_rule_row(name, [cell for cell in cells if name in cell["areas"]]) for name in names]
    low, high = cells[0]["area_interval"]
    caption = (
        f"Exit rules: mean test score at speed-up ratios from {low:g} to {high:g} (area under the "
        "front, settings chosen on the validation part), its difference to EPEE in points, and in "
        "how many pairs of data set and backbone the paired 95 % bootstrap interval of the "
        "difference does not contain 0."
    )
    header = ["rule", "mean score", "to EPEE", "better beyond chance", "worse beyond chance", "of"]
    return Table(caption, header, rows)


def _rule_row(name: str, cells: Sequence[dict[str, Any]]) -> list[str]:
    areas = [cell["areas"][name] for cell in cells]
    differences = [area["to_epee"] for area in areas if area.get("to_epee")]
    signs = [beyond_chance(difference) for difference in differences]
    words = points_words(mean_interval(differences), 2) if differences else ""
    return [
        rule_name(name),
        f"{mean(area['estimate'] for area in areas):.3f}",
        words,
        str(signs.count(1)) if signs else "",
        str(signs.count(-1)) if signs else "",
        str(len(areas)),
    ]


def rules_by_cell(study: dict[str, Any]) -> Table | None:
    """Return the difference of every rule to EPEE in every cell."""
    cells = having(study["cells"], "areas")
    names = list(dict.fromkeys(name for cell in cells for name in cell["areas"] if name != "epee"))
    if not names:
        return None
    rows = [
        [title_of(cell), f"{cell['areas']['epee']['estimate']:.3f}"]
        + [points_words(cell["areas"].get(name, {}).get("to_epee")) for name in names]
        for cell in cells
        if "epee" in cell["areas"]
    ]
    header = ["data, backbone", "EPEE", *map(rule_name, names)]
    caption = "Exit rules in every pair: EPEE's mean score, and differences to it in points."
    return Table(caption, header, rows)
