"""ExitPolicyHeatmapDisplay: score and speed-up for a grid of tau and patience."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._word_exits import is_word_accuracy

from ._axes import COLORMAP, add_factor_axis, factor_of, import_pyplot, own_or_new_panels
from ._policies import SearchedPolicies, make_score, policy_grid, score_name
from ._sentences import DisplaySentences, samples_or_sentences
from ._staged import DisplaySamples, samples_from_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAUS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_MAX_CELLS_WITH_NUMBERS = 150
_FONT_SIZE_BY_COLUMNS = ((7, 8), (10, 7), (99, 5.5))


class ExitPolicyHeatmapDisplay:
    """Two maps over tau and patience: the score and the speed-up ratio of each policy.

    Make it with :meth:`from_estimator`, :meth:`from_predictions` or :meth:`from_cv_results`.

    Parameters
    ----------
    taus : ndarray of shape (n_taus,)
        Entropy thresholds, ascending.
    patiences : ndarray of shape (n_patiences,)
        Patience values, ascending.
    score, speedup : ndarray of shape (n_patiences, n_taus)
        Score and speed-up ratio of each policy; NaN for policies that were not evaluated.
    score_name : str, default="accuracy"
        Name of the score.
    name : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Axes of the maps: of the score, then of the speed-up.
    figure_ : matplotlib Figure
    images_ : list of matplotlib AxesImage
    colorbars_ : list of matplotlib Colorbar
    texts_ : list of matplotlib Text
        Numbers in the cells; empty for more than 150 cells.

    See Also
    --------
    ExitTradeoffDisplay : All policies as curves.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053, figures 5 to 7.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.plotting import ExitPolicyHeatmapDisplay
    >>> rng = np.random.default_rng(0)
    >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
    >>> y_true = rng.choice(["absent", "present"], size=50)
    >>> display = ExitPolicyHeatmapDisplay.from_predictions(
    ...     y_true, staged_proba, taus=[0.0, 0.3, 0.6]
    ... )
    >>> display.patiences
    array([1, 2, 3, 4])
    >>> display.speedup.shape
    (4, 3)
    """

    def __init__(
        self,
        taus: ArrayLike,
        patiences: ArrayLike,
        score: ArrayLike,
        speedup: ArrayLike,
        *,
        score_name: str = "accuracy",
        name: str | None = None,
    ) -> None:
        self.taus = np.asarray(taus)
        self.patiences = np.asarray(patiences)
        self.score = np.asarray(score, dtype=np.float64)
        self.speedup = np.asarray(speedup, dtype=np.float64)
        self.score_name = score_name
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        taus: ArrayLike = TAUS,
        patiences: ArrayLike | None = None,
        scoring: str | Callable[..., float] = "accuracy",
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw policies of a fitted estimator, from one forward pass.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with early exits, or a pipeline, search object or wrapper around
            one. Its policy has no effect, but its `exit_ensemble` has.
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            True labels; tags or spans for a token classifier.
        taus : array-like of float, default=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
            Entropy thresholds.
        patiences : array-like of int, default=None
            Patience values. None takes all, 1 to M.
        scoring : str or scorer, default="accuracy"
            The score of the labels that the exits predict: "accuracy", "balanced_accuracy", or a
            precision, recall, F or Jaccard score by its name, such as "f1_macro", or made by
            :func:`~sklearn.metrics.make_scorer` or
            :func:`~sklearn_epee.metrics.positive_f1_scorer`. For token classifiers "accuracy" is
            over words, and the others are over spans, as is
            :func:`~sklearn_epee.metrics.span_f1_scorer`.
        name : str, default=None
            Title. None is the name of the estimator's class.
        ax : sequence of two matplotlib Axes, default=None
            Where to draw the score and the speed-up. None makes a new figure.

        Returns
        -------
        display : ExitPolicyHeatmapDisplay

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
        >>> from sklearn_epee.plotting import ExitPolicyHeatmapDisplay
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> display = ExitPolicyHeatmapDisplay.from_estimator(clf, X, y)
        >>> len(display.patiences) == clf.n_layers_
        True
        """
        needs_tags = is_word_accuracy(scoring)
        samples, _ = samples_or_sentences(estimator, X, y, with_tags=needs_tags)
        name = name or type(estimator).__name__
        return cls._of(samples, taus, patiences, scoring=scoring, name=name).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        staged_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        taus: ArrayLike = TAUS,
        patiences: ArrayLike | None = None,
        min_exit_layer: int = 1,
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
        scoring: str | Callable[..., float] = "accuracy",
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw policies from the probabilities of all exits.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        staged_proba : array-like of shape (n_samples, n_layers, n_classes)
            Class probabilities after every layer, such as
            ``sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))``.
        labels : array-like of shape (n_classes,), default=None
            The class of each column. None: the sorted labels in `y_true`.
        taus : array-like of float, default=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
            Entropy thresholds.
        patiences : array-like of int, default=None
            Patience values. None takes all, 1 to M.
        min_exit_layer : int, default=1
            The first layer at which samples may exit.
        exit_ensemble : {None, "mean", "weighted"}, default=None
            How visited exits combine, see :func:`sklearn_epee.policy.apply_policy`.
        exit_loss_weights : str or array-like, default="ascending"
            Read for ``exit_ensemble="weighted"`` only.
        scoring : str or scorer, default="accuracy"
            The score, see :meth:`from_estimator`.
        name : str, default=None
            Title.
        ax : sequence of two matplotlib Axes, default=None
            Where to draw the score and the speed-up. None makes a new figure.

        Returns
        -------
        display : ExitPolicyHeatmapDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or arguments do not match.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitPolicyHeatmapDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitPolicyHeatmapDisplay.from_predictions(y_true, staged_proba)
        >>> display.score.shape == display.speedup.shape
        True
        """
        samples = samples_from_arrays(
            y_true,
            staged_proba,
            labels,
            exit_ensemble,
            exit_loss_weights,
            min_exit_layer=min_exit_layer,
        )
        return cls._of(samples, taus, patiences, scoring=scoring, name=name).plot(ax)

    @classmethod
    def _of(
        cls,
        samples: DisplaySamples | DisplaySentences,
        taus: ArrayLike,
        patiences: ArrayLike | None,
        *,
        scoring: str | Callable[..., float],
        name: str | None,
    ) -> Self:
        score = make_score(scoring, samples)
        counts = np.arange(1, samples.staged.n_layers + 1) if patiences is None else patiences
        rows, columns, table = policy_grid(PolicySpace(samples.staged), score, taus, counts)
        grids = [table[key].reshape(len(columns), len(rows)) for key in ("score", "speedup")]
        return cls(rows, columns, *grids, score_name=score_name(scoring), name=name)

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        metric: str = "accuracy",
        speedup: str = "speedup",
        n_layers: int | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the policies of a search.

        Parameters
        ----------
        search : fitted search or mapping
            Such as ``GridSearchCV(..., scoring=exit_scores, refit=...)`` over tau and patience of a
            classifier with early exits or of a pipeline that ends in one; or its ``cv_results_``.
        metric : str, default="accuracy"
            Name of the score.
        speedup : str, default="speedup"
            Name of the speed-up ratio among the scores.
        n_layers : int, default=None
            Number of layers M, which replaces ``patience=None``. None: that of the refitted
            estimator.
        name : str, default=None
            Title.
        ax : sequence of two matplotlib Axes, default=None
            Where to draw the score and the speed-up. None makes a new figure.

        Returns
        -------
        display : ExitPolicyHeatmapDisplay

        Raises
        ------
        TypeError, ValueError
            If `search` is not fitted, is not over tau and patience, is over other parameters as
            well, or does not have the scores.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_epee.plotting import ExitPolicyHeatmapDisplay
        >>> cv_results = {
        ...     "param_tau": [0.0, 0.1],
        ...     "param_patience": [4, 4],
        ...     "mean_test_accuracy": [0.92, 0.91],
        ...     "mean_test_speedup": [0.0, 0.4],
        ... }
        >>> display = ExitPolicyHeatmapDisplay.from_cv_results(cv_results)
        >>> display.taus
        array([0. , 0.1])
        """
        table = SearchedPolicies.from_search(
            search, metric=metric, speedup=speedup, n_layers=n_layers
        ).table
        taus, column = np.unique(table["tau"], return_inverse=True)
        patiences, row = np.unique(table["patience"], return_inverse=True)
        grids = np.full((2, len(patiences), len(taus)), np.nan)
        grids[:, row, column] = table["score"], table["speedup"]
        return cls(taus, patiences, *grids, score_name=metric, name=name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the map of the score and that of the speed-up.

        Parameters
        ----------
        ax : sequence of two matplotlib Axes, default=None
            Where to draw the score and the speed-up. None makes a new figure.

        Returns
        -------
        display : ExitPolicyHeatmapDisplay
            Itself.

        Raises
        ------
        ValueError
            If `ax` does not hold two Axes.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitPolicyHeatmapDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitPolicyHeatmapDisplay.from_predictions(y_true, staged_proba)
        >>> from matplotlib import pyplot as plt
        >>> display.plot(plt.subplots(1, 2)[1]).figure_ is plt.gcf()
        True
        """
        import_pyplot(self)
        size = (2.2 + 0.45 * len(self.taus), 1.8 + 0.42 * len(self.patiences))
        self.ax_, self.figure_ = own_or_new_panels(self, ax, 2, columns=2, panel=size)
        self.images_: list[Any] = []
        self.colorbars_: list[Any] = []
        self.texts_: list[Any] = []
        self._draw(self.ax_[0], self.score, self.score_name.replace("_", " "))
        # The second bar has labels on both sides, for which not all layouts make room.
        has_layout = self.figure_.get_layout_engine() is not None
        self._draw(self.ax_[1], self.speedup, "speed-up ratio", pad=0.05 if has_layout else 0.25)
        for text, ratio in zip(self.texts_[self.score.size :], self.speedup.ravel(), strict=False):
            text.set_text(_with_factor(ratio))
        add_factor_axis(self.colorbars_[1].ax, along="y", place="left")
        if self.name is not None and ax is None:
            self.figure_.suptitle(self.name)
        elif self.name is not None:
            self.ax_[0].set_title(f"{self.name}: {self.ax_[0].get_title()}")
        return self

    def _draw(self, ax: Axes, values: NDArray[np.float64], title: str, pad: float = 0.05) -> None:
        """Draw one map, the smallest patience at the bottom."""
        image = ax.imshow(values, cmap=COLORMAP, origin="lower", aspect="auto")
        ax.set_xticks(range(len(self.taus)), labels=[f"{tau:.3g}" for tau in self.taus])
        ax.set_yticks(range(len(self.patiences)), labels=[str(p) for p in self.patiences])
        ax.set(title=title, xlabel="tau (entropy threshold)", ylabel="patience")
        self.images_.append(image)
        figure: Any = ax.get_figure()
        self.colorbars_.append(figure.colorbar(image, ax=ax, pad=pad))
        if values.size <= _MAX_CELLS_WITH_NUMBERS:
            self._write_numbers(ax, values, image)

    def _write_numbers(self, ax: Axes, values: NDArray[np.float64], image: Any) -> None:
        size = next(size for most, size in _FONT_SIZE_BY_COLUMNS if values.shape[1] <= most)
        for (row, column), value in np.ndenumerate(values):
            is_dark = np.isfinite(value) and image.norm(value) < 0.5
            text = ax.text(
                column,
                row,
                f"{value:.3f}" if np.isfinite(value) else "",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if is_dark else "black",
            )
            self.texts_.append(text)


def _with_factor(ratio: float) -> str:
    return f"{ratio:.2f}\n{float(factor_of(ratio)):.1f}x" if np.isfinite(ratio) else ""
