"""What the measurements of serving say of orders and loads, without a clock."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import serving_order
from benchmarks.serving import EARLY, FULL_DEPTH, OneAtATime, Rival, answer_of, answers
from sklearn_epee.exceptions import DeadlineExceededError


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
