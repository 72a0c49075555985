"""Tokenize texts: tokenizers of checkpoints, and vocabularies learned from training texts."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BatchEncoding,
    BertConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sklearn_epee._checks.messages import level_of_caller, numbered_from
from sklearn_epee._checks.texts import Text

from .backbones import damaged_json
from .batching import EncodedTexts
from .forks import ForkSafeLock
from .long_pairs import shorten_pairs
from .long_texts import LongTexts, TextSpan, Windows, joined, special_tokens_around

MAX_SCRATCH_LENGTH = 512
SCRATCH_VOCABULARY = 8000
# Number of Unicode code points.
_UNICODE = 0x110000
# Limits of one call of a tokenizer, which needs a few hundred bytes per token.
_CHUNK_TEXTS = 4096
_CHUNK_CHARACTERS = 2**21
# Lower limit for truncation, where a long pair needs the memory of up to nine rows.
_CHUNK_CHARACTERS_TRUNCATED = 2**19
# Limits of the texts of a prediction that are encoded at a time; they are sorted by length, so that
# batches need little padding.
_WINDOW = 4 * _CHUNK_TEXTS
_WINDOW_CHARACTERS = 2**25
# Truncation is part of a tokenizer's state, so two threads cannot use one at the same time.
_tokenizer_lock = ForkSafeLock()


class TextTokenizer:
    """Convert texts to token ids, up to the maximum length of a backbone.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    max_length : int
        Maximum number of tokens of a row, including special tokens; longer texts are truncated.
    n_segments : int
        Number of segment ids of the backbone; below 2, there are no segment ids.
    reads_pairs : bool
        Whether samples are pairs of texts.
    long_texts : Windows, HeadTail or None, default=None
        How texts longer than `max_length` are read; None: truncated by the tokenizer.
    """

    # For objects that were pickled before `long_texts` existed.
    long_texts: LongTexts | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        n_segments: int,
        reads_pairs: bool,
        long_texts: LongTexts | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.reads_pairs = reads_pairs
        self.long_texts = long_texts
        self._with_segments = (
            reads_pairs and n_segments > 1 and "token_type_ids" in tokenizer.model_input_names
        )

    @property
    def sample_form(self) -> bool:
        """Property that samples must share with the training samples: whether they are pairs."""
        return self.reads_pairs

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments of this object, except the tokenizer."""
        return {
            "max_length": self.max_length,
            "n_segments": 2 if self._with_segments else 0,
            "reads_pairs": self.reads_pairs,
            "long_texts": self.long_texts,
        }

    def encode(self, texts: Sequence[Text]) -> EncodedTexts:
        """Return the token ids of texts; warn once if some are truncated.

        Parameters
        ----------
        texts : sequence of str or of pairs of str

        Returns
        -------
        EncodedTexts
        """
        encoded, n_truncated = self._encode(texts)
        self._warn_if_truncated(n_truncated, len(texts))
        return encoded

    def encode_in_windows(self, texts: Sequence[Text]) -> Iterator[EncodedTexts]:
        """Yield the token ids of texts, a few thousand at a time, so that memory stays bounded.

        Parameters
        ----------
        texts : sequence of str or of pairs of str

        Yields
        ------
        EncodedTexts
            Consecutive texts, in order.
        """
        total = n_before = 0
        for window in windows_of_texts(texts):
            with numbered_from(n_before):
                encoded, n_truncated = self._encode(window)
            n_before += len(window)
            total += n_truncated
            yield encoded
        self._warn_if_truncated(total, len(texts))

    def _encode(self, texts: Sequence[Text]) -> tuple[EncodedTexts, int]:
        """Return the token ids, and the number of truncated texts."""
        ids, segments, lengths, windows, n_truncated = [], [], [], [], 0
        for chunk in chunks_of_texts(texts):
            rows, n_windows, n_long = self._encode_chunk(chunk)
            n_truncated += n_long
            lengths.append(np.array([len(row) for row in rows["input_ids"]], dtype=np.int64))
            windows.append(n_windows)
            ids.append(_flatten(rows["input_ids"], np.int32))
            if self._with_segments:
                segments.append(_flatten(rows["token_type_ids"], np.int8))
        encoded = EncodedTexts(
            np.concatenate(ids),
            np.concatenate(lengths),
            np.concatenate(segments) if segments else None,
            self.tokenizer.pad_token_id or 0,
            np.concatenate(windows) if isinstance(self.long_texts, Windows) else None,
        )
        return encoded, n_truncated

    def _warn_if_truncated(self, n_truncated: int, n_texts: int) -> None:
        if n_truncated:
            message = f"{n_truncated} of {n_texts} texts are {self._unread()}"
            warnings.warn(message, UserWarning, stacklevel=level_of_caller())

    def _unread(self) -> str:
        """Return the end of the warning about truncated texts."""
        if self.long_texts is not None:
            return self.long_texts.unread()
        return f"longer than max_length={self.max_length} tokens; the rest is not read."

    def encode_for_training(self, texts: Sequence[Text]) -> EncodedTexts:
        """Return the token ids of training texts; the same as `encode`."""
        return self.encode(texts)

    def _encode_chunk(self, chunk: Sequence[Text]) -> tuple[dict[str, Any], NDArray[np.int64], int]:
        """Return the rows of some texts, the number of rows of each, and of truncated texts."""
        rows = self._tokenize(chunk, truncation=False)
        lengths = [len(row) for row in rows["input_ids"]]
        n_rows = np.ones(len(chunk), dtype=np.int64)
        long = [i for i, length in enumerate(lengths) if length > self.max_length]
        n_truncated = len(long)
        if long and self.long_texts is not None:
            rows, n_rows, n_truncated = self._long_read(rows, self.long_texts)
        elif long:
            truncated = self._truncated([chunk[i] for i in long], [lengths[i] for i in long])
            for name, values in truncated.items():
                for i, value in zip(long, values, strict=True):
                    rows[name][i] = value
        # A tokenizer without special tokens returns no tokens for an empty text.
        filler = next(
            (
                token
                for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
                if token is not None
            ),
            0,
        )
        rows["input_ids"] = [row or [filler] for row in rows["input_ids"]]
        if self._with_segments:
            rows["token_type_ids"] = [row or [0] for row in rows["token_type_ids"]]
        return rows, n_rows, n_truncated

    def _long_read(
        self, rows: dict[str, Any], long_texts: LongTexts
    ) -> tuple[dict[str, Any], NDArray[np.int64], int]:
        """Split or shorten long rows; return rows, their number per text, and truncated texts."""
        before, after = special_tokens_around(self.tokenizer, tokenize)
        from_left = self.tokenizer.truncation_side == "left"
        read: list[list[int]] = []
        n_rows, n_truncated = np.ones(len(rows["input_ids"]), dtype=np.int64), 0
        for i, row in enumerate(rows["input_ids"]):
            if len(row) <= self.max_length:
                read.append(row)
                continue
            span = TextSpan(before, len(row) - after)
            parts, truncated = long_texts.parts(span, len(row), from_left)
            read.extend(joined(row, part) for part in parts)
            n_rows[i] = len(parts)
            n_truncated += truncated
        return {"input_ids": read}, n_rows, n_truncated

    def _truncated(self, texts: list[Text], lengths: list[int]) -> dict[str, list[list[int]]]:
        """Return truncated rows of texts that are too long."""
        far_too_long = [i for i, n in enumerate(lengths) if n > 2 * self.max_length]
        if self.reads_pairs and far_too_long:
            pairs: Any = [texts[i] for i in far_too_long]
            shortened = shorten_pairs(pairs, self.tokenizer, self.max_length, tokenize)
            for i, pair in zip(far_too_long, shortened, strict=True):
                texts[i] = pair
        rows: dict[str, list[list[int]]] = {}
        for chunk in chunks_of_texts(texts, _CHUNK_CHARACTERS_TRUNCATED):
            for name, values in self._tokenize(chunk, truncation=True).items():
                rows.setdefault(name, []).extend(values)
        return rows

    def _tokenize(self, texts: Sequence[Text], truncation: bool) -> dict[str, Any]:
        limit = {"max_length": self.max_length} if truncation else {}
        return tokenize(
            self.tokenizer,
            texts,
            truncation=truncation,
            return_token_type_ids=self._with_segments,
            **limit,
        )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], **options: Any
) -> dict[str, Any]:
    """Tokenize texts or pairs without padding; thread-safe."""
    return dict(call_tokenizer(tokenizer, texts, **options))


