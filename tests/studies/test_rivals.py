"""Rivals of the study: each is the plain thing it is called, and keeps what the report reads."""

from __future__ import annotations

import copy
import json

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from sklearn_epee._nn.pooling import masked_mean
from sklearn_epee._nn.recipes import JointExitLoss
from studies import exits
from studies.jobs import NO_BACKBONE, Folder, Job
from studies.rivals import cnn, cut, distilled, embeddings, forest, tfidf
from studies.rivals.common import tuned
from tests.checkpoints import make_checkpoint
from tests.studies.small_parts import folder_for, image_parts, marked_parts, text_parts

OPTIONS = (("n_epochs", 1),)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(make_checkpoint("bert", tmp_path_factory.mktemp("bert"), n_layers=3))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return str(make_checkpoint("dinov2", tmp_path_factory.mktemp("dinov2"), n_layers=3))


def predictions(folder):
    with np.load(folder.path / "predictions.npz") as found:
        return dict(found)


def check_kept(found, folder, parts):
    """What every rival keeps: codes, probabilities and truth of dev and test, and its scores."""
    json.dumps(found, allow_nan=False)
    kept = predictions(folder)
    for name in ("dev", "test"):
        X, y = getattr(parts, name)
        assert kept[f"{name}_proba"].shape == (len(X), len(parts.classes))
        np.testing.assert_array_equal(kept[f"{name}_y"], y)
        np.testing.assert_array_equal(kept[f"{name}_pred"], kept[f"{name}_proba"].argmax(1))
        assert found["scores"][name]["accuracy"] == np.mean(kept[f"{name}_pred"] == y)
    assert (folder.path / "model.joblib").exists() == (not found.get("training_cpu_seconds"))
    return kept


# ------------------------------------------------------------------------------------------ cut


