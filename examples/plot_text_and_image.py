"""
A text with an image: ask the cheaper one first
===============================================

Some cases are decided by what is written, some by what an image shows, and some only by both. Two
transformers learn together, and in prediction the image is looked at only where the text leaves a
doubt. The cases are generated; nothing is downloaded, and both transformers are small ones trained
from scratch. The script needs matplotlib (the extra ``plots``) and takes about a minute.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEEMultimodalClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.policy import stack_layers

# %%
# Three kinds of cases
# --------------------
# A text and a grey image each, of which one may be missing. The text names the finding, or leaves
# it to the image, or says which of the two findings in the image is not the one asked about.
options = {"missing_fraction": 0.2, "return_X_y": False}
train, tune, test = (
    make_case_reports(n, random_state=seed, **options) for seed, n in enumerate((800, 200, 400))
)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
for ax, kind in zip(axes, ("text", "image", "both"), strict=True):
    shown = [
        case
        for case, other in zip(train.data, train.kind, strict=True)
        if other == kind and all(part is not None for part in case)
    ]
    text, image = shown[0]
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(f"decided by {kind if kind != 'both' else 'both together'}")
    ax.set_xlabel(textwrap.fill(text, 42), fontsize=8)
    ax.set(xticks=[], yticks=[])

# %%
# One network of two towers
# -------------------------
# The exits of the tower that runs first come first. ``exit_costs_`` says how much of all work has
# been done at each.
classifier = EPEEMultimodalClassifier(first="text", max_epochs=12, random_state=0)
classifier.fit(train.data, train.target)
print("towers:", classifier.towers_, "with", classifier.n_tower_layers_, "layers")
print("cost of each exit:", classifier.exit_costs_.round(2).tolist())

# %%
# What each exit knows
# --------------------
# The text tower knows the cases that the text decides. The heads of the image tower read what the
# text tower came to, so that they know all three kinds.
stages = stack_layers(classifier.staged_predict(test.data))
layers = np.arange(1, classifier.n_layers_ + 1)
figure, ax = plt.subplots(layout="constrained")
for kind in ("text", "image", "both"):
    rows = test.kind == kind
    right = stages[rows] == test.target[rows, np.newaxis]
    ax.plot(layers, right.mean(axis=0), marker="o", label=kind)
ax.axvline(classifier.n_tower_layers_[0] + 0.5, color="0.7")
ax.set(xlabel="exit, of the text tower, then of the image tower", ylabel="accuracy", xticks=layers)
ax.legend(title="cases decided by")

# %%
# A policy that keeps the accuracy
# --------------------------------
# The tuner counts work, not layers: an exit in the text tower saves the whole image tower.
tuned = TunedExitPolicyClassifierCV(
    FrozenEstimator(classifier), max_accuracy_drop=0.01, scoring="accuracy"
)
tuned.fit(tune.data, tune.target)
classifier.set_params(tau=0.0, patience=None)
full = exit_scores(classifier, test.data, test.target)
early = exit_scores(tuned, test.data, test.target)
print(f"full depth: accuracy {full['accuracy']:.3f}")
print(f"tuned: accuracy {early['accuracy']:.3f}, {early['speedup']:.0%} of the work saved")

# %%
# Which images were looked at
# ---------------------------
towers = tuned.predict_with_exits(test.data).towers
for kind in ("text", "image", "both"):
    rows = test.kind == kind
    print(f"decided by {kind}: the image tower ran for {towers[rows, 1].mean():.0%}")
plt.show()
