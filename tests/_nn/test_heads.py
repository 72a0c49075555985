"""Heads with a bottleneck or with attention, whatever they read, wherever they run."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sklearn_epee._checks.multilabel import LabelCount
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.head_attention import HeadAttention
from sklearn_epee._nn.heads import HEADS, Bottleneck, ExitHead, make_head
from sklearn_epee._nn.network import MultiExitNetwork, assemble_network
from sklearn_epee._nn.token_engine import TokenEngine
from sklearn_epee._nn.tower_engine import TowerEngine
from sklearn_epee._nn.two_towers import TwoTowerNetwork, join_towers
from sklearn_epee.policy import normalized_entropy
from tests._nn.exits import (
    N_SAMPLES,
    assert_equal_predictions,
    exit_policy,
    make_labels_network,
    make_network,
    make_samples,
    make_tasks_network,
)
from tests._nn.test_graphs import StandIn, with_graphs
from tests._nn.towers import PAIRS, make_pairs, make_towers, one_by_one, tower_policy
from tests._nn.words import make_sentences, make_word_network
from tests.checkpoints import tiny_config

WIDTH = 16
LARGER = ("bottleneck", "attention")
# What heads read of texts, decoders and images.
READ = [
    *(("bert", pooling) for pooling in ("cls", "mean", "cls+mean", "attention", "entity")),
    ("gpt2", "last"),
    ("vit", "cls+mean"),
    ("siglip", "mean"),
]


def with_heads(network, kind):
    """Give the heads of a network bottlenecks or attention that change a lot of what is read."""
    generator = torch.Generator().manual_seed(11)
    for tower in getattr(network, "towers", (network,)):
        tower.head = kind
        for head in tower.heads:
            if kind == "bottleneck":
                parts = [part for part in head.modules() if isinstance(part, ExitHead)]
                for part in parts:
                    part.bottleneck = Bottleneck((part.dense or part.out).in_features)
                added = nn.ModuleList(part.bottleneck for part in parts)
            else:
                added = HeadAttention(tower.n_features, tower.adapter.hidden_size)
                getattr(head, "head", head).attention = added
            with torch.no_grad():
                for name, weight in added.named_parameters():
                    if "norm" not in name:
                        deviation = 2 / weight.shape[-1] ** 0.5
                        weight.normal_(0, deviation, generator=generator)
    return network.eval()


def as_trained(network, samples):
    """Return what the module says, as it does in training, as probabilities."""
    with torch.no_grad():
        logits = network(**samples.batch(np.arange(len(samples))))
    parts = logits.split(list(network.class_counts), dim=-1)
    return torch.cat([part.softmax(-1) for part in parts], dim=-1).numpy()


# ------------------------------------------------------------------------------------- the head


@torch.no_grad()
def test_a_bottleneck_is_a_residual_map_through_a_quarter_of_the_width():
    torch.manual_seed(0)
    bottleneck, rows = Bottleneck(WIDTH), torch.randn(5, WIDTH)
    assert (bottleneck.down.out_features, bottleneck.up.in_features) == (4, 4)
    assert Bottleneck(3).down.out_features == 1
    normed = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0) + 1e-5).sqrt()[
        :, None
    ]
    narrow = functional.gelu(
        functional.linear(normed, bottleneck.down.weight, bottleneck.down.bias)
    )
    added = functional.linear(narrow, bottleneck.up.weight, bottleneck.up.bias)
    torch.testing.assert_close(bottleneck(rows), rows + added)
    bottleneck.begin_as_identity()
    assert torch.equal(bottleneck(rows), rows)


@pytest.mark.parametrize("dense", [None, WIDTH])
@torch.no_grad()
def test_it_is_in_front_of_a_linear_head_that_is_drawn_alike(dense):
    heads = {}
    for kind in HEADS:
        torch.manual_seed(0)
        heads[kind] = make_head(3, WIDTH, dense, 0.1, kind=kind).eval()
    linear, both = heads["linear"], heads["bottleneck"]
    for other in (both, heads["attention"]):
        weights = other.state_dict()
        for name, weight in linear.state_dict().items():
            assert torch.equal(weights[name], weight)
    rows = torch.randn(5, WIDTH)
    torch.testing.assert_close(both(rows), linear(both.bottleneck(rows)))
    assert not torch.allclose(both(rows), linear(rows))


def test_linear_heads_have_the_weights_and_draw_the_numbers_they_always_did():
    drawn = {}
    for options in ({}, {"head": "linear"}):
        backbone = load_backbone(tiny_config("bert"), "text")
        torch.manual_seed(0)
        network = MultiExitNetwork(backbone, 3, "mean", 0.1, **options)
        drawn[bool(options)] = (network.heads.state_dict(), torch.rand(1).item())
    assert not any("bottleneck" in name for name in drawn[True][0])
    assert drawn[True][1] == drawn[False][1]
    for name, weight in drawn[True][0].items():
        assert torch.equal(weight, drawn[False][0][name])


# ---------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("head", HEADS)
def test_networks_are_copied_and_pickled_with_their_kind_of_heads(head):
    backbone = load_backbone(tiny_config("bert"), "text")
    network = MultiExitNetwork(backbone, (3, 2), "attention", 0.0, head=head).eval()
    samples = make_samples("bert")
    expected = as_trained(network, samples)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert again.head == head
        np.testing.assert_array_equal(as_trained(again, samples), expected)


def test_recipes_that_name_no_head_are_of_linear_ones():
    network = make_network("bert", "mean")
    recipe = network.recipe()
    del recipe["head"]
    again = assemble_network(recipe, network.state_dict())
    assert again.head == "linear"
    samples = make_samples("bert")
    np.testing.assert_array_equal(as_trained(again, samples), as_trained(network, samples))


def test_bottlenecks_of_a_second_tower_read_the_context_too():
    towers = [
        MultiExitNetwork(load_backbone(tiny_config("bert"), "text"), 3, "mean", 0.0, head=head)
        for head in ("bottleneck", "bottleneck")
    ]
    network = join_towers(*towers, 0.0)
    assert network.head == "bottleneck"
    width = towers[0].n_features
    assert network.first.heads[0].bottleneck.norm.normalized_shape == (width,)
    assert network.second.heads[0].bottleneck.norm.normalized_shape == (2 * width,)
    assert isinstance(copy.deepcopy(network), TwoTowerNetwork)


# ----------------------------------------------------------------------------------- the engines


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize(("family", "pooling"), READ)
def test_the_engine_predicts_as_the_module_and_exits_as_the_arrays_say(family, pooling, head):
    linear, samples = make_network(family, pooling), make_samples(family)
    before = as_trained(linear, samples)
    network = with_heads(linear, head)
    engine = Engine(network)
    staged = engine.staged(samples, 7)
    np.testing.assert_allclose(staged, as_trained(network, samples), atol=1e-5)
    assert abs(staged - before).max() > 0.1
    rule = exit_policy(float(np.median(normalized_entropy(staged))), 3, "weighted")
    for batch_size in (1, 7, "auto"):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize("pooling", ["mean", "attention", "cls"])
@pytest.mark.parametrize("several", ["tasks", "labels"])
def test_several_tasks_and_labels(several, pooling, head):
    make = make_tasks_network if several == "tasks" else make_labels_network
    network, samples = with_heads(make("bert", pooling), head), make_samples("bert")
    np.testing.assert_allclose(
        Engine(network).staged(samples, 7), as_trained(network, samples), atol=1e-5
    )


@pytest.mark.parametrize("head", LARGER)
def test_replayed_layers_predict_the_same(head):
    network, samples = with_heads(make_network("bert", "cls"), head), make_samples("bert")
    capture = StandIn()
    found = with_graphs(Engine(network), capture).staged(samples, 7)
    np.testing.assert_allclose(found, as_trained(network, samples), atol=1e-5)
    assert capture.captures


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_heads_of_words(family, head):
    # The states of gpt2 are normalized before they are read.
    network, sentences = with_heads(make_word_network(family), head), make_sentences()
    for batch_size in (1, 5):
        staged = TokenEngine(network).staged(sentences, batch_size)
        np.testing.assert_allclose(staged, as_trained(network, sentences), atol=1e-5)


@pytest.mark.parametrize("head", LARGER)
def test_heads_of_two_towers(head):
    network = with_heads(make_towers(*PAIRS[0]), head)
    pairs, rule = make_pairs(), tower_policy(0.6, 5)
    found = TowerEngine(network).dynamic(pairs, rule, 7)
    expected = one_by_one(network, pairs, rule)
    np.testing.assert_array_equal(found.exit_layer, [one.exit_layer for one in expected])
    np.testing.assert_allclose(found.proba, [one.proba for one in expected], atol=1e-5)


@pytest.mark.parametrize("head", LARGER)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("n_classes", [3, (3, 2), LabelCount(3)])
def test_all_weights_of_the_heads_learn(n_classes, pooling, head):
    backbone = load_backbone(tiny_config("bert"), "text")
    network = MultiExitNetwork(backbone, n_classes, pooling, 0.0, head=head)
    network(**make_samples("bert").batch(np.arange(N_SAMPLES))).square().sum().backward()
    assert all(part.grad.abs().sum() > 0 for part in network.heads.parameters())
