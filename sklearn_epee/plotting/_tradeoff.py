"""ExitTradeoffDisplay: score against speed-up of all exit policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_epee._exits.checks import check_patience, check_tau
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee._exits.tables import Table, concatenate, pareto_front, policy_table
from sklearn_epee._word_exits import is_word_accuracy

from ._axes import BLUE, GREEN, ORANGE, add_factor_axis, own_or_new_axes
from ._policies import SearchedPolicies, make_score, score_name
from ._sentences import DisplaySentences, samples_or_sentences
from ._staged import DisplaySamples, samples_from_arrays

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Maximum number of policies that are drawn with markers.
_MAX_MARKED = 40
_CURVES = (
    ("both", "both: best with this speed-up or more", GREEN, "^", "-"),
    ("entropy_only", "entropy only (tau)", BLUE, "o", "-"),
    ("patience_only", "patience only", ORANGE, "s", "--"),
)


class ExitTradeoffDisplay:
    """Score against speed-up: entropy only, patience only, both, and the chosen policy.

    "Both" is the Pareto front of all policies, each patience with each tau. It is the best that
    can be selected on the very samples shown, so it is optimistically biased: on new samples a
    selected policy does worse on average. Make the display with :meth:`from_estimator`,
    :meth:`from_predictions` or :meth:`from_cv_results`.

    Parameters
    ----------
    entropy_only : dict of ndarray
        Policies with patience M, in columns "tau", "patience", "score" and "speedup" of equal
        length, from the slowest to the fastest.
    patience_only : dict of ndarray
        Policies with tau 0, in the same form.
    both : dict of ndarray
        The Pareto front of all policies, in the same form.
    chosen : dict, default=None
        "tau", "patience", "score" and "speedup" of one policy to be marked.
    full_depth_score : float, default=None
        Score without early exits.
    score_name : str, default="accuracy"
        Name of the score.
    name : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
    factor_ax_ : matplotlib SecondaryAxis
        The axis at the top, which shows the factor.
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        By the names "entropy_only", "patience_only" and "both".
    chosen_ : matplotlib Line2D or None
        The marker of the chosen policy.

    See Also
    --------
    ExitPolicyHeatmapDisplay : Score and speed-up for a grid of tau and patience.
    sklearn_epee.TunedExitPolicyClassifierCV : Chooses a policy on validation samples.

    References
    ----------
    "EPEE: Towards Efficient and Effective Foundation Models in Biomedicine",
    arXiv:2503.02053, figures 1 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_epee.plotting import ExitTradeoffDisplay
    >>> rng = np.random.default_rng(0)
    >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
    >>> y_true = rng.choice(["absent", "present"], size=50)
    >>> display = ExitTradeoffDisplay.from_predictions(y_true, staged_proba, tau=0.5, patience=2)
    >>> display.patience_only["patience"]
    array([4, 3, 2, 1])
    >>> 0 < display.chosen["speedup"] <= 0.75
    True
    """

    def __init__(
        self,
        *,
        entropy_only: Table,
        patience_only: Table,
        both: Table,
        chosen: dict[str, Any] | None = None,
        full_depth_score: float | None = None,
        score_name: str = "accuracy",
        name: str | None = None,
    ) -> None:
        self.entropy_only = entropy_only
        self.patience_only = patience_only
        self.both = both
        self.chosen = chosen
        self.full_depth_score = full_depth_score
        self.score_name = score_name
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        scoring: str | Callable[..., float] = "accuracy",
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw all policies of a fitted estimator from one forward pass; its own is marked.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier with early exits, or a pipeline, search object or wrapper around
            one. Its policy is marked as the chosen one; its `exit_ensemble` is used for all.
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            True labels; tags or spans for a token classifier.
        scoring : str or scorer, default="accuracy"
            The score of the labels that the exits predict: "accuracy", "balanced_accuracy", or a
            precision, recall, F or Jaccard score by its name, such as "f1_macro", or made by
            :func:`~sklearn.metrics.make_scorer` or
            :func:`~sklearn_epee.metrics.positive_f1_scorer`. For token classifiers "accuracy" is
            over words, and the others are over spans, as is
            :func:`~sklearn_epee.metrics.span_f1_scorer`.
        name : str, default=None
            Title. None is the name of the estimator's class.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitTradeoffDisplay

        Raises
        ------
        TypeError
            If there is no classifier with early exits inside `estimator`.
        ValueError
            If `y` or `scoring` is not as described.
        sklearn.exceptions.NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> from sklearn_epee.plotting import ExitTradeoffDisplay
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> display = ExitTradeoffDisplay.from_estimator(clf, X, y)
        >>> display.chosen["tau"] == clf.tau
        True
        """
        needs_tags = is_word_accuracy(scoring)
        samples, own = samples_or_sentences(estimator, X, y, with_tags=needs_tags)
        policy = None if own.tau is None else (own.tau, own.patience)
        return cls._of(samples, policy, scoring, name or type(estimator).__name__).plot(ax)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        staged_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        tau: float | None = None,
        patience: int | None = None,
        min_exit_layer: int = 1,
        exit_ensemble: str | None = None,
        exit_loss_weights: Any = "ascending",
        scoring: str | Callable[..., float] = "accuracy",
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw all policies from the probabilities of all exits.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels.
        staged_proba : array-like of shape (n_samples, n_layers, n_classes)
            Class probabilities after every layer, such as
            ``sklearn_epee.policy.stack_layers(classifier.staged_predict_proba(X))``.
        labels : array-like of shape (n_classes,), default=None
            The class of each column. None: the sorted labels in `y_true`.
        tau : float, default=None
            Entropy threshold of the policy to be marked. None marks no policy.
        patience : int, default=None
            Patience of the policy to be marked. None means M. Only used if `tau` is given.
        min_exit_layer : int, default=1
            The first layer at which samples may exit, under all policies.
        exit_ensemble : {None, "mean", "weighted"}, default=None
            How visited exits combine, see :func:`sklearn_epee.policy.apply_policy`.
        exit_loss_weights : str or array-like, default="ascending"
            Read for ``exit_ensemble="weighted"`` only.
        scoring : str or scorer, default="accuracy"
            The score, see :meth:`from_estimator`.
        name : str, default=None
            Title.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitTradeoffDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, or arguments do not match.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitTradeoffDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitTradeoffDisplay.from_predictions(y_true, staged_proba)
        >>> display.entropy_only["patience"].min()
        np.int64(4)
        """
        samples = samples_from_arrays(
            y_true,
            staged_proba,
            labels,
            exit_ensemble,
            exit_loss_weights,
            min_exit_layer=min_exit_layer,
        )
        if tau is None and patience is not None:
            raise ValueError(
                f"patience={patience!r} needs a tau to mark a policy; tau=0 is patience alone."
            )
        policy = None if tau is None else (tau, patience)
        return cls._of(samples, policy, scoring, name).plot(ax)

    @classmethod
    def _of(
        cls,
        samples: DisplaySamples | DisplaySentences,
        policy: tuple[float, int | None] | None,
        scoring: str | Callable[..., float],
        name: str | None,
    ) -> Self:
        score = make_score(scoring, samples)
        space = PolicySpace(samples.staged)
        n_layers = space.n_layers
        tables = [policy_table(space, score, count) for count in range(n_layers, 0, -1)]
        chosen = None
        if policy is not None:
            patience = min(check_patience(policy[1], n_layers), n_layers)
            table = policy_table(space, score, patience, np.array([check_tau(policy[0])]))
            chosen = _row(table, 0) | {"patience": patience}
        return cls(
            entropy_only=tables[0],
            patience_only=concatenate(_head(table) for table in tables),
            both=pareto_front(tables),
            chosen=chosen,
            full_depth_score=float(tables[0]["score"][0]),
            score_name=score_name(scoring),
            name=name,
        )

    @classmethod
    def from_cv_results(
        cls,
        search: Any,
        *,
        metric: str = "accuracy",
        speedup: str = "speedup",
        n_layers: int | None = None,
        name: str | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the policies of a search, and mark the chosen one.

        Parameters
        ----------
        search : fitted search or mapping
            Such as ``GridSearchCV(..., scoring=exit_scores, refit=...)`` over tau and patience of a
            classifier with early exits or of a pipeline that ends in one; or its ``cv_results_``,
            without a chosen policy.
        metric : str, default="accuracy"
            Name of the score.
        speedup : str, default="speedup"
            Name of the speed-up ratio among the scores.
        n_layers : int, default=None
            Number of layers M. None: that of the refitted estimator. If it is unknown, entropy-only
            policies are not drawn as such.
        name : str, default=None
            Title.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitTradeoffDisplay

        Raises
        ------
        TypeError, ValueError
            If `search` is not fitted, is not over tau and patience, is over other parameters as
            well, or does not have the scores.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_epee.plotting import ExitTradeoffDisplay
        >>> cv_results = {
        ...     "param_tau": [0.0, 0.1],
        ...     "param_patience": [4, 4],
        ...     "mean_test_accuracy": [0.92, 0.91],
        ...     "mean_test_speedup": [0.0, 0.4],
        ... }
        >>> display = ExitTradeoffDisplay.from_cv_results(cv_results)
        >>> display.both["speedup"]
        array([0. , 0.4])
        """
        found = SearchedPolicies.from_search(
            search, metric=metric, speedup=speedup, n_layers=n_layers
        )
        is_last = found.table["patience"] == found.n_layers  # all False if M is unknown
        has_no_tau = found.table["tau"] == 0
        full = found.rows(is_last & has_no_tau)["score"]
        return cls(
            entropy_only=found.rows(np.broadcast_to(is_last, has_no_tau.shape)),
            patience_only=found.rows(has_no_tau),
            both=pareto_front([found.table]),
            chosen=None if found.best is None else _row(found.table, found.best),
            full_depth_score=float(full[0]) if len(full) else None,
            score_name=metric,
            name=name,
        ).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the curves against the speed-up ratio; the axis at the top shows the factor.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : ExitTradeoffDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee.plotting import ExitTradeoffDisplay
        >>> rng = np.random.default_rng(0)
        >>> staged_proba = rng.dirichlet([1.0, 1.0], size=(50, 4))  # 50 samples, 4 layers
        >>> y_true = rng.choice(["absent", "present"], size=50)
        >>> display = ExitTradeoffDisplay.from_predictions(y_true, staged_proba)
        >>> from matplotlib import pyplot as plt
        >>> display.plot(plt.subplots()[1]).figure_ is plt.gcf()
        True
        """
        self.ax_, self.figure_ = own_or_new_axes(self, ax)
        self.lines_: dict[str, Any] = {}
        for key, label, color, marker, style in _CURVES:
            table = getattr(self, key)
            speedup, score = table["speedup"], table["score"]
            if key == "both" and len(
                speedup
            ):  # for a lower speed-up, the best score is available, too
                speedup, score = np.append(0.0, speedup), np.append(score[0], score)
            (self.lines_[key],) = self.ax_.plot(
                speedup,
                score,
                color=color,
                linestyle=style,
                marker=marker if len(table["score"]) <= _MAX_MARKED else None,
                markersize=5,
                markevery=slice(int(key == "both"), None),
                drawstyle="steps-pre",  # between two policies, the next faster one counts
                label=label,
            )
        self._mark_chosen()
        self._label()
        return self

    def _mark_chosen(self) -> None:
        if self.full_depth_score is not None:
            self.ax_.axhline(self.full_depth_score, color="0.4", lw=1, ls=":", label="full depth")
        self.chosen_ = None
        if self.chosen is not None:
            label = f"chosen: tau {self.chosen['tau']:.3g}, patience {self.chosen['patience']}"
            (self.chosen_,) = self.ax_.plot(
                [self.chosen["speedup"]],
                [self.chosen["score"]],
                color="black",
                marker="*",
                markersize=14,
                markeredgecolor="white",
                linestyle="none",
                zorder=5,
                label=label,
            )

    def _label(self) -> None:
        self.ax_.set_xlabel("speed-up ratio (share of layers saved)")
        self.ax_.set_ylabel(self.score_name.replace("_", " "))
        tables = [getattr(self, key) for key, *_ in _CURVES]
        self.ax_.set_xlim(-0.02, 0.02 + max(t["speedup"].max(initial=0) for t in tables))
        self.ax_.grid(alpha=0.3)
        self.ax_.legend(loc="best", fontsize="small")
        self.factor_ax_ = add_factor_axis(self.ax_)
        if self.name is not None:
            self.ax_.set_title(self.name)


def _head(table: Table) -> Table:
    """Return the policy of a patience with tau 0."""
    return {name: column[:1] for name, column in table.items()}


def _row(table: Table, row: int) -> dict[str, Any]:
    return {name: column[row].item() for name, column in table.items()}
