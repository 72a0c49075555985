"""ExitReliabilityDisplay: accuracy against confidence at every exit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._exits.reliability import N_BINS, Reliability, check_n_bins

from ._axes import BLUE, COLORMAP, ORANGE, import_pyplot, own_or_new_axes, own_or_new_panels
from ._staged import DisplaySamples, samples_from_arrays, samples_from_estimator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (4, 3)
_MAX_LAYERS_IN_A_LEGEND_INSIDE = 6


class ExitReliabilityDisplay:
    """Reliability diagram of every exit, with its expected calibration error (ECE).

    The confidence of an exit is its largest class probability; with several labels, each pair of a
    sample and a label is a sample of a binary problem. Samples are grouped by confidence into bins
    of equal width; for a calibrated exit, accuracy equals confidence (the diagonal). The ECE [1]_
    is the mean over the samples of the distance between accuracy and mean confidence of their bin.
    If a layer is overconfident, samples exit too early. Make it with :meth:`from_estimator` or
    :meth:`from_predictions`.

    Parameters
    ----------
    accuracy, confidence : ndarray of shape (n_layers, n_bins)
        Accuracy and mean confidence of the samples in each bin; NaN where there are none.
    counts : ndarray of shape (n_layers, n_bins), int
        Number of samples in each bin.
    name : str, default=None
        Title of the picture.

    Attributes
    ----------
    ece : ndarray of shape (n_layers,)
        Expected calibration error of every exit, in [0, 1].
    ax_ : ndarray of shape (n_layers,) of matplotlib Axes, or Axes
        One per layer, or the given one.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per layer.

    See Also
    --------
    LayerwiseDisplay : Accuracy and entropy of every exit.

    Notes
    -----
    Each exit predicts all samples here, not only those that would exit there. The ECE depends on
    the bins and is biased upwards for few samples.

    References
    ----------
    .. [1] C. Guo et al., "On calibration of modern neural networks", International Conference on
       Machine Learning (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.plotting import ExitReliabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
    >>> y_true = rng.choice(["absent", "present"], size=50)
    >>> display = ExitReliabilityDisplay.from_predictions(y_true, staged_proba, n_bins=5)
    >>> display.ece.shape, display.counts.shape
    ((4,), (4, 5))
    """

    def __init__(
        self,
        accuracy: ArrayLike,
        confidence: ArrayLike,
        counts: ArrayLike,
        *,
        name: str | None = None,
    ) -> None:
        self.accuracy = np.asarray(accuracy, dtype=np.float64)
        self.confidence = np.asarray(confidence, dtype=np.float64)
        self.counts = np.asarray(counts)
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = N_BINS,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the exits of a fitted estimator, from one forward pass.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with early exits, or a pipeline, search object or wrapper around
            one.
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            True labels.
        n_bins : int, default=15
            Number of bins of equal width between 0 and 1, open below and closed above; at most
            10,000.
        name : str, default=None
            Title. None is the name of the estimator's class.
        ax : matplotlib Axes or sequence of M of them, default=None
            With one Axes, all exits are drawn into it; with M, one exit into each. None makes a
            figure with M.

        Returns
        -------
        display : ExitReliabilityDisplay

        Raises
        ------
        TypeError
            If there is no classifier with early exits inside `estimator`.
        ValueError
            If another argument is not as described.
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.plotting import ExitReliabilityDisplay
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> display = ExitReliabilityDisplay.from_estimator(clf, X, y)
        >>> len(display.ece) == clf.n_layers_
        True
        """
        n_bins = check_n_bins(n_bins)
        samples, _ = samples_from_estimator(estimator, X, y)
        return cls._of(samples, n_bins, name or type(estimator).__name__).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        staged_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        n_bins: int = N_BINS,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw exits from their probabilities.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        staged_proba : array-like of shape (n_samples, n_layers, n_classes)
            Class probabilities after every layer, such as
            ``sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))``.
        labels : array-like of shape (n_classes,), default=None
            The class of each column. None: the sorted labels in `y_true`.
        n_bins : int, default=15
            Number of bins of equal width between 0 and 1, open below and closed above; at most
            10,000.
        name : str, default=None
            Title.
        ax : matplotlib Axes or sequence of M of them, default=None
            With one Axes, all exits are drawn into it; with M, one exit into each. None makes a
            figure with M.

        Returns
        -------
        display : ExitReliabilityDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or arguments do not match.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitReliabilityDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitReliabilityDisplay.from_predictions(y_true, staged_proba)
        >>> display.ece.shape
        (4,)
        """
        return cls._of(samples_from_arrays(y_true, staged_proba, labels), n_bins, name).plot(ax)

    @classmethod
    def _of(cls, samples: DisplaySamples, n_bins: int, name: str | None) -> Self:
        found = Reliability.of(*samples.as_pairs(), check_n_bins(n_bins))
        return cls(found.accuracy, found.confidence, found.counts, name=name)

    @property
    def ece(self) -> NDArray[np.float64]:
        """Expected calibration error of every exit."""
        return Reliability(self.accuracy, self.confidence, self.counts).error

    def plot(self, ax: Any = None) -> Self:
        """Draw accuracy against confidence, one point per bin.

        With one Axes per exit, grey bars show the fraction of the samples in each bin.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of M of them, default=None
            With one Axes, all exits are drawn into it; with M, one exit into each. None makes a
            figure with M.

        Returns
        -------
        display : ExitReliabilityDisplay
            Itself.

        Raises
        ------
        ValueError
            If the number of Axes is neither 1 nor M.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitReliabilityDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitReliabilityDisplay.from_predictions(y_true, staged_proba)
        >>> from matplotlib import pyplot as plt
        >>> display.plot(plt.subplots()[1]).figure_ is plt.gcf()
        True
        """
        self.lines_: list[Any] = []
        if hasattr(ax, "get_figure"):
            self.ax_, self.figure_ = own_or_new_axes(self, ax)
            self._draw_together()
        else:
            n_layers = len(self.counts)
            fewest_empty = min(_COLUMNS, key=lambda columns: -n_layers % columns)
            columns = min(fewest_empty, n_layers)
            self.ax_, self.figure_ = own_or_new_panels(self, ax, n_layers, columns, (2.7, 2.7))
            self._draw_panels(columns)
        return self

    def _draw_together(self) -> None:
        """Draw all exits into one axes, the later the lighter."""
        colors = import_pyplot(self).get_cmap(COLORMAP)(np.linspace(0, 1, len(self.counts)))
        for row, color in enumerate(colors):
            self._draw_exit(
                self.ax_, row, color=color, label=f"layer {row + 1}: ECE {self.ece[row]:.3f}"
            )
        _frame(self.ax_)
        self.ax_.set(xlabel="confidence", ylabel="accuracy")
        if len(self.counts) <= _MAX_LAYERS_IN_A_LEGEND_INSIDE:
            self.ax_.legend(fontsize="small")
        else:
            self.ax_.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
        if self.name is not None:
            self.ax_.set_title(self.name)

    def _draw_panels(self, columns: int) -> None:
        n_layers = len(self.counts)
        for row, ax in enumerate(self.ax_):
            shares = self.counts[row] / max(self.counts[row].sum(), 1)
            edges = np.linspace(0, 1, len(shares) + 1)
            ax.bar(edges[:-1], shares, np.diff(edges), align="edge", color="0.85")
            self._draw_exit(ax, row, color=BLUE)
            _frame(ax)
            ax.set_title(f"layer {row + 1}: ECE {self.ece[row]:.3f}", fontsize="medium")
            if row % columns == 0:
                ax.set_ylabel("accuracy\n(bars: share of samples)")
            if row + columns >= n_layers:
                ax.set_xlabel("confidence")
        if self.name is not None:
            self.figure_.suptitle(self.name)

    def _draw_exit(self, ax: Axes, row: int, **style: Any) -> None:
        has_samples = self.counts[row] > 0
        points = self.confidence[row, has_samples], self.accuracy[row, has_samples]
        self.lines_ += ax.plot(*points, marker="o", markersize=4, **style)


def _frame(ax: Axes) -> None:
    """Draw the diagonal (perfect calibration), and set the limits."""
    ax.plot([0, 1], [0, 1], color=ORANGE, lw=1, ls="--", zorder=1)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
