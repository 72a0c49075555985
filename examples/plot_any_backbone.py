"""
Any backbone of transformers
============================

A family without an adapter of its own is run layer by layer as its model would run it, once it has
proved that this gives what the model gives. Here a small GPT-NeoX and a small T5 encoder learn from
scratch what the compact BERT learns, and a model that cannot be run layer by layer is refused. The
script needs matplotlib (the extra ``plots``) and downloads nothing.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import textwrap
from itertools import pairwise

import matplotlib.pyplot as plt
from sklearn.model_selection import train_test_split
from transformers import FNetConfig, GPTNeoXConfig, T5Config

from sklearn_epee import EPEEClassifier
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.plotting import LayerwiseDisplay

X, y = make_supplement_notes(1600, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# Three families
# --------------
# A configuration gives fresh weights; a folder or hub id would give pretrained ones.

sizes = {"vocab_size": 2000, "pad_token_id": 0}
wide = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
backbones = {
    "compact BERT": None,
    "GPT-NeoX": GPTNeoXConfig(**sizes, **wide, intermediate_size=128, max_position_embeddings=128),
    "T5 encoder": T5Config(**sizes, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4),
}
figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
displays = []
for (name, backbone), ax in zip(backbones.items(), axes, strict=True):
    clf = EPEEClassifier(backbone, max_length=96, max_epochs=10, tau=0.3, random_state=0)
    clf.fit(X_train, y_train)
    exits = clf.predict_exit_layer(X_test)
    print(f"{name}: accuracy {clf.score(X_test, y_test):.2f}, mean exit {exits.mean():.1f} of "
          f"{clf.n_layers_}, heads read: {clf.pooling_}")  # fmt: skip
    displays.append(LayerwiseDisplay.from_estimator(clf, X_test, y_test, name=name, ax=ax))

# One scale of entropies for all, and words at the outer axes alone.
highest = max(display.mean_entropy.max() for display in displays)
for display in displays:
    display.entropy_ax_.set_ylim(0, 1.08 * highest)
for left, right in pairwise(displays):
    left.entropy_ax_.set(ylabel="", yticklabels=[])
    right.ax_.set_ylabel("")

# %%
# A model that is refused
# -----------------------
# FNet mixes positions by Fourier transforms, those of padding included: what it says of a text
# depends on the texts beside it. Loading finds that out.

try:
    fnet = FNetConfig(**sizes, **wide, intermediate_size=128)
    EPEEClassifier(fnet, random_state=0).fit(X_train, y_train)
except ValueError as error:
    print(textwrap.fill(str(error), 88, break_on_hyphens=False))

plt.show()
