"""The predictor over classifiers of words: sentences get what the estimator predicts of each."""

from __future__ import annotations

import asyncio
import copy
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import FixedExitPolicyClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.exceptions import DeadlineExceededError, QueueFullError, WorkerFailedError
from sklearn_epee.metrics import span_f1_scorer
from sklearn_epee.serving import AsyncPredictor
from tests.serving.conftest import WAIT, Gate, ask_all, word_classifier
from tests.serving.orders import CAPACITY, run_in_any_order

# Some words are not read.
pytestmark = pytest.mark.filterwarnings("ignore")

WAYS = [
    {"token_exit": way, "joint_exit": joint, "patience": patience}
    for way in ("sentence", "token")
    for joint, patience in (("all", 2), ("any", None), ("mean", None))
]
WAYS += [WAYS[2] | {"precision": "bfloat16"}, WAYS[5] | {"precision": "bfloat16"}]


def named(part):
    """Return what every layer of spans has, also where there is only one."""
    return part if isinstance(part, dict) else {"": part}


def assert_is(found, expected, row):
    """Compare one prediction with a row of `predict_with_exits`."""
    assert found.spans == expected.spans[row]
    assert found.tags == expected.tags[row]
    np.testing.assert_array_equal(found.exit_layer, expected.exit_layer[row])
    assert np.ndim(found.exit_layer) == np.ndim(expected.exit_layer[row])
    np.testing.assert_allclose(found.entropy, expected.entropy[row], atol=1e-5, rtol=0)
    own, theirs = named(found.proba), named(expected.proba[row])
    assert own.keys() == theirs.keys()
    for name in own:
        np.testing.assert_allclose(own[name], theirs[name], atol=1e-5, rtol=0)
    assert found.rows_computed == expected.rows_computed[row]
    assert found.rows_total == expected.rows_total[row]


def assert_all(found, expected):
    for row, one in enumerate(found):
        assert_is(one, expected, row)


def layers_reached(expected):
    return np.unique(np.concatenate([np.atleast_1d(part) for part in expected.exit_layer]))


# ------------------------------------------------------------------------------ equal predictions


@pytest.mark.parametrize("parameters", WAYS)
def test_predictions_are_those_of_the_estimator(spread_words, sentences, parameters):
    spread_words.set_params(**parameters)
    expected = spread_words.predict_with_exits(sentences)
    with AsyncPredictor(spread_words) as server:
        assert_all(ask_all(server, sentences), expected)
        statistics = server.statistics()
    assert statistics.n_answered == len(sentences) == statistics.exit_layers.sum()
    last = [int(np.max(layers, initial=1)) for layers in expected.exit_layer]
    assert statistics.exit_layers.tolist() == [last.count(layer) for layer in (1, 2, 3)]
    if parameters["joint_exit"] == "mean":
        assert layers_reached(expected).tolist() == [1, 2, 3]


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_each_sentence_by_itself(spread_words, sentences, way):
    spread_words.set_params(token_exit=way)
    with AsyncPredictor(spread_words) as server:
        found = ask_all(server, sentences)
    for one, sentence in list(zip(found, sentences, strict=True))[::3]:
        assert one.spans == spread_words.predict([sentence])[0]
        assert_is(one, spread_words.predict_with_exits([sentence]), 0)


def test_texts_get_spans_in_characters(spread_words, sentences):
    texts = [" ".join(words) for words in sentences[:12]]
    expected = spread_words.predict_with_exits(texts)
    with AsyncPredictor(spread_words) as server:
        found = ask_all(server, texts)
        assert_all(found, expected)
        # One request is a text, the next a list of words, or an array of them.
        mixed = ask_all(server, [texts[0], sentences[0], np.array(sentences[0])])
    assert mixed[1].spans == mixed[2].spans == spread_words.predict(sentences[:1])[0]
    assert any(one.spans for one in found)


@pytest.mark.parametrize("way", ["sentence", "token"])
@pytest.mark.parametrize("names", [("drugs", "all"), ("drugs",)])
def test_layers_of_spans_by_name_and_transitions(tagged, sentences, way, names):
    layers = [
        {name: [tag if "Drug" in tag or name == "all" else "O" for tag in tags] for name in names}
        for tags in tagged[1]
    ]
    classifier = word_classifier(tau=0.8, transition_weight=0.3, token_exit=way)
    classifier.fit(tagged[0], layers)
    with AsyncPredictor(classifier) as server:
        assert_all(ask_all(server, sentences), classifier.predict_with_exits(sentences))


