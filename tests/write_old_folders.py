"""Write the folders that later versions must be able to read: `python -m tests.write_old_folders`.

Those of earlier versions of the layout are kept as they are. A new version of the layout
(`sklearn_epee._folders.files.SCHEMA`) adds folders of its own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from transformers import BertConfig, ViTConfig

from sklearn_epee import (
    EPEEClassifier,
    EPEEImageClassifier,
    ExitCalibratedClassifier,
    TunedExitPolicyClassifierCV,
)
from sklearn_epee._folders.files import SCHEMA
from sklearn_epee.datasets import make_supplement_notes

OLD = Path(__file__).parent / "old_folders"
SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def text_classifier():
    """Return a fitted classifier of texts, as small as can be, and some texts."""
    X, y = make_supplement_notes(60, random_state=0)
    config = BertConfig(vocab_size=80, max_position_embeddings=24, **SIZES)
    clf = EPEEClassifier(config, max_epochs=2, max_length=24, random_state=0, device="cpu")
    return clf.fit(X, y), X, y


def kinds():
    """Yield names, fitted estimators and samples."""
    clf, X, y = text_classifier()
    yield "texts", clf, X[:6]
    calibrated = ExitCalibratedClassifier(FrozenEstimator(clf)).fit(X, y)
    tuned = TunedExitPolicyClassifierCV(
        FrozenEstimator(calibrated), max_accuracy_drop=0.4, confidence=0.5
    )
    yield "certified", tuned.fit(X, y), X[:6]
    digits = load_digits(n_class=2)
    pixels, config = (
        digits.images.astype(np.uint8),
        ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES),
    )
    image = EPEEImageClassifier(config, max_epochs=2, random_state=0, device="cpu")
    yield "images", image.fit(pixels[:40], digits.target[:40]), pixels[:4]


def main():
    """Write one folder per kind, with what its model predicts."""
    for name, clf, X in kinds():
        folder = OLD / f"{SCHEMA}_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        clf.save_pretrained(folder / "model")
        expected = {
            "class": type(clf).__name__,
            "images": not isinstance(X, list),
            "X": X if isinstance(X, list) else X.tolist(),
            "proba": np.round(clf.predict_proba(X), 6).tolist(),
            "exit_layer": clf.predict_exit_layer(X).tolist(),
        }
        (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
