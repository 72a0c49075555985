"""The interface of scores over a sweep, and means of values that only depend on the exit."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from .staged import Floats
from .sweep import Sweep


class PolicyScore(Protocol):
    """A score that can be computed for every threshold of a sweep."""

    # Whether the cost per threshold is independent of the number of samples.
    is_cheap: bool

    def __call__(self, sweep: Sweep) -> Floats:
        """Return the score for each threshold of a sweep; higher is better."""
        ...


class MeanScore:
    """Weighted mean over the samples of a value that only depends on the exit.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_layers), of numbers
        Value of each sample if it exits at each layer, multiplied by the sample weight.
    total_weight : float
        Divisor of the sum.
    """

    is_cheap = True

    def __init__(self, values: NDArray[Any], total_weight: float) -> None:
        self._values = values
        self._total_weight = total_weight

    def __call__(self, sweep: Sweep) -> Floats:
        return sweep.total(self._values) / self._total_weight