@pytest.mark.parametrize("way", ["sentence", "token"])
@pytest.mark.parametrize("joint_exit", ["all", "mean"])
def test_requests_have_policies_of_their_own(spread_words, sentences, way, joint_exit):
    spread_words.set_params(token_exit=way, joint_exit=joint_exit)
    policies = [(0.0, 3), (0.0, 1), (spread_words.tau, 3), (0.9, 2)]
    with AsyncPredictor(spread_words, tau_range=(0, 1), patience_range=(1, 3)) as server:
        futures = [
            server.submit(sentence, tau=policies[i % 4][0], patience=policies[i % 4][1])
            for i, sentence in enumerate(sentences)
        ]
        found = [future.result(WAIT) for future in futures]
    for start, (tau, patience) in enumerate(policies):
        spread_words.set_params(tau=tau, patience=patience)
        assert_all(found[start::4], spread_words.predict_with_exits(sentences[start::4]))


@pytest.mark.parametrize("seed", range(6))
def test_arrivals_and_departures_in_any_order(spread_words, sentences, seed):
    """Slots and places of words are used again."""
    way = ("sentence", "token")[seed % 2]
    spread_words.set_params(token_exit=way, joint_exit=("mean", "all", "any")[seed % 3])
    expected = spread_words.predict_with_exits(sentences)

    def check(found, row):
        assert found["spans"] == expected.spans[row]
        np.testing.assert_array_equal(found["exit_layer"], expected.exit_layer[row])
        np.testing.assert_allclose(found["proba"], expected.proba[row], atol=1e-5)
        assert found["rows_computed"] == expected.rows_computed[row]

    scheduler = run_in_any_order(spread_words, sentences, check, seed)
    # Nothing is left of those that came and went.
    assert not scheduler._is_read
    words = scheduler._records._words
    assert words.n_numbers <= 2 * CAPACITY * max(map(len, sentences))
    assert sum(size * len(runs) for size, runs in words._free.items()) == words.n_numbers


def test_many_threads_and_tasks_at_once(spread_words, sentences):
    expected = spread_words.set_params(token_exit="token").predict_with_exits(sentences)
    rng = np.random.default_rng(0)

    async def tasks(server, order):
        found = await asyncio.gather(*(server.predict(sentences[row]) for row in order))
        for one, row in zip(found, order, strict=True):
            assert_is(one, expected, row)

    def in_thread(server, order):
        for row in order[:15]:
            assert_is(server.submit(sentences[row]).result(WAIT), expected, row)

    orders = [rng.permutation(len(sentences)) for _ in range(4)]
    with AsyncPredictor(spread_words) as server, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(asyncio.run, tasks(server, order)) for order in orders[:2]]
        running += [pool.submit(in_thread, server, order) for order in orders[2:]]
        assert spread_words.predict(sentences) == expected.spans
        for future in running:
            future.result(WAIT)
        assert server.statistics().n_answered == 2 * len(sentences) + 2 * 15


def test_a_later_fit_or_policy_changes_nothing(spread_words, tagged, sentences):
    expected = spread_words.predict_with_exits(sentences)
    with AsyncPredictor(spread_words) as server:
        spread_words.set_params(tau=0.0, patience=1, token_exit="token", transition_weight=1.0)
        spread_words.fit(*(part[:8] for part in tagged))
        assert_all(ask_all(server, sentences), expected)


def test_wrappers_whose_exits_are_those_of_the_classifier(spread_words, tagged):
    frozen, sentences = FrozenEstimator(spread_words), tagged[0][:10]
    search = GridSearchCV(word_classifier(), {"patience": [1, 2]}, cv=2)
    f1 = span_f1_scorer()
    wrapped = [
        make_pipeline(FunctionTransformer(), spread_words),
        FixedExitPolicyClassifier(frozen, tau=0.0, patience=2).fit(*tagged),
        TunedExitPolicyClassifierCV(frozen, min_speedup=0.2, scoring=f1).fit(*tagged),
        search.fit(*tagged),
    ]
    for estimator in wrapped:
        with AsyncPredictor(estimator) as server:
            found = ask_all(server, sentences)
        assert [one.spans for one in found] == estimator.predict(sentences)
        if hasattr(estimator, "predict_exit_layer"):
            layers = estimator.predict_exit_layer(sentences)
            assert [one.exit_layer for one in found] == list(layers)


# -------------------------------------------------------------------------------- what is refused


def test_bad_sentences_are_refused_where_they_are_submitted(spread_words):
    with AsyncPredictor(spread_words) as server:
        for sample, message in [
            (None, r"X\[0\] is None"),
            (3, r"X\[0\] is 3"),
            (["zinc", 3], r"X\[0\]\[1\] is 3 .* not a word"),
            (["zinc", None], r"X\[0\]\[1\] is None"),
            ([["zinc"]], r"X\[0\]\[0\]"),
            ("\ud800", r"X\[0\]"),
        ]:
            with pytest.raises((TypeError, ValueError), match=message):
                server.submit(sample)
        with pytest.raises(ValueError, match="cannot set patience"):
            server.submit("zinc", patience=1)
        assert server.statistics().n_accepted == 0


