"""Early-exit transformer classifiers in the style of scikit-learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._entities import EntityMarker
from ._version import __version__
from .metrics import (
    exit_scores,
    positive_f1_score,
    positive_f1_scorer,
    refit_accuracy_at_speedup,
    refit_fastest_within,
    speedup_ratio,
    speedup_score,
    task_accuracy_score,
)
from .model_selection import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    TunedLabelThresholdsClassifierCV,
)

if TYPE_CHECKING:
    from ._image import EPEEImageClassifier
    from ._multimodal import EPEEMultimodalClassifier
    from ._text import EPEEClassifier
    from ._tokens import EPEETokenClassifier

__all__ = [
    "EPEEClassifier",
    "EPEEImageClassifier",
    "EPEEMultimodalClassifier",
    "EPEETokenClassifier",
    "EntityMarker",
    "ExitCalibratedClassifier",
    "FixedExitPolicyClassifier",
    "TunedExitPolicyClassifierCV",
    "TunedLabelThresholdsClassifierCV",
    "__version__",
    "exit_scores",
    "positive_f1_score",
    "positive_f1_scorer",
    "refit_accuracy_at_speedup",
    "refit_fastest_within",
    "speedup_ratio",
    "speedup_score",
    "task_accuracy_score",
]

# The estimators need torch and transformers, which take seconds to import.
_LOADED_WHEN_NEEDED = {
    "EPEEClassifier": "._text",
    "EPEEImageClassifier": "._image",
    "EPEEMultimodalClassifier": "._multimodal",
    "EPEETokenClassifier": "._tokens",
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_NEEDED:
        return getattr(importlib.import_module(_LOADED_WHEN_NEEDED[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
