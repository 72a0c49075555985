"""The web service of examples/service, and its load generator, without a network."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tests.serving.conftest import spread_exits, text_classifier, word_classifier

FOLDER = Path(__file__).parents[2] / "examples" / "service"
# As uvicorn does it with --app-dir.
sys.path.append(str(FOLDER))


def load(name):
    spec = importlib.util.spec_from_file_location(f"service_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # annotations are looked up there
    spec.loader.exec_module(module)
    return module


def running(estimator):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient  # noqa: PLC0415 - an extra

    app = load("app").make_app(
        estimator, max_pending=8, timeout=60, tau_range=(0, 1), patience_range=(1, 3)
    )
    with TestClient(app) as client:
        yield client
    assert client.get("/ready").status_code == 503


@pytest.fixture
def client(spread):
    yield from running(spread)


@pytest.fixture
def client_of_words(spread_words):
    yield from running(spread_words.set_params(token_exit="token"))


@pytest.mark.filterwarnings("ignore")  # some words are not read
def test_words_as_the_estimator_predicts_them(client_of_words, spread_words, sentences):
    is_same = load("load").is_same
    for asked in [{"words": words} for words in sentences[-6:]] + [{"text": "zinc, no rash"}]:
        found = client_of_words.post("/predict", json=asked).json()
        expected = spread_words.predict_with_exits(list(asked.values()))
        assert [tuple(span) for span in found["spans"]] == expected.spans[0]
        assert found["tags"] == expected.tags[0]
        assert is_same(found["proba"], expected.proba[0].tolist())
        assert is_same(found["entropy"], expected.entropy[0].tolist())
        assert found["exit_layer"] == expected.exit_layer[0].tolist()
        assert found["rows_computed"] == expected.rows_computed[0]
    lines = client_of_words.get("/metrics").text.splitlines()
    assert "epee_exit_layer_count 7.0" in lines
    assert "epee_entropy_count 7.0" in lines


def test_layers_of_spans_come_by_name(tagged):
    layers = [{"drugs": tags, "all": tags} for tags in tagged[1]]
    classifier = word_classifier(patience=1).fit(tagged[0], layers)
    for client in running(classifier):
        found = client.post("/predict", json={"words": tagged[0][0]}).json()
    assert found["tags"] == classifier.predict_tags(tagged[0][:1])[0]
    assert found["spans"].keys() == found["proba"].keys() == {"drugs", "all"}
    assert found["exit_layer"] == 1


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"words": "zinc"},
        {"words": ["zinc", 3]},
        {"words": ["zinc"], "text": "zinc"},
        {"words": ["a" * 60_000] * 2},
        {"words": ["zinc"], "patience": 9},
    ],
)
def test_words_that_are_not_valid_are_refused(client_of_words, asked):
    assert client_of_words.post("/predict", json=asked).status_code == 422


def test_words_asked_of_a_classifier_of_texts_are_refused(client):
    response = client.post("/predict", json={"words": ["no", "zinc"]})
    assert response.status_code == 422


@pytest.fixture
def client_of_pairs(spread_pairs):
    yield from running(spread_pairs)


@pytest.fixture(scope="module")
def pairs(texts):
    return list(zip(texts, reversed(texts), strict=True))


@pytest.fixture(scope="module")
def spread_pairs(pairs, labels):
    return spread_exits(text_classifier(max_length=64).fit(pairs, labels), pairs)


@pytest.mark.filterwarnings("ignore:.*longer than max_length")
def test_pairs_as_the_estimator_predicts_them(client_of_pairs, spread_pairs, pairs):
    expected = spread_pairs.predict_with_exits(pairs[:6])
    assert len(set(expected.exit_layer)) > 1
    for row, pair in enumerate(pairs[:6]):
        found = client_of_pairs.post("/predict", json={"pair": pair}).json()
        assert found["label"] == expected.labels[row]
        assert found["exit_layer"] == expected.exit_layer[row]
        np.testing.assert_allclose(found["proba"], expected.proba[row], atol=1e-5)
    turned = client_of_pairs.post("/predict", json={"pair": pairs[0][::-1]}).json()
    assert abs(turned["proba"][0] - expected.proba[0, 0]) > 1e-3  # their order counts
    first = client_of_pairs.post("/predict", json={"pair": ["", ""], "patience": 1}).json()
    assert first["exit_layer"] == 1


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "expects text or pair; got none"),
        ({"text": "zinc"}, "X holds single texts, but .* fitted on pairs of texts"),
        ({"words": ["zinc", "rash"]}, "expects text or pair; got words"),
        ({"pair": ["zinc", "rash"], "text": "zinc"}, "expects text or pair; got text and pair"),
        ({"pair": "zinc"}, "valid tuple"),
        ({"pair": ["zinc"]}, "Field required"),
        ({"pair": ["zinc", "rash", "mg"]}, "at most 2 items"),
        ({"pair": ["zinc", None]}, "valid string"),
        ({"pair": ["a" * 60_000] * 2}, "pair must have at most 100000 characters in all"),
    ],
)
def test_pairs_that_are_not_valid_are_refused(client_of_pairs, asked, reason):
    response = client_of_pairs.post("/predict", json=asked)
    assert response.status_code == 422
    assert re.search(reason, json.dumps(response.json()["detail"]))


def test_pairs_asked_of_a_classifier_of_others_are_refused(client, client_of_words):
    response = client.post("/predict", json={"pair": ["no", "zinc"]})
    assert response.status_code == 422
    assert "holds pairs of texts, but this" in response.json()["detail"]
    response = client_of_words.post("/predict", json={"pair": ["no", "zinc"]})
    assert response.status_code == 422
    assert response.json()["detail"] == "this classifier expects text or words; got pair"


def test_a_pipeline_may_make_one_text_of_a_pair(spread, texts, tmp_path, monkeypatch):
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient  # noqa: PLC0415 - an extra

    joblib.dump(make_pipeline(FunctionTransformer(joined), spread), tmp_path / "pipeline.joblib")
    monkeypatch.setenv("SKLEARN_EPEE_MODEL", str(tmp_path / "pipeline.joblib"))
    monkeypatch.setenv("SKLEARN_EPEE_TAU", "0.7")
    with TestClient(load("app").app) as client:
        found = client.post("/predict", json={"pair": texts[:2], "timeout": 60}).json()
    expected = spread.set_params(tau=0.7).predict_with_exits([" ".join(texts[:2])])
    assert found["label"] == expected.labels[0]
    assert found["exit_layer"] == expected.exit_layer[0]


def joined(pairs):
    return [" ".join(pair) for pair in pairs]


def test_models_from_folders_and_files(spread_words, spread, sentences, texts, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    load_estimator = load("app").load_estimator
    spread_words.save_pretrained(tmp_path / "words")
    joblib.dump(spread, tmp_path / "model.joblib")
    loaded = load_estimator(str(tmp_path / "words"))
    assert type(loaded) is type(spread_words)
    assert loaded.predict(sentences[:5]) == spread_words.predict(sentences[:5])
    loaded = load_estimator(str(tmp_path / "model.joblib"))
    assert loaded.predict(texts[:5]).tolist() == spread.predict(texts[:5]).tolist()
    document = tmp_path / "words" / "sklearn_epee.json"
    document.write_text(json.dumps({"model": {"class": "os"}}))
    with pytest.raises(ValueError, match="not a class of sklearn_epee"):
        load_estimator(str(tmp_path / "words"))


def test_predictions_and_policies(client, spread, texts):
    expected = spread.predict_with_exits(texts[:4])
    for i, text in enumerate(texts[:4]):
        found = client.post("/predict", json={"text": text}).json()
        assert found["label"] == expected.labels[i]
        assert found["exit_layer"] == expected.exit_layer[i]
        np.testing.assert_allclose(found["proba"], expected.proba[i], atol=1e-5)
    first = client.post("/predict", json={"text": texts[0], "patience": 1}).json()
    assert first["exit_layer"] == 1


@pytest.mark.parametrize("kind", ["tasks", "labels"])
def test_several_tasks_and_labels_come_as_lists(texts, labels, kind):
    numbers = np.arange(len(texts))
    columns = {"tasks": [labels, numbers % 3], "labels": [numbers % 2, numbers % 3 == 0]}[kind]
    classifier = text_classifier(patience=2).fit(texts, np.column_stack(columns))
    expected = classifier.predict_with_exits(texts[:3])
    for client in running(classifier):
        for row, text in enumerate(texts[:3]):
            found = client.post("/predict", json={"text": text}).json()
            assert found["label"] == expected.labels[row].tolist()
            assert found["exit_layer"] == expected.exit_layer[row]
            np.testing.assert_allclose(found["entropy"], expected.entropy[row], atol=1e-5)
            proba = (
                [task[row] for task in expected.proba] if kind == "tasks" else expected.proba[row]
            )
            assert len(found["proba"]) == 2
            for one, other in zip(found["proba"], proba, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
        lines = client.get("/metrics").text.splitlines()
        assert 'epee_requests_total{outcome="answered"} 3.0' in lines


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"text": 3},
        {"text": "a", "tau": 2},
        {"text": "a", "timeout": -1},
        {"text": "a" * 100_001},
    ],
)
def test_what_is_not_valid_is_refused(client, asked):
    assert client.post("/predict", json=asked).status_code == 422


def test_late_answers_and_health(client, texts):
    response = client.post("/predict", json={"text": texts[0], "timeout": 1e-9})
    assert response.status_code == 504
    assert "timeout" in response.json()["detail"]
    assert client.get("/health").json() == {"status": "serving", "reason": None}
    assert client.get("/ready").status_code == 200


def test_metrics_count_requests_by_outcome(client, texts):
    for text in texts[:3]:
        client.post("/predict", json={"text": text})
    client.post("/predict", json={"text": texts[0], "tau": 5})
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'epee_requests_total{outcome="answered"} 3.0',
        'epee_requests_total{outcome="ValueError"} 1.0',
        "epee_exit_layer_count 3.0",
        "epee_entropy_count 3.0",
        "epee_latency_seconds_count 3.0",
        "epee_queued 0.0",
        "epee_running 0.0",
    ):
        assert line in lines


def test_a_failed_worker_is_unhealthy(spread, monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient  # noqa: PLC0415 - an extra

    from sklearn_epee._nn.continuous_scheduler import ContinuousScheduler  # noqa: PLC0415

    def fail(_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ContinuousScheduler, "advance", fail)
    with TestClient(load("app").make_app(spread)) as client:
        assert client.post("/predict", json={"text": "a"}).status_code == 500
        response = client.get("/health")
        assert response.status_code == 500
        assert "the device is gone" in response.json()["reason"]
        assert client.get("/ready").status_code == 503


def test_a_text_too_long_for_the_memory_is_refused(client, monkeypatch, texts):
    from sklearn_epee._nn.continuous_scheduler import ContinuousScheduler, SampleTooLargeError  # noqa: PLC0415

    advance = ContinuousScheduler.advance

    def fail(scheduler):
        if not scheduler.n_samples:
            return advance(scheduler)
        raise SampleTooLargeError("too long", next(iter(scheduler._waiting.values()))[0].rows[:1])

    monkeypatch.setattr(ContinuousScheduler, "advance", fail)
    response = client.post("/predict", json={"text": texts[0]})
    assert (response.status_code, response.json()["detail"]) == (413, "too long")
    monkeypatch.setattr(ContinuousScheduler, "advance", advance)
    assert client.post("/predict", json={"text": texts[0]}).status_code == 200
    lines = client.get("/metrics").text.splitlines()
    assert 'epee_requests_total{outcome="SampleTooLargeError"} 1.0' in lines


@pytest.mark.parametrize(("pattern", "size"), [("poisson", 1), ("bursts", 16)])
def test_arrival_times_follow_their_pattern(pattern, size):
    times = load("load").arrival_times(320, 2.0, pattern)
    assert len(times) == 640
    assert (np.diff(times) >= 0).all()
    assert len(np.unique(times)) == 640 // size


def test_the_load_generator_counts_every_request_once():
    generator = load("load")
    outcomes = ["right", "wrong", "late", "refused", "failed"]

    async def ask(number):
        await asyncio.sleep(0)
        return outcomes[number % 5]

    found = asyncio.run(generator.run_load(ask, [0.0] * 10, timeout=60))
    assert {name: found[name] for name in outcomes} == dict.fromkeys(outcomes, 2)
    assert (found["requests"], found["lost"]) == (10, 0)
    # Those without an answer took the timeout.
    assert found["p50"] == 60
    json.dumps(found)


def test_answers_are_compared():
    is_same = load("load").is_same
    answer = {"label": "a", "proba": [0.9, 0.1], "exit_layer": 2}
    assert is_same(answer, answer | {"proba": [0.900001, 0.099999]})
    assert is_same(answer | {"latency": 1.0}, answer | {"latency": 2.0})
    for other in ({"label": "b"}, {"proba": [0.8, 0.2]}, {"exit_layer": 3}, {"more": 1}):
        assert not is_same(answer, answer | other)
        assert not is_same(answer | other, answer)
    words = {"spans": {"a": [[0, 2, "Drug"]]}, "exit_layer": [1, 2], "proba": {"a": [[0.9, 0.1]]}}
    assert is_same(words, words | {"proba": {"a": [[0.900001, 0.1]]}})
    for other in ({"spans": {"a": []}}, {"exit_layer": [1, 3]}, {"proba": {"b": [[0.9, 0.1]]}}):
        assert not is_same(words, words | other)
        assert not is_same(words | other, words)
    for other in ({"spans": None}, {"exit_layer": 1}, {"proba": [0.9]}, {"proba": {"a": [["a"]]}}):
        assert not is_same(words, words | other)
        assert not is_same(words | other, words)
