"""
Checkpoints of the paper's code
===============================

The paper's code writes a folder in which all layers share one pooler and each has a linear
classifier of its own. `from_paper_checkpoint` makes a fitted estimator of it, whose policy is then
tuned on held-out texts, without training. The folder here is written in that layout by a few lines,
with random weights and classifiers fitted by scikit-learn; take your own in its place. The script
needs matplotlib (the extra ``plots``) and downloads nothing.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.plotting import LayerwiseDisplay

X, y = make_supplement_notes(900, random_state=0)
X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.6, random_state=0)
X_tune, X_test, y_tune, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)

# %%
# A folder in that layout
# -----------------------
# ``bert.*`` with its pooler, ``classifiers.0`` to ``classifiers.3``, a configuration that names the
# classes, and a vocabulary.

folder = Path(tempfile.mkdtemp())
words = sorted({word for text in X_train for word in text.lower().replace(".", " .").split()})
vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
(folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
classes = np.unique(y)
config = BertConfig(
    vocab_size=len(vocabulary), hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=256, initializer_range=0.1, id2label=dict(enumerate(classes.tolist())),
)  # fmt: skip
torch.manual_seed(0)
bert = BertModel(config).eval()
config.save_pretrained(folder)

tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    tokens = tokenizer(X_train, padding=True, truncation=True, return_tensors="pt")
    hidden = bert(**tokens, output_hidden_states=True).hidden_states[1:]
    pooled = [torch.tanh(bert.pooler.dense(states[:, 0])) for states in hidden]
state = {f"bert.{name}": part for name, part in bert.state_dict().items()}
for layer, rows in enumerate(pooled):
    fitted = LogisticRegression(max_iter=1000).fit(rows.numpy(), y_train)
    state[f"classifiers.{layer}.weight"] = torch.tensor(fitted.coef_, dtype=torch.float32)
    state[f"classifiers.{layer}.bias"] = torch.tensor(fitted.intercept_, dtype=torch.float32)
torch.save(state, folder / "pytorch_model.bin")

# %%
# An estimator of it
# ------------------
# That code counts agreements from 0: its patience 2 is ``patience=3`` here.

clf = EPEEClassifier.from_paper_checkpoint(folder, tau=0.3, patience=2 + 1, precision="float32")
first = torch.softmax(pooled[0] @ state["classifiers.0.weight"].T + state["classifiers.0.bias"], 1)
difference = np.abs(clf.predict_proba_at_layer(X_train, 1) - first.numpy()).max()
print(f"largest difference from the folder's own computation at layer 1: {difference:.1e}")
print(
    "as given:", {k: round(exit_scores(clf, X_test, y_test)[k], 3) for k in ("accuracy", "speedup")}
)

tuned = TunedExitPolicyClassifierCV(FrozenEstimator(clf), max_accuracy_drop=0.02)
tuned.fit(X_tune, y_tune)
scores = exit_scores(tuned, X_test, y_test)
print(f"tuned: tau={tuned.best_tau_:.2f}, patience={tuned.best_patience_};",
      {k: round(scores[k], 3) for k in ("accuracy", "speedup")})  # fmt: skip

# %%
# What each layer knows
# ---------------------
# Of random weights the last layer has little more to say than the first, so that policies are
# chosen that exit at once. Layers that were trained will differ more.

LayerwiseDisplay.from_estimator(clf, X_test, y_test, name="random weights")
plt.show()
