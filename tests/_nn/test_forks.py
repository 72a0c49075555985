"""Forked processes predict: after loading, after predicting, and while other threads predict."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_epee import EPEEClassifier
from sklearn_epee._nn.forks import ForkSafeLock
from tests.checkpoints import tiny_config
from tests.classifiers import tiny_training

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

# A process of its own, with two threads whatever the machine has. Each child may take 30 seconds,
# which is long enough for any machine; one that hangs is stopped, and says where it hung.
PROGRAM = """
import faulthandler, json, multiprocessing, os, sys, threading
from pathlib import Path
import joblib
from sklearn.base import clone
from sklearn_epee.datasets import make_supplement_notes

context = multiprocessing.get_context("fork")
texts, labels = make_supplement_notes(40, random_state=0)

def predict():
    return classifier.predict_proba(texts).tolist()

def fit_and_predict():
    return clone(classifier).fit(texts, labels).predict_proba(texts).tolist()

def run_into(queue, work):
    faulthandler.dump_traceback_later(30, exit=True)
    queue.put(work())

def done_by_child(work):
    queue = context.SimpleQueue()
    child = context.Process(target=run_into, args=(queue, work))
    child.start()
    child.join(60)  # what it writes fits into a pipe
    return None if queue.empty() else queue.get()

def n_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

import sklearn_epee._nn.engine
from sklearn_epee._search.network_file import open_network
before = n_threads()
for _ in range(2):  # as it was written, and once it was found to be whole
    open_network(Path(sys.argv[2])).get()
classifier = joblib.load(sys.argv[1])
report = {"started": n_threads() - before, "loaded": done_by_child(predict)}
report["parent"] = predict()
report["predicted"] = done_by_child(predict)
report["refitted"] = fit_and_predict()
report["fitted"] = done_by_child(fit_and_predict)
stop = threading.Event()

def keep_predicting():
    while not stop.is_set():
        classifier.predict(texts)

threads = [threading.Thread(target=keep_predicting) for _ in range(3)]
for thread in threads:
    thread.start()
report["meanwhile"] = [done_by_child(predict) for _ in range(5)]
stop.set()
for thread in threads:
    thread.join()
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def saved(notes, tmp_path_factory) -> Path:
    """A fitted classifier whose weights are large enough for torch to share work among threads."""
    config = tiny_config("bert", vocab_size=300, hidden_size=64, max_position_embeddings=128)
    folder = tmp_path_factory.mktemp("saved")
    path = folder / "classifier.joblib"
    # A GPU cannot be used by a forked process once its parent has used it.
    options = tiny_training(max_epochs=1, device="cpu", memory=folder / "kept")
    classifier = EPEEClassifier(config, **options).fit(*notes)
    joblib.dump(classifier.set_params(memory="auto"), path)
    return path


@pytest.fixture(scope="module")
def report(saved) -> dict:
    """What the children of a process predicted; None for one that had to be stopped."""
    (kept,) = (saved.parent / "kept").rglob("*.network")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(saved), str(kept)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout) | {"errors": ran.stderr}


@pytest.mark.slow
def test_loading_a_pickle_or_from_a_store_starts_no_threads(report):
    assert report["started"] == 0


@pytest.mark.parametrize("moment", ["loaded", "predicted"])
def test_a_child_predicts_after_its_parent(report, moment):
    assert report[moment] is not None, report["errors"]
    np.testing.assert_allclose(report[moment], report["parent"], atol=1e-6)


def test_a_child_fits_after_its_parent(report):
    assert report["fitted"] is not None, report["errors"]
    # Sums in another order, with one thread for two.
    np.testing.assert_allclose(report["fitted"], report["refitted"], atol=1e-4)


def test_a_child_predicts_while_threads_of_its_parent_do(report):
    assert None not in report["meanwhile"], report["errors"]
    for found in report["meanwhile"]:
        np.testing.assert_allclose(found, report["parent"], atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_lock_that_another_thread_held_is_free_in_the_child(reentrant):
    lock = ForkSafeLock(reentrant)
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=_take_twice, args=(lock,))
    child.start()
    child.join(60)
    done.set()
    thread.join()
    exit_code = child.exitcode
    child.kill()
    assert exit_code == 0
    with lock:
        pass


def _take_twice(lock: ForkSafeLock) -> None:
    for _ in range(2):
        with lock:
            pass


def test_a_lock_stays_with_the_thread_that_forks():
    lock = ForkSafeLock(reentrant=True)
    with lock:
        with lock:
            pass
        lock.renew()  # as in a child
        taken: list[bool] = []
        thread = threading.Thread(target=lambda: taken.append(lock._lock.acquire(blocking=False)))
        thread.start()
        thread.join()
        assert taken == [False]
