"""What all displays share: the display protocol, what they accept and what they refuse."""

import builtins
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_epee.plotting
from sklearn_epee import FixedExitPolicyClassifier, TunedExitPolicyClassifierCV, exit_scores
from sklearn_epee.plotting import (
    ExitHistogramDisplay,
    ExitPolicyHeatmapDisplay,
    ExitReliabilityDisplay,
    ExitTradeoffDisplay,
    LayerwiseDisplay,
)
from tests.model_selection.staged import NumericExits

DISPLAYS = [
    LayerwiseDisplay,
    ExitTradeoffDisplay,
    ExitPolicyHeatmapDisplay,
    ExitHistogramDisplay,
    ExitReliabilityDisplay,
]
N_LAYERS = 5

every_display = pytest.mark.parametrize("display", DISPLAYS)


def from_predictions(display, y_true, proba, **parameters):
    policy = {"tau": 0.3} if display is ExitHistogramDisplay else {}
    return display.from_predictions(y_true, proba, **policy, **parameters)


def numbers_of(display):
    """Everything a display holds as numbers, in a form that can be compared."""
    held = {name: value for name, value in vars(display).items() if not name.endswith("_")}
    held.pop("name")
    return held


def axes_for(display):
    """Axes of the number that a display takes."""
    is_pair = display is ExitPolicyHeatmapDisplay
    return plt.subplots(1, 2)[1] if is_pair else plt.subplots()[1]


@every_display
def test_plot_returns_itself_and_draws_into_the_given_axes(display, staged):
    made = from_predictions(display, *staged)
    ax = axes_for(display)
    assert made.plot(ax) is made
    assert np.array_equal(np.ravel(made.ax_), np.ravel(ax))
    assert made.figure_ is np.ravel(ax)[0].figure
    assert made.plot().figure_ is not np.ravel(ax)[0].figure


@every_display
def test_pictures_can_be_rendered(display, staged, tmp_path):
    from_predictions(display, *staged, name="blobs").figure_.savefig(tmp_path / "picture.png")


@every_display
def test_one_forward_pass(display, classifier, data):
    before = NumericExits.n_passes
    display.from_estimator(classifier, *data)
    assert NumericExits.n_passes == before + 1


@every_display
def test_estimator_and_arrays_agree(display, classifier, data):
    X, y = data
    proba = np.stack(list(classifier.staged_predict_proba(X)), axis=1)
    has_policy = display in {ExitTradeoffDisplay, ExitHistogramDisplay}
    policy = {"tau": 0.4, "patience": 3} if has_policy else {}
    from_arrays = display.from_predictions(y, proba, labels=classifier.classes_, **policy)
    from_estimator = display.from_estimator(classifier, X, y)
    np.testing.assert_equal(numbers_of(from_estimator), numbers_of(from_arrays))


@every_display
@pytest.mark.parametrize(
    "wrap",
    [
        FrozenEstimator,
        lambda clf: FixedExitPolicyClassifier(FrozenEstimator(clf), tau=0.4, patience=3),
        lambda clf: GridSearchCV(clf, {"tau": [0.4]}, cv=2),
        lambda clf: make_pipeline("passthrough", clf),
        lambda clf: make_pipeline("passthrough", GridSearchCV(clf, {"tau": [0.4]}, cv=2)),
    ],
)
def test_wrappers_are_looked_through(display, wrap, classifier, data):
    wrapped = wrap(classifier).fit(*data)
    inside = display.from_estimator(classifier, *data)
    outside = display.from_estimator(wrapped, *data)
    np.testing.assert_equal(numbers_of(outside), numbers_of(inside))


@every_display
def test_steps_of_a_pipeline_are_applied(display, data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), NumericExits()).fit(X, y)
    direct = display.from_estimator(pipeline[-1], pipeline[:-1].transform(X), y)
    np.testing.assert_equal(numbers_of(display.from_estimator(pipeline, X, y)), numbers_of(direct))


