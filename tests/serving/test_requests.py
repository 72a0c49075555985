"""Which policies requests may ask for."""

from __future__ import annotations

import math

import pytest

from sklearn_epee.serving._requests import Limits


def limits(tau_range=None, patience_range=None, policy=(0.2, 3)):
    return Limits.of(policy, tau_range, patience_range, n_layers=6)


def test_requests_have_the_policy_of_the_server_by_default():
    assert limits().policy(None, None) == (0.2, 3)
    assert limits().widest == (0.2, 3)


def test_requests_choose_within_the_limits():
    given = limits((0, 0.5), [2, 10])
    assert given.policy(0.5, None) == (0.5, 3)
    assert given.policy(None, 2) == (0.2, 2)
    # More agreeing layers than there are: all of them.
    assert given.policy(0, 10) == (0.0, 6)
    assert given.widest == (0.5, 2)


def test_the_own_policy_may_be_out_of_the_limits():
    given = limits((0.0, 0.1), (4, 6), policy=(0.3, 2))
    assert given.widest == (0.3, 2)
    assert given.policy(None, None) == (0.3, 2)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"tau": 0.6}, ValueError, r"tau=0.6 is out of the range .* 0.1 to 0.5"),
        ({"tau": 0.05}, ValueError, "tau=0.05"),
        ({"tau": math.nan}, ValueError, "tau must be"),
        ({"tau": "0.2"}, TypeError, "tau must be"),
        ({"patience": 1}, ValueError, r"patience=1 is out of the range .* 2 to 4"),
        ({"patience": 2.5}, TypeError, "patience must be"),
        ({"patience": 0}, ValueError, "patience must be"),
    ],
)
def test_others_are_refused(asked, error, message):
    with pytest.raises(error, match=message):
        limits((0.1, 0.5), (2, 4)).policy(*[asked.get(name) for name in ("tau", "patience")])


@pytest.mark.parametrize("asked", [(0.2, None), (None, 3)])
def test_nobody_chooses_without_limits(asked):
    with pytest.raises(ValueError, match="cannot set"):
        limits().policy(*asked)


@pytest.mark.parametrize(
    ("ranges", "error", "message"),
    [
        ({"tau_range": 0.5}, TypeError, "tau_range must be None or a pair"),
        ({"tau_range": (0.1, 0.2, 0.3)}, TypeError, "tau_range must be None or a pair"),
        ({"tau_range": (0.3, 0.1)}, ValueError, "tau_range must be .* in this order"),
        ({"tau_range": (-1, 0.1)}, ValueError, "In tau_range: tau must"),
        ({"patience_range": (1, "2")}, TypeError, "In patience_range: patience must"),
        ({"patience_range": (0, 2)}, ValueError, "In patience_range: patience must"),
    ],
)
def test_limits_are_checked(ranges, error, message):
    with pytest.raises(error, match=message):
        limits(**ranges)
