"""Which products stay in 8 bits when all of them would change too much."""

from __future__ import annotations

import numpy as np
import pytest

from sklearn_epee._base import int8_choice
from sklearn_epee._base.int8_choice import Change, Group, choose_rounded, groups
from sklearn_epee._nn.fast_backbone import LayerScales
from sklearn_epee._nn.int8_calibration import Int8Scales
from sklearn_epee._nn.int8_linear import InputScale

SCALE = InputScale(*(np.ones(2, np.float32) for _ in range(3)))
NAMES = LayerScales._fields
# The squared change that a group of products causes, beside that of bfloat16.
BASE = 0.002**2


def make_scales(n_layers: int, gain: float = 0.1) -> Int8Scales:
    layers = (LayerScales(SCALE, SCALE, SCALE, SCALE),) * n_layers
    errors = tuple(dict.fromkeys(NAMES, 0.01) for _ in range(n_layers))
    gains = tuple(dict.fromkeys(NAMES, gain) for _ in range(n_layers))
    return Int8Scales(layers, errors, gains)


class MadeUp:
    """Changes that add up, as those of a network nearly do."""

    def __init__(self, costs: dict[Group, float], more: float = 1.0) -> None:
        self._costs = costs
        self._more = more
        self.calls = 0

    def __call__(self, scales) -> Change:
        self.calls += 1
        squared = BASE + self._more * sum(self._costs[group] for group in groups(scales))
        # At two exits, of which the first changes less.
        of_logs = np.array([0.5, 1.0]) * squared**0.5
        return Change(np.zeros((1, 2, 2), np.float32), 0.0001, 0.001, of_logs)


def costs_of(scales, **by_layer: float) -> dict[Group, float]:
    return {group: by_layer.get(f"layer_{group.layer}", 1e-7) for group in groups(scales)}


def test_all_stay_where_little_changes():
    scales = make_scales(3)
    trial = MadeUp(costs_of(scales))
    found, change = choose_rounded(scales, trial, trial)
    assert groups(found) == groups(scales)
    assert found.gains == ()
    assert trial.calls == 1
    assert change.is_within(0.006)


@pytest.mark.parametrize("more", [1.0, 3.0])
def test_what_changes_most_for_what_it_saves_goes_first(more):
    scales = make_scales(3)
    costs = costs_of(scales, layer_1=3e-5)
    found, change = choose_rounded(scales, MadeUp(costs, more), MadeUp(costs))
    assert change.is_within(0.006)
    assert {group.layer for group in groups(found)} >= {0, 2}
    assert len([group for group in groups(found) if group.layer == 1]) < 2
    assert all(len([g for g in groups(found) if g.layer == layer]) == 4 for layer in (0, 2))


def test_of_products_that_change_as_much_those_stay_that_save_more():
    scales = make_scales(1)
    scales.gains[0]["up"] = 0.5
    costs = costs_of(scales, layer_0=2e-5)
    found, _ = choose_rounded(scales, MadeUp(costs), MadeUp(costs))
    assert "up" in {group.name for group in groups(found)}
    assert 0 < len(groups(found)) < 4


def test_products_of_a_layer_that_changes_little_share_that_by_their_errors():
    scales = make_scales(4)
    scales.errors[3]["down"] = 0.03
    # The first layer alone is more than the limit; the last one is within its part of it.
    costs = costs_of(scales, layer_0=2e-5, layer_3=2.4e-6)
    few = MadeUp(costs)
    found = int8_choice._costs(scales, few, room=np.full(2, 4.5e-5))
    # Without any, layer by layer, and the products of the first one by one.
    assert few.calls == 1 + 4 + 4
    assert found[Group(0, 0, "down")] == pytest.approx([0.5e-5, 2e-5])
    of_last = [found[Group(0, 3, name)][1] for name in NAMES]
    assert of_last == pytest.approx([0.8e-6, 0.8e-6, 0.8e-6, 7.2e-6])


def test_where_bfloat16_changes_more_8_bits_may_add_a_little(monkeypatch):
    monkeypatch.setattr(int8_choice, "MAX_LOG_CHANGE", 0.001)
    scales = make_scales(2)
    costs = costs_of(scales, layer_0=1e-7, layer_1=4e-7)
    found, change = choose_rounded(scales, MadeUp(costs), MadeUp(costs))
    assert 0 < len(groups(found)) < len(groups(scales))
    assert BASE**0.5 < change.of_logs.max() <= 1.15 * BASE**0.5


def test_probabilities_are_a_limit_of_their_own(monkeypatch):
    monkeypatch.setattr(int8_choice, "MAX_CHANGE", 1e-5)
    scales = make_scales(2)
    trial = MadeUp(costs_of(scales))
    found, _ = choose_rounded(scales, trial, trial)
    assert groups(found) == []


def test_products_that_seem_to_change_nothing_are_left_as_they_are_if_they_do():
    scales = make_scales(2)
    costs = costs_of(scales, layer_0=1e-4, layer_1=1e-4)
    found, change = choose_rounded(scales, MadeUp(costs), MadeUp(costs, more=0.0))
    assert groups(found) == []
    assert change.is_within(0.006)


def test_towers_are_weighed_together():
    towers = make_scales(2), make_scales(2)
    costs = {group: 1e-7 if group.tower == 0 else 2.5e-5 for group in groups(towers)}
    found, change = choose_rounded(towers, MadeUp(costs), MadeUp(costs))
    assert change.is_within(0.006)
    assert isinstance(found, tuple)
    assert found[0].n_rounded == 8
    assert found[1].n_rounded == 1
