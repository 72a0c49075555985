"""The report: its pages hold what the data says, and can be read by anyone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from studies import drawing, report, tables
from studies.page import as_markdown
from studies.report import docs, measured, replaced_block, sections, write_report

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parent.parent.parent
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a test asks of an HTML page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.crossed = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def results(study, tmp_path_factory):
    """A folder with all pages of two cells of the made-up study, in coarse pictures."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DPI", 30)
        report.write_pages(study | {"cells": study["cells"][:2]}, folder)
    return folder


def test_the_page_is_whole_and_needs_no_network(results):
    text = (results / "study.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == page.crossed == []
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert not page.of("script")
    assert not page.of("link")
    assert "prefers-color-scheme: dark" in text
    assert page.of("html") == [{"lang": "en"}]


def test_pictures_and_tables_are_explained_in_words(results):
    page = Page((results / "study.html").read_text(encoding="utf-8"))
    pictures = page.of("img")
    assert len(pictures) >= 10
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,")
        assert 40 < len(picture["alt"]) < 2000
    assert len(page.of("caption")) == len(page.of("table")) >= 10
    scopes = {attributes.get("scope") for attributes in page.of("th")}
    assert scopes == {"col", "row"}
    anchors = {a["href"][1:] for a in page.of("a")}
    assert anchors <= {attributes.get("id") for _, attributes in page.tags}


def test_pictures_are_written_and_linked(results):
    text = (results / "study.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]+\]\((pictures/[^)]+)\)", text)
    assert {path.name for path in (results / "pictures").iterdir()} == {
        Path(name).name for name in linked
    }


def test_the_report_of_nothing_says_so(tmp_path):
    write_report(tmp_path / "no-jobs", tmp_path / "results")
    assert "Nothing is done yet" in (tmp_path / "results" / "study.md").read_text()
    assert (tmp_path / "results" / "study.html").exists()


def test_machine_caps_seeds_and_what_is_missing_are_stated(study):
    text = as_markdown(sections(study))
    for words in ("Some CPU", "torch 2.13.0", "up to 2 seeds", "git"):
        assert words in text
    assert "capped" not in text.partition("##")[0]
    capped = json.loads(json.dumps(study))
    capped["cells"][0]["notes"] = ["1,200 training samples"]
    capped["notes"] = ["5 epochs"]
    text = as_markdown(sections(capped))
    assert "ddi2013, all-MiniLM-L6-v2, 1,200 training samples" in text
    assert "All were capped: 5 epochs. What else was capped is in the titles." in text


def test_networks_that_learned_nothing_count_for_no_claim(study):
    blind = json.loads(json.dumps(study))
    for cell in blind["cells"][1:]:
        cell["learned"] = False
    assert "over 1 pair of" in dict(tables.claims(blind).rows)["2.1x mean speed-up"]
    assert [row[-1] for row in tables.what_ran(blind).rows] == ["", *["no"] * 4]


def test_claims_and_aims_are_counted(study):
    claims = dict(tables.claims(study).rows)
    assert set(claims) >= {"2.1x mean speed-up", "smooth control of the ratio"}
    assert "0 of" in claims["patience M is the entropy rule, tau 0 the patience rule"]
    halves = [p for c in study["cells"] for p in c["policies"]
              if p["family"] == "epee" and p["goal"] == "saving"]  # fmt: skip
    mean = sum(1 / (1 - policy["ratio"]) for policy in halves) / len(halves)
    assert f"{mean:.1f}x on average over {len(halves)} pairs" in claims["2.1x mean speed-up"]
    rows = dict(tables.aims(study).rows)
    reached = sum(policy["ratio"] >= 0.52 for policy in halves)
    assert rows["a ratio of 0.52 or more on the test part, too"] == f"{reached} of {len(halves)}"


def test_what_beats_the_chosen_policy_is_named(study):
    rows = {row[0]: row[2] for row in tables.beaten(study).rows}
    assert "phee, all-mpnet-base-v2" not in rows  # its clock has not run
    for cell in study["cells"]:
        points = {point["kind"]: point for point in cell["points"]}
        own, main = points.get("epee/saving"), cell["main_score"]
        if own and own["seconds"]:
            cnn = points.get("cnn")
            wins = cnn and cnn["scores"][main] >= own["scores"][main]
            assert ("small CNN" in rows[f"{cell['data']}, {cell['backbone']}"]) == bool(wins)


def test_of_each_kind_the_cheapest_that_scores_higher_is_named(study):
    rows = {row[0]: row[2] for row in tables.above(study).rows}
    for cell in study["cells"]:
        main, points = cell["main_score"], cell["points"]
        own = next((point for point in points if point["kind"] == "epee/saving"), None)
        if own is None:
            continue
        higher = [
            point["layers"]
            for point in points
            if point["family"] == "budget" and point["scores"][main] > own["scores"][main]
        ]
        named = rows[f"{cell['data']}, {cell['backbone']}"]
        assert ("for all samples" in named) == bool(higher)
        assert not higher or f"exits: layer {min(higher)} for all samples (+" in named


def test_every_row_of_a_table_is_as_long_as_its_header(study):
    found = [
        *tables.rivals(study), *tables.layers(study), tables.what_ran(study), tables.claims(study),
        tables.aims(study), tables.overview(study), tables.policies(study), tables.rules(study),
        tables.rules_by_cell(study), tables.beaten(study), tables.above(study),
    ]  # fmt: skip
    for table in found:
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_the_readmes_table_has_the_rivals_beside_our_numbers(study):
    text = measured(study)
    cell = study["cells"][1]
    full = next(point for point in cell["points"] if point["kind"] == "full")
    assert f"{full['scores']['accuracy']:.3f} / {full['scores']['macro_f1']:.3f}" in text
    assert text.count("\n| ") == 2 + len(study["cells"])


def test_a_block_is_replaced_between_its_marks():
    begin, end = report.BLOCK
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    once = replaced_block(page, "new\n")
    assert once == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    assert replaced_block(once, "new") == once
    with pytest.raises(ValueError, match="must hold"):
        replaced_block("nothing", "new")


def test_readme_docs_and_pictures_are_written_from_the_study(study, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "DPI", 30)
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/study.md", "docs/comparison.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    report.write_docs(study | {"cells": study["cells"][:1]}, tmp_path)
    page = (tmp_path / "docs/study.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]+\]\(study/([^)]+)\)", page)
    assert len(linked) >= 5
    assert {path.name for path in (tmp_path / "docs/study").iterdir()} == set(linked)
    assert "| ddi2013, all-MiniLM-L6-v2 |" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_readme_and_docs_show_the_committed_study():
    path = report.RESULTS / "study.json"
    if not path.exists():
        pytest.skip("no study is committed")
    assert path.stat().st_size < 1_000_000
    study = json.loads(path.read_text(encoding="utf-8"))
    written = {
        "README.md": measured(study),
        "docs/study.md": docs(study),
        "docs/comparison.md": report.comparison(study),
    }
    for name, text in written.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        assert replaced_block(page, text) == page
    pictures = list((ROOT / "docs" / "study").iterdir())
    assert sum(picture.stat().st_size for picture in pictures) < 1_500_000