@pytest.mark.parametrize("family", ["bert", "mpnet", "dinov2"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_a_cut_checkpoint_is_the_first_layers_of_the_whole_one(family, n_layers, tmp_path):
    source = make_checkpoint(family, tmp_path / "whole", n_layers=3)
    kind = "image" if family == "dinov2" else "text"
    found = cut.cut_checkpoint(source, n_layers, tmp_path / "cut", kind)

    whole = AutoModel.from_pretrained(source).eval()
    short = AutoModel.from_pretrained(found).eval()
    assert short.config.num_hidden_layers == n_layers
    for name, weight in short.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(weight, whole.state_dict()[name], rtol=0, atol=0)
    if kind == "text":
        tokenizer = AutoTokenizer.from_pretrained(found)
        batch = tokenizer(["severe pain daily", "zinc"], padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
    else:
        batch = {"pixel_values": torch.randn(2, 3, 16, 16)}
    with torch.inference_mode():
        expected = whole(**batch, output_hidden_states=True).hidden_states[n_layers]
        given = short(**batch, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


def test_a_cut_checkpoint_refuses_layers_that_are_not_there(bert, tmp_path):
    with pytest.raises(ValueError, match="n_layers=4 is not valid; expected 1 to 3"):
        cut.cut_checkpoint(bert, 4, tmp_path, "text")


def test_a_cut_network_learns_as_transformers_own_layers_with_one_head(bert, tmp_path):
    parts, job = text_parts(), Job("phee", "all-MiniLM-L6-v2", 0, "cut-2", OPTIONS)
    with cut.one_head(job, parts, Folder(tmp_path, tmp_path, bert), 2, dropout=0.0) as model:
        preprocessor, network = model._build(parts.train.X, 3)
        weights = np.array(model.exit_loss_weights)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = preprocessor.encode(parts.train.X).batch(np.arange(8))
    labels = torch.from_numpy(parts.train.y[:8])

    whole = AutoModel.from_pretrained(bert).train()
    for module in whole.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    head = copy.deepcopy(network.heads[-1])
    inputs = {name: part for name, part in batch.items() if name != "token_type_ids"}
    hidden = whole(**inputs, output_hidden_states=True).hidden_states[2]
    logits = head(masked_mean(hidden, batch["attention_mask"].bool()))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    expected.backward()

    found = JointExitLoss(weights)(network(**batch), labels, torch.ones(8))
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    names = [n for n, _ in network.backbone.named_parameters() if "pooler" not in n]
    assert any(name.startswith("encoder.layer.1.") for name in names)
    for name in names:
        torch.testing.assert_close(
            network.backbone.get_parameter(name).grad,
            whole.get_parameter(name).grad,
            rtol=1e-3,
            atol=1e-6,
        )
    assert not any(part.grad.any() for part in network.heads[0].parameters())


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_all_layers_from_scratch_are_the_packages_own_network(kind, tmp_path):
    parts = text_parts() if kind == "texts" else image_parts(size=8)
    data = "phee" if kind == "texts" else "breastmnist"
    job = Job(data, "scratch", 0, "full", OPTIONS)
    with cut.one_head(job, parts, Folder(tmp_path, tmp_path, None), 6) as model:
        model.fit(*parts.train)
    own = (EPEEClassifier if kind == "texts" else EPEEImageClassifier)(
        max_epochs=1, exit_loss_weights=[0, 0, 0, 0, 0, 1], memory=None, random_state=0
    ).fit(*parts.train)
    np.testing.assert_array_equal(
        model.predict_proba_at_layer(parts.test.X, -1), own.predict_proba_at_layer(parts.test.X, -1)
    )


def test_every_depth_has_a_job_and_the_whole_network_one_of_its_own():
    kinds = cut.KINDS
    named = [k for k, how in kinds.items() if how.applies("phee", "all-MiniLM-L6-v2")]
    assert named == ["cut-1", "cut-2", "cut-3", "cut-4", "cut-5", "full"]
    deep = [k for k, how in kinds.items() if how.applies("breastmnist", "dinov2-small")]
    assert len(deep) == 12
    assert not any(how.applies("phee", NO_BACKBONE) for how in kinds.values())
    assert not any(how.applies("phee_events", "scratch") for how in kinds.values())
    taught = [k for k, how in distilled.KINDS.items() if how.applies("phee", "all-mpnet-base-v2")]
    assert taught == ["distilled-4", "distilled-6"]


def test_a_whole_network_is_taught_to_a_part_of_it(bert, tmp_path):
    parts, job = text_parts(), Job("phee", "all-MiniLM-L6-v2", 0, "full", OPTIONS)
    # The tiny checkpoint has three layers, where the real one has six.
    full = folder_for(job, tmp_path, bert)
    with cut.one_head(job, parts, full, 3) as model:
        model.fit(*parts.train)
    proba = model.predict_proba_at_layer(parts.train.X, -1)
    full.save_predictions(train_proba=proba)

    student = job.of_kind("distilled-2")
    folder = folder_for(student, tmp_path, bert)
    found = distilled.run(student, parts, folder, n_layers=2)
    check_kept(found, folder, parts)
    assert found["n_layers"] == 2
    whole = sum(part.numel() for part in model.net_.module_.parameters())
    assert found["n_parameters"] < whole

    plain = job.of_kind("cut-2")
    own = folder_for(plain, tmp_path, bert)
    other = check_kept(cut.run(plain, parts, own, n_layers=2), own, parts)
    assert not np.array_equal(predictions(folder)["test_proba"], other["test_proba"])


def test_rivals_read_marks_as_the_exits_do(bert, tmp_path):
    parts = marked_parts()
    job = Job("git", "all-MiniLM-L6-v2", 0, "full", OPTIONS)
    own = exits.classifier(job, bert).fit(*parts.train)
    assert own.pooling_ == "entity"
    folder = folder_for(job, tmp_path, bert)
    folder.save_predictions(train_proba=own.predict_proba(parts.train.X))
    student = job.of_kind("distilled-2")
    found = distilled.run(student, parts, folder_for(student, tmp_path, bert), n_layers=2)
    assert found["pooling"] == "entity"
    np.testing.assert_array_equal(
        own.first_layers(2).predict_at_layer(parts.test.X, -1),
        own.predict_at_layer(parts.test.X, 2),
    )
    frozen = job.of_kind("embeddings")
    found = embeddings.run(frozen, parts, folder_for(frozen, tmp_path, bert))
    assert found["pooling"] == "mean"


def test_the_whole_network_keeps_what_others_learn_from(tmp_path):
    parts, job = image_parts(size=8), Job("breastmnist", "scratch", 0, "full", OPTIONS)
    folder = folder_for(job, tmp_path)
    kept = check_kept(cut.run(job, parts, folder), folder, parts)
    assert kept["train_proba"].shape == (24, 3)
    assert not kept["train_proba"][:, 2].any()
    assert not (kept["test_pred"] == 2).any()


def test_the_loss_of_a_taught_network():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels, weights = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1.0, 2.0, 0.5, 1.0, 0.5])
    loss = distilled.TaughtLoss().train()(
        torch.stack([torch.randn(5, 3), logits], 1), labels, torch.column_stack([weights, teacher])
    )
    student, taught = (torch.log_softmax(part / 2, 1) for part in (logits, teacher))
    divergence = (taught.exp() * (taught - student)).sum(1)
    cross_entropy = -torch.log_softmax(logits, 1)[torch.arange(5), labels]
    expected = (weights * (0.5 * cross_entropy + 0.5 * 4 * divergence)).mean()
    torch.testing.assert_close(loss, expected)


def test_a_teacher_of_other_samples_is_refused(bert, tmp_path):
    parts, job = text_parts(), Job("phee", "all-MiniLM-L6-v2", 0, "distilled-2", OPTIONS)
    callbacks = [distilled.Teacher(np.full((4, 3), 1 / 3))]
    with (
        cut.one_head(job, parts, Folder(tmp_path, tmp_path, bert), 2, callbacks=callbacks) as model,
        pytest.raises(ValueError, match="proba has 4 rows; expected one for each of 30"),
    ):
        model.fit(*parts.train)


# ----------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_embeddings_are_the_checkpoints_own_and_the_regression_reads_them(
    kind, bert, dinov2, tmp_path
):
    texts = kind == "texts"
    source = bert if texts else dinov2
    parts = text_parts() if texts else image_parts(n_channels=3)
    name = "all-MiniLM-L6-v2" if texts else "dinov2-small"
    job = Job("phee" if texts else "breastmnist", name, 0, "embeddings")
    folder = folder_for(job, tmp_path, source)
    found = embeddings.run(job, parts, folder)
    kept = check_kept(found, folder, parts)
    assert found["pooling"] == ("mean" if texts else "cls")

    def embed(X):
        whole = AutoModel.from_pretrained(source).eval()
        with torch.inference_mode():
            if texts:
                tokenizer = AutoTokenizer.from_pretrained(source)
                batch = tokenizer(X, padding=True, return_tensors="pt")
                batch.pop("token_type_ids", None)
                hidden = whole(**batch).last_hidden_state
                return masked_mean(hidden, batch["attention_mask"].bool()).numpy()
            model = EPEEImageClassifier(source)
            images = model._check_samples(X, None)
            preprocessor, _ = model._build(images, 2)
            return whole(pixel_values=preprocessor.transform(images)).pooler_output.numpy()

    plain = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, **found["setting"])
    ).fit(embed(parts.train.X), parts.train.y)
    expected = plain.predict_proba(embed(parts.test.X))
    # What was kept may have been computed in bfloat16.
    model = joblib.load(folder.path / "model.joblib").set_params(precision="float32")
    exact = model.predict_proba_at_layer(parts.test.X, -1)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    np.testing.assert_allclose(kept["test_proba"][:, plain.classes_], exact, atol=0.1)


