"""Early-exit classifiers around networks that were not trained by `fit`."""

from __future__ import annotations

from typing import Any

from sklearn_epee._base.fitted import FittedState, as_lazy_network
from sklearn_epee._base.parameters import training_plan
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.training import untrained_net


def adopt(model: Any, preprocessor: Any, network: MultiExitNetwork, tasks: Any) -> Any:
    """Return an estimator with another network, as if `fit` had trained it.

    So rivals run on the same engine as the networks with exits, and times compare models, not
    implementations.

    Parameters
    ----------
    model : EPEEClassifier, EPEEImageClassifier or EPEETokenClassifier
        Modified in place.
    preprocessor : object
        Encodes samples for the network.
    network : MultiExitNetwork
    tasks : Tasks or TagLayers
        The classes, in the order of the network's logits.
    """
    n_classes = sum(network.class_counts)
    plan = training_plan(model, model._training_defaults(), n_classes, network, seed=0)
    lazy = as_lazy_network(preprocessor, untrained_net(network, plan), plan.exit_weights)
    model._adopt(FittedState(lazy, tasks, None, type(model)._engine))
    return model
