"""Common parts of all rivals: the choice from a grid on the dev part, and the stored results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from studies.jobs import Folder, Job
from studies.sets import Parts, score_all, spread

Setting = dict[str, Any]
Proba = NDArray[np.floating]


def tuned(
    job: Job, parts: Parts, candidates: Iterable[tuple[Setting, Any, Proba]]
) -> tuple[Any, dict[str, Any]]:
    """Return the candidate with the best main score on dev, and the dev scores of all.

    Parameters
    ----------
    job : Job
    parts : Parts
    candidates : iterable of (setting, model, ndarray of shape (n_dev, n_classes))
        One for each point of the grid, with its probabilities on the dev part. Ties, which are
        frequent in small dev parts, are broken by the log loss.

    Returns
    -------
    model : object
    chosen : dict
        "setting", its main score, and "tried": setting and score of every candidate.
    """
    best, tried = None, []
    for setting, model, proba in candidates:
        score = score_all(job.data, parts.dev.y, proba.argmax(1))[parts.main_score]
        merit = score, -_log_loss(parts.dev.y, proba)
        tried.append({"setting": setting, "dev": round(score, 4)})
        if best is None or merit > best[0]:
            best = merit, setting, model
    if best is None:
        raise ValueError("candidates is empty; expected one model at least.")
    return best[2], {"setting": best[1], "tried": tried}


def _log_loss(y: NDArray[np.integer], proba: Proba) -> float:
    # Classes that are not in the training part have probability 0.
    rows = np.clip(proba.astype(np.float64), 1e-7, None)
    rows /= rows.sum(axis=1, keepdims=True)
    return float(log_loss(y, rows, labels=np.arange(proba.shape[1])))


def proba_of(model: Any, X: Any, parts: Parts) -> NDArray[np.float32]:
    """Return the probabilities of a fitted rival for all classes of the data set, (n, K).

    Networks predict with their last exit.
    """
    at_layer = getattr(model, "predict_proba_at_layer", None)
    proba = model.predict_proba(X) if at_layer is None else at_layer(X, -1)
    return spread(np.asarray(proba), model.classes_, len(parts.classes))


def keep(
    job: Job, parts: Parts, folder: Folder, model: Any, *, timed: bool = True, **arrays: Any
) -> dict[str, Any]:
    """Save the predictions of a rival, and its model for the clock; return its scores.

    Parameters
    ----------
    job : Job
    parts : Parts
    folder : Folder
    model : object
        Fitted on codes.
    timed : bool, default=True
        Whether to save the model for the clock, which does not need that of cut networks.
    **arrays : ndarray
        Further arrays to save.

    Returns
    -------
    dict
        "scores" of dev and test.
    """
    found = {name: proba_of(model, getattr(parts, name).X, parts) for name in ("dev", "test")}
    truth = {name: getattr(parts, name).y for name in found}
    folder.save_predictions(
        **{f"{name}_proba": proba for name, proba in found.items()},
        **{f"{name}_pred": proba.argmax(1) for name, proba in found.items()},
        **{f"{name}_y": y for name, y in truth.items()},
        **arrays,
    )
    if timed and job.seed == 0:
        folder.save_model(model)
    return {
        "scores": {
            name: score_all(job.data, truth[name], proba.argmax(1)) for name, proba in found.items()
        }
    }
