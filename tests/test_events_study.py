"""The study of events: words by the exits of their sentences, and the choice of a weight."""

import warnings

import numpy as np
from numpy.testing import assert_array_equal
from sklearn.utils import Bunch

from benchmarks import tuned_words
from benchmarks._phee_scores import LAYERS
from benchmarks.events import Staged, row, with_transitions
from sklearn_epee._base.tag_data import TagLayers

from .tagged import tagged_sentences, tiny_token_classifier


def test_words_are_predicted_by_the_exit_of_their_sentence():
    proba = np.arange(3 * 2 * 2).reshape(3, 2, 2)
    staged = Staged([[], []], [proba] * len(LAYERS), np.array([2, 1]), np.array([4, 3]))
    for found in staged.proba_at(np.array([2, 1])).values():
        assert_array_equal(found, [proba[0, 1], proba[1, 1], proba[2, 0]])


def test_the_weight_is_the_best_on_dev_and_the_lowest_of_those():
    tags = np.array(["B-Adverse_event", "I-Adverse_event", "O"])
    counts = np.array([[0, 9, 1], [0, 0, 1], [1, 0, 9], [1, 0, 1]], np.float32)
    tasks = TagLayers(dict.fromkeys(LAYERS, tags), "IOB2", dict.fromkeys(LAYERS, counts))
    spans = {name: [(10, 14, "Adverse_event")] for name in LAYERS}
    spans["trigger"] = [(0, 9, "Adverse_event")]
    part = Bunch(
        data=["developed rash"],
        events=[[{"event_type": "Adverse_event", **spans}]],
        all_spans=[spans],
    )
    second_word = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32)
    probas = dict.fromkeys(LAYERS, second_word) | {
        # Most probably an I, which begins no span, and so no trigger.
        "trigger": np.array([[0.45, 0.5, 0.05], [0.01, 0.0, 0.99]], np.float32)
    }
    found = with_transitions(tasks, [part, part], [probas, probas])
    assert found["weight"] == 0.1
    assert found["dev"] == found["test"]
    assert found["test"]["paper"]["trigger"]["f1"] == 1.0
    sure = probas | {"trigger": np.array([[0.9, 0.05, 0.05], [0, 0, 1]], np.float32)}
    assert with_transitions(tasks, [part, part], [sure, probas])["weight"] == 0.0


def test_a_line_has_both_scores_and_the_weight():
    paper = {name: {"f1": 0.5} for name in ("trigger", "main", "sub")}
    offsets = {name: {"f1": 0.25} for name in LAYERS}
    plain = {"paper": paper, "offsets": offsets}
    better = {name: {"f1": 0.625} for name in paper}
    transitions = {"weight": 0.2, "test": {"paper": better, "offsets": offsets}}
    assert row("layer 1", 0.5, plain, transitions) == (
        "| layer 1 | 0.50 | 50.0 | 50.0 | 50.0 | 0.2 | 62.5 | 62.5 | 62.5 | "
        "25.0 / 25.0 / 25.0 / 25.0 |"
    )


def test_tuned_words_are_read_on_test_as_their_policies_do():
    words, tags = tagged_sentences(60)
    model = tiny_token_classifier(max_epochs=6).fit(words[:20], tags[:20])
    parts = [(words[20:40], tags[20:40]), (words[40:], tags[40:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = tuned_words.fronts(model, parts, "sentences, all")
        promised = tuned_words.certified(model, parts)
        by_word = tuned_words.fronts(model, parts, "words one by one, mean")
        shorter = tuned_words.fronts(model, parts, "sentences, all, and the number of layers")
    assert [row["name"] for row in rows][:2] == [
        "full depth",
        "sentences, all: best at a ratio of at least 0.3",
    ]
    full = model.set_params(tau=0.0, patience=None)
    assert rows[0]["dev"] == [0, full.score(*parts[0])]
    assert rows[0]["test"] == [0, full.score(*parts[1])]
    assert rows[1]["dev"][0] >= 0.3
    assert "% of 14 tested ones do" in promised["name"]
    assert {row["count"] for row in by_word} == {"4"}
    for each, all_layers in zip(shorter[:2], rows[1:3], strict=True):
        assert each["dev"][1] >= all_layers["dev"][1]  # with more policies to choose from
        assert 0 <= each["test"][0] <= 1
    assert tuned_words.line(rows[0]).startswith("| full depth | tau=0, patience=3 | 1 | 0.00 |")
