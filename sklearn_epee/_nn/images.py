"""Convert images to pixel tensors: checkpoint processors, or statistics of training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, ImageProcessingMixin, PretrainedConfig, ViTConfig

from sklearn_epee._checks.images import ImageForm, Images
from sklearn_epee._checks.messages import shown
from sklearn_epee._nn.training_defaults import SCRATCH_IMAGE_INITIALIZER_RANGE

from .augmentation import jitter
from .backbones import damaged_json, timm_processor_settings
from .batching import EncodedImages

MAX_SCRATCH_SIDE = 224
# In pixels; larger sides are mistakes that would end in running out of memory.
MAX_SIDE = 2**14
_MAX_PATCH = 16
# Number of pixels that are prepared at a time: those of 83 images of 224 x 224.
_MAX_PIXELS = 2**22
# Processors that transformers only has for torchvision, and equivalent ones that use Pillow.
_WITHOUT_PIL = {"DINOv3ViTImageProcessor": "ViTImageProcessor"}


class ImagePreprocessor:
    """Convert images to the pixels that a backbone reads.

    Parameters
    ----------
    size : tuple of int
        Height and width of the backbone's input, in pixels.
    form : ImageForm
        Channels of the training images, and how their pixels were scaled.
    backbone_channels : int
        Number of channels of the backbone's input; grey images are repeated.
    n_positions : int
        Number of positions of an image in the backbone.
    mean, std : ndarray of shape (n_channels,) or None
        Statistics of the training images; None with a processor.
    processor : image processor of transformers or None
        Prepares the images, if given.
    augments : bool, default=False
        Whether training images are augmented at random.
    """

    def __init__(
        self,
        size: tuple[int, int],
        form: ImageForm,
        backbone_channels: int,
        n_positions: int,
        *,
        mean: NDArray[np.float32] | None = None,
        std: NDArray[np.float32] | None = None,
        processor: Any = None,
        augments: bool = False,
    ) -> None:
        self.size = size
        self.form = form
        self.processor = processor
        self._backbone_channels = backbone_channels
        self._n_positions = n_positions
        self._mean = mean
        self._std = std
        self._augments = augments

    @property
    def sample_form(self) -> ImageForm:
        """Properties that samples must share with the training samples."""
        return self.form

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments of this object, except the processor."""
        return {
            "size": self.size,
            "form": self.form,
            "backbone_channels": self._backbone_channels,
            "n_positions": self._n_positions,
            "mean": self._mean,
            "std": self._std,
            "augments": self._augments,
        }

    def encode(self, images: Images) -> EncodedImages:
        """Return images for batching; pixels are prepared batch by batch."""
        return EncodedImages(images, self.transform, self._n_positions)

    def encode_in_windows(self, images: Images) -> Iterator[EncodedImages]:
        """Yield all images at once, because pixels are only prepared batch by batch.

        Parameters
        ----------
        images : ndarray of shape (n, h, w, c) or list of ndarrays of shape (h, w, c)

        Yields
        ------
        EncodedImages
        """
        yield self.encode(images)

    def encode_for_training(self, images: Images) -> EncodedImages:
        """Return training images, which are augmented at random if so configured."""
        transform = self._transform_and_jitter if self._augments else self.transform
        return EncodedImages(images, transform, self._n_positions)

    def _transform_and_jitter(self, images: Sequence[NDArray[Any]]) -> Tensor:
        return jitter(self.transform(images))

    def transform(self, images: Sequence[Any] | NDArray[Any]) -> Tensor:
        """Return some images (h, w, c) as one float tensor (n, c, h, w)."""
        prepare = self._process if self.processor is not None else self._standardize
        # Large images are decoded and resized a few at a time.
        parts = [prepare([np.asarray(image) for image in part]) for part in _parts(images)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _standardize(self, images: Sequence[NDArray[Any]]) -> Tensor:
        pixels = torch.cat([_resize(group, self.size) for group in _by_shape(images)])
        mean, std = (torch.as_tensor(part).view(1, -1, 1, 1) for part in (self._mean, self._std))
        return self._fill_channels((pixels - mean) / std)

    def _process(self, images: Sequence[NDArray[Any]]) -> Tensor:
        height, width = self.size
        size = {"height": height, "width": width}
        given = [self._fill_channels_last(to_uint8(image)) for image in images]
        try:
            prepared = self.processor(
                images=given,
                input_data_format="channels_last",
                return_tensors="np",
                **self._size_options(size),
            )
            pixels = np.asarray(prepared["pixel_values"], dtype=np.float32)
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"image_processor: a {type(self.processor).__name__} cannot prepare the images: "
                f"{type(error).__name__}: {error}"
            ) from error
        expected = (len(given), self._backbone_channels, height, width)
        if pixels.shape != expected:
            raise ValueError(
                f"image_processor: a {type(self.processor).__name__} returns pixels of shape "
                f"{pixels.shape}; expected {expected} (images, channels, height, width)."
            )
        return torch.from_numpy(pixels)

    def check(self, images: Images) -> None:
        """Prepare one training image, to detect errors before the training.

        Raises
        ------
        ValueError
            If the processor fails, or returns pixels of another shape or that are not finite.
        """
        if not torch.isfinite(self.transform(images[:1])).all():
            raise ValueError("image_processor: the prepared pixels contain NaN or infinity.")

    def _size_options(self, size: dict[str, int]) -> dict[str, Any]:
        if processor_size(self.processor) == (size["height"], size["width"]):
            return {}
        return {"size": size, "do_center_crop": False}

    def _fill_channels(self, pixels: Tensor) -> Tensor:
        if pixels.shape[1] == self._backbone_channels:
            return pixels
        return pixels.expand(-1, self._backbone_channels, -1, -1)

    def _fill_channels_last(self, image: NDArray[Any]) -> NDArray[Any]:
        if image.shape[-1] == self._backbone_channels:
            return image
        return np.repeat(image, self._backbone_channels, axis=-1)


