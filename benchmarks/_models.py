"""Backbones with random weights, estimators with these, and real texts."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import (
    AlbertConfig,
    BertConfig,
    ErnieConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    ViTConfig,
)

from sklearn_epee import EntityMarker, EPEEClassifier, EPEEImageClassifier, datasets
from sklearn_epee._nn.engine import Engine
from sklearn_epee._nn.texts import learn_wordpiece

N_CLASSES = 3
WORDS_OF_SHORT = 6


class NotMeasuredError(Exception):
    """A row cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Family:
    """A backbone of a known size, and the pooling of its heads.

    Parameters
    ----------
    title : str
    config : callable
        Returns the transformers config.
    pooling : str
        The paper's pooling of the family.
    kind : {"text", "image"}
    """

    title: str
    config: Callable[[], PretrainedConfig]
    pooling: str
    kind: str = "text"


def _albert_base() -> AlbertConfig:
    # transformers' own defaults are those of the largest ALBERT.
    return AlbertConfig(
        embedding_size=128,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        num_hidden_layers=12,
    )


def _llama_small() -> LlamaConfig:
    """Return a decoder of BERT-base's depth and width, with three query heads per key head."""
    return LlamaConfig(
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        intermediate_size=2048,
        max_position_embeddings=512,
    )


def _minilm_sized() -> BertConfig:
    return BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )


def _modernbert_of_12_layers() -> ModernBertConfig:
    # As many layers as the others, for the same exits.
    return ModernBertConfig(num_hidden_layers=12)


FAMILIES = {
    "bert": Family("BERT-base", BertConfig, "cls"),
    "albert": Family("ALBERT-base", _albert_base, "cls"),
    "gpt2": Family("GPT-2", GPT2Config, "last"),
    "mpnet": Family("MPNet-base", MPNetConfig, "cls"),
    "modernbert": Family("ModernBERT of 12 layers", _modernbert_of_12_layers, "cls"),
    "llama": Family("a small Llama with grouped queries", _llama_small, "last"),
    # The architecture of BERT-base, in a family without a dedicated adapter.
    "ernie": Family("ERNIE-base by the generic adapter", ErnieConfig, "cls"),
    "vit": Family("ViT-base", ViTConfig, "cls", "image"),
    "minilm": Family("MiniLM-sized BERT", _minilm_sized, "cls"),
}


@functools.cache
def data_set(name: str, subset: str) -> tuple[list[str], np.ndarray]:
    """Return texts and labels of a real data set.

    Raises
    ------
    NotMeasuredError
        If its files are missing.
    """
    try:
        bunch = getattr(datasets, f"load_{name}")(subset=subset)
    except (FileNotFoundError, ValueError) as error:
        raise NotMeasuredError(f"data set {name} is not there: {error}") from error
    return list(bunch.data), np.asarray(bunch.target)


@functools.cache
def _pool() -> list[str]:
    """Return the texts of the test parts of health_advice and git, alternating."""
    health, git = data_set("health_advice", "test")[0], data_set("git", "test")[0]
    return [text for pair in zip(health, git, strict=False) for text in pair]


def real_texts(n: int) -> list[str]:
    """Return texts of two data sets, with their distribution of lengths.

    Parameters
    ----------
    n : int
        If it is less than the number of all texts, 930, they are taken at n even quantiles of the
        length; if it is larger, texts are repeated.
    """
    pool = _pool()
    whole, rest = divmod(n, len(pool))
    by_length = np.argsort([len(text) for text in pool], kind="stable")
    places = ((np.arange(rest) + 0.5) / max(rest, 1) * len(pool)).astype(int)
    return pool * whole + [pool[row] for row in np.sort(by_length[places])]


def short_texts(n: int) -> list[str]:
    """Return texts of a few words, cut from a real data set; all of them are distinct objects."""
    words = " ".join(data_set("health_advice", "train")[0]).split()
    starts = np.random.default_rng(0).integers(0, len(words) - WORDS_OF_SHORT, n)
    return [" ".join(words[start : start + WORDS_OF_SHORT]) for start in starts]


def marked(texts: list[str]) -> list[str]:
    """Return texts with marks around their first and their last word."""
    rows = []
    for text in texts:
        words = [word.span() for word in re.finditer(r"\S+", text)]
        rows.append((text, words[0], words[-1]))
    return EntityMarker(existing_marks="escape").fit_transform(rows).tolist()


def random_images(n: int, side: int = 224) -> np.ndarray:
    """Return images of noise, (n, side, side, 3) uint8; times do not depend on pixels."""
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def samples(family: str, n: int) -> Any:
    return real_texts(n) if FAMILIES[family].kind == "text" else random_images(n)


@functools.cache
def shared_tokenizer(vocab_size: int) -> Any:
    """Return a WordPiece tokenizer trained on the training parts of health_advice and git."""
    texts = data_set("health_advice", "train")[0] + data_set("git", "train")[0]
    return learn_wordpiece(texts, vocab_size)


@functools.lru_cache(maxsize=1)
def fresh_estimator(family: str, pooling: str | None = None) -> Any:
    """Return `new_estimator`, with a cache for the last one, as networks are large."""
    return new_estimator(FAMILIES[family], pooling or FAMILIES[family].pooling)


def new_estimator(
    family: Family,
    pooling: str,
    config: PretrainedConfig | None = None,
    n_classes: int = N_CLASSES,
    **parameters: Any,
) -> Any:
    """Fit one epoch on a few samples, for a network with nearly random weights.

    Parameters
    ----------
    family : Family
    pooling : str
    config : PretrainedConfig or None, default=None
        Another configuration of the family.
    n_classes : int, default=N_CLASSES
    **parameters
        Parameters of the estimator.

    Returns
    -------
    EPEEClassifier or EPEEImageClassifier
    """
    config = config or family.config()
    options: dict[str, Any] = {
        "backbone": config,
        "pooling": pooling,
        "max_epochs": 1,
        "memory": None,
        "random_state": 0,
        **parameters,
    }
    y = np.arange(2 * n_classes) % n_classes
    if family.kind == "image":
        estimator = EPEEImageClassifier(augment=False, **options)
        return estimator.fit(random_images(len(y), config.image_size), y)
    estimator = EPEEClassifier(tokenizer=shared_tokenizer(config.vocab_size), **options)
    texts = short_texts(len(y))
    return estimator.fit(marked(texts) if pooling == "entity" else texts, y)


def prepared(family: str, device: str, precision: str, pooling: str | None = None) -> Any:
    """Return the estimator of a family on a device and in a precision, otherwise with defaults."""
    estimator = fresh_estimator(family, pooling)
    return estimator.set_params(
        device=device, precision=precision, tau=0.1, patience=None, predict_batch_size="auto"
    )


def engine_of(estimator: Any) -> Engine:
    """Return the engine of a fitted estimator.

    On a GPU it captures every shape, as an engine that has run for a while has done for frequent
    shapes.
    """
    engine = estimator._state.engine(*estimator._setting())
    if engine._graphs is not None:
        engine._graphs.runs_before_capture = 0
    return engine


def encode(estimator: Any, X: Any) -> Any:
    """Encode samples as `predict` does before its engine runs."""
    state = estimator._state
    return state.trained.preprocessor.encode(estimator._check_samples(X, state.summary))
