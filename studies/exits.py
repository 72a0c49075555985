"""Jobs "exits": one network with an exit after every layer, and the predictions of all exits."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks._data import staged_probabilities
from sklearn_epee import EPEEClassifier, EPEEImageClassifier
from studies.jobs import Folder, Job, Kind, cpu_seconds, reads
from studies.sets import SETS, Part, Parts, score_all, spread


def classifier(
    job: Job,
    backbone: Any,
    text_estimator: type[EPEEClassifier] = EPEEClassifier,
    **parameters: Any,
) -> Any:
    """Return an early-exit classifier for a job, with the package's defaults.

    Parameters
    ----------
    job : Job
        Its seed and its options "n_epochs" and "image_size" become parameters.
    backbone : str or None
        The folder of a checkpoint; None: from scratch.
    text_estimator : type of EPEEClassifier, default=EPEEClassifier
        What classifies texts.
    **parameters
        Other parameters, in place of the defaults.
    """
    given: dict[str, Any] = {
        "max_epochs": job.option("n_epochs", "auto"),
        "memory": None,
        "random_state": job.seed,
    }
    if SETS[job.data].kind == "images":
        if job.option("image_size"):
            given["image_size"] = job.option("image_size")
        return EPEEImageClassifier(backbone, **given | parameters)
    return text_estimator(backbone, **given | parameters)


def fitted(model: Any, part: Part) -> tuple[Any, dict[str, Any]]:
    """Fit a classifier; return it and the cost of its training."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    model.fit(*part)
    return model, {
        "training_wall_seconds": round(time.perf_counter() - wall, 2),
        "training_cpu_seconds": round(cpu_seconds() - cpu, 2),
        "n_epochs": int(model.n_iter_),
        "n_layers": int(model.n_layers_),
        "n_parameters": sum(p.numel() for p in model.net_.module_.parameters()),
        "pooling": getattr(model, "pooling_", "words"),
    }


def staged(model: Any, part: Part, n_classes: int) -> np.ndarray:
    """Return the probabilities of every exit for all classes, (n, M, K) float32, from one pass."""
    return spread(staged_probabilities(model, part.X), model.classes_, n_classes)


def run(job: Job, parts: Parts, folder: Folder) -> dict[str, Any]:
    """Train the network, and store the predictions of every exit for dev and test."""
    model, cost = fitted(classifier(job, folder.backbone), parts.train)
    return keep(job, parts, folder, model) | cost


def keep(job: Job, parts: Parts, folder: Folder, model: Any) -> dict[str, Any]:
    """Save the probabilities of every exit; return the scores of every layer."""
    dev, test = (staged(model, part, len(parts.classes)) for part in (parts.dev, parts.test))
    folder.save_predictions(dev_proba=dev, test_proba=test, dev_y=parts.dev.y, test_y=parts.test.y)
    if job.seed == 0:
        folder.save_model(model)
    return {
        "layers": {
            "dev": [score_all(job.data, parts.dev.y, found) for found in dev.argmax(2).T],
            "test": [score_all(job.data, parts.test.y, found) for found in test.argmax(2).T],
        }
    }


def applies(data: str, backbone: str) -> bool:
    """Return whether there are such jobs: for texts and images, with a suitable backbone."""
    return SETS[data].kind != "spans" and reads(data, backbone)


KINDS = {"exits": Kind(run, applies)}
