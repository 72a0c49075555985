"""ExitCalibratedClassifier: calibrate the probabilities of every exit."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import indexable

from sklearn_epee._checks.labels import check_weights
from sklearn_epee._compat import HasMethods, Interval, RealNotInt, StrOptions, num_samples
from sklearn_epee._exits.protocol import MapsExitLogits
from sklearn_epee._exits.reliability import Reliability
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.wrappers import check_has_exits, exit_classifier, with_classifier

from ._exit_maps import ExitMaps, fit_scales, fit_temperature, warn_at_bounds
from ._held_out import BaseHeldOutClassifier
from ._staging import Target, Validation

# Smallest probability, so that logarithms are finite.
_MIN_PROBA = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _HeldOut:
    """Predictions of every exit for the samples that are used for calibration.

    Attributes
    ----------
    log_proba : ndarray of shape (n_samples, n_layers, n_classes), float64
        Logits of every exit, up to a constant per sample and exit.
    codes : ndarray of shape (n_samples,), int
        Column of the true class.
    weights : ndarray of shape (n_samples, n_layers), float64
        Positive, or 0 at exits that a sample does not have.
    """

    log_proba: Floats
    codes: Integers
    weights: Floats

    @classmethod
    def of(cls, validation: Validation, weights: Floats, *, every_class: bool) -> Self:
        """Select the samples with a nonzero weight; raise if they have too few classes.

        Networks of splits that do not know every class are left out, because they have no logits
        for the missing classes.

        Parameters
        ----------
        validation : Validation
        weights : ndarray of shape (n_given,)
            Sample weights of all samples given to `fit`.
        every_class : bool
            Whether samples of every class are required.
        """
        if not validation.knows_all.any():
            raise ValueError(
                "The training part of every split lacks a class, so no network could be calibrated "
                "for all classes. Use fewer folds or a stratified splitter."
            )
        weights = weights[validation.rows] * validation.knows_all
        used = np.flatnonzero(weights)
        codes, own = validation.codes[used, 0], validation.staged.own
        proba = validation.staged.head_proba[0][used].astype(np.float64)
        each = np.repeat(weights[used, np.newaxis], proba.shape[1], axis=1)
        if own is not None:  # missing exits do not count
            each *= own[used]
        held_out = cls(np.log(np.maximum(proba, _MIN_PROBA)), codes, each)
        held_out._check_classes(validation.classes, every_class)
        return held_out

    def _check_classes(self, classes: Any, every_class: bool) -> None:
        """Raise if the samples of an exit have too few classes; skip exits without samples."""
        exits = [self.of_exit(layer)[1] for layer in range(self.weights.shape[1])]
        present = min((np.unique(codes) for codes in exits if len(codes)), key=len, default=())
        if len(present) < 2:
            raise ValueError(
                "Calibration needs samples of at least two classes with a weight above 0; y holds "
                f"{len(present)} class: {classes[list(present)].tolist()}."
            )
        missing = np.delete(classes, present)
        if every_class and len(missing):
            raise ValueError(
                "method='vector' fits a shift for every class, but no sample of the classes "
                f"{missing.tolist()} is there to calibrate on; give some, or use "
                "method='temperature'."
            )

    def of_exit(self, layer: int) -> tuple[Floats, Integers, Floats]:
        """Return log-probabilities, codes and weights of samples with an exit, counted from 0."""
        rows = np.flatnonzero(self.weights[:, layer])
        return self.log_proba[rows, layer], self.codes[rows], self.weights[rows, layer]

    def nll(self, maps: ExitMaps) -> Floats:
        """Return the mean negative log-likelihood of every exit, (n_layers,), in nats."""
        log_proba = maps.log_proba(self.log_proba)
        true = log_proba[np.arange(len(self.codes)), :, self.codes]
        totals = self.weights.sum(axis=0)
        return -(true * self.weights).sum(axis=0) / np.where(totals > 0, totals, np.nan)

    def ece(self, maps: ExitMaps) -> Floats:
        """Return the expected calibration error of every exit, (n_layers,)."""
        proba = np.exp(maps.log_proba(self.log_proba))
        return Reliability.of(proba, self.codes, weights=self.weights).error


class ExitCalibratedClassifier(BaseHeldOutClassifier):
    """Early-exit classifier with calibrated exits, each with its own temperature.

    The exits of a network differ in confidence, so one threshold `tau` is stricter for some layers
    than for others. This classifier rescales the logits of each exit to maximize the likelihood of
    held-out samples [1]_, so that one `tau` means the same confidence at every layer.
    Probabilities, entropies, exits and labels change accordingly, still with a single pass: heads
    end in a linear map, and `estimator_` is a copy with other weights there.

    Parameters
    ----------
    estimator : estimator
        :class:`~sklearn_epee.EPEEClassifier`, :class:`~sklearn_epee.EPEEImageClassifier`, or a
        pipeline or search object that ends in one. Inside a
        :class:`~sklearn.frozen.FrozenEstimator` it is not trained again: it is calibrated on all
        samples given to `fit`, which should not be those it was trained on, and `cv` is ignored. It
        is not modified.
    method : {"temperature", "vector"}, default="temperature"
        "temperature" divides the logits of an exit by a number; its predicted classes stay the
        same. "vector" gives each class of an exit a scale and a shift, for logits that are centered
        over the classes; predicted classes may change.
    cv : int, float, cross-validation generator, iterable or "prefit", default=None
        None is a stratified 5-fold split, an int the number of its folds; a float in (0, 1) the
        share held out in a single stratified split; "prefit" takes `estimator` as it is, like a
        frozen one.
    n_jobs : int, default=None
        Splits trained in parallel. None is 1 unless in a joblib context, -1 all processors.
    random_state : int, RandomState instance or None, default=None
        Draws the single split of a float `cv`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator with calibrated exits; it shares no weights with `estimator`.
    temperatures_ : ndarray of shape (n_layers,), float64
        Above 1 for an overconfident exit; from 0.05 to 20. Only with ``method="temperature"``.
    scales_, shifts_ : ndarray of shape (n_layers, n_classes), float64
        Scales from 0.05 to 20, and shifts with the mean 0. Only with ``method="vector"``.
    n_parameters_ : int
        Number of fitted parameters: M temperatures, or 2 M K scales and shifts. With "vector" a
        constant added to all shifts of an exit changes nothing, so fewer are free.
    nll_before_, nll_after_ : ndarray of shape (n_layers,), float64
        Mean negative log-likelihood of every exit in nats, on the samples that it was calibrated
        on; `nll_after_` is optimistically biased.
    ece_before_, ece_after_ : ndarray of shape (n_layers,), float64
        Expected calibration error of every exit on the same samples, from 0 to 1, with 15 bins of
        equal width, as in :class:`~sklearn_epee.plotting.ExitReliabilityDisplay`; `ece_after_` is
        optimistically biased.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    n_layers_ : int
        Number of layers M, and of exits.
    n_features_in_ : int
        Number of features seen in `fit`. Only defined if the underlying estimator has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen in `fit`. Only defined if the underlying estimator has them.

    See Also
    --------
    TunedExitPolicyClassifierCV : Chooses the exit policy, also over this classifier.
    sklearn.calibration.CalibratedClassifierCV : Calibrates the predictions, not the exits.

    Notes
    -----
    Every exit is calibrated on all samples, including those that exit earlier under the policy of
    `estimator`. The samples that exit at a layer are a selection, on which the layer can be less
    well calibrated than on all samples. Logits are computed as the logarithms of
    `staged_predict_proba`, which equal them up to a constant per sample and exit. A temperature
    does not depend on this constant, and "vector" centers logits over the classes, which removes
    it.

    In cross-validation, the exits of the networks of all splits are calibrated together on the
    held-out samples, and the result is applied to a final network, which is trained on all samples.
    Splits whose training part lacks a class are left out, with a warning. If samples lack exits,
    such as those without an image, an exit is calibrated on the samples that have it; an exit
    without any samples is not changed, and its statistics are NaN. "vector" may change the
    predicted classes, and therefore the layer at which a classifier with `hand_over_after` moves on
    to its second tower.

    A policy that was chosen before has to be chosen again, because `tau` has another meaning after
    calibration; use other samples if there are enough. With :class:`TunedExitPolicyClassifierCV`
    around this classifier, no sample is used for both in the same split; if this classifier
    contains a frozen network, nothing is trained for it.

    **Benefits.** Measured by ``python -m benchmarks.exit_calibration --data phee health_advice`` on
    one fine-tuned all-MiniLM-L6-v2 for each of two data sets, calibrated on the validation part,
    mean over the six exits on the test part:

    ============= ===== =========== ======
    data set      none  temperature vector
    ============= ===== =========== ======
    phee, NLL     0.290 0.205       0.206
    phee, ECE     0.048 0.018       0.019
    health, NLL   0.297 0.274       0.264
    health, ECE   0.040 0.022       0.021
    ============= ===== =========== ======

    Probabilities become better; the accuracy at a given speed-up hardly moves. With the policy
    chosen on one half of the validation part for a speed-up ratio of at least 0.3, 0.5, 0.6 or 0.7
    and the exits calibrated on the other half, the accuracy on the test part is, on the mean of 10
    draws, that of the uncalibrated exits within 0.0005 for "temperature", and 0.0016 lower to
    0.0025 higher for "vector", at ratios up to 0.08 apart; the test parts have about 1,000 texts,
    so that an accuracy has a standard error of 0.008. :class:`TunedExitPolicyClassifierCV`
    therefore does not calibrate by itself: calibrate for probabilities to trust, not for speed.
    Other data sets and seeds were not measured.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks",
       International Conference on Machine Learning (2017).

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn_epee import (
    ...     EPEEClassifier,
    ...     ExitCalibratedClassifier,
    ...     TunedExitPolicyClassifierCV,
    ... )
    >>> from sklearn_epee.datasets import make_supplement_notes
    >>> X, y = make_supplement_notes(240, random_state=0)
    >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X[:60], y[:60])
    >>> calibrated = ExitCalibratedClassifier(FrozenEstimator(clf)).fit(X[60:150], y[60:150])
    >>> calibrated.n_parameters_ == clf.n_layers_
    True
    >>> (calibrated.nll_after_ <= calibrated.nll_before_).all()
    np.True_

    The policy is chosen for the calibrated exits, on other texts; or on the same ones, by
    cross-validation:

    >>> tuned = TunedExitPolicyClassifierCV(FrozenEstimator(calibrated), min_speedup=0.5)
    >>> tuned.fit(X[150:], y[150:]).best_speedup_ >= 0.5
    True
    >>> calibrated = ExitCalibratedClassifier(FrozenEstimator(clf))
    >>> tuned = TunedExitPolicyClassifierCV(calibrated, min_speedup=0.5)
    >>> tuned.fit(X[60:], y[60:]).estimator_.temperatures_.shape == (clf.n_layers_,)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit", "predict"])],
        "method": [StrOptions({"temperature", "vector"})],
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
        method: str = "temperature",
        cv: Any = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> Self:
        """Calibrate the exits on held-out samples, and train on all samples.

        The estimator is trained once per split, and once more on all samples.

        Parameters
        ----------
        X : samples
            Samples accepted by `estimator`.
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the calibration, and passed to the `fit` of `estimator`.
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
            If `estimator` ends in no classifier with early exits that can be calibrated.
        ValueError
            If a parameter is not as described, if the samples to calibrate an exit on are of a
            single class or, with "vector", lack one, if `y` holds a label that a fitted estimator
            does not know, or if it holds several tasks, whose exits are not calibrated.
        sklearn.exceptions.NotFittedError
            If `estimator` is frozen or "prefit" and not fitted.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If a temperature, scale or shift ends at its bound: the exit separates the classes of
            these samples without error, or says nothing about them.

        Examples
        --------
        >>> from sklearn.frozen import FrozenEstimator
        >>> from sklearn_epee import EPEEClassifier, ExitCalibratedClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(80, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=3, random_state=0).fit(X[:40], y[:40])
        >>> calibrated = ExitCalibratedClassifier(FrozenEstimator(clf)).fit(X[40:], y[40:])
        >>> calibrated.temperatures_.shape == (clf.n_layers_,)
        True
        """
        self._validate_params()
        check_has_exits(self.estimator)
        _check_linear(self.estimator)
        X = indexable(X)[0]
        target = self._target(X, y)
        _check_one_task(target, type(self).__name__)
        weights = check_weights(sample_weight, num_samples(X))
        to_fit, to_split = self._route(sample_weight, fit_params)
        validation = self._stage(X, target, to_fit, to_split)
        held_out = _HeldOut.of(validation, weights, every_class=self.method == "vector")
        maps, found = self._calibrate(held_out)
        fitted = self._fitted(X, target, to_fit)
        self._adopt(
            with_classifier(fitted, lambda inner: inner.map_exit_logits(maps.matrix, maps.shift))
        )
        for name in ("temperatures_", "scales_", "shifts_"):  # from an earlier fit
            self.__dict__.pop(name, None)
        self.__dict__.update(found)
        return self

    def _calibrate(self, held_out: _HeldOut) -> tuple[ExitMaps, dict[str, Any]]:
        """Fit the maps that calibrate every exit; return them and fitted attributes."""
        _, n_layers, n_classes = held_out.log_proba.shape
        exits = [held_out.of_exit(layer) for layer in range(n_layers)]
        temperatures = np.array([fit_temperature(*one) for one in exits])
        found: dict[str, Any] = {"temperatures_": temperatures}
        maps = ExitMaps.from_temperatures(temperatures, n_classes)
        if self.method == "vector":
            pairs = [
                fit_scales(*one, start=1 / temperature)
                for one, temperature in zip(exits, temperatures, strict=True)
            ]
            scales, shifts = (np.array(part) for part in zip(*pairs, strict=True))
            found = {"scales_": scales, "shifts_": shifts}
            maps = ExitMaps.from_scales(scales, shifts)
        found["n_parameters_"] = sum(part.size for part in found.values())
        warn_at_bounds(found)
        before = ExitMaps.unchanged(n_layers, n_classes)
        found |= {"nll_before_": held_out.nll(before), "nll_after_": held_out.nll(maps)}
        found |= {"ece_before_": held_out.ece(before), "ece_after_": held_out.ece(maps)}
        return maps, found


def _check_one_task(target: Target, name: str) -> None:
    if target.multilabel:
        raise ValueError(
            f"{name} calibrates the exits of one task, but y holds {target.n_tasks} labels, of "
            "which a sample may have any. Use the classifier of several labels as it is; "
            "TunedLabelThresholdsClassifierCV chooses what probability each label needs."
        )
    if target.n_tasks > 1:
        raise ValueError(
            f"{name} calibrates the exits of one task, but y holds {target.n_tasks} tasks. Use "
            "the classifier of several tasks as it is, or train a classifier for each task and "
            "calibrate those."
        )


def _check_linear(estimator: Any) -> None:
    classifier = exit_classifier(estimator)
    if not isinstance(classifier, MapsExitLogits):
        raise TypeError(
            "estimator must end in an EPEEClassifier or EPEEImageClassifier, whose exits end in a "
            "linear map that can be rescaled, or in a classifier with the method map_exit_logits; "
            f"got {type(classifier).__name__}."
        )
