"""Jobs "exits": what every exit predicts, from one network, and the scores of every layer."""

import joblib
import numpy as np
import pytest

from studies.exits import applies, classifier, run
from studies.jobs import Folder, Job
from studies.sets import load_parts, score_all

OPTIONS = (("n_epochs", 1),)


@pytest.mark.parametrize("name", ["phee", "breastmnist"])
def test_arrays_and_scores_are_those_of_the_network(data_home, tmp_path, name):
    parts = load_parts(name, data_home)
    result = run(Job(name, "scratch", 0, "exits", OPTIONS), parts, Folder(tmp_path, tmp_path, None))
    with np.load(tmp_path / "predictions.npz") as saved:
        arrays = dict(saved)
    assert arrays["test_proba"].shape == (24, 6, 2)
    assert arrays["test_proba"].dtype == np.float32
    np.testing.assert_array_equal(arrays["test_y"], parts.test.y)
    assert result["layers"]["dev"][2] == score_all(
        name, parts.dev.y, arrays["dev_proba"][:, 2].argmax(1)
    )
    assert len(result["layers"]["test"]) == result["n_layers"] == 6
    assert result["n_epochs"] == 1
    assert result["n_parameters"] > 10_000
    model = joblib.load(tmp_path / "model.joblib")
    found = model.predict_proba_at_layer(parts.test.X, 2)
    np.testing.assert_allclose(found, arrays["test_proba"][:, 1], atol=1e-5)


def test_classes_that_were_not_drawn_have_probability_0(data_home, tmp_path):
    parts = load_parts("phee", data_home)
    one = parts.train.y == 0
    texts = [text for text, kept in zip(parts.train.X, one, strict=True) if kept]
    train = parts.train._replace(X=texts + texts[:1], y=np.array([0] * len(texts) + [2]))
    three = {**vars(parts), "train": train, "classes": np.array(["a", "b", "c"])}
    job = Job("phee", "scratch", 1, "exits", OPTIONS)
    run(job, type(parts)(**three), Folder(tmp_path, tmp_path, None))
    with np.load(tmp_path / "predictions.npz") as saved:
        assert (saved["test_proba"][:, :, 1] == 0).all()
    # The clock reads models of seed 0 alone.
    assert not (tmp_path / "model.joblib").exists()


def test_options_of_a_job_are_parameters(tmp_path):
    job = Job("breastmnist", "dinov2-small", 3, "exits", (("image_size", 56), ("n_epochs", 2)))
    parameters = classifier(job, str(tmp_path), pooling="cls").get_params()
    assert parameters["image_size"] == 56
    assert parameters["max_epochs"] == 2
    assert parameters["random_state"] == 3
    assert parameters["pooling"] == "cls"
    plain = classifier(Job("phee", "scratch", 0, "exits"), None).get_params()
    assert plain["max_epochs"] == "auto"


def test_backbones_read_texts_or_images():
    assert applies("git", "all-MiniLM-L6-v2")
    assert applies("git", "scratch")
    assert not applies("git", "dinov2-small")
    assert applies("breastmnist", "dinov2-small")
    assert not applies("phee_events", "scratch")
