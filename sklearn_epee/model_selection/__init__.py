"""Choose the exit policy, calibrate the exits, and tune the thresholds of labels."""

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
