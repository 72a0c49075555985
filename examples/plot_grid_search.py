"""
A grid search that trains six networks
======================================

``GridSearchCV`` over twenty exit policies and five folds would train a hundred networks, were it
not for the fact that `tau` and `patience` act only when a trained network predicts. Here it trains
one a fold and one for the refit, inside a pipeline or alone, with no argument to set.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are 1,500 of PHEE; otherwise they are generated notes. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint; without it a compact network is trained from scratch, which learns little
more from PHEE than which class is frequent. The script needs matplotlib (the extra ``plots``) and
takes a few minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os
import re

import matplotlib.pyplot as plt
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_epee import (
    EPEEClassifier,
    exit_scores,
    refit_accuracy_at_speedup,
    refit_fastest_within,
)
from sklearn_epee.datasets import load_phee, make_supplement_notes
from sklearn_epee.plotting import ExitPolicyHeatmapDisplay, ExitTradeoffDisplay

# %%
# A pipeline
# ----------
# What comes before the classifier is of no interest here; numbers are made alike.

backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PHEE"
    X, y = load_phee(subset="train", return_X_y=True)
    X_train, _, y_train, _ = train_test_split(X, y, train_size=1500, stratify=y, random_state=0)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title = "supplement notes"
    X, y = make_supplement_notes(2500, random_state=0)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=0.6, stratify=y, random_state=0
    )


def same_numbers(texts):
    return [re.sub(r"\d+(\.\d+)?", "7", text) for text in texts]


pipeline = make_pipeline(
    FunctionTransformer(same_numbers),
    EPEEClassifier(backbone, max_epochs=8 if backbone is None else 2, random_state=0),
)

# %%
# Twenty policies, six trainings
# ------------------------------
# `exit_scores` measures accuracy and speed-up in one pass, and the rule for `refit` weighs them:
# the best accuracy among policies that save at least half of the layers.

grid = {
    "epeeclassifier__tau": [0.0, 0.05, 0.1, 0.2, 0.4],
    "epeeclassifier__patience": [2, 3, 4, None],
}
search = GridSearchCV(
    pipeline, grid, scoring=exit_scores, refit=refit_accuracy_at_speedup(0.5), cv=5
)
search.fit(X_train, y_train)

seconds = search.cv_results_["mean_fit_time"]
print(f"seconds a fit and fold: {seconds[0]:.1f} for the first policy, {seconds[1:].mean():.2f}")
print(f"on the mean of the {len(seconds) - 1} others; {search.refit_time_:.1f} for the refit")
print(f"chosen: {search.best_params_}")

# %%
# The test part, which the search has not seen
# --------------------------------------------
scores = exit_scores(search, X_test, y_test)
print(f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}")
print(f"speed-up ratio {scores['speedup']:.2f} ({1 / (1 - scores['speedup']):.1f}x)")

# %%
# Another rule, no search
# -----------------------
# The rules are functions of ``cv_results_``. This one takes the fastest policy within a point of
# the best accuracy. The network is the same, so it is enough to set the policy.
rule = refit_fastest_within(0.01)
policy = search.cv_results_["params"][rule(search.cv_results_)]
faster = search.best_estimator_.set_params(**policy)
scores = exit_scores(faster, X_test, y_test)
print(f"\nfastest within a point: {policy}")
print(f"accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}")
print(f"speed-up ratio {scores['speedup']:.2f} ({1 / (1 - scores['speedup']):.1f}x)")

# %%
# All policies that were tried
# ----------------------------
# Both pictures are made from ``cv_results_``, without another prediction.
ExitPolicyHeatmapDisplay.from_cv_results(search, name=f"{title}: mean of five folds")

# %%
ExitTradeoffDisplay.from_cv_results(search, name=f"{title}: mean of five folds")
plt.show()
