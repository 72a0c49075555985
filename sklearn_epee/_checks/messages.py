"""Common parts of error messages."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

_LONGEST = 60


def shown(value: Any) -> str:
    """Return the representation of a value for messages, abbreviated if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class SampleError(ValueError):
    """Error about one sample, whose number can be corrected by callers that know its place in X.

    Parameters
    ----------
    row : int
        Number of the sample among those where the error was raised.
    reason : str
        Rest of the message, after the number.
    """

    # Name of the argument that contains the sample.
    argument: ClassVar[str] = "X"

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"{self.argument}[{row}] {reason}")
        self.row = row
        self.reason = reason

    def at(self, row: int) -> Self:
        """Return the same error with another sample number."""
        return type(self)(row, self.reason)

    def __reduce__(self) -> tuple[type[SampleError], tuple[int, str]]:
        return type(self), (self.row, self.reason)


class SampleLabelError(SampleError):
    """Error about the labels of one sample."""

    argument = "y"


@contextmanager
def numbered_from(first: int) -> Iterator[None]:
    """Add a number to the sample numbers of errors in the block."""
    try:
        yield
    except SampleError as error:
        raise error.at(first + error.row) from None


def level_of_caller() -> int:
    """Return the `stacklevel` for a warning to show the line that called this package.

    For use in the function that warns; the number of calls within the package is counted.
    """
    package = __name__.partition(".")[0]
    level, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
