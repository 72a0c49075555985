"""timm's vision transformers, from folders of timm, of transformers and of open_clip."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import TimmWrapperConfig

from sklearn_epee import EPEEImageClassifier, policy
from sklearn_epee._nn.backbones import adapter_for, load_backbone, load_config
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.fast_backbone import fast_backbone
from sklearn_epee._nn.images import load_image_processor
from sklearn_epee._nn.network import MultiExitNetwork
from tests._nn.exits import N_SAMPLES, assert_equal_predictions, make_samples, random_policies
from tests.checkpoints import random_batch, randomise

SIZES = {"depth": 4, "embed_dim": 32, "num_heads": 4, "img_size": 16, "patch_size": 4}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
CFG = {
    "input_size": [3, 16, 16], "mean": MEAN, "std": STD, "interpolation": "bilinear",
    "crop_pct": 0.9, "num_classes": 1000,
}  # fmt: skip
ARCHITECTURE = "vit_tiny_patch16_224"


def has_timm() -> bool:
    if importlib.util.find_spec("timm") is None:
        return False
    try:
        import timm  # noqa: F401, PLC0415 - it needs a torchvision that fits torch
    except (ImportError, RuntimeError):
        return False
    return True


needs_timm = pytest.mark.skipif(not has_timm(), reason="needs timm")


def make_config(**options: Any) -> TimmWrapperConfig:
    values = {
        "architecture": ARCHITECTURE,
        "model_args": SIZES | options,
        "label_names": [],
        "num_classes": 0,
    }
    return TimmWrapperConfig.from_dict(values)


VARIANTS = [
    {},
    {"init_values": 0.1},
    {"reg_tokens": 3, "no_embed_class": True},
    {"class_token": False, "global_pool": "avg"},
    {"global_pool": "avg"},
    {"qk_norm": True},
    {"pre_norm": True},
    {"qkv_bias": False},
    {"dynamic_img_size": True},
]


def make_adapter(**options: Any):
    model = load_backbone(make_config(**options), "image")
    randomise(model)
    with torch.no_grad():
        for name, part in model.named_parameters():
            if "gamma" in name:
                part.fill_(0.5).add_(torch.linspace(0, 0.1, len(part)))
    return adapter_for(model.eval())


@needs_timm
@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_every_layer_equals_timm(options):
    adapter = make_adapter(**options)
    vit = adapter.model.timm_model
    batch = random_batch("vit")
    expected: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda _m, _a, out: expected.append(out)) for b in vit.blocks]
    result = adapter.model(**batch)
    for hook in hooks:
        hook.remove()
    hidden, mask = adapter.embed(batch)
    assert adapter.has_class_token == options.get("class_token", True)
    for layer, own in enumerate(expected, start=1):
        k, v = adapter.keys_values(layer, hidden)
        positions = torch.tensor([[0, 3]]).expand(len(mask), -1)
        some = adapter.rows(layer, hidden[:, [0, 3]], k, v, mask, positions)
        hidden = adapter.layer(layer, hidden, mask)
        torch.testing.assert_close(hidden, own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(some, own[:, [0, 3]], atol=1e-5, rtol=1e-5)
    final = result.last_hidden_state
    torch.testing.assert_close(adapter.pool(hidden), vit.fc_norm(final), atol=1e-5, rtol=1e-5)


@needs_timm
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dynamic_inference_equals_the_policy_on_staged_probabilities(options, dtype):
    adapter = make_adapter(**options)
    has_fast = fast_backbone(adapter, dtype) is not None
    assert has_fast == (not options.get("qk_norm", False))
    torch.manual_seed(0)
    poolings = ("cls", "cls+mean", "mean") if adapter.has_class_token else ("mean",)
    samples = make_samples("vit")
    for pooling in poolings:
        network = MultiExitNetwork(adapter.model, 3, pooling, 0.0).eval()
        with torch.no_grad():
            for head in network.heads:
                head.out.weight.normal_(0, 1.5 / head.out.in_features**0.5)
        engine = Engine(network, dtype)
        staged = engine.staged(samples, N_SAMPLES)
        entropies = policy.normalized_entropy(staged)
        for rule in random_policies(np.random.default_rng(6), entropies):
            for batch_size in (1, 7, "auto"):
                assert_equal_predictions(engine.dynamic(samples, rule, batch_size), staged, rule)


# ------------------------------------------------------------------------------ checkpoint folders


def write_timm(folder: Path, state: dict[str, torch.Tensor]) -> None:
    content = {
        "architecture": ARCHITECTURE, "num_classes": 1000, "num_features": 32,
        # As UNI's file has it: also what the wrapper sets by itself.
        "model_args": SIZES | {"num_classes": 0, "init_values": 0.1}, "pretrained_cfg": CFG,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    head = {"head.weight": torch.zeros(1000, 32), "head.bias": torch.zeros(1000)}
    torch.save(state | head, folder / "pytorch_model.bin")


def write_open_clip(folder: Path, state: dict[str, torch.Tensor], *, safe: bool = False) -> None:
    """Write BiomedCLIP's layout."""
    content = {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {
                "timm_model_name": "vit_tiny_open_clip_test", "timm_model_pretrained": False,
                "timm_pool": "", "timm_proj": "linear", "image_size": 16,
            },
            "text_cfg": {"hf_model_name": "some/bert"},
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    whole = {f"visual.trunk.{name}": part for name, part in state.items()}
    whole |= {"visual.head.proj.weight": torch.zeros(8, 32), "logit_scale": torch.ones(())}
    whole |= {"text.transformer.embeddings.word_embeddings.weight": torch.zeros(9, 4)}
    if safe:
        save_file(whole, folder / "open_clip_model.safetensors")
    else:
        torch.save(whole, folder / "open_clip_pytorch_model.bin")


@pytest.fixture
def small_architecture():
    """Register a tiny architecture, as open_clip's file can only name one."""
    timm = pytest.importorskip("timm")

    def vit_tiny_open_clip_test(pretrained: bool = False, **kwargs: Any):
        sizes = {name: value for name, value in SIZES.items() if name != "img_size"}
        return timm.create_model(ARCHITECTURE, pretrained=pretrained, **(sizes | kwargs))

    vit_tiny_open_clip_test.__module__ = "timm.models.vision_transformer"
    timm.models.register_model(vit_tiny_open_clip_test)
    return "vit_tiny_open_clip_test"


def assert_same(model: Any, state: dict[str, torch.Tensor]) -> None:
    own = model.timm_model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], part) for name, part in state.items())


