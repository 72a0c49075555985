"""The predictor over fitted estimators: equal predictions, whoever asks, and clear refusals."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
)
from sklearn_epee.exceptions import (
    DeadlineExceededError,
    QueueFullError,
    ServerClosedError,
    WorkerFailedError,
)
from sklearn_epee.serving import AsyncPredictor
from tests.serving.conftest import WAIT, Gate, ask_all, spread_exits
from tests.serving.conftest import text_classifier as new_classifier
from tests.serving.orders import run_in_any_order

# Tiny classifiers read a part of these texts.
pytestmark = pytest.mark.filterwarnings("ignore")

CLOSE = 1e-5


def lowered(X):
    """Return texts in lower case."""
    return [text.lower() for text in X]


def assert_equal(found, expected, rows=slice(None)):
    """Compare predictions with those of `predict_with_exits`."""
    labels, exits = expected.labels[rows], expected.exit_layer[rows]
    np.testing.assert_array_equal([prediction.label for prediction in found], labels)
    np.testing.assert_array_equal([prediction.exit_layer for prediction in found], exits)
    for name in ("proba", "entropy"):
        whole = getattr(expected, name)
        parts = [getattr(prediction, name) for prediction in found]
        if isinstance(whole, list):
            columns = zip(*parts, strict=True)
            for column, task in zip(columns, whole, strict=True):
                np.testing.assert_allclose(np.stack(column), task[rows], atol=CLOSE, rtol=0)
        else:
            np.testing.assert_allclose(np.stack(parts), whole[rows], atol=CLOSE, rtol=0)


def same_as(expected):
    """Return what compares one prediction of a scheduler with a row of `predict_with_exits`."""

    def check(found, row):
        assert found["label"] == expected.labels[row]
        assert found["exit_layer"] == expected.exit_layer[row]
        np.testing.assert_allclose(found["proba"], expected.proba[row], atol=CLOSE, rtol=0)

    return check


# ------------------------------------------------------------------------------ equal predictions


def test_predictions_are_those_of_the_estimator(spread, texts):
    expected = spread.predict_with_exits(texts)
    assert len(np.unique(expected.exit_layer)) == spread.n_layers_
    with AsyncPredictor(spread) as server:
        assert_equal(ask_all(server, texts), expected)


@pytest.mark.parametrize("parameters", [{"exit_ensemble": "weighted"}, {"precision": "bfloat16"}])
def test_other_settings_of_inference(spread, texts, parameters):
    spread.set_params(**parameters)
    with AsyncPredictor(spread) as server:
        assert_equal(ask_all(server, texts), spread.predict_with_exits(texts))


def test_images_are_predicted_as_by_the_estimator(spread_image, digits):
    images = digits[0]
    expected = spread_image.predict_with_exits(images)
    assert len(np.unique(expected.exit_layer)) == spread_image.n_layers_
    with AsyncPredictor(spread_image) as server:
        assert_equal(ask_all(server, images), expected)


def test_flattened_images_are_predicted_as_by_the_estimator(image_classifier, digits):
    image_classifier.set_params(image_shape=(8, 8))
    rows = digits[0].reshape(len(digits[0]), -1)
    with AsyncPredictor(image_classifier) as server:
        assert_equal(ask_all(server, rows), image_classifier.predict_with_exits(rows))


def test_pairs_of_texts(texts, labels):
    pairs = list(zip(texts, reversed(texts), strict=True))
    classifier = spread_exits(new_classifier(max_length=64).fit(pairs, labels), pairs)
    with AsyncPredictor(classifier) as server:
        assert_equal(ask_all(server, pairs), classifier.predict_with_exits(pairs))


def test_several_tasks_and_several_labels(texts, labels):
    codes = np.unique(labels, return_inverse=True)[1]
    for y in (np.stack([codes, codes % 2], axis=1), codes[:, np.newaxis] == np.arange(3)):
        classifier = new_classifier(patience=2).fit(texts, y.astype(int))
        with AsyncPredictor(classifier) as server:
            assert_equal(ask_all(server, texts), classifier.predict_with_exits(texts))


def test_texts_of_several_windows(texts, labels):
    long = [" ".join([text] * (1 + i % 2)) for i, text in enumerate(texts)]
    windows = {"long_texts": "windows", "window_length": 32, "window_stride": 8}
    classifier = spread_exits(new_classifier(**windows).fit(long, labels), long)
    expected = classifier.predict_with_exits(long)
    with AsyncPredictor(classifier) as server:
        assert_equal(ask_all(server, long), expected)
    run_in_any_order(classifier, long, same_as(expected), seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_arrivals_and_departures_in_any_order(spread, texts, seed):
    run_in_any_order(spread, texts, same_as(spread.predict_with_exits(texts)), seed)


def test_requests_have_policies_of_their_own(spread, texts):
    policies = [(0.0, 3), (0.0, 1), (0.3, 3), (0.9, 2)]
    with AsyncPredictor(spread, tau_range=(0, 1), patience_range=(1, 3)) as server:
        futures = [
            server.submit(text, tau=policies[i % 4][0], patience=policies[i % 4][1])
            for i, text in enumerate(texts)
        ]
        found = [future.result(WAIT) for future in futures]
    for start, (tau, patience) in enumerate(policies):
        expected = spread.set_params(tau=tau, patience=patience).predict_with_exits(texts)
        assert_equal(found[start::4], expected, slice(start, None, 4))


def test_many_threads_and_tasks_at_once(spread, texts):
    expected = spread.predict_with_exits(texts)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(texts)) for _ in range(6)]

    async def tasks(server, order):
        found = await asyncio.gather(*(server.predict(texts[row]) for row in order))
        assert_equal(found, expected, order)

    def in_thread(server, order):
        for row in order[:20]:
            assert_equal([server.submit(texts[row]).result(WAIT)], expected, [row])

    with AsyncPredictor(spread) as server, ThreadPoolExecutor(6) as pool:
        running = [pool.submit(asyncio.run, tasks(server, order)) for order in orders[:3]]
        running += [pool.submit(in_thread, server, order) for order in orders[3:]]
        # The estimator itself predicts meanwhile.
        assert spread.predict(texts).tolist() == expected.labels.tolist()
        for future in running:
            future.result(WAIT)
        assert server.statistics().n_answered == 3 * len(texts) + 3 * 20


def test_a_later_fit_or_policy_changes_nothing(spread, texts, labels):
    expected = spread.predict_with_exits(texts)
    with AsyncPredictor(spread) as server:
        spread.set_params(tau=0.0, patience=1, max_epochs=1).fit(texts[:20], labels[:20])
        assert_equal(ask_all(server, texts), expected)


# -------------------------------------------------------------------------------- what is wrapped


def test_wrappers_whose_exits_are_those_of_the_classifier(spread, texts, labels):
    frozen = FrozenEstimator(spread)
    pipeline = make_pipeline(FunctionTransformer(lowered), spread)
    wrapped = [
        frozen,
        pipeline,
        FixedExitPolicyClassifier(frozen, tau=0.0, patience=2).fit(texts, labels),
        FixedExitPolicyClassifier(FrozenEstimator(pipeline), tau=0.9).fit(texts, labels),
        TunedExitPolicyClassifierCV(frozen, max_accuracy_drop=0.2).fit(texts, labels),
        FixedExitPolicyClassifier(
            FrozenEstimator(ExitCalibratedClassifier(frozen).fit(texts, labels)), patience=2
        ).fit(texts, labels),
    ]
    for estimator in wrapped:
        with AsyncPredictor(estimator) as server:
            found = ask_all(server, texts[:12])
        if hasattr(estimator, "predict_with_exits"):
            assert_equal(found, estimator.predict_with_exits(texts[:12]))
        else:
            assert [p.label for p in found] == estimator.predict(texts[:12]).tolist()


def test_a_fixed_policy_that_was_changed_after_its_fit(spread, texts, labels):
    fixed = FixedExitPolicyClassifier(FrozenEstimator(spread), tau=0.0).fit(texts, labels)
    fixed.set_params(patience=1)
    with AsyncPredictor(fixed) as server:
        assert {found.exit_layer for found in ask_all(server, texts[:5])} == {1}


def test_a_search_serves_its_best_estimator(texts, labels):
    search = GridSearchCV(new_classifier(), {"patience": [1, 2]}, cv=2)
    search.fit(texts, labels)
    with AsyncPredictor(search) as server:
        found = ask_all(server, texts[:8])
    assert_equal(found, search.best_estimator_.predict_with_exits(texts[:8]))


def test_estimators_that_cannot_be_served_are_refused(spread, texts, labels):
    calibrated = CalibratedClassifierCV(FrozenEstimator(spread), cv=2).fit(texts, labels)
    for estimator, message in [
        (LogisticRegression(), "got LogisticRegression"),
        (calibrated, "holds a CalibratedClassifierCV"),
        ("clf", "got str"),
    ]:
        with pytest.raises(TypeError, match=message):
            AsyncPredictor(estimator)
    with pytest.raises(NotFittedError):
        AsyncPredictor(new_classifier())


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"max_pending": 0}, ValueError, "max_pending must"),
        ({"max_pending": 10**30}, ValueError, "max_pending must"),
        ({"max_pending": 1.5}, TypeError, "max_pending must"),
        ({"timeout": 0}, ValueError, "timeout must"),
        ({"timeout": np.nan}, ValueError, "timeout must"),
        ({"timeout": 10**400}, ValueError, "timeout must"),
        ({"timeout": "1"}, TypeError, "timeout must"),
        ({"tau_range": 0.1}, TypeError, "tau_range must"),
        ({"patience_range": (0, 2)}, ValueError, "patience_range"),
    ],
)
def test_bad_parameters_are_refused_by_name(spread, parameters, error, message):
    with pytest.raises(error, match=message):
        AsyncPredictor(spread, **parameters)


def test_bad_samples_are_refused_where_they_are_submitted(spread):
    with AsyncPredictor(spread) as server:
        for sample in (None, 3, ["a", "b", "c"], np.array(["a", "b", "c"]), float("nan")):
            with pytest.raises((TypeError, ValueError), match="X"):
                server.submit(sample)
        with pytest.raises(ValueError, match="timeout must"):
            server.submit("text", timeout=-1)
        with pytest.raises(ValueError, match="cannot set tau"):
            server.submit("text", tau=0.5)
        assert server.submit("").result(WAIT).exit_layer >= 1
        assert server.statistics().n_accepted == 1


def test_an_image_file_that_is_damaged_fails_by_itself(image_classifier, digits, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray((digits[0][0] * 255).astype(np.uint8)).save(good)
    bad.write_bytes(good.read_bytes()[:45] + b"\0" * 60)
    with AsyncPredictor(image_classifier) as server:
        futures = []
        for path in (good, bad, good):
            try:
                futures.append(server.submit(path))
            except ValueError as error:
                assert "bad.png" in str(error)  # noqa: PT017 - it may be found here or later
        outcomes = [future.exception(WAIT) for future in futures]
        assert sum(outcome is None for outcome in outcomes) == 2
        assert server.health().is_ready


# ----------------------------------------------------------------------- pressure, time, the end


def test_a_full_queue_refuses(monkeypatch, spread, texts):
    server = AsyncPredictor(spread, max_pending=2)
    gate = Gate(monkeypatch, server)
    with server:
        futures = [server.submit(text) for text in texts[:2]]
        gate.wait()
        with pytest.raises(QueueFullError, match="2 requests"):
            server.submit(texts[2])
        gate.open.set()
        assert all(future.result(WAIT) for future in futures)


def test_a_full_queue_refuses_before_the_steps_of_a_pipeline_run(monkeypatch, spread, texts):
    seen = []
    pipeline = make_pipeline(FunctionTransformer(lambda X: seen.extend(X) or X), spread)
    server = AsyncPredictor(pipeline, max_pending=1)
    gate = Gate(monkeypatch, server)
    with server:
        future = server.submit(texts[0])
        gate.wait()
        with pytest.raises(QueueFullError):
            server.submit(texts[1])
        gate.open.set()
        assert_equal([future.result(WAIT)], spread.predict_with_exits(texts[:1]))
    assert seen == texts[:1]
    assert server.statistics().n_rejected == 1


def test_timeouts_of_the_server_and_of_requests(monkeypatch, spread, texts):
    server = AsyncPredictor(spread, timeout=0.01)
    gate = Gate(monkeypatch, server)
    with server:
        late, patient = server.submit(texts[0]), server.submit(texts[1], timeout=WAIT)
        gate.wait()
        time.sleep(0.02)  # until the deadline has passed for sure
        gate.open.set()
        with pytest.raises(DeadlineExceededError, match=r"timeout=0\.01"):
            late.result(WAIT)
        assert patient.result(WAIT).exit_layer >= 1


def test_a_cancelled_task_leaves_the_scheduler(monkeypatch, spread, texts):
    server = AsyncPredictor(spread, max_pending=1)
    gate = Gate(monkeypatch, server)

    async def main():
        async with server:
            task = asyncio.create_task(server.predict(texts[0]))
            await asyncio.to_thread(gate.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open.set()
            while server.statistics().n_cancelled < 1 or server._worker._held:
                await asyncio.sleep(0)
            return await server.predict(texts[1])

    found = asyncio.run(main())
    assert_equal([found], spread.predict_with_exits(texts[1:2]))
    assert server.statistics().n_answered == 1


def test_closing_finishes_the_requests_that_are_held(monkeypatch, spread, texts):
    server = AsyncPredictor(spread)
    gate = Gate(monkeypatch, server)
    server.start()
    futures = [server.submit(text) for text in texts]
    gate.wait()
    closing = threading.Thread(target=server.close)
    closing.start()
    while server.health().status == "serving":
        time.sleep(0)
    with pytest.raises(ServerClosedError):
        server.submit(texts[0])
    gate.open.set()
    closing.join(WAIT)
    assert_equal([future.result(0) for future in futures], spread.predict_with_exits(texts))
    assert server.health().status == "closed"
    server.close()


def test_draining_ends_with_its_timeout(monkeypatch, spread, texts):
    server = AsyncPredictor(spread)
    gate = Gate(monkeypatch, server)
    server.start()
    futures = [server.submit(text) for text in texts]
    gate.wait()
    stop = server._worker.stop

    def stop_and_go(*, drain):
        stop(drain=drain)
        if not drain:
            gate.open.set()

    monkeypatch.setattr(server._worker, "stop", stop_and_go)
    server.close(timeout=0.01)
    for future in futures:
        assert isinstance(future.exception(0), (ServerClosedError, type(None)))
    assert sum(future.exception(0) is not None for future in futures) > 0


def test_an_error_inside_the_context_does_not_drain(monkeypatch, spread, texts):
    server = AsyncPredictor(spread)
    gate = Gate(monkeypatch, server)
    server.start()
    future = server.submit(texts[0])
    gate.wait()
    threading.Timer(0.05, gate.open.set).start()
    server.__exit__(KeyError, KeyError(), None)
    assert future.done()
    assert server.health().status == "closed"


def test_a_failing_network_tells_everybody_and_is_visible(monkeypatch, spread, texts):
    server = AsyncPredictor(spread)

    def fail():
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(server._worker._scheduler, "advance", fail)
    with server:
        future = server.submit(texts[0])
        with pytest.raises(WorkerFailedError, match="the device is gone"):
            future.result(WAIT)
        server._thread.join(WAIT)
        assert server.health().reason == "RuntimeError: the device is gone"
        with pytest.raises(WorkerFailedError, match="the device is gone"):
            server.submit(texts[1])


def test_a_predictor_closes_from_its_own_callback(spread, texts):
    server = AsyncPredictor(spread).start()
    future = server.submit(texts[0])
    future.add_done_callback(lambda _: server.close())
    server._thread.join(WAIT)
    assert server.health().status == "closed"
    assert future.result(0).exit_layer >= 1


def test_a_predictor_that_is_forgotten_ends_its_thread(spread, texts):
    server = AsyncPredictor(spread).start()
    server.submit(texts[0]).result(WAIT)
    thread, gone = server._thread, weakref.ref(server)
    del server
    gc.collect()
    assert gone() is None
    thread.join(WAIT)
    assert not thread.is_alive()


def test_without_room_for_a_thread_nobody_waits(monkeypatch, spread, texts):
    server = AsyncPredictor(spread)

    def start():
        futures.append(server.submit(texts[0]))  # as another thread may
        raise RuntimeError("can't start new thread")

    futures = []
    monkeypatch.setattr(server._thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        server.start()
    assert isinstance(futures[0].exception(0), ServerClosedError)
    assert server.health().status == "closed"
    server.close()


def test_a_sample_without_room_by_itself_fails_by_itself(monkeypatch, spread, texts):
    long = " ".join(texts[:4])
    expected = spread.predict_with_exits(texts[:4])
    server = AsyncPredictor(spread)
    step = server._worker._scheduler._scheduler._step
    encoded = spread._fitted().trained.preprocessor.encode(texts[:4])
    advance, most = step.advance, encoded.lengths.max()

    def with_little_memory(active):
        if active.layer and active.layout.mask.sum() > most:
            raise MemoryError
        return advance(active)

    monkeypatch.setattr(step, "advance", with_little_memory)
    with server:
        futures = [server.submit(text) for text in (*texts[:4], long)]
        with pytest.raises(MemoryError, match="a single sample"):
            futures[-1].result(WAIT)
        assert_equal([future.result(WAIT) for future in futures[:-1]], expected)
        assert_equal(ask_all(server, texts[:1]), expected, [0])
        assert server.health().is_ready
        assert server.statistics().n_failed == 1
