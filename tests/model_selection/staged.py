"""Staged probabilities to test with, and a cheap classifier of numbers with early exits."""

import copy

import numpy as np
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Bunch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sklearn_epee._checks.multilabel import check_label_targets
from sklearn_epee._checks.tasks import Tasks, exact_match_score, task_columns
from sklearn_epee._exits.wrappers import stack_tasks
from sklearn_epee.policy import apply_policy

N_LAYERS = 5


@st.composite
def staged_arrays(draw, max_samples=8, max_layers=6, max_classes=4):
    """Staged probabilities in which ties of entropies and of classes, and certainty, are common."""
    shape = tuple(draw(st.integers(1, most)) for most in (max_samples, max_layers, max_classes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["smooth", "coarse", "certain", "uniform"]))
    if kind == "uniform":
        proba = np.full(shape, 1 / shape[2])
    elif kind == "coarse":
        values = rng.integers(0, 3, size=shape) + (rng.random(shape) < 0.5)
        values[..., 0] += values.sum(axis=-1) == 0
        proba = values / values.sum(axis=-1, keepdims=True)
    else:
        logits = rng.normal(size=shape) * (300 if kind == "certain" else 2)
        exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
        proba = exp / exp.sum(axis=-1, keepdims=True)
    return proba.astype(draw(st.sampled_from([np.float32, np.float64])))


@st.composite
def staged_tasks(draw, max_tasks=3):
    """Staged probabilities of several tasks with classes of their own; ties are common."""
    first = draw(staged_arrays())
    n_samples, n_layers, _ = first.shape
    tasks = [first]
    for _ in range(draw(st.integers(1, max_tasks - 1))):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        n_classes = draw(st.integers(1, 4))
        tasks.append(rng.dirichlet(np.full(n_classes, 0.7), size=(n_samples, n_layers)))
    return tasks


def codes_for(proba, seed=0):
    """True columns for staged probabilities, right more often than not."""
    n_samples, _, n_classes = proba.shape
    rng = np.random.default_rng(seed)
    right = rng.random(n_samples) < 0.7
    return np.where(right, proba[:, -1].argmax(axis=1), rng.integers(n_classes, size=n_samples))


class PredictsWithExits(ClassifierMixin):
    """Predictions of a classifier that has `predict_with_exits`."""

    def predict(self, X):
        return self.predict_with_exits(X).labels

    def predict_proba(self, X):
        return self.predict_with_exits(X).proba

    def predict_exit_layer(self, X):
        return self.predict_with_exits(X).exit_layer