def call_tokenizer(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], **options: Any
) -> BatchEncoding:
    """Return the same as `tokenize`, including the `encodings` of a fast tokenizer."""
    first: list[str]
    second: list[str] | None
    if texts and isinstance(texts[0], tuple):
        first, second = [text[0] for text in texts], [text[1] for text in texts]
    else:
        first, second = list(texts), None  # type: ignore[arg-type]
    with _tokenizer_lock, _settings_kept(tokenizer):
        return tokenizer(
            first, second, padding=False, return_attention_mask=False, verbose=False, **options
        )


@contextmanager
def _settings_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore truncation and padding after a call, because the tokenizer may be the user's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        if backend.truncation != truncation:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
        if backend.padding != padding:
            backend.enable_padding(**padding) if padding else backend.no_padding()


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[int]:
    """Return the number of tokens of texts without truncation, including special tokens."""
    counts: list[int] = []
    for chunk in chunks_of_texts(texts):
        rows = tokenize(tokenizer, chunk, truncation=False, return_token_type_ids=False)
        counts.extend(len(row) for row in rows["input_ids"])
    return counts


def load_tokenizer(source: Any, *, argument: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub id; a tokenizer object is returned unchanged.

    Raises
    ------
    TypeError
        If `source` is none of these.
    ValueError
        If no tokenizer is found.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    if isinstance(source, Tokenizer):
        return PreTrainedTokenizerFast(tokenizer_object=source)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"{argument} must be a folder, a hub id or a tokenizer of transformers or tokenizers; "
            f"got {type(source).__name__}."
        )
    try:
        loaded = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        _check_not_empty(loaded)
        _check_longest(loaded)
        _forget_folder(loaded)
    except Exception as error:
        raise ValueError(
            f"{argument}={str(source)!r} holds no tokenizer that can be loaded; pass tokenizer= a "
            "folder with tokenizer files, a hub id that can be reached, or a tokenizer object; a "
            f"checkpoint's own code is never run.{damaged_json(source)} transformers said: {error}"
        ) from error
    return loaded


