"""What displays show equals the definitions, computed one policy at a time."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.metrics import balanced_accuracy_score, f1_score, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_epee import (
    exit_scores,
    positive_f1_score,
    positive_f1_scorer,
    refit_fastest_within,
    speedup_ratio,
)
from sklearn_epee.plotting import (
    ExitHistogramDisplay,
    ExitPolicyHeatmapDisplay,
    ExitReliabilityDisplay,
    ExitTradeoffDisplay,
    LayerwiseDisplay,
)
from sklearn_epee.policy import apply_policy, exit_layers, normalized_entropy
from tests.model_selection.staged import NumericExits

from .classes import CLASSES

N_LAYERS = 5
GRID = {"tau": [0.0, 0.2, 0.6], "patience": [None, 2, 4]}


def measure(y_true, proba, tau, patience, **ensemble):
    """Accuracy and speed-up ratio of one policy."""
    result = apply_policy(proba, tau, patience, **ensemble)
    accuracy = np.mean(CLASSES[result.prediction] == y_true)
    return accuracy, speedup_ratio(result.exit_layer, proba.shape[1])


def measured(y_true, proba, table, **ensemble):
    pairs = zip(table["tau"], table["patience"], strict=True)
    return np.transpose([measure(y_true, proba, t, int(p), **ensemble) for t, p in pairs])


def test_layers_have_their_accuracy_and_mean_entropy(staged):
    y_true, proba = staged
    display = LayerwiseDisplay.from_predictions(y_true, proba)
    for m in range(N_LAYERS):
        assert display.accuracy[m] == np.mean(CLASSES[proba[:, m].argmax(axis=1)] == y_true)
        assert display.mean_entropy[m] == pytest.approx(normalized_entropy(proba[:, m]).mean())
    assert list(display.accuracy_line_.get_ydata()) == list(display.accuracy)
    assert list(display.entropy_line_.get_ydata()) == list(display.mean_entropy)
    assert list(display.entropy_line_.get_xdata()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("exit_ensemble", [None, "mean", "weighted"])
def test_tradeoff_curves_are_those_of_their_policies(staged, exit_ensemble):
    y_true, proba = staged
    display = ExitTradeoffDisplay.from_predictions(
        y_true, proba, tau=0.3, patience=2, exit_ensemble=exit_ensemble
    )
    for table in (display.entropy_only, display.patience_only, display.both):
        expected = measured(y_true, proba, table, exit_ensemble=exit_ensemble)
        np.testing.assert_allclose([table["score"], table["speedup"]], expected, atol=1e-12)
    assert set(display.entropy_only["patience"]) == {N_LAYERS}
    assert list(display.patience_only["patience"]) == [5, 4, 3, 2, 1]
    assert set(display.patience_only["tau"]) == {0}
    chosen = measure(y_true, proba, 0.3, 2, exit_ensemble=exit_ensemble)
    assert (display.chosen["score"], display.chosen["speedup"]) == pytest.approx(chosen)
    full = measure(y_true, proba, 0.0, None, exit_ensemble=exit_ensemble)
    assert display.full_depth_score == pytest.approx(full[0])


def test_no_policy_is_above_the_front(staged):
    y_true, proba = staged
    both = ExitTradeoffDisplay.from_predictions(y_true, proba).both
    for tau in np.linspace(0, 1, 30):
        for patience in range(1, N_LAYERS + 1):
            accuracy, speedup = measure(y_true, proba, tau, patience)
            assert both["score"][both["speedup"] >= speedup - 1e-9].max() >= accuracy - 1e-9


def test_the_front_is_drawn_as_the_best_score_with_at_least_a_speedup(staged):
    display = ExitTradeoffDisplay.from_predictions(*staged)
    line = display.lines_["both"]
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_xdata()[0] == 0
    assert line.get_ydata()[0] == display.both["score"].max()
    assert list(line.get_xdata()[1:]) == list(display.both["speedup"])


def test_only_given_policies_are_marked(staged):
    assert ExitTradeoffDisplay.from_predictions(*staged).chosen_ is None
    marked = ExitTradeoffDisplay.from_predictions(*staged, tau=0.2, patience=99)
    assert marked.chosen["patience"] == N_LAYERS
    assert marked.chosen_.get_xdata()[0] == marked.chosen["speedup"]
    with pytest.raises(ValueError, match="patience=2 needs a tau"):
        ExitTradeoffDisplay.from_predictions(*staged, patience=2)
    with pytest.raises(ValueError, match="tau must be"):
        ExitTradeoffDisplay.from_predictions(*staged, tau=-1)


@pytest.mark.parametrize(
    ("scoring", "metric"),
    [
        ("balanced_accuracy", balanced_accuracy_score),
        ("f1_macro", lambda y, p: f1_score(y, p, average="macro")),
    ],
)
def test_other_scores_are_drawn_by_their_definitions(staged, scoring, metric):
    y_true, proba = staged
    predicted = CLASSES[apply_policy(proba, 0.3, 3).prediction]
    tradeoff = ExitTradeoffDisplay.from_predictions(
        y_true, proba, tau=0.3, patience=3, scoring=scoring
    )
    heat_map = ExitPolicyHeatmapDisplay.from_predictions(
        y_true, proba, taus=[0.3], patiences=[3], scoring=scoring
    )
    expected = pytest.approx(metric(y_true, predicted))
    assert tradeoff.chosen["score"] == expected
    assert heat_map.score[0, 0] == expected
    assert tradeoff.ax_.get_ylabel() == scoring.replace("_", " ")
    with pytest.raises(ValueError, match="scoring must be one of"):
        ExitTradeoffDisplay.from_predictions(y_true, proba, scoring="roc_auc")


def test_scores_made_by_make_scorer(staged):
    y_true, proba = staged
    predicted = CLASSES[apply_policy(proba, 0.3, 3).prediction]
    negative = CLASSES[0]
    display = ExitTradeoffDisplay.from_predictions(
        y_true, proba, tau=0.3, patience=3, scoring=positive_f1_scorer(negative)
    )
    expected = positive_f1_score(y_true, predicted, negative_class=negative)
    assert display.chosen["score"] == pytest.approx(expected)
    assert display.ax_.get_ylabel() == "positive f1"
    for scoring in (make_scorer(f1_score), get_scorer("neg_log_loss"), max, 3):
        with pytest.raises(ValueError, match="scoring must be one of"):
            ExitPolicyHeatmapDisplay.from_predictions(y_true, proba, scoring=scoring)


def test_the_heat_map_has_a_cell_for_each_policy(staged):
    y_true, proba = staged
    display = ExitPolicyHeatmapDisplay.from_predictions(
        y_true, proba, taus=[0.6, 0.0, 0.2], patiences=[None, 1, 3]
    )
    assert list(display.taus) == [0.0, 0.2, 0.6]
    assert list(display.patiences) == [1, 3, 5]
    for row, patience in enumerate(display.patiences):
        for column, tau in enumerate(display.taus):
            found = display.score[row, column], display.speedup[row, column]
            assert found == pytest.approx(measure(y_true, proba, tau, int(patience)))
    for image, values in zip(display.images_, (display.score, display.speedup), strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
    numbers = [text.get_text() for text in display.texts_]
    assert numbers[0] == f"{display.score[0, 0]:.3f}"
    assert numbers[9] == "0.80\n5.0x"  # patience 1: everyone leaves at the first of five layers


def test_heat_map_axes(staged):
    display = ExitPolicyHeatmapDisplay.from_predictions(*staged)
    labels = [text.get_text() for text in display.ax_[0].get_yticklabels()]
    assert labels == ["1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match="2 matplotlib Axes"):
        display.plot(plt.subplots()[1])
    with pytest.raises(ValueError, match="at least one value"):
        ExitPolicyHeatmapDisplay.from_predictions(*staged, taus=[])


@pytest.mark.parametrize("n_classes", [3, 8])
def test_the_histogram_counts_exits_by_class(n_classes):
    rng = np.random.default_rng(1)
    classes = np.arange(n_classes)
    y_true = rng.choice(classes[:-1], size=60)  # the last class has no samples
    proba = rng.dirichlet(np.full(n_classes, 0.3), size=(60, N_LAYERS))
    display = ExitHistogramDisplay.from_predictions(
        y_true, proba, tau=0.3, patience=3, labels=classes
    )
    layers = exit_layers(proba, 0.3, 3)
    for k in classes:
        expected = np.bincount(layers[y_true == k], minlength=N_LAYERS + 1)[1:]
        assert list(display.counts[k]) == list(expected)
    assert display.speedup_ == speedup_ratio(layers, N_LAYERS)
    np.testing.assert_allclose(display.shares[:-1].sum(axis=1), 1)
    assert np.isnan(display.shares[-1]).all()
    assert bool(display.bars_) == (n_classes == 3)
    assert (display.image_ is None) == (n_classes == 3)


def test_bars_are_the_shares(staged):
    display = ExitHistogramDisplay.from_predictions(*staged, tau=0.3)
    heights = [[bar.get_height() for bar in bars] for bars in display.bars_]
    np.testing.assert_allclose(heights, display.shares)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reliability_bins_follow_their_definition(staged, dtype):
    y_true, proba = staged[0], staged[1].astype(dtype)
    display = ExitReliabilityDisplay.from_predictions(y_true, proba, n_bins=4)
    for m in range(N_LAYERS):
        confidence = proba[:, m].max(axis=1).astype(float)
        correct = CLASSES[proba[:, m].argmax(axis=1)] == y_true
        ece = 0.0
        for b in range(4):
            inside = (confidence > b / 4) & (confidence <= (b + 1) / 4)
            assert display.counts[m, b] == inside.sum()
            if inside.any():
                gap = abs(correct[inside].mean() - confidence[inside].mean())
                ece += inside.mean() * gap
                assert display.accuracy[m, b] == pytest.approx(correct[inside].mean())
        assert display.ece[m] == pytest.approx(ece)
    assert f"{display.ece[0]:.3f}" in display.ax_[0].get_title()
    together = display.plot(plt.subplots()[1])
    assert len(together.lines_) == N_LAYERS
    assert together.ax_.get_legend() is not None


def test_certain_and_wrong_has_the_largest_error():
    proba = np.tile([1.0, 0.0], (6, 2, 1))
    display = ExitReliabilityDisplay.from_predictions(["b"] * 6, proba, labels=["a", "b"])
    assert list(display.ece) == [1, 1]
    for n_bins in (0, 2.5, True, 10**9):
        with pytest.raises((TypeError, ValueError), match="n_bins must be an integer from 1 to"):
            ExitReliabilityDisplay.from_predictions(
                ["b"] * 6, proba, labels=["a", "b"], n_bins=n_bins
            )


@pytest.fixture
def search(data):
    """A grid over tau and patience, of a pipeline."""
    pipeline = Pipeline([("scale", StandardScaler()), ("clf", NumericExits())])
    grid = {f"clf__{name}": values for name, values in GRID.items()}
    refit = refit_fastest_within(0.01)
    return GridSearchCV(pipeline, grid, scoring=exit_scores, refit=refit, cv=3).fit(*data)


def test_heat_map_of_a_search(search):
    display = ExitPolicyHeatmapDisplay.from_cv_results(search)
    assert list(display.taus) == GRID["tau"]
    assert list(display.patiences) == [2, 4, N_LAYERS]
    results = search.cv_results_
    for row, params in enumerate(results["params"]):
        patience = params["clf__patience"] or N_LAYERS
        cell = (
            list(display.patiences).index(patience),
            list(display.taus).index(params["clf__tau"]),
        )
        assert display.score[cell] == results["mean_test_accuracy"][row]
        assert display.speedup[cell] == results["mean_test_speedup"][row]


def test_tradeoff_of_a_search(search):
    display = ExitTradeoffDisplay.from_cv_results(search, metric="macro_f1")
    results, best = search.cv_results_, search.best_index_
    assert display.chosen["score"] == results["mean_test_macro_f1"][best]
    assert display.chosen["speedup"] == results["mean_test_speedup"][best]
    assert set(display.entropy_only["patience"]) == {N_LAYERS}
    assert sorted(display.entropy_only["tau"]) == GRID["tau"]
    assert sorted(display.patience_only["patience"]) == [2, 4, N_LAYERS]
    assert display.both["score"].max() == results["mean_test_macro_f1"].max()


def test_results_without_the_search(search):
    display = ExitTradeoffDisplay.from_cv_results(search.cv_results_, n_layers=N_LAYERS)
    assert display.chosen is None
    with pytest.raises(ValueError, match="Pass n_layers"):
        ExitPolicyHeatmapDisplay.from_cv_results(search.cv_results_)


def test_policies_that_were_not_tried_are_empty(search):
    results = {name: np.asarray(values)[1:] for name, values in search.cv_results_.items()}
    display = ExitPolicyHeatmapDisplay.from_cv_results(results, n_layers=N_LAYERS)
    assert np.isnan(display.score).sum() == 1
    display.figure_.canvas.draw()


def test_searches_that_do_not_fit_are_refused(data):
    scoring = {"scoring": exit_scores, "refit": False, "cv": 2}
    only_tau = GridSearchCV(NumericExits(), {"tau": [0.1]}, **scoring).fit(*data)
    with pytest.raises(ValueError, match=r"\['tau'\], 0 are named patience"):
        ExitPolicyHeatmapDisplay.from_cv_results(only_tau)
    grid = {"tau": [0.1], "patience": [2], "exit_ensemble": [None, "mean"]}
    more = GridSearchCV(NumericExits(), grid, **scoring).fit(*data)
    with pytest.raises(ValueError, match="2 values of exit_ensemble"):
        ExitTradeoffDisplay.from_cv_results(more)
    grid = {"tau": [0.1], "patience": [2]}
    plain = GridSearchCV(NumericExits(), grid, scoring="accuracy", cv=2).fit(*data)
    with pytest.raises(ValueError, match="metric='accuracy' is not among"):
        ExitTradeoffDisplay.from_cv_results(plain)
    with pytest.raises(TypeError, match="cv_results_"):
        ExitTradeoffDisplay.from_cv_results(GridSearchCV(NumericExits(), grid))
