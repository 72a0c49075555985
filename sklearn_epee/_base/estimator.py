"""Base class of all estimators: parameters, fit, and fitted attributes."""

from __future__ import annotations

import copy
import os
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._checks.parameters import check_precision, check_prediction_batch
from sklearn_epee._compat import (
    CallbackSupportMixin,
    callback_management_context,
)
from sklearn_epee._documentation import DocumentationLinkMixin
from sklearn_epee._folders import Loading, PretrainedMixin, Saving
from sklearn_epee._nn.data_parallel import train_together
from sklearn_epee._nn.devices import prediction_dtype, resolve_device, training_dtype
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.tasks import Classes
from sklearn_epee._nn.training import ExitNet, explain_out_of_memory, reproducible, train_network
from sklearn_epee._nn.training_defaults import TrainingDefaults
from sklearn_epee._search import LazyNetwork, NetworkReuse, SearchContext, ready, source_identity
from sklearn_epee._version import __version__
from sklearn_epee.distributed import Processes, active_processes
from sklearn_epee.metrics import exit_scores

from .first_layers import with_first_layers
from .fit_tasks import FitTasks
from .fitted import (
    VERSION_KEY,
    FittedState,
    Summary,
    Trained,
    as_lazy_network,
    check_end,
    warn_if_another_version,
)
from .fitted_folder import parameter_to_document, parameters_from_document, read_state, write_state
from .launch import from_main_network, joined, shared_reuse
from .onnx_folder import export
from .parameters import (
    NOT_SHAPING,
    PARAMETER_CONSTRAINTS,
    check_parameters,
    given,
    training_plan,
)
from .precision_report import FEW, PrecisionReport, check_packable, measure_int8, some_samples
from .training_data import BaseTrainingData, take


