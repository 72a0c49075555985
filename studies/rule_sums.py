"""Contributions of every sample to the score and the cost of every setting of an exit rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from studies.bootstrap import Floats, quotient


class Setting(NamedTuple):
    """All parameters of a rule: those of its variant, and the threshold."""

    parameters: dict[str, Any]
    threshold: float


@dataclass(frozen=True)
class Sums:
    """Contributions of every sample to the score and the cost of every setting.

    Attributes
    ----------
    above, below : ndarray of shape (n_settings, n_samples), float32
        Contributions to the numerator and the denominator of the score.
    layers : ndarray of shape (n_settings, n_samples), float32
        The exit layers.
    n_layers : int
    sizes : ndarray of shape (n_samples,), float32, or None
        Cost of a layer for each sample: its number of tokens. None: equal costs.
    """

    above: Floats
    below: Floats
    layers: Floats
    n_layers: int
    sizes: Floats | None = None

    def scores(self, weights: Floats) -> NDArray[np.float64]:
        """Return the scores of weighted samples, (n_weightings, n_settings)."""
        return quotient(weights @ self.above.T, weights @ self.below.T)

    def ratios(self, weights: Floats) -> NDArray[np.float64]:
        """Return the speed-up ratios of weighted samples, (n_weightings, n_settings)."""
        weights = weights if self.sizes is None else weights * self.sizes
        total = weights.sum(axis=1, dtype=np.float64)[:, np.newaxis]
        return 1.0 - (weights @ self.layers.T).astype(np.float64) / (total * self.n_layers)


@dataclass(frozen=True)
class Applied:
    """All settings of a rule, applied to a network.

    Attributes
    ----------
    settings : list of Setting
    dev, test : Sums
    """

    settings: list[Setting]
    dev: Sums
    test: Sums
