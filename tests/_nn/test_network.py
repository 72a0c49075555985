"""The multi-exit module: what a head reads, how parameters are grouped, copies of a network."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.network import MultiExitNetwork, parameter_groups, rebuild_network
from sklearn_epee._nn.pooling import attended_mean, last_real_positions, masked_mean
from tests._nn.networks import make_network
from tests.checkpoints import (
    CAUSAL_FAMILIES,
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    poolings,
    random_batch,
    tiny_config,
)

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES
CPU = torch.device("cpu")
ALL_NETWORKS = [(family, pooling) for family in FAMILIES for pooling in poolings(family)]


def hidden_states(
    network: MultiExitNetwork, batch: dict
) -> tuple[list[torch.Tensor], torch.Tensor]:
    hidden, mask = network.adapter.embed(batch)
    states = [hidden]
    for layer in range(1, network.n_layers + 1):
        states.append(network.adapter.layer(layer, states[-1], mask))
    return states, mask


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(network: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ----------------------------------------------------------------------------------- pooling


def attended(positions: torch.Tensor, query: torch.Tensor | None) -> torch.Tensor | None:
    if query is None:
        return None
    return torch.softmax(positions @ query / len(query) ** 0.5, dim=0) @ positions


@pytest.mark.parametrize(("family", "pooling"), ALL_NETWORKS)
@torch.no_grad()
def test_a_head_reads_what_its_pooling_says(family, pooling):
    network, batch = make_network(family, pooling), random_batch(family)
    logits = network(**batch)
    states, mask = hidden_states(network, batch)
    for row in range(len(mask)):
        real = mask[row]
        for layer in range(1, network.n_layers + 1):
            here = network.adapter.pool(states[layer][row][real])
            below = network.adapter.pool(states[layer - 1][row][real])
            pooled = {
                "cls": here[0],
                "last": here[-1],
                "mean": here.mean(0),
                "cls+mean": torch.cat([here[0], below.mean(0)]),
                "attention": attended(here, network.heads[layer - 1].query),
            }[pooling]
            expected = network.heads[layer - 1](pooled)
            torch.testing.assert_close(logits[row, layer - 1], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_gpt2_is_pooled_at_the_last_real_token_under_either_padding_side(side):
    network, batch = make_network("gpt2", "last"), random_batch("gpt2", side=side)
    together = network(**batch)
    real = batch["attention_mask"].bool()
    for row in range(len(real)):
        ids = batch["input_ids"][row, real[row]][None]
        alone = network(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean", "attention"])
@torch.no_grad()
def test_gpt2_never_reads_a_pad(pooling):
    network, batch = make_network("gpt2", pooling), random_batch("gpt2")
    pads = batch["attention_mask"] == 0
    assert pads.any()
    other = batch | {"input_ids": batch["input_ids"].masked_fill(pads, 7)}
    torch.testing.assert_close(network(**batch), network(**other), atol=1e-6, rtol=0)


def test_last_real_positions_and_masked_mean():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    assert last_real_positions(mask).tolist() == [1, 3, 3, 0]
    hidden = torch.arange(16.0).reshape(4, 4, 1)
    assert masked_mean(hidden, mask).ravel().tolist() == [0.5, 6.5, 9.5, 12.0]


def test_attention_weighs_pads_with_exactly_nothing():
    generator = torch.Generator().manual_seed(0)
    hidden, query = torch.randn(3, 6, 8, generator=generator), torch.randn(8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    found = attended_mean(hidden, mask, query)
    for row in range(3):
        torch.testing.assert_close(found[row], attended(hidden[row, mask[row]], query))
    # However much a pad would be liked.
    tempting = hidden.masked_fill(~mask.unsqueeze(-1), 1e6)
    assert torch.equal(attended_mean(tempting, mask, query), found)
    wider = torch.cat([hidden, torch.full((3, 2, 8), 7.0)], dim=1)
    longer = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(attended_mean(wider, longer, query), found, atol=1e-6, rtol=0)


def test_attention_is_float32_and_survives_a_row_of_pads():
    hidden = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attended_mean(hidden, torch.zeros(2, 3, dtype=torch.bool), torch.ones(4))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
@torch.no_grad()
def test_attention_begins_as_the_mean_with_the_same_heads(family):
    mean, fresh = make_network(family, "mean"), make_network(family, "attention")
    for head, other in zip(fresh.heads, mean.heads, strict=True):
        head.query.zero_()
        assert torch.equal(head.out.weight, other.out.weight)
    batch = random_batch(family)
    torch.testing.assert_close(fresh(**batch), mean(**batch), atol=1e-6, rtol=0)


def test_a_fresh_query_is_zero_and_only_attention_has_one():
    backbone = load_backbone(tiny_config("bert"), "text")
    heads = MultiExitNetwork(backbone, 3, "attention", 0.0).heads
    assert all((head.query == 0).all() for head in heads)
    assert all(head.query is None for head in make_network("bert", "mean").heads)


def test_pooled_halves_are_averaged_in_float32():
    hidden = torch.full((1, 4096, 1), 1.001, dtype=torch.bfloat16)
    mean = masked_mean(hidden, torch.ones(1, 4096, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert mean.item() == hidden[0, 0].item()


@pytest.mark.parametrize(
    ("family", "pooling", "reason"),
    [
        ("gpt2", "cls", "pooling='cls' reads position 0, which in a causal decoder"),
        ("gpt2", "cls+mean", "use pooling='last', 'mean' or 'auto'"),
        ("biogpt", "cls", "which in a causal decoder such as 'biogpt' sees only itself"),
        ("vit", "last", "pooling='last' reads the last token, which images do not have"),
        ("clip", "last", "use pooling='cls', 'mean', 'cls\\+mean' or 'auto'"),
        ("siglip", "last", "use pooling='mean', 'attention' or 'auto'"),
        ("siglip", "cls", "pooling='cls' reads the class token, which 'siglip' does not have"),
        ("siglip", "cls+mean", "use pooling='mean', 'attention' or 'auto'"),
    ],
)
def test_a_pooling_that_makes_no_sense_is_refused(family, pooling, reason):
    with pytest.raises(ValueError, match=reason):
        make_network(family, pooling)


# ------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_logits_are_float32_under_autocast(family):
    network, batch = make_network(family, "mean"), random_batch(family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(**batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, network(**batch), atol=0.2, rtol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_inference_copy_leaves_the_network_alone(dtype):
    network, batch = make_network("bert", "cls+mean", dropout=0.5).train(), random_batch("bert")
    before = weights_of(network)
    made = network.to_inference_copy(CPU, dtype)
    assert made is not network
    assert network.training
    assert not made.training
    assert {p.dtype for p in made.backbone.parameters()} == {dtype}
    assert {p.dtype for p in made.heads.parameters()} == {torch.float32}
    with torch.no_grad():
        tolerance = 1e-6 if dtype == torch.float32 else 0.3
        torch.testing.assert_close(
            made(**batch), network.eval()(**batch), atol=tolerance, rtol=tolerance
        )
        for parameter in made.parameters():
            parameter.zero_()
    assert_same(network, before)


def test_a_network_that_is_ready_is_not_copied():
    network = make_network("bert", "mean")
    assert network.to_inference_copy(CPU, torch.float32) is network
    assert network.train().to_inference_copy(CPU, torch.float32) is not network


# --------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("how", ["pickle", "deepcopy", "rebuild"])
def test_copies_compute_the_same_and_share_nothing(family, pooling, how):
    network, batch = make_network(family, pooling, dropout=0.3), random_batch(family)
    made = {
        "pickle": lambda: pickle.loads(pickle.dumps(network)),
        "deepcopy": lambda: copy.deepcopy(network),
        "rebuild": lambda: rebuild_network(network.recipe(), network.state_dict()),
    }[how]()
    assert made.dropout == network.dropout
    assert made.pooling == network.pooling
    assert made.training == network.training
    assert_same(made, weights_of(network))
    with torch.no_grad():
        assert torch.equal(made(**batch), network(**batch))
        next(made.parameters()).add_(1)
    assert not torch.equal(next(made.parameters()), next(network.parameters()))


def test_copies_do_not_draw_from_the_callers_generator():
    network = make_network("bert", "mean")
    payload = pickle.dumps(network)
    state = torch.get_rng_state()
    copy.deepcopy(network)
    pickle.loads(payload)
    network.to_inference_copy(CPU, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_file_holds_each_weight_once():
    network = make_network("bert", "mean")
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    # A tiny network: its configuration weighs more than it would beside real weights.
    assert len(pickle.dumps(network)) < size + 16_000


# ------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_heads_have_their_rate_and_biases_and_norms_no_decay(family, pooling):
    network = make_network(family, pooling)
    groups = parameter_groups(network, 1e-4, 1e-2, 0.05)
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(settings) == sum(p.requires_grad for p in network.parameters())
    assert sum(len(group["params"]) for group in groups) == len(settings)
    norms = {
        id(parameter)
        for module in network.modules()
        if type(module).__name__.endswith("Norm")
        for parameter in module.parameters()
    }
    assert norms
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = settings[id(parameter)]
        assert rate == (1e-2 if name.startswith("heads.") else 1e-4)
        plain = id(parameter) in norms or name.endswith("bias")
        assert not (plain and decay), name
        if name.endswith("weight") and not plain:
            assert decay == 0.05, name


def test_logits_are_mapped_whatever_the_head_reads():
    network, batch = make_network("bert", "attention"), random_batch("bert")
    rng = np.random.default_rng(0)
    matrix, shift = (
        rng.normal(size=(network.n_layers, 3, 3)),
        rng.normal(size=(network.n_layers, 3)),
    )
    with torch.no_grad():
        before = network(**batch).double().numpy()
        network.map_logits(matrix, shift)
        found = network(**batch).numpy()
    np.testing.assert_allclose(found, np.einsum("mkj,nmj->nmk", matrix, before) + shift, atol=1e-5)


def test_text_encoders_have_a_dense_stage_and_families_with_a_final_norm_have_none():
    dense = {family: make_network(family, "mean").heads[0].dense is not None for family in FAMILIES}
    encoders = set(TEXT_FAMILIES) - set(CAUSAL_FAMILIES)
    assert {family for family, has in dense.items() if has} == encoders


def test_fresh_heads_are_small_and_without_bias():
    heads = make_network("bert", "mean").heads
    weights = np.concatenate([head.out.weight.detach().numpy().ravel() for head in heads])
    assert 0.01 < weights.std() < 0.03
    assert all((head.out.bias == 0).all() for head in heads)


@pytest.mark.parametrize(
    "part", ["heads.1.out.weight", "backbone.encoder.layer.0.output.dense.bias"]
)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_with_weights_that_are_not_finite_does_not_predict(part, bad):
    network = make_network("bert", pooling="cls").eval()
    with torch.no_grad():
        network.get_parameter(part).view(-1)[0] = bad
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=f"cannot predict: weights are NaN .* {part}"):
            network.to_inference_copy(torch.device("cpu"), dtype)
