"""Tiny configurations and complete checkpoint folders of every backbone family."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ENCODER_FAMILIES = (
    "bert",
    "roberta",
    "electra",
    "distilbert",
    "albert",
    "mpnet",
    "xlm-roberta",
    "camembert",
    "megatron-bert",
    "modernbert",
    "deberta-v2",
)
CAUSAL_FAMILIES = ("gpt2", "biogpt", "llama", "mistral", "qwen2", "qwen3", "gemma")
TEXT_FAMILIES = ENCODER_FAMILIES + CAUSAL_FAMILIES
# Their tokenizers have no padding token.
UNPADDED_FAMILIES = ("gpt2", "llama", "mistral")
IMAGE_FAMILIES = (
    "vit",
    "deit",
    "clip",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "siglip",
    "beit",
    "vit_mae",
)

# Families that the generic adapter runs, chosen for what their models pass to their layers.
GENERIC_TEXT_FAMILIES = ("bloom", "gpt_neox", "opt", "t5", "xlm-roberta-xl")
GENERIC_IMAGE_FAMILIES = ("data2vec-vision", "ijepa", "vit_msn")

# Words that the tokenizers know whole; anything else in ASCII is spelt with letters.
WORDS = (
    "the",
    "a",
    "patient",
    "takes",
    "took",
    "stopped",
    "starts",
    "never",
    "daily",
    "vitamin",
    "iron",
    "zinc",
    "melatonin",
    "supplement",
    "dose",
    "pain",
    "rash",
    "severe",
    "mild",
    "after",
    "before",
    "started",
    "with",
    "without",
    "history",
    "of",
    "and",
    "no",
    "was",
    "is",
    "given",
    "drug",
)

HIDDEN = 32
MAX_TOKENS = 64
IMAGE_SIZE = 16
PATCH_SIZE = 4

# What heads can read of a family, the first as the default of the tests.
_ENCODER_POOLINGS = ("cls", "mean", "cls+mean", "attention")

_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


def kind_of(family: str) -> str:
    """Return what a family reads, "text" or "image"."""
    return "text" if family in TEXT_FAMILIES + GENERIC_TEXT_FAMILIES else "image"


def poolings(family: str) -> tuple[str, ...]:
    """Return what heads can read of a family: a causal decoder has no class token."""
    if family in CAUSAL_FAMILIES:
        return ("last", "mean", "attention")
    if family == "siglip":
        return ("mean", "attention")
    return (*_ENCODER_POOLINGS, "last") if kind_of(family) == "text" else _ENCODER_POOLINGS


def tiny_config(family: str, n_layers: int = 3, **overrides: Any) -> PretrainedConfig:
    """Return a configuration of hidden size 32 with few layers; `overrides` are its own options."""
    layers = {"num_hidden_layers": n_layers, "num_attention_heads": 4, "hidden_size": HIDDEN}
    wide = layers | {"intermediate_size": 2 * HIDDEN}
    tokens = {"max_position_embeddings": MAX_TOKENS}
    pixels = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    pieces = {"vocab_size": len(_wordpieces())} | tokens | wide
    byte_level = {"vocab_size": len(_byte_vocab(_ROBERTA_SPECIALS)[0])}
    known = {
        "bert": ("BertConfig", pieces),
        # Positions of RoBERTa start after its padding index, 1.
        "roberta": (
            "RobertaConfig",
            wide | byte_level | {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1},
        ),
        "electra": ("ElectraConfig", pieces | {"embedding_size": HIDDEN // 2}),
        "distilbert": ("DistilBertConfig", _distilbert_options(pieces)),
        "albert": (
            "AlbertConfig",
            wide | tokens | {"vocab_size": len(_unigrams()), "embedding_size": HIDDEN // 2},
        ),
        "mpnet": (
            "MPNetConfig",
            pieces
            | {"vocab_size": len(_mpnet_pieces()), "max_position_embeddings": MAX_TOKENS + 2},
        ),
        "xlm-roberta": ("XLMRobertaConfig", wide | _unigram_options(_XLM_SPECIALS)),
        "camembert": ("CamembertConfig", wide | _unigram_options(_CAMEMBERT_SPECIALS)),
        "megatron-bert": ("MegatronBertConfig", pieces),
        "modernbert": ("ModernBertConfig", wide | tokens | _modernbert_options()),
        "deberta-v2": ("DebertaV2Config", wide | tokens | _deberta_options()),
        "gpt2": ("GPT2Config", _gpt2_options(n_layers)),
        # </s> begins a text of BioGPT.
        "biogpt": ("BioGptConfig", wide | byte_level | tokens),
        **_llama_plan(wide | tokens),
        "vit": ("ViTConfig", wide | pixels),
        "deit": ("DeiTConfig", wide | pixels),
        "clip": ("CLIPVisionConfig", wide | pixels),
        "dinov2": ("Dinov2Config", layers | pixels | {"mlp_ratio": 2}),
        "dinov2_with_registers": (
            "Dinov2WithRegistersConfig",
            layers | pixels | {"mlp_ratio": 2, "num_register_tokens": 2},
        ),
        "dinov3_vit": ("DINOv3ViTConfig", wide | pixels | {"num_register_tokens": 2}),
        "siglip": ("SiglipVisionConfig", wide | pixels),
        "beit": ("BeitConfig", wide | pixels | {"use_relative_position_bias": True}),
        "vit_mae": ("ViTMAEConfig", wide | pixels | _mae_decoder_options()),
    }
    name, options = _generic_options(family, n_layers) or known[family]
    return getattr(transformers, name)(**(options | overrides))


def _generic_options(family: str, n_layers: int) -> tuple[str, dict[str, Any]] | None:
    """Return the configuration class and options of a family without an adapter of its own."""
    wide = {"hidden_size": HIDDEN, "num_hidden_layers": n_layers, "num_attention_heads": 4}
    wide |= {"intermediate_size": 2 * HIDDEN}
    tokens = {"vocab_size": len(_wordpieces()), "max_position_embeddings": MAX_TOKENS}
    pixels = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    vocabulary = {"vocab_size": len(_wordpieces()), "pad_token_id": 0}
    return {
        "bloom": ("BloomConfig", vocabulary | {"n_layer": n_layers, "n_head": 4} | wide),
        "gpt_neox": ("GPTNeoXConfig", wide | tokens),
        "opt": ("OPTConfig", wide | tokens | {"ffn_dim": 64, "word_embed_proj_dim": HIDDEN}),
        "t5": (
            "T5Config",
            vocabulary
            | {"d_model": HIDDEN, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": n_layers},
        ),
        "xlm-roberta-xl": (
            "XLMRobertaXLConfig",
            wide | tokens | {"max_position_embeddings": MAX_TOKENS + 2},
        ),
        "data2vec-vision": ("Data2VecVisionConfig", wide | pixels),
        "ijepa": ("IJepaConfig", wide | pixels),
        "vit_msn": ("ViTMSNConfig", wide | pixels),
    }.get(family)


def _distilbert_options(pieces: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": pieces["vocab_size"],
        "max_position_embeddings": MAX_TOKENS,
        "dim": HIDDEN,
        "hidden_dim": 2 * HIDDEN,
        "n_heads": 4,
        "n_layers": pieces["num_hidden_layers"],
    }


def _unigram_options(specials: tuple[str, ...]) -> dict[str, Any]:
    """Return what XLM-RoBERTa and CamemBERT have of RoBERTa, with a vocabulary of their own."""
    return {
        "vocab_size": len(_unigrams(specials)),
        "max_position_embeddings": MAX_TOKENS + 2,
        "type_vocab_size": 1,
    }


def _modernbert_options() -> dict[str, Any]:
    vocab, _ = _byte_vocab(_MODERNBERT_SPECIALS)
    named = {"pad": "[PAD]", "bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]"}
    return {
        "vocab_size": len(vocab),
        # So narrow that the texts of the tests are wider.
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        **{f"{name}_token_id": vocab[token] for name, token in named.items()},
    }


def _deberta_options() -> dict[str, Any]:
    """Return what version 3 has; so few buckets that the texts of the tests need the far ones."""
    return {
        "vocab_size": len(_unigrams(_DEBERTA_SPECIALS)),
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
    }


def _llama_plan(wide: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what each family adds to Llama: heads of another width, local attention, sharing."""
    llama = wide | {"vocab_size": len(_byte_vocab(_LLAMA_SPECIALS)[0])}
    llama |= {"bos_token_id": 0, "eos_token_id": 2, "num_key_value_heads": 2}
    local = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    qwen = llama | local | {"vocab_size": len(_byte_vocab(_GPT2_SPECIALS)[0])}
    gemma = {"vocab_size": len(_byte_vocab(_GEMMA_SPECIALS)[0]), "pad_token_id": 0}
    gemma |= {"eos_token_id": 1, "bos_token_id": 2, "num_key_value_heads": 1, "head_dim": 16}
    return {
        "llama": ("LlamaConfig", llama),
        "mistral": ("MistralConfig", llama | {"sliding_window": 5}),
        "qwen2": ("Qwen2Config", qwen),
        "qwen3": ("Qwen3Config", qwen | {"head_dim": 16}),
        "gemma": ("GemmaConfig", wide | gemma),
    }


