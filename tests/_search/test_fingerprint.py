"""Fingerprints follow values and code, not identities and names."""

from __future__ import annotations

import copy
import importlib
import sys

import numpy as np
import pytest
from skorch.callbacks import Callback, EpochScoring

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


# ------------------------------------------------------------------------ importable definitions

MODULE = """
import functools
import numpy as np
import my_settings

RATE = {rate}
TABLE = {{"a": {table}}}

def scale(x):
    return x * RATE + {body}

def through_another(x):
    return scale(x)

def by_settings(x):
    return x * my_settings.RATE

@functools.lru_cache
def cached(x):
    return x + {cached}

class Step:
    size = {size}

    def act(self):
        return [np.sqrt(value) for value in TABLE]

    @functools.cached_property
    def kept(self):
        return {kept}

def unrelated():
    return {unrelated}
"""
OURS = {"rate": 1, "table": 1, "body": 1, "cached": 1, "size": 1, "kept": 1, "unrelated": 1}
NAMES = ["scale", "through_another", "by_settings", "cached", "Step"]


@pytest.fixture
def import_module(tmp_path, monkeypatch):
    """A function that writes a module and imports it as a new process does."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(code, name="my_module"):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return run


@pytest.fixture
def prints_of(import_module):
    def run(settings=1, **changes):
        import_module(f"RATE = {settings}", "my_settings")
        module = import_module(MODULE.format(**(OURS | changes)))
        return {name: fingerprint(getattr(module, name)) for name in NAMES}

    return run


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({}, set()),
        ({"unrelated": 2}, set()),
        ({"rate": 2}, {"scale", "through_another"}),
        ({"body": 2}, {"scale", "through_another"}),
        ({"settings": 2}, {"by_settings"}),
        ({"cached": 2}, {"cached"}),
        ({"size": 2}, {"Step"}),
        ({"kept": 2}, {"Step"}),
        ({"table": 2}, {"Step"}),
    ],
    ids=lambda value: repr(sorted(value)),
)
def test_code_and_the_globals_it_reads_count(prints_of, change, changed):
    before, after = prints_of(), prints_of(**change)
    assert {name for name in NAMES if before[name] != after[name]} == changed


def test_instances_and_methods_count_with_their_class(import_module):
    import_module("RATE = 1", "my_settings")
    found = set()
    for size in (1, 2):
        module = import_module(MODULE.format(**(OURS | {"size": size})))
        found |= {fingerprint(module.Step()), fingerprint(module.Step().act)}
    assert len(found) == 4


@pytest.mark.parametrize(
    "body",
    [
        "import helpers\ndef act(): return vars(helpers)",
        "def act():\n    import helpers\n    return helpers.RATE",
        "def act():\n    from helpers import RATE\n    return RATE",
        "import threading\nlock = threading.Lock()\ndef act():\n    with lock: pass",
    ],
    ids=["module", "import", "from import", "lock"],
)
def test_code_that_cannot_be_compared_is_refused(import_module, body):
    import_module("RATE = 1", "helpers")
    with pytest.raises(NoFingerprintError):
        fingerprint(import_module(body).act)


def test_definitions_that_refer_to_each_other(import_module):
    code = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n > {} and even(n - 1)"
    one, same, other = (fingerprint(import_module(code.format(n)).even) for n in (0, 0, 1))
    assert one == same != other


def test_installed_packages_count_by_name_and_file(monkeypatch, tmp_path, import_module):
    code = "def act(): return {}"
    # The package has a function of the module's name.
    module = importlib.import_module("sklearn_epee._search.fingerprint")
    monkeypatch.setattr(module, "_installation_folders", lambda: (tmp_path.resolve(),))
    prints = []
    for body in (1, 1, 2):
        module._module_identity.cache_clear()
        prints.append(fingerprint(import_module(code.format(body)).act))
        assert module._module_identity("my_module") is not None
    module._module_identity.cache_clear()
    assert prints[0] == prints[1] != prints[2]


def test_packages_of_another_environment_are_installed_too(tmp_path):
    module = importlib.import_module("sklearn_epee._search.fingerprint")
    assert module._is_installed(tmp_path / "venv/lib/python3.11/site-packages/other/code.py")
    assert not module._is_installed(tmp_path / "project/other/code.py")


def test_known_packages_count_by_name():
    assert fingerprint(Callback) == fingerprint(Callback)
    assert fingerprint(Callback) != fingerprint(EpochScoring)
    assert fingerprint(np.sqrt) != fingerprint(np.exp)
