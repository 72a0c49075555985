"""What both estimators share: fit, dynamic, budgeted and staged prediction."""

from __future__ import annotations

import copy
import os
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Bunch, Tags
from sklearn.utils.validation import check_is_fitted

from ._checks.labels import check_scored
from ._checks.parameters import check_layer, check_precision, check_prediction_batch
from ._compat import Interval, StrOptions
from ._defaults import TrainingDefaults
from ._exits.checks import (
    check_exit_ensemble,
    check_exit_loss_weights,
    check_joint_exit,
    check_patience,
    check_tau,
)
from ._nn.devices import prediction_dtype, resolve_device, training_dtype
from ._nn.exit_rules import ExitPolicy, Exits
from ._nn.network import MultiExitNetwork
from ._nn.recipes import EXIT_TRAININGS, check_teacher
from ._nn.tasks import Classes
from ._nn.training import (
    ExitNet,
    TrainingPlan,
    check_callbacks,
    explain_out_of_memory,
    reproducible,
    train_network,
)
from ._search import LazyNetwork, NetworkReuse, SearchContext, exits_from, source_identity
from ._tasks import Tasks, exact_match_score
from ._trained import (
    VERSION_KEY,
    FittedState,
    Summary,
    Trained,
    as_lazy_network,
    check_end,
    warn_if_another_version,
)
from ._training_data import TrainingData, hold_out, prepare_training_data, take
from ._version import __version__

Labels = NDArray[Any] | list[NDArray[Any]]
Probabilities = NDArray[np.float32] | list[NDArray[np.float32]]

MAX_GRAD_NORM = 1.0
_AUTO = StrOptions({"auto"})


