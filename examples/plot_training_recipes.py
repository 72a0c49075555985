"""
Training exits that know more, earlier
======================================

How the exits are trained decides what the first layers know. ``exit_training`` names the recipe:
all exits from the joint loss at once (``"joint"``, the default), the last exit first and then all
of them (``"mixed"``, arXiv 2407.14320), exits that also learn from the last one
(``"distillation"``, arXiv 1905.08094), or exits that do not disturb the backbone (``"detached"``).
What a head reads (``pooling``), its architecture (``head``) and how much an exit counts
(``exit_loss_weights``) matter as well.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE; otherwise they are generated notes. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint; without it compact networks are trained from scratch. Six networks are
trained, on some of the texts: the script takes several minutes on two cores. It needs matplotlib
(the extra ``plots``). Which recipe is the best on which data is a matter of several seeds:
``docs/training_recipes.md`` has them.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.datasets import load_phee, make_supplement_notes

# %%
# One data set, six recipes
# -------------------------
# Everything else is the same: data, seed, number of steps.

backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PHEE"
    X, y = load_phee(subset="train", return_X_y=True)
    X_train, _, y_train, _ = train_test_split(X, y, train_size=1500, stratify=y, random_state=0)
    X_tune, y_tune = load_phee(subset="dev", return_X_y=True)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title = "supplement notes"
    X, y = make_supplement_notes(3500, n_distractors=3, random_state=0)
    X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.6, random_state=0)
    X_tune, X_test, y_tune, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)
recipes = {
    "joint": {},
    "mixed": {"exit_training": "mixed"},
    "distillation": {"exit_training": "distillation"},
    "detached": {"exit_training": "detached"},
    "joint, heads with attention": {"head": "attention"},
    "joint, first position": {"pooling": "cls"},
}
networks = {
    name: EPEEClassifier(
        backbone, max_epochs=8 if backbone is None else 3, random_state=0, **recipe
    ).fit(X_train, y_train)
    for name, recipe in recipes.items()
}

# %%
# What each layer knows
# ---------------------
# From one pass over the test part. An early exit that knows no more than the most frequent class is
# of no use, however fast it is. On generated notes compact networks differ little, from layer to
# layer and from recipe to recipe; pretrained ones on real texts differ more.
layers = np.arange(1, networks["joint"].n_layers_ + 1)
_, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for (name, network), marker in zip(networks.items(), "osD^v*", strict=True):
    accuracy = [np.mean(labels == y_test) for labels in network.staged_predict(X_test)]
    ax.plot(layers, accuracy, marker=marker, label=name)
majority = max(np.mean(np.asarray(y_test) == label) for label in networks["joint"].classes_)
ax.axhline(majority, color="grey", linestyle=":", label="most frequent class")
ax.set(xlabel="layer", ylabel="accuracy", xticks=layers, title=f"{title}: accuracy at each layer")
ax.legend(fontsize="small")

# %%
# What that is worth
# ------------------
# The policy of each network is chosen on other samples: the best score with at most 48 % of the
# layers run (a factor of 2.1). The comparison is with full depth.
print(f"{'recipe':28} {'full depth':>10} {'chosen policy':>24}")
for name, network in networks.items():
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(network), scoring="accuracy", min_speedup=0.52
    )
    scores = exit_scores(tuned.fit(X_tune, y_tune), X_test, y_test)
    full = np.mean(network.predict_at_layer(X_test, -1) == y_test)
    ratio = scores["speedup"]
    print(
        f"{name:28} {full:10.3f} {scores['accuracy']:8.3f} / {ratio:.2f} ({1 / (1 - ratio):.1f}x)"
    )
plt.show()
