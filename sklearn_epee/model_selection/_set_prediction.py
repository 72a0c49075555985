"""Prediction sets for classifiers with a tuned exit policy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

from sklearn_epee._checks.tasks import as_target, check_any_labels
from sklearn_epee._compat import num_samples
from sklearn_epee._exits.wrappers import (
    OwnPolicy,
    check_labels_known,
    check_predicts_samples,
    is_multilabel,
    own_exit_layers,
    own_policy,
    staged_predictions,
    visited_proba,
)

from ._nested_sets import NestedSets, smallest_calibration

# tau, patience and min_exit_layer.
PolicyTuple = tuple[float | None, int | None, int]

_VALID_FOR = ("any_policy", "policy")
_MAX_NAMED = 5


class SetPredictionMixin:
    """Conformal prediction sets from held-out samples; not to be used directly."""

    def _with_policy(self) -> Any:
        raise NotImplementedError

    def conformalize(
        self,
        X: Any,
        y: ArrayLike,
        *,
        coverage: float = 0.9,
        per_class: bool = False,
        valid_for: str = "any_policy",
        random_state: int | np.random.RandomState | None = None,
    ) -> Self:
        """Calibrate the sets of `predict_set` on held-out samples.

        Nothing is trained, and the predictions do not change.

        Parameters
        ----------
        X : samples
            Samples that were used neither to train the network nor to calibrate its exits. With
            ``valid_for="any_policy"`` they may have been used to choose the policy.
        y : array-like of shape (n_samples,)
            Labels.
        coverage : float in (0, 1), default=0.9
            Minimum probability that the set of a new sample contains its true class.
        per_class : bool, default=False
            Whether this probability holds for the samples of each class, and not only for all
            samples together. Every class then needs at least ``coverage / (1 - coverage)`` samples,
            in addition to the 30 % for the levels (see Notes); a class with fewer is in all sets.
        valid_for : {"any_policy", "policy"}, default="any_policy"
            "any_policy": the true class is in the sets of all exits at once, so that the coverage
            holds for any exit policy, including one that is set later. "policy": it is in the sets
            of the exits that the present policy visits, which makes sets smaller; the policy must
            not have been chosen on these samples, and `predict_set` raises an error if it changes.
        random_state : int, RandomState instance or None, default=None
            Seeds the split of the samples into those for the levels and those for the limits.

        Returns
        -------
        self : object
            With the attribute `prediction_sets_`, a dict with the levels and limits.

        Raises
        ------
        ValueError
            If an argument is not as described, a label is unknown, or there are several tasks or
            labels per sample.
        sklearn.exceptions.NotFittedError
            If the classifier is not fitted.

        Warns
        -----
        UserWarning
            If classes have too few samples and are therefore in every set.

        Notes
        -----
        The *level* of a class at an exit, which makes exits comparable, is the fraction of samples
        whose true class had a higher probability there, estimated on a random 30 % of the samples.
        The score of a class is its largest level over the visited exits. The limit is the score of
        rank ``ceil((n + 1) * coverage)`` among the scores of the true classes of the other n
        samples, of all or of each class [1]_. The coverage is exact for any n, network and levels,
        as a probability over draws of these samples and the new one together, if they are
        exchangeable, such as independent samples from one distribution. It does not hold within
        other groups of samples than the classes of `per_class`, nor on data that have drifted. As
        in [2]_, sets shrink from exit to exit; there they are derived from confidence sequences,
        here from one conformal score.

        References
        ----------
        .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic learning in a random world", Springer
           (2005); label-conditional ("Mondrian") prediction is in chapter 4.
        .. [2] M. Jazbec, P. Forré, S. Mandt, D. Zhang, E. Nalisnick, "Early-exit neural networks
           with nested prediction sets", arXiv:2311.05931.

        Examples
        --------
        >>> from sklearn.frozen import FrozenEstimator
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(240, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
        >>> fixed = FixedExitPolicyClassifier(FrozenEstimator(clf), patience=3).fit(X, y)
        >>> fixed.conformalize(X[60:200], y[60:200], coverage=0.8, random_state=0)
        FixedExitPolicyClassifier(...)
        >>> fixed.predict_set(X[200:]).shape
        (40, 4)
        """
        estimator = self._with_policy()
        check_predicts_samples(estimator)
        coverage = _check_coverage(coverage)
        _check_options(per_class, valid_for)
        given = as_target(check_any_labels(y, num_samples(X), type(self).__name__))
        _check_one_task(estimator, given)
        rng = check_random_state(random_state)
        check_labels_known(estimator, given)
        staged, tasks = staged_predictions(estimator, X)
        policy = own_policy(estimator)
        exits = np.full(staged.n_samples, staged.n_layers)
        if valid_for == "policy":
            exits = own_exit_layers(staged, policy)
        sets = NestedSets.learn(
            staged.head_proba[0],
            tasks.codes(given),
            staged.visited(exits),
            coverage=coverage,
            per_class=bool(per_class),
            rng=rng,
        )
        _warn_of_full_sets(sets, np.asarray(tasks.classes), per_class=bool(per_class))
        held_for = _policy_tuple(policy) if valid_for == "policy" else None
        # A dict of arrays and numbers, which can be saved without pickle.
        self.prediction_sets_ = {**asdict(sets), "policy": held_for}
        return self

    def predict_set(self, X: Any, *, allow_empty: bool = False) -> NDArray[np.bool_]:
        """Predict a set of classes for each sample, calibrated to contain the true class.

        Samples exit by the policy. The set of a sample is that of its exit, a subset of the sets of
        the exits before.

        Parameters
        ----------
        X : samples
        allow_empty : bool, default=False
            Whether a set may be empty, which means that the exits contradict each other: no class
            is in the sets of all of them. If not, the best of the last remaining classes is kept,
            which can only increase the coverage.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), bool
            Whether a class is in the set; columns in the order of ``classes_``. The predicted class
            is not always in the set.

        Raises
        ------
        ValueError
            If the sets were calibrated for another policy.
        sklearn.exceptions.NotFittedError
            Before `fit` and `conformalize`.

        Examples
        --------
        >>> from sklearn.frozen import FrozenEstimator
        >>> from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(240, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
        >>> tuned = TunedExitPolicyClassifierCV(FrozenEstimator(clf)).fit(X[60:200], y[60:200])
        >>> sets = tuned.conformalize(X[60:200], y[60:200], random_state=0).predict_set(X[200:])
        >>> bool(sets.any(axis=1).all())
        True

        The labels in the set of a sample:

        >>> set(tuned.classes_[sets[0]]) <= set(tuned.classes_)
        True
        """
        learned, _ = self._for_policy()
        proba = visited_proba(self._with_policy(), X)
        *_, sets = learned.staged(proba, allow_empty=bool(allow_empty))
        return sets

    def staged_predict_set(
        self, X: Any, *, allow_empty: bool = False
    ) -> Iterator[NDArray[np.bool_]]:
        """Predict the sets of every exit, from one forward pass through all layers.

        Parameters
        ----------
        X : samples
        allow_empty : bool, default=False
            See `predict_set`.

        Yields
        ------
        ndarray of shape (n_samples, n_classes), bool
            The set after layer 1, then 2, up to ``n_layers_``, each a subset of the one before. The
            set at the exit layer of a sample is that of `predict_set`. At a missing exit the set
            does not change.

        Raises
        ------
        ValueError
            If the sets were calibrated with ``valid_for="policy"``, for the visited exits only.
        sklearn.exceptions.NotFittedError
            Before `fit` and `conformalize`.

        Examples
        --------
        >>> from sklearn.frozen import FrozenEstimator
        >>> from sklearn_epee import EPEEClassifier, FixedExitPolicyClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(240, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
        >>> fixed = FixedExitPolicyClassifier(FrozenEstimator(clf)).fit(X, y)
        >>> fixed = fixed.conformalize(X[60:200], y[60:200], random_state=0)
        >>> first, *_, last = fixed.staged_predict_set(X[200:])
        >>> bool((last <= first).all())
        True
        """
        learned, policy = self._for_policy()
        if policy is not None:
            raise ValueError(
                "staged_predict_set needs sets for all exits, but these were calibrated with "
                "valid_for='policy', for the visited exits only. Call conformalize with "
                "valid_for='any_policy'."
            )
        staged, _ = staged_predictions(self._with_policy(), X)
        proba = staged.head_proba[0]
        if staged.own is not None:
            proba = np.where(staged.own[..., np.newaxis], proba, np.nan)
        yield from learned.staged(proba, allow_empty=bool(allow_empty))

    def _for_policy(self) -> tuple[NestedSets, PolicyTuple | None]:
        """Return the learned sets and the policy that they hold for; raise if it has changed."""
        own = own_policy(self._with_policy())
        found = dict(self.__dict__.get("prediction_sets_", {}))
        if not found:
            raise NotFittedError(
                f"This {type(self).__name__} has no prediction sets yet; call 'conformalize' with "
                "held-out samples before 'predict_set'."
            )
        policy, now = found.pop("policy"), _policy_tuple(own)
        if policy is not None:
            policy = (*policy, 1)[:3]  # earlier versions have no min_exit_layer
        if policy not in (None, now):
            raise ValueError(
                f"The prediction sets are valid for {_policy_text(policy)}, but the policy is now "
                f"{_policy_text(now)}. Call conformalize again, or with valid_for='any_policy'."
            )
        return NestedSets(**found), policy


def _policy_tuple(policy: OwnPolicy) -> PolicyTuple:
    return policy.tau, policy.patience, policy.min_exit_layer


def _policy_text(policy: PolicyTuple) -> str:
    tau, patience, min_exit_layer = policy
    return f"tau={tau!r}, patience={patience!r}, min_exit_layer={min_exit_layer!r}"


def _check_coverage(coverage: Any) -> float:
    if isinstance(coverage, (bool, np.bool_)) or not isinstance(coverage, Real):
        raise TypeError(f"coverage must be a float in (0, 1); got {coverage!r}.")
    if not 0 < float(coverage) < 1:
        raise ValueError(f"coverage must be a float in (0, 1); got {coverage!r}.")
    return float(coverage)


def _check_options(per_class: Any, valid_for: Any) -> None:
    if not isinstance(per_class, (bool, np.bool_)):
        raise TypeError(f"per_class must be True or False; got {per_class!r}.")
    if not isinstance(valid_for, str) or valid_for not in _VALID_FOR:
        raise ValueError(f"valid_for must be 'any_policy' or 'policy'; got {valid_for!r}.")


def _check_one_task(estimator: Any, y: NDArray[Any]) -> None:
    if is_multilabel(estimator):
        raise ValueError(
            "Prediction sets need one task with one class per sample, but y has several labels per "
            "sample. TunedLabelThresholdsClassifierCV tunes thresholds for labels."
        )
    if y.ndim > 1:
        raise ValueError(
            f"Prediction sets need one task with one class per sample, but y has {y.shape[1]} "
            "tasks."
        )


def _warn_of_full_sets(sets: NestedSets, classes: NDArray[Any], *, per_class: bool) -> None:
    """Warn of classes that are in every set because there are too few samples."""
    full = np.flatnonzero(np.isinf(sets.limits))
    if not len(full):
        return
    needed = smallest_calibration(sets.coverage)
    subject = "All classes are in every set"
    if per_class:
        names = ", ".join(
            f"{classes[k].item()!r} ({sets.n_samples[k]} samples)" for k in full[:_MAX_NAMED]
        )
        more = f" and {len(full) - _MAX_NAMED} more" if len(full) > _MAX_NAMED else ""
        subject = f"The classes {names}{more} are in every set"
    warnings.warn(
        f"{subject}: a coverage of {sets.coverage} needs {needed} samples"
        f"{' of each class' if per_class else ''} in addition to the 30 % that make exits "
        "comparable. Pass more samples or a lower coverage.",
        UserWarning,
        stacklevel=3,
    )
