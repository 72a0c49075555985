"""Choosing the exit policy, on request with a guarantee, and calibrating the exits for it."""

from __future__ import annotations

from ._calibration import ExitCalibratedClassifier
from ._fixed import FixedExitPolicyClassifier
from ._tuned import TunedExitPolicyClassifierCV

__all__ = ["ExitCalibratedClassifier", "FixedExitPolicyClassifier", "TunedExitPolicyClassifierCV"]