def _gpt2_options(n_layers: int) -> dict[str, Any]:
    vocab, _ = _byte_vocab(_GPT2_SPECIALS)
    end = vocab["<|endoftext|>"]
    return {
        "vocab_size": len(vocab),
        "n_positions": MAX_TOKENS,
        "n_embd": HIDDEN,
        "n_head": 4,
        "n_layer": n_layers,
        "n_inner": 2 * HIDDEN,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def _mae_decoder_options() -> dict[str, Any]:
    return {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }


def make_checkpoint(
    family: str, folder: str | Path, *, n_layers: int = 3, seed: int = 0, **overrides: Any
) -> Path:
    """Write a complete checkpoint: random weights, and a tokenizer or an image processor.

    The base model is saved with its pooler, of CLIP and SigLIP both towers, as published
    checkpoints are.
    """
    folder = Path(folder)
    config = tiny_config(family, n_layers, **overrides)
    if family in ("clip", "siglip"):
        text = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4}
        text |= {"intermediate_size": HIDDEN, "vocab_size": 64, "bos_token_id": 1}
        text |= {"eos_token_id": 2, "pad_token_id": 0}
        whole = transformers.CLIPConfig if family == "clip" else transformers.SiglipConfig
        config = whole(text_config=text, vision_config=config.to_dict())
    model = transformers.AutoModel.from_config(config)
    randomise(model, seed)
    model.save_pretrained(folder)
    if kind_of(family) == "text":
        tiny_tokenizer(family).save_pretrained(folder)
    else:
        _write_image_processor(family, folder)
    return folder


