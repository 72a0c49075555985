"""Base class of the classifiers of whole samples: `fit`, and its labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags
from transformers import PretrainedConfig

from sklearn_epee._checks.multilabel import TARGET_TYPES, holds_labels
from sklearn_epee._checks.tag_arrays import refuse_tags
from sklearn_epee._compat import StrOptions
from sklearn_epee._exits.checks import as_array, check_label_thresholds
from sklearn_epee._nn.backbones import adapter_class_for, load_config
from sklearn_epee._nn.heads import begin_at_rates, fix_labels, label_heads

from .estimator import BaseEPEE
from .fitted import FittedState
from .label_data import label_rates, prepare_label_data
from .paper_checkpoint import paper_state
from .parameters import PARAMETER_CONSTRAINTS, check_parameters
from .prediction import ExitPredictionMixin, thresholds_for
from .training_data import TrainingData, prepare_training_data


class BaseEPEEClassifier(ExitPredictionMixin, BaseEPEE):
    """Base class of the classifiers of whole samples, with one or several labels per sample."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PARAMETER_CONSTRAINTS,
        "target_type": [StrOptions(set(TARGET_TYPES))],
        # Can be changed after `fit`, as the exit policy.
        "label_thresholds": "no_validation",
    }

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fine-tune the backbone and its exits.

        Parameters
        ----------
        X : samples
            As described in the class documentation.
        y : array-like of shape (n_samples,) or (n_samples, n_tasks), sparse matrix or label lists
            Labels of any type scikit-learn accepts; with two or more columns, one task each.
            Several labels per sample, see `target_type`, are an indicator of shape (n_samples,
            n_labels), dense or sparse, with NaN where it is not known whether a sample has a label,
            or a list, tuple or set of labels for each sample, which may be empty.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the loss; samples of weight 0 are left out. A learned vocabulary and the
            channel statistics of images do not depend on the size of weights above 0.
        groups : array-like of shape (n_samples,), default=None
            Group of each sample, such as its patient or document. `validation_fraction` then holds
            out whole groups, drawn at random so that the classes are in proportion as far as the
            groups allow. Without held-out samples, groups have no effect. A pipeline passes them on
            as ``<step>__groups``, a search with metadata routing
            (``set_fit_request(groups=True)``).

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X, y or the backbone is invalid; the estimator is left unchanged.
        TypeError
            If an element of X is not a sample.
        MemoryError
            If the device runs out of memory; the message says what to change.
        KeyboardInterrupt
            If the training of a clone is interrupted, such as in a search or a cross-validation.
            An estimator that is not a clone is fitted with what was learned so far, with a warning.

        Examples
        --------
        >>> from sklearn_epee import EPEEClassifier
        >>> from sklearn_epee.datasets import make_supplement_notes
        >>> X, y = make_supplement_notes(40, random_state=0)
        >>> clf = EPEEClassifier(max_epochs=1, random_state=0).fit(X, y)
        >>> clf.n_layers_, len(clf.history_)
        (6, 1)
        """
        return self._fit(X, y, sample_weight, groups)

    def _prepare(
        self,
        samples: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
    ) -> TrainingData:
        refuse_tags(y, type(self).__name__)
        # The number of labels of y is not known yet, so only the values are checked here.
        thresholds = as_array("label_thresholds", self.label_thresholds)
        check_label_thresholds(self.label_thresholds, thresholds.size)
        continued = self._continued()
        if holds_labels(y, self._target_type(continued)):
            data = prepare_label_data(
                samples,
                y,
                sample_weight,
                self.class_weight,
                groups=groups,
                known=_known_labels(continued),
            )
        else:
            data = prepare_training_data(
                samples, y, sample_weight, self.class_weight, type(self), groups=groups
            )
        thresholds_for(self.label_thresholds, data.tasks)
        return data

    def _target_type(self, continued: FittedState | None) -> str:
        """Return the type of y; with "auto", a warm start keeps the type of the fitted network."""
        if continued is None or self.target_type != "auto":
            return str(self.target_type)
        return "multilabel" if continued.tasks.multilabel else "tasks"

    def _begin(self, network: Any, data: TrainingData, train: NDArray[np.intp]) -> None:
        if data.constants is not None:
            begin_at_rates(network, label_rates(data.labels[train], data.weights[train]))

    def _heads_of(self, network: Any) -> dict[str, str]:
        return super()._heads_of(network) | {"pooling": network.pooling}

    def _adjust(self, network: Any, data: TrainingData) -> None:
        if data.constants is not None:
            fix_labels(network, torch.from_numpy(data.constants))

    @classmethod
    def _from_paper(
        cls,
        folder: str | os.PathLike[str],
        classes: ArrayLike | None,
        params: dict[str, Any],
        samples_for: Callable[[PretrainedConfig], Any],
    ) -> Self:
        """Return an estimator fitted with the heads of a folder that the paper's code wrote.

        ``samples_for`` returns some samples of the type that the estimator reads.
        """
        if not Path(folder).is_dir():
            raise ValueError(f"folder={os.fspath(folder)!r} is not a folder.")
        config = load_config(folder, cls._kind)
        pooling = "last" if adapter_class_for(config.model_type).causal else "cls"
        if params.get("pooling", pooling) not in ("auto", pooling):
            raise ValueError(
                f"pooling={params['pooling']!r} is not the pooling with which the heads of the "
                f"paper's code were trained; expected {pooling!r}, which is the default here."
            )
        if params.get("head", "linear") != "linear":
            raise ValueError(
                f"head={params['head']!r} is not the kind of heads of the paper's code; expected "
                "'linear'."
            )
        if "backbone" in params:
            raise TypeError("backbone cannot be given, because it is the folder.")
        estimator = cls(**{**params, "backbone": folder, "pooling": pooling})
        estimator._validate_params()
        check_parameters(estimator)
        estimator._adopt(paper_state(estimator, config, samples_for(config), classes))
        return estimator

    @property
    def pooling_(self) -> str:
        """The pooling of the heads: `pooling`, or the value that "auto" was resolved to."""
        pooling: str = self._trained("pooling_").net.module_.pooling
        return pooling

    @property
    def n_outputs_(self) -> int:
        """Number of tasks, or of labels."""
        return len(self._fitted().tasks.each)

    @property
    def multilabel_(self) -> bool:
        """Whether samples have several labels each, and `predict` returns an indicator."""
        return bool(self._fitted().tasks.multilabel)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags


def _known_labels(
    continued: FittedState | None,
) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Return the labels of a continued network, and which of them are constant."""
    if continued is None or not continued.tasks.multilabel:
        return None
    constants = label_heads(continued.trained.net.module_)[0].constants
    return continued.tasks.classes, constants.cpu().numpy().astype(np.int64)
