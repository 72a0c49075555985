"""Save tokenizers and image processors as data files, and load them without executing code.

A tokenizer is restored from ``tokenizer.json``, and an image processor from its settings by a class
of transformers. Other paths or classes that the files name are never used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer
from transformers import ImageProcessingMixin, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sklearn_epee._folders import Loading, Saving
from sklearn_epee._nn.images import MAX_SIDE
from sklearn_epee._nn.texts import tokenize
from sklearn_epee.exceptions import ModelFolderError

TOKENIZER = "tokenizer.json"
TOKENIZER_SETTINGS = "tokenizer_config.json"
PROCESSOR = "preprocessor_config.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
                   "mask_token")  # fmt: skip
_SIDES = ("left", "right")
# Texts on which a tokenizer and its restored copy must agree: entity marks, blanks, other scripts,
# unknown characters.
_PROBES = (
    "",
    "A patient takes 5 mg.",
    "[E1] zinc [/E1]  and\n[E2] rash [/E2]",
    "Åß 药物 🙂",
    "x" * 40,
)


# -------------------------------------------------------------------------------- tokenizers


def write_tokenizer(
    tokenizer: PreTrainedTokenizerBase, saving: Saving, folder: str, *, pairs: bool = False
) -> None:
    """Write the files of a tokenizer into a folder of the model.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    saving : Saving
    folder : str
    pairs : bool, default=False
        Whether it reads pairs of texts.

    Raises
    ------
    TypeError
        If the tokenizer cannot be restored from the files, for example if it is written in Python.
    """
    if not tokenizer.is_fast:
        raise TypeError(
            f"tokenizer: {type(tokenizer).__name__} is a slow tokenizer, which cannot be saved "
            "without pickle. Use a fast tokenizer (one with a tokenizer.json), or save with joblib."
        )
    path = saving.writer.path(f"{folder}/{TOKENIZER}")
    write_tokenizer_file(tokenizer, path)
    saving.writer.write_json(f"{folder}/{TOKENIZER_SETTINGS}", _settings_of(tokenizer))
    made = _make_tokenizer(path.read_bytes(), _settings_of(tokenizer))
    _check_same(tokenizer, made, pairs)


def write_tokenizer_file(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write the file of a fast tokenizer.

    Raises
    ------
    OSError
        If the disk is full, for example; the tokenizer's own `save` raises a bare `Exception`.
    """
    path.write_bytes(tokenizer.backend_tokenizer.to_str(pretty=True).encode())


def _settings_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the settings of a tokenizer that are not in its file, as transformers writes them."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(tokenizer.model_max_length),
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
    }
    for name in _SPECIAL_TOKENS:
        token = getattr(tokenizer, name, None)
        if token is not None:
            settings[name] = str(token)
    return settings


def _check_same(own: PreTrainedTokenizerBase, made: PreTrainedTokenizerBase, pairs: bool) -> None:
    """Raise if a tokenizer and its restored copy give different tokens."""
    samples: list[Any] = list(pairwise(_PROBES)) if pairs else list(_PROBES)
    for options in ({"truncation": False}, {"truncation": True, "max_length": 6}):
        rows = [
            tokenize(each, samples, return_token_type_ids=pairs, **options) for each in (own, made)
        ]
        if rows[0] != rows[1]:
            raise TypeError(
                f"tokenizer: a {type(own).__name__} returns other tokens than its {TOKENIZER}, so "
                "it cannot be saved without pickle. Save with joblib instead."
            )