def randomise(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draw weights at a scale that makes every layer change its input, unlike fresh ones."""
    generator = torch.Generator().manual_seed(seed)
    # Norms of Gemma multiply by 1 + w.
    one = 0.0 if model.config.model_type == "gemma" else 1.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() or "ln_" in name or "lambda" in name:
                parameter.copy_(0.2 * noise + (0.0 if name.endswith("bias") else one))
            elif parameter.ndim < 2:
                parameter.copy_(0.2 * noise)
            elif "embedding" in name or "token" in name or "wte" in name or "wpe" in name:
                parameter.copy_(0.7 * noise)
            else:
                fan_in = parameter[0].numel() if parameter.ndim > 2 else min(parameter.shape)
                # A gate and what it lets through are multiplied.
                scale = 0.5 if "gate_proj" in name or "up_proj" in name else 1.5
                parameter.copy_(scale * noise / fan_in**0.5)
    return model


def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Return a small tokenizer of the family's kind: GPT-2's has no padding token, as the real."""
    length = {"model_max_length": MAX_TOKENS}
    if family in GENERIC_TEXT_FAMILIES:
        return transformers.BertTokenizerFast(vocab=_wordpieces(), **length)
    if family in _PIECE_TOKENIZERS:
        name, vocabulary = _PIECE_TOKENIZERS[family]
        return getattr(transformers, name)(vocab=vocabulary(), **length)
    if family == "modernbert":
        return _marked_texts(**length)
    if family in _BEGUN:
        return _begun_texts(*_BEGUN[family], **length)
    if family in {"qwen2", "qwen3"}:
        vocab, merges = _byte_vocab(_GPT2_SPECIALS)
        return transformers.Qwen2TokenizerFast(vocab=vocab, merges=merges, **length)
    specials = _GPT2_SPECIALS if family == "gpt2" else _ROBERTA_SPECIALS
    name = "GPT2TokenizerFast" if family == "gpt2" else "RobertaTokenizerFast"
    vocab, merges = _byte_vocab(specials)
    return getattr(transformers, name)(vocab=vocab, merges=merges, **length)


_GPT2_SPECIALS = ("<|endoftext|>",)
_ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_XLM_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_CAMEMBERT_SPECIALS = (
    "<s>NOTUSED",
    "<pad>",
    "</s>NOTUSED",
    "<unk>",
    "<unk>NOTUSED",
    "<s>",
    "</s>",
    "<mask>",
)
_MODERNBERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_DEBERTA_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
_LLAMA_SPECIALS = ("<s>", "<unk>", "</s>")
_GEMMA_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
# Special tokens, and the one with which a text begins.
_BEGUN = {
    "biogpt": (_ROBERTA_SPECIALS, "</s>"),
    "llama": (_LLAMA_SPECIALS, "<s>"),
    "mistral": (_LLAMA_SPECIALS, "<s>"),
    "gemma": (_GEMMA_SPECIALS, "<bos>"),
}


def _marked_texts(**options: Any) -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer with BERT's marks, as ModernBERT's."""
    vocab, merges = _byte_vocab(_MODERNBERT_SPECIALS)
    backend = Tokenizer(models.BPE(vocab, merges, fuse_unk=False))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=True)
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(mark, vocab[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in names},
        **options,
    )


def _begun_texts(specials: tuple[str, ...], first: str, **options: Any) -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer that begins each text with a token and ends it with none."""
    vocab, merges = _byte_vocab(specials)
    backend = Tokenizer(models.BPE(vocab, merges, fuse_unk=False))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=True)
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, vocab[first])]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **options
    )
    named = {"<s>": "bos", "<bos>": "bos", "</s>": "eos", "<eos>": "eos"}
    named |= {"<unk>": "unk", "<pad>": "pad"}
    tokenizer.add_special_tokens({f"{named[t]}_token": t for t in specials if t in named})
    return tokenizer


