"""Families without an adapter of their own run in whole layers, or are refused when loaded."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sklearn_epee import EPEEClassifier, EPEEImageClassifier, policy
from sklearn_epee._nn.backbones import (
    adapter_for,
    empty_backbone,
    known_families,
    load_backbone,
    load_config,
)
from sklearn_epee._nn.backbones._generic import GenericAdapter
from sklearn_epee._nn.engine import Engine
from tests._nn.exits import (
    N_SAMPLES,
    assert_equal_predictions,
    make_network,
    make_samples,
    random_policies,
)
from tests.checkpoints import (
    GENERIC_IMAGE_FAMILIES,
    GENERIC_TEXT_FAMILIES,
    kind_of,
    make_checkpoint,
    random_batch,
    randomise,
    tiny_config,
)

FAMILIES = GENERIC_TEXT_FAMILIES + GENERIC_IMAGE_FAMILIES
CAUSAL = ("bloom", "gpt_neox", "opt")


def make_adapter(family: str, **options: Any) -> GenericAdapter:
    model = randomise(load_backbone(tiny_config(family, **options), kind_of(family)))
    adapter = adapter_for(model)
    assert isinstance(adapter, GenericAdapter)
    return adapter


def walk(adapter: GenericAdapter, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden, mask = adapter.embed(batch)
    for layer in range(1, adapter.n_layers + 1):
        hidden = adapter.layer(layer, hidden, mask)
    return hidden, mask


# ----------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_last_layer_equals_the_models_own_for_each_sample_alone(family):
    adapter = make_adapter(family)
    batch = random_batch(family)
    hidden, mask = walk(adapter, batch)
    pooled = adapter.pool(hidden)
    for row in range(len(mask)):
        real = int(mask[row].sum())
        alone = {name: part[row : row + 1] for name, part in batch.items()}
        if "input_ids" in alone:
            alone = {name: part[:, :real] for name, part in alone.items()}
        own = adapter.model(**alone)[0][0]
        torch.testing.assert_close(pooled[row, :real], own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rows_of_a_subset_equal_rows_of_the_layer(family):
    adapter = make_adapter(family)
    hidden, mask = adapter.embed(random_batch(family))
    positions = torch.tensor([[0, 2]]).expand(len(mask), -1)
    samples = torch.arange(len(mask))[:, None]
    for layer in range(1, adapter.n_layers + 1):
        whole = adapter.layer(layer, hidden, mask)
        k, v = adapter.keys_values(layer, hidden)
        rows = adapter.rows(layer, hidden[samples, positions], k, v, mask, positions)
        assert torch.equal(rows, whole[samples, positions])
        assert adapter.layer_parts(layer) is None
        hidden = whole
    assert not adapter.rows_apart


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kind_and_direction_of_a_family(family):
    adapter = make_adapter(family)
    assert adapter.kind == kind_of(family)
    assert adapter.causal == (family in CAUSAL)
    assert adapter.family == family


def test_positions_and_class_tokens():
    # RoBERTa's relatives count positions from after the padding token; T5 and BLOOM have none.
    lengths = {family: make_adapter(family).max_length for family in GENERIC_TEXT_FAMILIES}
    assert lengths == {"bloom": None, "gpt_neox": 64, "opt": 64, "t5": None, "xlm-roberta-xl": 64}
    assert make_adapter("data2vec-vision").has_class_token
    assert not make_adapter("ijepa").has_class_token
    ids = torch.full((1, 65), 7)
    with pytest.raises(ValueError, match=r"has 65 tokens .* at most 64"):
        make_adapter("gpt_neox").embed({"input_ids": ids})


def test_images_of_another_size_are_refused():
    adapter = make_adapter("ijepa")
    with pytest.raises(ValueError, match="own size of 16x16 pixels only; got 24x16"):
        adapter.embed({"pixel_values": torch.zeros(1, 3, 24, 16)})
    with pytest.raises(ValueError, match=r"pixel_values has 1 channels; .* expects 3"):
        adapter.embed({"pixel_values": torch.zeros(1, 1, 16, 16)})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@torch.no_grad()
def test_a_copy_has_weights_of_its_own(family, duplicate):
    adapter = make_adapter(family)
    batch = random_batch(family)
    expected, _ = walk(adapter, batch)
    twin = duplicate(adapter)
    for parameter in adapter.model.parameters():
        parameter.zero_()
    torch.testing.assert_close(walk(twin, batch)[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_backbone_filled_equals_the_original(family):
    config = tiny_config(family)
    model = randomise(load_backbone(config, kind_of(family)))
    state = torch.get_rng_state()
    empty = empty_backbone(config)
    assert torch.equal(torch.get_rng_state(), state)
    empty.load_state_dict(model.state_dict(), assign=True)
    batch = random_batch(family)
    with torch.no_grad():
        found, expected = (walk(adapter_for(each), batch)[0] for each in (empty, model))
    assert torch.equal(found, expected)


# -------------------------------------------------------------------------------- in the engine


NETWORKS = [
    *itertools.product(CAUSAL, ("last", "mean", "attention")),
    *itertools.product(("t5", "xlm-roberta-xl"), ("cls", "mean", "cls+mean", "last")),
    *itertools.product(("vit_msn",), ("cls", "mean", "cls+mean", "attention")),
    ("data2vec-vision", "mean"),
    ("ijepa", "mean"),
]


@pytest.mark.parametrize(("family", "pooling"), NETWORKS)
def test_dynamic_inference_equals_the_policy_on_staged_probabilities(family, pooling):
    rng = np.random.default_rng(6)
    engine, samples = Engine(make_network(family, pooling)), make_samples(family)
    staged = engine.staged(samples, N_SAMPLES)
    np.testing.assert_allclose(engine.staged(samples, 1), staged, atol=1e-5)
    entropies = policy.normalized_entropy(staged)
    assert entropies.max() - entropies.min() > 0.2
    for rule, batch_size in itertools.product(
        random_policies(rng, entropies), (1, 7, N_SAMPLES, "auto")
    ):
        assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


@pytest.mark.parametrize("family", ["gpt_neox", "t5", "data2vec-vision"])
def test_budgeted_inference_runs_no_layer_twice(family, monkeypatch):
    engine, samples = Engine(make_network(family, "mean")), make_samples(family)
    staged = engine.staged(samples)
    ran = []
    adapter = engine._placed.backbone
    layer_of = type(adapter).layer

    def counted(self, layer, hidden, mask):
        ran.append((layer, len(hidden)))
        return layer_of(self, layer, hidden, mask)

    monkeypatch.setattr(type(adapter), "layer", counted)
    proba = engine.budgeted(samples, 2, N_SAMPLES)
    np.testing.assert_allclose(proba, staged[:, 1], atol=1e-5)
    assert ran == [(1, N_SAMPLES), (2, N_SAMPLES)]


@pytest.mark.parametrize("family", ["gpt_neox", "t5", "ijepa"])
def test_on_a_cpu_whole_layers_are_computed_in_float32(family):
    # torch's own products in bfloat16 depend on the number of samples.
    pooling = "last" if family in CAUSAL else "mean"
    network, samples = make_network(family, pooling), make_samples(family)
    exact = Engine(network).staged(samples)
    np.testing.assert_array_equal(Engine(network, torch.bfloat16).staged(samples), exact)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_bfloat16_by_autocast_and_by_weights(family):
    adapter = make_adapter(family)
    batch = random_batch(family)
    expected, mask = walk(adapter, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast, _ = walk(adapter, batch)
    adapter.model.to(torch.bfloat16)
    cast, _ = walk(adapter, batch)
    assert adapter.pool(cast).dtype == torch.bfloat16
    scale = expected[mask].abs().mean()
    for found in (autocast, cast):
        assert (found.float() - expected)[mask].abs().mean() < 0.1 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_layer_and_checkpointing_changes_none(family):
    gradients = []
    for checkpointing in (False, True):
        network = make_network(family, "last" if family in CAUSAL else "mean").train()
        network.gradient_checkpointing = checkpointing
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            network(**random_batch(family)).square().mean().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    path = network.adapter._path
    names = [n for n, _ in network.named_parameters() if n.startswith(f"backbone.{path}")]
    assert names
    assert {name for name in names if name not in gradients[0]} == set()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------- training


@pytest.mark.filterwarnings("ignore:.*are longer than max_length")
@pytest.mark.parametrize("family", ["gpt_neox", "t5"])
def test_a_text_classifier_fits_predicts_and_pickles(family, tmp_path, notes):
    folder = make_checkpoint(family, tmp_path)
    X, y = notes[0][:40], notes[1][:40]
    clf = EPEEClassifier(folder, max_epochs=1, tau=0.5, max_length=32, random_state=0)
    clf.fit(X, y)
    assert clf.net_.module_.pooling == ("last" if family in CAUSAL else "mean")
    twin = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))
    np.testing.assert_allclose(
        clf.set_params(predict_batch_size=1).predict_proba(X), twin.predict_proba(X), atol=1e-5
    )
    clf.set_params(warm_start=True).fit(X, y)


def test_an_image_classifier_fits_predicts_and_pickles(digits):
    X, y = digits[0][:40], digits[1][:40]
    config = tiny_config("ijepa", num_channels=1)
    clf = EPEEImageClassifier(config, max_epochs=1, tau=0.5, random_state=0).fit(X, y)
    twin = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))


# ------------------------------------------------------------------------------ checkpoint folders


@pytest.mark.parametrize("class_name", ["GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification"])
def test_a_checkpoint_with_a_head_loads_its_backbone_only(class_name, tmp_path):
    whole = randomise(getattr(transformers, class_name)(tiny_config("gpt_neox")), seed=1)
    whole.save_pretrained(tmp_path)
    model, own = load_backbone(tmp_path, "text"), whole.base_model.state_dict()
    assert model.state_dict().keys() == own.keys()
    assert all(torch.equal(part, own[name]) for name, part in model.state_dict().items())


def test_an_encoder_and_decoder_checkpoint_loads_its_encoder(tmp_path):
    whole = transformers.T5ForConditionalGeneration(tiny_config("t5", num_decoder_layers=1))
    randomise(whole, seed=1).save_pretrained(tmp_path)
    model = load_backbone(tmp_path, "text")
    assert type(model).__name__ == "T5EncoderModel"
    own = whole.get_encoder().state_dict()
    assert all(torch.equal(part, own[name]) for name, part in model.encoder.state_dict().items())


REFUSED_KEYS = {
    "a wrapper class": (
        lambda state: {f"wrapper.{key}": value for key, value in state.items()},
        r"missing \(",
    ),
    "one layer too many": (
        lambda state: state | {"layers.9.mlp.dense_h_to_4h.bias": torch.zeros(64)},
        r"neither .* known head \(1\): layers\.9",
    ),
}


@pytest.mark.parametrize("case", REFUSED_KEYS)
def test_keys_that_do_not_add_up_are_refused(case, tmp_path):
    make_checkpoint("gpt_neox", tmp_path)
    change, message = REFUSED_KEYS[case]
    path = tmp_path / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"(?s)backbone: the folder .*gpt_neox.*{message}"):
        load_backbone(tmp_path, "text")


# -------------------------------------------------------------------------------- what is refused

WIDE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE |= {"intermediate_size": 64}
TOKENS = {"vocab_size": 120, "max_position_embeddings": 64}
UNEQUAL = [
    # It mixes positions by Fourier transforms, padding included.
    ("FNetConfig", TOKENS | WIDE, r"fnet .* differs from the model's own by up to \d"),
    # Its convolutions run over padding.
    ("ConvBertConfig", TOKENS | WIDE | {"embedding_size": 32}, r"convbert .* differs .* by up to"),
    # It adds positions between its layers.
    (
        "YolosConfig",
        WIDE | {"image_size": [16, 16], "patch_size": 4, "num_detection_tokens": 2},
        r"yolos .* differs .* by up to",
    ),
    ("BartConfig", {}, r"is_encoder_decoder=True is not supported for the bart family"),
    ("SwinConfig", {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1],
                    "num_heads": [2, 2], "window_size": 2}, "swin .* layer by layer"),
    ("PoolFormerConfig", {}, "poolformer .* one list of num_hidden_layers"),
    ("BigBirdConfig", TOKENS | WIDE, "'big_bird' .* changes its attention"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "message"), UNEQUAL)
def test_a_model_that_cannot_be_run_layer_by_layer_is_refused(name, options, message):
    config = getattr(transformers, name)(**options)
    image = {"YolosConfig", "SwinConfig", "PoolFormerConfig"}
    kind = "image" if name in image else "text"
    with pytest.raises(ValueError, match=f"(?s)backbone: .*{message}") as caught:
        load_backbone(config, kind)
    assert ", ".join(known_families(kind)) in str(caught.value)


def test_the_page_on_backbones_lists_every_family():
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    own, generic = {}, {}
    for kind in ("text", "image"):
        start = page.index(f"**{kind.capitalize()}s, with a dedicated adapter")
        lines = page[start:].splitlines()
        own[kind], generic[kind] = (set(re.findall(r"`(\S+)`", lines[i])) for i in (0, 2))
        assert own[kind] == set(known_families(kind))
    assert generic["text"] >= set(GENERIC_TEXT_FAMILIES)
    assert generic["image"] >= set(GENERIC_IMAGE_FAMILIES)


def test_a_family_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match=r"'t5' is a family for texts; .*image families: vit"):
        load_config(tiny_config("t5"), "image")
    with pytest.raises(ValueError, match=r"'ijepa' is a family for images; .*text families: bert"):
        load_config(tiny_config("ijepa"), "text")


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_sizes_that_no_network_can_have_are_refused(name):
    config = tiny_config("gpt_neox")
    object.__setattr__(config, name, 0)
    with pytest.raises(ValueError, match=f"backbone: {name}=0"):
        load_config(config, "text")
