"""Parameters of `ExitAudit`, validated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self

import numpy as np

from ._recent import fewest_trials
from ._state import check_share

# Expected number of disagreements in a default window if the disagreement is at the limit.
_EXPECTED_IN_WINDOW = 50


@dataclass(frozen=True)
class AuditParameters:
    """Parameters of `ExitAudit` that are stored with its state; see there."""

    max_disagreement: float
    confidence: float
    share: float
    alarm_at: float
    tighten: bool
    n_steps: int
    window: int

    @classmethod
    def checked(
        cls,
        *,
        max_disagreement: Any,
        confidence: Any,
        share: Any,
        alarm_at: Any,
        tighten: Any,
        n_steps: Any,
        window: Any,
    ) -> Self:
        """Return validated parameters, with the defaults in place of None.

        Raises
        ------
        TypeError, ValueError
            If a parameter is invalid.
        """
        limit = check_share("max_disagreement", max_disagreement)
        confidence = check_share("confidence", confidence)
        share = check_share("share", share, may_be_1=True)
        threshold = limit if alarm_at is None else check_share("alarm_at", alarm_at)
        if threshold > limit:
            raise ValueError(
                f"alarm_at must not be above max_disagreement={limit}; got {alarm_at!r}."
            )
        if not isinstance(tighten, (bool, np.bool_)):
            raise TypeError(f"tighten must be True or False; got {tighten!r}.")
        if isinstance(n_steps, bool) or not isinstance(n_steps, Integral) or n_steps < 1:
            raise ValueError(f"n_steps must be an integer >= 1; got {n_steps!r}.")
        window = _checked_window(window, limit, confidence)
        return cls(limit, confidence, share, threshold, bool(tighten), int(n_steps), window)


def _checked_window(window: Any, max_disagreement: float, confidence: float) -> int:
    if window is None:
        window = math.ceil(_EXPECTED_IN_WINDOW / max_disagreement)
    if isinstance(window, bool) or not isinstance(window, Integral):
        raise TypeError(f"window must be an integer or None; got {window!r}.")
    fewest = fewest_trials(max_disagreement, confidence)
    if window < fewest:
        raise ValueError(
            f"window must be at least {fewest}: fewer samples cannot show a disagreement of at "
            f"most {max_disagreement} with confidence {confidence}; got {window!r}."
        )
    return int(window)
