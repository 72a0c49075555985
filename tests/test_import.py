"""Importing the package stays light: heavy libraries wait until something needs them."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "tokenizers", "skorch", "matplotlib", "pandas", "polars", "PIL"}

# scikit-learn imports pandas on its own where it is installed; that is not ours to prevent.
PROGRAM = """
import importlib, sys
import sklearn.metrics, sklearn.pipeline
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*set(sys.modules) - before)
"""


@pytest.mark.parametrize(
    "module",
    ["sklearn_epee", "sklearn_epee.policy", "sklearn_epee.metrics", "sklearn_epee.datasets"],
)
def test_import_is_light(module):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, module], capture_output=True, text=True, check=True
    )
    imported = set(ran.stdout.split())
    assert module in imported
    assert not imported & HEAVY
