"""A request, its prediction, and the exit policies that requests may set."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._checks.messages import shown
from sklearn_epee._exits.checks import check_patience, check_tau


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted of one sample.

    Attributes
    ----------
    label : object
        The label; with several tasks or labels per sample an array, as a row of `predict`.
    proba : ndarray of shape (n_classes,), float32, or list of such arrays
        Class probabilities; with several tasks one array for each.
    exit_layer : int
        Layer at which the sample exited, counted from 1.
    entropy : float, or ndarray of shape (n_tasks,)
        Normalized entropy of the exit's own head, in [0, 1].
    latency : float
        Seconds from the request to its prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.serving import Prediction
    >>> Prediction("used", np.array([0.9, 0.1]), 2, 0.47, 0.01).label
    'used'
    """

    label: Any
    proba: NDArray[np.float32] | list[NDArray[np.float32]]
    exit_layer: int
    entropy: float | NDArray[np.float32]
    latency: float

    @property
    def last_exit_layer(self) -> int:
        """The `exit_layer`, as of a `SentencePrediction`."""
        return self.exit_layer

    @property
    def mean_entropy(self) -> float:
        """Mean of the normalized entropies of several tasks or labels."""
        return float(np.mean(self.entropy))


@dataclass(frozen=True, eq=False)
class SentencePrediction:
    """What is predicted of the words of one sentence.

    Attributes
    ----------
    spans : list of (int, int, str), or dict of str to such lists
        As `predict` returns them: in characters of a text, in words of a list of words. With
        several layers of spans, a dict by their names.
    tags : list of str, or dict of str to such lists
        One a word, as `predict_tags` returns them.
    proba : ndarray of shape (n_words, n_tags), float32, or dict of str to such arrays
    exit_layer : int, or ndarray of shape (n_words,), int64
        Layer at which the sentence exited, counted from 1; with ``token_exit="token"`` that of each
        word.
    entropy : ndarray of shape (n_words,) or (n_words, n_layers_of_spans), float32
        Normalized entropy of the exit's own head, in [0, 1].
    rows_computed, rows_total : int
        Positions that the layers computed, summed over layers, and those of full depth.
    latency : float
        Seconds from the request to its prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.serving import SentencePrediction
    >>> found = SentencePrediction(
    ...     spans=[(1, 2, "Effect")],
    ...     tags=["O", "B-Effect"],
    ...     proba=np.array([[0.1, 0.9], [0.8, 0.2]]),
    ...     exit_layer=np.array([1, 3]),
    ...     entropy=np.array([0.5, 0.7]),
    ...     rows_computed=8,
    ...     rows_total=24,
    ...     latency=0.01,
    ... )
    >>> found.last_exit_layer, found.mean_entropy
    (3, 0.6)
    """

    spans: list[tuple[int, int, str]] | dict[str, list[tuple[int, int, str]]]
    tags: list[str] | dict[str, list[str]]
    proba: NDArray[np.float32] | dict[str, NDArray[np.float32]]
    exit_layer: int | NDArray[np.int64]
    entropy: NDArray[np.float32]
    rows_computed: int
    rows_total: int
    latency: float

    @property
    def last_exit_layer(self) -> int:
        """Layer at which the last word exited; 1 for a sentence without words."""
        return int(np.max(self.exit_layer, initial=1))

    @property
    def mean_entropy(self) -> float:
        """Mean normalized entropy of the words; 0 for a sentence without words."""
        return float(np.mean(self.entropy)) if self.entropy.size else 0.0


Found = Prediction | SentencePrediction


@dataclass(eq=False)
class Request:
    """One sample that is to be predicted.

    Attributes
    ----------
    sample : object
        Validated.
    tau : float
    patience : int
    submitted : float
        When it came, on the worker's clock.
    deadline : float or None
        When it is of no use any more.
    slot : int
        Its number among those that are held.
    entered : bool
        Whether it is on its way through the layers.
    future : Future of Prediction or SentencePrediction
    """

    sample: Any
    tau: float
    patience: int
    submitted: float
    deadline: float | None
    slot: int
    future: Future[Any]
    entered: bool = False

    def is_late(self, now: float) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True)
class Limits:
    """The policy of requests that ask for none, and how far others may go.

    Attributes
    ----------
    tau : float
    patience : int
    taus, patiences : tuple of two numbers, or None
        The least and the largest that a request may ask for. None: it may not.
    n_layers : int
        Number of layers M; a patience above it is as good as M.
    """

    tau: float
    patience: int
    taus: tuple[float, float] | None
    patiences: tuple[int, int] | None
    n_layers: int

    @classmethod
    def of(
        cls, policy: tuple[float, int], tau_range: Any, patience_range: Any, n_layers: int
    ) -> Limits:
        """Check the ranges that a server is given.

        Raises
        ------
        TypeError, ValueError
            If a range is not two valid numbers in ascending order.
        """

        def patience_of(value: Any) -> int:
            return check_patience(value, n_layers)

        taus = _checked_range("tau_range", tau_range, check_tau)
        patiences = _checked_range("patience_range", patience_range, patience_of)
        return cls(*policy, taus, patiences, n_layers)

    @property
    def widest(self) -> tuple[float, int]:
        """The largest tau and the least patience of all requests."""
        tau = self.tau if self.taus is None else max(self.tau, self.taus[1])
        least = self.patience if self.patiences is None else min(self.patience, self.patiences[0])
        return tau, min(least, self.n_layers)

    def policy(self, tau: Any, patience: Any) -> tuple[float, int]:
        """Return the policy of a request.

        Raises
        ------
        TypeError, ValueError
            If a value is not valid, or out of its range.
        """
        if tau is not None:
            tau = check_tau(tau)
            _check_within("tau", tau, self.taus)
        if patience is not None:
            patience = check_patience(patience, self.patience)
            _check_within("patience", patience, self.patiences)
        patience = self.patience if patience is None else patience
        return self.tau if tau is None else tau, min(patience, self.n_layers)


def _checked_range(name: str, given: Any, check: Callable[[Any], Any]) -> Any:
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(
            f"{name} must be None or a pair (least, largest); got {shown(given)} of type "
            f"{type(given).__name__}."
        )
    try:
        least, largest = (check(value) for value in given)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"In {name}: {error}") from error
    if least > largest:
        raise ValueError(f"{name} must be (least, largest) in this order; got {shown(given)}.")
    return least, largest


def _check_within(name: str, value: float, limits: tuple[float, float] | None) -> None:
    if limits is None:
        raise ValueError(
            f"{name}={value!r}: this server lets no request choose {name}; expected None, or a "
            f"server with {name}_range."
        )
    least, largest = limits
    if not least <= value <= largest:
        raise ValueError(
            f"{name}={value!r} is out of the limits of this server; expected {least} to {largest}."
        )
