"""The site in docs/: every public name has its entry, every page its place."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MODULES = (
    "datasets", "distributed", "exceptions", "metrics", "model_selection", "monitoring",
    "onnx_runtime", "plotting", "policy", "serving",
)  # fmt: skip
# Mentioned in words: a version, and a constant.
IN_WORDS = {"__version__", "JOINT_EXITS"}


def listed() -> set[str]:
    """Return the names that the API reference lists."""
    text = (DOCS / "api.rst").read_text(encoding="utf-8")
    return set(re.findall(r"^   (\w+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("module", ["", *MODULES])
def test_every_public_name_is_in_the_api_reference(module):
    public = set(importlib.import_module(f"sklearn_epee.{module}".rstrip(".")).__all__)
    assert public - listed() <= IN_WORDS


def test_the_api_reference_lists_public_names_alone():
    public = set(importlib.import_module("sklearn_epee").__all__)
    for module in MODULES:
        public |= set(importlib.import_module(f"sklearn_epee.{module}").__all__)
    assert listed() <= public


def test_every_page_is_in_a_table_of_contents():
    pages = {path.stem for path in DOCS.glob("*.md")} | {"api"}
    entries = set()
    for path in DOCS.glob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
            entries |= set(re.findall(r"^[\w/]+$", tree, flags=re.MULTILINE))
    assert pages - entries == {"index"}
    assert {entry for entry in entries if "/" not in entry} <= pages


def test_names_of_files_are_links_in_the_text_of_the_gallery_alone():
    pytest.importorskip("sphinx")
    where = DOCS / "_extensions" / "links.py"
    spec = importlib.util.spec_from_file_location("links_of_the_site", where)
    links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(links)
    text = "See ``plot_images.py`` (docs/scale.md).\n\n.. _plot_images.py:\n\n    # docs/scale.md"
    assert links.named_links(text) == (
        "See :doc:`plot_images.py </auto_examples/plot_images>` (:doc:`docs/scale.md </scale>`).\n"
        "\n.. _plot_images.py:\n\n    # docs/scale.md"
    )
