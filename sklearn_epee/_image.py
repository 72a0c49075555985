"""EPEEImageClassifier: early-exit classification of images."""

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
from ._checks import Images, as_images
from .nn.backbones import load_backbone, load_config
from .nn.images import (
    ImageEncoder,
    as_size,
    channel_statistics,
    common_size,
    compact_image_config,
    config_size,
    count_positions,
    load_image_processor,
    processor_size,
)
from .nn.network import MultiExitNetwork


class EPEEImageClassifier(BaseEPEEClassifier):
    """Transformer classifier for images that answers each image at the first sure layer.

    PARAMETERS_PLACEHOLDER
    """

    _kind = "image"
    _sources = ("backbone", "image_processor")
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseEPEEClassifier._parameter_constraints,
        "backbone": [str, os.PathLike, PretrainedConfig, None],
        "image_processor": "no_validation",
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "image_shape": [tuple, list, None],
    }

    def __init__(
        self,
        backbone: str | os.PathLike[str] | PretrainedConfig | None = None,
        *,
        image_processor: Any = None,
        image_size: int | tuple[int, int] | None = None,
        image_shape: tuple[int, ...] | None = None,
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
        self.image_processor = image_processor
        self.image_size = image_size
        self.image_shape = image_shape
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

    def _check_samples(self, X: Any, *, fitting: bool) -> Images:
        images = as_images(X, self.image_shape)
        channels = images[0].shape[-1]
        if not fitting and channels != self._encoder.n_channels:
            raise ValueError(
                f"X holds images of {channels} channels, but this {type(self).__name__} was fitted "
                f"on images of {self._encoder.n_channels} channels."
            )
        return images

    def _training_defaults(self) -> _defaults.TrainingDefaults:
        if isinstance(self.backbone, (str, os.PathLike)):
            return _defaults.PRETRAINED_IMAGE
        return _defaults.SCRATCH_IMAGE

    def _build(self, samples: Images, n_classes: int) -> tuple[ImageEncoder, MultiExitNetwork]:
        n_channels = samples[0].shape[-1]
        if self.backbone is None:
            size = as_size(self.image_size) if self.image_size else common_size(samples)
            source: Any = compact_image_config(size, n_channels)
        else:
            source = copy.deepcopy(self.backbone)
        config = load_config(source, "image")
        _check_channels(n_channels, config)
        processor = self._processor()
        size = self._size_for(config, processor)
        encoder = self._encoder_for(samples, config, processor, size)
        backbone = load_backbone(source, "image")
        defaults = self._training_defaults()
        pooling = defaults.pooling if self.pooling == "auto" else self.pooling
        return encoder, MultiExitNetwork(backbone, n_classes, pooling, self._head_dropout())

    def _processor(self) -> Any:
        if self.image_processor is not None:
            return load_image_processor(self.image_processor, argument="image_processor")
        if isinstance(self.backbone, (str, os.PathLike)):
            return load_image_processor(self.backbone, argument="backbone")
        return None

    def _size_for(self, config: PretrainedConfig, processor: Any) -> tuple[int, int]:
        if self.backbone is not None and self.image_size is not None:
            return as_size(self.image_size)
        made = processor_size(processor) if processor is not None else None
        return made or config_size(config)

    def _encoder_for(
        self, samples: Images, config: PretrainedConfig, processor: Any, size: tuple[int, int]
    ) -> ImageEncoder:
        mean, std = (None, None) if processor is not None else channel_statistics(samples)
        return ImageEncoder(
            size,
            samples[0].shape[-1],
            config.num_channels,
            count_positions(config, size),
            mean=mean,
            std=std,
            processor=processor,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _check_channels(n_channels: int, config: PretrainedConfig) -> None:
    if n_channels not in (1, config.num_channels):
        raise ValueError(
            f"X holds images of {n_channels} channels, but the backbone reads "
            f"{config.num_channels}; only grey images (1 channel) can be repeated to fill them."
        )
