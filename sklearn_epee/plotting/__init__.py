"""Displays of early exits: per layer, over exit policies, per class, and calibration.

They follow scikit-learn's display protocol: made by ``from_estimator``, ``from_predictions`` or
``from_cv_results``, drawn by ``plot``. Drawing needs matplotlib, from the extra ``plots``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._heatmap import ExitPolicyHeatmapDisplay
    from ._histogram import ExitHistogramDisplay
    from ._layerwise import LayerwiseDisplay
    from ._reliability import ExitReliabilityDisplay
    from ._tradeoff import ExitTradeoffDisplay

__all__ = [
    "ExitHistogramDisplay",
    "ExitPolicyHeatmapDisplay",
    "ExitReliabilityDisplay",
    "ExitTradeoffDisplay",
    "LayerwiseDisplay",
]

_MODULES = {
    "ExitHistogramDisplay": "._histogram",
    "ExitPolicyHeatmapDisplay": "._heatmap",
    "ExitReliabilityDisplay": "._reliability",
    "ExitTradeoffDisplay": "._tradeoff",
    "LayerwiseDisplay": "._layerwise",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
