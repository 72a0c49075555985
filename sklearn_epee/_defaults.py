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
        Samples a step.
    min_epochs, max_epochs : int
        Bounds of the number of epochs.
    n_steps : int
        Optimiser steps to aim for between these bounds: small data sets are seen more often.
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
    dropout: float
    pooling: str

    def epochs(self, n_samples: int, batch_size: int) -> int:
        """Give the number of epochs for a training set of ``n_samples``."""
        wanted = math.ceil(self.n_steps * batch_size / max(1, n_samples))
        return min(max(wanted, self.min_epochs), self.max_epochs)


PRETRAINED_TEXT = TrainingDefaults(5e-5, 5e-4, 16, 3, 8, 1200, 0.1, "mean")
SCRATCH_TEXT = TrainingDefaults(1e-3, 1e-3, 32, 3, 40, 1500, 0.1, "mean")
PRETRAINED_IMAGE = TrainingDefaults(5e-5, 5e-4, 16, 3, 8, 1200, 0.0, "cls")
SCRATCH_IMAGE = TrainingDefaults(1e-3, 1e-3, 32, 3, 40, 1500, 0.0, "mean")
