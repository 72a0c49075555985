"""Lists of words as token ids: where the words are, what is truncated, what has no piece."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

from sklearn_epee._nn import texts
from sklearn_epee._nn.word_batches import LabelledWords
from sklearn_epee._nn.word_texts import WordTokenizer, pieces_word_by_word
from tests.checkpoints import TEXT_FAMILIES, tiny_tokenizer

from .word_networks import SENTENCES, word_tokenizer

# What tokenizers write for the borders of words.
_MARKS = re.compile("##|\u0120|\u2581|</w>|<w>")


def everything(encoded):
    """The tensors of all texts."""
    return encoded.batch(np.arange(len(encoded)))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_word_is_found_at_a_piece_of_its_own(family):
    reader = word_tokenizer(family)
    encoded = reader.encode(SENTENCES)
    batch = everything(encoded)
    assert encoded.word_counts.tolist() == [len(words) for words in SENTENCES]
    assert encoded.is_read.all()
    places = list(zip(batch["word_rows"].tolist(), batch["word_positions"].tolist(), strict=True))
    assert len(set(places)) == len(places) == sum(map(len, SENTENCES))
    assert places == sorted(places)
    for row, position in places:
        assert batch["attention_mask"][row, position]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_pieces_of_a_word_spell_it(family):
    reader = word_tokenizer(family)
    batch = everything(reader.encode(SENTENCES))
    for row, words in enumerate(SENTENCES):
        for number, word in enumerate(words):
            ids = batch["input_ids"][row][batch["piece_words"][row] == number]
            spelt = "".join(reader.tokenizer.convert_ids_to_tokens(ids))
            assert _MARKS.sub("", spelt) == word


def test_positions_without_a_word_have_none():
    batch = everything(word_tokenizer().encode(SENTENCES))
    owners, mask = batch["piece_words"], batch["attention_mask"].bool()
    assert (owners[~mask] == -1).all()
    assert (owners[:, 0] == -1).all()  # [CLS]
    for row, position in zip(batch["word_rows"], batch["word_positions"], strict=True):
        first = (owners[row] == owners[row, position]).nonzero()[0]
        assert first == position


def test_the_same_pieces_word_by_word():
    tokenizer = tiny_tokenizer("bert")
    batch = everything(WordTokenizer(tokenizer, 64).encode(SENTENCES))
    for row, pieces in enumerate(pieces_word_by_word(tokenizer, SENTENCES)):
        n = len(pieces.ids)
        assert batch["input_ids"][row, :n].tolist() == pieces.ids.tolist()
        assert batch["piece_words"][row, :n].tolist() == pieces.owners.tolist()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_words_that_are_truncated_are_not_read(side, padding_side):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.truncation_side, tokenizer.padding_side = side, padding_side
    reader = WordTokenizer(tokenizer, 6)
    with pytest.warns(UserWarning, match=r"1 of 2 texts .* 3 of their words are not read"):
        encoded = reader.encode([SENTENCES[0], SENTENCES[2]])
    kept = slice(0, 4) if side == "right" else slice(3, 7)
    expected = np.zeros(7, dtype=bool)
    expected[kept] = True
    assert encoded.is_read.tolist() == [*expected, True, True]
    batch = everything(encoded)
    ids = batch["input_ids"][0].tolist()
    whole = tokenizer(" ".join(SENTENCES[0][kept]))["input_ids"]
    assert ids == whole
    assert batch["attention_mask"][:, 0].all()  # padded on the right whatever the tokenizer says


def test_a_word_of_which_only_the_end_is_kept_is_not_read():
    tokenizer = tiny_tokenizer("bert")
    tokenizer.truncation_side = "left"
    reader = WordTokenizer(tokenizer, 6)
    with pytest.warns(UserWarning, match="1 of their words"):
        encoded = reader.encode([["ibuprofen", "daily"]])  # one letter a piece
    assert encoded.is_read.tolist() == [False, True]
    assert everything(encoded)["piece_words"][0].tolist() == [-1, -1, -1, -1, 0, -1]


def test_words_without_pieces_are_not_read():
    with pytest.warns(UserWarning, match="no token of 2 words"):
        encoded = word_tokenizer().encode([["no", "", "pain"], ["\u200b"], [], ["rash"]])
    assert encoded.is_read.tolist() == [True, False, True, False, True]
    assert encoded.rows.tolist() == [0, 3]
    assert encoded.given_counts.tolist() == [3, 1, 0, 1]
    assert everything(encoded)["word_rows"].tolist() == [0, 0, 1]


def test_a_text_may_have_more_words_than_pieces():
    with pytest.warns(UserWarning, match="no token of 9 words"):
        encoded = word_tokenizer().encode([[*[""] * 9, "rash"]])
    assert encoded.is_read.tolist() == [False] * 9 + [True]
    assert everything(encoded)["word_positions"].tolist() == [1]


def test_nothing_to_read_is_encoded_as_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = word_tokenizer().encode([[], []])
    assert len(encoded) == 0
    assert encoded.given_counts.tolist() == [0, 0]


def test_labels_follow_their_words_into_batches():
    encoded = word_tokenizer().encode(SENTENCES)
    total = int(encoded.word_counts.sum())
    data = LabelledWords(encoded, np.arange(total), np.ones(total, np.float32))
    inputs, labels = data.collate([2, 0])
    assert labels.tolist() == [16, 17, *range(7)]
    assert inputs["word_rows"].tolist() == [0] * 2 + [1] * 7
    assert len(inputs["sample_weight"]) == 9


def test_windows_are_encoded_like_the_whole(monkeypatch):
    monkeypatch.setattr(texts, "_WINDOW", 3)
    windows = list(word_tokenizer().encode_in_windows(SENTENCES))
    assert [len(window) for window in windows] == [3, 1]
    whole = everything(word_tokenizer().encode(SENTENCES))
    last = everything(windows[1])["input_ids"][0]
    assert torch.equal(last, whole["input_ids"][3, : len(last)])
