"""LayerwiseDisplay: accuracy and mean normalized entropy of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ._axes import BLUE, ORANGE, number_layers, own_or_new_axes
from ._sentences import DisplaySentences, samples_or_sentences
from ._staged import DisplaySamples, samples_from_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LayerwiseDisplay:
    """Accuracy and mean normalized entropy of the exit after every layer.

    Each exit predicts all samples here, as in budgeted inference. With several labels, the accuracy
    is the fraction of samples with all labels correct, and the entropy the one that is compared
    with `tau`. For token classifiers, accuracy and entropy are over words. Make it with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    accuracy : ndarray of shape (n_layers,)
        Fraction of samples that the exit of a layer predicts correctly.
    mean_entropy : ndarray of shape (n_layers,)
        Mean over the samples of the normalized entropy of a layer, in [0, 1].
    name : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the accuracy.
    entropy_ax_ : matplotlib Axes
        Axes of the entropy, to the right.
    figure_ : matplotlib Figure
    accuracy_line_, entropy_line_ : matplotlib Line2D

    See Also
    --------
    ExitTradeoffDisplay : Accuracy against speed-up when samples exit early.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053, figure 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.plotting import LayerwiseDisplay
    >>> rng = np.random.default_rng(0)
    >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
    >>> y_true = rng.choice(["absent", "present"], size=50)
    >>> display = LayerwiseDisplay.from_predictions(y_true, staged_proba)
    >>> display.accuracy.shape
    (4,)
    """

    def __init__(
        self, accuracy: ArrayLike, mean_entropy: ArrayLike, *, name: str | None = None
    ) -> None:
        self.accuracy = np.asarray(accuracy, dtype=np.float64)
        self.mean_entropy = np.asarray(mean_entropy, dtype=np.float64)
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
        """Draw the layers of a fitted estimator, from one forward pass.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with early exits, or a pipeline, search object or wrapper around
            one.
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            True labels; tags or spans for a token classifier.
        name : str, default=None
            Title. None is the name of the estimator's class.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : LayerwiseDisplay

        Raises
        ------
        TypeError
            If there is no classifier with early exits inside `estimator`.
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
        >>> from sklearn_epee.plotting import LayerwiseDisplay
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> display = LayerwiseDisplay.from_estimator(clf, X, y)
        >>> len(display.accuracy) == clf.n_layers_
        True
        """
        samples, _ = samples_or_sentences(estimator, X, y, with_tags=True)
        return cls._of(samples, name or type(estimator).__name__).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        staged_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw layers from the probabilities of all exits.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        staged_proba : array-like of shape (n_samples, n_layers, n_classes)
            Class probabilities after every layer, such as
            ``sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))``.
        labels : array-like of shape (n_classes,), default=None
            The class of each column. None: the sorted labels in `y_true`.
        name : str, default=None
            Title.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : LayerwiseDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or arguments do not match.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import LayerwiseDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = LayerwiseDisplay.from_predictions(y_true, staged_proba)
        >>> display.mean_entropy.shape
        (4,)
        """
        return cls._of(samples_from_arrays(y_true, staged_proba, labels), name).plot(ax)

    @classmethod
    def _of(cls, samples: DisplaySamples | DisplaySentences, name: str | None) -> Self:
        return cls(samples.layer_accuracy, samples.layer_entropy, name=name)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the accuracy on the left axis and the entropy on the right one.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : LayerwiseDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import LayerwiseDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = LayerwiseDisplay.from_predictions(y_true, staged_proba)
        >>> from matplotlib import pyplot as plt
        >>> display.plot(plt.subplots()[1]).figure_ is plt.gcf()
        True
        """
        self.ax_, self.figure_ = own_or_new_axes(self, ax)
        self.entropy_ax_ = self.ax_.twinx()
        layers = np.arange(1, len(self.accuracy) + 1)
        (self.accuracy_line_,) = self.ax_.plot(
            layers, self.accuracy, color=BLUE, marker="o", label="accuracy"
        )
        (self.entropy_line_,) = self.entropy_ax_.plot(
            layers, self.mean_entropy, color=ORANGE, marker="s", ls="--", label="entropy"
        )
        number_layers(self.ax_, len(layers))
        self.ax_.set_ylabel("accuracy (solid, circles)", color=BLUE)
        self.entropy_ax_.set_ylabel("mean normalized entropy (dashed, squares)", color=ORANGE)
        self.ax_.tick_params(axis="y", labelcolor=BLUE)
        self.entropy_ax_.tick_params(axis="y", labelcolor=ORANGE)
        self.entropy_ax_.set_ylim(0, 1.08 * max(self.mean_entropy.max(), 0.01))
        self.ax_.grid(alpha=0.3)
        if self.name is not None:
            self.ax_.set_title(self.name)
        return self
