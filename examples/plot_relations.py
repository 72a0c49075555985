"""
Relations between two entities of a text
========================================

Which drug acts on which? The same sentence holds several pairs, and the answer differs from pair to
pair. So the pair in question is marked in the text, and the heads read the two marks.

With the environment variables ``SKLEARN_EPEE_DATA`` and ``SKLEARN_EPEE_BACKBONE`` naming the folder
of the real data sets and a pretrained checkpoint, the pairs are some of DDI 2013, which takes
twenty minutes on two cores; otherwise they are generated, and a compact network is trained from
scratch in about a minute. The script needs matplotlib (the extra ``plots``).
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, make_scorer

from sklearn_epee import EntityMarker, EPEEClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.datasets import load_ddi2013

# %%
# Rows of a text and two spans
# ----------------------------
# `EntityMarker` takes tuples, dicts, frames or spaCy's spans, and writes marks around both
# entities. (`read_ddi_xml` and the other readers of annotated corpora give such rows.)

DRUGS = ["aspirin", "warfarin", "digoxin", "zinc", "iron", "folate", "heparin", "codeine"]
FORMS = {
    "effect": ["{a} increases the effect of {b}", "bleeding was seen when {a} met {b}"],
    "mechanism": ["{a} lowers serum levels of {b}", "absorption of {b} is slowed by {a}"],
    "advise": ["{a} should not be given with {b}", "avoid {a} in patients on {b}"],
}


def make_pairs(n_sentences, seed):
    """Return a row for every pair of drugs in each sentence, and its label."""
    rng, rows, labels = np.random.default_rng(seed), [], []
    for _ in range(n_sentences):
        a, b, c = rng.choice(DRUGS, 3, replace=False)
        label = str(rng.choice(list(FORMS)))
        fact = str(rng.choice(FORMS[label])).format(a=a, b=b)
        if rng.random() < 0.1:  # annotators differ
            label = str(rng.choice(list(FORMS)))
        other = str(rng.choice([f"{c} was well tolerated", f"no change was seen for {c}"]))
        text = "; ".join(rng.permutation([fact, other]))
        span = {drug: (text.index(drug), text.index(drug) + len(drug)) for drug in (a, b, c)}
        for first, second in ((a, b), (b, c), (a, c)):
            rows.append({"text": text, "span1": span[first], "span2": span[second]})
            labels.append(label if {first, second} == {a, b} else "false")
    return rows, np.array(labels)


backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA") and backbone:
    parts = [load_ddi2013(subset=s, return_X_y=True) for s in ("train", "dev", "test")]
    (X_train, y_train), (X_dev, y_dev), (X_test, y_test) = (
        (list(X[:n]), np.asarray(y[:n]))
        for (X, y), n in zip(parts, (6000, 2500, 2500), strict=True)
    )
else:
    marker = EntityMarker().fit(make_pairs(300, seed=0)[0])
    (X_train, y_train), (X_dev, y_dev), (X_test, y_test) = (
        (marker.transform(rows).tolist(), labels)
        for rows, labels in (make_pairs(n, seed) for seed, n in enumerate((300, 150, 150)))
    )
print(X_train[0], "->", y_train[0])

# %%
# What the heads read
# -------------------
# Where all training texts carry both marks, ``pooling="auto"`` reads the starts of both. The mean
# over all words hardly tells which pair is meant, and a small network may not learn it at all. What
# counts is the F1 score of the relations: most pairs have none, and to say so is easy.

relations = [label for label in np.unique(y_train) if label != "false"]
models, scores = {}, {}
for name, pooling in (("mean of all words", "mean"), ("starts of both marks", "auto")):
    model = EPEEClassifier(backbone, pooling=pooling, max_epochs=8 if backbone is None else 3,
                           random_state=0)  # fmt: skip
    models[name] = model.fit(X_train, y_train)
    scores[name] = [
        f1_score(y_test, predicted, labels=relations, average="micro", zero_division=0)
        for predicted in model.staged_predict(X_test)
    ]
    print(f"{name} ({model.pooling_}):", " ".join(f"{score:.3f}" for score in scores[name]))

figure, ax = plt.subplots()
for name, by_layer in scores.items():
    ax.plot(range(1, len(by_layer) + 1), by_layer, marker="o", label=name)
ax.set(xlabel="layer", ylabel="micro-F1 of the relations", title="What the heads read")
ax.legend()

# %%
# A policy that keeps the relations
# ---------------------------------
# Accuracy counts the pairs without a relation, which are most, and a policy chosen by it may lose
# the others; `exit_scores` shows the recall of each class. A score over the relations alone is
# tuned just as well, on one pass over the pairs. Of generated pairs the first layer knows what the
# last one knows, so that both scores choose to exit there; docs/relations.md has those of DDI 2013.

network = FrozenEstimator(models["starts of both marks"])
micro = make_scorer(f1_score, labels=relations, average="micro", zero_division=0)
for name, scoring in (("accuracy", "accuracy"), ("micro-F1 of the relations", micro)):
    tuned = TunedExitPolicyClassifierCV(network, min_speedup=0.5, scoring=scoring)
    tuned.fit(X_dev, y_dev)
    found = f1_score(y_test, tuned.predict(X_test), labels=relations, average="micro")
    print(f"chosen by {name}: tau {tuned.best_tau_:.3f}, patience {tuned.best_patience_};")
    print(
        f"    on new pairs micro-F1 {found:.3f}, speed-up ratio "
        f"{exit_scores(tuned, X_test, y_test)['speedup']:.2f}"
    )
plt.show()
