"""EPEEClassifier: early-exit classification of texts."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import joblib
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from transformers import PretrainedConfig

from . import _defaults
from ._base import BaseEPEEClassifier
from ._checks import Text, as_texts, is_paired
from .nn.backbones import adapter_for, checkpoint_pooling, load_backbone, load_config
from .nn.network import MultiExitNetwork
from .nn.texts import (
    TextEncoder,
    check_vocabulary,
    choose_max_length,
    compact_text_config,
    learn_wordpiece,
    load_tokenizer,
)


class EPEEClassifier(BaseEPEEClassifier):
    """Transformer classifier for texts that answers each text at the first sure layer.

    PARAMETERS_PLACEHOLDER
    """

    _kind = "text"
    _sources = ("backbone", "tokenizer")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEPEEClassifier._parameter_constraints,
        "backbone": [str, os.PathLike, PretrainedConfig, None],
        "tokenizer": "no_validation",
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        tokenizer: Any = None,
        max_length: int | None = None,
        tau: float = 0.1,
        patience: int | None = None,
        exit_ensemble: str | None = None,
        pooling: str = "auto",
        exit_loss_weights: str | ArrayLike = "ascending",
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        head_learning_rate: float | str = "auto",
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.1,
        dropout: float | str = "auto",
        class_weight: str | dict[Any, float] | None = None,
        validation_fraction: float = 0.0,
        early_stopping: bool = False,
        n_iter_no_change: int = 3,
        callbacks: Sequence[Any] | None = None,
        warm_start: bool = False,
        predict_batch_size: int | str = "auto",
        device: str = "auto",
        precision: str = "auto",
        memory: str | os.PathLike[str] | joblib.Memory | None = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
    ) -> None:
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.tau = tau
        self.patience = patience
        self.exit_ensemble = exit_ensemble
        self.pooling = pooling
        self.exit_loss_weights = exit_loss_weights
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.dropout = dropout
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.predict_batch_size = predict_batch_size
        self.device = device
        self.precision = precision
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _check_samples(self, X: Any, *, fitting: bool) -> list[Text]:
        texts = as_texts(X)
        if not fitting and is_paired(texts) != self._encoder.reads_pairs:
            names = {True: "pairs of texts", False: "single texts"}
            raise ValueError(
                f"X holds {names[is_paired(texts)]}, but this {type(self).__name__} was fitted on "
                f"{names[self._encoder.reads_pairs]}."
            )
        return texts

    def _training_defaults(self) -> _defaults.TrainingDefaults:
        if isinstance(self.backbone, (str, os.PathLike)):
            return _defaults.PRETRAINED_TEXT
        return _defaults.SCRATCH_TEXT

    def _build(self, samples: list[Text], n_classes: int) -> tuple[TextEncoder, MultiExitNetwork]:
        if self.backbone is None:
            return self._build_compact(samples, n_classes)
        source = copy.deepcopy(self.backbone)
        config = load_config(source, "text")
        tokenizer = self._tokenizer_for(samples, config)
        check_vocabulary(tokenizer, config)
        backbone = load_backbone(source, "text")
        adapter = adapter_for(backbone)
        max_length = choose_max_length(self.max_length, tokenizer, adapter.max_length, samples)
        n_segments = getattr(config, "type_vocab_size", 0) or 0
        encoder = TextEncoder(tokenizer, max_length, n_segments, is_paired(samples))
        said = checkpoint_pooling(source)
        return encoder, self._with_heads(backbone, n_classes, said, adapter.causal)

    def _build_compact(
        self, samples: list[Text], n_classes: int
    ) -> tuple[TextEncoder, MultiExitNetwork]:
        tokenizer = (
            learn_wordpiece(samples)
            if self.tokenizer is None
            else load_tokenizer(self.tokenizer, argument="tokenizer")
        )
        max_length = choose_max_length(self.max_length, tokenizer, None, samples)
        config = compact_text_config(tokenizer, max_length)
        encoder = TextEncoder(tokenizer, max_length, config.type_vocab_size, is_paired(samples))
        backbone = load_backbone(config, "text")
        return encoder, self._with_heads(backbone, n_classes, None, causal=False)

    def _tokenizer_for(self, samples: list[Text], config: PretrainedConfig) -> Any:
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer, argument="tokenizer")
        if isinstance(self.backbone, PretrainedConfig):
            return learn_wordpiece(samples, config.vocab_size, config.pad_token_id or 0)
        return load_tokenizer(self.backbone, argument="backbone")

    def _with_heads(
        self, backbone: Any, n_classes: int, said: str | None, causal: bool
    ) -> MultiExitNetwork:
        defaults = self._training_defaults()
        pooling = self.pooling
        if pooling == "auto":
            pooling = said or ("last" if causal else defaults.pooling)
        return MultiExitNetwork(backbone, n_classes, pooling, self._head_dropout())

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
