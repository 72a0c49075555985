"""
Drift in use, noticed without labels.
=====================================

A policy is certified on notes of one kind. Then notes of another kind come. An
:class:`~sklearn_epee.monitoring.ExitAudit` runs a share of them to full depth and tightens `tau`
when the promise is in danger; an :class:`~sklearn_epee.monitoring.ExitMonitor` watches where notes
exit, which costs nothing. Neither reads a label.

The notes are generated. The script needs matplotlib (the extra ``plots``) and takes some minutes on
two cores.
"""  # noqa: D205 - the gallery reads the underlined first line as the title

import copy
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
# At most one prediction in twenty differs from that of the whole network, with 95 % confidence.

PROMISE = 0.05
X, y = make_supplement_notes(4000, n_distractors=1, random_state=0)
half = len(X) // 2
network = EPEEClassifier(max_epochs=6, random_state=0).fit(X[:half], y[:half])
tuned = TunedExitPolicyClassifierCV(
    FrozenEstimator(network), risk="disagreement", max_risk=PROMISE, confidence=0.95, random_state=0
).fit(X[half:], y[half:])
print(f"certified: {tuned.certified_}, tau={tuned.best_tau_:.3f}, ratio {tuned.best_speedup_:.2f}")

# %%
# A year in use
# -------------
# Notes come in batches. From the middle of the year on they hold more that distracts. One note in
# four is audited, so that this script is short; in use one in fifty may do.

audit = ExitAudit(tuned, max_disagreement=PROMISE, share=0.25, tighten=True, random_state=0)
untouched = copy.deepcopy(tuned)
monitor = ExitMonitor(false_alarm_rate=0.01, random_state=0)
calm = tuned.predict_with_exits(X[half:])
monitor.fit(calm.exit_layer, calm.entropy, tuned.n_layers_)

before, _ = make_supplement_notes(4000, n_distractors=1, random_state=1)
after, _ = make_supplement_notes(4000, n_distractors=4, random_state=2)
stream = [*before, *after]
size = max(len(stream) // 40, 1)
rows = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ExitAlarmWarning)
    for start in range(0, len(stream), size):
        batch = stream[start : start + size]
        audit.predict(batch)
        found = untouched.predict_with_exits(batch)  # of the policy that was calibrated
        full_depth = [*untouched.staged_predict(batch)][-1]
        monitor.update(found.exit_layer, found.entropy)
        state = audit.report()
        rows.append(
            [state[name] for name in ("n_seen", "low", "high", "tau", "evidence")]
            + [monitor.evidence_, np.mean(found.labels != full_depth)]
        )
for warning in caught:
    if issubclass(warning.category, ExitAlarmWarning):
        print(f"warning: {warning.message}")
print(audit.report())
print(monitor.report())

# %%
# What was seen, and when
# -----------------------
# The interval holds at all times at once. The evidence is what a bettor has made of 1 who began
# before the first note; an alarm is raised at 20 for the audit, at 100 for the monitor.

seen, low, high, tau, evidence, drift, disagreement = np.array(rows).T
figure, (top, middle, bottom) = plt.subplots(
    3, 1, sharex=True, figsize=(7, 8), layout="constrained"
)
top.fill_between(seen, low, high, color="#0072B2", alpha=0.25, label="interval, policy in force")
top.plot(seen, disagreement, ".", color="#D55E00", label="each batch, policy as calibrated")
top.axhline(PROMISE, color="0.3", ls="--", label="promise")
top.set(ylabel="disagreement with full depth", ylim=(0, max(0.2, disagreement.max() * 1.1)))
middle.step(seen, tau, where="post", color="#0072B2")
middle.set(ylabel="tau in force", ylim=(0, None))
bottom.plot(seen, np.maximum(evidence, 1e-3), color="#0072B2", label="audit, policy in force")
bottom.plot(seen, np.maximum(drift, 1e-3), color="#009E73", label="monitor")
bottom.axhline(20, color="#0072B2", ls="--", lw=1)
bottom.axhline(100, color="#009E73", ls="--", lw=1)
bottom.set(yscale="log", ylabel="evidence", xlabel="notes predicted")
for ax in (top, middle, bottom):
    ax.axvline(len(before), color="0.6", lw=1)
    ax.grid(alpha=0.3)
top.legend(fontsize="small")
bottom.legend(fontsize="small")
top.set_title("Supplement notes: more that distracts from the middle on")
plt.show()
