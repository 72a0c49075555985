"""Decoders in the plan of Llama: positions, local attention, their checkpoints and tokenizers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sklearn_epee import EPEEClassifier
from sklearn_epee._nn.backbones import adapter_for, empty_backbone, load_backbone
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.network import MultiExitNetwork
from tests.checkpoints import (
    MAX_TOKENS,
    UNPADDED_FAMILIES,
    make_checkpoint,
    random_batch,
    randomise,
    tiny_config,
)
from tests.classifiers import tiny_training

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")
ROTARY = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 4.0},
}


def rotary_config(kind: str):
    parameters = {"rope_type": kind, "rope_theta": 500.0} | ROTARY[kind]
    return tiny_config("llama", rope_parameters=parameters)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_texts_much_longer_than_the_local_attention_equal_transformers(family):
    model = randomise(load_backbone(tiny_config(family), "text"))
    adapter = adapter_for(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (2, MAX_TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 40:] = 0
    hidden, real = adapter.embed({"input_ids": ids, "attention_mask": mask})
    for layer in range(1, adapter.n_layers + 1):
        hidden = adapter.layer(layer, hidden, real)
    expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(adapter.pool(hidden)[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ROTARY)
@torch.no_grad()
def test_angles_that_no_file_holds_are_right_in_every_copy(kind):
    config, batch = rotary_config(kind), random_batch("llama")
    network = MultiExitNetwork(randomise(load_backbone(config, "text")), 3, "last", 0.0).eval()
    expected = network(**batch)
    empty = empty_backbone(config)
    assert torch.equal(empty.rotary_emb.inv_freq, network.backbone.rotary_emb.inv_freq)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network))(**batch), expected)
    short = network.to_inference_copy(torch.device("cpu"), torch.bfloat16)
    assert short.backbone.embed_tokens.weight.dtype == torch.bfloat16
    for name in ("cos", "sin"):
        found, exact = (getattr(n.adapter.rotary_angles("all", 64), name) for n in (short, network))
        assert torch.equal(found, exact)


def test_older_files_name_the_kind_of_positions_otherwise():
    config = tiny_config("llama", rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(
        ValueError, match=r"rope_type='dynamic' is not supported .* expected one of"
    ):
        load_backbone(config, "text")


def test_weights_in_bfloat16_become_float32(tmp_path):
    folder = make_checkpoint("llama", tmp_path)
    exact = load_backbone(folder, "text").embed_tokens.weight.bfloat16().float()
    rewrite(folder, lambda state: {key: value.bfloat16() for key, value in state.items()})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "bfloat16"}))
    model = load_backbone(folder, "text")
    assert {part.dtype for part in model.parameters()} == {torch.float32}
    assert model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.embed_tokens.weight, exact)


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_tied_to_the_embeddings_or_not_is_left_out(tied, tmp_path):
    whole = transformers.LlamaForCausalLM(tiny_config("llama", tie_word_embeddings=tied))
    randomise(whole, seed=1).save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    model = load_backbone(tmp_path, "text")
    assert torch.equal(model.embed_tokens.weight, whole.model.embed_tokens.weight)
    rewrite(tmp_path, lambda state: {k: v for k, v in state.items() if "embed_tokens" not in k})
    with pytest.raises(ValueError, match=r"missing \(1\): embed_tokens\.weight"):
        load_backbone(tmp_path, "text")


def test_angles_that_older_versions_saved_are_no_reason_to_refuse(tmp_path):
    folder = make_checkpoint("llama", tmp_path)
    extra = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(folder, lambda state: state | extra)
    load_backbone(folder, "text")


@pytest.mark.filterwarnings("ignore:.*longer than max_length")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "biogpt"])
def test_a_checkpoint_is_fine_tuned_with_its_own_tokenizer(family, notes, tmp_path):
    texts, labels = notes
    folder = make_checkpoint(family, tmp_path)
    model = EPEEClassifier(folder, **tiny_training(max_epochs=1)).fit(texts, labels)
    network, tokenizer = model.net_.module_, model._state.trained.preprocessor.tokenizer
    assert network.pooling == "last"
    assert (tokenizer.pad_token is None) == (family in UNPADDED_FAMILIES)
    assert len(tokenizer) == network.backbone.config.vocab_size
    first = model._state.trained.preprocessor.encode(texts[:1]).batch(np.arange(1))["input_ids"]
    begins = {"llama": "<s>", "gemma": "<bos>", "biogpt": "</s>"}.get(family)
    assert (tokenizer.convert_ids_to_tokens(first[0, :1])[0] == begins) == (begins is not None)
    proba = model.predict_proba(texts)
    # Whatever fills up a short text is never read.
    np.testing.assert_allclose(model.predict_proba(texts[:1]), proba[:1], atol=1e-5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(texts), proba)


@pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
def test_position_0_is_not_pooled(pooling, notes):
    model = EPEEClassifier(tiny_config("llama"), pooling=pooling, **tiny_training(max_epochs=1))
    with pytest.raises(ValueError, match="causal decoder such as 'llama' sees only itself"):
        model.fit(*notes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_is_run_by_packed_products(family):
    backbone = load_backbone(tiny_config(family), "text")
    engine = Engine(MultiExitNetwork(backbone, 2, "last", 0.0).eval())
    assert type(engine._placed.backbone).__name__ == "FastBackbone"
