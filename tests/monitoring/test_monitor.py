"""ExitMonitor: what it compares, when it alarms, and how it is continued."""

import json
import pickle
import re
import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from sklearn_epee.exceptions import ExitAlarmWarning
from sklearn_epee.monitoring import ExitMonitor

RNG = np.random.default_rng(0)
CALM = RNG.integers(1, 7, size=600), RNG.beta(1, 9, size=600)


def fitted(**parameters):
    return ExitMonitor(**{"random_state": 0} | parameters).fit(*CALM, n_layers=6)


def quiet(monitor, layers, entropies):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExitAlarmWarning)
        return monitor.update(layers, entropies)


def test_nothing_changes_and_nothing_happens():
    monitor = fitted()
    rng = np.random.default_rng(1)
    monitor.update(rng.integers(1, 7, size=1000), rng.beta(1, 9, size=1000))
    assert not monitor.alarm_
    assert monitor.alarm_at_ is None
    report = monitor.report()
    assert (report["n_calibration"], report["n_seen"]) == (600, 1000)
    json.dumps(report)


@pytest.mark.parametrize(
    ("stream", "layers", "entropies"),
    [
        ("exit_layer", RNG.integers(4, 7, size=400), RNG.beta(1, 9, size=400)),
        ("exit_layer", np.full(400, 3), RNG.beta(1, 9, size=400)),
        ("entropy", RNG.integers(1, 7, size=400), RNG.beta(3, 9, size=400)),
        ("entropy", RNG.integers(1, 7, size=400), RNG.beta(1, 90, size=400)),
    ],
    ids=["later", "narrower", "less sure", "surer"],
)
def test_changes_are_noticed_once_and_named(stream, layers, entropies):
    monitor = fitted()
    with pytest.warns(ExitAlarmWarning, match="the exits differ from those of the 600 calibration"):
        monitor.update(layers, entropies)
    assert monitor.alarm_
    assert 0 < monitor.alarm_at_ < 400
    by = monitor.evidence_by_
    assert max(by, key=by.get) == stream
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.update(layers, entropies)


def test_the_warning_has_the_evidence_of_the_alarm_not_of_the_end_of_the_batch():
    monitor = fitted()
    layers, entropies = np.full(60, 6), CALM[1][:60]
    with pytest.warns(ExitAlarmWarning) as caught:
        monitor.update(
            np.concatenate([layers, np.tile(CALM[0], 4)]),
            np.concatenate([entropies, np.tile(CALM[1], 4)]),
        )
    assert monitor.evidence_ < 1
    parts = re.search(r"exit layers (\S+), of the entropies (\S+)\)", str(caught[0].message))
    assert sum(map(float, parts.groups())) / 2 > 1 / monitor.false_alarm_rate - 1


def test_batches_make_no_difference():
    one, many = fitted(), fitted()
    one.update(CALM[0][:50], CALM[1][:50])
    for layer, entropy in zip(CALM[0][:50], CALM[1][:50], strict=True):
        many.update([layer], [entropy])
    assert one.evidence_ == many.evidence_
    assert one.update([], []).n_seen_ == 50


def test_json_and_pickles_continue():
    monitor = quiet(fitted(), CALM[0][:100], CALM[1][:100])
    text = monitor.to_json()
    again, copied = ExitMonitor.from_json(text), pickle.loads(pickle.dumps(monitor))
    assert again.to_json() == text
    for one in (monitor, again, copied):
        quiet(one, np.full(100, 6), CALM[1][:100])
    assert monitor.report() == again.report() == copied.report()
    assert monitor.fit(*CALM, n_layers=6).n_seen_ == 0


def test_entropies_of_several_tasks_count_by_their_mean():
    pairs = np.column_stack([CALM[1], np.zeros(600)])
    monitor = ExitMonitor(random_state=0).fit(CALM[0], pairs, n_layers=6)
    other = ExitMonitor(random_state=0).fit(CALM[0], CALM[1] / 2, n_layers=6)
    assert monitor.to_json() == other.to_json()


@pytest.mark.parametrize(
    ("layers", "entropies", "message"),
    [
        ([0, 1], [0.1, 0.1], r"exit_layer\[0\] must be from 1 to 6; got 0"),
        ([1, 7], [0.1, 0.1], r"exit_layer\[1\] must be from 1 to 6; got 7"),
        ([1.0, 2.0], [0.1, 0.1], "exit_layer must be integers"),
        ([[1], [2]], [0.1, 0.1], "exit_layer must be integers of shape"),
        ([1, 2], [0.1], "entropy must contain a number for each of the 2 samples"),
        ([1, 2], ["a", "b"], "entropy must contain a number"),
        ([1, 2], [0.1, np.nan], r"entropy\[1\] must be between 0 and 1; got nan"),
        ([1, 2], [1.1, 0.1], r"entropy\[0\] must be between 0 and 1"),
        ([1, 2], [np.zeros(3), np.zeros(2)], "entropy must hold .*one number for each sentence"),
        ([np.ones(3), np.ones(2)], [0.1, 0.1], "exit_layer must hold .*one number for each sen"),
    ],
)
def test_bad_samples_are_named_and_change_nothing(layers, entropies, message):
    monitor = fitted()
    before = monitor.to_json()
    with pytest.raises((TypeError, ValueError), match=message):
        monitor.update(layers, entropies)
    assert monitor.to_json() == before


def test_bad_parameters():
    with pytest.raises(ValueError, match="false_alarm_rate must be"):
        ExitMonitor(false_alarm_rate=0)
    with pytest.raises(ValueError, match="n_layers must be an integer >= 1; got 0"):
        ExitMonitor().fit([], [], n_layers=0)
    for ask in (lambda m: m.alarm_, lambda m: m.evidence_, lambda m: m.update([1], [0.1])):
        with pytest.raises(NotFittedError, match="call 'fit'"):
            ask(ExitMonitor())


def broken(**changes):
    return json.dumps(json.loads(fitted().to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "text is not JSON"),
        (broken(kind="ExitAudit"), "not a state of ExitMonitor; got 'ExitAudit'"),
        (broken(counts=[[1, 2], [3]]), "does not fit its parameters"),
        (broken(counts=[[-1] * 6, [0] * 256]), "negative"),
        (broken(n_layers="six"), "not a valid state"),
    ],
)
def test_states_of_something_else_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        ExitMonitor.from_json(text)
