"""Read mean scores, and the best candidate, from the ``cv_results_`` of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tolerance for rounding errors in the comparison of means over folds.
TIE = 1e-9

_MEAN = "mean_test_"


def mean_test_score(cv_results: Mapping[str, Any], name: str) -> NDArray[np.floating]:
    """Return the mean test score of this name for every candidate.

    Raises
    ------
    ValueError
        If the search has no such score; the message lists the available ones.
    """
    column = f"{_MEAN}{name}"
    if column not in cv_results:
        names = [key.removeprefix(_MEAN) for key in cv_results if key.startswith(_MEAN)]
        raise ValueError(
            f"The rule reads the score {name!r}, but cv_results_ has only {names}. Search with "
            "scoring=exit_scores, or give the rule the names in your dict of scorers "
            "(metric=..., speedup=...)."
        )
    return np.asarray(cv_results[column], dtype=np.float64)


def have_both_scores(
    scores: NDArray[np.floating], speedups: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return which candidates have both scores.

    Raises
    ------
    ValueError
        If there is none.
    """
    valid = ~(np.isnan(scores) | np.isnan(speedups))
    if not valid.any():
        raise ValueError(
            f"No candidate to choose from: all {len(scores)} have a NaN score. Search with "
            "error_score='raise' to see why."
        )
    return valid


def first_of_best(
    eligible: NDArray[np.bool_], first: NDArray[np.floating], second: NDArray[np.floating]
) -> int:
    """Return the first eligible candidate with the largest `first`, then `second`."""
    tied = eligible & (first >= first[eligible].max() - TIE)
    tied &= second >= second[tied].max() - TIE
    return int(tied.argmax())


def parameters_of(cv_results: Mapping[str, Any], index: int) -> str:
    """Return the parameters of a candidate in parentheses; an empty string if unknown."""
    return f" ({cv_results['params'][index]})" if "params" in cv_results else ""
