"""
Looking at early exits
======================

What does each layer know, what does leaving early cost, who leaves where, and are the exits as
sure as they should be? Each picture needs one forward pass of a network that is trained once.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE (does a sentence report an adverse event of a drug or a therapeutic one?);
otherwise they are generated notes about dietary supplements. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint, which answers better; without it a compact network is trained from scratch,
so that no download is needed. The script needs matplotlib (the extra ``plots``) and takes a few
minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import load_phee, make_supplement_notes
from sklearn_epee.plotting import (
    ExitHistogramDisplay,
    ExitPolicyHeatmapDisplay,
    ExitReliabilityDisplay,
    ExitTradeoffDisplay,
    LayerwiseDisplay,
)

# %%
# One network, trained once
# -------------------------
# The policy is tuned on samples that were not used in training, and all plots show a third set: the
# score of a policy on the samples it was tuned on is optimistically biased.

if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PHEE"
    X, y = load_phee(subset="train", return_X_y=True)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title = "supplement notes"
    X, y = make_supplement_notes(4000, random_state=0)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
X_train, X_tune, y_train, y_tune = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)
backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
classifier = EPEEClassifier(backbone, max_epochs=8 if backbone is None else 3, random_state=0)
classifier.fit(X_train, y_train)
tuned = TunedExitPolicyClassifierCV(
    FrozenEstimator(classifier), scoring="accuracy", max_accuracy_drop=0.005
)
tuned.fit(X_tune, y_tune)
print(f"chosen: tau {tuned.best_tau_:.3f}, patience {tuned.best_patience_}")

# %%
# What each layer knows
# ---------------------
LayerwiseDisplay.from_estimator(tuned, X_test, y_test, name=title)

# %%
# The cost of exiting early
# -------------------------
# The front is the best that could be selected on these very samples (optimistically biased). The
# star is the policy selected beforehand, the fastest that lost at most 0.005 where it was tuned; on
# other samples it may lose more. ``plot_guarantees.py`` has promises that hold there, too.
ExitTradeoffDisplay.from_estimator(tuned, X_test, y_test, name=title)

# %%
# Every tau with every patience
# -----------------------------
# A larger tau exits earlier, and so does a smaller patience.
ExitPolicyHeatmapDisplay.from_estimator(tuned, X_test, y_test, name=title)

# %%
# Where each class exits
# ----------------------
# Classes that are hard to tell apart go deeper.
ExitHistogramDisplay.from_estimator(tuned, X_test, y_test, name=title)

# %%
# Are the exits calibrated?
# -------------------------
# Below the diagonal an exit is overconfident, and samples exit too early. Points above low bars are
# of few samples, and jump.
ExitReliabilityDisplay.from_estimator(tuned, X_test, y_test, name=title)
plt.show()
