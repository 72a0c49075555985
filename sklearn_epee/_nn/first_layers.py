"""Networks of the first layers of another, with copies of its weights."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PretrainedConfig

from .backbones import check_first_layers
from .network import MultiExitNetwork, config_from_dict, rebuild_network
from .two_towers import TwoTowerNetwork

# Entries of image configurations that list all layers, for models that use several of them.
_OUTPUTS = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")


def first_layers(network: Any, n_layers: int) -> Any:
    """Return a network of the first layers of another, with copies of its weights.

    Parameters
    ----------
    network : MultiExitNetwork or TwoTowerNetwork
        On the CPU.
    n_layers : int
        From 1 to the number of layers; more than those of the first of two backbones.

    Returns
    -------
    MultiExitNetwork or TwoTowerNetwork
        In evaluation mode. Its exits are the first ones of `network`.

    Raises
    ------
    ValueError
        If a model of the family cannot be built with so many layers, or its layers would compute
        something else.
    """
    recipe = _recipe(network, n_layers)
    weights = network.state_dict()
    names = type(network).from_recipe(recipe, weights).state_dict()
    shorter = rebuild_network(recipe, {name: weights[name] for name in names})
    for whole, part in zip(_single(network), _single(shorter), strict=True):
        check_first_layers(whole.adapter, part.adapter)
    return shorter


def _recipe(network: Any, n_layers: int) -> dict[str, Any]:
    if not isinstance(network, TwoTowerNetwork):
        config = shorter_config(network.backbone.config, n_layers)
        return network.recipe() | {"config": config.to_dict()}
    first, second = network.towers
    if n_layers <= first.n_layers:
        raise ValueError(
            f"n_layers={n_layers} would leave out the second backbone; expected at least "
            f"{first.n_layers + 1}, because the first one has {first.n_layers} layers."
        )
    towers = [first.recipe(), _recipe(second, n_layers - first.n_layers)]
    return network.recipe() | {"towers": towers}


def _single(network: Any) -> tuple[MultiExitNetwork, ...]:
    return network.towers if isinstance(network, TwoTowerNetwork) else (network,)


def shorter_config(config: PretrainedConfig, n_layers: int) -> PretrainedConfig:
    """Return a copy of a configuration with fewer layers.

    Lists with one entry per layer, such as the types of attention, are shortened.
    """
    per_group = getattr(config, "inner_group_num", 1)  # ALBERT
    if n_layers % per_group:
        raise ValueError(
            f"n_layers={n_layers} is not a multiple of {per_group}, the number of layers per group."
        )
    n_before = config.num_hidden_layers
    shorter = copy.deepcopy(config)
    shorter.num_hidden_layers = n_layers // per_group
    values = {name: value for name, value in shorter.to_dict().items() if name not in _OUTPUTS}
    for name, value in values.items():
        if isinstance(value, list) and len(value) == n_before and "layer" in name:
            values[name] = value[: n_layers // per_group]
    return config_from_dict(values)
