"""What ``"auto"`` means for the training parameters, chosen by measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

# About 1 / sqrt(width). With the customary 0.02 a ViT of width 128 needs many epochs before it
# learns anything from a few hundred images. For texts 0.02 is the better one.
SCRATCH_IMAGE_INITIALIZER_RANGE = 0.08


@dataclass(frozen=True)
class TrainingDefaults:
    """Training parameters for one kind of backbone.

    Parameters
    ----------
    learning_rate : float
        Peak learning rate of the backbone.
    head_learning_rate : float
        Peak learning rate of the heads.
    batch_size : int
        Samples per step.
    min_epochs, max_epochs : int
        Bounds of the number of epochs.
    n_steps : int
        Optimizer steps to aim for between these bounds: small data sets are seen more often.
    n_steps_per_class : int
        Steps on top of that for every class: rare classes among many are learned late.
    weight_decay : float
        Decoupled weight decay of AdamW.
    dropout : float
        Dropout in the heads.
    pooling : str
        What a head reads where neither the family nor the checkpoint decides.
    """

    learning_rate: float
    head_learning_rate: float
    batch_size: int
    min_epochs: int
    max_epochs: int
    n_steps: int
    n_steps_per_class: int
    weight_decay: float
    dropout: float
    pooling: str

    def epochs(self, n_samples: int, n_classes: int, batch_size: int) -> int:
        """Return the number of epochs for a training set."""
        n_steps = self.n_steps + self.n_steps_per_class * n_classes
        wanted = math.ceil(n_steps * batch_size / max(1, n_samples))
        return min(max(wanted, self.min_epochs), self.max_epochs)


PRETRAINED_TEXT = TrainingDefaults(
    learning_rate=8e-5,
    head_learning_rate=1e-3,
    batch_size=16,
    min_epochs=3,
    max_epochs=10,
    n_steps=760,
    n_steps_per_class=70,
    weight_decay=0.01,
    dropout=0.1,
    pooling="mean",
)
SCRATCH_TEXT = TrainingDefaults(
    learning_rate=1e-3,
    head_learning_rate=1e-3,
    batch_size=32,
    min_epochs=3,
    max_epochs=40,
    n_steps=1500,
    n_steps_per_class=0,
    weight_decay=0.01,
    dropout=0.1,
    pooling="mean",
)
PRETRAINED_IMAGE = TrainingDefaults(
    learning_rate=5e-5,
    head_learning_rate=5e-4,
    batch_size=16,
    min_epochs=3,
    max_epochs=10,
    n_steps=760,
    n_steps_per_class=70,
    weight_decay=0.01,
    dropout=0.0,
    pooling="cls+mean",
)
SCRATCH_IMAGE = TrainingDefaults(
    learning_rate=1e-3,
    head_learning_rate=1e-3,
    batch_size=32,
    min_epochs=3,
    max_epochs=150,
    n_steps=2500,
    n_steps_per_class=0,
    weight_decay=0.05,
    dropout=0.0,
    pooling="mean",
)
