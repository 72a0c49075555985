"""What a release says about itself is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import sklearn_epee
from sklearn_epee import _documentation
from sklearn_epee.model_selection import __all__ as of_model_selection

ROOT = Path(__file__).parent.parent


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_version_and_date_are_the_same_everywhere():
    version = sklearn_epee.__version__
    headings = re.findall(r"^## (.+)$", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    newest, _, date = headings[1].partition(" - ")
    citation = dict(
        re.findall(r"^(version|date-released): (\S+)$", read("CITATION.cff"), re.MULTILINE)
    )
    assert citation == {"version": newest, "date-released": date}
    assert f"version = {{{newest}}}" in read("docs/cite.md")
    # Between releases the package is ahead of what was released last.
    assert version == newest or version.endswith(".dev0")


ESTIMATORS = [
    *("EPEEClassifier", "EPEEImageClassifier", "EPEETokenClassifier", "EPEEMultimodalClassifier"),
    *(name for name in of_model_selection if "Classifier" in name),
    "EntityMarker",
]


def made(name):
    cls = getattr(sklearn_epee, name)
    return (
        cls() if name.startswith("E") and "Calibrated" not in name else cls(made("EPEEClassifier"))
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_diagrams_link_to_the_pages_of_the_site_when_it_has_an_address(name, monkeypatch):
    estimator = made(name)
    template = _documentation.page_template("https://docs.example")
    monkeypatch.setattr(_documentation.DocumentationLinkMixin, "_doc_link_template", template)
    page = f"https://docs.example/generated/sklearn_epee.{name}.html"
    assert f'href="{page}"' in estimator._repr_html_()
    monkeypatch.setattr(_documentation.DocumentationLinkMixin, "_doc_link_template", "")
    assert "docs.example" not in estimator._repr_html_()
    # The site makes the page.
    listed = read("docs/api.rst").split(".. currentmodule:: sklearn_epee.metrics")[0]
    assert f"   {name}\n" in listed


def test_the_address_of_the_site_is_that_of_the_project():
    urls = tomllib.loads(read("pyproject.toml"))["project"]["urls"]
    assert urls.get("Documentation", "") == _documentation.ADDRESS
