"""Long notes in `EPEEClassifier`: read in windows, trained, exited and tuned as one sample each."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_epee import (
    EPEEClassifier,
    ExitCalibratedClassifier,
    TunedExitPolicyClassifierCV,
    policy,
)
from sklearn_epee._nn.backbones import BackboneAdapter
from sklearn_epee._nn.texts import TextTokenizer
from tests._nn.trainings import assert_same_weights, make, weights_of
from tests.checkpoints import TEXT_FAMILIES, WORDS, tiny_config, tiny_tokenizer
from tests.classifiers import tiny_text_classifier
from tests.long_notes import make_long_notes
from tests.trainings import Trainings

WINDOWS = {"long_texts": "windows", "window_length": 24, "max_windows": 6}


def long_text(n_words: int, seed: int = 0) -> str:
    """Words that are known whole, and some that are spelt."""
    return " ".join(np.random.default_rng(seed).choice([*WORDS, "xyzzy", "über!"], n_words))


@pytest.fixture(scope="module")
def mixed():
    """Texts of one to a dozen windows of 24 tokens, and classes that their first words tell."""
    rng = np.random.default_rng(0)
    y = np.arange(36) % 3
    first = np.array(["takes", "stopped", "history"])[y]
    return [f"{word} {long_text(int(rng.integers(0, 150)), i)}" for i, word in enumerate(first)], y


@pytest.fixture(scope="module")
def _fitted(mixed):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*texts are longer than")
        return make(max_epochs=3, **WINDOWS).fit(*mixed)


@pytest.fixture
def fitted(_fitted):
    return copy.deepcopy(_fitted)


pytestmark = pytest.mark.filterwarnings("ignore:.*texts are longer than max_windows")


# ------------------------------------------------------------------------------------ what is read


def read_rows(encoder: TextTokenizer, text: str) -> list[list[int]]:
    batch = encoder.encode([text]).batch(np.array([0]))
    masks = batch["attention_mask"].bool()
    return [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize(("overlap", "most"), [(0, 50), (5, 50), (0, 3), (5, 1)])
def test_windows_are_those_that_the_tokenizer_itself_makes(family, overlap, most):
    direct, length = tiny_tokenizer(family), 20
    room = length - direct.num_special_tokens_to_add()
    model = EPEEClassifier(
        tiny_config(family),
        tokenizer=tiny_tokenizer(family),
        long_texts="windows",
        window_length=length,
        window_stride=room - overlap,
        max_windows=most,
    )
    encoder, _ = model._build([long_text(9)], 2)
    for n_words in (0, 1, 9, 40, 41, 42, 200):
        text = long_text(n_words)
        expected = direct(
            [text],
            truncation=True,
            max_length=length,
            stride=overlap,
            return_overflowing_tokens=True,
        )["input_ids"][:most]
        # A tokenizer without special tokens makes nothing of an empty text.
        filler = direct.eos_token_id if direct.bos_token_id is None else direct.bos_token_id
        assert read_rows(encoder, text) == [row or [filler] for row in expected]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_head_tail_reads_both_ends(family):
    tokenizer = tiny_tokenizer(family)
    model = EPEEClassifier(
        tiny_config(family), tokenizer=tokenizer, long_texts="head_tail", max_length=21
    )
    encoder, _ = model._build([long_text(9)], 2)
    whole = tokenizer([long_text(100)])["input_ids"][0]
    n_special = tokenizer.num_special_tokens_to_add()
    with pytest.warns(UserWarning, match="between their first and last ones are not read") as seen:
        (row,) = read_rows(encoder, long_text(100))
    assert len(seen) == 1
    assert len(row) == 21
    room = 21 - n_special
    head = room - room // 2 + (tokenizer("a")["input_ids"][0] in tokenizer.all_special_ids)
    assert row == whole[:head] + whole[-(21 - head) :]
    assert read_rows(encoder, "zinc daily") == tokenizer(["zinc daily"])["input_ids"]


def test_a_note_beyond_the_last_window_is_truncated_with_one_warning(fitted):
    texts = ["zinc", long_text(900), long_text(20), long_text(200, 1)]
    message = r"^2 of 4 texts are longer than max_windows=6 windows of window_length=24 tokens"
    with pytest.warns(UserWarning, match=message) as seen:
        found = fitted.predict_proba(texts)
    assert len(seen) == 1
    # What comes after is not read.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        longer = fitted.predict_proba([texts[0], f"{texts[1]} rash", *texts[2:]])
    np.testing.assert_array_equal(found, longer)


def test_a_tokenizer_that_truncates_on_the_left_keeps_the_last_windows():
    tokenizer = tiny_tokenizer("bert")
    tokenizer.truncation_side = "left"
    model = EPEEClassifier(
        tiny_config("bert"),
        tokenizer=tokenizer,
        long_texts="windows",
        window_length=20,
        max_windows=2,
    )
    encoder, _ = model._build(["zinc"], 2)
    whole = tokenizer([long_text(100)])["input_ids"][0][1:-1]
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        rows = read_rows(encoder, long_text(100))
    assert [token for row in rows for token in row[1:-1]] == whole[-36:]


def test_a_text_of_a_megabyte_is_read_in_the_memory_of_its_windows():
    text = "patient takes zinc daily. " * 40_000
    model = EPEEClassifier(tiny_config("bert"), tokenizer=tiny_tokenizer("bert"), **WINDOWS)
    encoder, _ = model._build(["zinc"], 2)
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        encoded = encoder.encode([text])
    assert encoded.windows.tolist() == [6]
    assert len(encoded._ids) == 6 * 24


def test_long_notes_are_held_as_tokens_a_bounded_number_at_a_time(fitted, monkeypatch):
    monkeypatch.setattr("sklearn_epee._nn.texts._WINDOW_CHARACTERS", 1000)
    texts = [long_text(100, i) for i in range(12)]
    expected = fitted.predict_proba(texts)
    parts = [len(part) for part in fitted._preprocessor.encode_in_windows(texts)]
    assert sum(parts) == 12
    assert len(parts) >= 6
    np.testing.assert_allclose(fitted.predict_proba(texts), expected, atol=1e-5)


# -------------------------------------------------------------------------------- trained together


def test_notes_that_fit_in_one_window_give_exactly_what_truncation_gives(notes):
    X, y = notes
    plain = tiny_text_classifier().fit(X, y)
    windows = tiny_text_classifier(long_texts="windows").fit(X, y)
    assert_same_weights(windows, weights_of(plain))
    for method in ("predict_proba", "predict_exit_layer"):
        np.testing.assert_array_equal(getattr(windows, method)(X), getattr(plain, method)(X))


class Gradients(Callback):
    """Notes the loss and the gradients of every step, and how many samples skorch counted."""

    def __init__(self):
        self.steps = []

    def on_batch_end(self, net, training=False, **_):
        if training:
            batch = net.history[-1]["batches"][-1]
            found = {name: part.grad.clone() for name, part in net.module_.named_parameters()}
            self.steps.append((batch["train_loss"], batch["train_batch_size"], found))


@pytest.mark.parametrize("exit_training", ["joint", "distillation"])
@pytest.mark.parametrize("pooling", ["mean", "cls+mean", "attention"])
def test_the_step_of_many_windows_is_that_of_the_whole_batch(
    mixed, monkeypatch, pooling, exit_training
):
    def steps() -> list:
        noted = Gradients()
        parameters = {"pooling": pooling, "exit_training": exit_training, "callbacks": [noted]}
        make(batch_size=6, **parameters, **WINDOWS).fit(*mixed)
        return noted.steps

    in_parts = steps()
    monkeypatch.setattr(
        "sklearn_epee._nn.training.parts_of_batch",
        lambda inputs, _: [(dict(inputs), slice(None))],
    )
    whole = steps()
    assert [n for _, n, _ in in_parts] == [n for _, n, _ in whole] == [6] * 6
    for (loss, _, gradients), (expected_loss, _, expected) in zip(in_parts, whole, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_runs_no_more_windows_at_once_than_a_batch_or_a_note_has(
    mixed, monkeypatch, checkpointing
):
    sizes: list[int] = []
    layer = BackboneAdapter.layer

    def counted(self, number, hidden, mask):
        sizes.append(len(hidden))
        return layer(self, number, hidden, mask)

    monkeypatch.setattr(BackboneAdapter, "layer", counted)
    fitted = make(
        batch_size=8, validation_fraction=0.25, gradient_checkpointing=checkpointing, **WINDOWS
    ).fit(*mixed)
    windows = fitted._preprocessor.encode(mixed[0]).windows
    assert windows.sum() > 2 * 36
    assert max(sizes) <= 8
    sizes.clear()
    make(batch_size=2, **WINDOWS).fit(*mixed)
    assert max(sizes) == 6 == windows.max()


def test_losses_of_the_history_weigh_notes_and_not_windows(mixed):
    fitted = make(batch_size=7, validation_fraction=0.5, learning_rate=1e-12, **WINDOWS)
    fitted.fit(*mixed)
    batches = fitted.history_[-1]["batches"]
    assert sum(batch["train_batch_size"] for batch in batches if "train_batch_size" in batch) == 18
    losses = [(b["valid_loss"], b["valid_batch_size"]) for b in batches if "valid_loss" in b]
    assert sum(n for _, n in losses) == 18
    mean = sum(loss * n for loss, n in losses) / 18
    assert fitted.history_[-1]["valid_loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
def test_windows_find_the_sentence_that_truncation_does_not_read():
    """Networks that know the sentences from short notes learn to find them in long ones."""
    short, long, test = (make_long_notes(n, m, s) for n, m, s in
                         ((150, 150, 2), (60, 3000, 0), (60, 3000, 1)))  # fmt: skip
    assert min(map(len, long[0])) >= 3000
    scores = {}
    for how in ("windows", "truncate", "head_tail"):
        model = make(
            backbone=tiny_config(
                "bert",
                2,
                vocab_size=300,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.2,
            ),
            pooling="attention",
            long_texts=how,
            max_epochs=8,
            batch_size=10,
            learning_rate=3e-3,
            head_learning_rate=1e-2,
            warm_start=True,
        ).fit(*short[:2])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*texts are longer than max_length")
            model.set_params(max_epochs=5).fit(*long[:2])
            scores[how] = model.score(*test[:2])
            if how == "windows":
                # Wherever the sentence is.
                found = model.predict(test[0]) == test[1]
                for start in (0, 1 / 3, 2 / 3):
                    third = (test[2] >= start) & (test[2] < start + 1 / 3)
                    assert found[third].mean() > 0.6
    assert scores["windows"] > 0.8
    assert max(scores["truncate"], scores["head_tail"]) < 0.6


# ----------------------------------------------------------------------------- predicted as others


def test_every_way_to_predict_treats_a_note_as_one_sample(fitted, mixed):
    X, _ = mixed
    staged = np.stack(list(fitted.staged_predict_proba(X)), axis=1)
    assert staged.shape == (36, fitted.n_layers_, 3)
    fitted.set_params(tau=float(np.median(policy.normalized_entropy(staged))))
    found = fitted.predict_with_exits(X)
    expected = policy.apply_policy(staged, fitted.tau, fitted.n_layers_)
    assert 1 < np.mean(found.exit_layer) < fitted.n_layers_
    assert np.mean(found.exit_layer == expected.exit_layer) > 0.9
    np.testing.assert_allclose(fitted.predict_proba_at_layer(X, 2), staged[:, 1], atol=1e-5, rtol=0)
    fitted.set_params(predict_batch_size=3)
    order = np.random.default_rng(0).permutation(36)
    shuffled = fitted.predict_with_exits([X[i] for i in order])
    np.testing.assert_array_equal(shuffled.exit_layer, found.exit_layer[order])
    np.testing.assert_allclose(shuffled.proba, found.proba[order], atol=1e-5)


@pytest.mark.filterwarnings("ignore:The calibration of the exits")
def test_wrappers_tune_and_calibrate_notes(fitted, mixed):
    X, y = mixed
    tuned = TunedExitPolicyClassifierCV(FrozenEstimator(fitted), min_speedup=0.1).fit(X, y)
    assert tuned.predict_exit_layer(X).shape == (36,)
    calibrated = ExitCalibratedClassifier(FrozenEstimator(fitted)).fit(X, y)
    assert calibrated.predict_proba(X).shape == (36, 3)


def test_several_tasks_are_predicted_from_windows(mixed):
    X, y = mixed
    tasks = np.column_stack([y, np.arange(36) % 2])
    model = make(batch_size=6, **WINDOWS).fit(X, tasks)
    assert model.predict(X).shape == (36, 2)
    assert [part.shape for part in model.predict_proba(X)] == [(36, 3), (36, 2)]


def test_a_search_over_policies_trains_each_fold_once(mixed, tmp_path):
    trainings = Trainings(tmp_path / "trainings")
    search = GridSearchCV(
        make(callbacks=[trainings], memory="auto", **WINDOWS),
        {"tau": [0.0, 0.5, 0.9], "patience": [2, 3]},
        cv=2,
    ).fit(*mixed)
    assert trainings.count == 3
    assert search.best_estimator_.long_texts == "windows"


def test_warm_start_goes_on_with_the_same_windows(mixed):
    model = make(warm_start=True, **WINDOWS).fit(*mixed)
    first = weights_of(model)
    model.fit(*mixed)
    assert model._preprocessor.long_texts.length == 24
    assert any(not torch.equal(part, first[name]) for name, part in weights_of(model).items())


def test_copies_and_pickles_predict_the_same(fitted, mixed):
    expected = fitted.predict_proba(mixed[0])
    for twin in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(twin.predict_proba(mixed[0]), expected)
    assert clone(fitted).get_params() == fitted.get_params()


def test_pickles_from_before_there_were_windows_truncate_as_they_did(notes, text_classifier):
    expected = text_classifier.predict_proba(notes[0])
    for name in ("long_texts", "window_length", "window_stride", "max_windows"):
        del vars(text_classifier)[name]
    del vars(text_classifier._preprocessor)["long_texts"]
    loaded = pickle.loads(pickle.dumps(text_classifier))
    assert loaded.get_params()["long_texts"] == "truncate"
    np.testing.assert_array_equal(loaded.predict_proba(notes[0]), expected)
    with pytest.warns(UserWarning, match="longer than max_length=128 tokens; the rest is not read"):
        loaded.predict([long_text(300)])


# ----------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("how", ["windows", "head_tail"])
def test_pairs_are_refused(how):
    with pytest.raises(ValueError, match=f"long_texts='{how}' reads single texts, but X holds pai"):
        make(long_texts=how).fit([("zinc", "rash"), ("iron", "pain")], [0, 1])


def test_parameters_of_windows_say_nothing_without_them(notes):
    expected = tiny_text_classifier().fit(*notes).predict_proba(notes[0])
    other = tiny_text_classifier(window_length=500, window_stride=900, max_windows=1).fit(*notes)
    np.testing.assert_array_equal(other.predict_proba(notes[0]), expected)


def test_from_scratch_a_backbone_has_the_positions_of_a_window(notes):
    model = EPEEClassifier(max_epochs=1, random_state=0, memory=None, precision="float32")
    model.set_params(long_texts="windows", window_length=16).fit(*notes)
    assert model.net_.module_.backbone.config.max_position_embeddings == 16
    assert model._preprocessor.encode(notes[0]).lengths.max() == 16
