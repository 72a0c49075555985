"""
Several labels per text
=======================

What does a note mention: a dose, a side effect, a reason, an allergy? Any number of labels may be
right, so each has a probability of its own. Labels that are rare or hard seldom reach 0.5: their
thresholds are tuned on notes that the network has not seen. The exit policy comes after them,
because patience waits for layers that predict the same *set* of labels, and thresholds decide what
that set is.

Nothing is downloaded: the notes are made up here, and the network is a compact one trained from
scratch, unless ``SKLEARN_EPEE_BACKBONE`` names a checkpoint, as a folder or a hub id. The script
needs matplotlib (the extra ``plots``) and takes a minute on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score

from sklearn_epee import (
    EPEEClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
    exit_scores,
)
from sklearn_epee.policy import JOINT_EXITS, apply_policy, stack_layers

# %%
# Notes and what they mention
# ---------------------------
# Each label is there in some of the notes, "allergy" in one of twenty, and most words that tell of
# one appear in other notes, too.
MENTIONS = {
    "dose": (0.5, ["takes {} mg of it", "dose raised to {} mg", "{} mg twice a day"]),
    "effect": (
        0.4,
        ["since then reports nausea", "developed a rash on it", "slept badly after it"],
    ),
    "reason": (0.3, ["for joint pain", "to sleep better", "because of nausea in the past"]),
    "duration": (0.15, ["for {} weeks now", "stopped after {} days", "since {} months"]),
    "allergy": (0.05, ["a known allergy with a rash", "had a rash from shellfish, allergic"]),
}
OTHER = ["denies nausea", "no rash seen", "weight {} kg", "pulse {}", "asks about a flu shot"]


def make_notes(n_notes, seed):
    """Return notes and the list of labels of each."""
    rng = np.random.default_rng(seed)
    notes, labels = [], []
    for _ in range(n_notes):
        found = [label for label, (share, _) in MENTIONS.items() if rng.random() < share]
        said = [rng.choice(MENTIONS[label][1]) for label in found]
        said += list(rng.choice(OTHER, rng.integers(1, 4), replace=False))
        text = ", ".join(phrase.format(rng.integers(2, 99)) for phrase in rng.permutation(said))
        notes.append(f"Patient continues fish oil, {text}.")
        labels.append(found)
    return notes, labels


X_train, y_train = make_notes(1200, 0)
X_tune, y_tune = make_notes(600, 1)
X_choose, y_choose = make_notes(600, 2)
X_test, y_test = make_notes(600, 3)

# %%
# One network, five probabilities
# -------------------------------
# ``y`` is a list of labels for each note; an indicator matrix does as well. ``predict`` returns an
# indicator with the columns ``classes_``.
backbone = os.environ.get("SKLEARN_EPEE_BACKBONE") or None
classifier = EPEEClassifier(
    backbone, max_epochs=3 if backbone else 7, batch_size=16, max_length=64, random_state=0
).fit(X_train, y_train)
print("labels:", classifier.classes_.tolist())
print(X_test[0])
print("->", classifier.classes_[classifier.predict(X_test[:1])[0] == 1].tolist())

# %%
# Thresholds, then the policy
# ---------------------------
# Each step on notes of its own. Macro-F1, in which each label counts alike, is what the thresholds
# are tuned for; micro-F1, in which each mention does, may fall, where a low threshold of a rare
# label finds it too often. The policy is the fastest within 0.01 of the macro-F1 at full depth:
tuned = TunedLabelThresholdsClassifierCV(FrozenEstimator(classifier)).fit(X_tune, y_tune)
for label, threshold in zip(tuned.classes_, tuned.best_thresholds_, strict=True):
    print(f"{label:>16}: threshold {threshold:.2f}")
fast = TunedExitPolicyClassifierCV(FrozenEstimator(tuned), max_accuracy_drop=0.01)
fast.fit(X_choose, y_choose)
scores = {
    name: exit_scores(model, X_test, y_test)
    for name, model in (("0.5", classifier), ("tuned thresholds", tuned), ("and policy", fast))
}
for name, found in scores.items():
    print(
        f"{name:>16}: macro-F1 {found['macro_f1']:.3f}, micro-F1 {found['micro_f1']:.3f}, "
        f"speed-up ratio {found['speedup']:.2f}"
    )

# %%
# Which joint exit?
# -----------------
# "all" waits until every label is sure, "any" for one, and "mean" lets sure labels make up for one
# that is not. They differ in ``tau`` and not in patience, which always counts whole sets. At the
# same speed-up the scores can be compared, from one pass over the test notes.
truth = np.array([[label in found for label in tuned.classes_] for found in y_test]).astype(int)
staged = stack_layers(tuned.staged_predict_proba(X_test))
taus = np.concatenate([np.linspace(0, 0.9, 30), 1 - np.geomspace(0.1, 1e-5, 30), [1.01]])
curves = {}
for joint_exit in JOINT_EXITS:
    points = []
    for tau in taus:
        found = apply_policy(
            staged,
            tau,
            joint_exit=joint_exit,
            multilabel=True,
            label_thresholds=tuned.best_thresholds_,
        )
        ratio = 1 - found.exit_layer.mean() / tuned.n_layers_
        points.append((ratio, f1_score(truth, found.prediction, average="macro", zero_division=0)))
    curves[joint_exit] = np.array(points)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
at = np.arange(len(tuned.classes_))
for shift, (name, model) in zip((-0.2, 0.2), (("0.5", classifier), ("tuned", tuned)), strict=True):
    each = f1_score(truth, model.predict(X_test), average=None, zero_division=0)
    left.bar(at + shift, each, 0.4, label=f"thresholds {name}")
left.set_xticks(at, [f"{c}\n{n}" for c, n in zip(tuned.classes_, truth.sum(axis=0), strict=True)])
left.set(title="F1 of each label, and its notes", ylim=(0, 1.25))
left.legend(loc="upper right", ncols=2, fontsize="small")
for joint_exit, points in curves.items():
    right.plot(*points.T, marker=".", label=joint_exit)
chosen = scores["and policy"]
right.plot(chosen["speedup"], chosen["macro_f1"], "k*", markersize=10, label="chosen")
right.set(title="Joint exits, tau alone", xlabel="speed-up ratio", ylabel="macro-F1")
right.legend(title="joint_exit")
figure.tight_layout()
plt.show()
