"""The benchmark suite's own bookkeeping; what it measures is not tested here."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils import Bunch

from benchmarks import __main__ as suite
from benchmarks import fuzz, gpu, labels, towers
from benchmarks._forced_exits import dynamic, forced_exits
from benchmarks._forced_words import run_sentences, run_words, word_schedule
from benchmarks._isolated import Turns, in_turns
from benchmarks._measure import interleaved, quotient
from benchmarks._models import NotMeasuredError, encode, engine_of
from benchmarks._report import Line, Results, as_markdown
from benchmarks._rivals import FullDepth
from benchmarks._rows_throughput import arithmetic_limit
from benchmarks._rows_towers import forced, schedule_of
from benchmarks._suite import Row
from sklearn_epee._nn.token_engine import TokenEngine
from sklearn_epee._nn.tower_engine import TowerEngine
from tests._nn.towers import N_EXITS, make_pairs, make_towers
from tests._nn.words import make_sentences, make_word_network


@pytest.mark.parametrize("mean_exit", [1, 3, 4, 6, 12])
@pytest.mark.parametrize("n", [1, 12, 128])
def test_forced_exits_have_the_wanted_mean(mean_exit, n):
    exits = forced_exits(n, 12, mean_exit)
    assert exits.dtype == np.int64
    assert exits.mean() == mean_exit
    assert exits.min() >= 1
    assert exits.max() <= 12


def test_forced_exits_are_spread_and_reproducible():
    exits = forced_exits(200, 12, 4)
    assert len(np.unique(exits)) > 8
    np.testing.assert_array_equal(exits, forced_exits(200, 12, 4))
    assert (exits != forced_exits(200, 12, 4, seed=1)).any()


def test_forced_exits_do_not_follow_the_length():
    lengths = np.random.default_rng(0).integers(5, 200, 60)
    exits = forced_exits(60, 12, 4, lengths)
    assert exits.mean() == 4
    assert np.average(exits, weights=lengths) == pytest.approx(4, abs=0.02)


def test_words_and_sentences_exit_where_schedules_say_at_the_wanted_cost():
    engine, sentences = TokenEngine(make_word_network("bert")), make_sentences(40)
    schedule = word_schedule(sentences, engine.n_layers, 0.5)
    found = run_words(engine, sentences, 8, schedule)
    np.testing.assert_array_equal(found.exit_layer, schedule)
    assert found.speedup == pytest.approx(0.5, abs=0.05)
    of_sentences = forced_exits(40, engine.n_layers, 2, sentences.lengths)
    found = run_sentences(engine, sentences, 8, of_sentences)
    np.testing.assert_array_equal(found.exit_layer, np.repeat(of_sentences, sentences.word_counts))


def test_a_share_of_the_samples_never_reaches_the_second_tower():
    engine, pairs = TowerEngine(make_towers()), make_pairs(present=np.ones((10, 2), bool))
    for share in (0, 0.3, 1):
        schedule = schedule_of(10, share, 4, N_EXITS)
        np.testing.assert_array_equal(forced(engine, pairs, schedule).exit_layer, schedule)
        assert (schedule <= 4).mean() == share


def test_the_report_of_two_towers_counts_each_kind_of_case():
    kinds = np.array(["text", "both", "both", "both"])
    target, end = np.array(["a", "b", "c", "b"]), np.array(["a", "b", "b", "b"])
    found = {
        name: Bunch(labels=target, exit_layer=np.array(layers), exit_cost=np.array(costs))
        for name, layers, costs in (
            ("all exits", [4, 4, 4, 4], [1.0, 1, 1, 0.8]),
            ("tuned", [1, 2, 4, 4], [0.1, 0.2, 1, 0.8]),
        )
    }
    cells = towers._of_kind(kinds == "both", target, end, found, first=2)
    assert cells["first tower"] == pytest.approx(2 / 3)
    assert cells["all exits: saved"] == pytest.approx(0.2 / 3)
    assert cells["tuned: in the first"] == pytest.approx(1 / 3)
    assert cells["tuned: saved"] == pytest.approx(1 - 2 / 3)
    run = {
        "name": "compact towers", "hand_over_after": 2, "n_tower_layers": [2, 2], "seconds": 3.0,
        "first_tower": 0.25, "policy": [0.1, 4], "layers": [0.5, 1, 1, 1],
        "kinds": {"both": cells},
    }  # fmt: skip
    lines = [*towers.report([run, run | {"hand_over_after": None}])]
    assert "| 2 | both | 0.667 | 1.000 | 0.067 | 1.000 | 33% | 0.333 |" in lines
    assert sum(line.startswith("| None") for line in lines) == 1


def test_heads_of_labels_are_compared_layer_by_layer():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (40, 3))
    exits = labels.Exits(
        proba=np.stack([0.5 + 0.4 * (codes - 0.5), codes * 0.8], axis=1).astype(np.float32),
        codes=codes,
        labels=np.array(["a", "b", "c"]),
        is_test=np.arange(40) >= 20,
        n_train=np.full(3, 20),
        seconds=10.0,
        n_parameters=np.array([2_000_000, 100_000]),
    )
    worse = replace(exits, proba=np.zeros((40, 2, 3), np.float32))
    lines = [*labels.of_heads({"shared": exits, "per-label": worse}, 4, None)]
    assert "| 2 | 1.000 | 1.000 | 0.000 | 0.000 |" in lines
    assert "0.1 million parameters in the heads beside 2.0" in "".join(lines)


def test_competitors_run_in_turns_after_a_warm_up():
    ran = []
    competitors = {name: lambda name=name: ran.append(name) for name in "ABC"}
    seconds = interleaved(competitors, 2)
    assert "".join(ran) == "ABC" * 3
    assert {name: len(values) for name, values in seconds.items()} == {"A": 2, "B": 2, "C": 2}


def three_steps(folder, name):
    turns = Turns()
    for step in range(3):
        turns.hand_over()
        with (Path(folder) / "steps").open("a") as steps:
            steps.write(f"{name}{step} ")
    turns.hand_over()
    return {"steps": len(turns.seconds), "cpu_steps": len(turns.cpu_seconds)}


def three_steps_of_a(folder):
    return three_steps(folder, "a")


def three_steps_of_b(folder):
    return three_steps(folder, "b")


def break_down(folder):
    raise ValueError(f"nothing in {Path(folder).name}")


@pytest.mark.slow
def test_processes_take_their_steps_in_turns(tmp_path):
    folder = {"folder": str(tmp_path)}
    found = in_turns({name: (f"{__name__}:three_steps_of_{name}", folder) for name in "ab"})
    assert found == {name: {"steps": 3, "cpu_steps": 3} for name in "ab"}
    assert (tmp_path / "steps").read_text().split() == ["a0", "b0", "a1", "b1", "a2", "b2"]


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(NotMeasuredError, match=f"nothing in {tmp_path.name}"):
        in_turns({"broken": (f"{__name__}:break_down", {"folder": str(tmp_path)})})


def test_quotient_compares_within_a_round():
    seconds = {"slow": [2.0, 20.0, 3.0], "fast": [1.0, 10.0, 1.0]}
    assert quotient(seconds, "slow", "fast") == 2.0


def test_arithmetic_limit_of_leaving_at_the_first_layer():
    assert arithmetic_limit(12, 1) == pytest.approx(72)


def test_rival_computes_the_same(text_classifier, texts):
    encoded = encode(text_classifier, texts)
    ours = engine_of(text_classifier).budgeted(encoded, text_classifier.n_layers_, 7)
    theirs = FullDepth(text_classifier, torch.float32).proba(encoded, 7)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def add(results, row, *lines):
    results.start(row, "a title", quick=False)
    for line in lines:
        results.add(line)


def test_report_says_what_was_reached(tmp_path):
    results = Results(tmp_path, "cpu")
    add(
        results,
        "fast",
        Line("batch 1 | 2", "3.0x", ">= 2x", True),
        Line("batch 16", "1.0x", ">= 2x", False),
        Line.not_measured("batch 64", "no time"),
    )
    table = (tmp_path / "results.md").read_text().splitlines()[-3:]
    assert table[0] == r"| fast | batch 1 \| 2 | 3.0x | >= 2x | yes |"
    assert table[1].endswith(">= 2x | no |")
    assert table[2] == "| fast | batch 64 | not measured: no time |  |  |"


def test_results_keep_machine_and_repetitions(tmp_path):
    add(Results(tmp_path, "cpu"), "row", Line("c", "m", seconds={"ours": [1.0, 2.0]}))
    row = json.loads((tmp_path / "results.json").read_text())["rows"]["row"]
    assert row["lines"][0]["seconds"] == {"ours": [1.0, 2.0]}
    assert row["machine"]["packages"]["torch"] == torch.__version__


def test_a_row_measured_again_replaces_only_itself(tmp_path):
    results = Results(tmp_path, "cpu")
    add(results, "first", Line("old", "1"), Line("old too", "1"))
    add(results, "second", Line("kept", "2"))
    results = Results(tmp_path, "cpu")
    add(results, "first", Line("new", "3"))
    table = as_markdown(json.loads((tmp_path / "results.json").read_text())["rows"])
    assert "new" in table
    assert "kept" in table
    assert "old" not in table


def test_gpu_results_go_to_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    add(Results(tmp_path, "cuda"), "row", Line("c", "m"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "results-cuda.json",
        "results-cuda.md",
    ]


def test_a_row_that_cannot_be_measured_says_why(tmp_path, capsys):
    def lines(settings):
        yield Line("first", "1x")
        raise NotMeasuredError("nothing to measure with")

    row = Row("sample", "A sample row", lines)
    settings = suite.settings_from(suite.parse_args(["--quick"]))
    suite.measure(row, settings, Results(tmp_path, "cpu"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| sample | first | 1x")
    assert "not measured: nothing to measure with" in printed[1]


def test_rows_are_chosen_by_prefix():
    names = [row.name for row in suite.chosen_rows(["latency", "pickle"], quick=False)]
    assert names == ["latency-bert", "latency-albert", "latency-gpt2", "latency-vit", "pickle"]
    with pytest.raises(SystemExit, match="no row begins with"):
        suite.chosen_rows(["latency", "nonsense"], quick=False)


def test_samples_exit_where_a_schedule_says(text_classifier, texts):
    encoded, n = encode(text_classifier, texts), len(texts)
    staged = engine_of(text_classifier).staged(encoded)
    exit_layers = np.random.default_rng(0).integers(1, text_classifier.n_layers_ + 1, n)
    for batch_size in (1, 5, "auto"):
        found = dynamic(text_classifier, encoded, batch_size, exit_layers)
        np.testing.assert_array_equal(found.exit_layer, exit_layers)
        expected = staged[np.arange(n), exit_layers - 1]
        np.testing.assert_allclose(found.proba, expected, atol=1e-5, rtol=0)


def test_the_gpu_command_runs_rows_until_the_time_is_up_and_says_what_it_left(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(suite, "ROWS", [Row(name, name, fake_lines) for name in ("a", "b", "c")])
    monkeypatch.setattr(suite, "ROWS", [*suite.ROWS, Row("broken", "broken", broken_lines)])
    clock = gpu.Clock(1.0, time.perf_counter())
    said = gpu.run_rows(["broken", "a"], tmp_path, "cpu", clock, quick=True)
    assert said[0].startswith("broken: failed after 1 lines: RuntimeError: no memory")
    assert said[1].startswith("a: 2 lines")
    late = gpu.Clock(0.0, time.perf_counter())
    assert gpu.run_rows(["b"], tmp_path, "cpu", late, quick=True) == ["b: not run, out of time"]
    written = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert set(written) == {"broken", "a"}
    assert "not measured: RuntimeError" in "\n".join(gpu.report(tmp_path, "1 passed", said))


def fake_lines(settings):
    yield Line("one", "1x")
    yield Line("two", "2x")


def broken_lines(settings):
    yield Line("one", "1x")
    raise RuntimeError("no memory\nand more")


def test_the_gpu_command_says_what_a_bare_machine_lacks(monkeypatch, capsys, tmp_path):
    assert set(gpu.missing(gpu.requirements())) <= set(gpu.TESTING)
    assert set(gpu.ROWS) <= {row.name for row in suite.ROWS}
    monkeypatch.setattr(gpu, "requirements", lambda: ["numpy>=1", "nobody-has-this[extra]>=2"])
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "nobody-has-this" in capsys.readouterr().out
    assert gpu.main(["--wheels"]) == 1
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--out is required" in capsys.readouterr().err


def test_the_gpu_command_keeps_what_interrupted_tests_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(
        "import time, pytest\n"
        "@pytest.mark.gpu\ndef test_quick(): pass\n"
        "@pytest.mark.gpu\ndef test_slow(): time.sleep(60)\n"
    )
    assert "1 passed" in gpu.run_tests(tmp_path, seconds=8)


@pytest.mark.parametrize("seed", range(3))
def test_generated_inputs_are_taken_or_refused(seed):
    counts, wrong = fuzz.run(n=10 * len(fuzz.TARGETS), seed=100 + seed)
    assert wrong == []
    assert all(found.total() == 10 for found in counts.values())


def test_clear_errors_are_distinguished_from_others():
    def crash(rng):
        return {}["missing"]

    def numpy_says(rng):
        np.zeros(2).reshape(3)

    assert fuzz.outcome(crash, (0,))[0] == "wrong"
    assert fuzz.outcome(numpy_says, (0,))[0] == "wrong"
    assert fuzz.outcome(np.asarray, (0,)) == ("taken", "")
