"""What recipes of the study do to a training, on tiny networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.network import MultiExitNetwork, parameter_groups
from sklearn_epee._nn.recipes import JointExitLoss
from studies import class_recipes as recipes
from studies import recipe_networks as networks
from studies.jobs import Job
from tests._nn.trainings import make_texts
from tests.checkpoints import random_batch, randomise, tiny_config


class Start(Callback):
    """Keeps the weights that a training begins with."""

    def on_train_begin(self, net, **kwargs):
        self.weights = {name: w.clone() for name, w in net.module_.state_dict().items()}


PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = torch.tensor([0, 1, 2, 0])


def network_of(kind=MultiExitNetwork, pooling="mean"):
    backbone = randomise(load_backbone(tiny_config("bert", **PLAIN), "text"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(backbone, 3, pooling, 0.0)


def fitted(name, *, n_epochs=2, callbacks=(), **options):
    X, y = make_texts(24)
    recipe, job = recipes.RECIPES[name], Job("phee", "none", 0, name)
    config = tiny_config("bert", **PLAIN)
    model = recipes.make(recipe, job, config, n_epochs, device="cpu", **options)
    model.set_params(callbacks=[*model.callbacks, *callbacks], batch_size=8)
    return model.fit(X, y), X, y


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_budgeted_and_dynamic_predictions_of_every_recipe_agree(name):
    model, X, _ = fitted(name)
    at_layer = np.stack(list(model.staged_predict(X)), axis=1)
    dynamic = model.set_params(tau=0.5, patience=2).predict_with_exits(X)
    rows = np.arange(len(X))
    np.testing.assert_array_equal(dynamic.labels, at_layer[rows, dynamic.exit_layer - 1])


def test_lower_layers_learn_at_smaller_rates():
    network = network_of(networks.DecayedRatesNetwork)
    groups = parameter_groups(network, 1.0, 10.0, 0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, parameter in network.backbone.named_parameters():
        layer = networks.layer_of(name, 3)
        assert rates[id(parameter)] == pytest.approx(0.8 ** (3 - layer))
    assert {rates[id(p)] for p in network.heads.parameters()} == {10.0}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("embeddings.word_embeddings.weight", 0),
        ("encoder.layer.0.output.dense.weight", 1),
        ("encoder.layer.11.output.dense.weight", 12),
        ("layers.2.mlp.weight", 3),
        ("encoder.relative_attention_bias.weight", 12),
    ],
)
def test_names_of_parameters_tell_their_layer(name, layer):
    assert networks.layer_of(name, 12) == layer


def test_equilibrium_divides_the_gradient_of_each_layer_and_changes_no_direction():
    """So that AdamW, which normalizes the size of gradients, makes the same of both."""
    gradients = []
    for kind in (MultiExitNetwork, networks.EquilibriumNetwork):
        network = network_of(kind)
        logits = network(**random_batch("bert"))
        loss = JointExitLoss(np.arange(1.0, 4))
        loss(logits, LABELS[: len(logits)], torch.ones(len(logits))).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    joint, even = gradients
    for name, gradient in joint.items():
        if gradient is None:
            continue
        part = name.removeprefix("backbone.")
        n_exits = 3 - max(networks.layer_of(part, 3), 1) + 1 if part != name else 1
        torch.testing.assert_close(even[name] * n_exits, gradient, rtol=1e-4, atol=1e-6)


def test_low_rank_updates_begin_as_nothing_and_are_merged():
    plain, thin = network_of(), network_of(networks.LowRankNetwork)
    thin.split()
    batch = random_batch("bert")
    with torch.no_grad():
        torch.testing.assert_close(thin(**batch), plain(**batch))
        for name, parameter in thin.named_parameters():
            if name.endswith("tall"):
                parameter.normal_()
        expected = thin(**batch)
        assert not torch.allclose(expected, plain(**batch))
        thin.merge()
        torch.testing.assert_close(thin(**batch), expected)
    assert set(thin.state_dict()) == set(plain.state_dict())


def test_low_rank_training_leaves_all_else_of_the_backbone():
    begun = Start()
    model, _, _ = fitted("low-rank updates", callbacks=[begun])
    network = model.net_.module_
    ranks = []
    start = begun.weights
    for name, weight in network.backbone.state_dict().items():
        before = start.get(f"backbone.{name}")
        if before is None:
            module = name.removesuffix(".weight")
            before = start[f"backbone.{module}.parametrizations.weight.original"]
            ranks.append(torch.linalg.matrix_rank(weight - before, rtol=1e-3).item())
        else:
            assert torch.equal(weight, before)
    assert ranks
    assert max(ranks) <= networks.LowRankNetwork.rank
    assert min(ranks) > 0
