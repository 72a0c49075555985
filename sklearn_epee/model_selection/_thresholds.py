"""TunedLabelThresholdsClassifierCV: tune the decision threshold of each label."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import get_scorer_names
from sklearn.utils import indexable

from sklearn_epee._checks.labels import check_weights
from sklearn_epee._checks.messages import shown
from sklearn_epee._compat import HasMethods, Interval, RealNotInt, StrOptions, num_samples
from sklearn_epee._exits.label_thresholds import LabelThresholds, best_thresholds, threshold_score
from sklearn_epee._exits.wrappers import given_classifier, with_classifier

from ._base import BaseExitPolicyClassifier
from ._held_out import BaseHeldOutClassifier
from ._staging import Target


class TunedLabelThresholdsClassifierCV(BaseHeldOutClassifier):
    """Early-exit multilabel classifier with a tuned threshold for each label.

    A label is predicted if its probability is above its threshold, by default 0.5. The
    probabilities of rare labels rarely reach 0.5, so their recall is low. This classifier chooses,
    for each label, the threshold with the best score on held-out samples. It is the multilabel
    counterpart of :class:`~sklearn.model_selection.TunedThresholdClassifierCV`.

    Parameters
    ----------
    estimator : estimator
        :class:`~sklearn_epee.EPEEClassifier`, :class:`~sklearn_epee.EPEEImageClassifier`, another
        classifier of several labels with early exits and the parameter `label_thresholds`, or a
        pipeline or search object that ends in one. Inside a
        :class:`~sklearn.frozen.FrozenEstimator` it is not trained again: thresholds are tuned on
        all samples given to `fit`, which should not be those it was trained on, and `cv` is
        ignored. It is not modified.
    scoring : str or callable, default="f1"
        The score of a label: "f1", whose mean over the labels is "f1_macro", "jaccard",
        "accuracy", "balanced_accuracy", or a scorer made of their functions or
        :func:`~sklearn.metrics.fbeta_score` by :func:`~sklearn.metrics.make_scorer`,
        ``make_scorer(fbeta_score, beta=2)`` for example. Every threshold is compared.
    min_samples : int, default=10
        A label with fewer positive or fewer negative held-out samples keeps the threshold 0.5,
        because a threshold that is chosen on a few samples is mostly noise.
    cv : int, float, cross-validation generator, iterable or "prefit", default=None
        None is a stratified 5-fold split, an int the number of its folds; a float in (0, 1) the
        share held out in a single stratified split; "prefit" takes `estimator` as it is, like a
        frozen one. Splits are stratified by the sets of labels; sets too rare to be split are
        treated as one.
    n_jobs : int, default=None
        Splits trained in parallel. None is 1 unless in a joblib context, -1 all processors.
    random_state : int, RandomState instance or None, default=None
        Draws the single split of a float `cv`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator, with the thresholds as its `label_thresholds`.
    best_thresholds_ : ndarray of shape (n_labels,), float64
        Halfway between the two probabilities next to it.
    best_scores_ : ndarray of shape (n_labels,), float64
        Score of each label at its threshold, on the samples that it was tuned on; optimistically
        biased, the more the rarer the label. NaN for a label that all samples have, or none.
    default_scores_ : ndarray of shape (n_labels,), float64
        The same at the threshold 0.5.
    n_positives_ : ndarray of shape (n_labels,), int64
        Held-out samples that have the label.
    is_tuned_ : ndarray of shape (n_labels,), bool
        Whether there were enough samples to tune the threshold of the label.
    classes_ : ndarray of shape (n_labels,)
        The labels.
    multilabel_ : bool
        True: a sample may have any of the labels.
    n_outputs_ : int
        Number of labels.
    n_layers_ : int
        Number of layers M, and of exits.
    n_features_in_ : int
        Number of features seen in `fit`. Only defined if the underlying estimator has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen in `fit`. Only defined if the underlying estimator has them.

    See Also
    --------
    TunedExitPolicyClassifierCV : Chooses the exit policy, over this classifier.
    sklearn.model_selection.TunedThresholdClassifierCV : The threshold of two classes.

    Notes
    -----
    **Thresholds first, then the policy.** Patience counts layers that predict the same set of
    labels, so thresholds change the exits. The score and guarantee of a policy that was tuned
    before would no longer hold, so such a policy is refused here; put
    :class:`TunedExitPolicyClassifierCV` around this classifier, with other samples if there are
    enough. The thresholds are tuned on the predictions at full depth, which do not depend on the
    policy, and are used at every exit.

    The predictions of all splits are combined, although they come from different networks, and the
    final network, trained on all samples, is yet another one. Unknown labels (NaN in `y`) are
    ignored. Sample weights are used.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn_epee import (
    ...     EPEEClassifier,
    ...     TunedExitPolicyClassifierCV,
    ...     TunedLabelThresholdsClassifierCV,
    ... )
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> X, y = make_supplement_notes(240, random_state=0)
    >>> words = "OTC", "stopped", "supplement"
    >>> labels = [[word for word in words if word in text] for text in X]
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:80], labels[:80])
    >>> tuned = TunedLabelThresholdsClassifierCV(FrozenEstimator(clf))
    >>> tuned.fit(X[80:160], labels[80:160]).best_thresholds_.shape
    (3,)

    The policy comes after the thresholds, on other texts:

    >>> fast = TunedExitPolicyClassifierCV(FrozenEstimator(tuned), min_speedup=0.5)
    >>> fast.fit(X[160:], labels[160:]).best_speedup_ >= 0.5
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "scoring": [StrOptions(set(get_scorer_names())), callable],
        "min_samples": [Interval(Integral, 1, None, closed="left")],
        "cv": [
            "cv_object",
            StrOptions({"prefit"}),
            Interval(RealNotInt, 0.0, 1.0, closed="neither"),
        ],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        scoring: str | Callable[..., float] = "f1",
        min_samples: int = 10,
        cv: Any = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.scoring = scoring
        self.min_samples = min_samples
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> Self:
        """Tune the thresholds on held-out samples, and train on all samples.

        The estimator is trained once per split, and once more on all samples.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.
        y : array-like or sparse matrix of shape (n_samples, n_labels), or sequence of label lists
            Labels accepted by `estimator`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the scores, and passed to the `fit` of `estimator`.
        **fit_params : dict
            ``groups`` is passed to the splitter, and to the `fit` of `estimator` if this holds
            samples out itself. The rest is passed to the `fit` of `estimator`. With metadata
            routing enabled, what goes where is as requested.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If `estimator` ends in no classifier with early exits that has `label_thresholds`.
        ValueError
            If a parameter is not as described, if `y` does not hold several labels per sample, or
            holds one that a fitted estimator does not know.
        sklearn.exceptions.NotFittedError
            If `estimator` is frozen or "prefit" and not fitted.

        Warns
        -----
        UserWarning
            If labels keep the threshold 0.5 because too few samples have them, or do not.

        Examples
        --------
        >>> from sklearn.frozen import FrozenEstimator
        >>> from sklearn_epee import EPEEClassifier, TunedLabelThresholdsClassifierCV
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(160, random_state=0)
        >>> words = "OTC", "stopped", "supplement"
        >>> labels = [[word for word in words if word in text] for text in X]
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:80], labels[:80])
        >>> tuned = TunedLabelThresholdsClassifierCV(FrozenEstimator(clf))
        >>> tuned.fit(X[80:], labels[80:]).estimator_.label_thresholds.shape
        (3,)
        """
        self._validate_params()
        score = threshold_score(self.scoring)
        _check_has_thresholds(self.estimator)
        X = indexable(X)[0]
        target = self._target(X, y)
        _check_labels(target, type(self).__name__)
        weights = check_weights(sample_weight, num_samples(X))
        to_fit, to_split = self._route(sample_weight, fit_params)
        validation = self._stage(X, target, to_fit, to_split)
        found = best_thresholds(
            validation.codes,
            validation.staged.proba[0][:, -1],
            score,
            self.min_samples,
            weights[validation.rows],
        )
        fitted = self._fitted(X, target, to_fit)

        def changed(classifier: Any) -> Any:
            return copy.copy(classifier).set_params(label_thresholds=found.thresholds.copy())

        self._adopt(with_classifier(fitted, changed))
        self.best_thresholds_, self.is_tuned_ = found.thresholds, found.is_tuned
        self.best_scores_, self.default_scores_ = found.scores, found.default_scores
        self.n_positives_ = found.counts[:, 1]
        _warn_of_few(found, validation.classes, self.min_samples)
        return self


