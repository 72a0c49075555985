"""
Calibrating the exits
=====================

Networks tend to be overconfident, some layers more than others. Then one threshold `tau` on the
entropy asks more of one exit than of another, and probabilities cannot be taken at their word.
:class:`ExitCalibratedClassifier` finds a temperature for every exit on samples the network has not
seen; the policy can be chosen on the same ones.

With the environment variable ``SKLEARN_EPEE_DATA`` naming the folder of the real data sets, the
texts are those of PHEE; otherwise they are generated notes. ``SKLEARN_EPEE_BACKBONE`` may name a
pretrained checkpoint; without it a compact network is trained from scratch, which learns little
more from PHEE than which class is frequent. The script needs matplotlib (the extra ``plots``) and
takes a few minutes on two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from sklearn_epee import (
    EPEEClassifier,
    ExitCalibratedClassifier,
    TunedExitPolicyClassifierCV,
    exit_scores,
)
from sklearn_epee.datasets import load_phee, make_supplement_notes
from sklearn_epee.plotting import ExitReliabilityDisplay

# %%
# An overconfident network
# ------------------------

backbone = os.environ.get("SKLEARN_EPEE_BACKBONE")
if os.environ.get("SKLEARN_EPEE_DATA"):
    title = "PHEE"
    X_train, y_train = load_phee(subset="train", return_X_y=True)
    X_held, y_held = load_phee(subset="dev", return_X_y=True)
    X_test, y_test = load_phee(subset="test", return_X_y=True)
else:
    title = "supplement notes"
    X, y = make_supplement_notes(4500, n_distractors=3, random_state=0)
    X_train, X_rest, y_train, y_rest = train_test_split(X, y, test_size=0.4, random_state=0)
    X_held, X_test, y_held, y_test = train_test_split(X_rest, y_rest, test_size=0.5, random_state=0)
network = EPEEClassifier(backbone, max_epochs=6 if backbone is None else 3, random_state=0)
network.fit(X_train, y_train)

# %%
# A temperature for every exit
# ----------------------------
# A temperature above 1 makes an exit less confident. It is fitted on held-out samples, with the
# network frozen, and evaluated on others. Below the diagonal an exit is overconfident; points above
# low bars are of few samples, and jump.
calibrated = ExitCalibratedClassifier(FrozenEstimator(network)).fit(X_held, y_held)

before = ExitReliabilityDisplay.from_estimator(
    network, X_test, y_test, name=f"{title}: exits as they were trained"
)
after = ExitReliabilityDisplay.from_estimator(
    calibrated, X_test, y_test, name=f"{title}: exits with a temperature each"
)

# %%
# What it changes on new samples
# ------------------------------
# The negative log-likelihood (NLL) penalizes wrong predictions by their confidence; the expected
# calibration error (ECE) is the distance between confidence and accuracy. A temperature changes no
# prediction of an exit, only its confidence.


def nll_of_exits(classifier):
    return [log_loss(y_test, proba) for proba in classifier.staged_predict_proba(X_test)]


nll = {"before": nll_of_exits(network), "after": nll_of_exits(calibrated)}
ece = {"before": before.ece, "after": after.ece}
print("exit  temperature  NLL before  after  ECE before  after")
for i, temperature in enumerate(calibrated.temperatures_):
    print(
        f"{i + 1:4} {temperature:12.2f} {nll['before'][i]:11.3f} {nll['after'][i]:6.3f} "
        f"{ece['before'][i]:11.3f} {ece['after'][i]:6.3f}"
    )

_, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
layers = np.arange(1, network.n_layers_ + 1)
for ax, values, name in zip(axes, (nll, ece), ("NLL in nats", "ECE"), strict=True):
    ax.plot(layers, values["before"], "o--", color="#D55E00", label="before")
    ax.plot(layers, values["after"], "s-", color="#0072B2", label="after")
    ax.set(xlabel="exit", ylabel=f"{name} (less is better)", xticks=layers)
    ax.grid(alpha=0.3)
axes[0].legend()
axes[1].set_ylim(0, None)
axes[0].figure.suptitle(f"{title}: calibrated on held-out texts, measured on others")

# %%
# Choosing the policy for calibrated exits
# ----------------------------------------
# `tau` has another meaning now, so the policy has to be tuned for the calibrated exits. With the
# tuned classifier over the calibrated one, each fold calibrates on one part of the held-out samples
# and is evaluated on the rest; then all of them calibrate. The network stays frozen throughout.
#
# Probabilities improve. The accuracy at a given speed-up hardly changes: a smaller `tau` also makes
# an overconfident exit stricter.

print(
    f"\n{'exits':12} {'tau':>6} {'patience':>8} {'accuracy':>9} {'speed-up ratio':>15} {'NLL':>6}"
)
for name, estimator in (
    ("as trained", FrozenEstimator(network)),
    ("calibrated", ExitCalibratedClassifier(FrozenEstimator(network))),
):
    tuned = TunedExitPolicyClassifierCV(estimator, scoring="accuracy", min_speedup=0.5)
    tuned.fit(X_held, y_held)
    scores = exit_scores(tuned, X_test, y_test)
    factor = 1 / (1 - scores["speedup"])
    nll_of_answers = log_loss(y_test, tuned.predict_proba(X_test))
    print(
        f"{name:12} {tuned.best_tau_:>6.3f} {tuned.best_patience_:>8} {scores['accuracy']:>9.3f} "
        f"{scores['speedup']:>7.2f} ({factor:.1f}x) {nll_of_answers:.3f}"
    )
plt.show()
