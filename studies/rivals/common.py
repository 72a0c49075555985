"""What all rivals share: the choice among a grid on the dev part, and what a job keeps."""

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
    """Return the candidate of the best main score on dev, and what all of them reached there.

    Parameters
    ----------
    job : Job
    parts : Parts
    candidates : iterable of (setting, model, ndarray of shape (n_dev, n_classes))
        One for each point of the grid, with its probabilities on the dev part. Of equal scores the
        smaller log loss wins: dev parts of a hundred samples often tie.

    Returns
    -------
    model : object
    chosen : dict
        "setting", the main score of it, and "tried": setting and score of every candidate.
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
    # A class that was not in the training part has probability 0.
    rows = np.clip(proba.astype(np.float64), 1e-7, None)
    rows /= rows.sum(axis=1, keepdims=True)
    return float(log_loss(y, rows, labels=np.arange(proba.shape[1])))


def proba_of(model: Any, X: Any, parts: Parts) -> NDArray[np.float32]:
    """Return the probabilities of all classes of the data set, (n, K), by a fitted rival.

    A network predicts with its last exit.
    """
    at_layer = getattr(model, "predict_proba_at_layer", None)
    proba = model.predict_proba(X) if at_layer is None else at_layer(X, -1)
    return spread(np.asarray(proba), model.classes_, len(parts.classes))


def keep(
    job: Job, parts: Parts, folder: Folder, model: Any, *, timed: bool = True, **arrays: Any
) -> dict[str, Any]:
    """Save what a rival predicts, and for the clock the rival itself; return its scores.

    Parameters
    ----------
    job : Job
    parts : Parts
    folder : Folder
    model : object
        Fitted on codes.
    timed : bool, default=True
        Whether the clock needs this model; of cut networks it takes the layers of the exits' own.
    **arrays : ndarray
        What else is to be saved beside the predictions.

    Returns
    -------
    dict
        "scores", of the parts dev and test.
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
