"""Choosing the exit policy: by hand, or by cross-validation, with a guarantee on request."""

from __future__ import annotations

from ._fixed import FixedExitPolicyClassifier
from ._tuned import TunedExitPolicyClassifierCV

__all__ = ["FixedExitPolicyClassifier", "TunedExitPolicyClassifierCV"]