def _wordpieces() -> dict[str, int]:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    spelt = [*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    words = [word for word in WORDS if len(word) > 1]
    return {piece: index for index, piece in enumerate([*specials, *spelt, *words])}


def _mpnet_pieces() -> dict[str, int]:
    specials = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    return {piece: index for index, piece in enumerate([*specials, *list(_wordpieces())[5:]])}


def _unigrams(
    specials: tuple[str, ...] = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
) -> list[tuple[str, float]]:
    first = [(piece, 0.0) for piece in specials]
    characters = [(character, -8.0) for character in ("▁", *_CHARACTERS)]
    return [*first, *characters, *((f"▁{word}", -4.0) for word in WORDS)]


# Tokenizers that are made from a vocabulary alone.
_PIECE_TOKENIZERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "bert": ("BertTokenizerFast", _wordpieces),
    "electra": ("BertTokenizerFast", _wordpieces),
    "megatron-bert": ("BertTokenizerFast", _wordpieces),
    "distilbert": ("DistilBertTokenizerFast", _wordpieces),
    "mpnet": ("MPNetTokenizer", _mpnet_pieces),
    "albert": ("AlbertTokenizerFast", _unigrams),
    "xlm-roberta": ("XLMRobertaTokenizer", partial(_unigrams, _XLM_SPECIALS)),
    "camembert": ("CamembertTokenizer", partial(_unigrams, _CAMEMBERT_SPECIALS)),
    "deberta-v2": ("DebertaV2Tokenizer", partial(_unigrams, _DEBERTA_SPECIALS)),
}


def _byte_vocab(specials: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a byte-level BPE that joins the words of `WORDS` letter by letter, from the left."""
    tokens = [*specials, *sorted(ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        # Byte-level BPE writes a space as this letter.
        joined = "Ġ"
        for letter in word:
            if (joined, letter) not in merges:
                merges.append((joined, letter))
                tokens.append(joined + letter)
            joined += letter
    return {token: index for index, token in enumerate(tokens)}, merges


def _write_image_processor(family: str, folder: Path) -> None:
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    settings: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": side,
    }
    crop = {"do_center_crop": True, "crop_size": side, "resample": 3}
    if family == "deit":
        settings |= {"image_processor_type": "DeiTImageProcessor"} | crop
    if family == "clip":
        settings |= {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True} | crop
        settings["size"] = {"shortest_edge": IMAGE_SIZE}
    if family == "siglip":
        settings |= {"image_processor_type": "SiglipImageProcessor", "resample": 3}
    if family == "beit":
        settings |= {"image_processor_type": "BeitImageProcessor"} | crop
    if family == "dinov3_vit":
        settings |= {"image_processor_type": "DINOv3ViTImageProcessor"}
    if family.startswith("dinov2"):
        settings |= {"image_processor_type": "BitImageProcessor"} | crop
        settings["size"] = {"shortest_edge": IMAGE_SIZE + 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def random_batch(family: str, n: int = 4, *, seed: int = 0, side: str = "right") -> dict[str, Any]:
    """Return random token ids of different lengths, padded on one side, or random pixels."""
    generator = torch.Generator().manual_seed(seed)
    if kind_of(family) == "image":
        shape = (n, 3, IMAGE_SIZE, IMAGE_SIZE)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    config = tiny_config(family)
    lengths = [3 + (5 * row) % 9 for row in range(n)]
    pad = config.pad_token_id or 0
    ids = torch.randint(5, config.vocab_size, (n, max(lengths)), generator=generator)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    return {"input_ids": ids.masked_fill(~mask, pad), "attention_mask": mask.long()}
