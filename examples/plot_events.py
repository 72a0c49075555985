"""
Events and entities: spans that exit early
==========================================

Which words of a sentence tell of an event, and which are its drug, its effect, its patient? A head
after every layer labels every word. Spans of one kind may lie within those of another: each kind is
a layer of spans. And two things may exit: the sentence as a whole, or each word by itself.

With the environment variables ``SKLEARN_EPEE_DATA`` and ``SKLEARN_EPEE_BACKBONE`` naming the folder
of the real data sets and a pretrained checkpoint, the sentences are those of PHEE, which takes half
an hour on two cores; otherwise they are generated, and a compact network is trained from scratch in
about a minute. The script needs matplotlib (the extra ``plots``).
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os
import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEETokenClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.datasets import load_phee_events
from sklearn_epee.metrics import span_f1_score, span_f1_scorer, span_scores
from sklearn_epee.plotting import ExitTradeoffDisplay

# %%
# Texts and layers of spans
# -------------------------
# A span is (start, end, label) in characters. "Low-dose insulin" is the treatment of the event, and
# "insulin" the drug in it: two layers. Readers give the same of BRAT, BioC, PubTator and CoNLL
# files (`read_brat_spans` and so on), and a list of your own will do.

DRUGS = ["insulin", "warfarin", "lithium", "digoxin", "heparin", "codeine", "zinc", "folate"]
EFFECTS = ["rash", "severe bleeding", "liver failure", "fever", "acute renal failure", "coma"]
PATIENTS = ["a 54-year-old man", "two women", "an elderly patient", "a child with epilepsy"]
FORMS = [
    ("{effect} {trigger} {treatment} in {patient}", ["after", "following"]),
    ("{patient} on {other} {trigger} {effect} during {treatment}", ["developed", "experienced"]),
    ("{treatment}, then {other}, in {patient}; {effect} was {trigger} by the first", ["induced"]),
    ("{other}, then {treatment}, in {patient}; {effect} was {trigger} by the second", ["induced"]),
    ("no {effect} was seen with {treatment} or {other} in {patient}", [None]),
]


def make_reports(n_sentences, seed):
    """Return sentences of case reports, and a dict of layers of spans for each."""
    rng, texts, targets = np.random.default_rng(seed), [], []
    for _ in range(n_sentences):
        form, triggers = FORMS[rng.integers(len(FORMS))]
        drug, other = (str(name) for name in rng.choice(DRUGS, 2, replace=False))
        effect, patient = str(rng.choice(EFFECTS)), str(rng.choice(PATIENTS))
        trigger = triggers[rng.integers(len(triggers))]
        forms = ["{}", "low-dose {}", "{} therapy", "5mg of {}"]
        treatment, other = (str(rng.choice(forms)).format(name) for name in (drug, other))
        text = form.format(
            effect=effect, trigger=trigger, treatment=treatment, other=other, patient=patient
        )

        def span(words, label, text=text):
            return (text.index(words), text.index(words) + len(words), label)

        spans = {"trigger": [], "argument": [], "drug": []}
        if trigger is not None:
            spans["trigger"] = [span(trigger, "Adverse_event")]
            roles = {"Effect": effect, "Treatment": treatment, "Subject": patient}
            spans["argument"] = sorted(span(words, role) for role, words in roles.items())
            spans["drug"] = [span(drug, "Drug")]
        texts.append(text)
        targets.append(spans)
    return texts, targets


backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA") and backbone:
    (X_train, y_train), (X_dev, y_dev) = (
        load_phee_events(subset=subset, return_X_y=True) for subset in ("train", "dev")
    )
else:
    (X_train, y_train), (X_dev, y_dev) = make_reports(600, seed=0), make_reports(150, seed=1)

row = next(row for row, found in enumerate(y_train) if found["trigger"])
print(X_train[row])
for layer, found in y_train[row].items():
    print(f"{layer:>9}:", [(X_train[row][start:end], label) for start, end, label in found])

# %%
# F1 of the spans after every layer
# ---------------------------------
# `predict` gives spans in characters of the texts, and `predict_tags` a tag for every word. What
# is right is a span as a whole: `span_scores` is seqeval's strict count, by layer of spans and by
# label.

clf = EPEETokenClassifier(backbone, max_epochs=15 if backbone is None else 5, random_state=0)
clf.fit(X_train, y_train)
by_layer = list(clf.staged_predict(X_dev))  # from one pass
for layer, found in span_scores(y_dev, by_layer[-1])["layers"].items():
    print(f"{layer:>9}:", *(f"{name} {value:.3g}" for name, value in found.items()))

figure, ax = plt.subplots()
for name in y_dev[0]:
    scores = [span_f1_score(y_dev, spans, layer=name) for spans in by_layer]
    ax.plot(range(1, len(scores) + 1), scores, marker="o", label=name)
ax.set(xlabel="layer", ylabel="F1 of the spans", title="What the exits know", ylim=(0, 1.02))
ax.legend()

# %%
# Sentences exit, or words
# ------------------------
# With ``token_exit="sentence"`` all words of a sentence must be sure, in every layer of spans, and
# the hardest one decides. With ``token_exit="token"`` a word that is sure exits by itself: the
# others go on to read its state, but it is not computed any more. The speed-up ratio counts the
# rows, tokens times layers, that are saved.

figure, ax = plt.subplots()
for name, settings in {
    "sentence, all words": {"token_exit": "sentence", "joint_exit": "all"},
    "sentence, mean of the words": {"token_exit": "sentence", "joint_exit": "mean"},
    "word by word": {"token_exit": "token", "joint_exit": "all"},
}.items():
    points = []
    for tau in (0.0, 0.02, 0.1, 0.3, 0.6):
        scores = exit_scores(clf.set_params(tau=tau, **settings), X_dev, y_dev)
        points.append((scores["speedup"], scores["span_f1"]))
    ax.plot(*zip(*points, strict=True), marker="o", label=name)
ax.set(xlabel="speed-up ratio", ylabel="F1 of the spans", title="Thresholds from 0 to 0.6")
ax.legend()

# %%
# A policy chosen from data
# -------------------------
# ``TunedExitPolicyClassifierCV`` compares every tau with every patience by F1 of spans, from one
# staging of the sentences, for whole sentences: the best one that saves 40 % of the rows. On the
# very sentences that it was chosen on it looks a little too good.

clf.set_params(tau=0.05, token_exit="sentence", joint_exit="mean")
tuned = TunedExitPolicyClassifierCV(
    FrozenEstimator(clf), min_speedup=0.4, scoring=span_f1_scorer()
).fit(X_dev, y_dev)
print(f"tau={tuned.best_tau_:.3f}, patience={tuned.best_patience_}: F1 {tuned.best_score_:.3f}")
ExitTradeoffDisplay.from_estimator(
    tuned, X_dev, y_dev, scoring=span_f1_scorer(), name="Sentences that exit as a whole"
)

# %%
# Word by word
# ------------
# A sentence may be given as its words, too. How deep did each of them go, and what came of it?

clf.set_params(tau=0.05, token_exit="token", joint_exit="all")
words = re.findall(r"\w+|[^\w\s]", X_dev[0])
found = clf.predict_with_exits([words])
layers_of_spans = found.tags[0]
print(f"{'word':>12}  exit", *(f" {layer:16}" for layer in layers_of_spans))
for word, exit_layer, *tags in zip(
    words, found.exit_layer[0], *layers_of_spans.values(), strict=True
):
    print(f"{word:>12}  {exit_layer:4}", *(f" {tag:16}" for tag in tags))

# %%
# And what is right:

print(X_dev[0])
for layer, right in y_dev[0].items():
    print(f"{layer:>9}:", [(X_dev[0][start:end], label) for start, end, label in right])
plt.show()
