"""Scorers and refit rules, on a cheap classifier with early exits."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - what it is for
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from sklearn_epee._exits.wrappers import find_exits
from sklearn_epee.metrics import (
    exit_scores,
    positive_f1_score,
    positive_f1_scorer,
    refit_accuracy_at_speedup,
    refit_fastest_within,
    speedup_ratio,
    speedup_score,
)
from sklearn_epee.policy import apply_policy
from tests.model_selection.staged import PredictsWithExits

N_LAYERS = 5


class EarlyExits(PredictsWithExits, BaseEstimator):
    """Layer m knows the class with a certainty that grows with m and with |x|."""

    n_passes = 0

    def __init__(self, tau=0.3, patience=None):
        self.tau = tau
        self.patience = patience

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        self.n_layers_ = N_LAYERS
        return self

    def staged_predict_proba(self, X):
        x = np.asarray(X, dtype=float)[:, 0]
        for layer in range(1, N_LAYERS + 1):
            shift = (N_LAYERS - layer) / N_LAYERS  # early layers are biased
            p = 1 / (1 + np.exp(-layer * (x + shift)))
            yield np.column_stack([1 - p, p])

    def predict_with_exits(self, X):
        EarlyExits.n_passes += 1
        staged = np.stack(list(self.staged_predict_proba(X)), axis=1)
        result = apply_policy(staged, self.tau, self.patience)
        return Bunch(
            labels=self.classes_[result.prediction],
            proba=result.proba,
            exit_layer=result.exit_layer,
            entropy=result.entropy,
        )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 1)) * 3
    y = np.where(X[:, 0] + rng.normal(size=90) > 0, "yes", "no")
    return X, y


@pytest.fixture
def classifier(data):
    return EarlyExits().fit(*data)


GRID = {"tau": [0.0, 0.3, 0.9], "patience": [2, None]}


# --------------------------------------------------------------------------- ratio


def test_ratio_of_known_exits():
    assert speedup_ratio([12, 12], 12) == 0
    assert speedup_ratio([1, 1, 1], 12) == 1 - 1 / 12
    assert speedup_ratio(np.array([3, 9], dtype=np.uint8), 12) == 0.5
    assert speedup_ratio(pd.Series([1, 2, 3, 4]), 4) == 1 - 10 / 16


def test_ratio_does_not_overflow_small_integers():
    assert speedup_ratio(np.full(1000, 6, dtype=np.uint8), 12) == 0.5


def test_weights_repeat_samples():
    repeated = speedup_ratio([1, 4, 4, 4], 4)
    assert speedup_ratio([1, 4], 4, sample_weight=[1, 3]) == pytest.approx(repeated)
    assert speedup_ratio([1, 4], 4, sample_weight=[1, 0]) == 0.75


@pytest.mark.parametrize(
    ("layers", "n_layers", "error", "message"),
    [
        ([], 4, ValueError, r"n_samples >= 1; got \(0,\)"),
        ([[1, 2]], 4, ValueError, r"got \(1, 2\)"),
        ([0, 1], 4, ValueError, "between 1 and n_layers=4; got values from 0 to 1"),
        ([1, 5], 4, ValueError, "got values from 1 to 5"),
        ([1.5], 4, TypeError, "exit_layers must be integers; got dtype float64"),
        ([1], 0, ValueError, "n_layers must be an integer >= 1; got 0"),
        ([1], 4.0, TypeError, "n_layers must be an integer >= 1; got 4.0"),
    ],
)
def test_bad_exit_layers(layers, n_layers, error, message):
    with pytest.raises(error, match=message):
        speedup_ratio(layers, n_layers)


@pytest.mark.parametrize("weight", [[1], [1, -1], [0, 0], [1, np.nan], [[1, 1]]])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="sample_weight"):
        speedup_ratio([1, 2], 4, sample_weight=weight)


# --------------------------------------------------------------------------- scorers


def test_speedup_score_is_the_ratio_of_predicted_exits(classifier, data):
    X, y = data
    expected = speedup_ratio(classifier.predict_exit_layer(X), N_LAYERS)
    assert speedup_score(classifier, X) == expected
    assert speedup_score(classifier, X, y) == expected
    assert type(speedup_score(classifier, X)) is float


def test_exit_scores_are_scikit_learns(classifier, data):
    X, y = data
    labels = classifier.predict(X)
    scores = exit_scores(classifier, X, y)
    assert scores == {
        "accuracy": accuracy_score(y, labels),
        "balanced_accuracy": pytest.approx(balanced_accuracy_score(y, labels)),
        "macro_f1": f1_score(y, labels, average="macro"),
        "speedup": speedup_score(classifier, X),
        "mean_exit_layer": pytest.approx(classifier.predict_exit_layer(X).mean()),
        "recall_no": pytest.approx(recall_score(y, labels, pos_label="no")),
        "recall_yes": pytest.approx(recall_score(y, labels, pos_label="yes")),
        "mean_exit_layer_no": pytest.approx(classifier.predict_exit_layer(X)[y == "no"].mean()),
        "mean_exit_layer_yes": pytest.approx(classifier.predict_exit_layer(X)[y == "yes"].mean()),
    }
    assert {type(value) for value in scores.values()} == {float}


def test_exit_scores_predict_once(classifier, data):
    EarlyExits.n_passes = 0
    exit_scores(make_pipeline(FrozenEstimator(classifier)), *data)
    assert EarlyExits.n_passes == 1


def test_exit_scores_weigh_samples(classifier, data):
    X, y = data
    counts = np.arange(len(y)) % 3
    weighted = exit_scores(classifier, X, y, sample_weight=counts)
    repeated = exit_scores(classifier, np.repeat(X, counts, axis=0), np.repeat(y, counts))
    assert weighted == pytest.approx(repeated)


def test_a_class_without_weight_does_not_count(classifier, data):
    X, y = data
    there = y == "no"
    weighted = exit_scores(classifier, X, y, sample_weight=there.astype(float))
    expected = exit_scores(classifier, X[there], y[there])
    assert weighted == pytest.approx(expected, nan_ok=True)
    assert np.isnan(weighted["recall_yes"])


def test_a_fold_without_a_class_gives_no_warning(classifier, data):
    X, y = data
    one_class = y == "no"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = exit_scores(classifier, X[one_class], y[one_class])
    assert scores["balanced_accuracy"] == scores["accuracy"] < 1


@pytest.mark.parametrize("as_labels", [list, np.asarray, pd.Series, pd.Categorical])
def test_labels_in_any_container(classifier, data, as_labels):
    X, y = data
    assert exit_scores(classifier, X, as_labels(y)) == exit_scores(classifier, X, y)


def test_labels_of_another_length_are_refused(classifier, data):
    X, y = data
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        exit_scores(classifier, X, y[:-1])


# ------------------------------------------------------------------- classes by themselves


def test_classes_that_a_fold_lacks_have_the_same_keys(data):
    X, y = data
    codes = (y == "yes").astype(int)
    codes[:2] = 7  # in the training part of one fold, in the test part of the other
    folds = [(np.arange(2, 90), np.arange(30)), (np.arange(45), np.arange(45, 90))]
    # A classifier of two classes; the third is in its `classes_` or in y.
    keys = []
    for train, test in folds:
        model = EarlyExits().fit(X[train], codes[train])
        model.classes_ = np.unique(codes[train])
        scores = exit_scores(model, X[test], codes[test])
        keys.append(list(scores))
        assert np.isnan(scores["recall_7"]) == (7 not in codes[test])
    assert keys[0] == keys[1]
    assert {"recall_0", "recall_1", "recall_7", "mean_exit_layer_7"} < set(keys[0])


def test_search_by_the_recall_of_a_class(data):
    X, y = data
    search = GridSearchCV(
        EarlyExits(),
        GRID,
        scoring=exit_scores,
        refit=refit_fastest_within(0.05, metric="recall_no"),
        cv=3,
    ).fit(X, y)
    results = search.cv_results_
    assert results["mean_test_recall_no"][search.best_index_] >= (
        results["mean_test_recall_no"].max() - 0.05 - 1e-9
    )
    assert np.isfinite(results["mean_test_mean_exit_layer_yes"]).all()


class TwoTasks(EarlyExits):
    def fit(self, X, y):
        self.classes_ = [np.unique(column) for column in np.asarray(y).T]
        self.n_layers_ = N_LAYERS
        return self

    def predict_with_exits(self, X):
        exits = np.arange(len(X)) % N_LAYERS + 1
        columns = [np.resize(classes, len(X)) for classes in self.classes_]
        return Bunch(labels=np.stack(columns, axis=1), exit_layer=exits)


def test_classes_of_tasks_have_names_of_their_own(data):
    X, y = data
    tasks = np.stack([y, np.resize(["l", "m", "r"], len(y))], axis=1)
    scores = exit_scores(TwoTasks().fit(X, tasks), X, tasks)
    assert scores["recall_task1_m"] == 1
    assert scores["recall_task0_no"] == recall_score(
        y, np.resize(["no", "yes"], len(y)), pos_label="no"
    )
    assert 1 <= scores["mean_exit_layer_task0_yes"] <= N_LAYERS
    with pytest.raises(ValueError, match="positive_f1_score is for one task"):
        exit_scores(TwoTasks().fit(X, tasks), X, tasks, negative_class="no")


# --------------------------------------------------------------- without the negative class


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_positive_f1_is_scikit_learns_over_the_other_labels(average):
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.choice(["advise", "effect", "false", "int"], size=(2, 200))
    weights = rng.random(200)
    found = positive_f1_score(
        y_true, y_pred, negative_class="false", average=average, sample_weight=weights
    )
    expected = f1_score(
        y_true, y_pred, labels=["advise", "effect", "int"], average=average, sample_weight=weights
    )
    assert found == pytest.approx(expected)


def test_positive_f1_of_negatives_alone():
    assert positive_f1_score([0, 0], [0, 0], negative_class=0) == 0
    assert positive_f1_score([0, 0], [0, 0], negative_class=0, zero_division=1) == 1
    assert positive_f1_score([0, 0], [0, 1], negative_class=0, zero_division=1) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_class": "False"}, "negative_class='False' is neither in y_true nor in y_pred"),
        ({"negative_class": "no", "average": "weighted"}, "average must be 'micro' or 'macro'"),
    ],
)
def test_bad_options_of_positive_f1(options, message):
    with pytest.raises(ValueError, match=message):
        positive_f1_score(["no", "yes"], ["no", "no"], **options)


def test_bad_average_of_the_scorer():
    with pytest.raises(ValueError, match="average must be 'micro' or 'macro'; got None"):
        positive_f1_scorer("no", average=None)


def test_positive_f1_scorer_in_searches(data):
    X, y = data
    scorer = pickle.loads(pickle.dumps(positive_f1_scorer("no")))
    search = GridSearchCV(EarlyExits(), GRID, scoring=scorer, cv=3).fit(X, y)
    both = GridSearchCV(
        EarlyExits(),
        GRID,
        scoring=partial(exit_scores, negative_class="no"),
        refit=refit_fastest_within(0.0, metric="positive_f1"),
        cv=3,
    ).fit(X, y)
    found = both.cv_results_["mean_test_positive_f1"]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], found)
    assert found[both.best_index_] == pytest.approx(search.best_score_)


# --------------------------------------------------------------------------- wrappers


def double(X):
    return 2 * X


# Each with the number of times that X is doubled on its way to the classifier.
WRAPPERS = {
    "pipeline": (lambda: make_pipeline(FunctionTransformer(double), EarlyExits()), 1),
    "one step": (lambda: Pipeline([("only", EarlyExits())]), 0),
    "passthrough": (lambda: Pipeline([("scale", "passthrough"), ("model", EarlyExits())]), 0),
    "pipeline in pipeline": (
        lambda: make_pipeline(
            FunctionTransformer(double), make_pipeline(FunctionTransformer(double), EarlyExits())
        ),
        2,
    ),
    "search": (lambda: GridSearchCV(EarlyExits(), {"tau": [0.3]}, cv=2), 0),
    "search over pipeline": (
        lambda: GridSearchCV(
            make_pipeline(FunctionTransformer(double), EarlyExits()),
            {"earlyexits__tau": [0.3]},
            cv=2,
        ),
        1,
    ),
    "search in pipeline": (
        lambda: make_pipeline(
            FunctionTransformer(double), GridSearchCV(EarlyExits(), {"tau": [0.3]}, cv=2)
        ),
        1,
    ),
    "halving search": (lambda: HalvingGridSearchCV(EarlyExits(), {"tau": [0.3]}, cv=2), 0),
    "fixed threshold": (
        lambda: FixedThresholdClassifier(
            make_pipeline(FunctionTransformer(double), EarlyExits()), threshold=0.9, pos_label="yes"
        ),
        1,
    ),
    "tuned threshold": (
        lambda: make_pipeline(
            FunctionTransformer(double), TunedThresholdClassifierCV(EarlyExits(), cv=2)
        ),
        1,
    ),
    "calibrated": (
        lambda: CalibratedClassifierCV(
            make_pipeline(FunctionTransformer(double), EarlyExits()), ensemble=False, cv=2
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_wrappers_are_looked_through(name, frozen, data):
    X, y = data
    make, doublings = WRAPPERS[name]
    wrapped = make().fit(X, y)
    exits = EarlyExits().fit(X, y).predict_exit_layer(X * 2**doublings)
    estimator = FrozenEstimator(wrapped) if frozen else wrapped
    assert speedup_score(estimator, X) == speedup_ratio(exits, N_LAYERS)
    scores = exit_scores(estimator, X, y)
    assert scores["speedup"] == speedup_ratio(exits, N_LAYERS)
    assert scores["accuracy"] == accuracy_score(y, wrapped.predict(X))


def test_a_threshold_changes_the_labels_that_are_scored(data):
    X, y = data
    model = EarlyExits().fit(X, y)
    # A threshold above 1 is never reached: all are "no".
    wrapped = FixedThresholdClassifier(FrozenEstimator(model), threshold=1.1, pos_label="yes")
    scores = exit_scores(make_pipeline(StandardScaler(), wrapped).fit(X, y), X, y)
    assert scores["accuracy"] == np.mean(y == "no")


def test_unwrapping_returns_the_classifier_and_what_reaches_it(data):
    X, y = data
    pipeline = WRAPPERS["pipeline in pipeline"][0]().fit(X, y)
    classifier, X_inner, _ = find_exits(FrozenEstimator(pipeline), X)
    assert classifier is pipeline[-1][-1]
    assert_array_equal(X_inner, 4 * X)


@pytest.mark.parametrize("score", [speedup_score, exit_scores])
def test_estimators_without_exits_are_refused(score, data):
    X, y = data
    coded = (y == "yes").astype(int)
    plain = make_pipeline(StandardScaler(), FrozenEstimator(LogisticRegression().fit(X, y)))
    with pytest.raises(
        TypeError,
        match=r"classifier with early exits.*got Pipeline > FrozenEstimator > LogisticRegression\.",
    ):
        score(plain.fit(X, y), X, y)
    vote = VotingClassifier([("a", EarlyExits()), ("b", EarlyExits())]).fit(X, coded)
    with pytest.raises(TypeError, match="around a single one; got VotingClassifier"):
        score(vote, X, coded)
    several = CalibratedClassifierCV(EarlyExits(), ensemble=True, cv=2).fit(X, y)
    with pytest.raises(TypeError, match="around a single one; got CalibratedClassifierCV"):
        score(several, X, y)
    with pytest.raises(TypeError, match="got Pipeline > str"):
        score(Pipeline([("a", StandardScaler()), ("b", "passthrough")]).fit(X), X, y)
    with pytest.raises(TypeError, match="got str"):
        score("model", X, y)


@pytest.mark.parametrize(
    "estimator",
    [
        EarlyExits(),
        make_pipeline(EarlyExits()),
        make_pipeline(StandardScaler(), EarlyExits()),
        GridSearchCV(EarlyExits(), GRID),
        FrozenEstimator(EarlyExits()),
        FixedThresholdClassifier(EarlyExits()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("score", [speedup_score, exit_scores])
def test_estimators_that_are_not_fitted(score, estimator, data):
    with pytest.raises(NotFittedError):
        score(estimator, *data)


def test_a_search_without_refit_is_refused(data):
    search = GridSearchCV(EarlyExits(), GRID, cv=2, refit=False).fit(*data)
    with pytest.raises(ValueError, match="GridSearchCV was fitted with refit=False"):
        speedup_score(search, *data)


# --------------------------------------------------------------------------- searches


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (GridSearchCV, {}),
        (RandomizedSearchCV, {"n_iter": 4, "random_state": 0}),
        (HalvingGridSearchCV, {"random_state": 0}),
        (HalvingRandomSearchCV, {"n_candidates": 4, "random_state": 0}),
    ],
)
def test_searches_maximise_the_speedup(search, options, data):
    fitted = search(EarlyExits(), GRID, scoring=speedup_score, cv=3, **options).fit(*data)
    results = fitted.cv_results_
    rounds = results.get("iter", np.zeros(len(results["params"])))  # of a halving search
    assert fitted.best_score_ == results["mean_test_score"][rounds == rounds.max()].max() > 0
    assert fitted.score(*data) == speedup_score(fitted, data[0])


def test_speedup_among_other_scorers(data):
    scoring = {"accuracy": "accuracy", "f1": "f1_macro", "saved": speedup_score}
    result = cross_validate(EarlyExits(), *data, scoring=scoring, cv=3)
    assert (result["test_saved"] > 0).all()
    search = GridSearchCV(EarlyExits(), GRID, scoring=scoring, refit="saved", cv=3).fit(*data)
    assert search.best_params_ == {"tau": 0.9, "patience": 2}


def test_scorers_in_cross_validation(data):
    scores = cross_val_score(EarlyExits(), *data, scoring=speedup_score, cv=3)
    result = cross_validate(
        make_pipeline(StandardScaler(), EarlyExits()), *data, scoring=exit_scores, cv=3
    )
    assert scores.shape == result["test_speedup"].shape == (3,)
    expected = N_LAYERS * (1 - result["test_speedup"])
    assert result["test_mean_exit_layer"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "scoring",
    [speedup_score, exit_scores, {"accuracy": "accuracy", "speedup": speedup_score}],
    ids=["speedup", "exit_scores", "dict"],
)
def test_searches_pass_sample_weights_to_the_scorers(scoring, data):
    X, y = data
    weight = np.random.default_rng(0).uniform(size=len(y))
    splits = [(np.arange(0, 60), np.arange(60, 90))]
    search = GridSearchCV(EarlyExits(), {"tau": [0.3]}, scoring=scoring, refit=False, cv=splits)
    search.fit(X, y, sample_weight=weight)
    name = "score" if scoring is speedup_score else "speedup"
    model = EarlyExits().fit(X, y)
    test = splits[0][1]
    expected = speedup_score(model, X[test], sample_weight=weight[test])
    assert search.cv_results_[f"mean_test_{name}"] == [expected]
    assert expected != speedup_score(model, X[test])


@pytest.mark.parametrize(
    "scoring", [speedup_score, exit_scores, {"speedup": speedup_score}], ids=["one", "all", "dict"]
)
def test_scorers_with_metadata_routing(scoring, data):
    X, y = data
    with config_context(enable_metadata_routing=True):
        model = EarlyExits().set_fit_request(sample_weight=True)
        search = GridSearchCV(model, {"tau": [0.3]}, scoring=scoring, refit=False, cv=3)
        search.fit(X, y, sample_weight=np.ones(len(y)))
    assert "mean_fit_time" in search.cv_results_


@pytest.mark.parametrize("scoring", [speedup_score, exit_scores])
def test_scorers_pickle_and_run_in_workers(scoring, data):
    assert pickle.loads(pickle.dumps(scoring)) is scoring
    options = {"scoring": scoring, "refit": False, "cv": 2}
    one = GridSearchCV(EarlyExits(), GRID, n_jobs=1, **options).fit(*data).cv_results_
    two = GridSearchCV(EarlyExits(), GRID, n_jobs=2, **options).fit(*data).cv_results_
    for name in one:
        if name.startswith("mean_test"):
            assert_array_equal(one[name], two[name])


# --------------------------------------------------------------------------- refit rules


def table(accuracy, speedup, **more):
    columns = {"mean_test_accuracy": accuracy, "mean_test_speedup": speedup, **more}
    return {name: np.array(values) for name, values in columns.items()}


TRADEOFF = table([0.90, 0.93, 0.92, 0.85], [0.1, 0.3, 0.5, 0.7])


@pytest.mark.parametrize(("least", "chosen"), [(0, 1), (0.3, 1), (0.31, 2), (0.5, 2), (0.6, 3)])
def test_the_most_accurate_that_is_fast_enough(least, chosen):
    assert refit_accuracy_at_speedup(least)(TRADEOFF) == chosen


@pytest.mark.parametrize(("tolerance", "chosen"), [(0, 1), (0.009, 1), (0.01, 2), (0.08, 3)])
def test_the_fastest_that_is_accurate_enough(tolerance, chosen):
    assert refit_fastest_within(tolerance)(TRADEOFF) == chosen


def test_ties_go_to_the_other_score_and_then_to_the_first():
    noisy = np.mean([0.1, 0.2, 0.6])  # 0.3 but for its last digits
    results = table([0.8, 0.9, 0.9, 0.9], [0.3, 0.2, 0.3, noisy])
    assert refit_accuracy_at_speedup(0.1)(results) == 2
    assert refit_fastest_within(0.5)(results) == 2
    assert refit_accuracy_at_speedup(0.3)(table([0.9], [0.3 - 1e-12])) == 0
    nearly = table([0.9, 0.9 - 1e-15], [0.1, 0.2])
    assert refit_accuracy_at_speedup(0.1)(nearly) == 1


def test_candidates_with_nan_are_passed_over():
    results = table([np.nan, 0.7, 0.99, 0.6], [0.9, 0.5, np.nan, 0.6])
    assert refit_accuracy_at_speedup(0.4)(results) == 1
    assert refit_fastest_within(0.0)(results) == 1
    assert refit_fastest_within(0.2)(results) == 3


@pytest.mark.parametrize("rule", [refit_accuracy_at_speedup(0.0), refit_fastest_within(0.0)])
def test_candidates_without_scores_are_refused(rule):
    with pytest.raises(ValueError, match=r"all 2 have a NaN score.*error_score='raise'"):
        rule(table([np.nan, 0.5], [0.5, np.nan]))


def test_no_candidate_is_fast_enough():
    params = [{"tau": 0.1}, {"tau": 0.2}, {"tau": 0.3}]
    results = table([0.9, 0.8, np.nan], [0.1, 0.4321, 0.9], params=params)
    with pytest.raises(
        ValueError, match=r"min_speedup=0.6: the largest is 0.4321, of candidate 1 \(\{'tau': 0.2"
    ):
        refit_accuracy_at_speedup(0.6)(results)
    del results["params"]
    with pytest.raises(ValueError, match=r"of candidate 1\. Lower min_speedup"):
        refit_accuracy_at_speedup(0.6)(results)


@pytest.mark.parametrize("rule", [refit_accuracy_at_speedup, refit_fastest_within])
def test_missing_scores_are_named(rule):
    with pytest.raises(ValueError, match=r"'speedup', but cv_results_ has only \['accuracy'\]"):
        rule(0.1)({"mean_test_accuracy": np.ones(2), "split0_test_accuracy": np.ones(2)})
    with pytest.raises(ValueError, match=r"reads the score 'roc_auc'.*scoring=exit_scores"):
        rule(0.1, metric="roc_auc")(TRADEOFF)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_rules_check_the_range(value):
    with pytest.raises(ValueError, match=r"min_speedup must be a number in \[0, 1\)"):
        refit_accuracy_at_speedup(value)
    with pytest.raises(ValueError, match=r"tolerance must be a number in \[0, inf\)"):
        refit_fastest_within(value)


def test_no_policy_saves_everything():
    with pytest.raises(ValueError, match=r"min_speedup must be a number in \[0, 1\); got 1"):
        refit_accuracy_at_speedup(1)


@pytest.mark.parametrize("value", ["0.1", None, True])
def test_rules_check_the_type(value):
    with pytest.raises(TypeError, match="min_speedup must be a number"):
        refit_accuracy_at_speedup(value)
    with pytest.raises(TypeError, match="tolerance must be a number"):
        refit_fastest_within(value)


@pytest.mark.parametrize("rule", [refit_accuracy_at_speedup(0.2), refit_fastest_within(0.02)])
@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_rules_choose_in_a_search_over_a_pipeline(rule, search, data):
    model = make_pipeline(StandardScaler(), EarlyExits())
    grid = {f"earlyexits__{name}": values for name, values in GRID.items()}
    options = {"n_iter": 6, "random_state": 0} if search is RandomizedSearchCV else {}
    fitted = search(model, grid, scoring=exit_scores, refit=rule, cv=3, **options).fit(*data)
    assert fitted.best_index_ == rule(fitted.cv_results_)
    assert fitted.best_estimator_[-1].tau == fitted.best_params_["earlyexits__tau"]


def test_rules_with_a_dict_of_scorers(data):
    scoring = {"f1": "f1_macro", "saved": speedup_score}
    rule = refit_accuracy_at_speedup(0.4, metric="f1", speedup="saved")
    search = GridSearchCV(EarlyExits(), GRID, scoring=scoring, refit=rule, cv=3).fit(*data)
    results = search.cv_results_
    fast = results["mean_test_saved"] >= 0.4
    assert fast.any()
    assert not fast.all()
    assert fast[search.best_index_]
    best = results["mean_test_f1"][fast].max()
    assert results["mean_test_f1"][search.best_index_] == pytest.approx(best)


@pytest.mark.parametrize(
    "rule", [refit_accuracy_at_speedup(0.2, metric="macro_f1"), refit_fastest_within(0.02)]
)
def test_rules_pickle_and_clone(rule, data):
    copy = pickle.loads(pickle.dumps(rule))
    assert copy == rule
    search = clone(GridSearchCV(EarlyExits(), GRID, scoring=exit_scores, refit=rule, cv=2))
    fitted = pickle.loads(pickle.dumps(search.fit(*data)))
    assert fitted.refit == rule
    assert fitted.best_index_ == copy(fitted.cv_results_)
    nested = cross_validate(search, *data, scoring=exit_scores, cv=2)
    assert np.isfinite(nested["test_speedup"]).all()


class ScriptedWords(BaseEstimator):
    """Predicts every word "Drug", and exits at given layers."""

    scheme = "IOB2"

    def __init__(self, exits=None):
        self.exits = exits

    def fit(self, X, y=None):
        self.n_layers_ = 4
        return self

    def predict_tags(self, X):
        return [["B-Drug"] * len(words) for words in X]

    def predict_with_exits(self, X):
        return Bunch(
            spans=[[(i, i + 1, "Drug") for i in range(len(words))] for words in X],
            exit_layer=self.exits,
            rows_computed=np.array([10, 4]),
            rows_total=np.array([16, 24]),
        )


WORDS = [["zinc", "helps"], ["no", "iron", "here", "now"]]
TAGS = [["B-Drug", "O"], ["O", "B-Drug", "O", "O"]]


@pytest.mark.parametrize(
    ("exits", "mean"),
    [(np.array([3, 2]), 2.5), ([np.array([1, 3]), np.array([1, 1, 1, 2])], 1.5)],
)
def test_a_classifier_of_words_is_scored_by_spans_and_rows(exits, mean):
    classifier = ScriptedWords(exits).fit(WORDS)
    assert speedup_score(classifier, WORDS) == 1 - 14 / 40
    assert speedup_score(classifier, WORDS, sample_weight=[1, 0]) == 1 - 10 / 16
    scores = exit_scores(classifier, WORDS, TAGS)
    assert scores["speedup"] == 1 - 14 / 40
    assert scores["mean_exit_layer"] == mean
    assert scores["span_recall"] == 1
    assert scores["span_precision"] == pytest.approx(1 / 3)
    assert set(scores) >= {"span_f1", "span_macro_f1"}


@pytest.mark.parametrize("given", [{"sample_weight": [1, 1]}, {"negative_class": "O"}])
def test_spans_have_neither_weights_nor_a_negative_class(given):
    classifier = ScriptedWords(np.array([1, 2])).fit(WORDS)
    with pytest.raises(ValueError, match="must be None where spans are predicted"):
        exit_scores(classifier, WORDS, TAGS, **given)


def test_a_search_compares_the_policies_of_a_classifier_of_words():
    search = GridSearchCV(
        ScriptedWords(), {"exits": [np.array([3, 2])]}, scoring=exit_scores, refit="span_f1", cv=2
    )
    search.fit(WORDS * 2, TAGS * 2)
    assert search.cv_results_["mean_test_speedup"] == [1 - 14 / 40]
