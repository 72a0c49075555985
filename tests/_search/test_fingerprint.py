"""Fingerprints follow values and code, not identities and names."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from sklearn_epee._search.fingerprint import NoFingerprintError, fingerprint

CELL = """
import abc, functools

def scale(x, by={by}):
    return [value * by for value in x]

class Base(abc.ABC):
    @abc.abstractmethod
    def act(self): ...

class Step(Base):
    rate = {rate}

    def __init__(self):
        super().__init__()
        self.scale = scale

    def act(self):
        return {body}

    @staticmethod
    def shown(): return {shown}

    @classmethod
    def made(cls): return {made}

    @property
    def size(self): return {size}

def hold(value):
    return lambda x: x + value

held = hold({held})
"""
USUAL = {"by": 2, "rate": 0.1, "body": 1, "shown": 1, "made": 1, "size": 1, "held": 1}


def run_cell(**changes):
    """Run a notebook's cell: its definitions belong to `__main__` but cannot be found there."""
    names = {"__name__": "__main__"}
    exec(CELL.format(**(USUAL | changes)), names)  # noqa: S102 - what a notebook does
    return {"step": names["Step"](), "held": names["held"]}


def test_the_same_cell_run_twice_is_the_same():
    assert fingerprint(run_cell()) == fingerprint(run_cell())


@pytest.mark.parametrize("part", USUAL)
def test_an_edited_cell_differs(part):
    assert fingerprint(run_cell(**{part: 7})) != fingerprint(run_cell())


def test_use_does_not_change_the_fingerprint_of_code():
    cell = run_cell()
    before = fingerprint(cell)
    copied = copy.deepcopy(cell)  # notes the slots of the class in the class
    cell["step"].act()
    assert fingerprint(cell) == fingerprint(copied) == before


def test_values_count_and_not_identities():
    text = "texts of patients"
    again = "".join(list(text))
    assert fingerprint([text, text]) == fingerprint([text, again])
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(np.arange(4)) != fingerprint(np.arange(4).reshape(2, 2))
    assert fingerprint(np.arange(4)) != fingerprint(np.arange(4, dtype=float))


def test_what_cannot_be_pickled_is_refused_wherever_it_is():
    generator = (i for i in range(3))
    for value in (generator, [generator], {"deep": {"down": [generator]}}):
        with pytest.raises(NoFingerprintError, match="generator"):
            fingerprint(value)


def test_keys_without_an_order_are_no_obstacle():
    assert fingerprint({1: "a", "b": 2}) != fingerprint({1: "a", "b": 3})
