"""Decide whether to compute the row that a head reads before the other rows of the layer.

A head that reads a single position needs only that row of its layer. Computed first, the row
decides which samples exit, and the other rows are computed for the remaining samples only. That
pays where enough samples exit; what one row costs beside the others is learned from the clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from .exit_rules import ExitRule

# Rules whose exit rates are remembered.
_REMEMBERED_RULES = 64
# Copying the hidden states of the remaining samples, as a share of a layer.
_COPYING = 0.03


class RowCosts:
    """What the row that a head reads costs beside the other rows of a layer.

    Parameters
    ----------
    timed : bool
        Whether the clock shows what a call costs. On a GPU it does not, and the arithmetic stands
        for it.
    calls : int, default=0
        Positions that take as long as the calls for a row; fewer are not worth a row of their own.
    """

    def __init__(self, timed: bool, calls: int = 0) -> None:
        self._timed = timed
        self._calls = calls
        self._row: dict[int, float] = {}
        self._rest: dict[int, float] = {}

    def note_row(self, n: int, seconds: float) -> None:
        """Learn from computing one row of each of n samples."""
        _note(self._row, n, seconds / n)

    def note_rest(self, positions: int, seconds: float) -> None:
        """Learn from computing some positions."""
        _note(self._rest, positions, seconds / positions)

    def row_first_pays(self, n: int, t: int, rate: float, n_read: int = 1) -> bool:
        """Return whether rows first cost less than all (n, t) positions at once.

        Parameters
        ----------
        n, t : int
            Samples and positions per sample.
        rate : float
            Share of the samples that are expected to exit.
        n_read : int, default=1
            Rows that a head reads.
        """
        return rate > self._share(n, t, n_read) and rate * n * t > self._calls

    def _share(self, n: int, t: int, n_read: int) -> float:
        """Return the cost of the single rows, and of the copying that follows, over all rows."""
        row = self._row.get(n.bit_length())
        rest = self._rest.get((n * t).bit_length())
        if not self._timed or row is None or rest is None:
            return (n_read + 0.5) / t + _COPYING
        return n * row / (n * t * rest) + _COPYING


class ExitRates:
    """How often samples that reach a layer exit there, learned from those seen so far.

    Parameters
    ----------
    n_layers : int
        Number of layers M.
    """

    # As if this many samples had been seen before the first one, a sixth of them exiting.
    _PRIOR_SAMPLES = 6.0
    _PRIOR_EXITS = 1.0

    def __init__(self, n_layers: int) -> None:
        self._reached = [self._PRIOR_SAMPLES] * (n_layers + 1)
        self._exited = [self._PRIOR_EXITS] * (n_layers + 1)

    def note(self, layer: int, reached: int, exited: int) -> None:
        """Learn from a batch of which some samples exited."""
        self._reached[layer] += reached
        self._exited[layer] += exited

    def at(self, layer: int) -> float:
        """Return the estimated probability that a sample exits at a layer it reaches."""
        return self._exited[layer] / self._reached[layer]


class RowFirst:
    """What an engine has learned about costs and exits, for all its calls.

    Parameters
    ----------
    n_layers : int
        Number of layers M.
    costs : RowCosts
        Shared by all rules.

    Attributes
    ----------
    costs : RowCosts
    """

    def __init__(self, n_layers: int, costs: RowCosts) -> None:
        self.costs = costs
        self._n_layers = n_layers
        self._rates: OrderedDict[Hashable, ExitRates] = OrderedDict()

    def choice(self, rule: ExitRule, n_read: int) -> RowFirstChoice:
        """Return what chooses for one call.

        Parameters
        ----------
        rule : ExitRule
        n_read : int
            Rows of its layer that a head reads; 0 where it reads all of them.

        Returns
        -------
        RowFirstChoice
        """
        rates = None if rule.rates_key is None else self._rates_of(rule.rates_key)
        return RowFirstChoice(rule, n_read, self.costs, rates)

    def _rates_of(self, key: Hashable) -> ExitRates:
        rates = self._rates.setdefault(key, ExitRates(self._n_layers))
        if len(self._rates) > _REMEMBERED_RULES:
            self._rates.popitem(last=False)
        return rates


class RowFirstChoice:
    """Chooses at every layer of one call, and learns from it.

    Parameters
    ----------
    rule : ExitRule
    n_read : int
        Rows of its layer that a head reads; 0 where it reads all of them.
    costs : RowCosts
    rates : ExitRates or None
        None for a rule under which nothing is to be learned.
    """

    def __init__(
        self, rule: ExitRule, n_read: int, costs: RowCosts, rates: ExitRates | None
    ) -> None:
        self.costs = costs
        self._rule = rule
        self._n_read = n_read
        self._rates = rates

    def pays(self, layer: int, n: int, t: int) -> bool:
        """Return whether a layer should compute the head's row first for (n, t) positions."""
        if not self._n_read or not self._rule.may_exit(layer):
            return False
        if layer == self._rule.last_layer:
            return True
        rate = 0.0 if self._rates is None else self._rates.at(layer)
        return self.costs.row_first_pays(n, t, rate, self._n_read)

    def note_exits(self, layer: int, reached: int, exited: int) -> None:
        """Learn from a batch of which some samples exited."""
        if self._rates is not None:
            self._rates.note(layer, reached, exited)


def _note(known: dict[int, float], size: int, seconds: float) -> None:
    """Move what is known about sizes of a magnitude towards a new measurement."""
    before = known.get(size.bit_length())
    if before is None or seconds < before:
        known[size.bit_length()] = seconds
    else:
        # Whatever disturbs a clock makes it late: one late measurement says little.
        known[size.bit_length()] = before + 0.1 * min(seconds - before, before)
