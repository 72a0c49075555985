"""Importing the package stays light: heavy libraries wait until something needs them."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import sklearn_epee

HEAVY = {
    "torch", "transformers", "tokenizers", "skorch", "matplotlib", "pandas", "polars", "PIL",
    "dask", "pyarrow", "pyspark", "ray",
}  # fmt: skip

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
    [
        "sklearn_epee",
        "sklearn_epee.policy",
        "sklearn_epee.metrics",
        "sklearn_epee.datasets",
        "sklearn_epee.distributed",
    ],
)
def test_import_is_light(module):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, module], capture_output=True, text=True, check=True
    )
    imported = set(ran.stdout.split())
    assert module in imported
    assert not imported & HEAVY


def test_every_listed_name_is_there():
    modules = pkgutil.walk_packages(sklearn_epee.__path__, "sklearn_epee.")
    for module in [sklearn_epee, *(importlib.import_module(found.name) for found in modules)]:
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{module.__name__}: {name}"