def test_settings_that_would_fail_later_are_refused_at_once(spread_words):
    for parameters, message in [
        ({"transition_weight": -1}, "transition_weight"),
        ({"token_exit": "word"}, "token_exit"),
        ({"joint_exit": "most"}, "joint_exit"),
    ]:
        with pytest.raises(ValueError, match=message):
            AsyncPredictor(copy.copy(spread_words).set_params(**parameters))


# ----------------------------------------------------------------------- pressure, time, the end


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_cancelling_in_the_middle_changes_nothing_for_others(
    monkeypatch, spread_words, sentences, way
):
    spread_words.set_params(token_exit=way, tau=0.0, patience=3)
    expected = spread_words.predict_with_exits(sentences)
    server = AsyncPredictor(spread_words)
    gate = Gate(monkeypatch, server)
    with server:
        futures = [server.submit(sentence) for sentence in sentences[:38]]
        gate.wait()
        cancelled = futures[::3]
        assert all(future.cancel() for future in cancelled)
        gate.open.set()
        for row, future in enumerate(futures):
            if row % 3:
                assert_is(future.result(WAIT), expected, row)
        # Their slots and the places of their words go to others.
        assert_all(ask_all(server, sentences), expected)
    for future in cancelled:
        with pytest.raises(CancelledError):
            future.result(0)
    assert server.statistics().n_cancelled == len(cancelled)
    assert not server._worker._scheduler._is_read


def test_timeouts_and_a_full_queue(monkeypatch, spread_words, sentences):
    server = AsyncPredictor(spread_words, max_pending=2)
    gate = Gate(monkeypatch, server)
    with server:
        patient = server.submit(sentences[1])
        gate.wait()
        late = server.submit(sentences[0], timeout=0.01)
        with pytest.raises(QueueFullError, match="2 requests"):
            server.submit(sentences[2])
        time.sleep(0.02)  # until the deadline has passed for sure
        gate.open.set()
        with pytest.raises(DeadlineExceededError, match=r"timeout=0\.01"):
            late.result(WAIT)
        assert_is(patient.result(WAIT), spread_words.predict_with_exits(sentences[1:2]), 0)
        assert_is(
            server.submit(sentences[2]).result(WAIT),
            spread_words.predict_with_exits(sentences[2:3]),
            0,
        )


def test_closing_finishes_the_sentences_that_are_held(spread_words, sentences):
    server = AsyncPredictor(spread_words).start()
    futures = [server.submit(sentence) for sentence in sentences]
    server.close()
    assert_all([future.result(0) for future in futures], spread_words.predict_with_exits(sentences))
    assert server.health().status == "closed"


def test_a_failing_layer_tells_everybody(monkeypatch, spread_words, sentences):
    server = AsyncPredictor(spread_words)

    def fail(_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(server._worker._scheduler._scheduler._step, "advance", fail)
    with server:
        futures = [server.submit(sentence) for sentence in sentences[:3]]
        for future in futures:
            with pytest.raises(WorkerFailedError, match="the device is gone"):
                future.result(WAIT)


@pytest.mark.parametrize("way", ["sentence", "token"])
def test_without_room_batches_go_on_in_halves(monkeypatch, spread_words, sentences, way):
    """Words that were recorded before the memory ran out are recorded again."""
    expected = spread_words.set_params(token_exit=way).predict_with_exits(sentences)
    server = AsyncPredictor(spread_words)
    step = server._worker._scheduler._scheduler._step
    advance = step.advance

    def with_little_memory(active):
        above = advance(active)
        if len(active.rows) > 3:
            raise MemoryError
        return above

    if way == "token":  # counted last, for what follows does not fail
        count = step._count
        monkeypatch.setattr(
            step, "_count", lambda active: count(active) if len(active.rows) <= 3 else None
        )
    monkeypatch.setattr(step, "advance", with_little_memory)
    with server:
        assert_all(ask_all(server, sentences), expected)


def test_a_sentence_that_does_not_enter_fails_by_itself(monkeypatch, spread_words, sentences):
    expected = spread_words.predict_with_exits(sentences)
    server = AsyncPredictor(spread_words)
    step = server._worker._scheduler._scheduler._step
    start = step.start

    def failing(samples, rows):
        if samples.word_counts[rows].max() > 20:
            raise ValueError("too many words")
        return start(samples, rows)

    monkeypatch.setattr(step, "start", failing)
    with server:
        futures = [server.submit(sentence) for sentence in sentences]
        errors = [future.exception(WAIT) for future in futures]
    for row, (error, future) in enumerate(zip(errors, futures, strict=True)):
        if error is None:
            assert_is(future.result(0), expected, row)
        else:
            assert "too many words" in str(error)
    assert 0 < sum(error is not None for error in errors) < len(errors) - 10
    words = server._worker._scheduler._records._words
    assert sum(size * len(runs) for size, runs in words._free.items()) == words.n_numbers
