"""Graphs of ONNX of a classifier of words, against the estimator."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_epee import EPEETokenClassifier, TunedExitPolicyClassifierCV
from sklearn_epee._spans import split_words, tag_set, tags_to_spans
from sklearn_epee.onnx_runtime import OnnxExits, OnnxTokenExits, _words
from sklearn_epee.policy import normalized_entropy

from .checkpoints import make_checkpoint
from .classifiers import tiny_training
from .onnx_exports import exported, middle_of_the_widest_gap
from .tagged import tagged_sentences, tiny_token_classifier

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*are longer than max_length"),
    pytest.mark.filterwarnings("ignore:The tokenizer makes no token"),
]

WORDS, TAGS = tagged_sentences()
# Texts in which words cannot be read: none at all, empty ones, and some beyond `max_length`.
LISTS = [*WORDS, ["zinc"] * 40, ["", "zinc"], [""], []]
TEXTS = [*(" ".join(words) for words in WORDS), "", "Zinc\u0301 (0.5mg/kg) \u200bhelps, IL-6", "\t"]


def agree(fitted, found, X):
    own = fitted.predict_with_exits(X)
    layers = own.exit_layer if isinstance(own.exit_layer, list) else [own.exit_layer]
    for theirs, layer in zip(
        found["exit_layer"] if len(layers) > 1 else [found["exit_layer"]], layers, strict=True
    ):
        assert_array_equal(theirs, layer)
    assert found["tags"] == own.tags
    assert found["spans"] == own.spans
    for name in ("proba", "entropy"):
        for theirs, part in zip(found[name], own[name], strict=True):
            pairs = [(theirs, part)] if not isinstance(part, dict) else [
                (theirs[layer], part[layer]) for layer in part
            ]  # fmt: skip
            for first, second in pairs:
                assert_allclose(first, second, atol=1e-3)


def mixed_policy(fitted, X, *, whole=True):
    """Let some sentences, or words, exit early, by a threshold far from what decides."""
    entropies = []
    for proba in list(fitted.staged_predict_proba(X))[:-1]:
        found = [normalized_entropy(part) for part in proba if len(part)]
        entropies += [part.max() for part in found] if whole else [np.concatenate(found)]
    values = np.array(entropies) if whole else np.concatenate(entropies)
    return fitted.set_params(tau=middle_of_the_widest_gap(values))


@pytest.fixture(scope="module")
def _fitted():
    return tiny_token_classifier(max_length=24).fit(WORDS, TAGS)


@pytest.fixture
def fitted(_fitted):
    """A fitted classifier; every test has a copy of its own."""
    return copy.copy(_fitted)


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_words_exit_as_in_the_estimator(token_exit, fitted, tmp_path):
    fitted.set_params(token_exit=token_exit)
    mixed_policy(fitted, WORDS, whole=token_exit == "sentence")
    model = exported(fitted, tmp_path)
    for batch_size in (1, 7, 64):
        for X in (LISTS, TEXTS):
            agree(fitted, model.predict_with_exits(X, batch_size), X)
    layers = np.concatenate(
        [np.ravel(part) for part in model.predict_with_exits(WORDS)["exit_layer"]]
    )
    assert len(set(layers.tolist())) > 1
    assert model.predict(TEXTS) == fitted.predict(TEXTS)
    assert model.predict_tags(LISTS) == fitted.predict_tags(LISTS)


@pytest.mark.parametrize("joint_exit", ["all", "any", "mean"])
@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_layers_of_spans_exit_together(joint_exit, token_exit, tmp_path):
    layers = [
        {"drugs": [t if "Drug" in t else "O" for t in tags],
         "all": ["B-Any", *["I-Any"] * len(tags[1:])]}
        for tags in TAGS
    ]  # fmt: skip
    fitted = tiny_token_classifier(joint_exit=joint_exit, token_exit=token_exit, patience=2)
    fitted.fit(WORDS, layers).set_params(tau=0.7)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(WORDS), WORDS)


@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_words_that_read_their_sentence(token_exit, tmp_path):
    fitted = tiny_token_classifier(head="attention", head_learning_rate=0.05, token_exit=token_exit)
    mixed_policy(fitted.fit(WORDS, TAGS), WORDS, whole=token_exit == "sentence")
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(WORDS), WORDS)


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "IO"])
def test_valid_sequences_of_every_scheme(scheme, tmp_path):
    spans = [tags_to_spans(tags) for tags in TAGS]
    fitted = tiny_token_classifier(scheme=scheme, transition_weight=0.5).fit(WORDS, spans)
    mixed_policy(fitted, WORDS)
    agree(fitted, exported(fitted, tmp_path).predict_with_exits(LISTS), LISTS)


@pytest.mark.parametrize("family", ["mpnet", "gpt2", "albert", "gpt_neox"])
@pytest.mark.parametrize("token_exit", ["sentence", "token"])
def test_words_of_other_tokenizers(family, token_exit, tmp_path):
    checkpoint = make_checkpoint(family, tmp_path / family)
    options = tiny_training(max_epochs=1, head_learning_rate=0.05, token_exit=token_exit)
    fitted = EPEETokenClassifier(checkpoint, max_length=30, **options).fit(WORDS, TAGS)
    mixed_policy(fitted, WORDS, whole=token_exit == "sentence")
    model = exported(fitted, tmp_path / "onnx")
    agree(fitted, model.predict_with_exits(TEXTS), TEXTS)


def test_a_tuned_policy_of_words_is_exported(fitted, tmp_path):
    tuned = TunedExitPolicyClassifierCV(fitted, cv=2).fit(WORDS, TAGS)
    tuned.export_onnx(tmp_path)
    found = OnnxTokenExits(tmp_path, n_threads=1).predict_with_exits(WORDS)
    assert_array_equal(found["exit_layer"], tuned.predict_exit_layer(WORDS))
    assert found["spans"] == tuned.predict(WORDS)


@pytest.mark.parametrize("layer", [1, -1])
def test_one_graph_of_a_fixed_layer_has_logits_of_every_token(layer, fitted, tmp_path):
    model = exported(fitted, tmp_path, layer=layer)
    for found, own in zip(
        model.predict_proba(LISTS), fitted.predict_proba_at_layer(LISTS, layer), strict=True
    ):
        assert_allclose(found, own, atol=1e-4)
    assert model.predict(TEXTS) == fitted.predict_at_layer(TEXTS, layer)


def test_words_as_arrays(fitted, tmp_path):
    fitted.set_params(token_exit="token")
    mixed_policy(fitted, WORDS, whole=False)
    batch = fitted._preprocessor.encode(WORDS).batch(np.arange(len(WORDS)))
    arrays = {name: part.numpy() for name, part in batch.items()}
    starts = np.zeros(arrays["input_ids"].shape, bool)
    starts[arrays.pop("word_rows"), arrays.pop("word_positions")] = True
    model = exported(fitted, tmp_path)
    agree(fitted, model.predict_with_exits(arrays | {"word_starts": starts}), WORDS)
    with pytest.raises(ValueError, match="X has no word_starts"):
        model.predict(arrays)
    with pytest.raises(ValueError, match="holds a token classifier; open it with OnnxTokenExits"):
        OnnxExits(tmp_path)


@pytest.mark.parametrize("bad", [None, 3, ["zinc", 3], [None], [["zinc"]]])
def test_what_is_neither_a_text_nor_words_is_refused(bad, fitted, tmp_path):
    model = exported(fitted, tmp_path)
    with pytest.raises(TypeError, match=r"X\[1100\] has .*; expected a text or a list of words"):
        model.predict([[]] * 1100 + [bad])


def test_words_that_are_not_valid_unicode_are_refused(fitted, tmp_path):
    model = exported(fitted, tmp_path)
    with pytest.raises(ValueError, match=r"X\[1100\] has .*, which is not valid Unicode"):
        model.predict([[]] * 1100 + [["zinc", "\ud800"]])


# ------------------------------------------------------------- what the driver does by itself


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "IO"])
def test_spans_of_all_sequences_of_tags(scheme):
    tags = _words.Tags(np.array(["O"]), scheme)
    for sequence in itertools.product(tag_set(["Drug", "_"], scheme), repeat=4):
        places = [(i, i + 1) for i in range(4)]
        assert tags.spans(sequence, places) == tags_to_spans(sequence, scheme)


@pytest.mark.parametrize(
    "text", [*TEXTS, "e\u0301tude", "5mg/kg 1,000.5 CYP2D6", "a\u00adb", "\0x"]
)
def test_words_of_texts(text):
    assert _words.Sentence.of(text).places == split_words(text)
