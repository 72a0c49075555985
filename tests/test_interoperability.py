"""Tools beside scikit-learn's estimators: arrow columns, inspection, curves, optuna."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score, learning_curve, validation_curve
from sklearn.pipeline import make_pipeline

from sklearn_epee import EntityMarker, TunedExitPolicyClassifierCV, exit_scores

from .classifiers import tiny_multimodal_classifier, tiny_text_classifier
from .tagged import tiny_token_classifier
from .trainings import Trainings


@pytest.fixture(scope="module")
def pa():
    """Return pyarrow."""
    return pytest.importorskip("pyarrow")


# ------------------------------------------------------------------------------------ pyarrow


@pytest.mark.parametrize("form", ["array", "large", "chunked", "table", "series"])
def test_arrow_columns_are_read_as_lists_are(pa, form, text_classifier, texts):
    made = {
        "array": lambda: pa.array(texts),
        "large": lambda: pa.array(texts, pa.large_string()),
        "chunked": lambda: pa.chunked_array([texts[:7], texts[7:]]),
        "table": lambda: pa.table({"text": texts}),
        "series": lambda: pd.Series(texts, dtype=pd.ArrowDtype(pa.string())),
    }[form]()
    assert_array_equal(text_classifier.predict_proba(made), text_classifier.predict_proba(texts))


def test_arrow_labels_and_pairs(pa, notes):
    texts, labels = notes
    pairs = pa.table({"first": texts, "second": texts[::-1]})
    fitted = tiny_text_classifier(max_epochs=1).fit(pairs, pa.array(labels.tolist()))
    assert_array_equal(fitted.classes_, np.unique(labels))
    rows = list(zip(texts, texts[::-1], strict=True))
    assert_array_equal(fitted.predict_proba(pairs), fitted.predict_proba(rows))


@pytest.mark.parametrize("batches", [False, True])
def test_arrow_tables_of_several_labels_and_tasks(pa, notes, batches):
    texts, labels = notes
    make = pa.RecordBatch.from_pydict if batches else pa.table
    frame = pd.DataFrame({name: (labels == name).astype(int) for name in np.unique(labels)})
    several = tiny_text_classifier(max_epochs=1).fit(texts, make(frame.to_dict("list")))
    assert several.multilabel_
    assert several.classes_.tolist() == list(frame)
    again = make(frame[list(frame)[::-1]].to_dict("list"))  # read by name
    assert exit_scores(several, texts, again) == exit_scores(several, texts, frame)
    several = tiny_text_classifier(max_epochs=1)
    tuned = TunedExitPolicyClassifierCV(several, cv=2, min_speedup=0.3)
    assert (
        tuned.fit(texts, again).best_score_
        == tuned.fit(texts, frame[list(again.column_names)]).best_score_
    )
    tasks = pd.DataFrame({"status": labels, "long": [len(text) > 40 for text in texts]})
    both = tiny_text_classifier(max_epochs=1).fit(texts, make(tasks.to_dict("list")))
    assert [classes.tolist() for classes in both.classes_] == [sorted(set(labels)), [False, True]]
    assert both.score(texts, make(tasks.to_dict("list"))) == both.score(texts, tasks)


def test_arrow_tags_and_layers_of_tags(pa):
    X = [["zinc", "rash"], ["no", "pain"]] * 4
    drug, effect = ([["B-X", "O"], ["O", "O"]] * 4, [["O", "B-Y"], ["O", "B-Y"]] * 4)
    one = tiny_token_classifier().fit(pa.array(X), pa.array(drug))
    assert one.score(pa.array(X), pa.array(drug)) == one.score(X, drug)
    two = tiny_token_classifier().fit(X, pa.table({"drug": drug, "effect": effect}))
    assert set(two.classes_) == {"drug", "effect"}
    layers = [{"drug": a, "effect": b} for a, b in zip(drug, effect, strict=True)]
    assert two.score(X, pa.table({"drug": drug, "effect": effect})) == two.score(X, layers)


def test_a_null_in_an_arrow_column_is_refused_by_its_row(pa, text_classifier, texts):
    with pytest.raises(TypeError, match=r"X\[1\] is None"):
        text_classifier.predict(pa.array([texts[0], None]))


def test_arrow_tables_of_entities_and_of_texts_with_images(pa):
    rows = {"text": ["aspirin helps pain"], "span1": [[0, 7]], "span2": [[14, 18]]}
    marker = EntityMarker()
    frame = pd.DataFrame(rows)
    assert list(marker.fit_transform(pa.table(rows))) == list(marker.fit_transform(frame))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (24, 24), dtype=np.uint8) for _ in range(8)]
    cells = pa.table({"text": list("abcdefgh"), "image": [image.tolist() for image in images]})
    with pytest.raises((TypeError, ValueError), match=r"X\[0\]"):  # lists of numbers are not images
        tiny_multimodal_classifier().fit(cells, [0, 1] * 4)


# ------------------------------------------------------------------------- inspection and curves


def test_permutation_importance_of_the_columns_of_pairs(notes):
    texts, labels = notes
    frame = pd.DataFrame({"note": texts, "nothing": ["."] * len(texts)})
    fitted = tiny_text_classifier(max_epochs=8).fit(frame, labels)
    found = permutation_importance(fitted, frame, labels, n_repeats=3, random_state=0)
    assert found.importances_mean.shape == (2,)
    # Every row has the same text there, so that nothing changes when they are shuffled.
    assert_array_equal(found.importances[1], 0)


def test_learning_and_validation_curves(notes, tmp_path):
    count = Trainings(tmp_path / "trainings")
    model = tiny_text_classifier(max_epochs=1, callbacks=[count])
    sizes, train, test = learning_curve(model, *notes, cv=2, train_sizes=[0.5, 1.0])
    assert train.shape == test.shape == (2, 2)
    assert_array_equal(sizes, [10, 20])
    before = count.count
    train, test = validation_curve(model, *notes, cv=2, param_name="tau", param_range=[0.1, 0.9])
    assert train.shape == (2, 2)
    # The networks of the whole folds are there already.
    assert count.count - before <= 2


def test_optuna_tunes_the_policy_on_the_networks_of_the_folds(notes, tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    count = Trainings(tmp_path / "trainings")
    model = make_pipeline(tiny_text_classifier(max_epochs=1, callbacks=[count]))

    def score(trial):
        policy = {
            "epeeclassifier__tau": trial.suggest_float("tau", 0, 1),
            "epeeclassifier__patience": trial.suggest_int("patience", 1, 3),
        }
        return cross_val_score(clone(model).set_params(**policy), *notes, cv=2).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(score, n_trials=4)
    assert len(study.trials) == 4
    assert 0 <= study.best_value <= 1
    assert count.count == 2