def to_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as 0..255; floats are read as 0..1.

    Raises
    ------
    ValueError
        If a float image leaves the range 0..1.
    """
    if image.dtype == np.uint8:
        return image
    if image.min() < 0 or image.max() > 1:
        raise ValueError(
            f"X holds float pixels from {image.min():g} to {image.max():g}; an image processor of "
            "a checkpoint expects uint8 (0..255) or floats in [0, 1]. Rescale X."
        )
    return np.rint(image * 255).astype(np.uint8)


def scaled(images: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels as float32; uint8 is divided by 255, floats stay as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32)


def channel_statistics(images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation of each channel over all training pixels, float32."""
    # Use differences from one pixel: they are exactly 0 for a constant channel, and an offset does
    # not reduce the precision.
    pivot = scaled(np.asarray(images[0]))[0, 0].astype(np.float64)
    total, squares, count = np.zeros_like(pivot), np.zeros_like(pivot), 0
    for image in images:
        flat = np.asarray(image).reshape(-1, len(pivot))
        for start in range(0, len(flat), _MAX_PIXELS):
            pixels = scaled(flat[start : start + _MAX_PIXELS]).astype(np.float64) - pivot
            total += pixels.sum(0)
            squares += (pixels**2).sum(0)
        count += len(flat)
    mean = pivot + total / count
    variance = np.maximum(squares / count - (total / count) ** 2, 0)
    std = np.sqrt(variance).astype(np.float32)
    # A constant channel contains no information; dividing it by 1 leaves it at zero. Whether a
    # variance is only due to rounding is decided relative to the values, which may have any unit.
    varies = (variance > 1e-14 * (mean**2 + variance)) & (std > 0)
    return mean.astype(np.float32), np.where(varies, std, np.float32(1))


def load_image_processor(source: Any, *, argument: str) -> Any:
    """Return the image processor of a folder or hub id; an object is returned unchanged.

    Raises
    ------
    TypeError
        If `source` is none of these.
    ValueError
        If no processor is found.
    """
    if callable(source):
        return source
    if not isinstance(source, str) and not hasattr(source, "__fspath__"):
        raise TypeError(
            f"{argument} must be a folder, a hub id or an image processor of transformers; got "
            f"{type(source).__name__}."
        )
    try:
        return _load_pil_processor(str(source))
    except (
        OSError, ValueError, ImportError, LookupError, TypeError, AttributeError, RuntimeError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{argument}={str(source)!r} holds no image processor that can be loaded; pass "
            "image_processor= a folder with preprocessor_config.json, a hub id that can be "
            "reached, or a processor object; a checkpoint's own code is never run."
            f"{damaged_json(source)} transformers said: {error}"
        ) from error


def _load_pil_processor(source: str) -> Any:
    if (settings := timm_processor_settings(source)) is not None:
        # timm's own transforms need torchvision.
        return transformers.CLIPImageProcessorPil(**settings)
    try:
        return AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except (ImportError, ValueError):
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
        name = settings["image_processor_type"].removesuffix("Fast").removesuffix("Pil")
        name = _WITHOUT_PIL.get(name, name)
        if not hasattr(transformers, f"{name}Pil"):
            raise
        # transformers 5.17 requires torchvision even for processors that work without it.
        return getattr(transformers, f"{name}Pil").from_pretrained(source)


