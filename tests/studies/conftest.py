"""Small data sets in the layout that the study reads."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest

from sklearn_epee.datasets import make_supplement_notes
from studies.collect import collect
from tests.studies.made_up import write_study

SIZES = {"train": 40, "dev": 20, "test": 24}


def write_texts(home, name, classes, header=("text", "label")):
    """Write a set of texts; sentences of each class have words of their own."""
    for seed, (part, n) in enumerate(SIZES.items()):
        X, y = make_supplement_notes(n, random_state=seed)
        codes = np.unique(y, return_inverse=True)[1] % len(classes)
        rows = [
            [text, classes[code], *[f"{row}_0"] * (len(header) - 2)]
            for row, (text, code) in enumerate(zip(X, codes, strict=True))
        ]
        write_rows(home / name, part, header, rows)


def write_rows(folder, part, header, rows):
    """Write the file of a part of a set of texts."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f"{part}.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="session")
def data_home(tmp_path_factory):
    """A folder with phee (texts) and breastmnist (images), a few samples each."""
    home = tmp_path_factory.mktemp("data")
    classes = ("Adverse_event", "Potential_therapeutic_event")
    write_texts(home, "phee", classes, ("text", "label", "trigger", "events", "id"))
    arrays = {}
    for seed, (part, n) in enumerate(SIZES.items()):
        draw = np.random.default_rng(seed)
        labels = draw.integers(2, size=n)
        images = draw.integers(100, size=(n, 28, 28)) + 100 * labels[:, None, None]
        name = {"dev": "val"}.get(part, part)
        arrays[f"{name}_images"] = images.astype(np.uint8)
        arrays[f"{name}_labels"] = labels[:, None].astype(np.uint8)
    (home / "medmnist").mkdir()
    np.savez(home / "medmnist" / "breastmnist.npz", **arrays)
    return home


def sentence(row, draw):
    """Return a sentence of PHEE's source with one event: a trigger, an effect and a drug."""
    trigger, effect, drug = (
        draw.choice(words)
        for words in (("caused", "led to"), ("rash", "severe pain"), ("zinc", "iron", "aspirin"))
    )
    text = f"Patient {row}: {drug} {trigger} {effect}."

    def found(words):
        return {"text": [[words]], "start": [[text.index(words)]]}

    event = {
        "event_type": "Adverse_event",
        "Trigger": found(trigger),
        "Effect": found(effect),
        "Treatment": found(drug) | {"Drug": found(drug)},
    }
    return {"id": f"{row}_0", "context": text, "annotations": [{"events": [event]}]}


@pytest.fixture(scope="session")
def events_home(tmp_path_factory):
    """A folder with the events of phee: sentences of a few words."""
    home = tmp_path_factory.mktemp("events")
    (home / "phee").mkdir()
    draw = np.random.default_rng(0)
    for part, n in SIZES.items():
        lines = [json.dumps(sentence(row, draw)) for row in range(n)]
        (home / "phee" / f"{part}.json").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture(scope="session")
def made_up_out(tmp_path_factory):
    """A folder of results of several sets, backbones, seeds and kinds, none of them real."""
    out = tmp_path_factory.mktemp("out")
    write_study(out)
    return out


@pytest.fixture(scope="session")
def study(made_up_out):
    """What is collected from them."""
    return collect(made_up_out, n_draws=40)
