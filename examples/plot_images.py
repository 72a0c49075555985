"""
Images that exit early
======================

The same exits and policies work for images: a vision transformer with a classifier after every
layer. Which images are easy, and what is left when there is time for two layers only?

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
images are X-rays of the chest (PneumoniaMNIST, a third of its training part); otherwise they are
scikit-learn's handwritten digits. ``SKLEARN_EPEE_IMAGE_BACKBONE`` may name a pretrained vision
checkpoint; without it a compact network is trained from scratch. The script needs matplotlib (the
extra ``plots``) and takes a few minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEImageClassifier, exit_scores
from sklearn_epee.datasets import load_pneumoniamnist
from sklearn_epee.plotting import ExitHistogramDisplay, LayerwiseDisplay

# %%
# Train once
# ----------

backbone = os.environ.get("SKLEARN_EPEE_IMAGE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PneumoniaMNIST"
    X, y = load_pneumoniamnist(subset="train", return_X_y=True)
    X_train, _, y_train, _ = train_test_split(X, y, train_size=1500, stratify=y, random_state=0)
    X_test, y_test = load_pneumoniamnist(subset="test", return_X_y=True)
else:
    title = "handwritten digits"
    digits = load_digits()
    X_train, X_test, y_train, y_test = train_test_split(
        digits.images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
network = EPEEImageClassifier(backbone, tau=0.1, max_epochs=12, random_state=0)
network.fit(X_train, y_train)
scores = exit_scores(network, X_test, y_test)
print(
    f"accuracy {scores['accuracy']:.3f} at a speed-up ratio of {scores['speedup']:.2f} "
    f"({1 / (1 - scores['speedup']):.1f}x)"
)

# %%
# What each layer knows
# ---------------------
LayerwiseDisplay.from_estimator(network, X_test, y_test, name=title)

# %%
# Where each class exits
# ----------------------
ExitHistogramDisplay.from_estimator(network, X_test, y_test, name=title)

# %%
# A fixed budget
# --------------
# If every prediction has to take the same time, a layer is chosen beforehand. The layers above it
# are not computed. Compare with the dynamic exits above, with a different depth for every image.
print("\nlayers  accuracy with this budget  speed-up factor")
for layer in range(1, network.n_layers_ + 1):
    accuracy = accuracy_score(y_test, network.predict_at_layer(X_test, layer))
    print(f"{layer:6} {accuracy:26.3f} {network.n_layers_ / layer:15.1f}x")

# %%
# Easy and hard images
# --------------------
# One pass returns labels, exit layers and entropies. The upper row shows the images that exited
# first, with the lowest entropy; the lower row those that exited last, with the highest.
result = network.predict_with_exits(X_test)
order = np.lexsort((result.entropy, result.exit_layer))
_, axes = plt.subplots(2, 6, figsize=(11, 4.8), layout="constrained")
for ax, i in zip(axes.flat, np.concatenate([order[:6], order[:-7:-1]]), strict=True):
    ax.imshow(X_test[i], cmap="gray")
    ax.set_axis_off()
    verdict = "right" if result.labels[i] == y_test[i] else f"wrong, is {y_test[i]}"
    ax.set_title(f"layer {result.exit_layer[i]}: {result.labels[i]}\n({verdict})", fontsize=10)
axes[0, 0].figure.suptitle(f"{title}: first exits (above) and last exits (below)")
plt.show()
