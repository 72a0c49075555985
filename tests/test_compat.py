"""The private parts of other packages: each is there and works, and all stand in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from numbers import Real
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV

import sklearn_epee
from sklearn_epee import _compat

PACKAGE = Path(sklearn_epee.__file__).parent
OTHERS = {
    "dask", "distributed", "huggingface_hub", "joblib", "matplotlib", "numpy", "pandas", "polars",
    "pyarrow", "pyspark", "ray", "safetensors", "scipy", "skorch", "sklearn", "tokenizers", "torch",
    "transformers",
}  # fmt: skip


def test_interval():
    constraint = _compat.Interval(Real, 0, 1, closed="left")
    assert constraint.is_satisfied_by(0.0)
    assert not constraint.is_satisfied_by(1.0)


def test_str_options():
    assert _compat.StrOptions({"a"}).is_satisfied_by("a")
    assert not _compat.StrOptions({"a"}).is_satisfied_by("b")


def test_has_methods():
    assert _compat.HasMethods(["fit", "predict"]).is_satisfied_by(LogisticRegression())
    assert not _compat.HasMethods(["fit"]).is_satisfied_by(1)


def test_real_not_int():
    assert isinstance(0.5, _compat.RealNotInt)
    assert not isinstance(1, _compat.RealNotInt)


def test_validate_params():
    @_compat.validate_params(
        {"n": [_compat.Interval(_compat.RealNotInt, 0, None, closed="left")]},
        prefer_skip_nested_validation=True,
    )
    def double(n):
        return 2 * n

    assert double(0.5) == 1.0
    with pytest.raises(ValueError, match=r"'n' parameter of .*double must be"):
        double(-0.5)


def test_base_search_cv():
    assert issubclass(GridSearchCV, _compat.BaseSearchCV)
    assert issubclass(RandomizedSearchCV, _compat.BaseSearchCV)


def test_safe_indexing():
    assert _compat.safe_indexing(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]


def test_check_pandas_support():
    assert _compat.check_pandas_support("a test").__name__ == "pandas"


def test_check_method_params():
    params = _compat.check_method_params(
        np.arange(3), {"sample_weight": [1.0, 2.0, 3.0], "other": "kept"}, indices=np.array([0, 2])
    )
    assert params == {"sample_weight": [1.0, 3.0], "other": "kept"}


def test_num_samples():
    assert _compat.num_samples(["a", "b"]) == 2
    assert _compat.num_samples(np.zeros((3, 2))) == 3


def test_scorer_parts():
    parts = _compat.scorer_parts(make_scorer(f1_score, greater_is_better=False, average="macro"))
    assert parts == (f1_score, {"average": "macro"}, -1)
    assert _compat.scorer_parts(get_scorer("neg_log_loss")) is None
    assert _compat.scorer_parts(max) is None


def test_attention_on_cpu():
    assert "attention" in str(_compat.attention_on_cpu())


def test_cpu_capabilities():
    assert isinstance(_compat.cpu_capabilities().get("avx512_bf16", False), bool)


def test_cpu_capabilities_of_releases_without_the_public_function(monkeypatch):
    older = SimpleNamespace(_is_avx512_bf16_supported=lambda: True)
    monkeypatch.setattr(torch, "cpu", older)
    assert _compat.cpu_capabilities() == {"avx512_bf16": True}


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)
def test_mkldnn_linear():
    operators = _compat.mkldnn_linear()
    generator = torch.Generator().manual_seed(0)
    rows, weight, other = (
        torch.randn(shape, generator=generator) for shape in ((4, 8), (6, 8), (4, 6))
    )
    packed = operators.reorder(weight, None)
    expected = rows @ weight.T
    found = operators.linear(rows, packed, None, "none", [], "")
    added = operators.linear_add(rows, other, packed, None, "add")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(added, expected + other)


def test_nothing_heavy_is_imported_with_it():
    heavy = "{'torch', 'transformers', 'skorch', 'tokenizers'} & set(sys.modules)"
    program = f"import sys; import sklearn_epee._compat; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_private_parts_of_others_stand_in_one_file(path):
    if path.name == "_compat.py":
        return
    assert _private_parts(ast.parse(path.read_text(encoding="utf-8"))) == []


def _private_parts(tree):
    """Names like ``torch.cpu._is_there`` that a module imports from, or reaches into, others."""
    imported, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.split(".")[0]] = alias.name
    found += [name for name in imported.values() if _is_private(name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *rest = ast.unparse(node).split(".")
            if root in imported and _is_private(name := ".".join([imported[root], *rest])):
                found.append(name)
    return found


def _is_private(name):
    package, *rest = name.split(".")
    return package in OTHERS and any(
        part.startswith("_") and not part.startswith("__") for part in rest
    )
