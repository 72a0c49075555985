"""Choosing the exit policy, calibrating the exits for it, and the thresholds of labels."""

from __future__ import annotations

from ._calibration import ExitCalibratedClassifier
from ._fixed import FixedExitPolicyClassifier
from ._thresholds import TunedLabelThresholdsClassifierCV
from ._tuned import TunedExitPolicyClassifierCV

__all__ = [
    "ExitCalibratedClassifier",
    "FixedExitPolicyClassifier",
    "TunedExitPolicyClassifierCV",
    "TunedLabelThresholdsClassifierCV",
]
