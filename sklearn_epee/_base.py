"""What both estimators share: fit, dynamic, budgeted and staged prediction."""

from __future__ import annotations

import copy
import os
import secrets
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _clone_parametrized
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, Tags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from ._checks import check_callbacks, check_labels, check_layer, check_weights
from ._defaults import TrainingDefaults
from .nn.batching import EncodedSamples, LabelledSamples
from .nn.devices import prediction_dtype, resolve_device, training_dtype
from .nn.engine import Engine
from .nn.leaving import ExitPolicy, Exits
from .nn.network import MultiExitNetwork
from .nn.store import source_identity, store_for, temporary_folder, training_key
from .nn.training import ExitNet, TrainingPlan, reproducible, train_network
from .policy import check_exit_ensemble, check_exit_loss_weights, check_patience, check_tau

MAX_GRAD_NORM = 1.0
_LARGEST_SEED = 2**31 - 1
_AUTO = StrOptions({"auto"})


@dataclass(frozen=True)
class _Lineage:
    """What clones of one search share.

    Parameters
    ----------
    folder : Path
        The temporary store of the process that made the first clone.
    seed : int or None
        The draw that stands in for ``random_state=None``; None once it has been used by a fit.
    """

    folder: Path
    seed: int | None


@dataclass(frozen=True)
class _TrainingData:
    """Validated training samples with class indices and weights, 1 on average."""

    samples: Any
    classes: NDArray[Any]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]

    def labelled(
        self, encode: Callable[[Any], EncodedSamples], rows: NDArray[np.intp]
    ) -> LabelledSamples:
        """Encode some of the samples for the training loop."""
        samples = encode(_take(self.samples, rows))
        return LabelledSamples(samples, self.labels[rows], self.weights[rows])


@dataclass(frozen=True)
class _Trained:
    """The outcome of a training: what the store keeps."""

    encoder: Any
    net: ExitNet
    exit_weights: NDArray[np.float64]


class _Engines:
    """Engines of a fitted network by device and precision, made when first asked for."""

    def __init__(self, network: MultiExitNetwork) -> None:
        self._network = network
        self._made: dict[tuple[torch.device, torch.dtype], Engine] = {}

    def get(self, device: torch.device, dtype: torch.dtype) -> Engine:
        """Give the engine for a device and precision."""
        key = (device, dtype)
        if key not in self._made:
            self._made[key] = Engine(self._network.to_inference_copy(device, torch.float32), dtype)
        return self._made[key]


