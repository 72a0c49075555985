"""Load the backbone and the tokenizer of a text classifier, given its parameters."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sklearn_epee._checks.texts import Text
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


def text_backbone(
    source: str | os.PathLike[str] | PretrainedConfig | None,
    tokenizer: Any,
    max_length: int | None,
    texts: Sequence[str],
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """Return a backbone, its tokenizer, and the maximum number of tokens of a row.

    Parameters
    ----------
    source : str, path-like, transformers config or None
        None: a compact backbone with fresh weights.
    tokenizer : str, path-like, tokenizer object or None
        None: the tokenizer of the checkpoint, or one that is trained on the texts.
    max_length : int or None
        Maximum number of tokens of a row; None: that of the backbone, or of the longest text.
    texts : sequence of str
        Training texts.
    """
    if source is None:
        given = compact_tokenizer(tokenizer, texts)
        length = choose_max_length(max_length, given, None, texts)
        return load_backbone(compact_text_config(given, length), "text"), given, length
    backbone, given = given_backbone(source, tokenizer, texts)
    positions = adapter_for(backbone).max_length
    return backbone, given, choose_max_length(max_length, given, positions, texts)


def compact_tokenizer(tokenizer: Any, texts: Sequence[Text]) -> PreTrainedTokenizerBase:
    """Return the tokenizer for a backbone that is trained from scratch."""
    if tokenizer is None:
        return learn_wordpiece(texts)
    return load_tokenizer(tokenizer, argument="tokenizer")


def given_backbone(
    source: str | os.PathLike[str] | PretrainedConfig,
    tokenizer: Any,
    texts: Sequence[Text],
    adapted: Callable[[PreTrainedTokenizerBase], PreTrainedTokenizerBase] = lambda given: given,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the backbone of a checkpoint or a configuration, and its tokenizer.

    Parameters
    ----------
    source : str, path-like or transformers config
    tokenizer : str, path-like, tokenizer object or None
        None: the tokenizer of the checkpoint, or one that is trained on the texts.
    texts : sequence of str or of pairs of str
        Training texts.
    adapted : callable, default: returns it unchanged
        Returns the tokenizer with additional tokens, for which embeddings are added.
    """
    source = copy.deepcopy(source)
    config = load_config(source, "text")
    is_config = isinstance(source, PretrainedConfig)
    if tokenizer is not None:
        given = load_tokenizer(tokenizer, argument="tokenizer")
    elif is_config:
        given = learn_wordpiece(texts, config.vocab_size, config.pad_token_id or 0)
    else:
        given = load_tokenizer(source, argument="backbone")
    n_tokens = required_vocabulary(given, config, None if is_config else source)
    given = adapted(given)
    n_tokens = max(n_tokens, len(given))
    backbone = load_backbone(source, "text")
    if n_tokens > config.vocab_size:
        enlarge_vocabulary(backbone, n_tokens)
    return backbone, given
