"""
Exits and rare classes
======================

Where most samples are of one class, early exits can keep the accuracy and lose the rare classes:
the first layers predict the frequent class for almost everything, and are right most of the time.
In relation extraction, for example, most pairs of entities are in no relation. Here, exit policies
for one network are tuned by accuracy and by scores to which rare classes count, and compared class
by class on samples that nobody has looked at.

So that the script ends within seconds, the network is not a transformer: the stages of a gradient
boosting classifier stand for its layers. Metrics, tuned policies and displays work with any
classifier that predicts after each of its layers (docs/protocol.md). The script needs matplotlib
(the extra ``plots``).
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import textwrap
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from sklearn_epee import TunedExitPolicyClassifierCV, exit_scores, positive_f1_scorer
from sklearn_epee.exceptions import ClassRecallWarning
from sklearn_epee.policy import apply_policy

# %%
# A classifier with early exits
# -----------------------------


class StagedBoosting(ClassifierMixin, BaseEstimator):
    """Gradient boosting whose stages, ten trees a class each, are layers with an exit."""

    def __init__(self, tau=0.1, patience=None, n_layers=6):
        self.tau = tau
        self.patience = patience
        self.n_layers = n_layers

    def fit(self, X, y):
        """Grow the trees."""
        self.boosting_ = GradientBoostingClassifier(
            n_estimators=10 * self.n_layers, max_depth=3, subsample=0.5, random_state=0
        ).fit(X, y)
        self.classes_ = self.boosting_.classes_
        self.n_layers_ = self.n_layers
        return self

    def staged_predict_proba(self, X):
        """Yield the probabilities of every layer."""
        stages = list(self.boosting_.staged_predict_proba(X))
        yield from stages[9::10]

    def predict_with_exits(self, X):
        """Return labels, probabilities, exit layers and entropies."""
        staged = np.stack(list(self.staged_predict_proba(X)), axis=1)
        found = apply_policy(staged, self.tau, self.patience)
        labels = self.classes_[found.prediction]
        return Bunch(
            labels=labels, proba=found.proba, exit_layer=found.exit_layer, entropy=found.entropy
        )

    def predict(self, X):
        """Return labels."""
        return self.predict_with_exits(X).labels

    def predict_exit_layer(self, X):
        """Return exit layers."""
        return self.predict_with_exits(X).exit_layer


# %%
# Four samples in five are of the negative class
# ----------------------------------------------
X, codes = make_classification(
    6000,
    n_features=20,
    n_informative=8,
    n_classes=4,
    n_clusters_per_class=1,
    weights=[0.8, 0.1, 0.07, 0.03],
    class_sep=1.2,
    random_state=0,
)
y = np.array(["none", "effect", "mechanism", "advise"])[codes]
X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.6, stratify=y, random_state=0)
X_tune, X_test, y_tune, y_test = train_test_split(
    X_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0
)
network = FrozenEstimator(StagedBoosting().fit(X_train, y_train))

# %%
# Tuned by accuracy, with a warning
# ---------------------------------
# The fastest policy that loses at most two points of accuracy. The warning names the classes whose
# recall it loses, and `class_report_` has the figures of all classes.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ClassRecallWarning)
    by_accuracy = TunedExitPolicyClassifierCV(
        network, scoring="accuracy", max_accuracy_drop=0.02
    ).fit(X_tune, y_tune)
for warning in caught:
    print(textwrap.fill(f"{warning.category.__name__}: {warning.message}", 88), end="\n\n")
for column, values in by_accuracy.class_report_.items():
    shown = [f"{value:.3f}" if isinstance(value, float) else value for value in values.tolist()]
    print(f"{column:18}", *(f"{value!s:>10}" for value in shown))

# %%
# Tuned by scores to which rare classes count
# -------------------------------------------
# "f1_macro" is the default. `positive_f1_scorer` leaves the negative class out, as is usual for
# relations. All policies are compared for both exactly, as for accuracy.
policies = {
    "full depth": {"policies": {"tau": [0.0], "patience": [6]}},
    "accuracy": {"scoring": "accuracy", "max_accuracy_drop": 0.02},
    "f1_macro": {"max_accuracy_drop": 0.02},
    "positive F1": {"scoring": positive_f1_scorer("none"), "max_accuracy_drop": 0.02},
}
scores = {}
for name, parameters in policies.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClassRecallWarning)
        tuned = TunedExitPolicyClassifierCV(network, **parameters).fit(X_tune, y_tune)
    scores[name] = exit_scores(tuned, X_test, y_test, negative_class="none")

classes = [str(label) for label in network.classes_]
rows = ["accuracy", "macro_f1", "positive_f1", "speedup"]
rows += [f"recall_{label}" for label in classes]
print(f"\n{'on new samples':18}", *(f"{name:>12}" for name in scores))
for row in rows:
    print(f"{row:18}", *(f"{found[row]:>12.3f}" for found in scores.values()))

# %%
# What each class gets
# --------------------
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
width = 0.8 / len(scores)
colors = ["0.7", "#D55E00", "#56B4E9", "#0072B2"]
for ax, key in zip(axes, ("recall", "mean_exit_layer"), strict=True):
    for i, (name, found) in enumerate(scores.items()):
        places = np.arange(len(classes)) + (i - (len(scores) - 1) / 2) * width
        values = [found[f"{key}_{label}"] for label in classes]
        label = name if name == "full depth" else f"tuned by {name}"
        ax.bar(places, values, width, color=colors[i], label=label)
    ax.set(title=key.replace("_", " "), xticks=range(len(classes)), xticklabels=classes)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
plt.show()
