"""The network of two towers: what its exits read, what they learn, and how it is kept."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from sklearn_epee._nn.batching import LabelledSamples
from sklearn_epee._nn.flops import layer_flops
from sklearn_epee._nn.network import parameter_groups
from sklearn_epee._nn.pairs import inputs_of_tower
from sklearn_epee._nn.training import TrainingPlan, train_network
from sklearn_epee._nn.two_towers import TwoTowerNetwork, hand_over_layers
from sklearn_epee._search.network_file import NetworkFiles, open_network, ready
from tests._nn.exits import COUNTS, N_CLASSES, N_LAYERS, N_SAMPLES, make_network
from tests._nn.towers import N_EXITS, make_pairs, make_present, make_towers

EVERY = np.arange(N_SAMPLES)


@pytest.fixture
def batch():
    return make_pairs().batch(EVERY)


def gradients(network, prefix):
    return [
        part.grad
        for name, part in network.named_parameters()
        if name.startswith(prefix) and part.grad is not None
    ]


# -------------------------------------------------------------------------------- the exits


def test_exits_of_the_first_tower_are_those_of_its_own_network(batch):
    network = make_towers()
    there = batch["present"][:, 0]
    alone = network.first(**inputs_of_tower(batch, "first__", there.nonzero().squeeze(1)))
    found = network(**batch)
    assert found.shape == (N_SAMPLES, N_EXITS, N_CLASSES)
    torch.testing.assert_close(found[there, :N_LAYERS], alone, atol=1e-6, rtol=0)


def test_exits_of_the_second_tower_read_both(batch):
    network = make_towers()
    found = network(**batch)[:, N_LAYERS:]
    both = batch["present"].all(1)
    other_text = batch | {"first__input_ids": batch["first__input_ids"].roll(1, 0)}
    other_image = batch | {"second__pixel_values": batch["second__pixel_values"].roll(1, 0)}
    for changed in (other_text, other_image):
        assert ((network(**changed)[:, N_LAYERS:] - found)[both].abs().amax((1, 2)) > 1e-3).all()


def test_a_missing_first_cell_is_a_learned_vector(batch):
    network = make_towers()
    without = ~batch["present"][:, 0]
    found = network(**batch)
    other_text = network(**batch | {"first__input_ids": batch["first__input_ids"].roll(1, 0)})
    assert torch.equal(found[without], other_text[without])
    with torch.no_grad():
        network.no_context.add_(1)
    moved = (network(**batch) - found)[:, N_LAYERS:].abs().amax((1, 2))
    assert (moved[without] > 1e-3).all()
    assert (moved[~without & batch["present"][:, 1]] == 0).all()


def test_exits_of_missing_cells_do_not_learn(batch):
    network = make_towers().train()
    logits = network(**batch)
    without_first, without_second = (~batch["present"]).unbind(1)
    (logits[without_first, :N_LAYERS].sum() + logits[without_second, N_LAYERS:].sum()).backward()
    assert not any(part.grad.any() for part in network.parameters() if part.grad is not None)


def test_a_batch_of_one_kind_of_cell_trains_one_tower():
    network = make_towers().train()
    present = make_present()
    present[:, 0], present[:, 1] = True, False
    network(**make_pairs(present=present).batch(EVERY)).sum().backward()
    assert gradients(network, "first.")
    assert not gradients(network, "second.")


def test_the_last_exit_alone_is_the_last_that_each_sample_has(batch):
    network = make_towers(context_dropout=0.0)
    whole = network(**batch)
    network.train()
    for tower in network.towers:
        tower.backbone.eval()  # without its dropout
    network.last_exit_only = True
    last = network(**batch)
    assert last.shape == (N_SAMPLES, 1, N_CLASSES)
    without_second = ~batch["present"][:, 1]
    torch.testing.assert_close(last[:, 0], whole[:, -1])
    last[without_second].sum().backward()
    assert gradients(network, "first.")


def test_fused_heads_train_the_first_tower(batch):
    network = make_towers()
    network(**batch)[:, N_LAYERS:].sum().backward()
    assert any(part.any() for part in gradients(network, "first.backbone"))
    assert network.no_context.grad.any()


def test_checkpointed_layers_learn_the_same(batch):
    found = []
    for checkpointed in (False, True):
        network = make_towers()
        network.gradient_checkpointing = checkpointed
        assert network.first.gradient_checkpointing == checkpointed
        network(**batch).square().sum().backward()
        found.append([part.grad for part in network.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-5, rtol=1e-4)


def test_contexts_are_left_out_in_training_only(batch):
    network = make_towers(context_dropout=0.5)
    assert torch.equal(network(**batch), network(**batch))
    network.train()
    assert not torch.equal(network(**batch), network(**batch))


@pytest.mark.parametrize("counts", [(3,), COUNTS])
@pytest.mark.parametrize("after", [1, 2, 3, 9])
def test_samples_go_on_once_so_many_exits_agree(counts, after):
    logits = torch.randn(40, 5, sum(counts), generator=torch.Generator().manual_seed(0))
    logits[::2] = logits[::2, :1]
    found = hand_over_layers(logits, counts, after)
    for sample, end in zip(logits, found.tolist(), strict=True):
        parts = sample.split(list(counts), dim=-1)
        agreeing, expected = 0, 5
        predicted = [tuple(int(part[m].argmax()) for part in parts) for m in range(5)]
        for m in range(5):
            agreeing = agreeing + 1 if m and predicted[m] == predicted[m - 1] else 1
            if agreeing >= after:
                expected = m + 1
                break
        assert end == expected


def test_towers_must_fit_each_other():
    first, second = make_network("bert", "mean"), make_network("vit", "cls")
    with pytest.raises(ValueError, match=r"context size 0 .* expected 32"):
        TwoTowerNetwork(first, second)


# -------------------------------------------------------------------------------- as it is kept


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_predict_the_same(batch, again):
    network = make_towers(("vit", "cls"), ("bert", "attention"), hand_over_after=2)
    batch = make_pairs("vit", "bert").batch(EVERY)
    twin = again(network)
    assert torch.equal(twin(**batch), network(**batch))
    assert (twin.hand_over_after, twin.context_dropout) == (2, 0.1)
    assert not twin.training


def test_the_store_keeps_weights_apart(batch, tmp_path):
    network = make_towers()
    NetworkFiles(ready("summary", network)).write(tmp_path)
    twin = open_network(tmp_path).get()
    assert torch.equal(twin(**batch), network(**batch))
    assert (tmp_path / "network.pickle").stat().st_size < 20_000


def test_a_network_in_place_is_not_copied():
    network, cpu = make_towers(), torch.device("cpu")
    assert network.to_inference_copy(cpu, torch.float32) is network
    half = network.to_inference_copy(cpu, torch.bfloat16)
    assert half.second.backbone.dtype == torch.bfloat16
    assert half.no_context.dtype == half.context_norm.weight.dtype == torch.float32
    assert torch.equal(half.no_context, network.no_context)


def test_weights_that_are_not_finite_are_refused():
    network = make_towers()
    with torch.no_grad():
        network.no_context[0] = torch.nan
    with pytest.raises(ValueError, match="no_context"):
        network.to_inference_copy(torch.device("cpu"), torch.float32)


def test_mapped_logits_are_those_of_every_exit(batch):
    network = make_towers()
    plain = network(**batch).detach().numpy()
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N_EXITS, N_CLASSES, N_CLASSES))
    shift = rng.normal(size=(N_EXITS, N_CLASSES))
    network.map_logits(matrix, shift)
    both = make_present().all(1)
    expected = np.einsum("mij,nmj->nmi", matrix, plain) + shift
    found = network(**batch).detach().numpy()
    np.testing.assert_allclose(found[both], expected[both], atol=1e-4)


def test_every_parameter_learns_at_the_rate_of_its_part():
    network = make_towers()
    groups = parameter_groups(network, (1.0, 2.0), 3.0, 0.1)
    rates = {id(part): group["lr"] for group in groups for part in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, part in network.named_parameters():
        wanted = 3.0
        if "backbone" in name:
            wanted = 1.0 if name.startswith("first.") else 2.0
        assert rates[id(part)] == wanted
    alike = parameter_groups(network, 1.0, 3.0, 0.1)
    assert {group["lr"] for group in alike} == {1.0, 3.0}


# -------------------------------------------------------------------------------- its work


def test_costs_grow_to_one_with_the_work_of_both_towers(batch):
    network = make_towers()
    rows = torch.tensor([0])
    inputs = [inputs_of_tower(batch, prefix, rows) for prefix in ("first__", "second__")]
    costs = network.exit_costs(*inputs)
    assert costs.shape == (N_EXITS,)
    assert costs[-1] == 1
    assert (np.diff(costs) > 0).all()
    works = [layer_flops(t.adapter, i).sum() for t, i in zip(network.towers, inputs, strict=True)]
    assert costs[N_LAYERS - 1] == pytest.approx(works[0] / sum(works), rel=0.1)


# -------------------------------------------------------------------------------- in training


def plan(**options):
    settings = {
        "max_epochs": 6,
        "batch_size": 8,
        "learning_rate": (1e-3, 1e-3),
        "head_learning_rate": 3e-3,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "exit_weights": np.arange(1.0, N_EXITS + 1),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "seed": 0,
        "early_stopping": False,
        "n_iter_no_change": 3,
    }
    return TrainingPlan(**settings | options)


@pytest.mark.parametrize(
    "exit_training", ["joint", "mixed", "mixed+distillation", "distillation", "detached"]
)
def test_training_learns_with_cells_missing(exit_training):
    network, pairs = make_towers(), make_pairs()
    labels = np.arange(N_SAMPLES) % 2
    samples = LabelledSamples(pairs, labels, np.ones(N_SAMPLES, np.float32))
    net = train_network(network, samples, samples, plan(exit_training=exit_training))
    losses = net.history[:, "valid_loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert sum(net.history[0, "batches", :, "train_batch_size"]) == N_SAMPLES