def _forget_folder(tokenizer: PreTrainedTokenizerBase) -> None:
    """Remove the folder of a tokenizer, so that a saved estimator does not contain local paths."""
    folder = tokenizer.name_or_path
    tokenizer.name_or_path = ""
    tokenizer.init_kwargs = {
        name: value
        for name, value in tokenizer.init_kwargs.items()
        if not (folder and isinstance(value, str) and value.startswith(folder))
    }


def _check_longest(tokenizer: PreTrainedTokenizerBase) -> None:
    longest = tokenizer.model_max_length
    if not isinstance(longest, Real) or isinstance(longest, bool) or not float(longest) >= 1:
        raise ValueError(
            f"model_max_length={longest!r} in tokenizer_config.json; expected a number >= 1."
        )


def _check_not_empty(tokenizer: PreTrainedTokenizerBase) -> None:
    # If files are missing, transformers creates a tokenizer without any words.
    known = tokenizer.get_vocab().keys() - tokenizer.added_tokens_encoder.keys()
    if not known - set(tokenizer.all_special_tokens):
        raise ValueError("there is no vocabulary.")


def learn_wordpiece(
    texts: Sequence[Text], vocab_size: int = SCRATCH_VOCABULARY, pad_id: int = 0
) -> PreTrainedTokenizerFast:
    """Train a tokenizer with a lower-case WordPiece vocabulary.

    Parameters
    ----------
    texts : sequence of str or of pairs of str
    vocab_size : int, default=8000
        Maximum number of entries, including special tokens.
    pad_id : int, default=0
        Id of the padding token, 0 to 4.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(min(pad_id, len(special)), "[PAD]")
    backend = _wordpiece(_learn_pieces(texts, vocab_size, special))
    backend.add_special_tokens(special)
    marks = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _wordpiece(vocab: dict[str, int]) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def _learn_pieces(texts: Sequence[Text], vocab_size: int, special: list[str]) -> dict[str, int]:
    """Return WordPiece entries with ids that only depend on the texts.

    The trainer numbers the characters inside words in the order of a hash map with a random seed,
    and breaks ties between pairs by these numbers. Therefore a first pass without merges finds the
    characters, and in the second pass they are given as the first entries, in a fixed order.
    """
    alphabet = None
    pieces = _train_pieces(texts, 0, special, alphabet)
    if len(pieces) > vocab_size:
        alphabet = _frequent_characters(texts, max(0, vocab_size - len(special)) // 2)
        pieces = _train_pieces(texts, 0, special, alphabet)
    inner = sorted(piece for piece in pieces if piece.startswith("##"))
    return _train_pieces(texts, vocab_size, [*special, *inner], alphabet)


def _train_pieces(
    texts: Sequence[Text], vocab_size: int, first: list[str], alphabet: list[str] | None
) -> dict[str, int]:
    bounds: dict[str, Any] = {}
    if alphabet is not None:
        bounds = {"initial_alphabet": alphabet, "limit_alphabet": len(alphabet)}
    if vocab_size > _UNICODE:
        # The trainer allocates memory for `vocab_size` entries, and aborts the process if there is
        # not enough. It cannot learn more entries than the texts have characters.
        vocab_size = min(vocab_size, _UNICODE + 2 * sum(map(len, _parts(texts))))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=first, show_progress=False, **bounds
    )
    backend = _wordpiece({})
    backend.train_from_iterator(_parts(texts), trainer)
    return backend.get_vocab()


def _frequent_characters(texts: Sequence[Text], limit: int) -> list[str]:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for text in _parts(texts):
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-n, character) for character, n in counts.items() if not character.isspace())
    return [character for _, character in ranked[:limit]]


def compact_text_config(tokenizer: PreTrainedTokenizerBase, max_length: int) -> BertConfig:
    """Return the architecture that is trained from scratch: BERT with 6 layers of width 128."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=max_length,
        pad_token_id=tokenizer.pad_token_id or 0,
    )