@needs_timm
def test_folders_of_timm_and_of_the_wrapper_load_with_identical_weights(tmp_path):
    adapter = make_adapter(init_values=0.1)
    state = adapter.model.timm_model.state_dict()
    write_timm(tmp_path, state)
    model = load_backbone(tmp_path, "image")
    assert_same(model, state)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers) == (32, 4)
    assert config.pretrained_cfg["mean"] == MEAN
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    assert_same(load_backbone(saved, "image"), state)


@needs_timm
@pytest.mark.parametrize("safe", [False, True])
def test_a_folder_of_open_clip_loads_its_vision_trunk(safe, tmp_path, small_architecture):
    state = make_adapter().model.timm_model.state_dict()
    write_open_clip(tmp_path, state, safe=safe)
    model = load_backbone(tmp_path, "image")
    assert_same(model, state)
    assert model.config.architecture == small_architecture
    processor = load_image_processor(tmp_path, argument="backbone")
    assert (list(processor.image_mean), list(processor.image_std)) == (MEAN, STD)
    assert dict(processor.crop_size) == {"height": 16, "width": 16}


@needs_timm
def test_keys_that_do_not_add_up_are_refused(tmp_path):
    state = dict(make_adapter(init_values=0.1).model.timm_model.state_dict())
    write_timm(tmp_path, {name: part for name, part in state.items() if name != "norm.bias"})
    with pytest.raises(ValueError, match=r"(?s)timm_wrapper.*missing \(1\): norm\.bias"):
        load_backbone(tmp_path, "image")
    write_timm(tmp_path, {f"wrapper.{name}": part for name, part in state.items()})
    with pytest.raises(ValueError, match=r"(?s)missing .*wrapper\.blocks"):
        load_backbone(tmp_path, "image")
    write_timm(tmp_path, state | {"pos_embed": torch.zeros(1, 5, 32)})
    with pytest.raises(ValueError, match=r"another shape .*pos_embed \(1, 5, 32\) instead of"):
        load_backbone(tmp_path, "image")


@needs_timm
def test_images_are_prepared_as_the_checkpoint_says(tmp_path):
    pytest.importorskip("PIL")
    write_timm(tmp_path, make_adapter(init_values=0.1).model.timm_model.state_dict())
    processor = load_image_processor(tmp_path, argument="backbone")
    # 16 pixels are 0.9 of the shorter edge.
    assert dict(processor.size) == {"shortest_edge": 17}
    assert int(processor.resample) == 2
    image = np.full((20, 30, 3), 128, np.uint8)
    pixels = np.asarray(processor([image], return_tensors="np")["pixel_values"])
    assert pixels.shape == (1, 3, 16, 16)
    expected = (128 / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(pixels[0, :, 8, 8], expected, atol=1e-5)


@needs_timm
def test_a_classifier_fits_predicts_and_pickles(tmp_path):
    write_timm(tmp_path, make_adapter(init_values=0.1).model.timm_model.state_dict())
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8), rng.integers(0, 2, 24)
    clf = EPEEImageClassifier(tmp_path, max_epochs=1, tau=0.9, random_state=0).fit(X, y)
    assert clf.net_.module_.pooling == "cls+mean"
    twin = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(clf.predict_proba(X), twin.predict_proba(X))


# ------------------------------------------------------------------------------- what is refused


@needs_timm
@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("resnet18", {}, r"'resnet18' is a ResNet; expected a VisionTransformer"),
        ("eva02_tiny_patch14_224", {}, r"is a Eva; expected a VisionTransformer"),
        ("vit_no_such_model", {}, "no_such_model"),
        ("vit_small_patch16_18x2_224", {"depth": 1}, "expected timm's plain Block"),
    ],
)
def test_other_architectures_are_refused(architecture, options, message):
    config = TimmWrapperConfig.from_dict(
        {"architecture": architecture, "model_args": options, "label_names": [], "num_classes": 0}
    )
    with pytest.raises(ValueError, match=message):
        load_backbone(config, "image")


@needs_timm
def test_open_clips_own_vision_models_are_refused(tmp_path):
    content = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"layers": 12, "width": 768}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"timm_model_name is missing"):
        load_config(tmp_path, "image")


def test_without_timm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = r"backbone: this is a timm model.*pip install 'sklearn_epee\[timm\]'"
    with pytest.raises(ImportError, match=message):
        load_config(make_config(), "image")
    write_timm(tmp_path, {})
    with pytest.raises(ImportError, match=message):
        load_backbone(tmp_path, "image")
    (tmp_path / "config.json").unlink()
    write_open_clip(tmp_path, {})
    with pytest.raises(ImportError, match=message):
        EPEEImageClassifier(tmp_path).fit(np.zeros((4, 16, 16, 3), np.uint8), [0, 1, 0, 1])


def test_a_timm_model_is_no_family_for_texts(tmp_path):
    write_timm(tmp_path, {})
    with pytest.raises(ValueError, match="'timm_wrapper' is a family for images"):
        load_config(tmp_path, "text")
