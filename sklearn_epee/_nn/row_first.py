"""Decide whether to compute the row that a head reads before the other rows of the layer.

A head that reads a single position only needs that row of its layer. If it is computed first, the
exits can be decided and the other rows are only computed for the remaining samples. This saves time
if enough samples exit. The costs of a single row and of the other rows are measured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from .exit_rules import ExitRule

# Maximum number of rules whose exit rates are stored.
_REMEMBERED_RULES = 64
# Time to copy the hidden states of the remaining samples, as a share of a layer.
_COPYING = 0.03


class RowCosts:
    """Measured time of the rows that heads read, and of the other rows of a layer.

    Parameters
    ----------
    timed : bool
        Whether times are measured. On a GPU calls return before they are finished, so the costs
        are estimated by the number of rows instead.
    calls : int, default=0
        Number of positions that take as long as the overhead of separate calls for the rows; if
        fewer are saved, rows are not computed first.
    """

    def __init__(self, timed: bool, calls: int = 0) -> None:
        self._timed = timed
        self._calls = calls
        self._row: dict[int, float] = {}
        self._rest: dict[int, float] = {}

    def note_row(self, n: int, seconds: float) -> None:
        """Record the time of computing one row of each of n samples."""
        _note(self._row, n, seconds / n)

    def note_rest(self, positions: int, seconds: float) -> None:
        """Record the time of computing some positions."""
        _note(self._rest, positions, seconds / positions)

    def row_first_pays(self, n: int, t: int, rate: float, n_read: int = 1) -> bool:
        """Return whether computing rows first takes less time than all (n, t) positions at once.

        Parameters
        ----------
        n, t : int
            Number of samples, and of positions per sample.
        rate : float
            Expected share of the samples that exit.
        n_read : int, default=1
            Number of rows that a head reads.
        """
        return rate > self._share(n, t, n_read) and rate * n * t > self._calls

    def _share(self, n: int, t: int, n_read: int) -> float:
        """Return the cost of the single rows and of copying, as a share of that of all rows."""
        row = self._row.get(n.bit_length())
        rest = self._rest.get((n * t).bit_length())
        if not self._timed or row is None or rest is None:
            return (n_read + 0.5) / t + _COPYING
        return n * row / (n * t * rest) + _COPYING


class ExitRates:
    """Running estimate of the share of samples that exit at a layer they reach.

    Parameters
    ----------
    n_layers : int
        Number of layers M.
    """

    # Prior: pseudo-counts of samples that reached a layer and of those that exited.
    _PRIOR_SAMPLES = 6.0
    _PRIOR_EXITS = 1.0

    def __init__(self, n_layers: int) -> None:
        self._reached = [self._PRIOR_SAMPLES] * (n_layers + 1)
        self._exited = [self._PRIOR_EXITS] * (n_layers + 1)

    def note(self, layer: int, reached: int, exited: int) -> None:
        """Record the exits of a batch."""
        self._reached[layer] += reached
        self._exited[layer] += exited

    def at(self, layer: int) -> float:
        """Return the estimated probability that a sample exits at a layer that it reaches."""
        return self._exited[layer] / self._reached[layer]


class RowFirst:
    """Costs and exit rates that an engine has measured over all its calls.

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
        """Return the object that decides in one call.

        Parameters
        ----------
        rule : ExitRule
        n_read : int
            Number of rows of its layer that a head reads; 0 if it reads all of them.

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
    """Decides at every layer of one call, and records costs and exits.

    Parameters
    ----------
    rule : ExitRule
    n_read : int
        Number of rows of its layer that a head reads; 0 if it reads all of them.
    costs : RowCosts
    rates : ExitRates or None
        None for a rule whose exit rates are not recorded.
    """

    def __init__(
        self, rule: ExitRule, n_read: int, costs: RowCosts, rates: ExitRates | None
    ) -> None:
        self.costs = costs
        self._rule = rule
        self._n_read = n_read
        self._rates = rates

    def pays(self, layer: int, n: int, t: int) -> bool:
        """Return whether to compute the head's rows first in a layer of (n, t) positions."""
        if not self._n_read or not self._rule.may_exit(layer):
            return False
        if layer == self._rule.last_layer:
            return True
        rate = 0.0 if self._rates is None else self._rates.at(layer)
        return self.costs.row_first_pays(n, t, rate, self._n_read)

    def note_exits(self, layer: int, reached: int, exited: int) -> None:
        """Record the exits of a batch."""
        if self._rates is not None:
            self._rates.note(layer, reached, exited)


def _note(known: dict[int, float], size: int, seconds: float) -> None:
    """Update the time for sizes of a magnitude with a new measurement."""
    before = known.get(size.bit_length())
    if before is None or seconds < before:
        known[size.bit_length()] = seconds
    else:
        # Interference only makes measurements longer, so a single long one gets little weight.
        known[size.bit_length()] = before + 0.1 * min(seconds - before, before)
