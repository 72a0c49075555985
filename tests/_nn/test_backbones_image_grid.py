"""BEiT and DINOv3: layers that know where a patch is."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sklearn_epee import EPEEImageClassifier
from sklearn_epee._nn.backbones import adapter_for, empty_backbone, load_backbone
from sklearn_epee._nn.network import MultiExitNetwork
from tests.checkpoints import make_checkpoint, random_batch, randomise, tiny_config
from tests.classifiers import tiny_training

FAMILIES = ("beit", "dinov3_vit")


def pixels(height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, 3, height, width, generator=generator)}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_oblong_images_must_be_announced(family):
    adapter = adapter_for(randomise(load_backbone(tiny_config(family), "image")))
    adapter.embed(pixels(24, 24))
    # As many patches as in a square, and as in none.
    for size in ((8, 32), (8, 12)):
        with pytest.raises(ValueError, match=f"image_size: .* for images of {size[0]}x{size[1]}"):
            adapter.embed(pixels(*size))
        adapter.set_image_size(size)
        hidden, mask = adapter.embed(pixels(*size))
        adapter.layer(1, hidden, mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_oblong_size_is_kept_with_the_estimator(family, digits):
    X = np.repeat(digits[0], 2, axis=1)
    model = EPEEImageClassifier(
        tiny_config(family), image_size=(16, 8), **tiny_training(max_epochs=1)
    ).fit(X, digits[1])
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.net_.module_.backbone.config.read_image_size == [16, 8]
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("family", FAMILIES)
def test_predicting_first_does_not_keep_from_training(family):
    config = tiny_config(family, image_size=20)
    network = MultiExitNetwork(load_backbone(config, "image"), 2, "mean", 0.0)
    with torch.inference_mode():
        network.eval()(**pixels(20, 20))
    network.train()(**pixels(20, 20)).sum().backward()
    assert all(
        part.grad is not None for name, part in network.named_parameters() if "q_proj" in name
    )


def test_a_bias_of_beit_is_learned():
    network = MultiExitNetwork(load_backbone(tiny_config("beit"), "image"), 2, "mean", 0.0)
    network.train()(**random_batch("beit")).square().sum().backward()
    grads = [p.grad for name, p in network.named_parameters() if "relative_position" in name]
    assert len(grads) == network.n_layers
    assert all(grad.abs().max() > 0 for grad in grads)


def test_positions_of_dinov3_survive_an_empty_backbone():
    config = tiny_config("dinov3_vit")
    full, empty = adapter_for(load_backbone(config, "image")), adapter_for(empty_backbone(config))
    moved = full.rotary_angles("all", 19)
    empty.model.load_state_dict(full.model.state_dict(), assign=True)
    assert torch.equal(empty.rotary_angles("all", 19).cos, moved.cos)
    # The class token and the registers stay where they are.
    assert (moved.cos[:3] == 1).all()
    assert (moved.sin[3:] != 0).any(dim=1).all()


def test_published_names_of_dinov3_load(tmp_path):
    folder = make_checkpoint("dinov3_vit", tmp_path)
    expected = load_backbone(folder, "image").state_dict()
    path = folder / "model.safetensors"
    state = {key.replace("model.layer.", "layer."): part for key, part in load_file(path).items()}
    assert any(key.startswith("layer.") for key in state)
    save_file(state, path, metadata={"format": "pt"})
    found = load_backbone(folder, "image").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def published(key: str) -> str:
    """Return the name that the checkpoints on the hub have for a weight."""
    key = re.sub(r"^layers\.", "encoder.layer.", key)
    for new, old in OLD_NAMES.items():
        key = key.replace(new, old)
    inner = r"\1.attention.attention.relative_position_bias."
    key = re.sub(r"(layer\.\d+)\.relative_position_bias\.", inner, key)
    return key.replace("shared_position_bias", "encoder.relative_position_bias")


@pytest.mark.parametrize(
    ("family", "prefix", "head"),
    [("beit", "beit.", "classifier.weight"), ("vit_mae", "vit.", "decoder.mask_token")],
)
def test_published_names_of_beit_and_vit_mae_load(family, prefix, head, tmp_path):
    options = {"use_shared_relative_position_bias": True} if family == "beit" else {}
    folder = make_checkpoint(family, tmp_path, **options)
    expected = load_backbone(folder, "image").state_dict()
    path = folder / "model.safetensors"
    state = {prefix + published(key): part for key, part in load_file(path).items()}
    assert f"{prefix}encoder.layer.0.attention.attention.query.weight" in state
    save_file(state | {head: torch.zeros(2, 32)}, path, metadata={"format": "pt"})
    found = load_backbone(folder, "image").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("size", [(8, 16), (16, 16), (12, 24)])
@torch.no_grad()
def test_a_bias_made_for_oblong_images_equals_transformers(size):
    options = {"image_size": (8, 16), "use_shared_relative_position_bias": True}
    model = randomise(load_backbone(tiny_config("beit", **options), "image"))
    adapter = adapter_for(model)
    adapter.set_image_size(size)
    grid = size[0] // 4, size[1] // 4
    found = adapter.attention_bias(2, grid[0] * grid[1] + 1)
    tables = (model.shared_position_bias, model.layers[1].relative_position_bias)
    expected = sum(table(grid)[0] for table in tables)
    torch.testing.assert_close(found._table, expected)


def test_beit_without_its_pooler_begins_with_a_fresh_norm(tmp_path):
    folder = make_checkpoint("beit", tmp_path)
    path = folder / "model.safetensors"
    state = {key: part for key, part in load_file(path).items() if "pooler" not in key}
    index = {"layers.0.attention.relative_position_index": torch.zeros(17, 17, dtype=torch.long)}
    save_file(state | index, path, metadata={"format": "pt"})
    norm = load_backbone(folder, "image").pooler.layernorm
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
