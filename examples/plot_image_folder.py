"""
Images from a folder
====================

Images as people have them: a folder for each class, patients in the names of the files. The files
are read when they are needed, and no patient's images are both learned from and held out.

The script writes a folder of synthetic images, discs with a smooth and with a ragged edge, some as
8-bit and some as 16-bit PNG files, and needs matplotlib (the extra ``plots``). It takes less than a
minute on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.model_selection import GroupShuffleSplit

from sklearn_epee import EPEEImageClassifier, exit_scores
from sklearn_epee.datasets import load_image_folder

# %%
# A folder of images
# ------------------
# Thirty patients with eight images each; ``images/smooth/p07_3.png`` is the fourth of patient 7.
rng = np.random.default_rng(0)
folder = Path(tempfile.mkdtemp()) / "images"
y_grid, x_grid = np.mgrid[-14:14, -14:14] + 0.5
angle, distance = np.arctan2(y_grid, x_grid), np.hypot(x_grid, y_grid)
for patient in range(30):
    label = ["smooth", "ragged"][patient % 2]
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number in range(8):
        waves = 2.5 * np.sin(rng.integers(5, 9) * angle) if label == "ragged" else 0
        disc = 1 / (1 + np.exp(distance - rng.uniform(6, 9) - waves))
        pixels = np.clip(disc * rng.uniform(0.5, 0.8) + rng.normal(0.1, 0.08, disc.shape), 0, 1)
        depth = np.uint16 if patient < 10 else np.uint8  # as another scanner would write them
        image = Image.fromarray(np.rint(pixels * np.iinfo(depth).max).astype(depth))
        image.save(folder / label / f"p{patient:02}_{number}.png")

# %%
# Paths, labels and patients
# --------------------------
# ``groups`` is searched in the paths: what it matches is the patient.
images = load_image_folder(folder, groups=r"p\d\d")
X, y, patients = np.array(images.data), images.target, images.groups
print(f"{len(X)} files of {len(np.unique(patients))} patients, classes {images.target_names}")
split = GroupShuffleSplit(n_splits=1, test_size=0.3, random_state=0)
train, test = next(split.split(X, y, patients))

# %%
# Fit and predict on paths
# ------------------------
# A tenth of the patients is held out to watch the training.
model = EPEEImageClassifier(
    tau=0.3, max_epochs=15, validation_fraction=0.1, image_size=28, random_state=0
)
model.fit(X[train], y[train], groups=patients[train])
scores = exit_scores(model, X[test], y[test])
print(
    f"accuracy {scores['accuracy']:.3f} at a speed-up ratio of {scores['speedup']:.2f}, "
    f"mean exit layer {scores['mean_exit_layer']:.1f} of {model.n_layers_}"
)

# %%
# Files by their exit
# -------------------
# A file that cannot be read is refused by its name, and 16 bits are fractions like 8 bits.
result = model.predict_with_exits(X[test])
order = np.argsort(result.exit_layer, kind="stable")
_, axes = plt.subplots(2, 5, figsize=(10, 4.6), layout="constrained")
for ax, i in zip(axes.flat, np.concatenate([order[:5], order[-5:]]), strict=True):
    path = Path(X[test][i])
    pixels = np.asarray(Image.open(path))
    ax.imshow(pixels / np.iinfo(pixels.dtype).max, cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_title(f"{path.parent.name}/{path.name}\nlayer {result.exit_layer[i]}", fontsize=9)
axes[0, 0].figure.suptitle("first exits (above) and last exits (below)")
plt.show()
