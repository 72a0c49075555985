"""The pictures of the study show its numbers."""

from __future__ import annotations

import pytest

from studies.drawing import COLUMNS
from studies.figures import pictures

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def drawn(study):
    """The pictures by name."""
    return {picture.name: picture for picture in pictures(study)}


def test_there_is_a_picture_for_every_figure_of_the_paper_and_for_the_rivals(drawn):
    expected = {"changes", "rivals", "tradeoff", "layers", "degenerate", "areas"}
    assert expected <= set(drawn)
    assert sum(name.startswith("grid-") for name in drawn) == 4


@pytest.mark.parametrize(
    "name", ["rivals", "tradeoff", "fronts-confidence", "fronts-agreement", "fronts-gates"]
)
def test_panels_are_not_crowded_and_lines_differ_by_more_than_color(drawn, name):
    figure = drawn[name].draw()
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert panels
    for ax in panels:
        lines = [line for line in ax.lines if not line.get_label().startswith("_")]
        assert len(lines) <= 9
        styles = [(line.get_marker(), line.get_linestyle()) for line in lines]
        assert len(set(styles)) == len(styles)
    plt.close(figure)


def test_lines_show_the_data(drawn, study):
    cell = study["cells"][0]
    figure = drawn["tradeoff"].draw()
    line = next(line for line in figure.axes[0].lines if line.get_label() == "Entropy only")
    assert line.get_xdata().tolist() == cell["fronts"]["entropy"]["ratio"]
    assert line.get_ydata().tolist() == cell["fronts"]["entropy"]["score"]
    assert figure.axes[0].get_ylabel() == "micro-F1 without “false”"
    plt.close(figure)


def test_texts_of_a_picture_do_not_overlap(drawn):
    figure = drawn["changes"].draw()
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) > 3
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    plt.close(figure)


def test_partial_data_gives_fewer_pictures(study):
    bare = {key: study[key] for key in ("machines", "missing")}
    kept = ("data", "backbone", "notes", "main_score", "n_layers", "seeds", "layers", "points")
    cells = [{key: cell[key] for key in kept} for cell in study["cells"]]
    empty = {"policies": [], "fronts": {}, "areas": {}}
    names = {p.name for p in pictures(bare | {"cells": [cell | empty for cell in cells]})}
    assert names == {"rivals", "layers"}
    assert pictures(bare | {"cells": []}) == []


def test_wide_pictures_have_at_most_three_panels_in_a_row(drawn):
    figure = drawn["layers"].draw()
    tops = [round(ax.get_position().y1, 2) for ax in figure.axes if ax.get_title()]
    assert max(tops.count(top) for top in tops) <= COLUMNS
    plt.close(figure)
