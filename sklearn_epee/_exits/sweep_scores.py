"""The interface of scores over a sweep, and means of values that depend on the exit only."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from .staged import Floats
from .sweep import Sweep


class PolicyScore(Protocol):
    """A score that can be computed for every threshold of a sweep."""

    # Whether the cost of a threshold does not grow with the number of samples.
    is_cheap: bool

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score, higher is better, for each of the sweep's thresholds."""
        ...


class MeanScore:
    """Weighted mean over the samples of a value that depends on the exit alone.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_layers), of numbers
        What a sample counts if it exits at this layer, its weight included.
    total_weight : float
        What the sum is divided by.
    """

    is_cheap = True

    def __init__(self, values: NDArray[Any], total_weight: float) -> None:
        self._values = values
        self._total_weight = total_weight

    def __call__(self, sweep: Sweep) -> Floats:
        return sweep.total(self._values) / self._total_weight
