"""Exits calibrated on held-out samples: what is found, and what it changes."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_epee import (
    ExitCalibratedClassifier,
    FixedExitPolicyClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
    refit_accuracy_at_speedup,
    speedup_ratio,
    speedup_score,
)
from sklearn_epee._exits.reliability import Reliability
from sklearn_epee._exits.wrappers import exit_classifier
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.model_selection._calibration import _HeldOut
from sklearn_epee.model_selection._exit_maps import ExitMaps, fit_scales, fit_temperature
from sklearn_epee.plotting import ExitReliabilityDisplay
from sklearn_epee.policy import apply_policy, normalized_entropy
from tests.classifiers import tiny_text_classifier

from .staged import N_LAYERS, MappedExits, NumericExits, blobs

METHODS = ("temperature", "vector")

# Networks that have hardly been trained are blind at some exits.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def staged_of(classifier, X):
    return np.stack(list(classifier.staged_predict_proba(X)), axis=1)


def upper(texts):
    return [text.upper() for text in texts]


def drawn(logits, seed=0):
    """Columns drawn from the probabilities that logits stand for."""
    gumbel = np.random.default_rng(seed).gumbel(size=logits.shape)
    return (logits + gumbel).argmax(axis=1)


@pytest.fixture(scope="module")
def data():
    return blobs()


@pytest.fixture(scope="module")
def other_notes():
    return make_supplement_notes(120, random_state=1)


@pytest.fixture
def frozen(text_classifier):
    return FrozenEstimator(text_classifier)


# --------------------------------------------------------------------------------- the fits


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature):
    logits = np.random.default_rng(1).normal(scale=2, size=(40_000, 4))
    told = log_softmax(logits * temperature, axis=1)
    found = fit_temperature(told, drawn(logits), np.ones(len(told)))
    assert found == pytest.approx(temperature, rel=0.03)


def test_known_scales_and_shifts_are_recovered():
    rng = np.random.default_rng(2)
    logits = rng.normal(scale=2, size=(40_000, 3))
    centred = logits - logits.mean(axis=1, keepdims=True)
    scales, shifts = np.array([0.5, 1.0, 1.5]), np.array([-0.6, 0.1, 0.5])
    codes = drawn(scales * centred + shifts)
    # A constant of the sample is lost in probabilities, and must not matter.
    told = log_softmax(logits + rng.normal(size=(len(logits), 1)), axis=1)
    found = fit_scales(told, codes, np.ones(len(codes)), start=1.0)
    assert_allclose(found, (scales, shifts), atol=0.06)


def test_weights_count_as_repetitions():
    rng = np.random.default_rng(3)
    log_proba = log_softmax(rng.normal(scale=2, size=(300, 3)), axis=1)
    codes = np.where(rng.random(300) < 0.6, log_proba.argmax(1), rng.integers(3, size=300))
    weights = rng.integers(1, 4, size=300)
    repeated = (np.repeat(log_proba, weights, axis=0), np.repeat(codes, weights))
    ones = np.ones(weights.sum())
    once = (log_proba, codes, weights.astype(float))
    assert fit_temperature(*once) == pytest.approx(fit_temperature(*repeated, ones), rel=1e-4)
    assert_allclose(fit_scales(*once, 1.0), fit_scales(*repeated, ones, 1.0), atol=1e-3)


def test_flat_probabilities_keep_their_temperature():
    log_proba = np.full((50, 2), np.log(0.5))
    assert fit_temperature(log_proba, np.arange(50) % 2, np.ones(50)) == 1.0


def test_the_calibration_error_is_that_of_the_display():
    rng = np.random.default_rng(0)
    confidence = rng.choice([0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0], size=(100, 2))
    proba = np.stack([confidence, 1 - confidence], axis=2)
    codes = rng.integers(2, size=100)
    held_out = _HeldOut(np.log(np.maximum(proba, 1e-30)), codes, np.ones(100))
    error = held_out.ece(ExitMaps.unchanged(2, 2))
    assert_allclose(error, ExitReliabilityDisplay.from_predictions(codes, proba).ece, atol=1e-12)


# --------------------------------------------------------------------------- what they change


def test_temperatures_divide_the_logits_of_every_exit(frozen, other_notes):
    X, y = other_notes
    calibrated = ExitCalibratedClassifier(frozen).fit(X, y)
    before, after = staged_of(frozen, X), staged_of(calibrated, X)
    temperatures = calibrated.temperatures_[:, np.newaxis]
    assert not np.allclose(temperatures, 1, atol=0.05)
    assert_allclose(after, softmax(np.log(before) / temperatures, axis=2), atol=1e-5)
    assert_array_equal(after.argmax(axis=2), before.argmax(axis=2))
    assert calibrated.n_parameters_ == calibrated.n_layers_ == 3
    assert not hasattr(calibrated, "scales_")


def test_scales_and_shifts_change_centred_logits(frozen, other_notes):
    X, y = other_notes
    calibrated = ExitCalibratedClassifier(frozen, method="vector").fit(X, y)
    logits = np.log(staged_of(frozen, X))
    logits -= logits.mean(axis=2, keepdims=True)
    expected = softmax(calibrated.scales_ * logits + calibrated.shifts_, axis=2)
    assert_allclose(staged_of(calibrated, X), expected, atol=1e-5)
    n_classes = len(calibrated.classes_)
    assert calibrated.n_parameters_ == 2 * 3 * n_classes
    assert calibrated.scales_.shape == calibrated.shifts_.shape == (3, n_classes)
    assert_allclose(calibrated.shifts_.mean(axis=1), 0, atol=1e-12)
    assert not hasattr(calibrated, "temperatures_")


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_the_exits_and_no_worse(method, frozen, other_notes):
    X, y = other_notes
    calibrated = ExitCalibratedClassifier(frozen, method=method).fit(X, y)
    codes = np.searchsorted(calibrated.classes_, y)
    for classifier, nll, ece in (
        (frozen, calibrated.nll_before_, calibrated.ece_before_),
        (calibrated, calibrated.nll_after_, calibrated.ece_after_),
    ):
        staged = staged_of(classifier, X)
        expected = -np.log(staged[np.arange(len(y)), :, codes]).mean(axis=0)
        assert_allclose(nll, expected, atol=1e-5)
        # Confidences at the edge of a bin.
        assert_allclose(ece, Reliability.of(staged, codes).error, atol=0.02)
    assert (calibrated.nll_after_ <= calibrated.nll_before_).all()
    assert calibrated.nll_after_.sum() < calibrated.nll_before_.sum()


@pytest.mark.parametrize("method", METHODS)
def test_one_engine_and_one_rule(method, text_classifier, other_notes):
    X, y = other_notes
    text_classifier.set_params(tau=0.9, patience=3)
    calibrated = ExitCalibratedClassifier(FrozenEstimator(text_classifier), method=method)
    result = calibrated.fit(X, y).predict_with_exits(X)
    expected = apply_policy(staged_of(calibrated, X), 0.9, 3)
    assert_array_equal(result.exit_layer, expected.exit_layer)
    assert_allclose(result.proba, expected.proba, atol=1e-5)
    assert_allclose(result.entropy, expected.entropy, atol=1e-5)
    assert_array_equal(result.labels, calibrated.classes_[expected.prediction])
    assert_array_equal(calibrated.predict(X), result.labels)
    last = calibrated.estimator_.predict_proba_at_layer(X, -1)
    assert_allclose(last, staged_of(calibrated, X)[:, -1], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_given_classifier_stays_as_it_was(method, text_classifier, other_notes):
    X, y = other_notes
    before = staged_of(text_classifier, X)
    calibrated = ExitCalibratedClassifier(text_classifier, method=method, cv="prefit").fit(X, y)
    assert not np.allclose(staged_of(calibrated, X), before, atol=1e-3)
    assert_array_equal(staged_of(text_classifier, X), before)
    theirs = {weight.data_ptr() for weight in text_classifier.net_.module_.parameters()}
    ours = {weight.data_ptr() for weight in calibrated.estimator_.net_.module_.parameters()}
    assert not theirs & ours


def test_an_ensemble_of_exits_is_calibrated_exit_by_exit(text_classifier, other_notes):
    X, y = other_notes
    plain = ExitCalibratedClassifier(FrozenEstimator(text_classifier)).fit(X, y)
    text_classifier.set_params(exit_ensemble="mean")
    ensemble = ExitCalibratedClassifier(FrozenEstimator(text_classifier)).fit(X, y)
    assert_array_equal(ensemble.temperatures_, plain.temperatures_)


def test_exits_of_images_are_divided_by_their_temperatures(image_classifier, digits):
    X, y = digits
    calibrated = ExitCalibratedClassifier(FrozenEstimator(image_classifier)).fit(X, y)
    before = np.log(staged_of(image_classifier, X))
    expected = softmax(before / calibrated.temperatures_[:, np.newaxis], axis=2)
    assert_allclose(staged_of(calibrated, X), expected, atol=1e-5)


# ------------------------------------------------------------------------------- composition


@pytest.mark.parametrize("method", METHODS)
def test_copies_and_pickles_predict_the_same(method, frozen, other_notes):
    X, y = other_notes
    calibrated = ExitCalibratedClassifier(frozen, method=method).fit(X, y)
    for twin in (pickle.loads(pickle.dumps(calibrated)), copy.deepcopy(calibrated)):
        assert_array_equal(twin.predict_proba(X), calibrated.predict_proba(X))
    again = clone(calibrated)
    assert again.get_params()["method"] == method
    with pytest.raises(NotFittedError):
        again.predict(X)


def test_cross_validation_over_a_pipeline(notes):
    X, y = notes
    pipeline = make_pipeline(FunctionTransformer(upper), tiny_text_classifier(max_epochs=1))
    calibrated = ExitCalibratedClassifier(pipeline, cv=2).fit(X, y)
    trained = clone(pipeline).fit(X, y)
    expected = softmax(
        np.log(staged_of(trained[-1], upper(X))) / calibrated.temperatures_[:, np.newaxis], axis=2
    )
    assert_allclose(staged_of(calibrated, X), expected, atol=1e-5)
    assert not hasattr(pipeline[-1], "classes_")


@pytest.mark.parametrize("cv", [None, 3, 0.3, [(np.arange(200), np.arange(200, 300))]])
def test_ways_to_hold_out(cv, data):
    before = MappedExits.n_fits
    calibrated = ExitCalibratedClassifier(MappedExits(), cv=cv, random_state=0).fit(*data)
    assert MappedExits.n_fits - before == {None: 6, 3: 4}.get(cv if cv is None or cv == 3 else 0, 2)
    assert calibrated.temperatures_.shape == (N_LAYERS,)


def test_a_search_is_calibrated_as_its_best_estimator(data):
    X, y = data
    search = GridSearchCV(MappedExits(), {"tau": [0.1, 0.4]}, cv=2)
    calibrated = ExitCalibratedClassifier(search, cv=0.3, random_state=0).fit(X, y)
    inner = calibrated.estimator_.best_estimator_
    assert_array_equal(staged_of(calibrated, X), staged_of(inner, X))
    assert hasattr(inner, "maps_")


def best_with_speedup(classifier, X, y, min_speedup):
    """Best accuracy of all policies that are fast enough on these samples, one by one."""
    staged, n_layers = staged_of(classifier, X), classifier.n_layers_
    found = []
    for tau in [0.0, *np.nextafter(np.unique(normalized_entropy(staged)), 2)]:
        for patience in range(1, n_layers + 1):
            result = apply_policy(staged, tau, patience, "mean")
            if speedup_ratio(result.exit_layer, n_layers) >= min_speedup:
                found.append(np.mean(classifier.classes_[result.prediction] == y))
    return max(found)


@pytest.mark.parametrize("frozen", [False, True])
def test_tuning_over_a_calibrated_classifier(frozen, data):
    calibrated = ExitCalibratedClassifier(MappedExits(exit_ensemble="mean"), cv=2)
    if frozen:
        calibrated = FrozenEstimator(calibrated.fit(*blobs(seed=5)))
    before = pickle.dumps(calibrated)
    tuned = TunedExitPolicyClassifierCV(
        calibrated, min_speedup=0.3, scoring="accuracy", cv=0.5, refit=False, random_state=0
    ).fit(*data)
    assert pickle.dumps(calibrated) == before
    X, y = data
    if not frozen:  # the samples that the kept network was not trained on
        splitter = StratifiedShuffleSplit(1, test_size=0.5, random_state=0)
        held_out = next(splitter.split(X, y))[1]
        X, y = X[held_out], y[held_out]
    assert tuned.best_score_ == best_with_speedup(tuned, X, y, 0.3)
    inner = exit_classifier(tuned.estimator_)
    assert hasattr(inner, "maps_")
    assert (inner.tau, inner.patience) == (tuned.best_tau_, tuned.best_patience_)
    expected = apply_policy(staged_of(tuned, X), tuned.best_tau_, tuned.best_patience_, "mean")
    assert_array_equal(tuned.predict(X), tuned.classes_[expected.prediction])
    assert_array_equal(tuned.predict_exit_layer(X), expected.exit_layer)
    for outermost in (tuned, FrozenEstimator(tuned), make_pipeline(tuned)):
        assert exit_scores(outermost, X, y)["accuracy"] == tuned.best_score_
        assert speedup_score(outermost, X) == tuned.best_speedup_
    twin = clone(tuned)
    assert not hasattr(twin, "estimator_")
    assert_array_equal(twin.fit(*data).predict(X), tuned.predict(X))


NESTED = {
    "calibrated": lambda inner: ExitCalibratedClassifier(inner, cv=2),
    "calibrated pipeline": lambda inner: ExitCalibratedClassifier(
        make_pipeline(StandardScaler(), inner), cv=2
    ),
    "pipeline of calibrated": lambda inner: make_pipeline(
        StandardScaler(), ExitCalibratedClassifier(inner, cv=2)
    ),
    "search over calibrated": lambda inner: GridSearchCV(
        ExitCalibratedClassifier(inner, cv=2), {"method": METHODS}, cv=2
    ),
    "calibrated search": lambda inner: ExitCalibratedClassifier(
        GridSearchCV(inner, {"n_layers": [3, 5]}, cv=2), cv=2
    ),
    "calibrated over frozen": lambda inner: ExitCalibratedClassifier(
        FrozenEstimator(clone(inner).fit(*blobs(seed=5)))
    ),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", NESTED)
def test_a_policy_over_any_nesting(name, frozen, data):
    X, y = data
    estimator = NESTED[name](MappedExits(tau=0.0))
    if frozen:
        estimator = FrozenEstimator(estimator.fit(X, y))
    before = pickle.dumps(estimator)
    fixed = FixedExitPolicyClassifier(estimator, tau=0.3, patience=3).fit(X, y)
    for tau, patience in ((0.3, 3), (0.6, 2)):
        fixed.set_params(tau=tau, patience=patience)
        expected = apply_policy(staged_of(fixed, X), tau, patience)
        assert_array_equal(fixed.predict_exit_layer(X), expected.exit_layer)
        assert_array_equal(fixed.predict_proba(X), expected.proba)
        speedup = speedup_ratio(expected.exit_layer, fixed.n_layers_)
        assert exit_scores(fixed, X, y)["speedup"] == speedup_score(fixed, X) == speedup > 0
    assert pickle.dumps(estimator) == before
    tuned = TunedExitPolicyClassifierCV(estimator, min_speedup=0.3, cv=2).fit(X, y)
    assert tuned.best_speedup_ >= 0.3
    assert speedup_score(tuned, X) > 0
    assert pickle.dumps(estimator) == before


def test_a_search_over_a_tuned_calibrated_classifier(data):
    X, y = data
    tuned = TunedExitPolicyClassifierCV(ExitCalibratedClassifier(MappedExits(), cv=2), cv=2)
    grid = {"min_speedup": [0.2, 0.5], "estimator__method": METHODS}
    search = GridSearchCV(
        tuned, grid, scoring=exit_scores, refit=refit_accuracy_at_speedup(0.4), cv=2
    ).fit(X, y)
    assert search.cv_results_["mean_test_speedup"][search.best_index_] >= 0.4
    assert exit_scores(search, X, y)["speedup"] == speedup_score(search, X) > 0.3
    with pytest.raises(NotFittedError):
        TunedExitPolicyClassifierCV(
            FrozenEstimator(ExitCalibratedClassifier(MappedExits().fit(X, y)))
        ).fit(X, y)


def test_tuning_over_a_calibrated_network(text_classifier, other_notes):
    X, y = other_notes
    text_classifier.set_params(exit_ensemble="mean", tau=0.123)
    calibrated = ExitCalibratedClassifier(FrozenEstimator(text_classifier))
    for estimator in (calibrated, FrozenEstimator(clone(calibrated).fit(X, y))):
        tuned = TunedExitPolicyClassifierCV(
            estimator, min_speedup=0.4, scoring="accuracy", cv=2
        ).fit(X, y)
        expected = apply_policy(staged_of(tuned, X), tuned.best_tau_, tuned.best_patience_, "mean")
        assert_array_equal(tuned.predict_exit_layer(X), expected.exit_layer)
        assert exit_scores(tuned, X, y)["accuracy"] == tuned.score(X, y)
    assert tuned.score(X, y) == tuned.best_score_
    assert tuned.best_score_ == best_with_speedup(tuned, X, y, 0.4)
    assert speedup_score(tuned, X) == pytest.approx(tuned.best_speedup_)
    assert (text_classifier.tau, text_classifier.patience) == (0.123, None)
    fixed = FixedExitPolicyClassifier(estimator, tau=0.0, patience=2).fit(X, y)
    assert_array_equal(staged_of(fixed, X), staged_of(estimator, X))
    assert speedup_score(fixed, X) > 0


def test_weights_reach_the_fit_and_the_calibration(data):
    X, y = data
    weight = np.linspace(0, 2, len(y))
    inner = MappedExits().fit(X, y)
    plain = ExitCalibratedClassifier(FrozenEstimator(inner)).fit(X, y)
    weighted = ExitCalibratedClassifier(FrozenEstimator(inner)).fit(X, y, sample_weight=weight)
    assert not np.allclose(weighted.temperatures_, plain.temperatures_, rtol=1e-3)
    positive = weight > 0
    kept = ExitCalibratedClassifier(FrozenEstimator(inner)).fit(
        X[positive], y[positive], weight[positive]
    )
    assert_allclose(kept.temperatures_, weighted.temperatures_, rtol=1e-4)
    trained = ExitCalibratedClassifier(MappedExits(), cv=2).fit(X, y, sample_weight=weight)
    expected = MappedExits().fit(X, y, sample_weight=weight)
    assert_array_equal(trained.estimator_.centroids_, expected.centroids_)


def test_groups_reach_the_splitter(data):
    X, y = data
    groups = np.arange(len(y)) % 10
    calibrated = ExitCalibratedClassifier(MappedExits(), cv=GroupKFold(2))
    without_routing = calibrated.fit(X, y, groups=groups).temperatures_
    with config_context(enable_metadata_routing=True):
        routed = clone(calibrated).fit(X, y, groups=groups)
    assert_array_equal(routed.temperatures_, without_routing)


def test_another_fit_leaves_nothing_of_the_first(data):
    calibrated = ExitCalibratedClassifier(MappedExits(), method="vector", cv=2).fit(*data)
    calibrated.set_params(method="temperature").fit(*data)
    assert not hasattr(calibrated, "scales_")
    assert not hasattr(calibrated, "shifts_")


# ------------------------------------------------------------------------------ what is refused


def test_one_class_is_refused(data):
    X, y = data
    inner = FrozenEstimator(MappedExits().fit(X, y))
    ants = y == "ant"
    with pytest.raises(ValueError, match=r"at least two classes.*1 class: \['ant'\]"):
        ExitCalibratedClassifier(inner).fit(X[ants], y[ants])
    with pytest.raises(ValueError, match="at least two classes"):
        ExitCalibratedClassifier(inner).fit(X, y, sample_weight=ants.astype(float))


def test_vector_scaling_needs_every_class(data):
    X, y = data
    inner = FrozenEstimator(MappedExits().fit(X, y))
    some = y != "cow"
    with pytest.raises(ValueError, match=r"every class.*\['cow'\].*method='temperature'"):
        ExitCalibratedClassifier(inner, method="vector").fit(X[some], y[some])
    ExitCalibratedClassifier(inner).fit(X[some], y[some])


def test_splits_that_lack_a_class_are_left_out(data):
    X, y = np.vstack([data[0], [[9.0, 9.0]]]), np.append(data[1], "dog")
    rows = np.arange(len(y))
    complete = [(rows[rows % 3 != k], rows[rows % 3 == k]) for k in (0, 2)]
    rest = (rows[(rows % 3 != 1) & (rows != 300)], np.append(rows[rows % 3 == 1], 300))
    complete = [(np.append(train, 300), test[test != 300]) for train, test in complete]
    few = ExitCalibratedClassifier(MappedExits(), cv=complete)
    all_splits = ExitCalibratedClassifier(MappedExits(), cv=[*complete, rest])
    few.fit(X, y)
    with pytest.warns(UserWarning, match=r"split 2 has no sample of the classes \['dog'\]"):
        all_splits.fit(X, y)
    assert_allclose(all_splits.temperatures_, few.temperatures_)
    with (
        pytest.warns(UserWarning, match="split 0 has no sample"),
        pytest.raises(ValueError, match="training part of every split lacks a class"),
    ):
        ExitCalibratedClassifier(MappedExits(), cv=[rest]).fit(X, y)


def test_unknown_labels_are_refused(data):
    X, y = data
    inner = FrozenEstimator(MappedExits().fit(X, y))
    with pytest.raises(ValueError, match="does not know"):
        ExitCalibratedClassifier(inner).fit(X, np.where(y == "cow", "yak", y))


def test_exits_that_cannot_be_rescaled_are_refused(data):
    with pytest.raises(TypeError, match=r"linear map.*got NumericExits"):
        ExitCalibratedClassifier(NumericExits()).fit(*data)
    with pytest.raises(TypeError, match=r"early exits.*got StandardScaler"):
        ExitCalibratedClassifier(make_predicting(StandardScaler())).fit(*data)


def make_predicting(transformer):
    """Give an object that may stand where a classifier is expected."""
    transformer.predict = lambda X: X
    return transformer


@pytest.mark.parametrize("estimator", [MappedExits(), tiny_text_classifier()])
def test_unfitted_is_refused(estimator, data):
    for unfitted in (
        ExitCalibratedClassifier(FrozenEstimator(estimator)),
        ExitCalibratedClassifier(estimator, cv="prefit"),
    ):
        with pytest.raises(NotFittedError):
            unfitted.fit(*data)


@pytest.mark.parametrize("bad", [{"method": "isotonic"}, {"cv": "none"}, {"cv": 1.5}])
def test_bad_parameters_are_refused(bad, data):
    with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter"):
        ExitCalibratedClassifier(MappedExits(), **bad).fit(*data)


def test_a_bound_that_is_reached_raises_a_warning(data):
    X, y = data
    inner = MappedExits().fit(X, y)
    right = inner.predict_with_exits(X).labels
    with pytest.warns(ConvergenceWarning, match=r"exits \[.*5\] ended at a bound"):
        ExitCalibratedClassifier(FrozenEstimator(inner)).fit(X, right)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        ExitCalibratedClassifier(FrozenEstimator(inner)).fit(X, y)


@parametrize_with_checks(
    [
        ExitCalibratedClassifier(MappedExits(), cv=2),
        FixedExitPolicyClassifier(ExitCalibratedClassifier(MappedExits(), cv=2)),
    ]
)
def test_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)
