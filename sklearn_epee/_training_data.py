"""What a fit learns from: validated samples with class indices and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_sample_weight

from ._checks import check_labels, check_weights
from .nn.batching import EncodedSamples, LabelledSamples


@dataclass(frozen=True)
class TrainingData:
    """Validated training samples with class indices and weights, 1 on average."""

    samples: Any
    classes: NDArray[Any]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]

    def labelled(
        self, encode: Callable[[Any], EncodedSamples], rows: NDArray[np.intp]
    ) -> LabelledSamples:
        """Encode some of the samples for the training loop."""
        samples = encode(take(self.samples, rows))
        return LabelledSamples(samples, self.labels[rows], self.weights[rows])


def prepare_training_data(
    samples: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    class_weight: dict[Any, float] | str | None,
    estimator: type,
) -> TrainingData:
    """Validate labels and weights, and leave samples of weight 0 out.

    Parameters
    ----------
    samples : sequence
        Validated samples.
    y : array-like of shape (n_samples,)
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : "balanced", dict or None
    estimator : type
        Whose messages these are.

    Returns
    -------
    TrainingData

    Raises
    ------
    ValueError
        If y or a weight is not as described, or fewer than two classes are left.
    """
    y = check_labels(y, len(samples), estimator.__name__)
    weights = check_weights(sample_weight, len(y))
    used = np.flatnonzero(weights)
    if len(used) < len(y):
        samples, y, weights = take(samples, used), y[used], weights[used]
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{estimator.__name__} needs samples of at least 2 classes; y holds only one class: "
            f"{classes[0]!r}."
        )
    if class_weight is not None:
        weights = _with_class_weights(weights, class_weight, y)
    weights = weights / weights.mean()
    return TrainingData(samples, classes, labels.astype(np.int64), weights.astype(np.float32))


def _with_class_weights(
    weights: NDArray[np.float64], class_weight: dict[Any, float] | str, y: NDArray[Any]
) -> NDArray[np.float64]:
    weights = weights * compute_sample_weight(class_weight, y)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"class_weight={class_weight!r} must hold finite weights >= 0.")
    if not weights.any():
        raise ValueError("class_weight leaves no sample with a weight above 0.")
    return weights


def take(samples: Any, rows: NDArray[np.intp]) -> Any:
    """Give some of the samples, in an array or a list as they are."""
    if isinstance(samples, np.ndarray):
        return samples[rows]
    return [samples[row] for row in rows]
