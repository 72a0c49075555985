"""Save preprocessors (tokenizers, image processors) as a document and files, and load them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_epee._checks.images import ImageForm
from sklearn_epee._checks.pixels import PixelRange, PixelScale
from sklearn_epee._folders import Loading, Saving, decode, encode, field, integer_field, list_of
from sklearn_epee._nn.backbones import adapter_for
from sklearn_epee._nn.images import MAX_SIDE, ImagePreprocessor, count_positions
from sklearn_epee._nn.long_texts import HeadTail, LongTexts, Windows
from sklearn_epee._nn.marked_texts import MarkedTextTokenizer
from sklearn_epee._nn.text_image import CaseForm, CaseReader
from sklearn_epee._nn.texts import TextTokenizer
from sklearn_epee._nn.word_texts import WordTokenizer
from sklearn_epee.exceptions import ModelFolderError

from .tokenizer_folder import read_processor, read_tokenizer, write_processor, write_tokenizer

_READERS_OF_TEXT = {"texts": TextTokenizer, "marked texts": MarkedTextTokenizer,
                    "words": WordTokenizer}  # fmt: skip
_SCALES = ("uint8", "whole numbers", "fractions", "numbers")
_PIXELS = ("uint8", "integer", "float")
_MAX_WINDOWS = 2**20
# Maximum length for backbones with rotary positions, which have no limit of their own.
_LONGEST = 2**24


def tokenizer_of(reader: Any) -> Any:
    """Return the tokenizer of a preprocessor."""
    return reader.text.tokenizer if isinstance(reader, CaseReader) else reader.tokenizer


def processor_of(reader: Any) -> Any:
    """Return the image processor of a preprocessor."""
    return reader.image.processor if isinstance(reader, CaseReader) else reader.processor


# ----------------------------------------------------------------------------------- writing


def write_preprocessor(reader: Any, saving: Saving, folders: list[str]) -> dict[str, Any]:
    """Write the files of a preprocessor, and return a document of everything else.

    Parameters
    ----------
    reader : TextTokenizer, ImagePreprocessor or CaseReader
    saving : Saving
    folders : list of str
        Folders of the backbones, in the order in which they run.

    Raises
    ------
    TypeError
        If its tokenizer or image processor cannot be saved.
    """
    if isinstance(reader, CaseReader):
        return {
            "kind": "cases",
            "towers": list(reader.form.towers),
            "n_first_layers": reader.form.n_first_layers,
            "exit_costs": list(reader.form.exit_costs),
            "text": write_preprocessor(reader.text, saving, ["text_backbone"]),
            "image": write_preprocessor(reader.image, saving, ["image_backbone"]),
        }
    folder = folders[0]
    if isinstance(reader, ImagePreprocessor):
        return _images_document(reader, write_processor(reader.processor, saving, folder))
    write_tokenizer(reader.tokenizer, saving, folder, pairs=reader.reads_pairs)
    kind = next(name for name, cls in _READERS_OF_TEXT.items() if type(reader) is cls)
    settings = reader.settings
    return {"kind": kind, **settings, "long_texts": _long_texts_document(settings["long_texts"])}


def _long_texts_document(how: LongTexts | None) -> dict[str, Any] | None:
    if how is None:
        return None
    return {"kind": "windows" if isinstance(how, Windows) else "head_tail", **vars(how)}


def _images_document(reader: ImagePreprocessor, processor: str | None) -> dict[str, Any]:
    settings = reader.settings
    form = settings["form"]
    return {
        "kind": "images",
        **settings,
        "size": list(settings["size"]),
        "mean": encode(settings["mean"]),
        "std": encode(settings["std"]),
        "form": {
            "n_channels": int(form.n_channels),
            "kind": form.scale.kind,
            "seen": encode(dict(vars(form.scale.seen))),
        },
        "processor": processor,
    }


# ----------------------------------------------------------------------------------- reading


def read_preprocessor(
    document: Mapping[str, Any],
    loading: Loading,
    folders: list[str],
    backbones: list[Any],
    network: Any,
) -> Any:
    """Return the preprocessor of a document.

    Raises
    ------
    ModelFolderError
        If the document is invalid or does not match the backbones.
    """
    if len(folders) == 2:
        return _read_cases(document, loading, dict(zip(folders, backbones, strict=True)), network)
    folder, backbone = folders[0], backbones[0]
    kind = field(document, "kind", str, "the reader")
    wanted = _kinds_for(network, backbone)
    if kind not in wanted:
        raise ModelFolderError(f"a reader of {kind[:40]!r} does not match its network")
    if kind == "images":
        return _read_images(document, loading, folder, backbone)
    return _read_texts(kind, document, loading, folder, backbone)


def _kinds_for(network: Any, backbone: Any) -> tuple[str, ...]:
    if adapter_for(backbone).kind == "image":
        return ("images",)
    return {"word": ("words",), "entity": ("marked texts",)}.get(network.pooling, ("texts",))


def _read_texts(
    kind: str, document: Mapping[str, Any], loading: Loading, folder: str, backbone: Any
) -> Any:
    longest = adapter_for(backbone).max_length or _LONGEST
    max_length = integer_field(document, "max_length", 1, longest, "the reader")
    pairs = field(document, "reads_pairs", bool, "the reader")
    n_segments = integer_field(document, "n_segments", 0, 2, "the reader")
    long_texts = _read_long_texts(field(document, "long_texts", (dict, type(None))), max_length)
    tokenizer = read_tokenizer(loading, folder, int(backbone.config.vocab_size))
    if kind == "texts":
        return TextTokenizer(tokenizer, max_length, n_segments, pairs, long_texts)
    if pairs or n_segments or long_texts:
        raise ModelFolderError(f"a reader of {kind} cannot read pairs, segments or long texts")
    return _READERS_OF_TEXT[kind](tokenizer, max_length)


def _read_long_texts(document: Mapping[str, Any] | None, max_length: int) -> LongTexts | None:
    if document is None:
        return None
    length = integer_field(document, "length", 1, max_length, "long_texts")
    if field(document, "kind", str, "long_texts") == "head_tail":
        return HeadTail(length)
    if document["kind"] != "windows":
        raise ModelFolderError(
            f"long_texts has the kind {document['kind'][:40]!r}; expected 'head_tail' or 'windows'"
        )
    stride = field(document, "stride", (int, type(None)), "long_texts")
    if stride is not None:
        integer_field(document, "stride", 1, length, "long_texts")
    return Windows(length, stride, integer_field(document, "most", 1, _MAX_WINDOWS, "long_texts"))


def _read_images(
    document: Mapping[str, Any], loading: Loading, folder: str, backbone: Any
) -> ImagePreprocessor:
    where, config = "the reader", backbone.config
    sides = list_of(field(document, "size", list, where))
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise ModelFolderError(
            f"the size of images is {sides!r:.80}; expected two integers from 1 to {MAX_SIDE}"
        )
    size = (sides[0], sides[1])
    positions = count_positions(config, size)
    channels = int(config.num_channels)
    form = _read_form(field(document, "form", dict, where))
    integer_field(document, "n_positions", positions, positions, where)
    integer_field(document, "backbone_channels", channels, channels, where)
    if form.n_channels not in (1, channels):
        raise ModelFolderError(
            f"images have {form.n_channels} channels, but the backbone reads {channels}"
        )
    processor = read_processor(field(document, "processor", (str, type(None))), loading, folder)
    mean, std = (_read_statistics(document, name, form, processor) for name in ("mean", "std"))
    return ImagePreprocessor(
        size,
        form,
        channels,
        positions,
        mean=mean,
        std=std,
        processor=processor,
        augments=field(document, "augments", bool, where),
    )


def _read_form(document: Mapping[str, Any]) -> ImageForm:
    kind, seen = field(document, "kind", str, "form"), decode(document.get("seen"))
    pixels = field(seen, "kind", str, "seen")
    low, high = (float(field(seen, name, (float, int), "seen")) for name in ("low", "high"))
    if kind not in _SCALES or pixels not in _PIXELS or not low <= high:
        raise ModelFolderError("the form of images is invalid")
    whole_numbers = bool(field(seen, "whole", (bool, np.bool_), "seen"))
    scale = PixelScale(kind, PixelRange(pixels, low, high, whole_numbers))
    return ImageForm(integer_field(document, "n_channels", 1, 2**16, "form"), scale)


def _read_statistics(
    document: Mapping[str, Any], name: str, form: ImageForm, processor: Any
) -> Any:
    found = decode(document.get(name))
    if processor is not None:
        if found is not None:
            raise ModelFolderError(f"{name} cannot be combined with an image processor")
        return None
    is_array = isinstance(found, np.ndarray) and found.dtype == np.float32
    if not is_array or found.shape != (form.n_channels,) or not np.isfinite(found).all():
        raise ModelFolderError(f"{name} is not {form.n_channels} finite float32 numbers")
    if name == "std" and not (found > 0).all():
        raise ModelFolderError("std has values that are not above 0")
    return found


def _read_cases(
    document: Mapping[str, Any], loading: Loading, backbones: Mapping[str, Any], network: Any
) -> CaseReader:
    first, second = network.towers
    n_layers = first.n_layers + second.n_layers
    parts = {}
    for name in ("text", "image"):
        folder = f"{name}_backbone"
        tower = network.towers[list(backbones).index(folder)]
        part = field(document, name, dict, "the reader")
        parts[name] = read_preprocessor(part, loading, [folder], [backbones[folder]], tower)
    costs = list_of(document.get("exit_costs"))
    if len(costs) != n_layers or not all(type(cost) is float and 0 < cost <= 1 for cost in costs):
        raise ModelFolderError(f"exit_costs are not {n_layers} numbers above 0 and at most 1")
    towers = list_of(document.get("towers"))
    form = CaseForm(
        parts["image"].sample_form,
        (towers[0], towers[1]),
        integer_field(document, "n_first_layers", first.n_layers, first.n_layers, "the reader"),
        tuple(costs),
    )
    return CaseReader(parts["text"], parts["image"], form)
