"""Values of ``"auto"`` training parameters, chosen by experiments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

# About 1 / sqrt(width). With the usual 0.02, a ViT of width 128 needs many epochs before it learns
# anything from a few hundred images. For texts, 0.02 is better.
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
        Target number of optimizer steps within these bounds: small data sets get more epochs.
    n_steps_per_class : int
        Additional steps per class: with many classes, rare ones are learned late.
    weight_decay : float
        Decoupled weight decay of AdamW.
    dropout : float
        Dropout in the heads.
    pooling : str
        Pooling of the heads if neither the family nor the checkpoint determines it.
    shared_head_factor : float, default=1.0
        Factor of the learning rate of a head that several labels share; without it, rare labels are
        hardly learned.
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
    shared_head_factor: float = field(default=1.0, kw_only=True)

    def rate_of(self, network: Any) -> float | tuple[float, float]:  # noqa: ARG002 - one backbone
        """Return the learning rate of a network's backbone, or one for each of two."""
        return self.learning_rate

    def head_rate(
        self, learning_rate: float | tuple[float, float], shared_by_labels: bool = False
    ) -> float:
        """Return the learning rate of the heads, given that of the backbone.

        If the user set the learning rate of the backbone, that of the heads changes in proportion.
        """
        factor = self.shared_head_factor if shared_by_labels else 1.0
        if isinstance(learning_rate, tuple):
            return factor * self.head_learning_rate
        return factor * learning_rate * (self.head_learning_rate / self.learning_rate)

    def epochs(self, n_samples: int, n_classes: int, batch_size: int) -> int:
        """Return the number of epochs for a training set."""
        n_steps = self.n_steps + self.n_steps_per_class * n_classes
        wanted = math.ceil(n_steps * batch_size / max(1, n_samples))
        return min(max(wanted, self.min_epochs), self.max_epochs)


@dataclass(frozen=True)
class TowerDefaults(TrainingDefaults):
    """Training parameters for a text and an image backbone that are trained together.

    Parameters
    ----------
    text_learning_rate, image_learning_rate : float
        Peak learning rate of each backbone.
    """

    text_learning_rate: float
    image_learning_rate: float

    def rate_of(self, network: Any) -> float | tuple[float, float]:
        """Return the learning rates of the backbones, in the order in which they run."""
        rates = {"text": self.text_learning_rate, "image": self.image_learning_rate}
        first, second = (rates[tower.adapter.kind] for tower in network.towers)
        return first, second


def defaults_of_both(text: TrainingDefaults, image: TrainingDefaults) -> TowerDefaults:
    """Return training parameters that are suitable for both backbones.

    Each backbone has its own learning rate; the training is as long as the longer one of the two.
    """
    both = text, image
    return TowerDefaults(
        learning_rate=max(each.learning_rate for each in both),
        head_learning_rate=max(each.head_learning_rate for each in both),
        batch_size=min(each.batch_size for each in both),
        min_epochs=max(each.min_epochs for each in both),
        max_epochs=max(each.max_epochs for each in both),
        n_steps=max(each.n_steps for each in both),
        n_steps_per_class=max(each.n_steps_per_class for each in both),
        weight_decay=min(each.weight_decay for each in both),
        dropout=max(each.dropout for each in both),
        pooling=text.pooling,
        text_learning_rate=text.learning_rate,
        image_learning_rate=image.learning_rate,
    )


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
    shared_head_factor=4.0,
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
