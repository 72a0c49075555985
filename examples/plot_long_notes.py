"""
Long notes: truncated, or read in windows
=========================================

A clinical note is often longer than a transformer reads, and the sentence that decides can be
anywhere in it. Here every note has some fifty sentences, all but one of which say nothing of the
class. A network that truncates its notes never sees the sentence when it comes late. Read in
windows, a note is one sample all the same: at each layer the head reads all of its windows, and
they exit together.

The notes are generated, and the network is a very small one with fresh weights, so that no download
is needed and the script takes less than a minute. It needs matplotlib (the extra ``plots``).
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import warnings

import matplotlib.pyplot as plt
import numpy as np
from transformers import BertConfig

from sklearn_epee import EPEEClassifier

# %%
# Notes of 3,000 characters
# -------------------------
# Of each note we keep where the sentence that decides begins, as a fraction of the note.

ROUTINE = [
    "echocardiography demonstrated unremarkable ventricular contractility.",
    "gastroenterological consultation recommended conservative management.",
    "postoperative physiotherapy continued uncomplicated.",
    "cholecystectomy performed laparoscopically without complications.",
    "electrocardiographic monitoring documented intermittent bradyarrhythmia.",
    "radiological examination excluded osteoporotic compression fractures.",
]
DECIDING = {
    "current": "patient takes melatonin.",
    "past": "patient stopped melatonin.",
    "never": "patient refused melatonin.",
}


def make_notes(n, n_routine, seed):
    """Make notes of which one sentence decides; return them, their classes and its place."""
    rng = np.random.default_rng(seed)
    y = np.array(list(DECIDING))[np.arange(n) % 3]
    notes, places = [], []
    for label in y:
        sentences = rng.choice(ROUTINE, n_routine).tolist()
        at = int(rng.integers(n_routine + 1))
        places.append(at / n_routine)
        notes.append(" ".join([*sentences[:at], DECIDING[label], *sentences[at:]]))
    return notes, y, np.array(places)


short, y_short, _ = make_notes(150, 3, seed=2)
long, y_long, _ = make_notes(60, 47, seed=0)
X_test, y_test, places = make_notes(150, 47, seed=1)
print(f"{min(map(len, X_test))} to {max(map(len, X_test))} characters")

# %%
# Three ways to read them
# -----------------------
# The backbone has 64 positions: a note is five windows. The networks learn from short notes, of
# which everything is read, and go on with long ones (a warm start). With ``pooling="attention"``
# the heads look for the few words that matter.

config = BertConfig(
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    initializer_range=0.2,
)
found = {}
for way in ("truncate", "head_tail", "windows"):
    model = EPEEClassifier(
        config,
        long_texts=way,
        pooling="attention",
        max_epochs=8,
        batch_size=10,
        learning_rate=3e-3,
        head_learning_rate=1e-2,
        dropout=0.0,
        warm_start=True,
        precision="float32",
        random_state=0,
    ).fit(short, y_short)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*texts are longer than")
        model.set_params(max_epochs=5).fit(long, y_long)
        found[way] = model.predict_with_exits(X_test)
    accuracy = np.mean(found[way].labels == y_test)
    print(f"{way}: accuracy {accuracy:.2f}, mean exit layer {found[way].exit_layer.mean():.2f}")

# %%
# Where the sentence is
# ---------------------
# Truncated notes are guessed where the sentence comes late, and notes of which both ends are read
# where it is in the middle.

fifths = np.minimum((places * 5).astype(int), 4)
figure, ax = plt.subplots()
for way, exits in found.items():
    right = exits.labels == y_test
    ax.plot(range(1, 6), [right[fifths == fifth].mean() for fifth in range(5)], "o-", label=way)
ax.set(
    xticks=range(1, 6),
    xlabel="fifth of the note in which the sentence begins",
    ylabel="accuracy",
    ylim=(0, 1.02),
)
ax.legend()
plt.show()
