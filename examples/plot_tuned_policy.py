"""
Choosing the exit policy
========================

How early samples may leave is settled by two numbers, `tau` and `patience`, which act only when a
trained network predicts. So all values that make a difference can be compared on one pass over
some samples, and what is left to say is what is wanted: the best score at a given speed-up, the
fastest policy that loses at most so much, or a rule of one's own.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE; otherwise they are generated notes. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint; without it a compact network is trained from scratch, which learns little
more from PHEE than which class is frequent. The script needs matplotlib (the extra ``plots``) and
takes a few minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_epee import (
    EPEEClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
)
from sklearn_epee.datasets import load_phee, make_supplement_notes
from sklearn_epee.plotting import ExitTradeoffDisplay
from sklearn_epee.policy import stack_layers

# %%
# One network, and samples it has not seen
# ----------------------------------------
# One part trains the network, another one is for choosing, and a third one for the truth.

backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PHEE"
    X_train, y_train = load_phee(subset="train", return_X_y=True)
    X_tune, y_tune = load_phee(subset="dev", return_X_y=True)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title = "supplement notes"
    X, y = make_supplement_notes(4500, n_distractors=3, random_state=0)
    X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.4, random_state=0)
    X_tune, X_test, y_tune, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)
network = EPEEClassifier(backbone, max_epochs=6 if backbone is None else 3, random_state=0)
network.fit(X_train, y_train)

# %%
# Selection criteria
# ------------------
# The network is frozen, so that nothing is trained: each line costs one pass over the samples. The
# score is accuracy, which is easy to read; rare classes need another one
# (``plot_rare_classes.py``), such as the default.


def worth_it(policies):
    """Pay a point of accuracy for a tenth of the layers."""
    return int((policies["score"] + 0.1 * policies["speedup"]).argmax())


criteria = {
    "the best score": {},
    "the best score at 5x or more": {"min_speedup": 0.8},
    "at most one point lost": {"max_accuracy_drop": 0.01},
    "a point for a tenth of the layers": {"objective": worth_it},
}
found = {
    criterion: TunedExitPolicyClassifierCV(
        FrozenEstimator(network), scoring="accuracy", **parameters
    ).fit(X_tune, y_tune)
    for criterion, parameters in criteria.items()
}
new = {criterion: exit_scores(tuned, X_test, y_test) for criterion, tuned in found.items()}

full_depth = found["the best score"].full_depth_score_
print(f"accuracy at full depth, where policies are chosen: {full_depth:.3f}\n")
print(f"{'criterion':34} {'tau':>6} {'patience':>8} {'chosen at':>14} {'on new samples':>19}")
for criterion, tuned in found.items():
    ratio, new_ratio = tuned.best_speedup_, new[criterion]["speedup"]
    print(
        f"{criterion:34} {tuned.best_tau_:>6.3f} {tuned.best_patience_:>8} "
        f"{tuned.best_score_:>7.3f} / {ratio:.2f} {new[criterion]['accuracy']:>7.3f} / "
        f"{new_ratio:.2f} ({1 / (1 - new_ratio):.1f}x)"
    )

# %%
# What was chosen, on samples that nobody has looked at
# -----------------------------------------------------
# The curves are the best that could be picked on these very samples. Who chooses beforehand lands
# on them at best, and mostly a little below.
staged = stack_layers(network.staged_predict_proba(X_test))
display = ExitTradeoffDisplay.from_predictions(
    y_test, staged, labels=network.classes_, name=f"{title}: chosen beforehand"
)
for criterion, marker, size in zip(criteria, "osDX", (16, 12, 9, 6), strict=True):  # some coincide
    display.ax_.plot(
        new[criterion]["speedup"],
        new[criterion]["accuracy"],
        color="black",
        marker=marker,
        markersize=size,
        markerfacecolor="none",
        markeredgewidth=1.5,
        linestyle="none",
        zorder=5,
        label=criterion,
    )
display.ax_.legend(loc="lower left", fontsize="small", markerscale=0.6)

# %%
# The whole front, and any policy on it
# -------------------------------------
# `pareto_front_` holds the policies that no other one beats, from the slowest to the fastest.
# :class:`FixedExitPolicyClassifier` puts one of them over the network, which keeps its own policy,
# and can change it after `fit`. With a thousand samples, a point of accuracy is chance.
front = found["the best score"].pareto_front_
fixed = FixedExitPolicyClassifier(FrozenEstimator(network)).fit(X_tune, y_tune)
print("\n   tau  patience  where it was found  on new samples")
for row in np.unique(np.linspace(0, len(front["tau"]) - 1, 8).round().astype(int)):
    fixed.set_params(tau=front["tau"][row], patience=int(front["patience"][row]))
    scores = exit_scores(fixed, X_test, y_test)
    print(
        f"{fixed.tau:6.3f} {fixed.patience:9} {front['score'][row]:11.3f} / "
        f"{front['speedup'][row]:.2f} {scores['accuracy']:11.3f} / {scores['speedup']:.2f} "
        f"({1 / (1 - scores['speedup']):.1f}x)"
    )

# %%
# Without samples to spare
# ------------------------
# A network that is not frozen is trained by the class itself, always on other samples than those
# it is judged on. ``cv=0.25`` holds out a quarter, chooses there, and trains once more on
# everything; ``cv=5`` trains six networks and chooses on all samples.
crossed = TunedExitPolicyClassifierCV(
    network, scoring="accuracy", min_speedup=0.75, cv=0.25, random_state=0
)
crossed.fit(X_train, y_train)
scores = exit_scores(crossed, X_test, y_test)
print(
    f"\ncv=0.25: tau {crossed.best_tau_:.3f}, patience {crossed.best_patience_}; on new samples "
    f"{scores['accuracy']:.3f} / {scores['speedup']:.2f} ({1 / (1 - scores['speedup']):.1f}x)"
)
plt.show()