def processor_size(processor: Any) -> tuple[int, int] | None:
    """Return height and width of a processor's output; None if its settings do not specify it."""
    cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = cropped or getattr(processor, "size", None) or {}
    for names in (("height", "width"), ("shortest_edge", "shortest_edge")):
        try:
            return int(size[names[0]]), int(size[names[1]])
        except (KeyError, TypeError, ValueError):
            continue
    return None


def common_size(images: Images) -> tuple[int, int]:
    """Return the size of training images, or their median size if they differ."""
    shapes = np.array(sorted({image.shape[:2] for image in images}))
    if len(shapes) > 1:
        shapes = np.array([image.shape[:2] for image in images])
    height, width = (int(side) for side in np.median(shapes, axis=0))
    shrink = min(1.0, MAX_SCRATCH_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def suitable_patch(size: tuple[int, int]) -> int:
    """Return the patch size for about 4 x 4 patches, but at most 16 pixels.

    8 x 8 pixels give 2 and 28 x 28 give 7 (16 patches each), 224 x 224 give 16 (196 patches). A
    similar size that divides height and width is preferred, so that images are not resized.
    """
    wanted = min(max(1, min(size) // 4), _MAX_PATCH)
    fitting = [
        patch
        for patch in range(wanted // 2 + 1, min(2 * wanted, _MAX_PATCH + 1))
        if size[0] % patch == size[1] % patch == 0
    ]
    return min(fitting, key=lambda patch: (abs(patch - wanted), -patch), default=wanted)


def compact_image_config(size: tuple[int, int], n_channels: int) -> ViTConfig:
    """Return the architecture that is trained from scratch: a ViT with 6 layers of width 128."""
    patch = suitable_patch(size)
    height, width = (-(-side // patch) * patch for side in size)
    return ViTConfig(
        image_size=(height, width),
        patch_size=patch,
        num_channels=n_channels,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        initializer_range=SCRATCH_IMAGE_INITIALIZER_RANGE,
    )


def config_size(config: PretrainedConfig) -> tuple[int, int]:
    """Return height and width in an image backbone's config."""
    return as_size(config.image_size)


def as_size(value: Any, name: str = "image_size") -> tuple[int, int]:
    """Return an image size as (height, width).

    Parameters
    ----------
    value : int or sequence of two int
        Pixels.
    name : str, default="image_size"
        For the message.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If it is neither one integer nor two, or one is below 1 or unreasonably large.
    """
    sides: tuple[Any, ...] = (value, value) if isinstance(value, Integral) else tuple(value)
    if len(sides) != 2 or not all(_is_side(side) for side in sides):
        raise ValueError(
            f"{name}={shown(value)} is not valid; expected an integer >= 1 or (height, width), "
            f"each at most {MAX_SIDE} pixels."
        )
    return int(sides[0]), int(sides[1])


def _is_side(side: Any) -> bool:
    return isinstance(side, Integral) and 1 <= int(side) <= MAX_SIDE


def count_positions(config: PretrainedConfig, size: tuple[int, int]) -> int:
    """Return the number of positions of an image in a backbone: its patches and a class token."""
    patch = as_size(config.patch_size)
    return (size[0] // patch[0]) * (size[1] // patch[1]) + 1


def _parts(images: Sequence[Any] | NDArray[Any]) -> Iterator[Sequence[Any] | NDArray[Any]]:
    """Yield consecutive images with at most `_MAX_PIXELS` pixels; at least one image."""
    start = total = 0
    for end, image in enumerate(images):
        n_pixels = image.shape[0] * image.shape[1]
        if end > start and total + n_pixels > _MAX_PIXELS:
            yield images[start:end]
            start, total = end, 0
        total += n_pixels
    yield images[start:]


def _by_shape(images: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Return consecutive images of the same shape as tensors (n, c, h, w)."""
    groups: list[list[NDArray[Any]]] = []
    for image in images:
        if groups and groups[-1][0].shape == image.shape and groups[-1][0].dtype == image.dtype:
            groups[-1].append(image)
        else:
            groups.append([image])
    return [torch.from_numpy(scaled(np.stack(group))).permute(0, 3, 1, 2) for group in groups]


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return functional.interpolate(
        pixels, size=size, mode="bilinear", antialias=True, align_corners=False
    )
