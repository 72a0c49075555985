"""Components import only from lower levels of docs/architecture.md, and light ones no torch."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "skorch", "transformers", "tokenizers", "matplotlib"}
LIGHT_COMPONENTS = (
    "policy",
    "metrics",
    "model_selection",
    "monitoring",
    "_exits",
    "_entities",
    "_spans",
    "_word_exits",
    "_checks",
    "_compat",
)


def load_structure():
    spec = importlib.util.spec_from_file_location("structure", ROOT / "tools" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


structure = load_structure()
IMPORTS = structure.imports_of(ROOT)


def levels():
    """Return the level that the page gives to each component."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return {
        component: int(level)
        for level, components in re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
        for component in re.findall(r"`([\w.]+)`", components)
    }


def test_the_page_names_every_component_and_no_other():
    assert set(levels()) == {
        structure.component_of(module) for module in structure.modules_of(ROOT)
    }


def test_components_import_from_lower_levels_only():
    level = levels()
    up = {
        f"{upper} -> {lower}: {sorted({f'{i.importer} {i.name}' for i in found})}"
        for (upper, lower), found in structure.component_dependencies(IMPORTS).items()
        if level[lower] >= level[upper]
    }
    assert not up


def test_modules_have_no_circular_imports():
    dependencies = structure.module_dependencies(IMPORTS)
    below = {}
    for upper, lower in dependencies:
        below.setdefault(upper, set()).add(lower)
    remaining = {module for pair in dependencies for module in pair}
    while free := {m for m in remaining if not below.get(m, set()) & remaining}:
        remaining -= free
    assert not remaining


def test_private_parts_of_other_packages_are_imported_in_one_module():
    outside = {f"{i.importer}: {i.module} {i.name}" for i in structure.private_imports(IMPORTS)}
    assert not {found for found in outside if not found.startswith("_compat:")}


@pytest.mark.parametrize("component", LIGHT_COMPONENTS)
def test_components_on_arrays_never_import_torch(component):
    heavy = {
        f"{found.importer}: {found.module}"
        for found in IMPORTS
        if structure.component_of(found.importer) == component
        and found.module.partition(".")[0] in HEAVY
        and not (component == "_compat" and found.lazy)
    }
    assert not heavy