class BaseEPEEClassifier(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Shared by `EPEEClassifier` and `EPEEImageClassifier`; not to be used by itself."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "tau": [Interval(Real, 0, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "exit_ensemble": [StrOptions({"mean", "weighted"}), None],
        "pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "last"})],
        "exit_loss_weights": [StrOptions({"ascending", "uniform", "descending"}), "array-like"],
        "max_epochs": [_AUTO, Interval(Integral, 1, None, closed="left")],
        "batch_size": [_AUTO, Interval(Integral, 1, None, closed="left")],
        "learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
        "weight_decay": [_AUTO, Interval(Real, 0, None, closed="left")],
        "warmup_ratio": [Interval(Real, 0, 1, closed="left")],
        "dropout": [_AUTO, Interval(Real, 0, 1, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [list, tuple, None],
        "warm_start": ["boolean"],
        "predict_batch_size": [_AUTO, Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "memory": [str, os.PathLike, joblib.Memory, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Parameters that act after training, or do not change what is learned. All others are part of
    # the key under which a trained network is kept.
    _not_shaping: ClassVar[frozenset[str]] = frozenset({
        "tau", "patience", "exit_ensemble", "predict_batch_size", "memory", "verbose",
        "device", "precision", "random_state", "warm_start",
    })  # fmt: skip

    # Parameters that name checkpoints, tokenizers or processors.
    _sources: ClassVar[tuple[str, ...]]

    # ------------------------------------------------------------------ left to the estimators

    @abstractmethod
    def _check_samples(self, X: Any, *, fitting: bool) -> Any:
        """Validate X into a sequence of samples that can be indexed with a list of rows."""

    @abstractmethod
    def _build(self, samples: Any, n_classes: int) -> tuple[Any, MultiExitNetwork]:
        """Make the encoder and the untrained network for training samples."""

    @abstractmethod
    def _training_defaults(self) -> TrainingDefaults:
        """Give what "auto" stands for with this backbone."""

    # ------------------------------------------------------------------------------- training

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fine-tune the backbone and its exits with the joint loss.

        Parameters
        ----------
        X : samples
            As described in the class documentation.
        y : array-like of shape (n_samples,)
            Labels of any type scikit-learn accepts.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the loss; samples of weight 0 are left out. A learned vocabulary and the
            channel statistics of images take no notice of weights above 0.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or the backbone is not as described; the estimator is left as it
            was.
        TypeError
            If X holds something that is not a sample.
        MemoryError
            If the device runs out of memory; the message says what to change.
        """
        self._validate_params()
        self._check_parameters()
        samples = self._check_samples(X, fitting=True)
        data = self._check_targets(samples, y, sample_weight)
        self._check_continuation(data.classes)
        seed, shareable = self._draw_seed()
        trained = self._train_or_fetch(data, seed, shareable)
        self._adopt(trained, data.classes)
        return self

    def _check_parameters(self) -> None:
        check_tau(self.tau)
        check_patience(self.patience)
        resolve_device(self.device)
        check_callbacks(self.callbacks)
        if self.early_stopping and not self.validation_fraction:
            raise ValueError(
                "early_stopping=True needs samples to watch: set validation_fraction above 0 "
                "(0.1 holds out a tenth of the training data)."
            )

    def _check_targets(
        self, samples: Any, y: ArrayLike, sample_weight: ArrayLike | None
    ) -> _TrainingData:
        y = check_labels(y, len(samples), type(self).__name__)
        weights = check_weights(sample_weight, len(y))
        used = np.flatnonzero(weights)
        if len(used) < len(y):
            samples, y, weights = _take(samples, used), y[used], weights[used]
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes; y holds only one "
                f"class: {classes[0]!r}."
            )
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y)
            if not (np.isfinite(weights).all() and (weights >= 0).all()):
                raise ValueError(
                    f"class_weight={self.class_weight!r} must hold finite weights >= 0."
                )
            if not weights.any():
                raise ValueError("class_weight leaves no sample with a weight above 0.")
        weights = weights / weights.mean()
        return _TrainingData(samples, classes, labels.astype(np.int64), weights.astype(np.float32))

    def _draw_seed(self) -> tuple[int, bool]:
        """Give the seed of this fit and whether another fit can ask for the same."""
        if self.random_state is not None:
            rng = check_random_state(self.random_state)
            return int(rng.randint(_LARGEST_SEED)), True
        lineage = getattr(self, "_lineage", None)
        if lineage is not None and lineage.seed is not None:
            self._lineage = replace(lineage, seed=None)
            return lineage.seed, True
        return secrets.randbelow(_LARGEST_SEED), False

    def _train_or_fetch(self, data: _TrainingData, seed: int, shareable: bool) -> _Trained:
        def train() -> _Trained:
            return self._train(data, seed)

        lineage = getattr(self, "_lineage", None)
        store = store_for(self.memory, lineage.folder if lineage else None)
        if self._continues() or not shareable or store is None:
            return train()
        key = self._training_key(data, seed)
        if key is None:
            return train()
        return store.fetch_or_train(key, train, _is_complete)

    def _training_key(self, data: _TrainingData, seed: int) -> str | None:
        device = resolve_device(self.device)
        shaping = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in self._not_shaping and name not in self._sources
        }
        return training_key({
            "class": type(self),
            "parameters": shaping,
            "defaults": self._training_defaults(),
            "sources": {name: source_identity(getattr(self, name)) for name in self._sources},
            "device": str(device),
            "dtype": str(training_dtype(self.precision, device)),
            # The order of summation, and with it the last bits, depends on it.
            "threads": torch.get_num_threads(),
            "data": (data.samples, data.classes, data.labels, data.weights),
            "seed": seed,
        })  # fmt: skip

    def _continues(self) -> bool:
        return bool(self.warm_start) and hasattr(self, "net_")

    def _check_continuation(self, classes: NDArray[Any]) -> None:
        if self._continues() and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start=True continues a network for the classes {self.classes_.tolist()}, "
                f"but y holds {classes.tolist()}. Fit with the same classes or with "
                "warm_start=False."
            )

    def _train(self, data: _TrainingData, seed: int) -> _Trained:
        train, valid = self._hold_out(data.labels, seed)
        device = resolve_device(self.device)
        samples = _take(data.samples, train)
        encoder, network = self._start(samples, len(data.classes), seed, device)
        to_learn = data.labelled(encoder.encode_for_training, train)
        to_watch = data.labelled(encoder.encode, valid) if len(valid) else None
        plan = self._plan(len(train), network, device, seed)
        net = train_network(network, to_learn, to_watch, plan)
        _warn_if_not_finite(net)
        return _Trained(encoder, net, plan.exit_weights)

    def _start(
        self, samples: Any, n_classes: int, seed: int, device: torch.device
    ) -> tuple[Any, MultiExitNetwork]:
        """Give the encoder and the network to train: fresh ones, or the fitted ones again."""
        if not self._continues():
            with reproducible(seed, device):
                return self._build(samples, n_classes)
        # A copy, so that a training that fails leaves the fitted network as it was.
        return self._encoder, copy.deepcopy(self.net_.module_)

    def _hold_out(
        self, labels: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        rows = np.arange(len(labels))
        if not self.validation_fraction:
            return rows, rows[:0]
        try:
            train, valid = train_test_split(
                rows, test_size=self.validation_fraction, stratify=labels, random_state=seed
            )
        except ValueError as error:
            raise ValueError(self._cannot_hold_out(len(rows), str(error))) from error
        if len(np.unique(labels[train])) < len(np.unique(labels)):
            reason = "A class would have no sample left to learn from."
            raise ValueError(self._cannot_hold_out(len(rows), reason))
        return np.sort(train), np.sort(valid)

    def _cannot_hold_out(self, n_samples: int, reason: str) -> str:
        return (
            f"validation_fraction={self.validation_fraction} cannot hold out a part of "
            f"{n_samples} samples in which every class is present: {reason} Give more samples "
            "of the small classes, or set validation_fraction=0 and early_stopping=False."
        )

    def _plan(
        self, n_samples: int, network: MultiExitNetwork, device: torch.device, seed: int
    ) -> TrainingPlan:
        defaults = self._training_defaults()
        batch_size = min(_given(self.batch_size, defaults.batch_size), n_samples)
        learning_rate = _given(self.learning_rate, defaults.learning_rate)
        # Heads follow a backbone rate that was set by hand, in the measured proportion.
        head_ratio = defaults.head_learning_rate / defaults.learning_rate
        return TrainingPlan(
            max_epochs=_given(
                self.max_epochs, defaults.epochs(n_samples, network.n_classes, batch_size)
            ),
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_learning_rate=_given(self.head_learning_rate, learning_rate * head_ratio),
            weight_decay=_given(self.weight_decay, defaults.weight_decay),
            warmup_ratio=self.warmup_ratio,
            max_grad_norm=MAX_GRAD_NORM,
            exit_weights=check_exit_loss_weights(self.exit_loss_weights, network.n_layers),
            device=device,
            dtype=training_dtype(self.precision, device),
            seed=seed,
            early_stopping=self.early_stopping,
            n_iter_no_change=self.n_iter_no_change,
            callbacks=list(self.callbacks or []),
            verbose=int(self.verbose),
        )

    def _head_dropout(self) -> float:
        return float(_given(self.dropout, self._training_defaults().dropout))

    def _adopt(self, trained: _Trained, classes: NDArray[Any]) -> None:
        """Take a finished training over: everything that is learned is set here."""
        self.classes_ = classes
        self.net_ = trained.net
        self.n_layers_ = trained.net.module_.n_layers
        self.history_ = trained.net.history_
        self.n_iter_ = len(trained.net.history_)
        self._encoder = trained.encoder
        self._exit_weights = trained.exit_weights
        self._engines = _Engines(trained.net.module_)

    # ----------------------------------------------------------------------------- prediction

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, each sample leaving at the first layer that is sure enough.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,)
            ``classes_[predict_proba(X).argmax(1)]``.
        """
        return self.predict_with_exits(X).labels

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Predict class probabilities, each sample leaving at the first layer that is sure enough.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``.
        """
        return self._exits(X).proba

    def predict_exit_layer(self, X: Any) -> NDArray[np.int64]:
        """Give the layer at which each sample leaves.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,), int64
            Layers, counted from 1 to ``n_layers_``.
        """
        return self._exits(X).exit_layer

    def predict_with_exits(self, X: Any) -> Bunch:
        """Give labels, probabilities, exit layers and entropies in one pass.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            ``labels`` (n,), ``proba`` (n, n_classes) float32, ``exit_layer`` (n,) int64 and
            ``entropy`` (n,) float32, the normalised entropy of the exit's own head.
        """
        exits = self._exits(X)
        return Bunch(
            labels=self.classes_[exits.proba.argmax(axis=1)],
            proba=exits.proba,
            exit_layer=exits.exit_layer,
            entropy=exits.entropy,
        )

    def predict_at_layer(self, X: Any, layer: int) -> NDArray[Any]:
        """Predict labels with the head of one layer; the layers above it do not run.

        Parameters
        ----------
        X : samples
        layer : int
            1 to ``n_layers_``, or -1 (the last) to ``-n_layers_``.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self.classes_[self.predict_proba_at_layer(X, layer).argmax(axis=1)]

    def predict_proba_at_layer(self, X: Any, layer: int) -> NDArray[np.float32]:
        """Predict class probabilities with the head of one layer; those above it do not run.

        Parameters
        ----------
        X : samples
        layer : int
            1 to ``n_layers_``, or -1 (the last) to ``-n_layers_``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        check_is_fitted(self)
        layer = check_layer(layer, self.n_layers_)
        engine, batch_size = self._engine(), self._prediction_batch()
        return np.concatenate(
            [engine.budgeted(window, layer, batch_size) for window in self._windows(X)]
        )

    def staged_predict(self, X: Any) -> Iterator[NDArray[Any]]:
        """Predict labels at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples,)
            Labels of layer 1, then 2, up to ``n_layers_``.
        """
        for proba in self.staged_predict_proba(X):
            yield self.classes_[proba.argmax(axis=1)]

    def staged_predict_proba(self, X: Any) -> Iterator[NDArray[np.float32]]:
        """Predict class probabilities at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples, n_classes), float32
            Probabilities of layer 1, then 2, up to ``n_layers_``.
        """
        check_is_fitted(self)
        engine, batch_size = self._engine(), self._prediction_batch()
        staged = np.concatenate([engine.staged(window, batch_size) for window in self._windows(X)])
        yield from staged.transpose(1, 0, 2)

    def _exits(self, X: Any) -> Exits:
        check_is_fitted(self)
        policy, engine, batch_size = self._policy(), self._engine(), self._prediction_batch()
        return Exits.join(
            [engine.dynamic(window, policy, batch_size) for window in self._windows(X)]
        )

    def _with_mapped_exits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Self:
        """Give a copy in which every exit's logits z are ``matrix @ z + shift``.

        Heads end in a linear map, so the copy has other weights and runs as any other network.

        Parameters
        ----------
        matrix : ndarray of shape (n_layers, n_classes, n_classes)
        shift : ndarray of shape (n_layers, n_classes)
        """
        check_is_fitted(self)
        twin = copy.deepcopy(self)
        twin.net_.module_.map_logits(matrix, shift)
        return twin

    def _policy(self) -> ExitPolicy:
        return ExitPolicy(
            tau=check_tau(self.tau),
            patience=check_patience(self.patience, self.n_layers_),
            exit_ensemble=check_exit_ensemble(self.exit_ensemble),
            exit_weights=self._exit_weights,
        )

    def _encode(self, X: Any) -> EncodedSamples:
        return self._encoder.encode(self._check_samples(X, fitting=False))

    def _windows(self, X: Any) -> Iterator[EncodedSamples]:
        """Encode samples some thousands at a time."""
        return self._encoder.encode_in_windows(self._check_samples(X, fitting=False))

    def _engine(self) -> Engine:
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"precision={self.precision!r} is unknown; expected 'auto', 'float32', 'bfloat16'."
            )
        device = resolve_device(self.device)
        return self._engines.get(device, prediction_dtype(self.precision, device))

    def _prediction_batch(self) -> int | str:
        size = self.predict_batch_size
        if size == "auto" or (isinstance(size, Integral) and int(size) >= 1):
            return size if size == "auto" else int(size)
        raise ValueError(
            f"predict_batch_size={size!r} is not valid; expected 'auto' or an integer >= 1."
        )

    # --------------------------------------------------------------------------- scikit-learn

    def __sklearn_clone__(self) -> Self:
        clone = _clone_parametrized(self)
        lineage = getattr(self, "_lineage", None)
        if lineage is None or lineage.seed is None:
            lineage = _Lineage(temporary_folder(), secrets.randbelow(_LARGEST_SEED))
        clone._lineage = lineage
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__().copy()
        if "net_" in state:
            # Engines are made again where the estimator is loaded, and a fitted estimator is
            # written to last, which a process's temporary folder does not.
            state.pop("_engines")
            state.pop("_lineage", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "net_" in state:
            self._engines = _Engines(self.net_.module_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.sparse = False
        return tags


def _take(samples: Any, rows: NDArray[np.intp]) -> Any:
    if isinstance(samples, np.ndarray):
        return samples[rows]
    return [samples[row] for row in rows]


def _given(value: Any, default: Any) -> Any:
    """Give a parameter, or the measured default where it is "auto"."""
    return default if isinstance(value, str) and value == "auto" else value


def _is_complete(trained: _Trained) -> bool:
    return trained.net.stopped_by_ in (None, "early stopping")


def _warn_if_not_finite(net: ExitNet) -> None:
    if net.stopped_by_ == "not finite":
        warnings.warn(
            f"The loss or its gradient became NaN or infinite at training step {net.n_steps_ + 1}; "
            "training stopped there and keeps the last weights that gave a finite loss. Lower "
            "learning_rate or raise warmup_ratio.",
            ConvergenceWarning,
            stacklevel=5,
        )
