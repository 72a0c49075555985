"""Early-exit classifiers around networks that were not trained by `fit`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._base.fitted import FittedState, as_lazy_network
from sklearn_epee._base.parameters import training_plan
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._nn.network import MultiExitNetwork, assemble_network
from sklearn_epee._nn.training import untrained_net
from studies.rivals.cut import cut_config


def adopt(model: Any, preprocessor: Any, network: MultiExitNetwork, classes: NDArray[Any]) -> Any:
    """Return a classifier with another network, as if `fit` had trained it.

    So rivals run on the same engine as the networks with exits, and times compare models, not
    implementations.

    Parameters
    ----------
    model : EPEEClassifier or EPEEImageClassifier
        Modified in place.
    preprocessor : object
        Encodes samples for the network.
    network : MultiExitNetwork
    classes : ndarray of shape (n_classes,)
        Classes in the order of the network's logits, ascending.
    """
    plan = training_plan(model, model._training_defaults(), len(classes), network, seed=0)
    net = untrained_net(network, plan)
    model._adopt(FittedState(as_lazy_network(preprocessor, net, plan.exit_weights), Tasks(classes)))
    return model


def first_layers(model: Any, n_layers: int) -> Any:
    """Return a fitted classifier with the first layers of another, sharing its weights.

    Its last exit is the exit of the other classifier at that layer.

    Parameters
    ----------
    model : EPEEClassifier or EPEEImageClassifier
        Fitted, with a single task.
    n_layers : int
    """
    state = model._fitted()
    whole = state.trained.net.module_
    recipe = whole.recipe() | {"config": cut_config(whole.backbone.config, n_layers).to_dict()}
    weights = whole.state_dict()
    names = type(whole).from_recipe(recipe, weights).state_dict()
    network = assemble_network(recipe, {name: weights[name] for name in names})
    cut = type(model)(**model.get_params(deep=False) | {"exit_loss_weights": "ascending"})
    return adopt(cut, state.trained.preprocessor, network, np.asarray(model.classes_))