def read_tokenizer(loading: Loading, folder: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder of the model.

    Parameters
    ----------
    loading : Loading
    folder : str
    vocab_size : int
        Number of embeddings; the ids of all tokens must be below it.

    Raises
    ------
    ModelFolderError
    """
    settings = loading.reader.json_of(f"{folder}/{TOKENIZER_SETTINGS}")
    content = loading.reader.bytes_of(f"{folder}/{TOKENIZER}")
    tokenizer = _make_tokenizer(content, _checked_settings(settings))
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < vocab_size:
        raise ModelFolderError(
            f"{folder}/{TOKENIZER} has token ids up to {largest}, but the backbone has only "
            f"{vocab_size} embeddings"
        )
    # Some inconsistencies only cause errors when the tokenizer is used.
    with _refused():
        tokenize(tokenizer, list(_PROBES))
        with suppress(Exception):  # not all take pairs; a Rust panic is not an Exception
            tokenize(tokenizer, list(pairwise(_PROBES)))
    return tokenizer


@contextmanager
def _refused() -> Iterator[None]:
    """Raise errors of the `with` block as a `ModelFolderError` about the tokenizer."""
    try:
        yield
    except BaseException as error:
        # A panic of the Rust library is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFolderError(f"{TOKENIZER} is not a tokenizer: {reason}") from error


def _make_tokenizer(content: bytes, settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    with _refused():
        backend = Tokenizer.from_buffer(content)
    backend.no_padding()
    backend.no_truncation()
    named = {name: value for name, value in settings.items() if name != "tokenizer_class"}
    for name in _SPECIAL_TOKENS:
        # Use the token's definition in the file, for example whether it includes blanks around it.
        if name in named and (number := backend.token_to_id(named[name])) is not None:
            known = backend.get_added_tokens_decoder().get(number)
            named[name] = known or AddedToken(named[name], special=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def _checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tokenizer, with the type of each one checked."""
    expected: dict[str, Any] = {
        "tokenizer_class": lambda x: x == "PreTrainedTokenizerFast",
        "model_max_length": lambda x: type(x) is int and x >= 1,
        "model_input_names": lambda x: isinstance(x, list) and all(type(n) is str for n in x),
        "padding_side": lambda x: x in _SIDES,
        "truncation_side": lambda x: x in _SIDES,
        "split_special_tokens": lambda x: type(x) is bool,
    }
    needed = set(expected)
    expected |= dict.fromkeys(_SPECIAL_TOKENS, lambda x: type(x) is str)
    for name, value in settings.items():
        if name not in expected or not expected[name](value):
            raise ModelFolderError(
                f"{TOKENIZER_SETTINGS} has the invalid setting {name[:40]!r}={value!r:.80}"
            )
    if missing := sorted(needed - set(settings)):
        raise ModelFolderError(f"{TOKENIZER_SETTINGS} has no {', '.join(missing)}")
    return dict(settings)


# -------------------------------------------------------------------------- image processors


def write_processor(processor: Any, saving: Saving, folder: str) -> str | None:
    """Write the file of an image processor, and return the name of its class.

    Returns
    -------
    str or None
        None if there is no processor.

    Raises
    ------
    TypeError
        If it is not an image processor of transformers.
    """
    if processor is None:
        return None
    name = type(processor).__name__
    if _processor_class(name) is not type(processor):
        raise TypeError(
            f"image_processor: a {type(processor).__module__}.{name} cannot be saved without "
            "pickle. Use an image processor of transformers, or save with joblib."
        )
    processor.save_pretrained(saving.writer.path(f"{folder}/{PROCESSOR}").parent)
    return name


def _processor_class(name: str) -> Any:
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, ImageProcessingMixin)):
        return None
    return found if found.__module__.startswith("transformers.models.") else None


def read_processor(name: str | None, loading: Loading, folder: str) -> Any:
    """Return the image processor in a folder of the model, given the name of its class.

    Raises
    ------
    ModelFolderError
    """
    if name is None:
        return None
    cls = _processor_class(name)
    if cls is None:
        raise ModelFolderError(f"{name[:80]!r} is not an image processor of transformers")
    settings = loading.reader.json_of(f"{folder}/{PROCESSOR}")
    known = cls().to_dict()
    for key, value in settings.items():
        if key not in known and key not in ("processor_class", "feature_extractor_type"):
            raise ModelFolderError(f"{PROCESSOR} has {key[:40]!r}, which is no setting of {name}")
        _check_numbers(key, value)
    return cls.from_dict({key: value for key, value in settings.items() if key in known})


def _check_numbers(name: str, value: Any) -> None:
    """Raise if a setting contains numbers that are too large for the side of an image."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_numbers(name, part)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_SIDE:
        raise ModelFolderError(
            f"{PROCESSOR} has {name[:40]!r}={value!r:.40}; expected at most {MAX_SIDE}"
        )
