"""
Early exits with a guarantee
============================

A policy that lost little on some samples may lose more on others. With `confidence`, policies are
tested instead of compared: the probability that the chosen one breaks its promise on new samples
is at most 1 - confidence, whatever the network. What is promised can be the accuracy lost, how
often the answer changes, the error rate, how often a class is missed, and each of these for every
class or group.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE; otherwise they are generated notes. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint; without it a compact network is trained from scratch, which learns little
more from PHEE than which class is frequent. The script needs matplotlib (the extra ``plots``) and
takes a few minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os
import textwrap
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV, speedup_score
from sklearn_epee.datasets import load_phee, make_supplement_notes

# %%
# One network, and samples to test policies on
# --------------------------------------------
# The guarantee holds for samples like those it was tested on, which must be independent of each
# other and of the training.

backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title, critical, most_missed, most_errors = "PHEE", "Adverse_event", 0.05, 0.12
    X_train, y_train = load_phee(subset="train", return_X_y=True)
    X_held, y_held = load_phee(subset="dev", return_X_y=True)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title, critical, most_missed, most_errors = "supplement notes", "discontinued", 0.25, 0.2
    X, y = make_supplement_notes(4500, n_distractors=3, random_state=0)
    X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.4, random_state=0)
    X_held, X_test, y_held, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)
network = EPEEClassifier(backbone, max_epochs=6 if backbone is None else 3, random_state=0)
network.fit(X_train, y_train)


def lengths(texts):
    """Return groups that might be treated unequally; sites or sexes would be others."""
    return np.where([len(text) > np.median([*map(len, X_held)]) for text in texts], "long", "short")


# %%
# Guarantees
# ----------
# Each of them holds with 95 % confidence, by itself. A guarantee per class or per group has to hold
# for each of them, which makes it harder.

promises = {
    "accuracy drop": {"max_accuracy_drop": 0.02},
    "other predictions than full depth": {"risk": "disagreement", "max_risk": 0.04},
    "... in each class": {"risk": "disagreement", "max_risk": 0.1, "per_class": True},
    "... of short and of long texts": {"risk": "disagreement", "max_risk": 0.06},
    "errors": {"risk": "error", "max_risk": most_errors},
    f"missed {critical}": {"risk": ("miss", critical), "max_risk": most_missed},
}
certified = {}
for promise, parameters in promises.items():
    by_group = {"risk_groups": lengths(X_held)} if "short" in promise else {}
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(network), confidence=0.95, random_state=0, **parameters
    )
    certified[promise] = tuned.fit(X_held, y_held, **by_group)

# %%
# Do they hold?
# -------------
# The test part decides. A risk there is a measurement, too: it may lie above a bound that the true
# risk is below, if the samples are few.

full_depth = list(network.staged_predict(X_test))[-1]


def largest(losses, groups):
    """Mean loss of the group where it is largest."""
    return max(losses[groups == group].mean() for group in np.unique(groups))


def risk_on_test(promise, answers):
    if promise == "accuracy drop":
        return np.mean(full_depth == y_test) - np.mean(answers == y_test)
    if promise == "errors":
        return np.mean(answers != y_test)
    if "missed" in promise:
        return np.mean(answers[y_test == critical] != critical)
    groups = {"... in each class": y_test, "... of short and of long texts": lengths(X_test)}
    return largest(answers != full_depth, groups.get(promise, np.zeros(len(y_test))))


print(f"{'promise':34} {'bound':>6} {'risk, tested':>13} {'on the test part':>17} speed-up there")
measured = {}
for promise, tuned in certified.items():
    measured[promise] = risk_on_test(promise, tuned.predict(X_test))
    ratio = speedup_score(tuned, X_test)
    print(
        f"{promise:34} {tuned.risk_bound_:>6.2f} {tuned.risk_:>13.3f} "
        f"{measured[promise]:>17.3f} {ratio:.2f} ({1 / (1 - ratio):.1f}x)"
        f"{'' if tuned.certified_ else '  not certified'}"
    )

_, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for row, (promise, tuned) in enumerate(certified.items()):
    first = row == 0
    ax.plot([0, tuned.risk_bound_], [row, row], color="0.85", lw=9, solid_capstyle="butt", zorder=0)
    ax.plot(tuned.risk_bound_, row, "k|", ms=16, mew=2, label="bound" if first else None)
    ax.plot(tuned.risk_, row, "o", color="#0072B2", label="tested samples" if first else None)
    ax.plot(measured[promise], row, "D", color="#D55E00", label="new samples" if first else None)
ratios = [
    f"{tuned.best_speedup_:.2f} ({1 / (1 - tuned.best_speedup_):.1f}x)"
    for tuned in certified.values()
]
labels = [p if tuned.certified_ else f"{p}\n(not certified)" for p, tuned in certified.items()]
ax.set_yticks(range(len(certified)), labels=labels)
ax.invert_yaxis()
right = ax.secondary_yaxis("right")
right.set_yticks(range(len(certified)), labels=ratios)
right.set_ylabel("speed-up ratio (factor)")
ax.set(xlabel="risk", title=f"{title}: bounds promised with 95 % confidence")
ax.grid(axis="x", alpha=0.3)
ax.legend(loc="best", fontsize="small")

# %%
# How a policy is certified
# -------------------------
# Candidates are tested from the surest to the fastest. A p-value is the probability of a risk as
# low as the one seen, or lower, if the true one were just above the bound. The tests end at the
# first policy where it is above 5 %; the fastest before it is taken.

candidates = certified["other predictions than full depth"].candidates_
_, (risks, p_values) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 6), layout="constrained")
passed = candidates["certified"]
for ax, column in ((risks, "risk"), (p_values, "p_value")):
    for chosen, color, marker, label in (
        (passed, "#0072B2", "o", "certified"),
        (~passed, "#D55E00", "x", "not certified"),
    ):
        values = candidates["speedup"][chosen], np.maximum(candidates[column][chosen], 1e-12)
        ax.plot(*values, marker, color=color, ms=5, label=label)
    ax.grid(alpha=0.3)
risks.axhline(0.04, color="0.3", ls="--", label="bound")
risks.set(ylabel="risk on the tested samples", title=f"{title}: other predictions than full depth")
risks.legend()
p_values.axhline(0.05, color="0.3", ls="--", label="5 %")
p_values.legend(loc="lower right")
p_values.set(yscale="log", ylabel="p-value", xlabel="speed-up ratio and factor 1 / (1 - ratio)")
p_values.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:.2f}\n{1 / (1 - ratio):.1f}x")

# %%
# When nothing can be certified
# -----------------------------
# A tenth of a point cannot be told from zero with so few samples, however good the policies are.
# A warning says so, and all samples go through all layers.

strict = TunedExitPolicyClassifierCV(
    FrozenEstimator(network), max_accuracy_drop=0.001, confidence=0.95, random_state=0
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    strict.fit(X_held, y_held)
print(f"\ncertified: {strict.certified_}; speed-up ratio {strict.best_speedup_}")
for warning in caught:
    print(textwrap.fill(f"warning: {warning.message}", 88))

# %%
# Who needs a speed-up to count on gets an error instead.
try:
    strict.set_params(min_speedup=0.3).fit(X_held, y_held)
except ValueError as error:
    print(textwrap.fill(f"error: {error}", 88))
plt.show()
