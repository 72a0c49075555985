"""Examples in the docstrings of the study run."""

import doctest
import importlib
import pkgutil

import pytest

import studies

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(studies.__path__, "studies.")
    if not found.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
