"""Create the fitted state of an estimator from a checkpoint that the paper's code wrote."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import PretrainedConfig

from sklearn_epee._checks.messages import shown
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._nn.backbones import PaperHeads, read_paper_heads
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.training import untrained_net

from .fitted import FittedState, as_lazy_network
from .parameters import MANY_SAMPLES, training_plan

# Default class names of transformers.
_UNNAMED = re.compile(r"LABEL_\d+$")


def paper_state(
    estimator: Any, config: PretrainedConfig, samples: Any, classes: ArrayLike | None
) -> FittedState:
    """Return a fitted state with the backbone and the heads of the paper's checkpoint.

    Parameters
    ----------
    estimator : BaseEPEEClassifier
        Its `backbone` is the folder of the checkpoint.
    config : PretrainedConfig
        Configuration in the folder.
    samples : samples
        Any samples in the form that the estimator will read.
    classes : array-like of shape (n_classes,) or None
        In the order of the checkpoint's logits; None: the names in the configuration.

    Returns
    -------
    FittedState

    Raises
    ------
    ValueError
        If the heads are not those of the paper's code, or do not match the classes.
    """
    # New heads are initialized at random and overwritten; keep the caller's random state.
    with torch.random.fork_rng([]):
        preprocessor, draft = estimator._build(samples, 2)
        heads = read_paper_heads(estimator.backbone, draft.n_layers)
        _check_width(heads, draft.adapter.hidden_size, estimator.backbone)
        found, order = _sorted_classes(classes, config, len(heads.biases[0]))
        has_dense = heads.pooler is not None
        network = MultiExitNetwork(
            draft.backbone, len(found), draft.pooling, draft.dropout, has_dense
        )
    network.set_heads(heads, order)
    defaults = estimator._training_defaults()
    plan = training_plan(estimator, defaults, MANY_SAMPLES, network, seed=0)
    net = untrained_net(network, plan)
    return FittedState(as_lazy_network(preprocessor, net, plan.exit_weights), Tasks(found))


def _check_width(heads: PaperHeads, hidden_size: int, folder: str | os.PathLike[str]) -> None:
    widths = {heads.weights[0].shape[1]}
    if heads.pooler is not None:
        widths |= {*heads.pooler[0].shape, len(heads.pooler[1])}
    if widths != {hidden_size}:
        raise ValueError(
            f"folder={os.fspath(folder)!r}: its heads have {sorted(widths)} features, but its "
            f"backbone has hidden states of {hidden_size}."
        )


def _sorted_classes(
    classes: ArrayLike | None, config: PretrainedConfig, n_classes: int
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the sorted classes and, for each, the index of its logit."""
    given = np.asarray(_named(config, n_classes) if classes is None else classes)
    source = "id2label in config.json" if classes is None else "classes"
    if given.ndim != 1 or len(given) != n_classes:
        raise ValueError(
            f"{source} must name the {n_classes} classes of the checkpoint in the order of its "
            f"logits, got {shown(given.tolist())}. Pass them as classes=."
        )
    try:
        found, order = np.unique(given, return_index=True)
    except TypeError as error:
        raise ValueError(f"{source} must hold labels of one type: {error}") from error
    if len(found) < n_classes:
        raise ValueError(f"{source} names a class more than once: {shown(given.tolist())}.")
    return found, order


def _named(config: PretrainedConfig, n_classes: int) -> list[Any]:
    """Return the class names of the configuration, or their numbers if it has none."""
    names = getattr(config, "id2label", None) or {}
    labels = [names[number] for number in sorted(names)]
    unnamed = all(_UNNAMED.match(str(label)) for label in labels)
    return list(range(n_classes)) if unnamed else labels
