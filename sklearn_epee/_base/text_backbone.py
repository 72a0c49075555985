"""Load the backbone and the tokenizer that the parameters of a text estimator name."""

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
    """Return a backbone, its tokenizer, and how many tokens it is given at most.

    Parameters
    ----------
    source : str, path-like, transformers config or None
        None: a compact one with fresh weights.
    tokenizer : str, path-like, tokenizer object or None
        None: the checkpoint's own, or one that is learned from the texts.
    max_length : int or None
        Longest row in tokens; None: what the backbone reads, or the longest text.
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
        None: the checkpoint's own, or one that is learned from the texts.
    texts : sequence of str or of pairs of str
        Training texts.
    adapted : callable, default: leaves it as it is
        Returns the tokenizer with tokens added, for which the backbone gets embeddings.
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