class BaseEPEE(
    CallbackSupportMixin,
    PretrainedMixin,
    DocumentationLinkMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Base class of all estimators, for labels of any form."""

    _parameter_constraints: ClassVar[dict[str, Any]] = PARAMETER_CONSTRAINTS

    # Input of the backbones: "text" or "image".
    _kind: ClassVar[str]

    # Names of the parameters for checkpoints, tokenizers and image processors.
    _sources: ClassVar[tuple[str, ...]]

    # Runs predictions; called with a network in inference mode and the data type of its layers.
    _engine: ClassVar[Callable[..., Any]] = Engine

    # Context of an estimator that is not part of a search; clones set their own.
    _search_context: SearchContext = SearchContext()

    # --------------------------------------------------------------- implemented by subclasses

    @abstractmethod
    def _check_samples(self, X: Any, fitted: Summary | None) -> Any:
        """Validate X into a sequence of samples that can be indexed with a list of rows.

        Parameters
        ----------
        X : samples
        fitted : Summary or None
            Summary of the network that will read the samples; None if it is not built yet.
        """

    @abstractmethod
    def _prepare(self, samples: Any, y: Any, sample_weight: Any, groups: Any) -> BaseTrainingData:
        """Validate labels, weights and groups; return training data with validated samples."""

    @abstractmethod
    def _build(
        self, samples: Any, n_classes: Classes, watched: Any = ()
    ) -> tuple[Any, MultiExitNetwork]:
        """Return the preprocessor and the untrained network for training samples.

        Parameters
        ----------
        samples : samples
            Training samples.
        n_classes : int or tuple of int
        watched : samples, default=()
            Held-out samples, which the network must be able to read, too.
        """

    @abstractmethod
    def _training_defaults(self) -> TrainingDefaults:
        """Return the values of "auto" parameters for this backbone."""

    @abstractmethod
    def _policy(self, state: Any) -> Any:
        """Return the exit policy of the current parameters."""

    def _transition_weight(self) -> float:
        """Return the weight of transitions between tags; 0 for classifiers without tags."""
        return 0.0

    # ------------------------------------------------------------------------------- training

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
    ) -> Self:
        """Fine-tune the backbone and its exits; `fit` of every estimator."""
        processes = active_processes()
        with joined(processes):
            self._validate_params()
            check_parameters(self)
            continued = self._continued()
            samples = self._check_samples(X, continued.summary if continued else None)
            data = self._prepare(samples, y, sample_weight, groups)
            if continued is not None:
                _check_same_classes(continued.tasks, data.tasks)
                self._check_same_heads(continued.trained.net.module_)
            reuse = NetworkReuse(self._search_context, self.memory, self.random_state)
            seed, fit_or_fetch = shared_reuse(reuse, data, processes, self.device)
            tasks = FitTasks(
                self, X, y, sample_weight, is_active=processes is None or processes.is_main
            )
            train = partial(self._train, data, seed, continued, tasks, processes)
            shaping = None if continued else partial(self._shaping, data)
            with callback_management_context(self):
                if self.precision == "int8":
                    # The store has two entries: the trained network, which other precisions use,
                    # too, and the network with 8-bit scales.
                    network, shared = fit_or_fetch(
                        lambda: self._rounded(
                            fit_or_fetch(train, shaping)[0], data, seed, processes
                        ),
                        None if shaping is None else lambda: {**shaping(), "rounded": "int8"},
                    )
                else:
                    network, shared = fit_or_fetch(train, shaping)
                self._adopt(FittedState(network, data.tasks, shared, type(self)._engine))
                tasks.end(lambda: self._learned(self._state))
        return self

    def _continued(self) -> FittedState | None:
        """Return the fit that the next one continues, if any."""
        return vars(self).get("_state") if self.warm_start else None

    def _check_same_heads(self, network: Any) -> None:
        """Raise if parameters say something else than the heads of a network to be continued."""
        for name, fitted in self._heads_of(network).items():
            given = getattr(self, name)
            if given not in ("auto", fitted):
                raise ValueError(
                    f"warm_start=True continues a network with {name}={fitted!r}, got "
                    f"{name}={given!r}. Fit with the same {name} or with warm_start=False."
                )

    def _heads_of(self, network: Any) -> dict[str, str]:
        """Return the parameters of the heads of a network, which a warm start does not change."""
        return {"head": network.head}

    def _shaping(self, data: BaseTrainingData) -> dict[str, Any]:
        """Return everything that affects the training, except the seed."""
        device = resolve_device(self.device)
        parameters = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in NOT_SHAPING and name not in self._sources
        }
        return {
            "class": type(self),
            "parameters": parameters,
            "defaults": self._training_defaults(),
            "sources": {name: source_identity(getattr(self, name)) for name in self._sources},
            "device": str(device),
            "dtype": str(training_dtype(self.precision, device)),
            # The order of summation depends on it, and so do the last bits of the weights.
            "threads": torch.get_num_threads(),
            "data": (data.samples, data.classes, data.labels, data.weights),
            "groups": data.groups if self.validation_fraction else None,
        }

    def _train(
        self,
        data: BaseTrainingData,
        seed: int,
        continued: FittedState | None,
        tasks: FitTasks,
        processes: Processes | None,
    ) -> LazyNetwork[Trained]:
        device = resolve_device(self.device)
        with explain_out_of_memory(device, self.batch_size):
            train, valid = data.held_out(self.validation_fraction, seed)
            if continued is None:
                with reproducible(seed, device):
                    preprocessor, network = self._build(
                        take(data.samples, train),
                        data.tasks.n_classes,
                        take(data.samples, valid),
                    )
                if self.precision == "int8":
                    check_packable(network)
                self._begin(network, data, train)
            else:
                preprocessor = continued.trained.preprocessor
                # A copy, so that a failed training does not change the fitted network.
                network = copy.deepcopy(continued.trained.net.module_)
            to_learn = data.labelled(preprocessor.encode_for_training, train)
            to_watch = data.labelled(preprocessor.encode, valid) if len(valid) else None
            self._adjust(network, data)
            plan = training_plan(self, self._training_defaults(), len(train), network, seed)
            if continued is not None:
                # Keep the trained heads: do not initialize them from the data again.
                plan = replace(plan, head_init="random")

            def midway(net: Any) -> dict[str, Any]:
                network = as_lazy_network(preprocessor, net, plan.exit_weights)
                return self._learned(FittedState(network, data.tasks, None, type(self)._engine))

            epoch_callbacks = tasks.epochs(plan.max_epochs, midway)
            plan = replace(plan, callbacks=[*plan.callbacks, *epoch_callbacks])
            if processes is None:
                net = train_network(network, to_learn, to_watch, plan)
            else:
                net = train_together(network, to_learn, to_watch, plan, processes)
            check_end(net, is_clone=self._search_context.is_clone)
        return as_lazy_network(preprocessor, net, plan.exit_weights)

    # ------------------------------------------------------------------------------- fewer layers

    def first_layers(self, n_layers: int) -> Self:
        """Return a fitted copy that only has the first layers.

        Its exits are the first ones of this estimator, with the same weights; nothing is trained.
        Samples that would exit at a later layer exit at the last one that is left. So no sample
        takes longer than `n_layers` layers, and files are smaller. Compare scores on held-out
        samples before you use it, and tune its exit policy anew.

        Parameters
        ----------
        n_layers : int
            Number of layers to keep, from 1 to ``n_layers_``. With two backbones, more than the
            layers of the first one.

        Returns
        -------
        estimator : object
            With the parameters of this one; of an array `exit_loss_weights` the first values. 8-bit
            scales are not kept: call `calibrate_int8` for ``precision="int8"``. `fit` trains a
            network with all layers of the backbone again, except with `warm_start`; an array
            `exit_loss_weights` then needs the weights of all layers.

        Raises
        ------
        TypeError
            If `n_layers` is not an integer.
        ValueError
            If there are fewer layers, the exit of the last layer was not trained, or the model
            cannot be built with so many layers.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> shorter = clf.first_layers(4)
        >>> clf.n_layers_, shorter.n_layers_
        (6, 4)
        >>> np.array_equal(shorter.predict_at_layer(X, 3), clf.predict_at_layer(X, 3))
        True
        """
        shorter: Self = with_first_layers(self, n_layers)
        return shorter

    # ------------------------------------------------------------------------------ 8-bit numbers

    def calibrate_int8(self, X: Any) -> Self:
        """Measure the 8-bit scales of the layers for ``precision="int8"``.

        `fit` with ``precision="int8"`` does this on training samples. This method is for an
        estimator that was fitted with another precision, for example on a GPU.

        Parameters
        ----------
        X : samples
            Training samples, or similar ones. 256 of them are drawn at random, fewer if they are
            long. They are not stored.

        Returns
        -------
        self : object
            The estimator, with a new `precision_report_`. `precision` is not changed.

        Raises
        ------
        ValueError
            If X is invalid or empty, the processor has no 8-bit products, or the layers of the
            backbone can only be run as a whole; the estimator is left unchanged.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> try:
        ...     clf = clf.calibrate_int8(X).set_params(precision="int8")
        ... except ValueError as error:
        ...     print("This machine has no 8-bit products:", error)
        >>> clf.predict(X[:5]).shape
        (5,)
        """
        state = self._fitted()
        prediction_dtype("int8", torch.device("cpu"))
        samples = self._check_samples(X, state.summary)
        network = self._with_int8(state.network, state.tasks, samples, seed=0)
        self._adopt(FittedState(network, state.tasks, None, type(self)._engine))
        return self

    @property
    def precision_report_(self) -> PrecisionReport:
        """Which products ``precision="int8"`` rounds, and how this changes predictions."""
        measured = self._trained("precision_report_").int8
        if measured is None:
            raise AttributeError(
                f"{type(self).__name__!r} has no 'precision_report_': 8-bit scales were not "
                "measured. Fit with precision='int8', or call calibrate_int8(X)."
            )
        return measured.report

    def _rounded(
        self,
        network: LazyNetwork[Trained],
        data: BaseTrainingData,
        seed: int,
        processes: Processes | None,
    ) -> LazyNetwork[Trained]:
        """Return a trained network with 8-bit scales that were measured on training samples."""
        learned, _ = data.held_out(self.validation_fraction, seed)
        samples = take(data.samples, learned)
        measure = partial(self._with_int8, network, data.tasks, samples, seed)
        return measure() if processes is None else from_main_network(processes, measure)

    def _with_int8(
        self, network: LazyNetwork[Trained], tasks: Any, samples: Any, seed: int
    ) -> LazyNetwork[Trained]:
        trained = network.get()
        encode = partial(self._encoded, trained.preprocessor)
        every = some_samples(samples, encode, seed)
        few = take(every, np.arange(len(every))[:FEW])
        measured = measure_int8(
            type(self)._engine,
            trained.net.module_,
            (list(encode(every)), list(encode(few))),
            tasks,
            network.summary.exit_weights,
        )
        return ready(network.summary, replace(trained, int8=measured))

    @staticmethod
    def _encoded(preprocessor: Any, samples: Any) -> Iterator[Any]:
        """Yield encoded samples, a few thousand at a time."""
        windows: Iterator[Any] = preprocessor.encode_in_windows(samples)
        return windows

    def _begin(self, network: Any, data: Any, train: NDArray[np.intp]) -> None:
        """Initialize a new network from the training rows."""

    def _adjust(self, network: Any, data: Any) -> None:
        """Set the parts of a network that depend on the training data but are not trained."""

    def _preprocessor_for_layers(self, preprocessor: Any, n_layers: int) -> Any:  # noqa: ARG002 - most do not depend on it
        """Return the preprocessor of a network that only has the first layers."""
        return preprocessor

    def _head_dropout(self) -> float:
        return float(given(self.dropout, self._training_defaults().dropout))

    def _adopt(self, state: FittedState) -> None:
        """Set all fitted attributes."""
        self._search_context = self._search_context.after_fit()
        self.__dict__.update(self._learned(state))

    @staticmethod
    def _learned(state: FittedState) -> dict[str, Any]:
        """Return all fitted attributes."""
        return {
            "_state": state,
            "classes_": state.tasks.classes,
            "n_layers_": state.summary.n_layers,
            "history_": state.summary.history,
            "n_iter_": len(state.summary.history),
        }

    def _fitted(self) -> FittedState:
        """Return the fitted state; raise if the estimator is not fitted."""
        if "_state" not in vars(self):
            # Only then, because it takes a while: it reads the estimator's tags.
            check_is_fitted(self)
        return self._state

    @property
    def net_(self) -> ExitNet:
        """The trained net, a ``skorch.NeuralNetClassifier``."""
        return self._trained("net_").net

    @property
    def _preprocessor(self) -> Any:
        return self._trained("_preprocessor").preprocessor

    def _trained(self, name: str) -> Trained:
        state = vars(self).get("_state")
        if state is None:
            raise AttributeError(f"{type(self).__name__!r} has no {name!r} before it is fitted.")
        trained: Trained = state.trained
        return trained

    def _setting(self) -> tuple[torch.device, torch.dtype]:
        device = resolve_device(self.device)
        return device, prediction_dtype(check_precision(self.precision), device)

    def _prediction_batch(self) -> int | str:
        return check_prediction_batch(self.predict_batch_size)

    # -------------------------------------------------------------------- folders without pickle

    def _write_fitted(self, saving: Saving) -> dict[str, Any]:
        """Write the files of the fitted state, and return a document of everything else."""
        return write_state(self._fitted(), saving)

    def _parameter_to_document(self, name: str, value: Any) -> Any:
        """Return a parameter in the form in which it is saved."""
        return parameter_to_document(self, name, value)

    @classmethod
    def _parameters_from_document(cls, parameters: dict[str, Any], reader: Any) -> dict[str, Any]:
        """Return parameters from the form in which they are saved."""
        return parameters_from_document(cls, parameters, reader)

    @classmethod
    def _read_fitted(cls, parameters: dict[str, Any], document: Any, loading: Loading) -> Self:
        """Return a fitted estimator from a document and its files."""
        estimator, state = read_state(cls, parameters, document, loading)
        estimator._adopt(state)
        fitted: Self = estimator
        return fitted

    def export_onnx(self, folder: str | os.PathLike[str], layer: int | None = None) -> None:
        """Export the fitted network as ONNX graphs, one for each layer with its head.

        :class:`sklearn_epee.onnx_runtime.OnnxExits`, or `OnnxTokenExits` for token classifiers,
        runs them with onnxruntime and NumPy, with the current exit policy of the estimator. Labels
        and exits are the same, probabilities are equal up to rounding. Needs
        ``pip install 'sklearn_epee[onnx]'``.

        Parameters
        ----------
        folder : str or path-like
            An empty folder, or one that does not exist yet.
        layer : int, default=None
            Export a single graph instead, up to the head of this layer; counted from 1, or from -1
            backwards. It has no exits, and other software can run it, too.

        Raises
        ------
        ImportError
            If onnx or onnxruntime is missing, or onnxscript if torch needs it.
        ValueError
            If such a backbone or layer cannot be exported; the message says why. Every graph is
            compared with the network on batches of other sizes.
        FileExistsError
            If the folder is not empty.
        OSError
            If the disk is full, for example; no files are left behind.
        NotFittedError
            If the estimator was not fitted.

        Examples
        --------
        >>> import tempfile
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.export_onnx(tempfile.mkdtemp())  # doctest: +SKIP
        """
        state = self._fitted()
        weight = self._transition_weight()
        name = type(self).__name__
        export(name, state, self._policy, folder, layer, transition_weight=weight)

    def _scores_for_card(self, X: Any, y: Any) -> dict[str, float]:
        return exit_scores(self, X, y)

    # --------------------------------------------------------------------------- scikit-learn

    def __sklearn_clone__(self) -> Self:
        clone: Self = super().__sklearn_clone__()
        clone._search_context = self._search_context.for_clone()
        return clone

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__() | {VERSION_KEY: __version__}
        if "_state" in state:
            # The temporary folder in it does not outlive the process; a fitted estimator may.
            state.pop("_search_context", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        warn_if_another_version(type(self), state)
        # Parameters that were added after the pickle was written get their defaults.
        defaults = {name: value.default for name, value in signature(type(self)).parameters.items()}
        state = {name: value for name, value in state.items() if name != VERSION_KEY}
        super().__setstate__(defaults | state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.sparse = False
        return tags


def _check_same_classes(fitted: Any, found: Any) -> None:
    if not fitted.same_as(found):
        raise ValueError(
            f"warm_start=True continues a network for the classes {fitted}, but y holds "
            f"{found}. Fit with the same classes or with warm_start=False."
        )
