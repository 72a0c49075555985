"""ExitMonitor: drift of exit layers and entropies, with a known false-alarm rate."""

from __future__ import annotations

import json
import warnings
from numbers import Integral
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from sklearn_epee.exceptions import ExitAlarmWarning

from ._conformal import N_ENTROPY_CELLS, conformal_p, entropy_cells
from ._evidence import N_UNIFORM_BETS, Evidence, uniform_factors
from ._state import check_share, parsed

_SCHEMA = 1
_STREAMS = ("exit_layer", "entropy")


class ExitMonitor:
    """Detect drift of exit layers and entropies relative to calibration samples.

    The exit layer and the entropy of every prediction are known at no cost. The monitor compares
    both with those of calibration samples, one sample after the other, and raises an alarm whose
    false-alarm probability is bounded over unlimited time.

    Parameters
    ----------
    false_alarm_rate : float in (0, 1), default=0.01
        Largest probability of ever raising an alarm while nothing changes.
    random_state : int, RandomState instance or None, default=None
        Breaks ties, such as those between samples of one exit layer.

    Attributes
    ----------
    n_layers_ : int
        Number of layers.
    n_calibration_, n_seen_ : int
        Numbers of samples given to `fit` and to `update`.
    evidence_ : float
        Evidence (an e-value) against "nothing has changed": the capital of bettors who started with
        1. An alarm is raised when it reaches ``1 / false_alarm_rate``.
    evidence_by_ : dict of float
        The evidence of "exit_layer" and of "entropy" separately; `evidence_` is their mean plus
        capital in reserve.
    alarm_ : bool
        Whether there has been an alarm.
    alarm_at_ : int or None
        `n_seen_` at the alarm.

    See Also
    --------
    ExitAudit : Monitors the disagreement with full depth, which this class does not detect.

    Notes
    -----
    Each new sample gets a rank among all samples before it, those of `fit` included, in its exit
    layer and in the entropy of its exit: the share of those that are higher, ties broken at random.
    If all samples are exchangeable, these conformal p-values are independent and uniform [1]_. Bets
    on them multiply a capital by ``1 + slant * (2 p - 1) + bend * (3 (2 p - 1)**2 - 1)``, which is
    1 on average: seven bets on small, large, outer and inner p-values, for both exit layers and
    entropies and all starting times. Because the game is fair, the probability that the mean
    capital ever reaches ``1 / false_alarm_rate`` is at most `false_alarm_rate`.

    **Assumptions.** Calibration samples and new ones are exchangeable as long as nothing changes:
    independent, from the same distribution, and predicted by the same estimator with the same
    policy. Clustered samples (several notes of one patient, a ward in the morning) are not
    independent and raise alarms. A new policy needs a new monitor.

    **Limitations.** New samples are added to those that later ones are compared with, so a change
    has to be detected before it dominates them: within about as many samples as came before it. A
    change that affects neither exit layers nor entropies cannot be detected here, even if
    predictions become wrong: see :class:`ExitAudit`. For delays see ``docs/monitoring.md``.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic learning in a random world", Springer
       (2005); testing exchangeability on-line.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.monitoring import ExitMonitor
    >>> rng = np.random.default_rng(0)
    >>> monitor = ExitMonitor(false_alarm_rate=0.01, random_state=0)
    >>> layers, entropies = rng.integers(1, 7, size=500), rng.beta(1, 9, size=500)
    >>> monitor.fit(layers, entropies, n_layers=6).n_calibration_
    500
    >>> monitor.update(rng.integers(1, 7, size=300), rng.beta(1, 9, size=300)).alarm_
    False

    Samples come that exit late:

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     monitor.update(rng.integers(4, 7, size=300), rng.beta(1, 9, size=300)).alarm_
    True
    >>> 300 < monitor.alarm_at_ < 400
    True
    """

    false_alarm_rate: float
    n_layers_: int
    n_calibration_: int
    n_seen_: int
    alarm_at_: int | None
    _rng: np.random.Generator
    _counts: list[NDArray[np.int64]] | None
    _evidence: Evidence
    _lock: Lock

    def __init__(
        self,
        *,
        false_alarm_rate: float = 0.01,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.false_alarm_rate = check_share("false_alarm_rate", false_alarm_rate)
        self._rng = np.random.default_rng(check_random_state(random_state).randint(2**31))
        self._counts = None
        self._lock = Lock()

    def fit(self, exit_layer: ArrayLike, entropy: ArrayLike, n_layers: int) -> Self:
        """Set the calibration samples; the samples of earlier calls are forgotten.

        Parameters
        ----------
        exit_layer : array-like of shape (n_samples,), int
            From 1 to `n_layers`, as `predict_with_exits` returns them.
        entropy : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Normalized entropies of the exits; with several tasks or labels, their mean counts.
        n_layers : int
            Number of layers.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitMonitor
        >>> X, y = make_supplement_notes(80, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:40], y[:40])
        >>> found = clf.predict_with_exits(X[40:])
        >>> monitor = ExitMonitor(random_state=0)
        >>> monitor.fit(found.exit_layer, found.entropy, clf.n_layers_).n_calibration_
        40
        """
        if isinstance(n_layers, bool) or not isinstance(n_layers, Integral) or n_layers < 1:
            raise ValueError(f"n_layers must be an integer >= 1; got {n_layers!r}.")
        cells = _cells(exit_layer, entropy, int(n_layers))
        sizes = (int(n_layers), N_ENTROPY_CELLS)
        with self._lock:
            self.n_layers_ = int(n_layers)
            self._counts = [
                np.bincount(column, minlength=size).astype(np.int64)
                for column, size in zip(cells.T, sizes, strict=True)
            ]
            self.n_calibration_, self.n_seen_ = len(cells), 0
            self._evidence = Evidence.start((len(_STREAMS) * N_UNIFORM_BETS,))
            self.alarm_at_ = None
        return self

    def update(self, exit_layer: ArrayLike, entropy: ArrayLike) -> Self:
        """Add new samples, in chronological order.

        Parameters
        ----------
        exit_layer : array-like of shape (n_samples,), int
        entropy : array-like of shape (n_samples,) or (n_samples, n_tasks)

        Returns
        -------
        self : object

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described.
        sklearn.exceptions.NotFittedError
            Before `fit`.

        Warns
        -----
        sklearn_epee.exceptions.ExitAlarmWarning
            Once, if these samples raise the alarm.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.monitoring import ExitMonitor
        >>> X, y = make_supplement_notes(80, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:40], y[:40])
        >>> calm, new = clf.predict_with_exits(X[40:60]), clf.predict_with_exits(X[60:])
        >>> monitor = ExitMonitor(random_state=0)
        >>> monitor = monitor.fit(calm.exit_layer, calm.entropy, clf.n_layers_)
        >>> monitor.update(new.exit_layer, new.entropy).n_seen_
        20
        """
        counts = self._fitted()
        cells = _cells(exit_layer, entropy, self.n_layers_)
        by = None
        with self._lock:
            for row in cells:
                p = np.array([
                    conformal_p(count, np.asarray(cell), np.asarray(self._rng.random()))
                    for count, cell in zip(counts, row, strict=True)
                ])  # fmt: skip
                for count, cell in zip(counts, row, strict=True):
                    count[cell] += 1
                self._evidence = self._evidence.after(uniform_factors(p).ravel())
                self.n_seen_ += 1
                if self.alarm_at_ is None and self.evidence_ >= 1 / self.false_alarm_rate:
                    self.alarm_at_, by = self.n_seen_, self.evidence_by_
        if by is not None:
            warnings.warn(
                f"After {self.alarm_at_} samples, the exits differ from those of the "
                f"{self.n_calibration_} calibration samples (false-alarm rate "
                f"{self.false_alarm_rate}; evidence of the exit layers {by['exit_layer']:.3g}, of "
                f"the entropies {by['entropy']:.3g}). Guarantees that were obtained on those "
                "samples may no longer hold.",
                ExitAlarmWarning,
                stacklevel=2,
            )
        return self

    @property
    def evidence_(self) -> float:
        """Evidence that something has changed."""
        self._fitted()
        return float(self._evidence.now)

    @property
    def evidence_by_(self) -> dict[str, float]:
        """Evidence of each stream separately, without the reserve."""
        self._fitted()
        parts = self._evidence.in_play.reshape(len(_STREAMS), -1).sum(axis=1) * len(_STREAMS)
        return dict(zip(_STREAMS, parts.tolist(), strict=True))

    @property
    def alarm_(self) -> bool:
        """Whether there has been an alarm."""
        self._fitted()
        return self.alarm_at_ is not None

    def report(self) -> dict[str, Any]:
        """Return all results.

        Returns
        -------
        dict
            Plain numbers, for a log: "n_calibration", "n_seen", "evidence", "exit_layer" and
            "entropy" (the evidence of each), "alarm" and "alarm_at".

        Examples
        --------
        >>> from sklearn_epee.monitoring import ExitMonitor
        >>> monitor = ExitMonitor(random_state=0).fit([1, 2, 3], [0.1, 0.1, 0.2], n_layers=3)
        >>> monitor.report()["alarm"]
        False
        """
        self._fitted()
        return {
            "n_calibration": self.n_calibration_,
            "n_seen": self.n_seen_,
            "evidence": self.evidence_,
            **self.evidence_by_,
            "alarm": self.alarm_,
            "alarm_at": self.alarm_at_,
        }

    def to_json(self) -> str:
        """Return parameters and state as JSON.

        Returns
        -------
        str

        Examples
        --------
        >>> from sklearn_epee.monitoring import ExitMonitor
        >>> monitor = ExitMonitor(random_state=0).fit([1, 2, 3], [0.1, 0.1, 0.2], n_layers=3)
        >>> ExitMonitor.from_json(monitor.to_json()).n_calibration_
        3
        """
        counts = self._fitted()
        with self._lock:
            return json.dumps(
                {
                    "kind": "ExitMonitor",
                    "schema": _SCHEMA,
                    "false_alarm_rate": self.false_alarm_rate,
                    "n_layers": self.n_layers_,
                    "n_calibration": self.n_calibration_,
                    "n_seen": self.n_seen_,
                    "alarm_at": self.alarm_at_,
                    "counts": [count.tolist() for count in counts],
                    "evidence": self._evidence.to_dict(),
                    "random": self._rng.bit_generator.state,
                }
            )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return a monitor that continues from the state of another one.

        Parameters
        ----------
        text : str
            Returned by `to_json`.

        Returns
        -------
        ExitMonitor

        Raises
        ------
        ValueError
            If the text is not the state of a monitor.

        Examples
        --------
        >>> from sklearn_epee.monitoring import ExitMonitor
        >>> monitor = ExitMonitor(random_state=0).fit([1, 2, 3], [0.1, 0.1, 0.2], n_layers=3)
        >>> again = ExitMonitor.from_json(monitor.to_json())
        >>> again.update([3], [0.3]).evidence_ == monitor.update([3], [0.3]).evidence_
        True
        """
        with parsed(text, "ExitMonitor", _SCHEMA) as state:
            monitor = cls(false_alarm_rate=state["false_alarm_rate"], random_state=0)
            monitor.fit([], [], state["n_layers"])
            counts = [np.asarray(count, dtype=np.int64) for count in state["counts"]]
            evidence = Evidence.from_dict(state["evidence"])
            sizes = [len(count) for count in counts]
            fits = sizes == [monitor.n_layers_, N_ENTROPY_CELLS]
            if not fits or evidence.in_play.shape != monitor._evidence.in_play.shape:
                raise ValueError("its state does not fit its parameters")
            if min(count.min() for count in counts) < 0:
                raise ValueError("counts are negative")
            monitor._counts, monitor._evidence = counts, evidence
            monitor.n_calibration_ = int(state["n_calibration"])
            monitor.n_seen_ = int(state["n_seen"])
            monitor.alarm_at_ = None if state["alarm_at"] is None else int(state["alarm_at"])
            monitor._rng.bit_generator.state = state["random"]
        return monitor

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"ExitMonitor(false_alarm_rate={self.false_alarm_rate})"

    def _fitted(self) -> list[NDArray[np.int64]]:
        if self._counts is None:
            raise NotFittedError(
                "This ExitMonitor is not fitted yet; call 'fit' with exits of calibration samples."
            )
        return self._counts


def _cells(exit_layer: ArrayLike, entropy: ArrayLike, n_layers: int) -> NDArray[np.int64]:
    """Return the cells of validated samples in both streams, (n_samples, 2)."""
    layers, entropies = _array("exit_layer", exit_layer), _array("entropy", entropy)
    if layers.ndim != 1 or (layers.size and layers.dtype.kind not in "iu"):
        raise TypeError(
            "exit_layer must be integers of shape (n_samples,); got an array of shape "
            f"{layers.shape} and dtype {layers.dtype}."
        )
    outside = np.flatnonzero((layers < 1) | (layers > n_layers))
    if len(outside):
        raise ValueError(
            f"exit_layer[{outside[0]}] must be from 1 to {n_layers}; got {layers[outside[0]]}."
        )
    if entropies.dtype.kind not in "fiu" or len(entropies) != len(layers):
        raise ValueError(
            f"entropy must contain a number for each of the {len(layers)} samples; got an array of "
            f"shape {entropies.shape} and dtype {entropies.dtype}."
        )
    means = entropies.reshape(len(layers), -1).mean(axis=1) if len(layers) else np.zeros(0)
    outside = np.flatnonzero(~((means >= 0) & (means <= 1)))
    if len(outside):
        raise ValueError(
            f"entropy[{outside[0]}] must be between 0 and 1; got {entropies[outside[0]]}."
        )
    return np.column_stack([layers.astype(np.int64) - 1, entropy_cells(means)]).astype(np.int64)


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return values as an array, or raise if samples have different numbers of them."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} must hold one number for each sample, or as many for each; got different "
            "numbers. For a token classifier, pass one number for each sentence, such as the mean "
            "over its words."
        ) from error
