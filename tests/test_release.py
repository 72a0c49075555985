"""What a release says about itself is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

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
@pytest.mark.parametrize("slash", ["", "/"])
def test_diagrams_link_to_the_site_that_the_environment_names(name, slash, monkeypatch):
    estimator = made(name)
    monkeypatch.setenv("SKLEARN_EPEE_DOCS_URL", f"https://docs.example/epee{slash}")
    found = links(estimator)
    assert f"https://docs.example/epee/generated/sklearn_epee.{name}.html" in found
    # The site makes the pages; tools/check_site.py looks for them in what was built.
    listed = read("docs/api.rst").split(".. currentmodule:: sklearn_epee.metrics")[0]
    for page in found:
        one = page.removeprefix("https://docs.example/epee/generated/sklearn_epee.")
        assert f"   {one.removesuffix('.html')}\n" in listed


def links(estimator):
    """Return the pages that the diagram of an estimator links to, but those of scikit-learn."""
    pages = re.findall(r'href="([^"#]+)', estimator._repr_html_())
    return {page for page in pages if "scikit-learn.org" not in page}


def test_diagrams_of_pipelines_and_searches_link_to_the_estimators_in_them(monkeypatch):
    pipeline = make_pipeline(sklearn_epee.EntityMarker(), sklearn_epee.EPEEClassifier())
    monkeypatch.setenv("SKLEARN_EPEE_DOCS_URL", "file:///srv/epee/html")
    for estimator in (pipeline, GridSearchCV(pipeline, {"epeeclassifier__tau": [0.1]})):
        assert links(estimator) == {
            "file:///srv/epee/html/generated/sklearn_epee.EPEEClassifier.html",
            "file:///srv/epee/html/generated/sklearn_epee.EntityMarker.html",
        }


@pytest.mark.parametrize("given", [None, "", " "])
def test_diagrams_link_nowhere_without_an_address(given, monkeypatch):
    monkeypatch.delenv("SKLEARN_EPEE_DOCS_URL", raising=False)
    if given is not None:
        monkeypatch.setenv("SKLEARN_EPEE_DOCS_URL", given)
    assert links(sklearn_epee.EPEEClassifier()) == set()


@pytest.mark.parametrize("given", [
    "docs.example", "javascript:alert(1)", "https://", "https://a b", 'https://a"onclick="', "https://{x}",
    "https://docs.example/epee?page=1",
])  # fmt: skip
def test_an_environment_without_an_address_is_refused(given, monkeypatch):
    monkeypatch.setenv("SKLEARN_EPEE_DOCS_URL", given)
    with pytest.raises(ValueError, match=r"SKLEARN_EPEE_DOCS_URL is .*; expected the address"):
        sklearn_epee.EPEEClassifier()._repr_html_()
    assert repr(sklearn_epee.EPEEClassifier()) == "EPEEClassifier()"


def test_the_address_of_the_site_is_that_of_the_project():
    urls = tomllib.loads(read("pyproject.toml"))["project"]["urls"]
    assert urls.get("Documentation", "") == _documentation.ADDRESS
