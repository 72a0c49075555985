"""What it costs to ask a head first, learned from the clock."""

from __future__ import annotations


class RowCosts:
    """What the row that a head reads costs beside the other rows of a layer.

    Parameters
    ----------
    timed : bool
        Whether the clock shows what a call costs; on a GPU it does not, and the arithmetic stands
        for it.
    """

    def __init__(self, timed: bool) -> None:
        self._timed = timed
        self._row: dict[int, float] = {}
        self._rest: dict[int, float] = {}

    def note_row(self, n: int, seconds: float) -> None:
        """Learn from computing one row each of n samples."""
        _note(self._row, n, seconds / n)

    def note_rest(self, positions: int, seconds: float) -> None:
        """Learn from computing some positions."""
        _note(self._rest, positions, seconds / positions)

    def row_first_pays(self, n: int, t: int, chance: float) -> bool:
        """Tell whether asking first is cheaper than running all (n, t) positions for everybody."""
        return chance > self._share(n, t)

    def _share(self, n: int, t: int) -> float:
        """Cost of the single rows over that of all rows, with the copying that follows."""
        copying = 0.03
        row = self._row.get(n.bit_length())
        rest = self._rest.get((n * t).bit_length())
        if not self._timed or row is None or rest is None:
            return 1.5 / t + copying
        return n * row / (n * t * rest) + copying


def _note(known: dict[int, float], size: int, seconds: float) -> None:
    """Move what is known about sizes of a magnitude towards a new measurement."""
    before = known.get(size.bit_length())
    if before is None or seconds < before:
        known[size.bit_length()] = seconds
    else:
        # Whatever disturbs a clock makes it late: one late measurement says little.
        known[size.bit_length()] = before + 0.1 * min(seconds - before, before)
