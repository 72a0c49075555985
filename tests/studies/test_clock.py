"""The clock measures all that there is, in turns; how long things take is not tested."""

from __future__ import annotations

import json

import joblib
import numpy as np
import pytest

from studies import clock, events, exits
from studies.jobs import NO_BACKBONE, Job
from studies.rivals import cnn, forest, tfidf
from studies.rivals.common import proba_of
from studies.sets import load_parts
from tests.studies.small_parts import folder_for, image_parts, text_parts

OPTIONS = (("n_epochs", 1),)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(clock, "SECONDS", 0.0)
    monkeypatch.setattr(clock, "N_ROUNDS", 2)
    monkeypatch.setattr(clock, "N_BATCHED", (8, 200))
    monkeypatch.setattr(clock, "N_SINGLE", (2, 50))
    monkeypatch.setattr(forest, "N_TREES", 5)


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_everything_that_is_there_is_measured(kind, tmp_path):
    texts = kind == "texts"
    parts = text_parts() if texts else image_parts(size=8)
    rivals = [tfidf] if texts else [forest, cnn]
    job = Job("phee" if texts else "breastmnist", "scratch", 0, "clock", OPTIONS)
    before = job.of_kind("exits")
    exits.run(before, parts, folder_for(before, tmp_path))
    for module in rivals:
        (name,) = module.KINDS
        plain = Job(job.data, NO_BACKBONE, 0, name, OPTIONS)
        module.run(plain, parts, folder_for(plain, tmp_path))

    found = clock.run(job, parts, folder_for(job, tmp_path))
    json.dumps(found, allow_nan=False)
    assert (found["n_batched"], found["n_single"]) == (8, 2)
    seconds = found["seconds"]
    named = {f"budget-{k}" for k in range(1, 7)} | {f"cut-{k}" for k in range(1, 6)}
    named |= {"full", "transformers", "distilled-2", "distilled-3"}
    named |= {name for module in rivals for name in module.KINDS} | set(found["policies"])
    assert set(seconds) == named
    assert all(value > 0 for times in seconds.values() for value in times.values())
    assert all(set(times) == {"batched", "single"} for times in seconds.values())
    assert seconds["distilled-2"] == seconds["cut-2"]
    assert {name.partition("/")[0] for name in found["policies"]} <= {"entropy", "patience", "epee"}
    for policy in found["policies"].values():
        assert 1 <= policy["mean_exit"] <= 6


@pytest.mark.parametrize("n_epochs", [1, 4])
def test_policies_are_those_that_were_chosen(n_epochs, tmp_path):
    # One of three classes is not in the training part.
    parts = image_parts(size=8)
    job = Job("breastmnist", "scratch", 0, "exits", (("n_epochs", n_epochs),))
    folder = folder_for(job, tmp_path)
    exits.run(job, parts, folder)
    model = joblib.load(folder.path / "model.joblib")
    policies = clock.chosen_policies(job.data, folder.path, clock.own_scale(model, 3))
    assert policies
    for policy in policies.values():
        mean = clock.mean_exit(model, policy, parts.test.X)
        assert 1 - mean / 6 == pytest.approx(policy["ratio"], abs=0.05)


def test_exits_of_spans_are_measured(events_home, tmp_path):
    parts = load_parts("phee_events", events_home)
    job = Job("phee_events", "scratch", 0, "clock", (("n_epochs", 2),))
    before = job.of_kind("events")
    folder = folder_for(before, tmp_path)
    events.run(before, parts, folder)
    found = clock.run(job, parts, folder_for(job, tmp_path))
    named = {f"budget-{k}" for k in range(1, 7)} | {f"cut-{k}" for k in range(1, 6)}
    assert set(found["seconds"]) == named | {"full"} | set(found["policies"])

    model = joblib.load(folder.path / "model.joblib")
    for policy in found["policies"].values():
        mean = clock.mean_exit(model, policy, parts.test.X)
        assert 1 - mean / 6 == pytest.approx(policy["ratio"], abs=0.05)
        assert clock.with_policy(model, policy).joint_exit == policy["joint_exit"]


def test_competitors_run_in_turns_call_by_call():
    seen = []
    competitors = {name: lambda samples, name=name: seen.append((name, samples)) for name in "ab"}
    found = clock.per_sample(competitors, [[1], [2]], n_samples=2)
    turn = [("a", [1]), ("a", [2]), ("b", [1]), ("b", [2])]
    assert seen == 3 * turn  # one to warm up
    assert set(found) == {"a", "b"}


def test_transformers_own_pass_predicts_the_same(tmp_path):
    parts, job = text_parts(), Job("phee", "scratch", 0, "exits", OPTIONS)
    model = exits.classifier(job, None, precision="float32").fit(*parts.train)
    plain = clock.of_depths(model)["transformers"](parts.test.X)
    np.testing.assert_allclose(plain, proba_of(model, parts.test.X, parts), atol=1e-4)


def test_samples_are_drawn_and_those_without_a_backbone_share_them():
    assert sorted(clock.drawn(list("abc"), 200)) == ["a", "b", "c"]
    assert clock.drawn(np.arange(10), 4).tolist() == clock.drawn(list(range(10)), 4)
    job = Job("breastmnist", "dinov2-small", 0, "clock", (("image_size", 112), ("n_train", 50)))
    assert clock.without_backbone(job, "cnn").name == "breastmnist/none/seed0/cnn,n_train=50"