def choose_max_length(
    max_length: int | None,
    tokenizer: PreTrainedTokenizerBase,
    positions: int | None,
    texts: Sequence[Text],
    argument: str = "max_length",
) -> int:
    """Return the maximum number of tokens of a row.

    Parameters
    ----------
    max_length : int or None
        The user's parameter. None: all positions of the backbone or, for a new backbone, the length
        of the longest training text.
    tokenizer : PreTrainedTokenizerBase
    positions : int or None
        Number of positions of the backbone; None for a new backbone.
    texts : sequence of str or of pairs of str
        Training texts.
    argument : str, default="max_length"
        Name of the parameter, for error messages.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it exceeds the backbone's positions or leaves no room for a token.
    """
    if max_length is None:
        if positions is None:
            return int(np.clip(max(token_counts(tokenizer, texts)), 8, MAX_SCRATCH_LENGTH))
        return int(min(positions, tokenizer.model_max_length))
    shortest = tokenizer.num_special_tokens_to_add(pair=isinstance(texts[0], tuple)) + 1
    if max_length < shortest:
        raise ValueError(
            f"{argument}={max_length} leaves no room for a token of the text; "
            f"expected at least {shortest}."
        )
    if positions is not None and max_length > positions:
        raise ValueError(
            f"{argument}={max_length} is more than the {positions} positions of this backbone."
        )
    return int(max_length)


def required_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    checkpoint: str | os.PathLike[str] | None,
) -> int:
    """Return the number of embeddings that a backbone needs for a tokenizer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    config : PretrainedConfig
        Configuration of the backbone.
    checkpoint : str, path-like or None
        Source of the backbone's weights; None if they are random.

    Returns
    -------
    int
        The configured number, or more if the tokenizer is that of the checkpoint with added tokens.

    Raises
    ------
    ValueError
        If the tokenizer has more entries than the backbone for another reason.
    """
    if len(tokenizer) <= config.vocab_size:
        return int(config.vocab_size)
    found = (
        f"tokenizer has {len(tokenizer)} entries, but the backbone embeds only "
        f"vocab_size={config.vocab_size}"
    )
    if checkpoint is None:
        raise ValueError(f"{found}; give the configuration vocab_size={len(tokenizer)}.")
    own = _entries_below(load_tokenizer(checkpoint, argument="backbone"), config.vocab_size)
    if own != _entries_below(tokenizer, config.vocab_size) or not _is_extended(tokenizer, config):
        raise ValueError(
            f"{found}; they do not belong together. To add tokens, take the checkpoint's own "
            "tokenizer, AutoTokenizer.from_pretrained(backbone), and call its add_tokens; the "
            "embeddings are then enlarged."
        )
    return len(tokenizer)


def _entries_below(tokenizer: PreTrainedTokenizerBase, limit: int) -> dict[str, int]:
    return {entry: number for entry, number in tokenizer.get_vocab().items() if number < limit}


def _is_extended(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> bool:
    """Return whether all entries beyond the backbone's embeddings are added tokens."""
    beyond = [number for number in tokenizer.get_vocab().values() if number >= config.vocab_size]
    return set(beyond) <= set(tokenizer.added_tokens_decoder)


def _parts(texts: Sequence[Text]) -> Iterator[str]:
    for text in texts:
        if isinstance(text, tuple):
            yield from text
        else:
            yield text


def chunks_of_texts(
    texts: Sequence[Any], characters: int | None = None, most: int = _CHUNK_TEXTS
) -> Iterator[Sequence[Any]]:
    """Yield consecutive texts, pairs or lists of words, within the limits of a tokenizer call."""
    characters = _CHUNK_CHARACTERS if characters is None else characters
    start = total = 0
    for end, text in enumerate(texts):
        length = len(text) if isinstance(text, str) else sum(map(len, text))
        if end > start and (end - start == most or total + length > characters):
            yield texts[start:end]
            start, total = end, 0
        total += length
    yield texts[start:]


def windows_of_texts(texts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield consecutive texts, as many as are encoded at a time."""
    yield from chunks_of_texts(texts, _WINDOW_CHARACTERS, _WINDOW)


def _flatten(rows: Sequence[Sequence[int]], dtype: type) -> NDArray[Any]:
    total = sum(len(row) for row in rows)
    return np.fromiter((value for row in rows for value in row), dtype=dtype, count=total)
