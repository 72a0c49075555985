"""The house: floors as docs/architecture.md names them, arrows that point down, light rooms."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "skorch", "transformers", "tokenizers", "matplotlib"}
LIGHT_ROOMS = (
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


def load_house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


house = load_house()
IMPORTS = house.imports_of(ROOT)


def floors():
    """Rooms with the floors that the page gives them."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return {
        room: int(floor)
        for floor, rooms in re.findall(r"^\| (\d+) \| ([^|]+) \|", page, re.MULTILINE)
        for room in re.findall(r"`([\w.]+)`", rooms)
    }


def test_the_page_names_every_room_and_no_other():
    assert set(floors()) == {house.room_of(module) for module in house.modules_of(ROOT)}


def test_all_arrows_point_down():
    level = floors()
    up = {
        f"{upper} -> {lower}: {sorted({f'{i.importer} {i.name}' for i in found})}"
        for (upper, lower), found in house.arrows_between_rooms(IMPORTS).items()
        if level[lower] >= level[upper]
    }
    assert not up


def test_modules_import_each_other_in_no_circle():
    arrows = house.arrows_between_modules(IMPORTS)
    below = {}
    for upper, lower in arrows:
        below.setdefault(upper, set()).add(lower)
    remaining = {module for arrow in arrows for module in arrow}
    while free := {m for m in remaining if not below.get(m, set()) & remaining}:
        remaining -= free
    assert not remaining


def test_private_parts_of_other_packages_are_imported_in_one_module():
    outside = {f"{i.importer}: {i.module} {i.name}" for i in house.private_imports(IMPORTS)}
    assert not {found for found in outside if not found.startswith("_compat:")}


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_rooms_on_arrays_never_import_torch(room):
    heavy = {
        f"{found.importer}: {found.module}"
        for found in IMPORTS
        if house.room_of(found.importer) == room
        and found.module.partition(".")[0] in HEAVY
        and not (room == "_compat" and found.lazy)
    }
    assert not heavy
