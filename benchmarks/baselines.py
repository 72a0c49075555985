"""Measure simple baselines: TF-IDF with logistic regression, random forest on pixels.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA``:

    python -m benchmarks.baselines

Trained on the training part, reported on the test part.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from benchmarks._data import IMAGES, load

TEXTS = ("phee", "git", "ddi2013", "health_advice")


def flat(name, subset):
    """Return samples and labels, with flattened images."""
    X, y = load(name, subset)
    return (np.reshape(X, (len(X), -1)) if name in IMAGES else X), y


def baseline(name):
    if name in IMAGES:
        return RandomForestClassifier(n_estimators=300, random_state=0)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10, class_weight="balanced", max_iter=1000))


def main():
    print(f"scikit-learn {version('scikit-learn')}")
    print("| data | baseline | accuracy | macro-F1 |")
    print("| --- | --- | --- | --- |")
    for name in TEXTS + IMAGES:
        model, (X, y) = baseline(name), flat(name, "test")
        predicted = model.fit(*flat(name, "train")).predict(X)
        title = "random forest" if name in IMAGES else "TF-IDF, logistic regression"
        accuracy, macro_f1 = accuracy_score(y, predicted), f1_score(y, predicted, average="macro")
        print(f"| {name} | {title} | {accuracy:.3f} | {macro_f1:.3f} |", flush=True)


if __name__ == "__main__":
    main()
