"""ExitHistogramDisplay: the layers at which the samples of each class exit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._exits.checks import check_patience, check_tau
from sklearn_epee.metrics import speedup_ratio

from ._axes import COLORMAP, OKABE_ITO, factor_of, number_layers, own_or_new_axes
from ._sentences import DisplaySentences, samples_or_sentences
from ._staged import DisplaySamples, samples_from_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More classes than this are drawn as rows of a map: bars would be too thin.
_MAX_CLASSES_AS_BARS = 5
_MAX_LAYERS_WITH_NUMBERS = 12


class ExitHistogramDisplay:
    """Fraction of the samples of each class that exit at each layer.

    Up to five classes are drawn as bars, more as the rows of a map. With several labels a sample
    counts for each of its labels. Make it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    counts : ndarray of shape (n_classes, n_layers), int
        Number of samples of a true class that exit at a layer.
    classes : ndarray of shape (n_classes,)
        Class labels.
    name : str, default=None
        Title of the picture.
    speedup : float, default=None
        Speed-up ratio over all samples. None: that of `counts`, in which every sample counts once.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : list of matplotlib BarContainer
        One per class; empty if a map is drawn.
    image_ : matplotlib AxesImage or None
        The map; None if bars are drawn.
    speedup_ : float
        Speed-up ratio over all samples.

    See Also
    --------
    LayerwiseDisplay : Accuracy and entropy of each layer.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.plotting import ExitHistogramDisplay
    >>> rng = np.random.default_rng(0)
    >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
    >>> y_true = rng.choice(["absent", "present"], size=50)
    >>> display = ExitHistogramDisplay.from_predictions(y_true, staged_proba, tau=0.5, patience=2)
    >>> display.counts.shape, display.counts.sum()
    ((2, 4), np.int64(50))
    """

    def __init__(
        self,
        counts: ArrayLike,
        classes: ArrayLike,
        *,
        name: str | None = None,
        speedup: float | None = None,
    ) -> None:
        self._speedup = speedup
        self.counts = np.asarray(counts)
        self.classes = np.asarray(classes)
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the exits of a fitted estimator under its own policy, from one forward pass.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with early exits, or a pipeline, search object or wrapper around
            one.
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            True labels; tags or spans for a token classifier. The samples of a class are then the
            spans of a label, which exit with their sentences.
        name : str, default=None
            Title. None is the name of the estimator's class.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitHistogramDisplay

        Raises
        ------
        TypeError
            If there is no classifier with early exits and an exit policy inside `estimator`.
        ValueError
            If `y` is invalid, or does not match `X`.
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.plotting import ExitHistogramDisplay
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> display = ExitHistogramDisplay.from_estimator(clf, X, y)
        >>> display.counts.sum()
        np.int64(40)
        """
        samples, own = samples_or_sentences(estimator, X, y, with_tags=False)
        if own.tau is None:
            raise TypeError(
                f"{type(estimator).__name__} has no exit policy (tau and patience); pass one to "
                "from_predictions."
            )
        return cls._of(samples, own.tau, own.patience, name or type(estimator).__name__).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        staged_proba: ArrayLike,
        *,
        tau: float,
        patience: int | None = None,
        min_exit_layer: int = 1,
        labels: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the exits of a policy from the probabilities of all exits.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        staged_proba : array-like of shape (n_samples, n_layers, n_classes)
            Class probabilities after every layer, such as
            ``sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))``.
        tau : float
            Entropy threshold, see :func:`sklearn_epee.policy.exit_layers`.
        patience : int, default=None
            Number of consecutive layers that must agree. None means M.
        min_exit_layer : int, default=1
            The first layer at which samples may exit.
        labels : array-like of shape (n_classes,), default=None
            The class of each column. None: the sorted labels in `y_true`.
        name : str, default=None
            Title.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitHistogramDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or arguments do not match.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitHistogramDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitHistogramDisplay.from_predictions(y_true, staged_proba, tau=0.5)
        >>> display.shares.shape
        (2, 4)
        """
        samples = samples_from_arrays(y_true, staged_proba, labels, min_exit_layer=min_exit_layer)
        return cls._of(samples, tau, patience, name).plot(ax)

    @classmethod
    def _of(
        cls,
        samples: DisplaySamples | DisplaySentences,
        tau: float,
        patience: int | None,
        name: str | None,
    ) -> Self:
        staged, n_classes = samples.staged, len(samples.classes)
        if not n_classes:
            raise ValueError("y has no spans, and none are predicted: there is no class to draw.")
        exits = staged.exit_layers(check_tau(tau), check_patience(patience, staged.n_layers))
        counts = np.zeros((n_classes, staged.n_layers), dtype=np.int64)
        rows, columns = samples.of_classes
        np.add.at(counts, (columns, exits[rows] - 1), 1)
        speedup = None
        if (
            isinstance(samples, DisplaySentences) or staged.exit_shares is not None
        ):  # of which counts say nothing
            speedup = staged.speedup(exits)
        elif samples.multilabel:
            speedup = speedup_ratio(exits, staged.n_layers)
        return cls(counts, samples.classes, name=name, speedup=speedup)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Fraction of the samples of a class that exit at a layer; NaN without samples."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return self.counts / np.where(totals > 0, totals, np.nan)

    @property
    def speedup_(self) -> float:
        """Speed-up ratio over all samples."""
        if self._speedup is not None:
            return self._speedup
        n_layers = self.counts.shape[1]
        left = np.repeat(np.arange(1, n_layers + 1), self.counts.sum(axis=0))
        return speedup_ratio(left, n_layers)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the shares; the title gives the speed-up as ratio and factor.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitHistogramDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitHistogramDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitHistogramDisplay.from_predictions(y_true, staged_proba, tau=0.5)
        >>> from matplotlib import pyplot as plt
        >>> display.plot(plt.subplots()[1]).figure_ is plt.gcf()
        True
        """
        n_classes, n_layers = self.counts.shape
        has_bars = n_classes <= _MAX_CLASSES_AS_BARS
        height = 4.8 if has_bars else 2 + 0.32 * n_classes
        width = max(6.4, 3 + 0.45 * n_layers)
        self.ax_, self.figure_ = own_or_new_axes(self, ax, (width, height))
        self.bars_: list[Any] = []
        self.image_: Any = None
        self._draw_bars() if has_bars else self._draw_map()
        number_layers(self.ax_, n_layers, "exit layer")
        factor = float(factor_of(self.speedup_))
        speedup = f"speed-up ratio {self.speedup_:.2f} ({factor:.1f}x)"
        self.ax_.set_title(speedup if self.name is None else f"{self.name}: {speedup}")
        return self

    def _draw_bars(self) -> None:
        n_classes, n_layers = self.counts.shape
        layers = np.arange(1, n_layers + 1)
        width = 0.8 / n_classes
        shares = np.nan_to_num(self.shares)  # classes without samples have no bars
        for row, (label, share) in enumerate(zip(self._labels(), shares, strict=True)):
            shift = (row - (n_classes - 1) / 2) * width
            self.bars_.append(
                self.ax_.bar(
                    layers + shift,
                    share,
                    width,
                    color=OKABE_ITO[row],
                    edgecolor="white",
                    linewidth=0.5,
                    label=label,
                )
            )
        self.ax_.set_ylabel("share of the class's samples")
        self.ax_.grid(axis="y", alpha=0.3)
        self.ax_.set_axisbelow(True)
        self.ax_.set_ylim(0, 1.05 * max(shares.max(), 0.01))
        self.ax_.legend(title="true class", fontsize="small")

    def _draw_map(self) -> None:
        n_classes, n_layers = self.counts.shape
        self.image_ = self.ax_.imshow(
            self.shares,
            cmap=COLORMAP,
            aspect="auto",
            vmin=0,
            extent=(0.5, n_layers + 0.5, n_classes - 0.5, -0.5),
        )
        self.ax_.set_yticks(range(n_classes), labels=self._labels())
        self.ax_.set_ylabel("true class")
        self.figure_.colorbar(self.image_, ax=self.ax_, label="share of the class's samples")
        if n_layers <= _MAX_LAYERS_WITH_NUMBERS:
            self._write_numbers()

    def _write_numbers(self) -> None:
        for (row, column), share in np.ndenumerate(self.shares):
            is_dark = np.isfinite(share) and self.image_.norm(share) < 0.5
            self.ax_.text(
                column + 1,
                row,
                f"{share:.2f}" if np.isfinite(share) else "",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if is_dark else "black",
            )

    def _labels(self) -> list[str]:
        totals = self.counts.sum(axis=1)
        return [f"{label} (n = {n})" for label, n in zip(self.classes, totals, strict=True)]
