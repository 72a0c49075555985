"""What the measurements of serving say of orders and loads, without a clock."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import served_cases, serving_order
from benchmarks.serving import (
    EARLY,
    FULL_DEPTH,
    OneAtATime,
    Rival,
    Table,
    answer_of,
    answers,
    request_of,
)
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.exceptions import DeadlineExceededError
from tests.classifiers import tiny_multimodal_classifier
from tests.serving.conftest import spread_exits


@pytest.mark.parametrize("order", serving_order.ORDERS)
@pytest.mark.parametrize("burst", [1, 16])
def test_every_sample_is_served_in_every_order(order, burst):
    traffic = serving_order.traffic_of(60, 1.5, 6, 2.0, burst=burst)
    taken = serving_order.latencies(traffic, serving_order.ORDERS[order])
    # The least that a sample takes is its layers by itself.
    least = traffic.exit_layers * (serving_order.CALLS + traffic.lengths)
    assert (taken >= least - 1e-3).all()


def test_early_exits_take_less_at_the_same_load():
    taken = {}
    for mean_exit in (None, 2.0):
        traffic = serving_order.traffic_of(300, 0.7, 6, mean_exit)
        taken[mean_exit] = serving_order.latencies(traffic, serving_order.oldest_first)
    assert 2 * np.median(taken[2.0]) < np.median(taken[None])


def test_answers_are_checked_against_the_estimator(spread, texts):
    rival = Rival(EARLY, spread, texts[:8])
    found = spread.predict_with_exits(texts[:8])
    own = found.labels[0], found.exit_layer[0], found.proba[0]
    assert rival.is_right(answer_of(*own), 0)
    assert rival.is_right({"label": own[0], "exit_layer": own[1], "proba": own[2].tolist()}, 0)
    for wrong in [("other", *own[1:]), (own[0], own[1] + 1, own[2]), (*own[:2], own[2] + 0.01)]:
        assert not rival.is_right(answer_of(*wrong), 0)


@pytest.mark.filterwarnings("ignore")  # some words are not read
@pytest.mark.parametrize("way", ["sentence", "token"])
def test_answers_for_words_are_checked_too(spread_words, sentences, way):
    rival = Rival(EARLY, spread_words.set_params(token_exit=way), sentences[:12])
    found = rival.measure(np.zeros(24), timeout=60, max_pending=64)
    assert (found["right"], found["wrong"], found["lost"]) == (24, 0, 0)
    answer = answers(spread_words.predict_with_exits(sentences[:1]))[0]
    assert rival.is_right(answer, 0)
    assert not rival.is_right(answer | {"predicted": [(0, 1, "Other")]}, 0)
    server = OneAtATime(spread_words, max_pending=8)
    future = server.submit(sentences[0])
    server.close()
    assert rival.is_right(future.result(0), 0)


@pytest.mark.filterwarnings("ignore")  # a part of the texts is read
def test_answers_for_texts_with_images_are_checked_too():
    X, y = make_case_reports(20, missing_fraction=0.5, random_state=0)
    classifier = spread_exits(tiny_multimodal_classifier(max_epochs=1).fit(X, y), X)
    rival = Rival(EARLY, classifier, X)
    found = rival.measure(np.zeros(24), timeout=60, max_pending=64)
    assert (found["right"], found["wrong"], found["lost"]) == (24, 0, 0)
    answer = answers(classifier.predict_with_exits(X[:1]))[0]
    assert rival.is_right(answer, 0)
    assert not rival.is_right(answer | {"exit_layer": answer["exit_layer"] + 1}, 0)


def test_cases_are_sent_with_their_images_as_files():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert request_of("a nodule") == {"text": "a nodule"}
    assert request_of(("a nodule", None)) == {"text": "a nodule"}
    asked = request_of((None, pixels))
    assert asked["text"] is None
    with Image.open(io.BytesIO(base64.b64decode(asked["image"]))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_command_of_served_cases_names_what_is_not_the_default():
    parser = served_cases.options()
    for given in ([], ["--n-train", "60", "--loads", "0.5", "0.9"], ["--seconds", "2.5"]):
        found = served_cases.command_of(parser, parser.parse_args(given))
        assert found == " ".join(["python -m benchmarks.served_cases", *given])
    folder = parser.parse_args(["--text", "some/folder/minilm", "--out", "results"])
    assert served_cases.command_of(parser, folder).endswith("served_cases --text minilm")


@pytest.mark.parametrize("wrong", ["wrong", "failed", "lost"])
def test_tables_count_what_is_not_right(wrong, tmp_path):
    table = Table(tmp_path / "table.md", ["heading"])
    counts = {"requests", "right", "late", "refused", "wrong", "failed", "lost"}
    found = dict.fromkeys(counts, 0) | dict.fromkeys(("p50", "p95", "p99", "goodput"), 0.1)
    table.add("in process", "poisson", 0.7, EARLY, found | {"right": 3, "late": 2})
    assert table.n_not_right == 0
    table.add("in process", "poisson", 0.7, EARLY, found | {wrong: 1})
    assert table.n_not_right == 1
    assert len((tmp_path / "table.md").read_text().splitlines()) == 6


def test_nothing_is_lost_or_wrong_under_a_load(spread, texts):
    rival = Rival(FULL_DEPTH, spread.set_params(tau=0.0), texts[:8])
    found = rival.measure(np.zeros(40), timeout=60, max_pending=64)
    assert (found["right"], found["wrong"], found["lost"]) == (40, 0, 0)
    found = rival.measure(np.zeros(40), timeout=60, max_pending=8)
    assert found["right"] + found["refused"] == 40
    assert found["refused"] > 0


def test_one_at_a_time(spread, texts):
    server = OneAtATime(spread, max_pending=8)
    futures = [server.submit(texts[0]), server.submit(texts[1], timeout=1e-9)]
    server.close()
    assert futures[0].result(0)["predicted"] == spread.predict(texts[:1])[0]
    assert isinstance(futures[1].exception(0), DeadlineExceededError)
