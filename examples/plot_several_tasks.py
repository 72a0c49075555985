"""
Several tasks, one exit
=======================

One backbone answers two questions about each text, with a head for each question after every
layer. A text leaves with both answers at once; ``joint_exit`` says when: as soon as *all* tasks
may leave, as soon as *any* may, or by the *mean* of what they say.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE: does a sentence report an adverse event of a drug, and does it report a
therapeutic one? About one sentence in 45 reports both. Otherwise they are generated notes about
dietary supplements: how is the supplement used, and does the note tell of another substance, too?
``SKLEARN_EPEE_BACKBONE`` may name a checkpoint, as a folder or a hub id. Without, the network is a
compact one trained from scratch, so that no download is needed; on the few sentences of PHEE such a
network hardly knows more than which answers are common. The script needs matplotlib (the extra
``plots``) and takes a few minutes on two cores, more with a checkpoint.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV, exit_scores, speedup_score
from sklearn_epee.datasets import load_phee, make_supplement_notes
from sklearn_epee.policy import JOINT_EXITS, apply_policy

# %%
# Two labels for each text
# ------------------------
# One column of ``y`` for each task; the tasks need not have the same classes.


def phee(subset):
    """Say for each sentence whether events of either kind are reported in it."""
    frame = load_phee(subset=subset, as_frame=True).frame
    kinds = {"adverse": "Adverse_event", "therapeutic": "Potential_therapeutic_event"}
    columns = [
        np.where(frame["events"].str.contains(event, regex=False), kind, "none")
        for kind, event in kinds.items()
    ]
    return frame["text"].tolist(), np.column_stack(columns)


if os.environ.get("SKLEARN_EPEE_DATA"):
    title, tasks = "PHEE", ["adverse event", "therapeutic event"]
    X, y = phee("train")
    X_test, y_test = phee("test")
else:
    title, tasks = "supplement notes", ["use of the supplement", "another substance"]
    notes = make_supplement_notes(4000, return_X_y=False, random_state=0)
    others = np.where(notes.n_statements > 1, "yes", "no")
    X, X_test, y, y_test = train_test_split(
        notes.data, np.column_stack([notes.target, others]), test_size=0.25, random_state=0
    )
X_train, X_tune, y_train, y_tune = train_test_split(X, y, test_size=0.25, random_state=0)

# %%
# One network for both
# --------------------
# ``predict`` returns one column per task, ``predict_proba`` a list with one array per task, as
# scikit-learn's forests do. ``accuracy`` counts the texts that are right in every task.
backbone = os.environ.get("SKLEARN_EPEE_BACKBONE") or None
classifier = EPEEClassifier(backbone, max_epochs=6 if backbone else 8, random_state=0)
classifier.fit(X_train, y_train)
found = classifier.predict_with_exits(X_test)
print("classes:", [classes.tolist() for classes in classifier.classes_])
print("predictions:", found.labels[0].tolist(), "at layer", found.exit_layer[0])
print("probabilities:", [part.shape for part in found.proba])
scores = exit_scores(classifier, X_test, y_test)
for name, score in scores.items():
    print(f"{name:34} {score:.3f}")

# %%
# When do samples exit?
# ---------------------
# ``joint_exit`` acts after training: one network, and here even one pass over the test texts, is
# enough for all rules. At the same ``tau``, "any" exits first and "all" last, and "mean" lies
# between them: a task that is sure makes up for one that is not. At the same speed-up the rules
# differ less: a careful rule with a large ``tau`` can be as fast as a bold one with a small one.
staged = zip(*classifier.staged_predict_proba(X_test), strict=True)
proba = [np.stack(layers, axis=1) for layers in staged]
codes = [np.searchsorted(c, y_test[:, t]) for t, c in enumerate(classifier.classes_)]
truth = np.stack(codes, axis=1)
taus = np.linspace(0, 1.01, 102)

figure, (ax, score_ax) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for joint_exit, color, line in (("all", "#0072B2", "-"), ("mean", "#009E73", "--"),
                                ("any", "#D55E00", ":")):  # fmt: skip
    results = [apply_policy(proba, tau, joint_exit=joint_exit) for tau in taus]
    speedups = [1 - result.exit_layer.mean() / classifier.n_layers_ for result in results]
    right = [(result.prediction == truth).all(axis=1).mean() for result in results]
    ax.plot(taus, speedups, color=color, ls=line, lw=2, label=f'joint_exit="{joint_exit}"')
    score_ax.plot(speedups, right, color=color, ls=line, lw=2)
ax.set(xlabel="tau", ylabel="speed-up ratio")
ax.legend(loc="lower right")
score_ax.set(xlabel="speed-up ratio", ylabel="accuracy: right in both tasks")
# Differences of a few texts are to look like what they are.
low, high = score_ax.get_ylim()
margin = max(0.0, 0.1 - (high - low)) / 2
score_ax.set_ylim(low - margin, min(high + margin, 1.0))
for panel in (ax, score_ax):
    panel.grid(alpha=0.3)
figure.suptitle(f"{title}: {tasks[0]}, and {tasks[1]}")

# %%
# Choosing the policy
# -------------------
# The tuned policy works as with one task, for the rule that the classifier has. It is chosen on
# texts that the network was not trained on; the scores are those on others again. Of all policies
# that lose at most 0.005 on some hundred texts the fastest is one that was lucky there, and it can
# lose more on others. ``confidence=0.95`` guards against that and wants more texts
# (``plot_guarantees.py``).
for joint_exit in JOINT_EXITS:
    classifier.set_params(joint_exit=joint_exit)
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(classifier), scoring="accuracy", max_accuracy_drop=0.005
    )
    tuned.fit(X_tune, y_tune)
    print(
        f"{joint_exit:>4}: tau {tuned.best_tau_:.3f}, patience {tuned.best_patience_}; on the test "
        f"texts accuracy {tuned.score(X_test, y_test):.3f} at speed-up ratio "
        f"{speedup_score(tuned, X_test):.2f}"
    )
plt.show()
