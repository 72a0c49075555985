"""Small parts of data sets as jobs are given them, and folders for their results."""

from __future__ import annotations

import dataclasses

import numpy as np

from studies.jobs import Folder
from studies.sets import Part, Parts


def text_parts(seed=0):
    """Texts whose class says whether zinc or iron comes first, or neither is there."""
    rng = np.random.default_rng(seed)

    def part(n):
        X, y = [], []
        for code in rng.permutation(np.arange(n) % 3):
            words = list(rng.choice(["pain", "rash", "dose", "daily"], 4))
            found = [["zinc", "iron"], ["iron", "zinc"], ["mild", "mild"]][code]
            X.append(" ".join([words[0], found[0], *words[1:3], found[1], words[3]]))
            y.append(code)
        return Part(X, np.array(y))

    return Parts(part(30), part(12), part(12), np.array(["a", "b", "c"]), "texts", "accuracy")


def marked_parts():
    """The same texts, with marks around their second and their second last word."""

    def marked(part):
        rows = [text.split(" ") for text in part.X]
        X = [
            " ".join([row[0], f"[E1] {row[1]} [/E1]", *row[2:-2], f"[E2] {row[-2]} [/E2]", row[-1]])
            for row in rows
        ]
        return Part(X, part.y)

    plain = text_parts()
    return dataclasses.replace(
        plain, train=marked(plain.train), dev=marked(plain.dev), test=marked(plain.test)
    )


def image_parts(n_channels=1, n_classes=2, size=12):
    """Images that are dark or bright, one class left out of the training part."""
    rng = np.random.default_rng(0)
    shape = (size, size) if n_channels == 1 else (size, size, n_channels)

    def part(n, classes):
        y = np.arange(n) % classes
        X = rng.integers(0, 60, (n, *shape)) + 60 * y.reshape(-1, *[1] * len(shape))
        return Part(X.astype(np.uint8), y)

    names = np.array([f"c{k}" for k in range(n_classes + 1)])
    train = part(24, n_classes)
    return Parts(
        train, part(12, n_classes + 1), part(12, n_classes + 1), names, "images", "accuracy"
    )


def folder_for(job, tmp_path, backbone=None):
    folder = Folder(tmp_path / job.name, tmp_path, backbone)
    folder.path.mkdir(parents=True)
    return folder
