"""
Drift in use, noticed without labels
====================================

A policy is certified on notes of one kind. Then notes of another kind come. An
:class:`~sklearn_epee.monitoring.ExitAudit` runs a share of them to full depth and tightens `tau`
as soon as the last of them no longer show that the promise is kept; an
:class:`~sklearn_epee.monitoring.ExitMonitor` watches where notes exit and how sure the exits are,
which costs nothing. Neither reads a label.

The notes are generated. The script needs matplotlib (the extra ``plots``) and takes some minutes on
two cores.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import copy
import textwrap
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from sklearn_epee import EPEEClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.exceptions import ExitAlarmWarning
from sklearn_epee.monitoring import ExitAudit, ExitMonitor

# %%
# A promise
# ---------
# At most three predictions in a hundred differ from those of the whole network, with 95 %
# confidence. The heads read the first position alone, so that the layers differ more than those of
# heads that read all words.

PROMISE = 0.03
CALM = {"easy_fraction": 0.6, "n_distractors": 1}
X, y = make_supplement_notes(4000, **CALM, random_state=0)
half = len(X) // 2
network = EPEEClassifier(pooling="cls", max_epochs=6, random_state=0).fit(X[:half], y[:half])
tuned = TunedExitPolicyClassifierCV(
    FrozenEstimator(network), risk="disagreement", max_risk=PROMISE, confidence=0.95, random_state=0
).fit(X[half:], y[half:])
print(f"certified: {tuned.certified_}, tau={tuned.best_tau_:.3f}, ratio {tuned.best_speedup_:.2f}")

# %%
# A year in use
# -------------
# Notes come in batches. From the middle of the year on none is easy, and they hold more that
# distracts. Every other note is audited, so that this script is short; in use one in fifty may do.
# The audit looks back on ``50 / PROMISE`` audited notes, its default.

HARDER = {"easy_fraction": 0.0, "n_distractors": 6, "n_context": 2}
audit = ExitAudit(tuned, max_disagreement=PROMISE, share=0.5, tighten=True, random_state=0)
untouched = copy.deepcopy(tuned)
monitor = ExitMonitor(false_alarm_rate=0.01, random_state=0)
calm = tuned.predict_with_exits(X[half:])
monitor.fit(calm.exit_layer, calm.entropy, tuned.n_layers_)

before, _ = make_supplement_notes(4000, **CALM, random_state=1)
after, _ = make_supplement_notes(6000, **HARDER, random_state=2)
stream = [*before, *after]
size = max(len(stream) // 25, 1)
rows = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ExitAlarmWarning)
    for start in range(0, len(stream), size):
        batch = stream[start : start + size]
        tau = audit.tau_
        labels = audit.predict(batch)  # of the policy in force
        found = untouched.predict_with_exits(batch)  # of the policy that was calibrated
        full_depth = [*untouched.staged_predict(batch)][-1]
        monitor.update(found.exit_layer, found.entropy)
        differ = [np.mean(answers != full_depth) for answers in (labels, found.labels)]
        rows.append([audit.n_seen_, tau, audit.evidence_, monitor.evidence_, *differ])
for warning in caught:
    if issubclass(warning.category, ExitAlarmWarning):
        print(textwrap.fill(f"warning: {warning.message}", 88), end="\n\n")
for name, observer in (("audit", audit), ("monitor", monitor)):
    print(f"{name}:")
    for key, value in observer.report().items():
        print(f"    {key:14} {value:.4g}" if isinstance(value, float) else f"    {key:14} {value}")

# %%
# What was seen, and when
# -----------------------
# The change is sudden, and until enough audited notes show it, the promise is not kept. Then `tau`
# is lowered, step by step; it would rise again if the last audited notes showed that it may. The
# more notes are audited, the sooner that is.

seen, tau, evidence, drift, in_force, as_tuned = np.array(rows).T
changed, lowered = seen > len(before), tau < tuned.best_tau_
print(f"{'mean disagreement with full depth':34} {'as tuned':>8} {'in force':>8}")
for name, part in {
    "before the change": ~changed,
    "after it, until tau was lowered": changed & ~lowered,
    "with a lower tau": changed & lowered,
}.items():
    print(f"{name:34} {as_tuned[part].mean():8.3f} {in_force[part].mean():8.3f}")

# %%
# The evidence is what a bettor has made of 1 who began before the first note. An alarm is raised
# where it reaches 20 for the audit, 100 for the monitor. The monitor sees soon that the notes are
# others (its curve leaves the picture), not whether the promise is kept. The audit has no alarm to
# raise where a lower `tau` keeps the promise.

figure, (top, middle, bottom) = plt.subplots(
    3, 1, sharex=True, figsize=(7, 8), layout="constrained"
)
top.plot(seen, as_tuned, "x", color="#D55E00", label="each batch, policy as tuned")
top.plot(seen, in_force, "o", color="#0072B2", label="each batch, policy in force")
top.axhline(PROMISE, color="0.3", ls="--", label="promise")
top.set(ylabel="disagreement with full depth", ylim=(0, 1.5 * max(PROMISE, as_tuned.max())))
middle.step(seen, tau, where="pre", color="#0072B2")
middle.set(ylabel="tau in force", ylim=(0, None))
bottom.plot(seen, evidence, color="#0072B2", label="audit, policy in force")
bottom.plot(seen, drift, color="#009E73", label="monitor")
bottom.axhline(20, color="#0072B2", ls="--", lw=1, label="alarm of the audit")
bottom.axhline(100, color="#009E73", ls="--", lw=1, label="alarm of the monitor")
bottom.set(yscale="log", ylabel="evidence", xlabel="notes predicted", ylim=(1e-4, 1e4))
for ax in (top, middle, bottom):
    ax.axvline(len(before), color="0.6", lw=1)
    ax.grid(alpha=0.3)
top.legend(fontsize="small", loc="upper left")
bottom.legend(fontsize="small", loc="lower right", ncols=2)
top.set_title("Supplement notes: harder ones from the gray line on")
plt.show()
