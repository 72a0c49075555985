"""Texts to token ids: every tokenizer family, truncation, pairs and learned vocabularies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertTokenizerFast

from sklearn_epee._nn import texts as nn_texts
from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.network import MultiExitNetwork
from sklearn_epee._nn.texts import (
    TextTokenizer,
    choose_max_length,
    compact_text_config,
    learn_wordpiece,
    load_tokenizer,
    required_vocabulary,
    token_counts,
)
from tests.checkpoints import (
    TEXT_FAMILIES,
    WORDS,
    make_checkpoint,
    tiny_config,
    tiny_tokenizer,
)

TEXTS = [
    "patient takes zinc daily",
    "",
    "rash",
    "The patient STOPPED iron; no rash after a mild dose, never before.",
]
PAIRS = [("takes zinc", "iron"), ("", "rash after dose"), ("never", ""), ("", "")]


def rows_of(encoded) -> list[list[int]]:
    batch = encoded.batch(np.arange(len(encoded)))
    masks = batch["attention_mask"].bool()
    return [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]


# ------------------------------------------------------------------------------------- the encoder


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("texts", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_token_ids_are_those_of_the_tokenizer_called_directly(family, texts):
    tokenizer, direct = tiny_tokenizer(family), tiny_tokenizer(family)
    encoder = TextTokenizer(tokenizer, 40, 2, reads_pairs=texts is PAIRS)
    rows = rows_of(encoder.encode(texts))
    for text, row in zip(texts, rows, strict=True):
        # As a batch of one: called with two strings, transformers takes an empty second for none.
        columns = ([text],) if isinstance(text, str) else ([text[0]], [text[1]])
        expected = direct(*columns)["input_ids"][0]
        filler = direct.eos_token_id if direct.bos_token_id is None else direct.bos_token_id
        assert row == (expected or [filler])


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@torch.no_grad()
def test_the_empty_string_is_a_text_in_every_family(family):
    encoder = TextTokenizer(tiny_tokenizer(family), 40, 0, reads_pairs=False)
    encoded = encoder.encode(["", "rash", ""])
    assert (encoded.lengths >= 1).all()
    backbone = load_backbone(tiny_config(family), "text")
    network = MultiExitNetwork(backbone, 2, "mean", 0.0).eval()
    logits = network(**encoded.batch(np.arange(3)))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], logits[2])


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_texts_that_are_too_long_are_cut_with_one_warning_that_counts_them(family):
    tokenizer = tiny_tokenizer(family)
    counts = token_counts(tokenizer, TEXTS)
    length = sorted(counts)[-2]
    encoder = TextTokenizer(tokenizer, length, 0, reads_pairs=False)
    texts = [*TEXTS, TEXTS[3], TEXTS[0]] * 3
    # One token too many is too long, an exact fit is not.
    n_cut = sum(count > length for count in token_counts(tokenizer, texts))
    assert n_cut == 6
    with pytest.warns(
        UserWarning, match=rf"^6 of 18 texts are longer than max_length={length} t"
    ) as w:
        encoded = encoder.encode(texts)
    assert len(w) == 1
    assert encoded.lengths.max() == length
    assert encoded.lengths[3] == length
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(TEXTS[:3])


def test_pairs_are_cut_and_counted_too():
    encoder = TextTokenizer(tiny_tokenizer("bert"), 6, 2, reads_pairs=True)
    pairs = [("takes zinc daily", "iron dose"), ("zinc", "iron")]
    with pytest.warns(UserWarning, match="^1 of 2 texts are longer than max_length=6"):
        encoded = encoder.encode(pairs)
    assert encoded.lengths.tolist() == [6, 5]


def words(rng, n):
    """Words that are split, joined or spelt in every way."""
    return " ".join(rng.choice([*WORDS, "xyzzy", "über!", "é", "日本", "don't", "a\nb"], n))


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_long_pairs_are_truncated_as_the_tokenizer_truncates_them(family, side):
    rng = np.random.default_rng(0)
    tokenizer, direct = tiny_tokenizer(family), tiny_tokenizer(family)
    tokenizer.truncation_side = direct.truncation_side = side
    pairs = [(words(rng, a), words(rng, b)) for a, b in rng.integers(0, 60, (40, 2))]
    # The odd token goes to the longer one, however little longer it is.
    pairs += [(text := words(rng, 50), text), (f"{text} a", text), (text, f"{text} a")]
    for length in (5, 6, 20, 21):
        encoded, n_truncated = TextTokenizer(tokenizer, length, 2, reads_pairs=True)._encode(pairs)
        first, second = (list(column) for column in zip(*pairs, strict=True))
        rows = direct(first, second, truncation=True, max_length=length)["input_ids"]
        assert rows_of(encoded) == rows
        whole = direct(first, second)["input_ids"]
        assert n_truncated == sum(len(row) > length for row in whole)


def test_truncating_long_texts_needs_memory_for_what_is_kept(monkeypatch):
    given: dict[bool, list[int]] = {True: [], False: []}

    def counted(tokenizer, samples, *, truncation, **options):
        given[truncation].append(sum(len(part) for part in nn_texts._parts(samples)))
        return tokenize(tokenizer, samples, truncation=truncation, **options)

    tokenize = nn_texts.tokenize
    monkeypatch.setattr(nn_texts, "tokenize", counted)
    monkeypatch.setattr(nn_texts, "_CHUNK_CHARACTERS", limit := 30_000)
    long = " ".join(WORDS * 50)
    encoder = TextTokenizer(tiny_tokenizer("bert"), 20, 2, reads_pairs=True)
    encoded, n_truncated = encoder._encode([(long, long)] * 8)
    assert n_truncated == 8
    assert encoded.lengths.tolist() == [20] * 8
    # A pair of 15,000 characters becomes one of some hundred before it is truncated.
    assert sum(given[True]) < 8 * 1000
    assert max(given[False]) <= limit
    assert len(given[False]) > 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_tokenizes_can_tokenize():
    encoder = TextTokenizer(tiny_tokenizer("bert"), 40, 2, reads_pairs=False)
    held, done = threading.Event(), threading.Event()

    def hold():
        with nn_texts._tokenizer_lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # a child that hangs ends by this signal
        os._exit(0 if len(encoder.encode(TEXTS)) == len(TEXTS) else 1)
    done.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_segments_tell_the_texts_of_a_pair_apart():
    tokenizer = tiny_tokenizer("bert")
    batch = TextTokenizer(tokenizer, 40, 2, reads_pairs=True).encode(PAIRS).batch(np.arange(4))
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1]
    for encoder in (
        TextTokenizer(tokenizer, 40, 1, reads_pairs=True),
        TextTokenizer(tiny_tokenizer("roberta"), 40, 2, reads_pairs=True),
    ):
        assert "token_type_ids" not in encoder.encode(PAIRS).batch(np.arange(4))


def test_many_texts_are_encoded_in_their_order():
    tokenizer = tiny_tokenizer("bert")
    texts = [f"{WORDS[i % len(WORDS)]} {i}" for i in range(9000)]
    encoded = TextTokenizer(tokenizer, 40, 0, reads_pairs=False).encode(texts)
    for row in (0, 4095, 4096, 8999):
        batch = encoded.batch(np.array([row]))
        assert batch["input_ids"][0].tolist() == tokenizer(texts[row])["input_ids"]


def test_the_settings_of_a_given_tokenizer_are_put_back():
    tokenizer = tiny_tokenizer("bert")
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(7)
    backend.enable_padding(length=5)
    before = backend.truncation, backend.padding
    TextTokenizer(tokenizer, 40, 2, reads_pairs=False).encode(TEXTS)
    assert (backend.truncation, backend.padding) == before


@pytest.mark.filterwarnings("ignore:50 of 50 texts:UserWarning")
def test_threads_can_share_a_tokenizer():
    tokenizer = tiny_tokenizer("bert")
    long = [" ".join(WORDS[:20])] * 50
    wrong: list[int] = []

    def encode(length):
        encoder = TextTokenizer(tokenizer, length, 0, reads_pairs=False)
        for _ in range(10):
            wrong.extend(n for n in encoder.encode(long).lengths if n != length)

    threads = [threading.Thread(target=encode, args=(length,)) for length in (5, 9, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -------------------------------------------------------------------------------------- tokenizers


def test_tokenizers_come_from_a_folder_or_an_object(tmp_path):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path), tokenizer, tokenizer.backend_tokenizer):
        loaded = load_tokenizer(source, argument="tokenizer")
        assert loaded("takes zinc")["input_ids"] == tokenizer("takes zinc")["input_ids"]
    assert isinstance(tokenizer.backend_tokenizer, Tokenizer)
    assert load_tokenizer(tokenizer, argument="tokenizer") is tokenizer


@pytest.mark.parametrize("argument", ["tokenizer", "backbone"])
def test_a_folder_without_a_tokenizer_is_refused(argument, tmp_path):
    with pytest.raises(ValueError, match=f"{argument}='.*' holds no tokenizer that can be loaded"):
        load_tokenizer(tmp_path, argument=argument)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_checkpoint_whose_vocabulary_is_missing_is_refused(family, tmp_path):
    # transformers makes a tokenizer without a vocabulary of such a folder, and says nothing.
    tiny_config(family).save_pretrained(tmp_path)
    reasons = "there is no vocabulary|sacremoses|tokenizer"
    with pytest.raises(ValueError, match=f"(?s)holds no tokenizer .*({reasons})"):
        load_tokenizer(tmp_path, argument="backbone")
    tiny_tokenizer(family).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, argument="backbone")("zinc")["input_ids"]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path, argument="backbone")


@pytest.mark.parametrize("longest", [0, -1, float("nan"), "text", "", [], [1, 2], {}, True])
def test_a_tokenizer_that_can_hold_no_token_is_refused(longest, tmp_path):
    make_checkpoint("bert", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": longest}))
    with pytest.raises(ValueError, match=r"tokenizer=.*model_max_length="):
        load_tokenizer(tmp_path, argument="tokenizer")


@pytest.mark.parametrize("source", [5, ["a"], object()])
def test_another_object_is_no_tokenizer(source):
    with pytest.raises(TypeError, match="tokenizer must be a folder, a hub id or a tokenizer"):
        load_tokenizer(source, argument="tokenizer")


def test_a_tokenizer_larger_than_the_configured_embedding_is_refused():
    tokenizer = tiny_tokenizer("bert")
    assert required_vocabulary(tokenizer, BertConfig(vocab_size=len(tokenizer)), None) == 172
    assert required_vocabulary(tokenizer, BertConfig(vocab_size=200), None) == 200
    with pytest.raises(
        ValueError, match=r"tokenizer has 172 entries, but .* vocab_size=100; .* vocab_size=172"
    ):
        required_vocabulary(tokenizer, BertConfig(vocab_size=100), None)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_tokens_added_to_a_checkpoints_tokenizer_ask_for_more_embeddings(family, saved, tmp_path):
    make_checkpoint(family, tmp_path)
    config = tiny_config(family)
    tokenizer = load_tokenizer(tmp_path, argument="tokenizer")
    assert required_vocabulary(tokenizer, config, tmp_path) == config.vocab_size
    tokenizer.add_tokens(["[E1]", "[/E1]"], special_tokens=True)
    if saved:
        tokenizer.save_pretrained(tmp_path)
    assert required_vocabulary(tokenizer, config, tmp_path) == len(tokenizer)
    assert len(tokenizer) == config.vocab_size + 2


def test_another_checkpoints_tokenizer_with_more_entries_is_refused(tmp_path):
    make_checkpoint("bert", tmp_path)
    other = tiny_tokenizer("roberta")
    other.add_tokens(["[E1]"])
    with pytest.raises(ValueError, match=r"do not belong together.*add_tokens"):
        required_vocabulary(other, tiny_config("bert"), tmp_path)
    pieces = tiny_tokenizer("bert").get_vocab()
    shuffled = dict(zip(pieces, reversed(pieces.values()), strict=True))
    other = BertTokenizerFast(vocab=shuffled)
    other.add_tokens(["[E1]"])
    with pytest.raises(ValueError, match=r"do not belong together.*add_tokens"):
        required_vocabulary(other, tiny_config("bert"), tmp_path)


# ----------------------------------------------------------------------------- learned vocabularies


LEARNING = [f"{a} {b}" for a in WORDS for b in WORDS[::3]]


def test_a_vocabulary_larger_than_memory_ends_no_process():
    largest = learn_wordpiece(LEARNING, 10**9)
    assert largest.get_vocab() == learn_wordpiece(LEARNING, 8000).get_vocab()


@pytest.mark.slow
def test_a_learned_vocabulary_is_the_same_every_time():
    # Many pairs of pieces are equally frequent here; their order must not be left to chance.
    first, *others = (learn_wordpiece(LEARNING, 150).get_vocab() for _ in range(5))
    assert all(other == first for other in others)
    program = (
        "from tests._nn.test_texts import LEARNING, learn_wordpiece;"
        "print(sorted(learn_wordpiece(LEARNING, 150).get_vocab().items()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(sorted(first.items()))


def test_a_learned_vocabulary_reads_its_texts():
    tokenizer = learn_wordpiece(LEARNING)
    for text in LEARNING:
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer("Melatonin")["input_ids"]) == "[CLS] melatonin [SEP]"
    assert tokenizer("zinc", "iron")["token_type_ids"][-2:] == [1, 1]
    assert tokenizer.pad_token_id == 0
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_frequent_words_become_one_piece():
    tokenizer = learn_wordpiece(["melatonin helps", "melatonin hurts"] * 3)
    assert tokenizer.tokenize("melatonin") == ["melatonin"]


@pytest.mark.parametrize("vocab_size", [5, 11, 40, 100])
def test_a_learned_vocabulary_keeps_to_its_size_however_many_characters_there_are(vocab_size):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x400, 0x4FF, 9))) + " zinc" for _ in range(60)]
    vocabularies = [learn_wordpiece(texts, vocab_size).get_vocab() for _ in range(3)]
    assert len(vocabularies[0]) <= vocab_size
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    # The most frequent characters are kept.
    if vocab_size >= 40:
        assert "z" in vocabularies[0]


def test_texts_without_a_single_word_give_a_usable_vocabulary():
    tokenizer = learn_wordpiece(["", "  "])
    assert len(tokenizer) == 5
    assert tokenizer("zinc")["input_ids"] == [2, 1, 3]


def test_pairs_are_learned_from_both_texts():
    vocab = learn_wordpiece([("zinc", "iron")] * 3).get_vocab()
    assert {"zinc", "iron"} <= vocab.keys()


@pytest.mark.parametrize("pad_id", [0, 1, 3])
def test_the_padding_token_gets_the_id_that_the_backbone_expects(pad_id):
    tokenizer = learn_wordpiece(LEARNING, 150, pad_id)
    assert tokenizer.pad_token_id == pad_id
    assert len(set(tokenizer.all_special_ids)) == 5


# ------------------------------------------------------------------------------------------ lengths


def test_the_length_is_the_backbones_or_that_of_the_longest_training_text():
    tokenizer = tiny_tokenizer("bert")
    assert choose_max_length(None, tokenizer, 64, TEXTS) == 64
    tokenizer.model_max_length = 30
    assert choose_max_length(None, tokenizer, 64, TEXTS) == 30
    assert choose_max_length(None, tokenizer, None, TEXTS) == max(token_counts(tokenizer, TEXTS))
    assert choose_max_length(None, tokenizer, None, ["zinc"]) == 8
    assert choose_max_length(None, tokenizer, None, ["zinc " * 5000]) == 512
    assert choose_max_length(12, tokenizer, None, TEXTS) == 12


@pytest.mark.parametrize(
    ("max_length", "positions", "texts", "message"),
    [
        (65, 64, TEXTS, "max_length=65 is more than the 64 positions of this backbone"),
        (2, 64, TEXTS, "max_length=2 leaves no room for a token of the text; expected at least 3"),
        (3, None, PAIRS, "max_length=3 leaves no room .* expected at least 4"),
    ],
)
def test_a_length_that_cannot_be_is_refused(max_length, positions, texts, message):
    with pytest.raises(ValueError, match=message):
        choose_max_length(max_length, tiny_tokenizer("bert"), positions, texts)


def test_the_compact_network_has_the_vocabulary_and_positions_it_needs():
    tokenizer = learn_wordpiece(LEARNING)
    config = compact_text_config(tokenizer, 77)
    assert config.vocab_size == len(tokenizer)
    assert config.max_position_embeddings == 77
    assert config.pad_token_id == tokenizer.pad_token_id
