"""Draw comparisons of early exits with rivals, other exit rules, and the full network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.drawing import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    PAPER_GAIN,
    PINK,
    RED,
    SKY,
    YELLOW,
    Picture,
    draw_fronts,
    first_words,
    having,
    near_full,
    panels,
    rule_name,
    score_label,
    title_of,
)
from studies.exit_rules import RULES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The rules of each picture of fronts.
FRONTS = (
    (
        "confidence",
        ("epee", "epee_calibrated", "entropy", "max_probability", "margin", "oracle"),
        "rules that ask how sure one exit is",
    ),
    (
        "agreement",
        ("epee", "epee_mean", "patience", "pcee", "beem", "voting"),
        "rules that ask several exits",
    ),
    (
        "gates",
        ("epee", "gate", "gate_no_loss", "gate_same", "oracle"),
        "gates that are learned on the validation part",
    ),
)
# Family of rivals, title, color, marker, line style.
RIVALS = (
    ("budget", "exits, one layer for all samples", BLUE, "o", "-"),
    ("policy", "exits, chosen policies", BLACK, "*", ""),
    ("cut", "backbone cut to 1, 2, ... all layers, one head each", RED, "s", "--"),
    ("distilled", "distilled into fewer layers", PINK, "D", ""),
    ("transformers", "full depth, run by transformers", GREEN, "X", ""),
    ("embeddings", "frozen embeddings, logistic regression", SKY, "^", ""),
    ("tfidf", "TF-IDF, logistic regression", YELLOW, "P", ""),
    ("forest", "random forest on pixels", YELLOW, "P", ""),
    ("cnn", "small CNN from scratch", GRAY, "v", ""),
)


# ------------------------------------------------------------------------------------ full depth


def changes(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw the change in score by the chosen policies, with intervals, and the paper's claim."""
    shown = having(cells, "policies")
    rows = [(cell, policies) for cell in shown if (policies := of_epee(cell))]
    if not rows:
        return []
    return [
        Picture(
            "changes",
            "Change in the test score by the policies chosen on the validation part, against the "
            "same network at full depth, in points, with paired 95 % bootstrap intervals. Beside "
            "them the mean speed-up by layers (and by the clock, where it was measured). The green "
            "band is what the paper claims.",
            first_words([_change_words(cell, policies) for cell, policies in rows]),
            lambda: _draw_changes(rows),
        )
    ]


