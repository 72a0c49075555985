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
    """Prediction of one sample.

    Attributes
    ----------
    label : object
        The label; with several tasks or labels an array, like a row of `predict`.
    proba : ndarray of shape (n_classes,), float32, or list of such arrays
        Class probabilities; with several tasks, one array per task.
    exit_layer : int
        Layer at which the sample exited, counted from 1.
    entropy : float, or ndarray of shape (n_tasks,)
        Normalized entropy of the head of the exit layer, in [0, 1].
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
        """The `exit_layer`, for the same interface as `SentencePrediction`."""
        return self.exit_layer

    @property
    def mean_entropy(self) -> float:
        """Mean of the normalized entropies of several tasks or labels."""
        return float(np.mean(self.entropy))


@dataclass(frozen=True, eq=False)
class SentencePrediction:
    """Prediction of the words of one sentence.

    Attributes
    ----------
    spans : list of (int, int, str), or dict of str to such lists
        As `predict` returns them: offsets in characters if the sample is a text, in words if it is
        a list of words. With several layers of spans, a dict by layer name.
    tags : list of str, or dict of str to such lists
        One tag per word, as `predict_tags` returns them.
    proba : ndarray of shape (n_words, n_tags), float32, or dict of str to such arrays
        Probabilities of the tags.
    exit_layer : int, or ndarray of shape (n_words,), int64
        Layer at which the sentence exited, counted from 1; with ``token_exit="token"`` the exit
        layer of each word.
    entropy : ndarray of shape (n_words,) or (n_words, n_layers_of_spans), float32
        Normalized entropy of the head of the exit layer, in [0, 1].
    rows_computed, rows_total : int
        Number of positions that were computed, summed over the layers; and that number at full
        depth.
    latency : float
        Seconds from the request to its prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.serving import SentencePrediction
    >>> prediction = SentencePrediction(
    ...     spans=[(1, 2, "Effect")],
    ...     tags=["O", "B-Effect"],
    ...     proba=np.array([[0.1, 0.9], [0.8, 0.2]]),
    ...     exit_layer=np.array([1, 3]),
    ...     entropy=np.array([0.5, 0.7]),
    ...     rows_computed=8,
    ...     rows_total=24,
    ...     latency=0.01,
    ... )
    >>> prediction.last_exit_layer, prediction.mean_entropy
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


AnyPrediction = Prediction | SentencePrediction


@dataclass(eq=False)
class Request:
    """A pending request for the prediction of one sample.

    Attributes
    ----------
    sample : object
        The validated sample.
    tau : float
    patience : int
    submitted : float
        Time of submission, on the worker's clock.
    deadline : float or None
        Time by which it has to be answered.
    slot : int
        Its number among the pending requests; reused once it is answered.
    entered : bool
        Whether it has left the queue and entered the scheduler.
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
    """The default exit policy, and the ranges within which requests may set another one.

    Attributes
    ----------
    tau : float
    patience : int
    taus, patiences : tuple of two numbers, or None
        Smallest and largest value that a request may set. None: requests may not set it.
    n_layers : int
        Number of layers M; a patience above M has the same effect as M.
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
        """Return the limits of a predictor, with validated ranges.

        Raises
        ------
        TypeError, ValueError
            If a range is not a pair of valid numbers in ascending order.
        """

        def patience_of(value: Any) -> int:
            return check_patience(value, n_layers)

        taus = _checked_range("tau_range", tau_range, check_tau)
        patiences = _checked_range("patience_range", patience_range, patience_of)
        return cls(*policy, taus, patiences, n_layers)

    @property
    def widest(self) -> tuple[float, int]:
        """The largest tau and the smallest patience that any request can have."""
        tau = self.tau if self.taus is None else max(self.tau, self.taus[1])
        least = self.patience if self.patiences is None else min(self.patience, self.patiences[0])
        return tau, min(least, self.n_layers)

    def policy(self, tau: Any, patience: Any) -> tuple[float, int]:
        """Return the exit policy of a request.

        Raises
        ------
        TypeError, ValueError
            If a value is invalid or out of range.
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
            f"{name}={value!r}: requests cannot set {name} on this server; expected None, or a "
            f"server with {name}_range."
        )
    least, largest = limits
    if not least <= value <= largest:
        raise ValueError(
            f"{name}={value!r} is out of the range of this server; expected {least} to {largest}."
        )
