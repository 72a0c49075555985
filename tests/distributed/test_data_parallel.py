"""`data_parallel`: two processes learn what one does, and end together."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sklearn_epee.distributed import data_parallel

from .conftest import ROOT

# All cases of `launched.py` in one launch: to start processes takes longer than to train in them.
EQUAL = (
    "texts",
    "early_stopping",
    "images",
    "labels",
    "tasks",
    "mixed",
    "windows",
    "tiny_batches",
    "words",
    "texts_with_images",
    "continued",
)
# A number that only rounding has a gradient of goes anywhere, as Adam divides by its size.
ILL_CONDITIONED = ("regression",)
ALIKE = (*EQUAL, *ILL_CONDITIONED, "not_finite", "int8", "dropout", "pickle", "one_stops")
IN_TWO = "Process {} of 2 (counted from 0) failed, so all processes stop: "


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, by case."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("launched")
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "tests.distributed.launched", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    both = [json.loads((folder / f"{number}.json").read_text()) for number in (0, 1)]
    failed = [cases[name]["failed"] for cases in both for name in cases if "failed" in cases[name]]
    assert not failed, failed[0]
    return both


@pytest.mark.slow
@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_learn_what_one_does(found, case):
    for process in found:
        is_two_towers = case == "texts_with_images"
        assert process[case]["weights"] < (1e-3 if is_two_towers else 1e-5)
        assert process[case]["proba"] < 1e-5
        assert process[case]["history"] < 1e-5
        assert process[case]["epochs"][0] == process[case]["epochs"][1]
        assert process[case]["stopped_by"][0] == process[case]["stopped_by"][1]
        assert process[case]["same_attributes"]


@pytest.mark.slow
def test_heads_begin_with_what_the_main_process_measured(found):
    assert all(process["regression"]["proba"] < 1e-3 for process in found)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALIKE)
def test_all_processes_have_the_same_network(found, case):
    first, second = (process[case] for process in found)
    if "skipped" in first:
        pytest.skip(first["skipped"])
    # Times of the epochs are those of the main process.
    for part in ("digest", "rows", "report"):
        assert first.get(part) == second.get(part)


@pytest.mark.slow
def test_early_stopping_goes_back_to_the_best_epoch_in_all(found):
    case = found[1]["early_stopping"]
    assert case["stopped_by"] == ["early stopping"] * 2
    assert case["epochs"][0] < 6


@pytest.mark.slow
def test_callbacks_score_whole_batches(found):
    for process in found:
        together, alone = process["texts"]["scored"]
        assert len(together) == 2
        assert together == alone


@pytest.mark.slow
def test_steps_have_whole_batches(found):
    first, second = (process["dropout"]["sizes"] for process in found)
    assert first == second
    assert sorted(first) == [6, 7, 7, 7]


@pytest.mark.slow
def test_only_the_main_process_prints_and_warns(found):
    main, other = (process["prints_once"] for process in found)
    assert "valid_loss" in main["printed"]
    assert "training:" in main["printed"]
    assert [text for text in main["warned"] if "do not vary" in text]
    assert other == {"printed": "", "warned": []}


@pytest.mark.slow
def test_the_fitted_estimator_knows_nothing_of_the_launch(found):
    for process in found:
        assert not process["pickle"]["knows_launch"]
        assert process["pickle"]["same"]
        assert process["pickle"]["same_clone"]


@pytest.mark.slow
def test_the_example_reports_once(found):
    main, other = (process["example"]["printed"] for process in found)
    assert "2 process(es)" in main
    assert "accuracy" in main
    assert not other


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["seed", "none"])
def test_a_search_trains_one_network_a_fold(found, memory):
    main, other = (process["search"][memory] for process in found)
    assert main["trainings"] == 2 + 1
    assert main == other


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_all_at_the_same_step(found):
    for process in found:
        assert process["not_finite"]["failed_step"] == 3
        assert process["not_finite"]["finite"]


@pytest.mark.slow
def test_a_callback_that_stops_one_stops_all(found):
    assert [process["one_stops"]["epochs"] for process in found] == [2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "number", "error"),
    [
        ("step", 1, "OSError: the disk is on fire"),
        ("epoch", 1, "OSError: the disk is on fire"),
        ("interrupted", 0, "KeyboardInterrupt"),
    ],
)
def test_all_end_with_the_error_of_one(found, when, number, error):
    ends = [process["one_fails"][when] for process in found]
    assert ends[number].startswith(error)
    assert ends[1 - number] == f"ProcessFailedError: {IN_TWO.format(number)}{error}"
    assert not any(process["one_fails"][f"{when}_fitted"] for process in found)


@pytest.mark.slow
def test_the_next_fit_after_a_failure_is_as_any(found):
    digests = {process["one_fails"]["digest"] for process in found}
    assert digests == {process["pickle"]["digest"] for process in found}


@pytest.mark.slow
def test_a_failure_between_fits_ends_all(found):
    first, second = (process["fails_outside_a_fit"]["error"] for process in found)
    assert second == "OSError: the disk is on fire"
    assert first == f"ProcessFailedError: {IN_TWO.format(1)}{second}"


@pytest.mark.slow
def test_a_bad_argument_of_one_process_ends_all(found):
    first, second = (process["bad_argument_in_one"]["error"] for process in found)
    assert second.startswith("ValueError: tau must be")
    assert first == f"ProcessFailedError: {IN_TWO.format(1)}{second}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("samples_differ", "ValueError: X, y, sample_weight or groups differ .*27, 26 samples"),
        ("precision_differs", "ValueError: .*dtype is torch.float32, torch.bfloat16"),
        ("only_main_fits", "RuntimeError: The processes .* take different paths"),
    ],
)
def test_processes_that_disagree_are_refused(found, case, message):
    for process in found:
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(process[case]["error"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "n_jobs"])
def test_workers_of_a_process_are_refused(found, kind):
    assert all("Use n_jobs=None" in process["workers"][kind] for process in found)


@pytest.mark.slow
def test_blocks_do_not_nest(found):
    assert all("one is enough" in process["workers"]["inside"] for process in found)


def test_nothing_changes_in_a_script_that_was_not_launched(texts, labels):
    accelerate = pytest.importorskip("accelerate")
    with data_parallel() as accelerator:
        assert isinstance(accelerator, accelerate.Accelerator)
        assert accelerator.is_main_process
        # One process has nobody to be refused by.
        with data_parallel(accelerator) as same:
            assert same is accelerator


def test_without_accelerate_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with (
        pytest.raises(ImportError, match=r"pip install 'sklearn_epee\[accelerate\]'"),
        data_parallel(),
    ):
        pass


def test_something_else_than_an_accelerator_is_refused():
    pytest.importorskip("accelerate")
    with pytest.raises(TypeError, match="got str"), data_parallel("cuda"):
        pass


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mixed_precision": "bf16"}, "mixed_precision='bf16'.*parameter of the estimator"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps=4"),
        ({"distributed_type": "FSDP"}, "distributed_type 'FSDP'"),
        ({"num_processes": 2}, "num_processes=2, but 1 were launched"),
    ],
)
def test_what_is_not_done_is_refused(changed, message):
    accelerate = pytest.importorskip("accelerate")
    usual = {
        "distributed_type": "NO",
        "num_processes": 1,
        "mixed_precision": "no",
        "gradient_accumulation_steps": 1,
    }
    values = usual | changed
    values["distributed_type"] = accelerate.DistributedType(values["distributed_type"])
    # An Accelerator shares its state with every other of its process.
    unusual = type("Unusual", (accelerate.Accelerator,), values | {"__init__": lambda _: None})
    with pytest.raises(ValueError, match=message), data_parallel(unusual()):
        pass