def of_epee(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the policies chosen among all pairs of tau and patience."""
    return [p for p in cell["policies"] if p["family"] == "epee" and p.get("to_full")]


def factor_words(policy: dict[str, Any]) -> str:
    """Return the speed-up of a policy in layers and, if known, in time, as text."""
    words = f"{1 / (1 - policy['ratio']):.1f}x"
    clock = policy.get("clock") or {}
    return words + (f" ({clock['single']:.1f}x)" if clock.get("single") else "")


def _change_words(cell: dict[str, Any], policies: Iterable[dict[str, Any]]) -> str:
    found = [
        f"{p['goal_words']}: {100 * p['to_full']['estimate']:+.1f} points "
        f"({100 * p['to_full']['low']:+.1f} to {100 * p['to_full']['high']:+.1f}) at "
        f"{1 / (1 - p['ratio']):.1f}x"
        for p in policies
    ]
    return f"{title_of(cell)}: {'; '.join(found)}."


def _draw_changes(rows: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]]) -> Figure:
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only drawing needs it

    styles = {"saving": (BLUE, "o", -0.16), "tolerance": (RED, "s", 0.16)}
    figure, ax = plt.subplots(figsize=(9, 1.6 + 0.5 * len(rows)), layout="constrained")
    ax.axvspan(*PAPER_GAIN, color=GREEN, alpha=0.18, lw=0, label="claim of the paper, at 2.1x")
    ax.axvline(0, color="0.3", lw=1)
    for row, (_, policies) in enumerate(rows):
        for policy in policies:
            color, marker, shift = styles[policy["goal"]]
            mean, low, high = (100 * policy["to_full"][k] for k in ("estimate", "low", "high"))
            ax.errorbar(
                mean, row + shift, xerr=[[mean - low], [high - mean]], color=color, marker=marker,
                markersize=5, capsize=2, lw=1.2, ls="", label=policy["goal_words"],
            )  # fmt: skip
            ax.annotate(
                factor_words(policy), (1.01, row + shift), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=color,
            )  # fmt: skip
    ax.set_yticks(range(len(rows)), labels=[title_of(cell) for cell, _ in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("change against full depth, in points")
    ax.annotate(
        "layers (clock)", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=8,
        color="0.3",
    )  # fmt: skip
    ax.grid(axis="x", alpha=0.3)
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        list(unique.values()), list(unique), loc="outside upper center", ncols=3, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------- rivals


def rivals(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw score against measured time for all rivals and the exits."""
    shown = [cell for cell in cells if any(point.get("seconds") for point in cell["points"])]
    if not shown:
        return []
    return [
        Picture(
            "rivals",
            "Test score against the measured time of one sample (CPU, a sample at a time, "
            "logarithmic): everything that a user could take instead, in the same plot. Up and to "
            "the left is better. Scores are means over seeds; times are medians of one process.",
            first_words([_rival_words(cell) for cell in shown]),
            lambda: panels(shown, _draw_rivals),
        )
    ]


def _timed(cell: dict[str, Any], family: str) -> list[dict[str, Any]]:
    """Return the points of a family with a known time; the full network is the last cut."""
    families = ("cut", "full") if family == "cut" else (family,)
    found = [p for p in cell["points"] if p["family"] in families and p.get("seconds")]
    return sorted(found, key=lambda point: point.get("layers") or cell["n_layers"])


def _draw_rivals(ax: Axes, cell: dict[str, Any]) -> None:
    for family, words, color, marker, line in RIVALS:
        points = _timed(cell, family)
        if not points:
            continue
        times = [1000 * point["seconds"]["single"] for point in points]
        scores = [point["scores"][cell["main_score"]] for point in points]
        size = {"*": 13, "X": 8}.get(marker, 6)
        ax.plot(
            times, scores, color=color, marker=marker, ls=line, markersize=size, label=words,
            markeredgecolor="white", markeredgewidth=0.6, lw=1.2,
            zorder=5 if family == "policy" else 3,
        )  # fmt: skip
    ax.set_xscale("log")
    _label_milliseconds(ax)
    ax.set(xlabel="milliseconds a sample (log)", ylabel=score_label(cell))
    ax.grid(alpha=0.3)


def _label_milliseconds(ax: Axes) -> None:
    """Label a logarithmic axis of times with plain numbers, without overlap."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415

    low, high = np.log10(ax.get_xlim())
    steps = (1, 2, 5) if high - low < 1.7 else (1, 3) if high - low < 2.2 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _rival_words(cell: dict[str, Any]) -> str:
    found = []
    for family, words, *_ in RIVALS:
        points = _timed(cell, family)
        if points:
            best = max(points, key=lambda point: point["scores"][cell["main_score"]])
            found.append(
                f"{words} {best['scores'][cell['main_score']]:.3f} at "
                f"{1000 * best['seconds']['single']:.1f} ms"
            )
    return f"{title_of(cell)}, best of each: {'; '.join(found)}."


# ----------------------------------------------------------------------------------------- rules


def fronts(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw the fronts of all exit rules, in two rows of panels."""
    shown = [cell for cell in cells if len(cell["fronts"]) > 3]
    if not shown:
        return []
    return [_fronts_of(shown, *kind) for kind in FRONTS]


def _fronts_of(
    cells: Sequence[dict[str, Any]], name: str, rules: Sequence[str], words: str
) -> Picture:
    return Picture(
        f"fronts-{name}",
        f"Test score against speed-up of {words}. Settings are chosen on the validation part and "
        "read on the test part; means over seeds. What lies more than 15 points below full depth "
        "is not shown.",
        f"Fronts of {words}. " + first_words([_front_words(cell, rules) for cell in cells]),
        lambda: panels(cells, lambda ax, cell: _draw_near(ax, cell, rules)),
    )


def _draw_near(ax: Axes, cell: dict[str, Any], rules: Sequence[str]) -> None:
    draw_fronts(ax, cell, rules)
    values = [
        score for name in rules if name in cell["fronts"] for score in cell["fronts"][name]["score"]
    ]
    near_full(ax, values, cell["layers"]["main"][-1])


def _front_words(cell: dict[str, Any], rules: Sequence[str]) -> str:
    found = []
    for name in rules:
        front = cell["fronts"].get(name)
        if front is None:
            continue
        score = np.interp(0.5, front["ratio"], front["score"])
        found.append(f"{rule_name(name)} {score:.3f}")
    return f"{title_of(cell)}, at a ratio of 0.5: {', '.join(found)}."


def areas(cells: Sequence[dict[str, Any]]) -> list[Picture]:
    """Draw the differences of all rules to EPEE in the area under the front."""
    rows = [
        (name, [(cell, cell["areas"][name]) for cell in having(cells, "areas")
                if name in cell["areas"] and cell["areas"][name].get("to_epee")])
        for name in RULES
        if name not in ("epee", "oracle")  # the bound is far away, and in the table
    ]  # fmt: skip
    rows = [(name, found) for name, found in rows if found]
    if not rows:
        return []
    return [
        Picture(
            "areas",
            "Exit rules against EPEE: difference in the mean test score over the stated interval "
            "of ratios (the area under the front), in points, one dot a data set and backbone. "
            "Filled dots: the paired 95 % bootstrap interval does not contain 0.",
            first_words([_area_words(name, found) for name, found in rows], 20),
            lambda: _draw_areas(rows),
        )
    ]


def beyond_chance(difference: dict[str, Any]) -> int:
    """Return the sign of a difference whose interval does not contain 0; 0 for others."""
    return int(difference["low"] > 0) - int(difference["high"] < 0)


def _area_words(name: str, found: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    signs = [beyond_chance(area["to_epee"]) for _, area in found]
    mean = 100 * np.mean([area["to_epee"]["estimate"] for _, area in found])
    return (
        f"{rule_name(name)}: {mean:+.2f} points on average, better than EPEE beyond chance "
        f"{signs.count(1)} times, worse {signs.count(-1)} times, of {len(found)}."
    )


def _draw_areas(rows: Sequence[tuple[str, list[Any]]]) -> Figure:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    tall = max(0.42, 0.1 + 0.06 * max(len(found) for _, found in rows))
    figure, ax = plt.subplots(figsize=(8.4, 1.1 + tall * len(rows)), layout="constrained")
    ax.axvline(0, color="0.3", lw=1)
    for row, (_, found) in enumerate(rows):
        ax.axhline(row + 0.5, color="0.85", lw=0.8)
        reach = min(0.34, 0.08 * (len(found) - 1))
        shifts = np.linspace(-reach, reach, len(found))
        for shift, (_, area) in zip(shifts, found, strict=True):
            mean, low, high = (100 * area["to_epee"][k] for k in ("estimate", "low", "high"))
            sure = beyond_chance(area["to_epee"]) != 0
            ax.plot([low, high], [row + shift] * 2, color=BLUE, lw=0.8, alpha=0.6)
            ax.plot(
                mean, row + shift, "o", color=BLUE, markersize=5,
                markerfacecolor=BLUE if sure else "white",
            )  # fmt: skip
    ax.set_yticks(range(len(rows)), labels=[rule_name(name).replace("`", "") for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("difference to EPEE, in points (right: better than EPEE)")
    ax.grid(axis="x", alpha=0.3)
    return figure