@pytest.mark.parametrize("display", [ExitTradeoffDisplay, ExitHistogramDisplay])
@pytest.mark.parametrize("kind", ["fixed", "tuned", "tuned in a pipeline"])
def test_the_policy_of_a_wrapper_counts(display, kind, classifier, data):
    wrapped = {
        "fixed": FixedExitPolicyClassifier(FrozenEstimator(classifier), tau=0.1, patience=2),
        "tuned": TunedExitPolicyClassifierCV(FrozenEstimator(classifier), min_speedup=0.5),
    }[kind.split()[0]]
    if "pipeline" in kind:
        wrapped = make_pipeline("passthrough", wrapped)
    speedup = exit_scores(wrapped.fit(*data), *data)["speedup"]
    made = display.from_estimator(wrapped, *data)
    found = made.speedup_ if display is ExitHistogramDisplay else made.chosen["speedup"]
    assert found == pytest.approx(speedup, abs=1e-12)


class WithoutPolicy(BaseEstimator):
    """A fitted classifier with early exits, without tau and patience."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.classes_, self.n_layers_ = classifier.classes_, classifier.n_layers_

    def fit(self, X, y):
        return self

    def staged_predict_proba(self, X):
        return self.classifier.staged_predict_proba(X)

    def predict_with_exits(self, X):
        return self.classifier.predict_with_exits(X)


def test_a_policy_that_is_not_known_is_not_drawn(classifier, data):
    estimator = WithoutPolicy(classifier)
    assert ExitTradeoffDisplay.from_estimator(estimator, *data).chosen is None
    with pytest.raises(TypeError, match="WithoutPolicy has no exit policy"):
        ExitHistogramDisplay.from_estimator(estimator, *data)


@every_display
def test_titles_and_names_are_shown(display, staged, classifier, data):
    made = from_predictions(display, *staged, name="blobs")
    titles = [ax.get_title() for ax in made.figure_.axes]
    assert "blobs" in " ".join([*titles, made.figure_.get_suptitle()])
    assert display.from_estimator(classifier, *data).name == "NumericExits"
    assert from_predictions(display, *staged).name is None


@every_display
def test_labels_name_the_columns(display, staged):
    y_true, proba = staged
    usual = from_predictions(display, y_true, proba)
    turned = from_predictions(display, y_true, proba[:, :, ::-1], labels=["cow", "bee", "ant"])
    held = numbers_of(turned)
    if display is ExitHistogramDisplay:
        held = {name: value[::-1] if np.ndim(value) else value for name, value in held.items()}
    np.testing.assert_equal(_rounded(held), _rounded(numbers_of(usual)))


def _rounded(held):
    """Entropies of permuted columns differ in their last digits."""
    if isinstance(held, dict):
        return {name: _rounded(value) for name, value in held.items()}
    return np.round(held, 9) if isinstance(held, np.ndarray) and held.dtype.kind == "f" else held


@every_display
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, p: (y, p[:, 0]), r"shape \(n_samples, n_layers, n_classes\).*\(80, 3\)"),
        (lambda y, p: (y[:-1], p), r"one row for each sample.*\(80, 5, 3\) for 79 labels"),
        (
            lambda y, p: (y, p.transpose(1, 0, 2)),
            r"policy.stack_layers\(classifier.staged_predict_proba",
        ),
        (lambda y, p: (y, p[..., :2] / p[..., :2].sum(2, keepdims=True)), "2 columns.*3 classes"),
        (lambda y, p: (y, np.log(p)), "sum to 1"),
        (lambda y, p: (y, p * np.nan), "sum to 1"),
        (lambda y, p: (y, p * 2), "sum to 1"),
        (lambda y, p: (y[:0], p[:0]), "none of them 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(display, staged, change, message):
    with pytest.raises(ValueError, match=message):
        from_predictions(display, *change(*staged))


@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_labels_are_counted(missing, classifier, data):
    X, y = data
    labels = np.asarray(y, dtype=object).copy()
    labels[[1, 3]] = missing
    with pytest.raises(ValueError, match=r"y must hold .* 2 are missing .* the first at row 1"):
        LayerwiseDisplay.from_estimator(classifier, X, labels)


@every_display
def test_labels_that_do_not_fit_are_refused(display, staged):
    with pytest.raises(ValueError, match=r"y_true holds the labels \['cow'\]"):
        from_predictions(display, *staged, labels=["ant", "bee", "dog"])
    with pytest.raises(ValueError, match="differ from each other"):
        from_predictions(display, *staged, labels=["ant", "bee", "bee"])
    with pytest.raises(ValueError, match="labels has 2 classes"):
        from_predictions(display, *staged, labels=["ant", "bee"])
    with pytest.raises(TypeError, match="staged_proba must be an array of numbers"):
        from_predictions(display, staged[0], staged[1].astype(str))


@every_display
def test_estimators_without_exits_are_refused(display, data):
    with pytest.raises(TypeError, match="early exits"):
        display.from_estimator(LogisticRegression().fit(*data), *data)
    with pytest.raises(NotFittedError):
        display.from_estimator(NumericExits(), *data)


@every_display
def test_other_things_than_axes_are_refused(display, staged):
    made = from_predictions(display, *staged)
    with pytest.raises((TypeError, ValueError), match="ax must be"):
        made.plot("figure")


@every_display
def test_missing_matplotlib_is_named(display, staged, monkeypatch):
    made = from_predictions(display, *staged)
    real_import = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=rf"{display.__name__}.*'plots'"):
        made.plot()


def test_speedup_is_shown_as_ratio_and_factor(staged):
    made = ExitTradeoffDisplay.from_predictions(*staged)
    made.figure_.canvas.draw()
    ticks = made.factor_ax_.get_xticks()
    labels = [text.get_text() for text in made.factor_ax_.get_xticklabels()]
    assert labels == [f"{tick:g}x" for tick in ticks]
    assert ticks[0] == 1
    assert ticks[-1] == 4  # the next would be 6, and five layers make at most 5
    lowest, highest = made.factor_ax_.get_xlim()
    assert 1 - 1 / np.array([lowest, highest]) == pytest.approx(made.ax_.get_xlim())


@pytest.mark.parametrize("worst", [0, -1])
def test_the_legend_does_not_hide_the_chosen_policy(worst):
    table = {
        "tau": np.linspace(0, 1, 9),
        "patience": np.full(9, 12),
        "score": np.full(9, 0.9),
        "speedup": np.linspace(0, 0.8, 9),
    }
    table["score"][worst] = 0.6
    chosen = {name: column[worst].item() for name, column in table.items()}
    one = {name: column[:1] for name, column in table.items()}
    made = ExitTradeoffDisplay(entropy_only=table, patience_only=one, both=table, chosen=chosen)
    made.plot().figure_.canvas.draw()
    place = made.ax_.transData.transform((chosen["speedup"], chosen["score"]))
    assert not made.ax_.get_legend().get_window_extent().contains(*place)
    plt.close(made.figure_)


@pytest.mark.parametrize("display", [LayerwiseDisplay, ExitHistogramDisplay])
def test_layers_are_numbered_from_one(display, staged):
    made = from_predictions(display, *staged)
    assert list(made.ax_.get_xticks()) == list(range(1, N_LAYERS + 1))


def test_names_load_when_needed_without_heavy_libraries():
    program = (
        "import sys; from sklearn_epee import plotting;"
        "print([getattr(plotting, name).__name__ for name in plotting.__all__]);"
        "print(*{'matplotlib', 'torch', 'transformers', 'skorch'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names, heavy = ran.stdout.splitlines()
    assert names == str(sorted(display.__name__ for display in DISPLAYS))
    assert heavy == ""
    assert dir(sklearn_epee.plotting) == sorted(sklearn_epee.plotting.__all__)
    with pytest.raises(AttributeError, match="NoDisplay"):
        sklearn_epee.plotting.NoDisplay  # noqa: B018