class BaseEPEEClassifier(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Shared by `EPEEClassifier` and `EPEEImageClassifier`; not to be used by itself."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        # The exit policy can be changed after `fit`: it has checks of its own.
        "tau": "no_validation",
        "patience": "no_validation",
        "exit_ensemble": "no_validation",
        "joint_exit": "no_validation",
        "pooling": [StrOptions({"auto", "cls", "mean", "cls+mean", "last", "attention"})],
        "exit_loss_weights": [StrOptions({"ascending", "uniform", "descending"}), "array-like"],
        "exit_training": [StrOptions(set(EXIT_TRAININGS))],
        "max_epochs": [_AUTO, Interval(Integral, 1, None, closed="left")],
        "batch_size": [_AUTO, Interval(Integral, 1, None, closed="left")],
        "learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
        "head_learning_rate": [_AUTO, Interval(Real, 0, None, closed="neither")],
        "weight_decay": [_AUTO, Interval(Real, 0, None, closed="left")],
        "warmup_ratio": [Interval(Real, 0, 1, closed="left")],
        "dropout": [_AUTO, Interval(Real, 0, 1, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "early_stopping": ["boolean"],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [list, tuple, None],
        "gradient_checkpointing": ["boolean"],
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
        "tau", "patience", "exit_ensemble", "joint_exit", "predict_batch_size", "memory", "verbose",
        "device", "precision", "random_state", "warm_start",
    })  # fmt: skip

    # Parameters that name checkpoints, tokenizers or processors.
    _sources: ClassVar[tuple[str, ...]]

    # A constructed estimator is part of no search; clones have a context of their own.
    _search_context: SearchContext = SearchContext()

    # ------------------------------------------------------------------ left to the estimators

    @abstractmethod
    def _check_samples(self, X: Any, fitted: Summary | None) -> Any:
        """Validate X into a sequence of samples that can be indexed with a list of rows.

        Parameters
        ----------
        X : samples
        fitted : Summary or None
            What is known of the network that shall read them; None if one is to be made for them.
        """

    @abstractmethod
    def _build(self, samples: Any, n_classes: Classes) -> tuple[Any, MultiExitNetwork]:
        """Return the preprocessor and the untrained network for training samples."""

    @abstractmethod
    def _training_defaults(self) -> TrainingDefaults:
        """Return what "auto" stands for with this backbone."""

    # ------------------------------------------------------------------------------- training

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fine-tune the backbone and its exits.

        Parameters
        ----------
        X : samples
            As described in the class documentation.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            Labels of any type scikit-learn accepts; with two or more columns, one task each.
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
        self._check_parameters()
        continued = self._continued()
        samples = self._check_samples(X, continued.summary if continued else None)
        data = prepare_training_data(samples, y, sample_weight, self.class_weight, type(self))
        if continued is not None:
            _check_same_classes(continued.tasks, data.classes)
        reuse = NetworkReuse(self._search_context, self.memory, self.random_state)
        network, shared = reuse.fit_or_fetch(
            train=lambda: self._train(data, reuse.seed, continued),
            shaping=None if continued else lambda: self._shaping(data),
            is_complete=lambda network: network.summary.is_complete,
        )
        self._adopt(FittedState(network, data.classes, shared))
        return self

    def _check_parameters(self) -> None:
        self._validate_params()
        check_tau(self.tau)
        check_patience(self.patience)
        check_exit_ensemble(self.exit_ensemble)
        check_joint_exit(self.joint_exit)
        resolve_device(self.device)
        check_callbacks(self.callbacks)
        if self.early_stopping and not self.validation_fraction:
            raise ValueError(
                "early_stopping=True needs samples to watch: set validation_fraction above 0 "
                "(0.1 holds out a tenth of the training data)."
            )

    def _continued(self) -> FittedState | None:
        """Return the fit that the next one continues, if any."""
        return vars(self).get("_state") if self.warm_start else None

    def _shaping(self, data: TrainingData) -> dict[str, Any]:
        """Return everything beside the seed that shapes what is learned."""
        device = resolve_device(self.device)
        parameters = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in self._not_shaping and name not in self._sources
        }
        return {
            "class": type(self),
            "parameters": parameters,
            "defaults": self._training_defaults(),
            "sources": {name: source_identity(getattr(self, name)) for name in self._sources},
            "device": str(device),
            "dtype": str(training_dtype(self.precision, device)),
            # The order of summation, and with it the last bits, depends on it.
            "threads": torch.get_num_threads(),
            "data": (data.samples, data.classes, data.labels, data.weights),
        }

    def _train(
        self, data: TrainingData, seed: int, continued: FittedState | None
    ) -> LazyNetwork[Trained]:
        device = resolve_device(self.device)
        with explain_out_of_memory(device, self.batch_size):
            train, valid = hold_out(data.labels, self.validation_fraction, seed)
            if continued is None:
                with reproducible(seed, device):
                    preprocessor, network = self._build(
                        take(data.samples, train), Tasks(data.classes).n_classes
                    )
            else:
                preprocessor = continued.trained.preprocessor
                # A copy, so that a training that fails leaves the fitted network as it was.
                network = copy.deepcopy(continued.trained.net.module_)
            to_learn = data.labelled(preprocessor.encode_for_training, train)
            to_watch = data.labelled(preprocessor.encode, valid) if len(valid) else None
            plan = self._plan(len(train), network, device, seed)
            net = train_network(network, to_learn, to_watch, plan)
            check_end(net, is_clone=self._search_context.is_clone)
        return as_lazy_network(preprocessor, net, plan.exit_weights)

    def _plan(
        self, n_samples: int, network: MultiExitNetwork, device: torch.device, seed: int
    ) -> TrainingPlan:
        defaults = self._training_defaults()
        batch_size = min(_given(self.batch_size, defaults.batch_size), n_samples)
        learning_rate = _given(self.learning_rate, defaults.learning_rate)
        # Heads follow a backbone rate that was set by hand, in the measured proportion.
        head_ratio = defaults.head_learning_rate / defaults.learning_rate
        exit_weights = check_exit_loss_weights(self.exit_loss_weights, network.n_layers)
        check_teacher(self.exit_training, exit_weights)
        return TrainingPlan(
            max_epochs=_given(
                self.max_epochs, defaults.epochs(n_samples, max(network.class_counts), batch_size)
            ),
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_learning_rate=_given(self.head_learning_rate, learning_rate * head_ratio),
            weight_decay=_given(self.weight_decay, defaults.weight_decay),
            warmup_ratio=self.warmup_ratio,
            max_grad_norm=MAX_GRAD_NORM,
            exit_weights=exit_weights,
            device=device,
            dtype=training_dtype(self.precision, device),
            seed=seed,
            early_stopping=self.early_stopping,
            n_iter_no_change=self.n_iter_no_change,
            gradient_checkpointing=bool(self.gradient_checkpointing),
            exit_training=self.exit_training,
            callbacks=list(self.callbacks or []),
            verbose=int(self.verbose),
        )

    def _head_dropout(self) -> float:
        return float(_given(self.dropout, self._training_defaults().dropout))

    def _adopt(self, state: FittedState) -> None:
        """Take a finished training over: everything that is learned is set here."""
        self._state = state
        self._search_context = self._search_context.after_fit()
        self.classes_ = state.tasks.classes
        self.n_layers_ = state.summary.n_layers
        self.history_ = state.summary.history
        self.n_iter_ = len(state.summary.history)

    def _fitted(self) -> FittedState:
        """Return the state that a prediction reads, once."""
        check_is_fitted(self)
        return self._state

    @property
    def net_(self) -> ExitNet:
        """The trained net, a ``skorch.NeuralNetClassifier``."""
        return self._trained("net_").net

    @property
    def n_outputs_(self) -> int:
        """Number of tasks."""
        return len(self._fitted().tasks.each)

    @property
    def _preprocessor(self) -> Any:
        return self._trained("_preprocessor").preprocessor

    def _trained(self, name: str) -> Trained:
        state = vars(self).get("_state")
        if state is None:
            raise AttributeError(f"{type(self).__name__!r} has no {name!r} before it is fitted.")
        trained: Trained = state.trained
        return trained

    # ----------------------------------------------------------------------------- prediction

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict labels, each sample leaving at the first layer that is sure enough.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            ``classes_[predict_proba(X).argmax(1)]``, of each task.
        """
        return self.predict_with_exits(X).labels

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Give the share of the samples that are answered correctly, in every task.

        Parameters
        ----------
        X : samples
        y : array-like of shape (n_samples,) or (n_samples, n_tasks)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float
        """
        predicted = self.predict(X)
        check_scored(y, sample_weight, len(predicted))
        if predicted.ndim == 1:
            return float(accuracy_score(y, predicted, sample_weight=sample_weight))
        return exact_match_score(y, predicted, sample_weight)

    def predict_proba(self, X: Any) -> Probabilities:
        """Predict class probabilities, each sample leaving at the first layer that is sure enough.

        Parameters
        ----------
        X : samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Columns in the order of ``classes_``; a list with one array a task if there are several.
        """
        state = self._fitted()
        return state.tasks.proba(self._exits(state, X).proba)

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
        return self._exits(self._fitted(), X).exit_layer

    def predict_with_exits(self, X: Any) -> Bunch:
        """Give labels, probabilities, exit layers and entropies in one pass.

        Parameters
        ----------
        X : samples

        Returns
        -------
        Bunch
            ``labels`` (n,), ``proba`` (n, n_classes) float32, ``exit_layer`` (n,) int64 and
            ``entropy`` (n,) float32, the normalized entropy of the exit's own head. With several
            tasks ``labels`` and ``entropy`` are (n, n_tasks), and ``proba`` is a list.
        """
        state = self._fitted()
        exits = self._exits(state, X)
        return Bunch(
            labels=state.tasks.labels(exits.proba),
            proba=state.tasks.proba(exits.proba),
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
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
        """
        state = self._fitted()
        return state.tasks.labels(self._at_layer(state, X, layer))

    def predict_proba_at_layer(self, X: Any, layer: int) -> Probabilities:
        """Predict class probabilities with the head of one layer; those above it do not run.

        Parameters
        ----------
        X : samples
        layer : int
            1 to ``n_layers_``, or -1 (the last) to ``-n_layers_``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        state = self._fitted()
        return state.tasks.proba(self._at_layer(state, X, layer))

    def _at_layer(self, state: FittedState, X: Any, layer: int) -> NDArray[np.float32]:
        layer = check_layer(layer, state.summary.n_layers)
        samples = self._check_samples(X, state.summary)
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        windows = state.trained.preprocessor.encode_in_windows(samples)
        return np.concatenate([engine.budgeted(window, layer, batch_size) for window in windows])

    def staged_predict(self, X: Any) -> Iterator[NDArray[Any]]:
        """Predict labels at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples,) or (n_samples, n_tasks)
            Labels of layer 1, then 2, up to ``n_layers_``.
        """
        state = self._fitted()
        for proba in self._layer_by_layer(state, X):
            yield state.tasks.labels(proba)

    def staged_predict_proba(self, X: Any) -> Iterator[Probabilities]:
        """Predict class probabilities at every layer, from one forward pass.

        Parameters
        ----------
        X : samples

        Yields
        ------
        ndarray of shape (n_samples, n_classes), float32, or list of such arrays
            Probabilities of layer 1, then 2, up to ``n_layers_``.
        """
        state = self._fitted()
        for proba in self._layer_by_layer(state, X):
            yield state.tasks.proba(proba)

    def _layer_by_layer(self, state: FittedState, X: Any) -> NDArray[np.float32]:
        samples = self._check_samples(X, state.summary)
        return self._staged(state, samples).transpose(1, 0, 2)

    def _staged(self, state: FittedState, samples: Any) -> NDArray[np.float32]:
        engine, batch_size = state.engine(*self._setting()), self._prediction_batch()
        windows = state.trained.preprocessor.encode_in_windows(samples)
        return np.concatenate([engine.staged(window, batch_size) for window in windows])

    def _exits(self, state: FittedState, X: Any) -> Exits:
        policy, batch_size = self._policy(state.summary), self._prediction_batch()
        samples = self._check_samples(X, state.summary)
        proba = self._shared_probabilities(state, samples)
        if proba is not None:
            return exits_from(proba, policy, state.tasks.counts)
        engine = state.engine(*self._setting())
        windows = state.trained.preprocessor.encode_in_windows(samples)
        return Exits.join([engine.dynamic(window, policy, batch_size) for window in windows])

    def _shared_probabilities(self, state: FittedState, samples: Any) -> NDArray[np.float32] | None:
        """Return the probabilities of every exit if another candidate of a search asked first."""
        if state.shared is None:
            return None
        device, dtype = self._setting()
        return state.shared.probabilities(
            samples,
            setting=(str(device), str(dtype)),
            shape=(len(samples), state.summary.n_layers, state.tasks.n_columns),
            run=lambda: self._staged(state, samples),
        )

    def map_exit_logits(self, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Self:
        """Return a copy in which the logits z of every exit are ``matrix @ z + shift``.

        Heads end in a linear map, so the copy has other weights and runs as any other network.

        Parameters
        ----------
        matrix : ndarray of shape (n_layers, n_classes, n_classes)
        shift : ndarray of shape (n_layers, n_classes)

        Returns
        -------
        estimator
            Of the same class, fitted; the classifier itself stays as it is.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1).fit(X, y)
        >>> shape = clf.n_layers_, len(clf.classes_)
        >>> flat = clf.map_exit_logits(np.zeros((*shape, shape[1])), np.zeros(shape))
        >>> bool(np.allclose(flat.predict_proba(X), 1 / shape[1]))
        True
        """
        check_is_fitted(self)
        twin = copy.deepcopy(self)
        twin.net_.module_.map_logits(matrix, shift)
        return twin

    def _policy(self, fitted: Summary) -> ExitPolicy:
        return ExitPolicy(
            tau=check_tau(self.tau),
            patience=check_patience(self.patience, fitted.n_layers),
            exit_ensemble=check_exit_ensemble(self.exit_ensemble),
            exit_weights=fitted.exit_weights,
            joint_exit=check_joint_exit(self.joint_exit),
        )

    def _setting(self) -> tuple[torch.device, torch.dtype]:
        device = resolve_device(self.device)
        return device, prediction_dtype(check_precision(self.precision), device)

    def _prediction_batch(self) -> int | str:
        return check_prediction_batch(self.predict_batch_size)

    # --------------------------------------------------------------------------- scikit-learn

    def __sklearn_clone__(self) -> Self:
        clone: Self = super().__sklearn_clone__()
        clone._search_context = self._search_context.for_clone()
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__() | {VERSION_KEY: __version__}
        if "_state" in state:
            # A fitted estimator is written to last, which a process's temporary folder does not.
            state.pop("_search_context", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        warn_if_another_version(type(self), state)
        super().__setstate__({name: value for name, value in state.items() if name != VERSION_KEY})

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.sparse = False
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags


def _check_same_classes(fitted: Tasks, classes: Labels) -> None:
    if not fitted.same_as(classes):
        raise ValueError(
            f"warm_start=True continues a network for the classes {fitted}, but y holds "
            f"{Tasks(classes)}. Fit with the same classes or with warm_start=False."
        )


def _given(value: Any, default: Any) -> Any:
    """Give a parameter, or the measured default where it is "auto"."""
    return default if isinstance(value, str) and value == "auto" else value