def test_embeddings_need_a_checkpoint(tmp_path):
    assert not embeddings.applies("phee", "scratch")
    job = Job("phee", "scratch", 0, "embeddings")
    with pytest.raises(ValueError, match="embeddings need a checkpoint"):
        embeddings.run(job, text_parts(), folder_for(job, tmp_path))


# ------------------------------------------------------------------------------ without a backbone


def test_tfidf_reads_phrases_and_marks(tmp_path):
    parts, job = text_parts(), Job("phee", NO_BACKBONE, 0, "tfidf")
    folder = folder_for(job, tmp_path)
    found = tfidf.run(job, parts, folder)
    check_kept(found, folder, parts)
    assert len(found["tried"]) == 16
    assert max(row["dev"] for row in found["tried"]) == round(found["scores"]["dev"]["accuracy"], 4)
    words = tfidf.TfidfVectorizer(token_pattern=tfidf.TOKENS).build_analyzer()
    assert words("[E1] Zinc [/E1] raises [E2] iron [/E2].") == [
        "[e1]", "zinc", "[/e1]", "raises", "[e2]", "iron", "[/e2]",
    ]  # fmt: skip


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_forest_and_a_small_network_read_pixels(n_channels, tmp_path, monkeypatch):
    monkeypatch.setattr(forest, "N_TREES", 10)
    parts = image_parts(n_channels)
    for module in (forest, cnn):
        (kind,) = module.KINDS
        job = Job("breastmnist", NO_BACKBONE, 0, kind, OPTIONS)
        folder = folder_for(job, tmp_path)
        found = module.run(job, parts, folder)
        kept = check_kept(found, folder, parts)
        again = folder_for(job, tmp_path / "again")
        module.run(job, parts, again)
        np.testing.assert_array_equal(predictions(again)["test_proba"], kept["test_proba"])


def test_the_small_network_learns(tmp_path):
    parts, job = image_parts(), Job("breastmnist", NO_BACKBONE, 0, "cnn", (("n_epochs", 15),))
    found = cnn.run(job, parts, folder_for(job, tmp_path))
    assert found["scores"]["dev"]["accuracy"] >= 2 / 3
    assert {row["setting"]["augments"] for row in found["tried"]} == {False, True}


def test_of_equal_scores_on_dev_the_surer_model_is_chosen():
    parts, job = text_parts(), Job("phee", NO_BACKBONE, 0, "tfidf")
    right = np.eye(3)[parts.dev.y]
    sure, unsure = 0.9 * right + 0.1 / 3, 0.4 * right + 0.2
    wrong = np.roll(sure, 1, axis=1)
    model, found = tuned(
        job, parts, [({"k": 0}, "a", wrong), ({"k": 1}, "b", unsure), ({"k": 2}, "c", sure)]
    )
    assert model == "c"
    assert found["setting"] == {"k": 2}
    assert [row["dev"] for row in found["tried"]] == [0.0, 1.0, 1.0]
