"""The comparison of training recipes: jobs, scores, differences and tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sklearn_epee import EPEETokenClassifier
from studies import class_recipes, recipe_runs, recipes, span_recipes
from studies.jobs import Job

N_SAMPLES, N_LAYERS = 40, 4
MACHINE = {"versions": {}, "cpu": "a CPU", "n_cores": 1, "threads": 1, "python": "3"}


def write_job(out, data, kind, seed, arrays, *, options=(), **result):
    """Write what a job of a small network would."""
    job = Job(data, "all-MiniLM-L6-v2", seed, kind, options)
    folder = out / job.name
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", **arrays)
    about = {"data": data, "backbone": job.backbone, "seed": seed, "kind": kind}
    result = {
        "job": about | {"options": dict(options)},
        "n_train": 9,
        "n_epochs": 5,
        "n_test": N_SAMPLES,
        "training_cpu_seconds": 12.0,
        "machine": MACHINE,
    } | result
    (folder / "result.json").write_text(json.dumps(result))


def spans_right(right_at_layer):
    """Return exits that find so many of four spans, and one policy per layer."""
    counts = np.zeros((N_SAMPLES, N_LAYERS, 3), np.int16)
    counts[:, :, 0] = right_at_layer
    counts[:, :, 1:] = 4
    exits = np.repeat(np.arange(1, N_LAYERS + 1)[:, np.newaxis], N_SAMPLES, axis=1)
    arrays = {
        "tau": np.zeros(N_LAYERS),
        "patience": np.arange(1, N_LAYERS + 1),
        "joint_exit": np.repeat("all", N_LAYERS),
        "test_paper": np.empty((N_LAYERS, 0)),
    }
    for part in ("dev", "test"):
        arrays[f"{part}_counts"] = counts
        arrays[f"{part}_exits"] = exits.astype(np.int8)
        arrays[f"{part}_tokens"] = np.ones(N_SAMPLES, np.int64)
    return arrays


def classes_right(share_at_layer):
    """Return exits that are right on the first samples, so large a share of them."""
    y = np.arange(N_SAMPLES) % 3
    proba = np.full((N_SAMPLES, N_LAYERS, 3), 0.1, np.float32)
    for layer, share in enumerate(share_at_layer):
        is_right = np.arange(N_SAMPLES) < share * N_SAMPLES
        proba[np.arange(N_SAMPLES), layer, np.where(is_right, y, (y + 1) % 3)] = 0.8
    return {
        f"{part}_{key}": v for part in ("dev", "test") for key, v in (("proba", proba), ("y", y))
    }


def lines_of(text):
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


@pytest.fixture
def described(monkeypatch):
    monkeypatch.setattr(recipe_runs, "describe", lambda machine: machine["cpu"])


@pytest.fixture
def spans(tmp_path, described):
    about = {"main_score": "span_f1"}
    for seed in (0, 1):
        arrays = spans_right([0, 1, 3, 4])
        write_job(tmp_path / "out", "git_arguments", "events", seed, arrays, **about)
    for kind, seed, right in (
        ("bottleneck heads", 0, [1, 2, 3, 4]),
        ("distillation", 1, [0, 1, 3, 4]),
    ):
        write_job(tmp_path / "out", "git_arguments", kind, seed, spans_right(right), **about)
    recipes.report(tmp_path / "out", tmp_path / "results")
    return tmp_path


def test_policies_of_spans_save_enough_and_are_compared_with_the_same_seeds(spans):
    table = lines_of((spans / "results" / "recipes.md").read_text())
    # Of four layers only the first saves 0.52: layer 2 saves half.
    assert table["defaults"][:4] == ["2", "0.0 25.0 75.0 100.0", "0.0", "0.75"]
    assert table["bottleneck heads"][:4] == ["1", "25.0 50.0 75.0 100.0", "25.0", "0.75"]
    assert table["bottleneck heads"][4] == "**+25.0 (+25.0 to +25.0)**"
    # Jobs of earlier versions have no words, of which fronts are made.
    assert table["bottleneck heads"][6] == ""
    assert table["bottleneck heads"][7] == "**+25.0 (+25.0 to +25.0)**"
    assert table["bottleneck heads"][8] == "**-75.0 (-75.0 to -75.0)**"
    assert table["distillation"][4] == "+0.0 (+0.0 to +0.0)"
    assert "uniform weights" not in table
    rows = json.loads((spans / "results" / "recipes.json").read_text())["rows"]
    assert [row["policies"][0]["patience"] for row in rows] == [1, 1, 1]
    assert [row["seeds"] for row in rows] == [[0, 1], [0], [1]]


def test_policies_of_classes_are_compared_with_those_of_the_study(tmp_path, described):
    about = {"main_score": "accuracy"}
    write_job(tmp_path, "phee", "exits", 0, classes_right([0.5, 0.5, 0.75, 1.0]), **about)
    write_job(tmp_path, "phee", "decayed rates", 0, classes_right([0.75, 0.75, 0.75, 1.0]), **about)
    # Without the defaults on the same seed, and of the same size, there is nothing to compare with.
    write_job(tmp_path, "phee", "distillation", 1, classes_right([1, 1, 1, 1]), **about)
    size = (("n_train", 9),)
    write_job(
        tmp_path, "phee", "distillation", 0, classes_right([1, 1, 1, 1]), options=size, **about
    )
    recipes.report(tmp_path, tmp_path)
    table = lines_of((tmp_path / "recipes.md").read_text())
    assert set(table) == {"recipe", "---", "defaults", "decayed rates"}
    assert table["defaults"][1:3] == ["50.0 50.0 75.0 100.0", "50.0"]
    assert table["decayed rates"][1:3] == ["75.0 75.0 75.0 100.0", "75.0"]
    estimates = [cell.strip("*").split()[0] for cell in table["decayed rates"][4:9]]
    # From a ratio of 0.25 to one of 0.75, the fronts are 0 to 25 points apart.
    assert 10 < float(estimates.pop(2)) < 25
    assert estimates == ["+25.0", "+25.0", "+25.0", "-25.0"]


def test_policies_are_compared_with_the_backbone_cut_to_equal_cost(tmp_path, described):
    about = {"main_score": "accuracy"}
    for kind in ("exits", "distillation, T=4", "bottleneck heads"):
        seeds = (0, 1) if kind == "bottleneck heads" else (0,)
        for seed in seeds:
            write_job(tmp_path, "phee", kind, seed, classes_right([0.5, 0.5, 0.75, 1.0]), **about)
    write_job(tmp_path, "phee", "exits", 1, classes_right([0.5, 0.5, 0.75, 1.0]), **about)
    y = np.arange(N_SAMPLES) % 3
    for n_layers, share in ((1, 0.25), (3, 1.0)):
        is_right = np.arange(N_SAMPLES) < share * N_SAMPLES
        cut = {"test_pred": np.where(is_right, y, (y + 1) % 3)}
        write_job(tmp_path, "phee", f"cut-{n_layers}", 0, cut, **about)
    recipes.report(tmp_path, tmp_path)
    rows = json.loads((tmp_path / "recipes.json").read_text())["rows"]
    found = {row["recipe"]: row for row in rows}
    # The policy is right on half of the samples, at layer 1; so is the network's second layer.
    assert found["distillation, T=4"]["policies"][0]["cut_layers"] == 1
    assert found["distillation, T=4"]["to_cut"]["estimate"] == pytest.approx(25)
    assert found["distillation, T=4"]["to_own_depth"]["estimate"] == pytest.approx(-50)
    # Seed 1 has no cut backbones.
    assert found["bottleneck heads"]["to_cut"] is None
    table = lines_of((tmp_path / "recipes.md").read_text())
    assert table["distillation, T=4"][9].startswith("**-50.0 (")
    assert table["distillation, T=4"][10].startswith("**+25.0 (")


def test_spans_are_compared_with_the_backbone_cut_to_equal_cost(spans):
    for seed in (0, 1):
        arrays = {"test_counts": np.tile(np.int16([2, 4, 4]), (N_SAMPLES, 1))}
        about = {"main_score": "span_f1"}
        write_job(spans / "out", "git_arguments", "cut-2", seed, arrays, **about)
    recipes.report(spans / "out", spans / "results")
    table = lines_of((spans / "results" / "recipes.md").read_text())
    assert table["bottleneck heads"][10] == "**-25.0 (-25.0 to -25.0)**"
    assert table["defaults"][10] == "**-50.0 (-50.0 to -50.0)**"


def test_the_summary_counts_pairs_above_and_below():
    def row(data, recipe, estimate, beyond, options=""):
        found = {"estimate": estimate, "low": 0, "high": 0, "beyond_chance": beyond}
        about = {"data": data, "backbone": "a", "options": options, "recipe": recipe}
        return about | {"early": found, "to_cut": None}

    rows = [
        row("phee", "b", 2.0, True),
        row("git", "b", 0.0, False),
        row("ddi2013", "b", -5.0, True),
        row("git", "b", 70.0, True, "n_train=9"),
    ]
    table = lines_of(recipe_runs.summary(rows, ["a", "b"]))
    assert table == {
        "recipe": table["recipe"],
        "---": table["---"],
        "b": ["3", "", "", "", "-1.0, 2 of 3 (+1 -1)", "", "", ""],
    }


def test_differences_are_those_of_the_scores():
    rng = np.random.default_rng(0)
    ours, theirs = (np.stack([rng.integers(0, 2, 60), np.ones(60)], axis=-1) for _ in range(2))
    found = recipe_runs.difference([(ours, theirs)])
    assert found["estimate"] == pytest.approx(100 * (ours[:, 0].mean() - theirs[:, 0].mean()))
    assert found["low"] < found["estimate"] < found["high"]
    layers = np.stack([ours, theirs], axis=1)
    by_layer = recipe_runs.difference([(layers, np.stack([theirs, theirs], axis=1))])
    assert by_layer["estimate"] == pytest.approx(found["estimate"] / 2)


def test_results_of_other_folders_are_kept_if_wanted(spans, tmp_path):
    results = spans / "results"
    about = {"main_score": "span_f1"}
    for kind in ("events", "uniform weights"):
        arrays = spans_right([1, 2, 3, 4])
        write_job(tmp_path / "other", "git_arguments", kind, 0, arrays, **about)
    recipes.report(tmp_path / "other", results, keep=True)
    table = lines_of((results / "recipes.md").read_text())
    assert table["defaults"][1] == "25.0 50.0 75.0 100.0"  # replaced
    assert {"uniform weights", "bottleneck heads", "distillation"} <= set(table)
    recipes.report(tmp_path / "other", results)
    assert "distillation" not in lines_of((results / "recipes.md").read_text())


def test_recipes_are_trained_once_and_reported(tmp_path, data_home, monkeypatch):
    monkeypatch.setattr(class_recipes, "SMALL", {"phee": {"n_train": 24, "n_epochs": 1}})
    calls = ["--data-home", str(data_home), "--out", str(tmp_path / "out"), "--small"]
    calls += ["--sets", "phee", "--backbones", "scratch", "--seeds", "1"]
    calls += ["--results", str(tmp_path)]
    assert recipes.main([*calls, "--recipes", "bottleneck heads", "twice the epochs"]) == 0
    first = json.loads((tmp_path / "recipes.json").read_text())["rows"]
    assert [row["recipe"] for row in first] == ["defaults", "bottleneck heads", "twice the epochs"]
    assert [row["options"] for row in first] == ["n_epochs=1,n_train=24"] * 3
    assert [row["n_epochs"] for row in first] == [1, 1, 2]
    assert (first[0]["n_train"], len(first[0]["layers"])) == (24, 6)
    assert 0 <= first[0]["policies"][0]["macro_f1"] <= 1
    monkeypatch.setattr(class_recipes, "KINDS", {})
    assert recipes.main([*calls, "--report"]) == 0
    assert json.loads((tmp_path / "recipes.json").read_text())["rows"] == first
    assert "## phee, scratch, 24 training samples" in (tmp_path / "recipes.md").read_text()


def test_jobs_begin_with_the_defaults_and_apply_to_their_data():
    planned = recipes.jobs()
    assert len(planned) == len(set(planned))
    assert {job.kind for job in planned} == {"exits", "events", *recipes.RECIPES}
    assert next(job.kind for job in planned if job.data == "git") == "exits"
    # Images have no recipes that change the network of texts.
    of_images = {job.kind for job in planned if job.data == "breastmnist"}
    assert of_images >= {"exits", "attention heads", "distillation, T=4"}
    assert not {"decayed rates", "low-rank updates"} & of_images
    assert {job.data for job in recipes.jobs(small=True)} == set(class_recipes.SMALL)
    other = recipes.jobs(["breastmnist", "phee"], [], 1, backbones=["all-mpnet-base-v2"])
    assert [(job.data, job.backbone) for job in other] == [("phee", "all-mpnet-base-v2")]
    sized = recipes.jobs(["breastmnist", "phee"], ["attention heads"], 1, image_size=56)
    assert {(job.data, job.option("image_size")) for job in sized} == {
        ("breastmnist", 56),
        ("phee", None),
    }


def test_all_recipes_for_spans_are_parameters_of_the_classifier():
    known = set(EPEETokenClassifier().get_params())
    for recipe in span_recipes.RECIPES.values():
        assert set(recipe.parameters) <= known


def test_the_page_of_recipes_has_the_committed_tables():
    begin, end = recipes.DOCS_BLOCK
    shown = recipes.PAGE.read_text().partition(begin)[2].partition(end)[0]
    assert shown.strip() == recipes.docs().strip()


def test_tables_are_written_into_a_page(tmp_path):
    results, page = tmp_path / "recipes.md", tmp_path / "page.md"
    results.write_text("machine\n\n## phee\n\n| a |\n")
    page.write_text("before\n{}\nstale\n{}\nafter\n".format(*recipes.DOCS_BLOCK))
    recipes.write_docs(tmp_path, page)
    assert "### phee\n\n| a |\n\n<!-- end -->\nafter" in page.read_text()
    assert "stale" not in page.read_text()
