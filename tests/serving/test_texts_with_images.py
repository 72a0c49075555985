"""The predictor over classifiers of texts with images: both towers, hand-overs, missing cells."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator

from sklearn_epee import FixedExitPolicyClassifier
from sklearn_epee.datasets import make_case_reports
from sklearn_epee.serving import AsyncPredictor
from sklearn_epee.serving._served import ServedModel
from tests.classifiers import tiny_multimodal_classifier
from tests.serving.conftest import WAIT, Gate, ask_all, spread_exits
from tests.serving.orders import run_in_any_order

# Tiny classifiers read a part of these texts.
pytestmark = pytest.mark.filterwarnings("ignore")

FORMS = [
    {"first": first, "hand_over_after": after} for first in ("text", "image") for after in (None, 2)
]


@pytest.fixture(scope="module")
def cases():
    """Forty cases, of which some lack the text and some the image."""
    return make_case_reports(40, missing_fraction=0.5, random_state=0)


@pytest.fixture(scope="module", params=FORMS, ids=["text", "text-early", "image", "image-early"])
def _fitted(request, cases):
    return tiny_multimodal_classifier(max_epochs=1, **request.param).fit(*cases)


@pytest.fixture
def fitted(_fitted, cases):
    """A classifier whose samples exit in both towers, of the test's own."""
    return spread_exits(copy.deepcopy(_fitted), cases[0])


def assert_same(found, expected, rows=slice(None)):
    np.testing.assert_array_equal([one.label for one in found], expected.labels[rows])
    np.testing.assert_array_equal([one.exit_layer for one in found], expected.exit_layer[rows])
    for name in ("proba", "entropy"):
        parts = np.stack([getattr(one, name) for one in found])
        np.testing.assert_allclose(parts, getattr(expected, name)[rows], atol=1e-5, rtol=0)


def test_predictions_are_those_of_the_estimator(fitted, cases):
    expected = fitted.predict_with_exits(cases[0])
    assert len(np.unique(expected.exit_layer)) > 2
    assert len(np.unique(expected.towers, axis=0)) == 3
    with AsyncPredictor(fitted) as server:
        assert_same(ask_all(server, cases[0]), expected)


@pytest.mark.parametrize(
    "policy",
    [{}, {"tau": 0.3, "patience": 2}, {"tau": 0.3, "patience": 3, "exit_ensemble": "mean"}],
    ids=["entropy", "patience", "mean"],
)
@pytest.mark.parametrize("seed", range(3))
def test_cases_join_and_leave_at_any_time(fitted, cases, seed, policy):
    fitted.set_params(**policy)
    expected = fitted.predict_with_exits(cases[0])

    def check(found, row):
        assert found["label"] == expected.labels[row]
        assert found["exit_layer"] == expected.exit_layer[row]
        np.testing.assert_allclose(found["proba"], expected.proba[row], atol=1e-5, rtol=0)

    scheduler = run_in_any_order(fitted, cases[0], check, seed)
    assert scheduler._scheduler.n_samples == 0
    assert not scheduler._scheduler._pairs
    assert scheduler.n_samples_run > scheduler.n_runs > 0


def test_requests_have_policies_of_their_own(fitted, cases):
    policies = [(0.0, 5), (fitted.tau, 5), (0.0, 2), (1.0, 5)]
    with AsyncPredictor(fitted, tau_range=(0, 1), patience_range=(1, 5)) as server:
        futures = [
            server.submit(case, tau=tau, patience=patience)
            for case in cases[0]
            for tau, patience in policies
        ]
        found = [future.result(WAIT) for future in futures]
    for number, (tau, patience) in enumerate(policies):
        fitted.set_params(tau=tau, patience=patience)
        assert_same(found[number :: len(policies)], fitted.predict_with_exits(cases[0]))


