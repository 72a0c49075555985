"""EPEEClassifier: what it accepts, what it learns from, how it predicts."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.utils import Bunch
from transformers import AutoModel, AutoTokenizer

from sklearn_epee import EPEEClassifier, policy
from sklearn_epee._nn import texts as nn_texts
from sklearn_epee._nn.texts import learn_wordpiece
from tests.checkpoints import TEXT_FAMILIES, WORDS, make_checkpoint, tiny_config, tiny_tokenizer
from tests.classifiers import TRAINING


def make_texts(n: int = 24, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    texts = [
        " ".join([["takes", "stopped", "history"][label], *rng.choice(WORDS, rng.integers(1, 9))])
        for label in y
    ]
    return texts, np.array(["current", "past", "unsure"])[y]


def make(backbone: Any = None, **parameters: Any) -> EPEEClassifier:
    config = tiny_config("bert", n_layers=4) if backbone is None else backbone
    return EPEEClassifier(config, **TRAINING | parameters)


@pytest.fixture(scope="module")
def _fitted() -> EPEEClassifier:
    return make(max_epochs=6).fit(*make_texts())


@pytest.fixture
def fitted(_fitted) -> EPEEClassifier:
    """A network trained so far that some layers are surer than others."""
    return copy.deepcopy(_fitted)


@pytest.fixture(scope="module")
def samples() -> list[str]:
    return make_texts(40, seed=1)[0]


def tau_between(model: EPEEClassifier, X: list[str]) -> float:
    """A tau that some samples pass at some layers, and none by a hair."""
    staged = np.stack(list(model.staged_predict_proba(X)), axis=1)
    entropies = np.sort(policy.normalized_entropy(staged).ravel())
    middle = entropies[len(entropies) // 4 : len(entropies) // 2]
    widest = int(np.diff(middle).argmax())
    return float(middle[widest] + middle[widest + 1]) / 2


# --------------------------------------------------------------------------------------- answering


def test_predictions_are_consistent_with_each_other(fitted, samples):
    fitted.set_params(tau=tau_between(fitted, samples), patience=3)
    predictions = fitted.predict_with_exits(samples)
    assert isinstance(predictions, Bunch)
    assert len(set(predictions.exit_layer)) > 1
    np.testing.assert_array_equal(predictions.labels, fitted.predict(samples))
    np.testing.assert_array_equal(predictions.proba, fitted.predict_proba(samples))
    np.testing.assert_array_equal(predictions.exit_layer, fitted.predict_exit_layer(samples))
    np.testing.assert_array_equal(predictions.labels, fitted.classes_[predictions.proba.argmax(1)])
    assert predictions.proba.dtype == predictions.entropy.dtype == np.float32
    assert predictions.exit_layer.dtype == np.int64
    assert predictions.proba.shape == (40, 3)
    assert fitted.score(samples, predictions.labels) == 1
    with pytest.raises(ValueError, match="y cannot be compared with the predicted labels: Mix of"):
        fitted.score(samples, np.arange(40))


@pytest.mark.parametrize(("patience", "ensemble"), [(None, None), (2, "mean"), (3, "weighted")])
def test_dynamic_prediction_is_the_policy_on_staged_probabilities(
    fitted, samples, patience, ensemble
):
    tau = tau_between(fitted, samples)
    staged = np.stack(list(fitted.staged_predict_proba(samples)), axis=1)
    expected = policy.apply_policy(staged, tau, patience, ensemble)
    for batch_size in (1, 7, "auto"):
        fitted.set_params(
            tau=tau, patience=patience, exit_ensemble=ensemble, predict_batch_size=batch_size
        )
        predictions = fitted.predict_with_exits(samples)
        np.testing.assert_array_equal(predictions.exit_layer, expected.exit_layer)
        np.testing.assert_allclose(predictions.proba, expected.proba, atol=1e-5)


def test_a_prediction_does_not_depend_on_neighbors_or_order(fitted, samples):
    fitted.set_params(tau=tau_between(fitted, samples), patience=3)
    together = fitted.predict_with_exits(samples)
    backwards = fitted.predict_with_exits(samples[::-1])
    np.testing.assert_array_equal(together.exit_layer, backwards.exit_layer[::-1])
    np.testing.assert_allclose(together.proba, backwards.proba[::-1], atol=1e-5)
    for row in range(0, 40, 5):
        alone = fitted.predict_with_exits(samples[row : row + 1])
        assert alone.exit_layer[0] == together.exit_layer[row]
        np.testing.assert_allclose(alone.proba[0], together.proba[row], atol=1e-5)


def test_budgeted_and_staged_prediction_agree_and_negative_layers_count_from_the_end(
    fitted, samples
):
    staged = list(fitted.staged_predict_proba(samples))
    labels = list(fitted.staged_predict(samples))
    assert inspect.isgenerator(fitted.staged_predict(samples))
    assert len(staged) == len(labels) == fitted.n_layers_ == 4
    for layer in range(1, 5):
        proba = fitted.predict_proba_at_layer(samples, layer)
        np.testing.assert_allclose(proba, staged[layer - 1], atol=1e-6)
        np.testing.assert_array_equal(fitted.predict_at_layer(samples, layer), labels[layer - 1])
        np.testing.assert_array_equal(fitted.predict_proba_at_layer(samples, layer - 5), proba)
    np.testing.assert_array_equal(
        fitted.predict_proba_at_layer(samples, np.int64(-1)),
        fitted.predict_proba_at_layer(samples, 4),
    )


def test_layers_above_a_budget_never_run(fitted, samples, monkeypatch):
    backbone = fitted._state.engine(*fitted._setting())._placed.backbone
    keys_values, runs = backbone.keys_values, []

    def counted(layer, hidden):
        runs.append(layer)
        return keys_values(layer, hidden)

    monkeypatch.setattr(backbone, "keys_values", counted)
    fitted.predict_at_layer(samples, 2)
    assert set(runs) == {1, 2}
    runs.clear()
    list(fitted.staged_predict(samples))
    assert runs == [1, 2, 3, 4]


def test_changing_the_policy_changes_exits_and_no_weights(fitted, samples):
    before = {name: value.clone() for name, value in fitted.net_.module_.state_dict().items()}
    assert (fitted.set_params(tau=0.0, patience=1).predict_exit_layer(samples) == 1).all()
    assert (fitted.set_params(tau=2.0, patience=None).predict_exit_layer(samples) == 1).all()
    assert (fitted.set_params(tau=0.0, patience=None).predict_exit_layer(samples) == 4).all()
    assert (fitted.set_params(tau=0.0, patience=9).predict_exit_layer(samples) == 4).all()
    after = fitted.net_.module_.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_bfloat16_prediction_is_close_to_float32(fitted, samples):
    fitted.set_params(tau=0.0)
    exact = fitted.predict_proba(samples)
    rough = fitted.set_params(precision="bfloat16").predict_proba(samples)
    fitted.set_params(precision="float32")
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.05)
    np.testing.assert_array_equal(fitted.predict_proba(samples), exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_several_threads_can_predict_at_once(fitted, samples, precision):
    fitted.set_params(tau=tau_between(fitted, samples), precision=precision)
    # The engine of this precision is made by whichever thread comes first.
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fitted.predict_proba, [samples] * 12))
    for proba in found:
        np.testing.assert_array_equal(proba, found[0])


def test_ensembles_with_the_weights_of_the_training():
    X, y = make_texts()
    model = make(exit_loss_weights=[0, 0, 2, 1], exit_ensemble="weighted", tau=0.0).fit(X, y)
    staged = np.stack(list(model.staged_predict_proba(X)))
    np.testing.assert_allclose(model.predict_proba(X), (2 * staged[2] + staged[3]) / 3, atol=1e-6)
    # The weights are those the network was trained with, whatever the parameter says later.
    model.set_params(exit_loss_weights="ascending")
    np.testing.assert_allclose(model.predict_proba(X), (2 * staged[2] + staged[3]) / 3, atol=1e-6)


# --------------------------------------------------------------------------------------- accepting


def test_every_container_gives_the_same_model():
    X, y = make_texts()
    expected = make().fit(X, y).predict_proba(X)
    frame, column = pd.DataFrame({"text": X}), pl.DataFrame({"text": X})
    for form in (tuple(X), np.array(X), np.array(X, dtype=object), pd.Series(X), pl.Series(X),
                 frame, frame["text"], column, np.array(X)[:, None]):  # fmt: skip
        np.testing.assert_array_equal(make().fit(form, y).predict_proba(form), expected)


def test_pairs_of_texts_in_every_container():
    X, y = make_texts()
    pairs = list(zip(X, reversed(X), strict=True))
    model = make().fit(pairs, y)
    expected = model.predict_proba(pairs)
    frame = pd.DataFrame(pairs, columns=["a", "b"])
    for form in (np.array(pairs), [list(pair) for pair in pairs], frame,
                 pl.DataFrame({"a": X, "b": X[::-1]})):  # fmt: skip
        np.testing.assert_array_equal(model.predict_proba(form), expected)
    swapped = model.predict_proba([(b, a) for a, b in pairs])
    assert not np.allclose(swapped, expected, atol=1e-4)


@pytest.mark.parametrize(
    "labels",
    [
        [3, 1, 2], ["x", "ü", "z"], [True, False, True], [2.0, 4.0, 7.0],
        np.array(["a", "b", "c"], dtype=object), [-5, 0, 10**12],
    ],
)  # fmt: skip
def test_labels_of_every_type(labels):
    X, _ = make_texts(12)
    y = np.array([labels[i % 3] for i in range(12)])
    model = make().fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert model.classes_.dtype == y.dtype
    assert set(model.predict(X)) <= set(y.tolist())
    assert model.predict_proba(X).shape == (12, len(set(y.tolist())))


def test_labels_as_a_column_or_a_series():
    X, y = make_texts()
    expected = make().fit(X, y).predict_proba(X)
    for form in (pd.Series(y), pd.Series(y, dtype="category"), list(y), pl.Series(y)):
        np.testing.assert_array_equal(make().fit(X, form).predict_proba(X), expected)


# --------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("kind", ["folder", "config"])
def test_every_family_from_a_folder_and_from_a_configuration(family, kind, tmp_path):
    X, y = make_texts()
    backbone: Any = tiny_config(family)
    if kind == "folder":
        backbone = make_checkpoint(family, tmp_path)
    model = make(backbone).fit([*X[1:], ""], y)
    assert model.n_layers_ == 3
    assert model.predict([*X, ""]).shape == (25,)
    assert np.isfinite(model.predict_proba(["", "zinc"])).all()
    assert np.isfinite(model.predict_proba([""])).all()
    as_text = make(str(backbone) if kind == "folder" else backbone).fit([*X[1:], ""], y)
    np.testing.assert_array_equal(as_text.predict_proba(X), model.predict_proba(X))
    pairs = list(zip(X, X[::-1], strict=True))
    assert make(backbone).fit(pairs, y).predict(pairs).shape == (24,)


def test_a_checkpoint_keeps_its_weights_and_its_tokenizer(tmp_path):
    X, y = make_texts()
    folder = make_checkpoint("bert", tmp_path)
    model = make(folder, learning_rate=1e-9).fit(X, y)
    expected = AutoModel.from_pretrained(folder).state_dict()
    found = model.net_.module_.backbone.state_dict()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
    assert model._preprocessor.tokenizer.get_vocab() == tiny_tokenizer("bert").get_vocab()


def test_from_scratch_the_vocabulary_is_learned_from_the_training_texts():
    X, y = make_texts()
    model = EPEEClassifier(**TRAINING).fit(X, y)
    assert model.n_layers_ == 6
    encoder = model._preprocessor
    assert encoder.tokenizer.get_vocab() == learn_wordpiece(X).get_vocab()
    assert encoder.max_length == max(encoder.encode(X).lengths)
    long = " ".join(["zinc"] * 100)
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than max_length="):
        model.predict([long])
    other = EPEEClassifier(tokenizer=tiny_tokenizer("bert"), max_length=20, **TRAINING).fit(X, y)
    assert other._preprocessor.max_length == 20
    assert other.predict(X).shape == (24,)


def test_a_configuration_object_is_not_changed():
    X, y = make_texts(12)
    config = tiny_config("bert")
    before = config.to_dict()
    model = make(config).fit(X, y)
    assert config.to_dict() == before
    assert model.backbone is config


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean", "last"])
def test_every_pooling_predicts(pooling):
    X, y = make_texts(12)
    model = make(pooling=pooling).fit(X, y)
    assert model.net_.module_.pooling == pooling
    assert np.isfinite(model.predict_proba(X)).all()


def test_pooling_auto_follows_the_backbone(tmp_path):
    X, y = make_texts(12)

    def chosen(backbone: Any) -> str:
        return make(backbone).fit(X, y).net_.module_.pooling

    assert chosen(tiny_config("gpt2")) == "last"
    assert chosen(tiny_config("bert")) == "mean"
    folder = make_checkpoint("bert", tmp_path / "said")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_cls_token": true,'
        ' "pooling_mode_mean_tokens": false}'
    )
    assert chosen(folder) == "cls"


def test_max_length_cuts():
    X, y = make_texts()
    with pytest.warns(UserWarning, match="texts are longer than max_length=4"):
        model = make(max_length=4).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # [CLS], two words, [SEP]: whatever follows is not read.
        first, second = model.predict_proba(["takes zinc iron", "takes zinc rash pain"])
    np.testing.assert_allclose(first, second, atol=1e-6)


# ------------------------------------------------------------------------------------ scikit-learn


def test_parameters_are_stored_untouched():
    weights, callbacks = [1, 2, 3], []
    parameters = {"exit_loss_weights": weights, "callbacks": callbacks, "class_weight": {"a": 1}}
    model = EPEEClassifier("folder", **parameters)
    assert model.backbone == "folder"
    for name, value in parameters.items():
        assert getattr(model, name) is value
        assert model.get_params()[name] is value
    names = set(inspect.signature(EPEEClassifier).parameters)
    assert set(model.get_params(deep=False)) == names


def test_fit_sets_the_documented_attributes():
    X, y = make_texts()
    model = make(max_epochs=3).fit(X, y)
    public = {name for name in vars(model) if name.endswith("_") and not name.startswith("_")}
    assert public == {"classes_", "n_layers_", "history_", "n_iter_"}
    assert model.net_.module_.n_layers == model.n_layers_
    assert model.n_iter_ == len(model.history_) == 3
    assert [row["epoch"] for row in model.history_] == [1, 2, 3]
    assert not hasattr(model, "n_features_in_")


def test_tags_say_what_the_classifier_reads():
    tags = EPEEClassifier().__sklearn_tags__()
    assert tags.estimator_type == "classifier"
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array


def test_fit_predicts_the_same_in_every_precision_of_the_policy(fitted, samples):
    """A number as NumPy or Python type is the same policy."""
    expected = fitted.set_params(tau=0.5, patience=2).predict_proba(samples)
    for tau, patience in itertools.product((np.float64(0.5), np.float32(0.5)), (np.int32(2), 2)):
        found = fitted.set_params(tau=tau, patience=patience).predict_proba(samples)
        np.testing.assert_array_equal(found, expected)


def test_texts_are_read_a_window_at_a_time_with_the_same_predictions(fitted, samples, monkeypatch):
    expected = fitted.predict_with_exits(samples)
    staged = np.stack(list(fitted.staged_predict_proba(samples)))
    budgeted = fitted.predict_proba_at_layer(samples, 2)
    monkeypatch.setattr(nn_texts, "_WINDOW", 5)
    sizes = [len(window) for window in fitted._preprocessor.encode_in_windows(samples)]
    assert sizes[:-1] == [5] * (len(sizes) - 1)
    assert sum(sizes) == len(samples)
    found = fitted.predict_with_exits(samples)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer)
    for ours, theirs in (
        (found.proba, expected.proba),
        (found.entropy, expected.entropy),
        (np.stack(list(fitted.staged_predict_proba(samples))), staged),
        (fitted.predict_proba_at_layer(samples, 2), budgeted),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_cut_texts_are_counted_over_all_windows(fitted, samples, monkeypatch):
    monkeypatch.setattr(nn_texts, "_WINDOW", 2)
    long = "takes " * 200
    with pytest.warns(UserWarning, match="^3 of 7 texts are longer than max_length=") as seen:
        fitted.predict([long, "a", long, "b", "c", "d", long])
    assert len(seen) == 1


# ------------------------------------------------------------------------------------ added tokens


@pytest.mark.parametrize("family", ["bert", "albert", "gpt2", "llama", "gemma", "biogpt"])
def test_marker_tokens_added_to_a_checkpoints_tokenizer_are_learned(family, tmp_path):
    make_checkpoint(family, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    n_before = len(tokenizer)
    tokenizer.add_tokens(["[E1]", "[/E1]"])
    X, y = make_texts()
    X = [f"[E1] {text} [/E1]" for text in X]
    states = torch.get_rng_state()
    fitted = make(tmp_path, tokenizer=tokenizer).fit(X, y)
    assert torch.equal(torch.get_rng_state(), states)
    embedding = fitted.net_.module_.backbone.get_input_embeddings().weight
    assert embedding.shape[0] == n_before + 2
    again = make(tmp_path, tokenizer=tokenizer).fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), again.predict_proba(X))
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))


# ------------------------------------------------------------------------ torch's default data type


def test_torchs_default_data_type_changes_nothing(fitted):
    X, y = make_texts()
    expected = make(pooling="attention").fit(X, y).predict_proba(X)
    at_layer = fitted.predict_proba_at_layer(X, 2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = make(pooling="attention").fit(X, y)
        found = model.predict_proba(X)
        loaded = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(loaded.predict_proba_at_layer(X, 2), at_layer)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
    assert {weight.dtype for weight in model.net_.module_.parameters()} == {torch.float32}
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
