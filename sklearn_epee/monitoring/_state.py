"""Helpers of audits and monitors: validated numbers, and states as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np


def check_share(name: str, value: Any, *, may_be_1: bool = False) -> float:
    """Return a number between 0 and 1 as a float.

    Raises
    ------
    TypeError, ValueError
        If it is not a number in (0, 1), or (0, 1].
    """
    expected = f"{name} must be a float in (0, 1{']' if may_be_1 else ')'}; got {value!r}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{expected} of type {type(value).__name__}.")
    if not isinstance(value, Real) or not (0 < value < 1 or (may_be_1 and value == 1)):
        raise ValueError(f"{expected}.")
    return float(value)


@contextmanager
def parsed(text: Any, kind: str, schema: int) -> Iterator[dict[str, Any]]:
    """Parse a state; errors inside the `with` block are raised again as errors about the text.

    Parameters
    ----------
    text : str
    kind : str
        Name of the class that wrote the state.
    schema : int
        The newest known schema; older ones are read, too.

    Raises
    ------
    ValueError
        If the text is not a state of this kind.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string; got {type(text).__name__}.")
    try:
        state = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"text is not JSON: {error}.") from None
    if not isinstance(state, dict) or state.get("kind") != kind:
        got = state.get("kind") if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"text is not a state of {kind}; got {got!r}.")
    if state.get("schema") not in range(1, schema + 1):
        raise ValueError(
            f"text was written with schema {state.get('schema')!r}; this version reads 1 to "
            f"{schema}."
        )
    try:
        yield state
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"text is not a valid state of {kind}: {error}.") from error
