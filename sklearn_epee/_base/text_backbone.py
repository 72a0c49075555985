"""The backbone and the tokenizer that the parameters of an estimator of texts ask for."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sklearn_epee._nn.backbones import (
    adapter_for,
    enlarge_vocabulary,
    load_backbone,
    load_config,
)
from sklearn_epee._nn.texts import (
    choose_max_length,
    compact_text_config,
    learn_wordpiece,
    load_tokenizer,
    required_vocabulary,
)


class TextBackbone(NamedTuple):
    """A backbone, the tokenizer whose tokens it reads, and how many of them at most."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int


def text_backbone(
    source: str | os.PathLike[str] | PretrainedConfig | None,
    tokenizer: Any,
    max_length: int | None,
    texts: Sequence[str],
) -> TextBackbone:
    """Return a backbone with its tokenizer.

    Parameters
    ----------
    source : str, path-like, transformers config or None
        None: a compact one with fresh weights.
    tokenizer : str, path-like, tokenizer object or None
        None: the checkpoint's own, or one that is learned from the texts.
    max_length : int or None
        Longest row in tokens.
    texts : sequence of str
        Training texts.

    Returns
    -------
    TextBackbone
    """
    if source is None:
        given = learn_wordpiece(texts) if tokenizer is None else _loaded(tokenizer)
        length = choose_max_length(max_length, given, None, texts)
        return TextBackbone(
            load_backbone(compact_text_config(given, length), "text"), given, length
        )
    source = copy.deepcopy(source)
    config = load_config(source, "text")
    if tokenizer is not None:
        given = _loaded(tokenizer)
    elif isinstance(source, PretrainedConfig):
        given = learn_wordpiece(texts, config.vocab_size, config.pad_token_id or 0)
    else:
        given = load_tokenizer(source, argument="backbone")
    checkpoint = None if isinstance(source, PretrainedConfig) else source
    n_tokens = required_vocabulary(given, config, checkpoint)
    backbone = load_backbone(source, "text")
    if n_tokens > config.vocab_size:
        enlarge_vocabulary(backbone, n_tokens)
    positions = adapter_for(backbone).max_length
    return TextBackbone(backbone, given, choose_max_length(max_length, given, positions, texts))


def _loaded(tokenizer: Any) -> PreTrainedTokenizerBase:
    return load_tokenizer(tokenizer, argument="tokenizer")
