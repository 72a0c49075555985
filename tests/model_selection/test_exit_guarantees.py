"""Bounds at every exit, in expectation, and on probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from benchmarks import exit_guarantees
from benchmarks.exit_guarantees import layers_of, simulate
from sklearn_epee import TunedExitPolicyClassifierCV
from sklearn_epee._checks.tasks import Tasks
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.sweep import PolicySpace
from sklearn_epee.model_selection._exit_blocks import (
    block_evidence,
    block_name,
    exit_blocks,
    layers_to_test,
)
from sklearn_epee.model_selection._risks import risk_of

from .staged import MappedExits, NumericLabels, NumericTasks, blobs, label_clouds, task_blobs

X, Y = blobs(3000, seed=3)
FROZEN = FrozenEstimator(MappedExits().fit(X[:300], Y[:300]))
HELD, NEW = slice(300, 1800), slice(1800, 3000)

# ------------------------------------------------------------------------------- blocks


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 30))
def test_blocks_are_large_enough_and_in_order(counts, needed):
    blocks = exit_blocks(np.array(counts), needed)
    assert blocks[0] == 0
    assert set(np.diff(blocks)) <= {0, 1}
    if sum(counts) >= needed:
        totals = np.bincount(blocks, weights=counts)
        assert (totals >= needed).all()
    else:
        assert not blocks.any()


def test_blocks_have_names():
    exits = np.repeat([1, 2, 3, 5, 6], [3, 10, 10, 4, 50])
    found = layers_to_test(exits, 6, 10)
    assert [block_name(layers) for layers in found] == ["1-2", "3-5", "2", "3"]
    for layers in found:
        assert_array_equal(layers_of(block_name(layers)), layers)
    assert [block_name(b) for b in layers_to_test(np.full(9, 6), 6, 10)] == ["1-5"]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 30))
def test_every_layer_with_enough_samples_is_tested_by_itself(counts, needed):
    exits = np.repeat(np.arange(1, len(counts) + 1), counts)
    found = [tuple(layers) for layers in layers_to_test(exits, len(counts) + 1, needed)]
    assert len(set(found)) == len(found)
    alone = {layer for layer, *more in found if not more}
    assert {layer for layer, count in enumerate(counts, 1) if count >= needed} <= alone
    assert {layer for layers in found for layer in layers} == set(range(1, len(counts) + 1))


def test_evidence_is_that_of_the_worst_block():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(3), size=(400, 5))
    staged = StagedPredictions.from_proba([proba])
    losses = (rng.random((400, 5)) < [0.3, 0.02, 0.02, 0.02, 0.0]).astype(float)
    concerned = rng.random(400) < 0.9
    sweep = PolicySpace(staged).sweep(3, np.array([0.0, 0.3, 0.6]))
    found = block_evidence(sweep, losses, concerned, 0.1, 30)
    for tau, evidence in zip(sweep.taus, found, strict=True):
        exits = staged.exit_layers(tau, 3)
        each = []
        for layers in layers_to_test(exits[concerned], 5, 30):
            here = concerned & np.isin(exits, layers)
            ours = losses[here, exits[here] - 1]
            if len(ours):
                error = np.sqrt((ours.var() + 0.1 / len(ours)) / len(ours))
                each.append((0.1 - ours.mean()) / error)
        assert evidence == pytest.approx(min(each, default=np.inf))


# ------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("where", ["usual", "catastrophic"])
def test_the_bound_holds_at_exits(where):
    found = simulate("per exit", "disagreement", 0.05, 800, 20, where=where, size=3000)
    assert found.broken <= 0.05
    assert found.at_exits <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20)


def test_the_bound_on_average_does_not_hold_at_exits():
    found = simulate("probability", "disagreement", 0.05, 800, 20, where="catastrophic", size=3000)
    assert found.at_exits > 0.5
    sure = simulate("per exit", "disagreement", 0.05, 800, 20, where="catastrophic", size=3000)
    assert sure.above < found.above / 2


@pytest.mark.parametrize("risk", ["disagreement", "brier_increase"])
def test_the_expected_risk_is_within_the_bound(risk):
    found = simulate("expectation", risk, 0.05, 300, 30, size=3000)
    assert found.risk <= 0.05 + 3 * 0.015 / np.sqrt(30)
    assert found.certified == 1


# ------------------------------------------------------------------------------- the tuner


def tuned(**parameters):
    given = {"risk": "disagreement", "max_risk": 0.1, "confidence": 0.9, "random_state": 0}
    return TunedExitPolicyClassifierCV(FROZEN, **given | parameters)


def test_risks_at_exits_are_reported():
    clf = tuned(per_exit=True).fit(X[HELD], Y[HELD])
    assert clf.certified_
    assert clf.best_speedup_ > 0
    assert clf.risk_by_exit_
    assert all(risk <= 0.1 for risk in clf.risk_by_exit_.values())
    assert clf.risk_ == max([*clf.risk_by_exit_.values(), clf.candidates_["risk"][0] * 0])
    found = clf.predict_with_exits(X[NEW])
    full = list(clf.staged_predict(X[NEW]))[-1]
    for name in clf.risk_by_exit_:
        here = np.isin(found.exit_layer, layers_of(name))
        assert (found.labels != full)[here].mean() < 0.15
    average = tuned().fit(X[HELD], Y[HELD])
    assert clf.best_speedup_ <= average.best_speedup_
    assert not hasattr(average, "risk_by_exit_")
    assert not hasattr(clf.set_params(per_exit=False).fit(X[HELD], Y[HELD]), "risk_by_exit_")


def test_bounds_at_exits_and_in_classes_together():
    clf = tuned(per_exit=True, per_class=True, max_risk=0.2).fit(X[HELD], Y[HELD])
    assert clf.certified_
    assert set(clf.risk_by_group_) == set(clf.classes_)
    assert clf.risk_by_exit_


def test_nothing_is_certified_at_exits_with_few_samples():
    with pytest.warns(UserWarning, match="No policy could be certified"):
        clf = tuned(per_exit=True, max_risk=0.01).fit(X[300:400], Y[300:400])
    assert clf.risk_by_exit_ == {}
    assert clf.best_speedup_ == 0


@pytest.mark.parametrize("risk", ["disagreement", "accuracy_drop", "brier_increase"])
def test_bounds_in_expectation(risk):
    bound = {"max_accuracy_drop": 0.05} if risk == "accuracy_drop" else {"max_risk": 0.05}
    given = {"max_risk": None, "confidence": None, "guarantee": "expectation"} | bound
    clf = tuned(risk=risk, **given).fit(X[HELD], Y[HELD])
    assert clf.certified_
    assert clf.best_speedup_ > 0
    assert clf.risk_ <= clf.risk_bound_ == 0.05
    certified = clf.candidates_["certified"]
    assert certified[0]
    assert (np.diff(certified.astype(int)) <= 0).all()
    assert np.isnan(clf.p_values_).all()
    by_class = clone(clf).set_params(per_class=True).fit(X[HELD], Y[HELD])
    assert by_class.best_speedup_ <= clf.best_speedup_
    assert set(by_class.risk_by_group_) == set(clf.classes_)


def test_an_expectation_needs_samples():
    with pytest.warns(UserWarning, match="needs at least 99 samples without any loss"):
        clf = tuned(confidence=None, guarantee="expectation", max_risk=0.01).fit(X[:60], Y[:60])
    assert not clf.certified_
    assert clf.best_speedup_ == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"guarantee": "expectation"}, "takes no confidence; got confidence=0.9"),
        (
            {"guarantee": "expectation", "confidence": None, "risk": "error"},
            "needs a risk that is 0 at full depth by definition; got risk='error'",
        ),
        ({"guarantee": "expectation", "confidence": None, "per_exit": True}, "per_exit=True needs"),
        (
            {"guarantee": "expectation", "confidence": None, "max_risk": None},
            "guarantee='expectation' with risk='disagreement' needs a bound above 0 in max_risk",
        ),
        ({"guarantee": "hope"}, "guarantee"),
        (
            {"confidence": None, "risk": "accuracy_drop", "max_risk": None, "per_exit": True},
            "per_exit is about a guarantee",
        ),
    ],
)
def test_contradictions_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        tuned(**parameters).fit(X[HELD], Y[HELD])


def test_estimators_pickled_before_have_the_defaults():
    clf = tuned()
    for name in ("guarantee", "per_exit"):
        del clf.__dict__[name]
    assert clf.get_params()["guarantee"] == "probability"
    assert clf.fit(X[HELD], Y[HELD]).certified_


# ------------------------------------------------------------------------------- probabilities

PROBA = np.array([[[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]], [[0.2, 0.2, 0.6], [0.6, 0.2, 0.2]]])


def losses(risk, codes, tasks, proba):
    predictions = np.stack([task.argmax(axis=2) for task in proba], axis=-1)
    return risk_of(risk, predictions, np.array(codes), tasks, proba)


def test_losses_of_probabilities():
    tasks = Tasks(np.arange(3))
    score = losses("brier_score", [[1], [2]], tasks, [PROBA])
    expected = [[0.39, 0.0], [0.12, 0.52]]
    assert_allclose(score.losses, expected)
    assert not score.is_relative
    increase = losses("brier_increase", [[1], [2]], tasks, [PROBA])
    assert_allclose(increase.losses, [[0.39, 0.0], [-0.4, 0.0]])
    change = losses("proba_change", [[1], [2]], tasks, [PROBA])
    assert_allclose(change.losses, [[0.39, 0.0], [0.16, 0.0]])
    assert increase.is_relative
    assert change.is_relative


def test_losses_of_tasks_are_means_and_of_labels_those_that_are_known():
    two = Tasks([np.arange(3), np.arange(3)])
    both = losses("proba_change", [[1, 0], [2, 0]], two, [PROBA, np.zeros_like(PROBA)])
    assert_allclose(both.losses, [[0.195, 0.0], [0.08, 0.0]])
    labels = Tasks(np.arange(3), multilabel=True)
    predictions = (PROBA > 0.5).astype(int)
    codes = np.array([[0, 1, -1], [-1, -1, -1]])
    score = risk_of("brier_score", predictions, codes, labels, [PROBA])
    assert_allclose(score.losses, [[(0.25 + 0.49) / 2, 0.0], [0.0, 0.0]])
    for risk in ("brier_score", "brier_increase", "error", "accuracy_drop"):
        found = risk_of(risk, predictions, codes, labels, [PROBA])
        assert found.concerned.tolist() == [True, False], risk
    assert risk_of("disagreement", predictions, codes, labels).concerned.all()


def test_samples_of_which_no_label_is_known_make_no_promise():
    cloud, sets = label_clouds(600)
    frozen = FrozenEstimator(NumericLabels().fit(cloud, sets))
    given = {"risk": "error", "max_risk": 0.9, "confidence": 0.9, "random_state": 0}
    tuned = TunedExitPolicyClassifierCV(frozen, **given)
    hidden = np.where(np.arange(len(sets))[:, np.newaxis] % 2, np.nan, sets)
    known = tuned.fit(cloud, hidden)
    predicted = known.estimator_.predict(cloud)
    wrong = (predicted != sets).any(axis=1)[::2].mean()
    assert known.risk_ == pytest.approx(wrong, abs=0.1)  # and not half of it
    assert wrong > 0.3


def test_probabilities_of_tasks_and_labels_can_be_bounded():
    cloud, tasks = task_blobs(600)
    frozen = FrozenEstimator(NumericTasks().fit(cloud, tasks))
    given = {"risk": "proba_change", "max_risk": 0.2, "confidence": 0.9, "random_state": 0}
    assert TunedExitPolicyClassifierCV(frozen, **given).fit(cloud, tasks).certified_
    cloud, sets = label_clouds(600)
    frozen = FrozenEstimator(NumericLabels().fit(cloud, sets))
    given |= {"risk": "brier_increase"}
    assert TunedExitPolicyClassifierCV(frozen, **given).fit(cloud, sets).certified_


def test_rows_of_a_table_that_is_there_are_kept(tmp_path, monkeypatch, capsys):
    rows = (("usual", "disagreement", 0.05, ("probability", "expectation")),)
    monkeypatch.setattr(exit_guarantees, "ROWS", rows)
    command = ["exit_guarantees", "--draws", "2", "--sizes", "100", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    exit_guarantees.main()
    file = tmp_path / "exit_guarantees.md"
    first, second = file.read_text().splitlines()[4:]
    assert second.startswith("| usual | expectation | disagreement | 0.05 | 100 | ")
    file.write_text(file.read_text().replace(first, f"{first} kept"))
    exit_guarantees.main()
    assert file.read_text().splitlines()[4:] == [f"{first} kept", second]