@pytest.mark.parametrize("ensemble", [None, "mean"])
def test_images_alone_meet_others_that_come_from_the_first_transformer(fitted, cases, ensemble):
    fitted.set_params(tau=0.0, patience=2, exit_ensemble=ensemble)
    X, _ = cases
    second = [case[1] is None if fitted.first == "image" else case[0] is None for case in X]
    alone, others = (
        [X[n] for n in np.flatnonzero(np.equal(second, which))] for which in (True, False)
    )
    served = ServedModel(fitted)
    scheduler = served.model.scheduler(*served.policy, len(X))
    # Those of the second cell alone wait there before anything was handed over.
    slots = np.arange(len(X))
    asked = [served.check(case) for case in [*alone, *others]]
    for rows in np.split(slots, [len(alone)]):
        scheduler.enter([asked[row] for row in rows], rows, [served.policy] * len(rows))
    expected = fitted.predict_with_exits([*alone, *others])
    left = 0
    while left < len(X):
        done = scheduler.advance()
        left += len(done)
        found = scheduler.predictions([asked[row] for row in done], done) if len(done) else []
        for one, row in zip(found, done, strict=True):
            assert one["label"] == expected.labels[row]
            assert one["exit_layer"] == expected.exit_layer[row]
            np.testing.assert_allclose(one["proba"], expected.proba[row], atol=1e-5, rtol=0)


def test_fixed_policies_and_precision(fitted, cases):
    fixed = FixedExitPolicyClassifier(FrozenEstimator(fitted), tau=0.0, patience=2)
    fixed.fit(*cases)
    with AsyncPredictor(fixed) as server:
        assert_same(ask_all(server, cases[0]), fixed.predict_with_exits(cases[0]))


def test_several_tasks(cases):
    X, y = cases
    tasks = np.column_stack([y, np.arange(len(y)) % 3])
    classifier = tiny_multimodal_classifier(max_epochs=1, tau=0.97, joint_exit="mean")
    expected = classifier.fit(X, tasks).predict_with_exits(X)
    with AsyncPredictor(classifier) as server:
        found = ask_all(server, X)
    np.testing.assert_array_equal([one.label for one in found], expected.labels)
    np.testing.assert_array_equal([one.exit_layer for one in found], expected.exit_layer)


# ------------------------------------------------------------------------------------ failures


@pytest.fixture(scope="module")
def of_files(cases, tmp_path_factory):
    """A classifier of texts with files of images that never exits early, and a sample maker."""
    folder = tmp_path_factory.mktemp("images")
    X, y = cases

    def on_disk(number):
        text, image = X[number]
        if image is None:
            return text, None
        path = folder / f"{number}.png"
        Image.fromarray(np.asarray(image, np.uint8)).save(path)
        return text, path

    classifier = tiny_multimodal_classifier(max_epochs=1, first="text", tau=0.0, patience=None)
    classifier.fit([on_disk(number) for number in range(len(X))], y)
    return classifier, on_disk


def test_an_image_that_cannot_be_read_fails_alone(of_files, cases, monkeypatch):
    classifier, on_disk = of_files
    X, _ = cases
    both = [n for n, case in enumerate(X) if all(part is not None for part in case)]
    samples = [on_disk(number) for number in both[:6]]
    expected = classifier.predict_with_exits(samples)
    with AsyncPredictor(classifier) as server:
        gate = Gate(monkeypatch, server)
        futures = [server.submit(sample) for sample in samples]
        gate.wait()
        samples[2][1].write_bytes(b"no image")
        samples[4][1].unlink()
        gate.open.set()
        for number in (2, 4):
            with pytest.raises((ValueError, OSError)):
                futures[number].result(WAIT)
        kept = [0, 1, 3, 5]
        assert_same([futures[number].result(WAIT) for number in kept], expected, kept)
        assert server.health().status == "serving"
        on_disk(both[2])
        assert_same([server.submit(samples[2]).result(WAIT)], expected, [2])
        assert server.statistics().n_failed == 2


def test_cancelled_cases_leave_either_tower(fitted, cases):
    with AsyncPredictor(fitted.set_params(tau=0.0)) as server:
        futures = [server.submit(case) for case in [*cases[0]] * 3]
        cancelled = [future for future in futures[::2] if future.cancel()]
        for future in futures:
            if future not in cancelled and not future.cancelled():
                future.result(WAIT)
        assert server.statistics().n_cancelled == len(cancelled)
    assert server._worker._scheduler._scheduler.n_samples == 0