class NumericExits(PredictsWithExits, BaseEstimator):
    """Nearest centroids; the first layers are unsure and lean towards the first class."""

    n_fits = 0
    n_passes = 0
    accepts_one_class = False

    def __init__(
        self,
        tau=0.3,
        patience=None,
        exit_ensemble=None,
        exit_loss_weights="ascending",
        n_layers=N_LAYERS,
    ):
        self.tau = tau
        self.patience = patience
        self.exit_ensemble = exit_ensemble
        self.exit_loss_weights = exit_loss_weights
        self.n_layers = n_layers

    def fit(self, X, y, sample_weight=None):
        type(self).n_fits += 1
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, X)
        X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2 and not self.accepts_one_class:
            raise ValueError(
                "Classifier can't train when only one class is present (see sample_weight)."
            )
        mean = np.average(X, axis=0, weights=weight)
        self.scale_ = max(np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight).mean()), 1e-9)
        one_hot = (codes[:, np.newaxis] == np.arange(len(self.classes_))) * weight[:, np.newaxis]
        totals = np.maximum(one_hot.sum(axis=0), 1e-12)
        self.centroids_ = (one_hot.T @ X) / totals[:, np.newaxis]
        self.n_layers_ = self.n_layers
        return self

    def staged_predict_proba(self, X):
        type(self).n_passes += 1
        yield from self._staged(X).transpose(1, 0, 2)

    def _staged(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        differences = (X[:, np.newaxis, :] - self.centroids_) / self.scale_
        distance = np.einsum("nkf,nkf->nk", differences, differences)
        share = np.arange(1, self.n_layers_ + 1) / self.n_layers_
        logits = -share[:, np.newaxis] * distance[:, np.newaxis, :]
        logits[..., 0] += 2 * (1 - share)
        proba = np.exp(logits - logits.max(axis=2, keepdims=True))
        return proba / proba.sum(axis=2, keepdims=True)

    def predict_with_exits(self, X):
        result = apply_policy(
            self._staged(X), self.tau, self.patience, self.exit_ensemble, self.exit_loss_weights
        )
        return Bunch(
            labels=self.classes_[result.prediction],
            proba=result.proba,
            exit_layer=result.exit_layer,
            entropy=result.entropy,
        )


def blobs(n_samples=300, n_classes=3, seed=0):
    """Overlapping clouds of points with their classes as words."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_classes, size=n_samples)
    X = rng.normal(size=(n_samples, 2)) + 1.5 * np.column_stack([codes, codes % 2])
    return X, np.array(["ant", "bee", "cow", "dog"])[codes]


class _OneOfSeveral(NumericExits):
    """A task may be constant in a fold, as in scikit-learn's forests."""

    accepts_one_class = True


class NumericTasks(PredictsWithExits, BaseEstimator):
    """One `NumericExits` a task; samples leave with all tasks at once."""

    n_fits = 0
    n_passes = 0

    def __init__(
        self,
        tau=0.3,
        patience=None,
        exit_ensemble=None,
        exit_loss_weights="ascending",
        joint_exit="all",
    ):
        self.tau = tau
        self.patience = patience
        self.exit_ensemble = exit_ensemble
        self.exit_loss_weights = exit_loss_weights
        self.joint_exit = joint_exit

    def fit(self, X, y, sample_weight=None):
        type(self).n_fits += 1
        self.each_ = [_OneOfSeveral().fit(X, column, sample_weight) for column in task_columns(y)]
        self.classes_ = [one.classes_ for one in self.each_]
        self.n_layers_ = N_LAYERS
        return self

    def staged_predict_proba(self, X):
        type(self).n_passes += 1
        return map(list, zip(*(one.staged_predict_proba(X) for one in self.each_), strict=True))

    def predict_with_exits(self, X):
        tasks = stack_tasks([*self.staged_predict_proba(X)])
        found = apply_policy(
            tasks,
            self.tau,
            self.patience,
            self.exit_ensemble,
            self.exit_loss_weights,
            joint_exit=self.joint_exit,
        )
        labels = Tasks(self.classes_).decode(found.prediction)
        return Bunch(
            labels=labels, proba=found.proba, exit_layer=found.exit_layer, entropy=found.entropy
        )

    def score(self, X, y, sample_weight=None):
        return exact_match_score(y, self.predict(X), sample_weight)


def task_blobs(n_samples=300, seed=0, *, mixed=False):
    """The clouds of `blobs` with a second task: the side they lie on, as a word or a number."""
    X, y = blobs(n_samples, seed=seed)
    rng = np.random.default_rng(seed + 1)
    right = X[:, 0] + rng.normal(0, 0.5, n_samples) > 1.5
    if mixed:
        return X, np.array([[a, int(b)] for a, b in zip(y, right, strict=True)], dtype=object)
    return X, np.column_stack([y, np.where(right, "right", "left")])


class MappedExits(NumericExits):
    """A cheap classifier whose exits can be calibrated."""

    def _staged(self, X):
        proba = super()._staged(X)
        if not hasattr(self, "maps_"):
            return proba
        matrix, shift = self.maps_
        return softmax(np.einsum("mkj,nmj->nmk", matrix, np.log(proba)) + shift, axis=2)

    def map_exit_logits(self, matrix, shift):
        twin = copy.deepcopy(self)
        twin.maps_ = (matrix, shift)
        return twin


@st.composite
def staged_labels(draw, max_samples=6, max_layers=5, max_labels=4):
    """Staged probabilities of several labels in which ties and certainty are common."""
    shape = tuple(draw(st.integers(1, most)) for most in (max_samples, max_layers, max_labels))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = draw(st.booleans())
    proba = rng.integers(0, 5, shape) / 4 if coarse else rng.beta(0.5, 0.5, shape)
    return proba.astype(draw(st.sampled_from([np.float32, np.float64])))


# A seed of thresholds of the labels, or none.
label_thresholds = st.none() | st.integers(0, 1000)


class NumericLabels(PredictsWithExits, BaseEstimator):
    """One `NumericExits` a label; it knows an indicator and lists of labels."""

    n_fits = 0
    n_passes = 0

    def __init__(  # noqa: PLR0917 - as those above
        self,
        tau=0.3,
        patience=None,
        exit_ensemble=None,
        exit_loss_weights="ascending",
        joint_exit="all",
        label_thresholds=None,
        target_type="auto",
    ):
        self.tau = tau
        self.patience = patience
        self.exit_ensemble = exit_ensemble
        self.exit_loss_weights = exit_loss_weights
        self.joint_exit = joint_exit
        self.label_thresholds = label_thresholds
        self.target_type = target_type

    def fit(self, X, y, sample_weight=None):
        type(self).n_fits += 1
        targets = check_label_targets(y, len(X))
        self.classes_, self.multilabel_, self.n_layers_ = targets.classes, True, N_LAYERS
        weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight)
        self.each_ = [
            _OneOfSeveral().fit(X, column, weights * (column >= 0)) for column in targets.codes.T
        ]
        return self

    def staged_predict_proba(self, X):
        type(self).n_passes += 1
        each = [
            one._staged(X) @ (one.classes_ == 1) for one in self.each_
        ]  # of 1, also where it is the only class
        yield from np.stack(each, axis=-1).transpose(1, 0, 2)

    def predict_with_exits(self, X):
        found = apply_policy(
            np.stack(list(self.staged_predict_proba(X)), axis=1),
            self.tau,
            self.patience,
            self.exit_ensemble,
            self.exit_loss_weights,
            joint_exit=self.joint_exit,
            multilabel=True,
            label_thresholds=self.label_thresholds,
        )
        return Bunch(
            labels=found.prediction,
            proba=found.proba,
            exit_layer=found.exit_layer,
            entropy=found.entropy,
        )


def label_clouds(n_samples=300, seed=0, *, as_lists=False):
    """Points with the labels "far", "high" and "right", the first of which is rare."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 2))
    noisy = X + rng.normal(0, 0.4, X.shape)
    y = np.column_stack([np.hypot(*noisy.T) > 2.2, noisy[:, 1] > 0.5, noisy[:, 0] > 0]).astype(
        np.int64
    )
    names = ("far", "high", "right")
    if as_lists:
        return X, [[n for n, there in zip(names, row, strict=True) if there] for row in y]
    return X, y
