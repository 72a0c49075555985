"""Adapters compute what transformers computes, layer by layer and row by row."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from sklearn_epee._nn.backbones import BackboneAdapter, adapter_for, known_families, load_backbone
from sklearn_epee._nn.pooling import last_real_positions
from tests.checkpoints import (
    IMAGE_FAMILIES,
    MAX_TOKENS,
    TEXT_FAMILIES,
    kind_of,
    random_batch,
    randomise,
    tiny_config,
)

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES

# Families whose positions transformers counts from the padding index by itself.
AFTER_PADDING_INDEX = ("roberta", "xlm-roberta", "camembert", "mpnet")
LLAMA_PLAN = ("llama", "mistral", "qwen2", "qwen3", "gemma")
LLAMA3_ROTARY = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# Family, options: everything that changes what a layer computes.
VARIANTS = [(family, {}) for family in FAMILIES] + [
    ("electra", {"embedding_size": 32}),
    ("albert", {"n_layers": 4, "num_hidden_groups": 2}),
    ("albert", {"inner_group_num": 2}),
    ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
    ("modernbert", {"layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none", "type_vocab_size": 2}),
    ("deberta-v2", {"position_buckets": -1, "position_biased_input": True}),
    ("deberta-v2", {"pos_att_type": "c2p", "max_relative_positions": 5, "position_buckets": -1}),
    ("deberta-v2", {"pos_att_type": "p2c", "embedding_size": 16}),
    ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_weights": False}),
    ("distilbert", {"sinusoidal_pos_embds": True}),
    ("biogpt", {"scale_embedding": False}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 4}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    ("llama", {"rope_parameters": LLAMA3_ROTARY}),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
    ("qwen2", {"use_sliding_window": False}),
    ("qwen3", {"attention_bias": True}),
    ("gemma", {"attention_bias": True, "hidden_act": "relu"}),
    ("bert", {"hidden_act": "relu", "chunk_size_feed_forward": 3}),
    ("vit", {"qkv_bias": False}),
    ("dinov2", {"use_swiglu_ffn": True}),
    ("dinov3_vit", {"use_gated_mlp": True, "key_bias": True}),
    ("dinov3_vit", {"num_register_tokens": 0, "drop_path_rate": 0.3, "rope_theta": 10.0}),
    ("beit", {"use_shared_relative_position_bias": True}),
    ("beit", {"use_relative_position_bias": False, "use_absolute_position_embeddings": True}),
    ("beit", {"use_mean_pooling": False, "layer_scale_init_value": 0.0, "use_mask_token": True}),
    ("dinov2", {"drop_path_rate": 0.3, "layerscale_value": 0.1}),
]


def make_adapter(family: str, **options: Any) -> BackboneAdapter:
    config = tiny_config(family, **options)
    return adapter_for(randomise(load_backbone(config, kind_of(family))))


def side_batches(family: str) -> list[dict[str, Tensor]]:
    if family in IMAGE_FAMILIES:
        return [random_batch(family)]
    return [random_batch(family, side=side) for side in ("right", "left")]


def reference(adapter: BackboneAdapter, batch: dict[str, Tensor]) -> tuple[list[Tensor], Any]:
    """Output of every layer module in transformers' own forward pass, and its result."""
    outputs: list[Tensor] = []
    layer_class = type(adapter._block(1))
    hooks = [
        module.register_forward_hook(
            lambda _module, _args, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for module in adapter.model.modules()
        if type(module) is layer_class
    ]
    arguments: dict[str, Any] = dict(batch)
    if adapter.kind == "image" and not adapter.family.startswith("dino"):
        arguments["interpolate_pos_encoding"] = True
    if adapter.kind == "text" and adapter.family not in AFTER_PADDING_INDEX:
        arguments["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    if adapter.family == "vit_mae":
        # All patches, in their order: what is drawn for the masking is made to keep them so.
        adapter.model.config.mask_ratio = 0.0
        n_patches = adapter.embed(batch)[0].shape[1] - 1
        arguments["noise"] = torch.arange(float(n_patches)).expand(len(batch["pixel_values"]), -1)
    result = adapter.model(**arguments)
    for hook in hooks:
        hook.remove()
    return outputs, result


def walk(adapter: BackboneAdapter, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    hidden, mask = adapter.embed(batch)
    outputs = []
    for layer in range(1, adapter.n_layers + 1):
        hidden = adapter.layer(layer, hidden, mask)
        outputs.append(hidden)
    return outputs, mask


@pytest.mark.parametrize(("family", "options"), VARIANTS)
@torch.no_grad()
def test_every_layer_equals_transformers(family, options):
    adapter = make_adapter(family, **options)
    for batch in side_batches(family):
        expected, result = reference(adapter, batch)
        outputs, mask = walk(adapter, batch)
        assert adapter.n_layers == len(expected) == len(outputs)
        for ours, theirs in zip(outputs, expected, strict=True):
            # Without a norm behind a layer its output may be of any size.
            size = max(1.0, float(theirs[mask].abs().mean()))
            torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5 * size, rtol=1e-5)
        final = adapter.pool(outputs[-1])
        if family == "clip":
            # Only the class token goes through CLIP's last norm.
            final, target = final[:, 0], result.pooler_output
        elif family == "beit" and adapter.model.config.use_mean_pooling:
            # BEiT normalizes after taking the mean.
            final = adapter.pool(outputs[-1][:, 1:].mean(1))
            target = result.pooler_output
        else:
            final, target = final[mask], result.last_hidden_state[mask]
        torch.testing.assert_close(final, target, atol=1e-5, rtol=1e-5)
        for before, after in pairwise(outputs):
            assert (after - before).abs().max() > 0.01


@pytest.mark.parametrize(("family", "options"), VARIANTS)
@torch.no_grad()
def test_rows_of_a_subset_equal_rows_of_the_layer(family, options):
    adapter = make_adapter(family, **options)
    for batch in side_batches(family):
        hidden, mask = adapter.embed(batch)
        last = last_real_positions(mask)[:, None]
        other = torch.randint(mask.shape[1], (len(mask), 3))
        for layer in range(1, adapter.n_layers + 1):
            whole = adapter.layer(layer, hidden, mask)
            k, v = adapter.keys_values(layer, hidden)
            torch.testing.assert_close(adapter.rows(layer, hidden, k, v, mask), whole)
            for positions in (last, other):
                index = positions[..., None].expand(-1, -1, adapter.hidden_size)
                rows = adapter.rows(layer, hidden.gather(1, index), k, v, mask, positions)
                torch.testing.assert_close(rows, whole.gather(1, index), atol=1e-5, rtol=1e-5)
            hidden = whole


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@torch.no_grad()
def test_padding_and_company_change_nothing(family):
    adapter = make_adapter(family)
    alone = random_batch(family, 1)
    length = alone["input_ids"].shape[1]
    expected = walk(adapter, alone)[0][-1]
    pad = adapter.model.config.pad_token_id or 0
    for side in ("right", "left"):
        batch = random_batch(family, 4, seed=1, side=side)
        width = batch["input_ids"].shape[1]
        assert width > length
        place = slice(0, length) if side == "right" else slice(width - length, width)
        batch["input_ids"][2] = pad
        batch["attention_mask"][2] = 0
        batch["input_ids"][2, place] = alone["input_ids"][0]
        batch["attention_mask"][2, place] = 1
        outputs, _ = walk(adapter, batch)
        torch.testing.assert_close(outputs[-1][2, place], expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@torch.no_grad()
def test_a_row_without_tokens_stays_finite_and_alone(family):
    adapter = make_adapter(family)
    batch = random_batch(family, 4)
    before = walk(adapter, batch)[0][-1]
    batch["attention_mask"][1] = 0
    outputs, mask = walk(adapter, batch)
    assert torch.isfinite(outputs[-1]).all()
    torch.testing.assert_close(outputs[-1][0][mask[0]], before[0][mask[0]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_segments_are_read():
    adapter = make_adapter("bert")
    batch = random_batch("bert")
    segments = batch | {"token_type_ids": (batch["input_ids"] % 2)}
    expected, _ = reference(adapter, segments)
    outputs, mask = walk(adapter, segments)
    torch.testing.assert_close(outputs[-1][mask], expected[-1][mask], atol=1e-5, rtol=1e-5)
    assert (outputs[-1] - walk(adapter, batch)[0][-1]).abs().max() > 0.01


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_attention_gets_a_mask_only_where_something_is_padded(family, padded, monkeypatch):
    adapter = make_adapter(family)
    batch = random_batch(family)
    if not padded:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    seen = []
    original = functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.append(kwargs.get("attn_mask") is not None)
        return original(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    walk(adapter, batch)
    assert seen == [padded] * adapter.n_layers


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
@pytest.mark.parametrize("size", [(24, 24), (8, 32), (4, 4)])
@torch.no_grad()
def test_other_image_sizes_interpolate_as_transformers(family, size):
    adapter = make_adapter(family)
    adapter.set_image_size(size)
    batch = {"pixel_values": torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))}
    expected, _ = reference(adapter, batch)
    outputs, mask = walk(adapter, batch)
    assert mask.all()
    assert mask.shape == outputs[-1].shape[:2]
    torch.testing.assert_close(outputs[-1], expected[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_pixels_that_do_not_fit_are_refused(family):
    adapter = make_adapter(family)
    with pytest.raises(ValueError, match=r"image_size: images of 18x16 .* patches of 4x4"):
        adapter.embed({"pixel_values": torch.zeros(1, 3, 18, 16)})
    with pytest.raises(ValueError, match="2x2"):
        adapter.embed({"pixel_values": torch.zeros(1, 3, 2, 2)})
    with pytest.raises(ValueError, match=r"pixel_values has 1 channels; .* expects 3"):
        adapter.embed({"pixel_values": torch.zeros(1, 1, 16, 16)})


@torch.no_grad()
def test_oblong_images_work_at_their_own_size_only():
    adapter = make_adapter("vit", image_size=(8, 16))
    hidden, _ = adapter.embed({"pixel_values": torch.zeros(1, 3, 8, 16)})
    assert hidden.shape == (1, 1 + 2 * 4, 32)
    with pytest.raises(ValueError, match=r"image_size: .* 8x16 .* got 16x16"):
        adapter.embed({"pixel_values": torch.zeros(1, 3, 16, 16)})


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@torch.no_grad()
def test_texts_as_long_as_the_positions_and_no_longer(family):
    adapter = make_adapter(family)
    assert adapter.max_length == MAX_TOKENS
    ids = torch.full((1, MAX_TOKENS + 1), 7)
    short = {"input_ids": ids[:, :-1], "attention_mask": torch.ones(1, MAX_TOKENS)}
    assert adapter.embed(short)[0].shape == (1, MAX_TOKENS, 32)
    with pytest.raises(ValueError, match=f"has {MAX_TOKENS + 1} tokens .* at most {MAX_TOKENS}"):
        adapter.embed({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.mark.parametrize("layer", [0, -1, 4])
def test_layers_are_counted_from_one(layer):
    for family in ("bert", "albert"):
        adapter = make_adapter(family)
        hidden, mask = adapter.embed(random_batch(family))
        with pytest.raises(ValueError, match=f"layer must be from 1 to 3, got {layer}"):
            adapter.layer(layer, hidden, mask)


NO_DROPOUT = {
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "clip": {"attention_dropout": 0.0},
    "siglip": {"attention_dropout": 0.0},
    "modernbert": {"attention_dropout": 0.0, "mlp_dropout": 0.0, "embedding_dropout": 0.0},
    "dinov3_vit": {"attention_dropout": 0.0, "pos_embed_rescale": None},
    "beit": {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    },
    **{family: {"attention_dropout": 0.0} for family in LLAMA_PLAN},
}
ATTENTION_DROPOUT = {
    "distilbert": "attention_dropout",
    "gpt2": "attn_pdrop",
    "clip": "attention_dropout",
    "siglip": "attention_dropout",
    "modernbert": "attention_dropout",
    "dinov3_vit": "attention_dropout",
    **dict.fromkeys(LLAMA_PLAN, "attention_dropout"),
}


def without_dropout(family: str) -> dict[str, float]:
    default = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return NO_DROPOUT.get(family, default)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_transformers(family):
    adapter = make_adapter(family, **without_dropout(family))
    adapter.model.train()
    batch = random_batch(family)
    gradients = []
    for forward in (walk, reference):
        adapter.model.zero_grad()
        outputs = forward(adapter, batch)[0]
        mask = adapter.embed(batch)[1]
        (outputs[-1] * mask[..., None]).square().mean().backward()
        gradients.append(
            {
                name: p.grad.clone()
                for name, p in adapter.model.named_parameters()
                if p.grad is not None
            }
        )
    ours, theirs = gradients
    # The model's last norm is not part of its layers.
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attention_dropout_acts_in_training_only(family):
    name = ATTENTION_DROPOUT.get(family, "attention_probs_dropout_prob")
    adapter = make_adapter(family, **(without_dropout(family) | {name: 0.5}))
    hidden, mask = adapter.embed(random_batch(family))
    torch.testing.assert_close(adapter.layer(1, hidden, mask), adapter.layer(1, hidden, mask))
    adapter.model.train()
    again = adapter.layer(1, hidden, mask) - adapter.layer(1, hidden, mask)
    assert again.abs().max() > 0.01


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit", "dinov2"])
@torch.no_grad()
def test_hidden_dropout_is_the_models_own(family):
    option = {"gpt2": "resid_pdrop"}.get(family, "hidden_dropout_prob")
    adapter = make_adapter(family, **(without_dropout(family) | {option: 0.5}))
    if family == "dinov2":
        # Its layers drop whole branches, not units.
        adapter = make_adapter(family, **without_dropout(family), drop_path_rate=0.5)
    hidden, mask = adapter.embed(random_batch(family))
    adapter.model.train()
    torch.manual_seed(0)
    again = adapter.layer(1, hidden, mask) - adapter.layer(1, hidden, mask)
    assert again.abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_bfloat16_by_autocast_and_by_weights(family):
    adapter = make_adapter(family)
    batch = random_batch(family)
    expected, mask = walk(adapter, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast, _ = walk(adapter, batch)
        hidden, _ = adapter.embed(batch)
        k, v = adapter.keys_values(1, hidden)
        positions = last_real_positions(mask)[:, None]
        rows = adapter.rows(1, hidden[torch.arange(4)[:, None], positions], k, v, mask, positions)
    adapter.model.to(torch.bfloat16)
    cast, _ = walk(adapter, batch)
    assert cast[-1].dtype == torch.bfloat16
    assert adapter.pool(cast[-1]).dtype == torch.bfloat16
    scale = expected[-1][mask].abs().mean()
    for outputs in (autocast, cast):
        error = (outputs[-1].float() - expected[-1])[mask].abs().mean()
        assert error < 0.1 * scale
    picked = expected[0][torch.arange(4)[:, None], positions]
    assert (rows.float() - picked).abs().mean() < 0.1 * picked.abs().mean()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@torch.no_grad()
def test_a_copy_has_weights_of_its_own(family, duplicate):
    adapter = make_adapter(family)
    batch = random_batch(family)
    expected = walk(adapter, batch)[0][-1]
    twin = duplicate(adapter)
    for parameter in adapter.model.parameters():
        parameter.zero_()
    torch.testing.assert_close(walk(twin, batch)[0][-1], expected)


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
UNSUPPORTED = [
    ("bert", {"is_decoder": True}, "is_decoder=True"),
    ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ("electra", {"position_embedding_type": "relative_key_query"}, "position_embedding_type"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size=3"),
    ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets=16"),
    ("megatron-bert", {"is_decoder": True}, "is_decoder=True"),
    (
        "modernbert",
        {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), DYNAMIC)},
        "rope_type='dynamic'",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "rope_type='dynamic'",
    ),
    ("qwen2", {"num_key_value_heads": 3}, "num_key_value_heads=3"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
]


@pytest.mark.parametrize(("family", "options", "named"), UNSUPPORTED)
def test_options_that_are_not_computed_are_refused(family, options, named):
    config = tiny_config(family, **options)
    with pytest.raises(ValueError, match=f"backbone: {named}.* not supported for the {family}"):
        load_backbone(config, "text")
    model = getattr(transformers, type(config).__name__.replace("Config", "Model"))(config)
    with pytest.raises(ValueError, match="not supported"):
        adapter_for(model)


def test_a_model_with_a_head_is_refused():
    model = transformers.BertForSequenceClassification(tiny_config("bert"))
    with pytest.raises(ValueError, match=r"BertModel .* got BertForSequenceClassification"):
        adapter_for(model)


class _OtherConfig(PretrainedConfig):
    model_type = "other"


class _OtherModel(PreTrainedModel):
    config_class = _OtherConfig


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown family 'other'.*bert, roberta.*dinov2"):
        adapter_for(_OtherModel(_OtherConfig()))


def test_known_families_are_those_with_an_adapter():
    assert known_families("text") == list(TEXT_FAMILIES)
    # timm's models are tested where timm is installed.
    assert known_families("image") == [*IMAGE_FAMILIES, "timm_wrapper"]
    assert known_families() == [*FAMILIES, "timm_wrapper"]
    with pytest.raises(ValueError, match="kind must be 'text', 'image' or None, got 'audio'"):
        known_families("audio")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cuda_equals_cpu(family):
    adapter = make_adapter(family)
    for batch in side_batches(family):
        expected, mask = walk(adapter, batch)
        moved = copy.deepcopy(adapter)
        moved.model.to("cuda")
        outputs, _ = walk(moved, {name: values.to("cuda") for name, values in batch.items()})
        torch.testing.assert_close(
            outputs[-1].cpu()[mask], expected[-1][mask], atol=1e-3, rtol=1e-3
        )
