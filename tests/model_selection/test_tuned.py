"""The tuned policy: found as by brute force, at the cost of one fit and one pass a split."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    positive_f1_scorer,
    speedup_score,
)
from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.policy import apply_policy, normalized_entropy

from .staged import N_LAYERS, NumericExits, blobs

METRICS = {"accuracy": accuracy_score, "f1_macro": lambda y, p: f1_score(y, p, average="macro")}


@pytest.fixture(scope="module")
def data():
    return blobs()


@pytest.fixture(scope="module")
def fitted():
    return NumericExits(tau=0.0).fit(*blobs(seed=7))


def tuned(estimator, **parameters):
    return TunedExitPolicyClassifierCV(
        FrozenEstimator(estimator), **{"scoring": "accuracy"} | parameters
    )


def every_policy(classifier, X, y, metric=accuracy_score, ensemble=None):
    """Score and speed-up of all policies that differ on these samples, one by one."""
    staged = np.stack(list(classifier.staged_predict_proba(X)), axis=1)
    entropies = np.unique(normalized_entropy(staged))
    found = []
    for tau in [0.0, *np.nextafter(entropies, 2)]:
        for patience in range(1, N_LAYERS + 1):
            result = apply_policy(staged, tau, patience, ensemble)
            score = metric(y, classifier.classes_[result.prediction])
            found.append((score, speedup_ratio(result.exit_layer, N_LAYERS)))
    return np.array(found)


# --------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("ensemble", [None, "mean"])
@pytest.mark.parametrize("scoring", METRICS)
def test_the_best_of_all_policies(scoring, ensemble, fitted):
    X, y = blobs(60)
    estimator = clone(fitted).set_params(exit_ensemble=ensemble).fit(*blobs(seed=7))
    scores, speedups = every_policy(estimator, X, y, METRICS[scoring], ensemble).T
    full_depth = METRICS[scoring](y, estimator.set_params(tau=0, patience=None).predict(X))
    for wishes, expected in (
        ({}, scores.max()),
        ({"min_speedup": 0.4}, scores[speedups >= 0.4].max()),
        ({"min_speedup": 0.7}, scores[speedups >= 0.7].max()),
    ):
        model = tuned(estimator, scoring=scoring, **wishes).fit(X, y)
        assert model.best_score_ == pytest.approx(expected)
        assert model.best_speedup_ >= wishes.get("min_speedup", 0)
        assert model.full_depth_score_ == pytest.approx(full_depth)
    for drop in (0.0, 0.02, 0.1):
        model = tuned(estimator, scoring=scoring, max_accuracy_drop=drop).fit(X, y)
        assert model.best_speedup_ == pytest.approx(
            speedups[scores >= full_depth - drop - 1e-9].max()
        )
        assert model.best_score_ >= full_depth - drop


def test_prediction_does_what_was_promised(data, fitted):
    X, y = data
    model = tuned(fitted, min_speedup=0.5).fit(X, y)
    assert model.score(X, y) == model.best_score_
    assert speedup_score(model, X) == model.best_speedup_
    assert model.estimator_.estimator.tau == model.best_tau_
    assert model.estimator_.estimator.patience == model.best_patience_
    assert isinstance(model.best_tau_, float)
    assert isinstance(model.best_patience_, int)
    assert exit_scores(model, X, y)["accuracy"] == model.best_score_
    assert exit_scores(FrozenEstimator(make_pipeline(model)), X, y)["speedup"] == (
        model.best_speedup_
    )
    assert_array_equal(model.classes_, fitted.classes_)
    assert model.n_layers_ == N_LAYERS


def test_the_front_and_the_table(data, fitted):
    X, y = data
    model = tuned(fitted, store_cv_results=True).fit(X, y)
    table, front = pd.DataFrame(model.cv_results_), pd.DataFrame(model.pareto_front_)
    assert list(table) == list(front) == [
        "tau", "patience", "min_exit_layer", "n_layers", "joint_exit", "score", "speedup",
    ]  # fmt: skip
    assert (table.groupby("patience")["speedup"].diff().dropna() > 0).all()
    assert (front["speedup"].diff().dropna() > 0).all()
    assert (front["score"].diff().dropna() < 0).all()
    best = table["score"].max()
    assert front["score"].iloc[0] == best
    assert front["speedup"].iloc[-1] == table["speedup"].max() == 1 - 1 / N_LAYERS
    assert not hasattr(tuned(fitted).fit(X, y), "cv_results_")


def test_out_of_fold_predictions_are_pooled(data):
    X, y = data
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    model = TunedExitPolicyClassifierCV(
        NumericExits(), scoring="accuracy", min_speedup=0.5, cv=cv
    ).fit(X, y)
    hits, layers = [], []
    for train, test in cv.split(X, y):
        fold = NumericExits().fit(X[train], y[train])
        fold.set_params(tau=model.best_tau_, patience=model.best_patience_)
        hits.append(fold.predict(X[test]) == y[test])
        layers.append(fold.predict_exit_layer(X[test]))
    assert model.best_score_ == np.concatenate(hits).mean()
    assert model.best_speedup_ == speedup_ratio(np.concatenate(layers), N_LAYERS)
    refitted = NumericExits().fit(X, y)
    assert_array_equal(model.estimator_.centroids_, refitted.centroids_)


def test_samples_in_several_folds_count_several_times(data):
    X, y = data
    cv = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
    model = TunedExitPolicyClassifierCV(NumericExits(), scoring="accuracy", cv=cv).fit(X, y)
    assert model.best_score_ * 2 * len(y) == pytest.approx(round(model.best_score_ * 2 * len(y)))


def test_a_single_split_whose_network_is_kept(data):
    X, y = data
    parameters = {"cv": 0.4, "refit": False, "random_state": 3, "min_speedup": 0.3}
    parameters["scoring"] = "accuracy"
    model = TunedExitPolicyClassifierCV(NumericExits(), **parameters).fit(X, y)
    splitter = StratifiedShuffleSplit(1, test_size=0.4, random_state=3)
    train, test = next(splitter.split(X, y))
    assert len(test) == round(0.4 * len(y))
    expected = NumericExits().fit(X[train], y[train])
    assert_array_equal(model.estimator_.centroids_, expected.centroids_)
    assert model.score(X[test], y[test]) == model.best_score_
    refitted = TunedExitPolicyClassifierCV(NumericExits(), **parameters | {"refit": True})
    refitted.fit(X, y)
    assert refitted.best_score_ == model.best_score_
    assert_array_equal(refitted.estimator_.centroids_, NumericExits().fit(X, y).centroids_)


def test_the_choice_is_among_the_offered_policies(data, fitted):
    X, y = data
    for patience in (2, 5):
        model = tuned(fitted, policies={"patience": [patience], "tau": 20}, store_cv_results=True)
        assert model.fit(X, y).best_patience_ == patience
        assert len(model.cv_results_["tau"]) <= 20
    model = tuned(fitted, policies=7, store_cv_results=True).fit(X, y)
    assert len(model.cv_results_["tau"]) == 7 * N_LAYERS


def test_a_callable_objective_sees_all_policies(data, fitted):
    seen = []

    def second(policies):
        seen.append({name: column.copy() for name, column in policies.items()})
        return 1

    model = tuned(fitted, objective=second, store_cv_results=True).fit(*data)
    for name, column in model.cv_results_.items():
        assert_array_equal(seen[0][name], column)
    assert model.best_tau_ == seen[0]["tau"][1]
    with pytest.raises(ValueError, match="objective must return the row of one of the"):
        tuned(fitted, objective=lambda policies: len(policies["tau"])).fit(*data)


@pytest.mark.parametrize(
    "scoring",
    [
        "f1_weighted",
        make_scorer(f1_score, labels=["ant"], average="micro"),
        positive_f1_scorer("bee"),
    ],
)
def test_scores_from_counts_compare_all_policies(scoring, data, fitted):
    X, y = data
    model = tuned(fitted, scoring=scoring, max_accuracy_drop=0.05, store_cv_results=True).fit(X, y)
    assert model.best_score_ == pytest.approx(get_scorer(scoring)(model, X, y))
    assert np.bincount(model.cv_results_["patience"]).max() > 100
    exact = model.cv_results_["score"] >= model.full_depth_score_ - 0.05 - 1e-9
    assert model.best_speedup_ == model.cv_results_["speedup"][exact].max()


def test_a_negative_class_that_is_not_there(data, fitted):
    with pytest.raises(ValueError, match="negative_class='Bee' is neither in y_true nor in y_pred"):
        tuned(fitted, scoring=positive_f1_scorer("Bee")).fit(*data)


@pytest.mark.parametrize("scoring", ["neg_log_loss", get_scorer("matthews_corrcoef")])
def test_any_scorer_is_maximized_over_quantiles_of_tau(scoring, data, fitted):
    X, y = data
    model = tuned(fitted, scoring=scoring, min_speedup=0.4, store_cv_results=True).fit(X, y)
    assert model.best_score_ == pytest.approx(get_scorer(scoring)(model, X, y))
    assert np.bincount(model.cv_results_["patience"]).max() == 100
    table = model.cv_results_
    assert model.best_score_ == table["score"][table["speedup"] >= 0.4].max()


# --------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("cv", [2, 4])
def test_one_fit_and_one_pass_a_split(cv, data):
    NumericExits.n_fits = NumericExits.n_passes = 0
    TunedExitPolicyClassifierCV(NumericExits(), cv=cv, min_speedup=0.5).fit(*data)
    assert (NumericExits.n_fits, NumericExits.n_passes) == (cv + 1, cv)


@pytest.mark.parametrize("refit", [False, True])
def test_one_fit_if_the_network_is_kept(refit, data):
    NumericExits.n_fits = NumericExits.n_passes = 0
    TunedExitPolicyClassifierCV(NumericExits(), cv=0.5, refit=refit).fit(*data)
    assert (NumericExits.n_fits, NumericExits.n_passes) == (1 + refit, 1)


def test_fitted_estimators_are_not_trained(data, fitted):
    NumericExits.n_fits = NumericExits.n_passes = 0
    frozen = tuned(fitted).fit(*data)
    prefit = TunedExitPolicyClassifierCV(fitted, cv="prefit", refit=False).fit(*data)
    assert (NumericExits.n_fits, NumericExits.n_passes) == (0, 2)
    assert prefit.best_tau_ == frozen.best_tau_
    assert fitted.tau == 0.0
    assert prefit.estimator_ is not fitted
    assert prefit.estimator_.centroids_ is fitted.centroids_


def test_wishes_that_cannot_be_met_are_refused_before_the_last_fit(data):
    NumericExits.n_fits = 0
    with pytest.raises(ValueError, match=r"min_speedup=0\.99 cannot be reached: with 5 layers"):
        TunedExitPolicyClassifierCV(NumericExits(), cv=2, min_speedup=0.99).fit(*data)
    assert NumericExits.n_fits == 2


def test_folds_in_parallel(data):
    one = TunedExitPolicyClassifierCV(NumericExits(), cv=3, n_jobs=1).fit(*data)
    two = TunedExitPolicyClassifierCV(NumericExits(), cv=3, n_jobs=2).fit(*data)
    for name in one.pareto_front_:
        assert_array_equal(one.pareto_front_[name], two.pareto_front_[name])


# --------------------------------------------------------------------------- wrappers


WRAPPED = {
    "pipeline": lambda: make_pipeline(StandardScaler(), NumericExits(tau=0.0)),
    "search": lambda: GridSearchCV(NumericExits(), {"n_layers": [4, 5]}, cv=2),
    "pipeline in pipeline": lambda: make_pipeline(
        StandardScaler(), make_pipeline(StandardScaler(), NumericExits(tau=0.0))
    ),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_estimators_are_tuned_and_left_unchanged(name, frozen, data):
    X, y = data
    estimator = WRAPPED[name]()
    if frozen:
        estimator = FrozenEstimator(estimator.fit(X, y))
    before = pickle.dumps(estimator)
    model = TunedExitPolicyClassifierCV(estimator, scoring="accuracy", min_speedup=0.5, cv=3)
    model.fit(X, y)
    assert pickle.dumps(estimator) == before
    result = model.predict_with_exits(X)
    assert_array_equal(model.predict(X), result.labels)
    assert speedup_score(model, X) == speedup_ratio(result.exit_layer, model.n_layers_)
    if frozen:
        assert model.score(X, y) == model.best_score_
        assert speedup_score(model, X) == model.best_speedup_


def test_inside_searches_and_cross_validation(data):
    X, y = data
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=2)
    grid = {"min_speedup": [0.2, 0.6], "estimator__n_layers": [4, 5]}
    search = GridSearchCV(model, grid, scoring=exit_scores, refit="accuracy", cv=2).fit(X, y)
    assert search.best_estimator_.best_speedup_ >= search.best_params_["min_speedup"]
    scores = cross_validate(model, X, y, scoring=exit_scores, cv=2)
    assert np.isfinite(scores["test_speedup"]).all()


def test_copies_and_pickles_predict_the_same(data):
    X, y = data
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=2, min_speedup=0.5, scoring="f1_macro")
    assert clone(model).get_params()["min_speedup"] == 0.5
    loaded = pickle.loads(pickle.dumps(model.fit(X, y)))
    assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.best_tau_ == model.best_tau_


def test_predictions_need_a_fit(data, fitted):
    X, y = data
    with pytest.raises(NotFittedError):
        TunedExitPolicyClassifierCV(fitted).predict(X)
    for unfitted in (
        TunedExitPolicyClassifierCV(NumericExits(), cv="prefit", refit=False),
        tuned(NumericExits()),
        tuned(GridSearchCV(NumericExits(), {})),
        tuned(make_pipeline(StandardScaler(), NumericExits())),
    ):
        with pytest.raises(NotFittedError):
            unfitted.fit(X, y)


# --------------------------------------------------------------------------- metadata


def test_weights_count_in_training_score_and_speedup(data):
    X, y = data
    weight = np.random.default_rng(0).uniform(0.1, 2, size=len(y))
    cv = [(np.arange(150), np.arange(150, 300))]
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=cv, refit=False, min_speedup=0.5)
    model.fit(X, y, sample_weight=weight)
    expected = NumericExits().fit(X[:150], y[:150], sample_weight=weight[:150])
    assert_allclose(model.estimator_.centroids_, expected.centroids_)
    scores = exit_scores(model, X[150:], y[150:], sample_weight=weight[150:])
    assert model.best_score_ == pytest.approx(scores["macro_f1"])  # the default
    assert model.best_speedup_ == pytest.approx(scores["speedup"])
    other = clone(model).set_params(scoring="f1_weighted").fit(X, y, sample_weight=weight)
    f1 = f1_score(y[150:], other.predict(X[150:]), average="weighted", sample_weight=weight[150:])
    assert other.best_score_ == pytest.approx(f1)


def test_groups_reach_the_splitter(data):
    X, y = data
    groups = np.arange(len(y)) % 7
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=GroupKFold(3))
    splits = list(GroupKFold(3).split(X, y, groups))
    expected = TunedExitPolicyClassifierCV(NumericExits(), cv=splits).fit(X, y)
    model.fit(X, y, groups=groups)
    assert_array_equal(model.pareto_front_["score"], expected.pareto_front_["score"])
    with pytest.raises(ValueError, match="groups"):
        model.fit(X, y)


def test_metadata_goes_where_it_is_requested(data):
    X, y = data
    weight = np.random.default_rng(0).uniform(0.1, 2, size=len(y))
    groups = np.arange(len(y)) % 7
    plain = TunedExitPolicyClassifierCV(NumericExits(), cv=GroupKFold(3))
    plain.fit(X, y, groups=groups, sample_weight=weight)
    with config_context(enable_metadata_routing=True):
        inner = NumericExits().set_fit_request(sample_weight=True)
        routed = TunedExitPolicyClassifierCV(inner, cv=GroupKFold(3))
        routed.fit(X, y, groups=groups, sample_weight=weight)
        unweighted = TunedExitPolicyClassifierCV(inner, cv=GroupKFold(3))
        unweighted.fit(X, y, groups=groups)
    assert_array_equal(routed.pareto_front_["score"], plain.pareto_front_["score"])
    assert_array_equal(routed.estimator_.centroids_, plain.estimator_.centroids_)
    assert unweighted.best_score_ != routed.best_score_


# --------------------------------------------------------------------------- guarantees

GUARANTEED = {"max_accuracy_drop": 0.1, "confidence": 0.9, "random_state": 0}


def test_a_certified_policy(data, fitted):
    X, y = blobs(2000)
    model = tuned(fitted, **GUARANTEED).fit(X, y)
    assert model.certified_ is True
    assert model.risk_bound_ == 0.1
    assert model.n_calibration_ == 1400
    assert model.risk_ <= 0.1
    assert model.risk_ == pytest.approx(model.full_depth_score_ - model.best_score_)
    table = model.candidates_
    assert list(table) == ["tau", "patience", "speedup", "risk", "p_value", "certified"]
    assert_array_equal(model.p_values_, table["p_value"])
    assert (model.p_values_[table["certified"]] <= 0.1).all()
    assert model.best_speedup_ == table["speedup"][table["certified"]].max() > 0.3
    assert not hasattr(model, "risk_by_group_")
    assert model.predict_exit_layer(X).mean() / N_LAYERS == pytest.approx(
        1 - model.best_speedup_, abs=0.02
    )
    again = tuned(fitted, **GUARANTEED).fit(X, y)
    assert again.best_tau_ == model.best_tau_


def test_a_guarantee_for_a_network_that_is_kept():
    X, y = blobs(3000)
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=0.5, refit=False, **GUARANTEED)
    assert model.fit(X, y).certified_
    assert model.n_calibration_ == 1050


@pytest.mark.parametrize("parameters", [{"cv": 3}, {"cv": 0.5}, {}, {"cv": GroupKFold(2)}])
def test_no_guarantee_for_a_network_that_was_not_tested(parameters, data):
    NumericExits.n_fits = 0
    model = TunedExitPolicyClassifierCV(NumericExits(), **GUARANTEED, **parameters)
    with pytest.raises(ValueError, match="a guarantee for the network whose exits were tested"):
        model.fit(*data, groups=np.arange(300) % 5)
    assert NumericExits.n_fits == 0


RISKS = {
    "disagreement": {"risk": "disagreement", "max_risk": 0.2},
    "error": {"risk": "error", "max_risk": 0.35},
    "miss": {"risk": ("miss", "bee"), "max_risk": 0.5},
    "callable": {"risk": lambda _, answer, full: 0.5 * (answer != full), "max_risk": 0.1},
}


@pytest.mark.parametrize("name", RISKS)
def test_other_risks_are_bounded(name, fitted):
    X, y = blobs(3000)
    model = tuned(fitted, confidence=0.95, random_state=0, **RISKS[name])
    model.fit(X, y)
    assert model.certified_
    assert model.risk_ < model.risk_bound_ == RISKS[name]["max_risk"]
    labels, full = model.predict(X), list(model.staged_predict(X))[-1]
    expected = {
        "disagreement": np.mean(labels != full),
        "error": np.mean(labels != y),
        "miss": np.mean(labels[y == "bee"] != "bee"),
        "callable": 0.5 * np.mean(labels != full),
    }
    assert model.risk_ == pytest.approx(expected[name], abs=0.03)


def test_a_guarantee_for_each_class_or_group(fitted):
    X, y = blobs(4000)
    by_class = tuned(fitted, per_class=True, **GUARANTEED).fit(X, y)
    assert list(by_class.risk_by_group_) == ["ant", "bee", "cow"]
    assert by_class.risk_ == max(by_class.risk_by_group_.values()) <= 0.1
    site = np.where(X[:, 0] > 1, "north", "south")
    by_site = tuned(fitted, **GUARANTEED).fit(X, y, risk_groups=site)
    assert list(by_site.risk_by_group_) == ["north", "south"]
    assert by_site.certified_


def test_objectives_among_certified_policies(fitted):
    X, y = blobs(2000)
    fast = tuned(fitted, **GUARANTEED).fit(X, y)
    good = tuned(fitted, objective="max_score", **GUARANTEED).fit(X, y)
    assert good.best_score_ >= fast.best_score_
    assert good.best_speedup_ < fast.best_speedup_
    first = tuned(fitted, objective=lambda _: 0, **GUARANTEED).fit(X, y)
    assert first.best_speedup_ <= good.best_speedup_
    assert first.certified_
    assert tuned(fitted, min_speedup=0.2, **GUARANTEED).fit(X, y).best_tau_ == fast.best_tau_


def test_nothing_to_certify_falls_back_to_full_depth(data, fitted):
    X, y = data
    strict = GUARANTEED | {"max_accuracy_drop": 0.001}
    model = tuned(fitted, **strict)
    with pytest.warns(
        UserWarning,
        match=r"No policy could be certified to keep the accuracy drop against full depth at or "
        r"below 0.001 with confidence 0.9; continuing at full depth, where the accuracy drop "
        r"against full depth is 0 by definition\. The first of \d+ candidates has .* 210 samples "
        r"were tested, but at least 2302 without any loss are needed",
    ):
        model.fit(X, y)
    assert model.certified_ is False
    assert (model.best_tau_, model.best_patience_, model.best_speedup_) == (0.0, N_LAYERS, 0.0)
    assert model.risk_ == 0
    assert model.best_score_ == model.full_depth_score_
    assert (model.predict_exit_layer(X) == N_LAYERS).all()
    with pytest.warns(UserWarning, match=r"in the smallest group, '(ant|bee|cow)', but"):
        tuned(fitted, per_class=True, **strict).fit(X, y)
    with pytest.raises(ValueError, match=r"min_speedup=0.3 cannot be promised\. No policy could"):
        tuned(fitted, min_speedup=0.3, **strict).fit(X, y)


def test_full_depth_may_be_too_risky_itself(data, fitted):
    X, y = data
    model = tuned(fitted, risk="error", max_risk=0.05, confidence=0.95, random_state=0)
    with pytest.warns(UserWarning, match="continuing at full depth, which is not certified either"):
        model.fit(X, y)
    assert model.certified_ is False
    assert model.risk_ > 0.05


def test_nothing_of_an_earlier_guarantee_stays(fitted):
    X, y = blobs(2000)
    model = tuned(fitted, store_cv_results=True, **GUARANTEED).fit(X, y)
    model.set_params(confidence=None, store_cv_results=False).fit(X, y)
    for name in ("certified_", "risk_", "p_values_", "candidates_", "cv_results_"):
        assert not hasattr(model, name)


def test_a_refusal_leaves_everything_as_it_was(data, fitted):
    model = tuned(fitted).fit(*data)
    before = model.best_tau_, model.estimator_, model.pareto_front_
    with pytest.raises(ValueError, match="cannot be reached"):
        model.set_params(min_speedup=0.9).fit(*data)
    assert before == (model.best_tau_, model.estimator_, model.pareto_front_)


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_speedup": 1.0}, "The 'min_speedup' parameter"),
        ({"min_speedup": -0.1}, "The 'min_speedup' parameter"),
        ({"max_accuracy_drop": 1.0}, "The 'max_accuracy_drop' parameter"),
        ({"confidence": 1.0}, "The 'confidence' parameter"),
        ({"confidence": 95}, "The 'confidence' parameter"),
        ({"objective": "fastest"}, "The 'objective' parameter"),
        ({"scoring": "acuracy"}, "The 'scoring' parameter"),
        ({"scoring": None}, "The 'scoring' parameter"),
        ({"scoring": f1_score}, r"looks like a metric, .* such as make_scorer\(f1_score\)"),
        ({"scoring": exit_scores}, "scoring=exit_scores is for searches"),
        ({"scoring": partial(exit_scores, negative_class="bee")}, "scoring=exit_scores is for"),
        ({"policies": "some"}, "The 'policies' parameter"),
        ({"policies": 0}, "The 'policies' parameter"),
        ({"policies": {"tau": "x"}}, r"policies\['tau'\] must be 'all'"),
        ({"risk": "regret"}, "risk must be 'accuracy_drop'"),
        ({"confidence": 0.9}, "needs a bound above 0 in max_accuracy_drop; got None"),
        ({"confidence": 0.9, "max_accuracy_drop": 0.0}, "needs a bound above 0"),
        (
            {"confidence": 0.9, "risk": "error", "max_accuracy_drop": 0.1},
            "needs a bound above 0 in max_risk; got None",
        ),
        (
            {"confidence": 0.9, "risk": "error", "max_risk": 0.1, "max_accuracy_drop": 0.1},
            "max_accuracy_drop must be None, got 0.1",
        ),
        (
            {"confidence": 0.9, "max_risk": 0.1, "max_accuracy_drop": 0.1},
            "max_risk must be None, got 0.1",
        ),
        ({"risk": "error"}, "risk is about a guarantee, which needs a confidence"),
        ({"max_risk": 0.1}, "max_risk is about a guarantee"),
        ({"per_class": True}, "per_class is about a guarantee"),
        ({"min_speedup": 0.81}, r"lies between 0 and 1 - 1/5 = 0.8000\."),
    ],
)
def test_parameters_that_make_no_sense(parameters, message, data, fitted):
    with pytest.raises(ValueError, match=message):
        tuned(fitted, **parameters).fit(*data)


def test_risk_groups_that_make_no_sense(data, fitted):
    X, y = data
    with pytest.raises(ValueError, match="risk_groups is about a guarantee"):
        tuned(fitted).fit(X, y, risk_groups=y)
    with pytest.raises(ValueError, match="per_class=True and risk_groups exclude each other"):
        tuned(fitted, per_class=True, **GUARANTEED).fit(X, y, risk_groups=y)
    with pytest.raises(ValueError, match="risk_groups must hold one label for each of the 300"):
        tuned(fitted, **GUARANTEED).fit(X, y, risk_groups=y[:-1])
    with pytest.raises(TypeError, match="risk_groups must hold labels of one type"):
        tuned(fitted, **GUARANTEED).fit(X, y, risk_groups=[1, "north"] * 150)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("container", [list, pd.Series, lambda labels: np.array(labels, object)])
def test_risk_groups_that_are_missing(missing, container, data, fitted):
    X, y = data
    site = container(["north", missing, *["south"] * 298])
    with pytest.raises(ValueError, match=r"risk_groups must hold a label .* first at row 1"):
        tuned(fitted, **GUARANTEED).fit(X, y, risk_groups=site)


def test_a_class_or_group_without_calibration_samples_cannot_be_certified(fitted):
    X, y = blobs(4000)
    model = tuned(fitted, per_class=True, **GUARANTEED)
    assert model.fit(X, y).certified_
    some = y != "cow"
    unseen = r"No sample was tested of the groups or classes \['cow'\], but at least 22 without"
    with pytest.warns(UserWarning, match=unseen):
        model.fit(X[some], y[some])
    assert model.certified_ is False
    assert (model.predict_exit_layer(X) == N_LAYERS).all()
    assert np.isnan(model.risk_by_group_["cow"])
    assert model.risk_ == max(model.risk_by_group_[name] for name in ("ant", "bee")) == 0
    with pytest.raises(ValueError, match=r"min_speedup=0.1 cannot be promised.*\['cow'\]"):
        model.set_params(min_speedup=0.1).fit(X[some], y[some])


def test_a_group_that_is_in_the_training_part_alone_cannot_be_certified():
    X, y = blobs(2000)
    train, test = np.arange(1000), np.arange(1000, 2000)
    site = np.where(np.arange(2000) < 5, "north", "south")
    model = TunedExitPolicyClassifierCV(
        NumericExits(), cv=[(train, test)], refit=False, **GUARANTEED
    )
    with pytest.warns(UserWarning, match=r"No sample was tested of .* \['north'\]"):
        model.fit(X, y, risk_groups=site)
    assert model.certified_ is False


@pytest.mark.parametrize("share", [0.001, 0.002])
def test_the_promise_to_each_class_is_kept_for_rare_classes(share):
    knows_four = NumericExits(tau=0.0).fit(*blobs(400, n_classes=4, seed=7))
    n_certified = 0
    for seed in range(30):
        X, y = blobs(600, n_classes=4, seed=seed)
        rare = np.random.default_rng(seed).random(600) < share
        X, y = X[(y != "dog") | rare], y[(y != "dog") | rare]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = tuned(knows_four, per_class=True, **GUARANTEED).fit(X, y)
        n_certified += model.certified_
    assert n_certified == 0  # nothing is known of a class of one or two samples, or of none


def test_arguments_of_fit_that_nothing_would_use(data, fitted):
    X, y = data
    frozen = FrozenEstimator(fitted)
    weights = np.ones(len(y))
    for model in (
        TunedExitPolicyClassifierCV(frozen),
        TunedExitPolicyClassifierCV(fitted, cv="prefit", refit=False),
        FixedExitPolicyClassifier(frozen),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument 'sample_weights'"):
            model.fit(X, y, sample_weights=weights)
        assert not hasattr(model, "estimator_")
        model.fit(X, y, sample_weight=weights)
    assert TunedExitPolicyClassifierCV(frozen).fit(X, y, groups=y).best_tau_ >= 0
    with pytest.raises(TypeError, match="sample_weights"):
        TunedExitPolicyClassifierCV(NumericExits(), cv=2).fit(X, y, sample_weights=weights)


def test_splits_that_make_no_sense(data, fitted):
    X, y = data
    with pytest.raises(ValueError, match="cv='prefit' trains nothing: refit must be False"):
        TunedExitPolicyClassifierCV(fitted, cv="prefit").fit(X, y)
    with pytest.raises(ValueError, match="refit=False keeps the network of a single split"):
        TunedExitPolicyClassifierCV(NumericExits(), cv=3, refit=False).fit(X, y)
    NumericExits.n_fits = 0
    rows = np.arange(len(y))
    with pytest.raises(ValueError, match="Split 0 of cv has no samples"):
        TunedExitPolicyClassifierCV(NumericExits(), cv=[(rows, rows[:0])]).fit(X, y)
    with pytest.raises(ValueError, match="cv must make at least one split"):
        TunedExitPolicyClassifierCV(NumericExits(), cv=[]).fit(X, y)
    assert NumericExits.n_fits == 0


# --------------------------------------------------------------- classes that a split lacks


@pytest.mark.filterwarnings("ignore:The least populated class in y")
@pytest.mark.parametrize("ensemble", [None, "mean"])
def test_a_class_with_one_sample_does_not_stop_the_search(ensemble, data):
    X, y = np.vstack([data[0], [[9.0, 9.0]]]), np.append(data[1], "dog")
    model = TunedExitPolicyClassifierCV(NumericExits(exit_ensemble=ensemble), scoring="accuracy")
    lacks = r"training part of split \d has no sample of the classes \['dog'\], so its network"
    with pytest.warns(UserWarning, match=lacks):
        model.fit(X, y)
    assert model.classes_.tolist() == ["ant", "bee", "cow", "dog"]
    assert model.predict_proba(X).shape == (301, 4)
    # The lone sample is an error of its split, whose exits are those of a network of 3 classes.
    expected = []
    for train, test in StratifiedKFold(5).split(X, y):
        network = NumericExits(exit_ensemble=ensemble).fit(X[train], y[train])
        staged = np.stack(list(network.staged_predict_proba(X[test])), axis=1)
        policy = apply_policy(staged, model.best_tau_, model.best_patience_, ensemble)
        expected.append(network.classes_[policy.prediction] == y[test])
    assert model.best_score_ == pytest.approx(np.concatenate(expected).mean())


@pytest.mark.parametrize("scoring", ["balanced_accuracy", "f1_macro", "neg_log_loss"])
def test_scores_where_a_split_lacks_a_class(scoring, data):
    X, y = data
    rows = np.arange(len(y))
    lacking = [(rows[y != "bee"], rows[::2]), (rows[::2], rows[1::2])]
    model = TunedExitPolicyClassifierCV(NumericExits(), cv=lacking, scoring=scoring)
    with pytest.warns(UserWarning, match=r"split 0 has no sample of the classes \['bee'\]"):
        model.fit(X, y)
    assert np.isfinite(model.best_score_)


def test_a_class_that_the_kept_network_lacks_is_not_certified(fitted):
    X, y = blobs(2000)
    rows = np.arange(len(y))
    model = TunedExitPolicyClassifierCV(
        NumericExits(),
        cv=[(rows[(y != "bee") & (rows < 500)], rows[500:])],
        refit=False,
        per_class=True,
        risk="error",
        max_risk=0.9,
        confidence=0.9,
        random_state=0,
    )
    with pytest.warns(UserWarning, match="No policy could be certified to keep the error rate"):
        model.fit(X, y)
    assert list(model.risk_by_group_) == ["ant", "bee", "cow"]
    assert model.risk_ == model.risk_by_group_["bee"] == 1


def test_labels_that_the_fitted_estimator_does_not_know(data, fitted, monkeypatch):
    X, y = data
    with monkeypatch.context() as patched:  # they are refused before minutes of prediction
        patched.setattr(type(fitted), "staged_predict_proba", None)
        with pytest.raises(ValueError, match=r"labels \['eel'\], which the fitted estimator does"):
            tuned(fitted).fit(X, np.where(y == "ant", "eel", y))
    only = y != "ant"  # a class may be absent
    assert tuned(fitted, scoring="balanced_accuracy").fit(X[only], y[only]).best_score_ > 0


@pytest.mark.parametrize(
    ("y", "message"),
    [(None, "requires y to be passed"), (["ant"] * 299, "inconsistent numbers of samples")],
)
def test_targets_that_make_no_sense(y, message, data, fitted):
    with pytest.raises(ValueError, match=message):
        tuned(fitted).fit(data[0], y)
