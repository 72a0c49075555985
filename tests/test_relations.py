"""Texts with two marked entities: heads read the opening marks, wherever the tokens are."""

from __future__ import annotations

import os
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer, BertConfig, BertTokenizerLegacy

from sklearn_epee import (
    EntityMarker,
    EPEEClassifier,
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    datasets,
)
from sklearn_epee._checks.entity_marks import carry_marks
from sklearn_epee._nn.marked_texts import MarkedTextTokenizer, with_mark_tokens
from sklearn_epee._nn.texts import learn_wordpiece
from tests.checkpoints import make_checkpoint

DRUGS = ("aspirin", "warfarin", "zinc", "iron", "biotin", "folate")
WORDS = ("raises", "lowers", "blocks", "and", "with", "after", "the", "dose", "of")


def make_rows(n: int, seed: int = 0) -> tuple[list, np.ndarray]:
    """Rows of three drugs; the class says whether one raises or lowers the next, or neither."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for _ in range(n):
        a, b, c = rng.choice(DRUGS, 3, replace=False)
        verb = str(rng.choice(["raises", "lowers"]))
        text = f"the dose of {a} {verb} {b} and {c}"
        first, second = ((a, b), (b, c))[int(rng.integers(2))]
        labels.append(verb if first == a else "none")
        starts = text.index(first), text.index(second)
        rows.append(
            (text, *((s, s + len(m)) for s, m in zip(starts, (first, second), strict=True)))
        )
    return rows, np.array(labels)


def make_texts(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rows, labels = make_rows(n, seed)
    return EntityMarker().fit_transform(rows).tolist(), labels


def make(**parameters) -> EPEEClassifier:
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    defaults = {"backbone": config, "max_epochs": 1, "random_state": 0, "memory": None}
    return EPEEClassifier(**defaults | parameters)


TEXTS, LABELS = make_texts(24)
PLAIN = "the dose of aspirin raises zinc"


# ------------------------------------------------------------------------------- which pooling


def test_auto_reads_marks_where_all_texts_carry_them(capsys):
    model = make(verbose=1).fit(TEXTS, LABELS)
    assert model.pooling_ == "entity"
    assert model.get_params()["pooling"] == "auto"
    assert "pooling='auto'" in capsys.readouterr().out
    some = make(verbose=1).fit([*TEXTS[:-1], PLAIN], LABELS)
    assert some.pooling_ == "mean"
    assert "entity" not in capsys.readouterr().out


def test_auto_and_entity_are_the_same_network():
    auto, named = make().fit(TEXTS, LABELS), make(pooling="entity").fit(TEXTS, LABELS)
    np.testing.assert_array_equal(auto.predict_proba(TEXTS), named.predict_proba(TEXTS))


def test_auto_looks_at_held_out_texts_too():
    model = make(validation_fraction=0.25).fit([*TEXTS[:-2], PLAIN, PLAIN], LABELS)
    assert model.pooling_ == "mean"


def test_auto_leaves_windows_and_causal_decoders_to_their_own_pooling(tmp_path):
    assert make(long_texts="windows").fit(TEXTS, LABELS).pooling_ == "mean"
    gpt2 = make_checkpoint("gpt2", tmp_path / "gpt2")
    assert make(backbone=gpt2).fit(TEXTS, LABELS).pooling_ == "last"
    with pytest.raises(ValueError, match="causal decoder such as 'gpt2' see neither"):
        make(backbone=gpt2, pooling="entity").fit(TEXTS, LABELS)


def test_the_heads_learn_the_relation_of_the_marked_pair():
    # The same words with marks elsewhere are another class.
    rows, labels = make_rows(300)
    model = make_pipeline(EntityMarker(), make(max_epochs=12, pooling="entity")).fit(rows, labels)
    test_rows, test_labels = make_rows(60, seed=1)
    assert model.score(test_rows, test_labels) > 0.75


# ---------------------------------------------------------------------------- which rows it reads


@pytest.mark.parametrize("entity_marks", ["text", "tokens"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_positions_are_those_of_the_opening_marks(family, entity_marks, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint(family, tmp_path / family))
    texts = [*TEXTS, "[E2:drug] zinc [/E2:drug],[E1]iron[/E1]"]
    if entity_marks == "tokens":
        tokenizer = with_mark_tokens(tokenizer, texts)
    encoded = MarkedTextTokenizer(tokenizer, 64).encode(texts)
    batch = encoded.batch(np.arange(len(texts)))
    for ids, positions, text in zip(
        batch["input_ids"], batch["entity_positions"], texts, strict=True
    ):
        rest = [tokenizer.decode(ids[p:].tolist()).replace(" ", "") for p in positions.tolist()]
        assert rest[0].startswith("[E1]" if "[e1]" not in rest[0] else "[e1]"), text
        assert rest[1].lower().startswith(("[e2]", "[e2:drug]")), text


def test_mark_tokens_are_single_tokens_and_leave_the_tokenizer_as_it_was(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint("bert", tmp_path / "bert"))
    n_before = len(tokenizer)
    longer = with_mark_tokens(tokenizer, TEXTS)
    assert len(tokenizer) == n_before
    assert len(longer) == n_before + 4
    assert longer.tokenize("a [E1] b")[1].strip() == "[E1]"


@pytest.mark.parametrize("entity_marks", ["text", "tokens"])
def test_long_texts_are_read_around_both_entities(entity_marks):
    filler = " ".join(["the dose of"] * 40)
    short = "[E1] zinc [/E1] raises [E2] iron [/E2]"
    model = make(pooling="entity", entity_marks=entity_marks, max_length=24).fit(TEXTS, LABELS)
    with pytest.warns(UserWarning, match="1 of 1 texts.*farthest from both entities"):
        encoded = model._preprocessor.encode([f"{filler} {short} {filler}"])
    batch = encoded.batch(np.arange(1))
    row = model._preprocessor.tokenizer.decode(batch["input_ids"][0].tolist()).lower()
    assert encoded.lengths.tolist() == [24]
    assert short.lower().replace(" ", "") in row.replace(" ", "")
    with pytest.warns(UserWarning, match="farthest from both"):
        apart = model._preprocessor.encode([f"[E2] zinc [/E2] {filler} [E1] iron [/E1]"])
    assert apart.lengths.tolist() == [24]
    last, first = apart.batch(np.arange(1))["entity_positions"][0].tolist()
    assert first < last


def test_an_entity_that_does_not_fit_is_named():
    long = f"[E1] {' '.join(['zinc'] * 70)} [/E1] and [E2] iron [/E2]"
    model = make(pooling="entity").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"X\[2\] does not fit.*max_length=64"):
        model.predict([*TEXTS[:2], long])
    weights = np.r_[0, 0, np.ones(len(TEXTS) + 1)]
    labels = np.r_[LABELS[:2], LABELS, LABELS[:1]]
    with pytest.raises(ValueError, match=r"X\[26\] does not fit"):
        make(pooling="entity").fit([*TEXTS[:2], *TEXTS, long], labels, sample_weight=weights)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (PLAIN, r"X\[1\] has no mark \[E1\]"),
        ("[E1] zinc [/E1]", r"X\[1\] has no mark \[E2\]"),
        ("[E1] zinc [E2] iron [/E2]", r"X\[1\] has no closing mark \[/E1\]"),
    ],
)
def test_a_text_without_a_mark_is_named_in_fit_and_in_predict(wrong, message):
    texts = [TEXTS[0], wrong, *TEXTS[2:]]
    for parameters in ({"pooling": "entity"}, {"entity_marks": "tokens", "pooling": "mean"}):
        model = make(**parameters)
        with pytest.raises(ValueError, match=message):
            model.fit(texts, LABELS)
        assert not hasattr(model, "classes_")
    fitted = make().fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match=f"{message}.*chosen by 'auto'"):
        fitted.predict(texts)
    assert make(entity_marks="tokens", pooling="mean").fit(TEXTS, LABELS).predict([wrong]).size == 1


def test_pairs_are_refused():
    pairs = [(text, text) for text in TEXTS]
    with pytest.raises(ValueError, match="pairs of texts"):
        make(pooling="entity").fit(pairs, LABELS)
    with pytest.raises(ValueError, match="pairs of texts"):
        make().fit(TEXTS, LABELS).predict(pairs)


def test_tokenizers_that_do_not_tell_characters_are_refused(tmp_path):
    folder = make_checkpoint("bert", tmp_path / "bert")
    vocab = AutoTokenizer.from_pretrained(folder).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)))
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    with pytest.raises(ValueError, match=r"BertTokenizerLegacy.*a fast tokenizer"):
        make(backbone=folder, tokenizer=slow, pooling="entity").fit(TEXTS, LABELS)
    assert make(backbone=folder, tokenizer=slow).fit(TEXTS, LABELS).pooling_ == "mean"


def test_tokens_without_marks_are_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint("bert", tmp_path / "bert"))
    with pytest.raises(ValueError, match="finds no marks"):
        with_mark_tokens(tokenizer, [PLAIN])


@pytest.mark.parametrize("wrong", [{"entity_marks": "token"}, {"pooling": "entities"}])
def test_unknown_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong).fit(TEXTS, LABELS)


# ----------------------------------------------------------------- what a fitted one goes through


@pytest.mark.parametrize("entity_marks", ["text", "tokens"])
@pytest.mark.parametrize("backbone", ["checkpoint", "config", None])
def test_it_is_saved_with_its_marks(backbone, entity_marks, tmp_path):
    parameters = {"entity_marks": entity_marks, "pooling": "entity"}
    if backbone != "config":
        parameters["backbone"] = backbone and make_checkpoint("bert", tmp_path / "bert")
    model = make(**parameters).fit(TEXTS, LABELS)
    marks = {"[E1]", "[/E1]", "[E2]", "[/E2]"}
    added = marks & set(model._preprocessor.tokenizer.get_vocab())
    assert added == (marks if entity_marks == "tokens" else set())
    n_embeddings = model.net_.module_.backbone.get_input_embeddings().num_embeddings
    assert n_embeddings >= len(model._preprocessor.tokenizer)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert clone(model).get_params()["entity_marks"] == entity_marks


def test_estimators_of_before_have_text_marks():
    model = make(pooling="mean").fit(TEXTS, LABELS)
    state = model.__getstate__()
    del state["entity_marks"]
    older = EPEEClassifier.__new__(EPEEClassifier)
    older.__setstate__(state)
    assert clone(older).get_params()["entity_marks"] == "text"
    np.testing.assert_array_equal(older.predict(TEXTS), model.predict(TEXTS))


@pytest.mark.parametrize("exit_training", ["joint", "mixed+distillation", "detached"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_recipe_and_precision_predicts_alike_in_all_modes(exit_training, precision):
    model = make(
        pooling="entity", exit_training=exit_training, precision=precision, tau=0.9, max_epochs=2
    ).fit(TEXTS, LABELS)
    staged = np.stack(list(model.staged_predict_proba(TEXTS)), axis=1)
    found = model.predict_with_exits(TEXTS)
    rows = np.arange(len(TEXTS))
    np.testing.assert_allclose(found.proba, staged[rows, found.exit_layer - 1], atol=1e-6)
    np.testing.assert_allclose(model.predict_proba_at_layer(TEXTS, 2), staged[:, 1], atol=1e-6)
    one = model.set_params(predict_batch_size=1).predict_proba(TEXTS)
    np.testing.assert_allclose(one, found.proba, atol=1e-5)


def test_several_tasks_read_the_same_marks():
    tasks = np.stack([LABELS, np.arange(len(LABELS)) % 2], axis=1)
    model = make(pooling="entity", tau=0.9).fit(TEXTS, tasks)
    assert [part.shape for part in model.predict_proba(TEXTS)] == [(24, 3), (24, 2)]


def test_a_search_over_policies_trains_once_for_a_fold_and_marks_its_own_rows():
    rows, labels = make_rows(24)
    pipeline = make_pipeline(EntityMarker(), make(memory="auto"))
    grid = {"epeeclassifier__tau": [0.1, 0.9], "epeeclassifier__pooling": ["auto", "mean"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = GridSearchCV(pipeline, grid, cv=2).fit(rows, labels)
    assert search.predict(rows).shape == (24,)


def test_networks_kept_on_disk_have_their_marks(tmp_path):
    parameters = {"entity_marks": "tokens", "memory": tmp_path / "kept"}
    first = make(**parameters).fit(TEXTS, LABELS)
    again = make(**parameters).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), first.predict_proba(TEXTS))
    as_text = make(memory=tmp_path / "kept").fit(TEXTS, LABELS)
    assert abs(as_text.predict_proba(TEXTS) - first.predict_proba(TEXTS)).max() > 1e-6


@pytest.mark.filterwarnings("ignore")
def test_tuned_fixed_and_calibrated_policies_read_marks():
    frozen = FrozenEstimator(make(pooling="entity", max_epochs=2).fit(TEXTS, LABELS))
    relations = make_scorer(f1_score, labels=["raises", "lowers"], average="micro")
    for wrapper in (
        TunedExitPolicyClassifierCV(frozen, scoring=relations),
        FixedExitPolicyClassifier(frozen, tau=0.9, patience=2),
        ExitCalibratedClassifier(frozen),
    ):
        fitted = wrapper.fit(TEXTS, LABELS)
        assert fitted.predict(TEXTS).shape == (24,)
        with pytest.raises(ValueError, match=r"X\[1\] has no mark"):
            fitted.predict([TEXTS[0], PLAIN])


def test_training_goes_on_from_a_fitted_network():
    model = make(warm_start=True).fit(TEXTS, LABELS)
    assert model.fit(TEXTS, LABELS).pooling_ == "entity"
    with pytest.raises(ValueError, match=r"X\[0\] has no mark"):
        model.fit([PLAIN, *TEXTS[1:]], LABELS)


# -------------------------------------------------------------------------------------- real data


@pytest.mark.realdata
@pytest.mark.skipif(
    not os.environ.get("SKLEARN_EPEE_DATA"),
    reason="SKLEARN_EPEE_DATA does not name a folder of data",
)
@pytest.mark.parametrize("name", ["git", "ddi2013"])
def test_real_sets_carry_both_marks_and_every_mark_has_a_token(name):
    texts = list(getattr(datasets, f"load_{name}")(subset="test").data[:300])
    assert carry_marks(texts)
    tokenizer = learn_wordpiece(texts)
    encoded = MarkedTextTokenizer(tokenizer, 512).encode(texts)
    batch = encoded.batch(np.arange(len(texts)))
    marks = batch["input_ids"].gather(1, batch["entity_positions"])
    assert (marks == tokenizer.convert_tokens_to_ids("[")).all()


def test_rows_of_annotated_corpora_are_marked(tmp_path):
    content = """<document id="d0"><sentence id="s0" text="Avoid aspirin with warfarin.">
    <entity id="e0" charOffset="6-12" type="drug" text="aspirin"/>
    <entity id="e1" charOffset="19-26" type="drug" text="warfarin"/>
    <pair id="p0" e1="e0" e2="e1" ddi="true" type="advise"/></sentence></document>"""
    (tmp_path / "d0.xml").write_text(content)
    for as_frame in (False, True):
        rows = datasets.read_ddi_xml(tmp_path, as_frame=as_frame).data
        marked = EntityMarker("typed").fit_transform(rows)
        assert marked.tolist() == [
            "Avoid [E1:drug] aspirin [/E1:drug] with [E2:drug] warfarin [/E2:drug]."
        ]
