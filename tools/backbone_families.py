"""Print which model families of transformers are supported, as the tables of docs/backbones.md.

    python tools/backbone_families.py

Every family of `TEXTS` and `IMAGES` without a dedicated adapter is created from a small
configuration with random weights and loaded as in `EPEEClassifier` and `EPEEImageClassifier`. It
either passes the check of the generic adapter, or is refused with a reason.
"""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import CONFIG_MAPPING

from sklearn_epee._nn.backbones import adapter_for, known_families, load_backbone

WIDE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE |= {"intermediate_size": 64}
TOKENS = WIDE | {"vocab_size": 120, "max_position_embeddings": 64, "pad_token_id": 0}
GPT = {"vocab_size": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "vocab_size": 120}
PIXELS = WIDE | {"image_size": 16, "patch_size": 4}
NARROW = {"embedding_size": 32}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

TEXTS = {
    "bart": {}, "bert-generation": TOKENS, "big_bird": TOKENS,
    "bloom": {"vocab_size": 120, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "canine": TOKENS, "codegen": GPT | {"rotary_dim": 4}, "cohere": TOKENS,
    "convbert": TOKENS | NARROW, "ctrl": GPT | {"dff": 64}, "data2vec-text": TOKENS,
    "deberta": TOKENS, "ernie": TOKENS, "esm": TOKENS | {"position_embedding_type": "rotary"},
    "eurobert": TOKENS, "falcon": TOKENS | {"new_decoder_architecture": False},
    "flaubert": {"vocab_size": 120, "emb_dim": 32, "n_layers": 3, "n_heads": 4}, "fnet": TOKENS,
    "funnel": {"block_sizes": [1, 1, 1]},
    "gemma2": TOKENS | GROUPED | {"sliding_window": 8},
    "gemma3_text": TOKENS | GROUPED | {"sliding_window": 8}, "gpt_bigcode": GPT,
    "gpt_neox": TOKENS, "gptj": GPT | {"rotary_dim": 4}, "granite": TOKENS,
    "ibert": TOKENS, "jina_embeddings_v3": TOKENS, "layoutlm": TOKENS,
    "longformer": TOKENS | {"attention_window": 8}, "luke": TOKENS,
    "mamba": {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "markuplm": TOKENS, "mixtral": TOKENS | {"num_key_value_heads": 2, "num_local_experts": 2},
    "mobilebert": TOKENS | NARROW, "modernbert-decoder": TOKENS | {"local_attention": 4},
    "mt5": T5, "nomic_bert": TOKENS,
    "nystromformer": TOKENS | {"num_landmarks": 8, "segment_means_seq_len": 8}, "olmo": TOKENS,
    "olmo2": TOKENS, "openai-gpt": GPT,
    "opt": TOKENS | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "phi": TOKENS,
    "qwen2_moe": TOKENS | {"num_key_value_heads": 2},
    "reformer": TOKENS, "rembert": TOKENS | {"input_embedding_size": 32},
    "roberta-prelayernorm": TOKENS, "roformer": TOKENS | NARROW,
    "smollm3": TOKENS, "splinter": TOKENS, "squeezebert": TOKENS | NARROW,
    "starcoder2": TOKENS, "t5": T5, "umt5": T5, "xlm-roberta-xl": TOKENS,
    "xlnet": {"vocab_size": 120, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64},
    "xmod": TOKENS | {"languages": ["en"], "default_language": "en"}, "yoso": TOKENS,
}  # fmt: skip
IMAGES = {
    "aimv2_vision_model": PIXELS, "bit": {}, "convnext": {}, "data2vec-vision": PIXELS,
    "dpt": PIXELS, "efficientnet": {}, "focalnet": {}, "hiera": {}, "ijepa": PIXELS,
    "levit": {}, "mlcd_vision_model": PIXELS, "mobilevit": {}, "pixio": PIXELS, "poolformer": {},
    "pvt": {}, "resnet": {}, "sam_vision_model": PIXELS,
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1],
             "num_heads": [2, 2], "window_size": 2},
    "videomae": PIXELS, "vit_msn": PIXELS, "vitdet": PIXELS,
    "yolos": PIXELS | {"image_size": [16, 16], "num_detection_tokens": 2},
}  # fmt: skip


def outcome(family: str, kind: str, options: dict) -> str | None:
    """Return why a family is refused; None if it passed the check of the generic adapter."""
    torch.manual_seed(0)
    try:
        adapter = adapter_for(load_backbone(CONFIG_MAPPING[family](**options), kind))
    except ValueError as error:
        reason = str(error).removeprefix("backbone: ").partition("generic adapter: ")
        return (reason[2] or reason[0]).partition(". Families")[0].rstrip(".")
    if adapter.rows_apart:
        raise SystemExit(f"{family} now has a dedicated adapter; remove it from the list.")
    return None


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print(
        f"Printed by `python tools/backbone_families.py`, transformers {transformers.__version__}."
    )
    for kind, tried in (("text", TEXTS), ("image", IMAGES)):
        print(f"\n**{kind.capitalize()}s, with a dedicated adapter:** ", end="")
        print(", ".join(f"`{family}`" for family in sorted(known_families(kind))) + ".")
        outcomes = {name: outcome(name, kind, options) for name, options in tried.items()}
        proved = [f"`{name}`" for name, reason in outcomes.items() if reason is None]
        print(f"\n**{kind.capitalize()}s, by the generic adapter:** {', '.join(proved)}.")
        print(f"\n| refused for {kind}s | why |\n| --- | --- |")
        for name, reason in outcomes.items():
            if reason is not None:
                print(f"| `{name}` | {reason} |")


if __name__ == "__main__":
    main()