def _check_has_thresholds(estimator: Any) -> None:
    """Raise if an estimator does not end in a classifier whose thresholds can be set."""
    inner = estimator
    while inner is not None:
        has_policy = isinstance(inner, BaseExitPolicyClassifier) and not inner.delegates_exit_policy
        if has_policy:
            name = type(inner).__name__
            raise TypeError(
                f"{name} has a policy that other thresholds would change: patience counts layers "
                "that predict the same set of labels. Tune the thresholds first, and put "
                f"{name} around TunedLabelThresholdsClassifierCV."
            )
        inner = getattr(inner, "estimator", None)
    classifier = given_classifier(estimator)
    if "label_thresholds" not in classifier.get_params(deep=False):
        raise TypeError(
            "estimator must end in a classifier of several labels with the parameter "
            f"label_thresholds, such as EPEEClassifier; got {type(classifier).__name__}."
        )


def _check_labels(target: Target, name: str) -> None:
    if not target.multilabel:
        raise ValueError(
            f"{name} is for several labels per sample: y must be an indicator of 0 and 1 with two "
            "or more columns, or a list of labels for each sample (or target_type='multilabel' "
            f"says so); got y with {target.n_tasks} task(s). "
            "sklearn.model_selection.TunedThresholdClassifierCV is for two classes."
        )


def _warn_of_few(found: LabelThresholds, labels: NDArray[Any], min_samples: int) -> None:
    few = np.flatnonzero(~found.is_tuned)
    if len(few):
        warnings.warn(
            f"The labels {shown(labels[few].tolist())} keep the threshold 0.5: fewer than "
            f"min_samples={min_samples} held-out samples have them, or do not.",
            UserWarning,
            stacklevel=3,
        )
