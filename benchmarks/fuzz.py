"""Generated inputs through validation, parameters, labels and exit policies.

    python -m benchmarks.fuzz [--n 100000] [--seed 0] [--out FOLDER]

Every input must either be accepted, with a result as documented, or raise a ValueError or TypeError
with a message. Anything else is printed with the seed that reproduces it: another error, a policy
that differs from its definition, or an input that takes longer than `SECONDS`. In this case, the
command exits with 1; otherwise counts are written to ``fuzz.md``.
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import math
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks._report import describe, machine
from sklearn_epee import EntityMarker, EPEEClassifier
from sklearn_epee._base.parameters import check_parameters
from sklearn_epee._base.sentences import as_sentences, as_tags
from sklearn_epee._checks.images import as_images
from sklearn_epee._checks.labels import check_groups, check_weights
from sklearn_epee._checks.multilabel import check_label_targets
from sklearn_epee._checks.tasks import check_any_labels
from sklearn_epee._checks.texts import as_texts
from sklearn_epee._checks.texts_with_images import as_cases
from sklearn_epee.metrics import speedup_ratio
from sklearn_epee.policy import apply_policy, normalized_entropy

# Maximum time of a single input; most take less than a thousandth of it.
SECONDS = 10
N_ROWS = 6
# Sentences of three words for tags.
TAGGED = ["aspirin helps pain"] * N_ROWS

Rng = np.random.Generator


class TookTooLongError(Exception):
    """An input was not decided in `SECONDS`."""


class WrongError(Exception):
    """A result is not as documented."""


# ------------------------------------------------------------------------------------ the inputs

WORDS = (
    "",
    " ",
    "aspirin",
    "a\x00b",
    "\ud800",
    "é" * 40,
    "\u202e",
    "[E1]",
    "NaN",
    "O",
    "B-X",
    "\U0001d518",
)
SCALARS: tuple[Callable[[Rng], Any], ...] = (
    lambda _: None,
    lambda rng: bool(rng.integers(2)),
    lambda rng: int(rng.integers(-3, 10)),
    lambda _: 10**30,
    lambda rng: float(rng.normal()),
    lambda rng: (math.nan, math.inf, -math.inf, -0.0, 1e308)[rng.integers(5)],
    lambda rng: complex(rng.normal(), 1),
    lambda _: Fraction(1, 3),
    lambda _: Decimal("NaN"),
    lambda rng: WORDS[rng.integers(len(WORDS))],
    lambda rng: WORDS[rng.integers(2, len(WORDS))],
    lambda _: b"bytes",
    lambda _: dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    lambda _: pd.NA,
    lambda _: pd.NaT,
    lambda _: object(),
    lambda _: Path("nowhere.png"),
    lambda rng: np.float32(rng.normal()),
    lambda rng: np.int8(rng.integers(-5, 5)),
    lambda rng: Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8)),
    lambda _: type,
)
DTYPES = ("u1", "i8", "f2", "f4", "f8", "?", "c16", "U3", "S3", "O", "M8[D]", "m8[s]")


def scalar(rng: Rng) -> Any:
    """Return a value without parts."""
    return SCALARS[rng.integers(len(SCALARS))](rng)


def array(rng: Rng, *shape: int) -> Any:
    """Return an array of any type, of the given shape or of any."""
    shape = shape or tuple(rng.integers(0, 4, rng.integers(0, 5)))
    dtype = np.dtype(DTYPES[rng.integers(len(DTYPES))])
    if dtype.kind == "O":
        filled = np.empty(shape, object)
        for place in np.ndindex(*shape):
            filled[place] = scalar(rng)
        return filled
    numbers = rng.integers(-3, 200, shape)
    if dtype.kind == "f" and rng.random() < 0.3:
        return np.where(rng.random(shape) < 0.2, np.nan, rng.random(shape)).astype(dtype)
    return numbers.astype(dtype)


def nested(rng: Rng, depth: int = 2) -> Any:
    """Return a value of any kind, with parts to a depth."""
    if depth == 0 or rng.random() < 0.3:
        return scalar(rng) if rng.random() < 0.8 else array(rng)
    parts = [nested(rng, depth - 1) for _ in range(rng.integers(0, N_ROWS + 1))]
    return container(rng, parts)


def container(rng: Rng, parts: list[Any]) -> Any:
    """Return parts in a container of any kind."""
    kind = rng.integers(9)
    if kind < 4:
        return list(parts)
    if kind == 4:
        return tuple(parts)
    if kind == 5:
        return {str(i): part for i, part in enumerate(parts)}
    if kind == 6:
        return pd.Series(parts, dtype=object)
    if kind == 7:
        filled = np.empty(len(parts), object)
        filled[:] = parts
        return filled
    return (part for part in parts)


def column(rng: Rng) -> Any:
    """Return `N_ROWS` values of one kind, some of them perhaps of another."""
    if rng.random() < 0.25:
        return array(rng, N_ROWS)
    make = SCALARS[rng.integers(len(SCALARS))]
    values = [make(rng) for _ in range(N_ROWS)]
    if rng.random() < 0.4:
        values[rng.integers(N_ROWS)] = scalar(rng)
    return container(rng, values)


def any_samples(rng: Rng) -> Any:
    """Return samples of any kind: nested values, columns, frames."""
    choice = rng.random()
    if choice < 0.4:
        return nested(rng, 3)
    if choice < 0.75:
        return column(rng)
    names = ("text", "image", "span1", "span2")[: rng.integers(1, 5)]
    columns = {name: pd.Series([scalar(rng) for _ in range(3)], dtype=object) for name in names}
    return pd.DataFrame(columns)


def some_probabilities(rng: Rng) -> Any:
    """Return staged probabilities, most of them valid."""
    n, n_layers, n_classes = rng.integers(1, 6), rng.integers(1, 7), rng.integers(2, 5)
    proba = rng.dirichlet(np.full(n_classes, 0.3), (n, n_layers))
    choice = rng.random()
    if choice < 0.7:
        return proba if rng.random() < 0.7 else proba.astype(np.float32)
    if choice < 0.85:
        place = tuple(rng.integers(0, size) for size in proba.shape)
        proba[place] = (math.nan, math.inf, -0.5, 2.0)[rng.integers(4)]
        return proba
    return (proba.tolist(), proba[0], proba.astype(str), [proba, proba], nested(rng, 3),
            array(rng))[rng.integers(6)]  # fmt: skip


# ----------------------------------------------------------------------------------- the targets


def mostly_texts(rng: Rng) -> Any:
    """Return a column of strings, pairs or lists of words, some of them odd."""
    words = list(WORDS if rng.random() < 0.3 else WORDS[1:4])
    rows: list[Any] = [words[rng.integers(len(words))] for _ in range(N_ROWS)]
    if rng.random() < 0.3:
        rows = [(row, row) for row in rows]
    elif rng.random() < 0.3:
        rows = [row.split() for row in rows]
    if rng.random() < 0.3:
        rows[rng.integers(N_ROWS)] = scalar(rng)
    return container(rng, rows) if rng.random() < 0.5 else rows


def mostly_images(rng: Rng) -> Any:
    """Return images, some of them odd."""
    side, n_channels = rng.integers(1, 5), (1, 2, 3, 4)[rng.integers(4)]
    rows = [rng.integers(0, 255, (side, side, n_channels)) for _ in range(3)]
    rows = [row.astype(DTYPES[rng.integers(5)]) for row in rows]
    if rng.random() < 0.3:
        rows[rng.integers(3)] = scalar(rng) if rng.random() < 0.5 else array(rng)
    return rows if rng.random() < 0.5 else container(rng, rows)


def some_tags(rng: Rng, kind: str, *, texts: bool) -> Any:
    """Return the tags or spans of a sentence of three words, some of them odd."""
    if kind == "layers":
        return {name: some_tags(rng, "spans", texts=texts) for name in "ab"}
    if kind == "tags":
        names = ("O", "B-X", "O", "I-Y", "E-X", "S-X", "X", "B-")
        return [names[rng.integers(3 if rng.random() < 0.9 else len(names))] for _ in range(3)]
    spans = []
    for start in rng.permutation(3)[: rng.integers(0, 3)].tolist():
        place = ((0, 7), (8, 13), (14, 18))[start] if texts else (start, start + 1)
        if rng.random() < 0.05:
            place = (int(rng.integers(-1, 20)), int(rng.integers(-1, 20)))
        spans.append((*place, "X" if rng.random() < 0.9 else scalar(rng)))
    return spans


def texts(rng: Rng) -> None:
    """Check texts: str, or tuples of two."""
    found = as_texts(mostly_texts(rng) if rng.random() < 0.5 else any_samples(rng))
    _demand(all(type(text) is str or [type(part) for part in text] == [str, str] for text in found))


def sentences(rng: Rng) -> None:
    """Check texts or lists of words."""
    found = as_sentences(mostly_texts(rng) if rng.random() < 0.5 else any_samples(rng))
    _demand(all(isinstance(word, str) for sentence in found for word in sentence.words))


def tags(rng: Rng) -> None:
    """Check tags, or spans, of texts or lists of words, in one layer or several."""
    texts = bool(rng.integers(2))
    kind = ("tags", "spans", "layers")[rng.integers(3)]
    y_rows = [some_tags(rng, kind, texts=texts) for _ in TAGGED]
    if rng.random() < 0.3:
        y_rows[rng.integers(len(y_rows))] = nested(rng, 2)
    y = container(rng, y_rows) if rng.random() < 0.5 else y_rows
    if rng.random() < 0.2:
        y = any_samples(rng)
    sentences = as_sentences(TAGGED if texts else [text.split() for text in TAGGED])
    scheme = ("IOB2", "BIOES", "IO")[rng.integers(3)]
    found = as_tags(y, sentences, scheme, skip_misfits=bool(rng.integers(2)))
    counts = [len(sentence.words) for sentence in sentences]
    _demand(all([len(row) for row in layer] == counts for layer in found.tags.values()))


def images(rng: Rng) -> None:
    """Check images: numeric arrays with channels at the end."""
    shape = None if rng.random() < 0.7 else nested(rng, 1)
    found = as_images(mostly_images(rng) if rng.random() < 0.5 else any_samples(rng), shape)
    _demand(all(np.asarray(image).ndim == 3 for image in found))


def cases(rng: Rng) -> None:
    """Check texts with images."""
    samples = any_samples(rng)
    if rng.random() < 0.5:
        samples = list(zip(mostly_texts(rng), mostly_images(rng), strict=False))
    found = as_cases(samples, "text", "image")
    _demand(all(text is not None or image is not None for text, image in found))


def labels(rng: Rng) -> None:
    """Check labels of one or several tasks."""
    found = check_any_labels(column(rng), N_ROWS, "EPEEClassifier")
    _demand(all(len(part) == N_ROWS for part in (found if isinstance(found, list) else [found])))


def label_sets(rng: Rng) -> None:
    """Check indicators and sets of labels."""
    y = column(rng) if rng.random() < 0.3 else [column(rng) for _ in range(N_ROWS)]
    if rng.random() < 0.4:
        y = [list("abcd"[: rng.integers(5)]) for _ in range(N_ROWS)]
    elif rng.random() < 0.4:
        y = container(rng, rng.integers(0, 2, (N_ROWS, 3)).tolist())
    check_label_targets(y, N_ROWS)


def weights(rng: Rng) -> None:
    """Check sample weights: finite and not negative."""
    found = check_weights(column(rng), N_ROWS)
    _demand(bool(np.isfinite(found).all() and (found >= 0).all()))


def groups(rng: Rng) -> None:
    """Check groups."""
    found = check_groups(column(rng), N_ROWS)
    _demand(found is None or found.shape == (N_ROWS,))


def parameters(rng: Rng) -> None:
    """Check a constructor parameter."""
    names = sorted(EPEEClassifier._parameter_constraints)
    model = EPEEClassifier(**{names[rng.integers(len(names))]: nested(rng, 2)})
    model._validate_params()
    check_parameters(model)


def marks(rng: Rng) -> None:
    """Mark entities in rows of texts with spans."""
    row = ("aspirin helps pain", (0, 7), (14, 18))
    rows = [row] * 2 if rng.random() < 0.2 else any_samples(rng)
    if rng.random() < 0.5:
        rows = [(row[0], nested(rng, 1), nested(rng, 1))]
    found = EntityMarker().fit_transform(rows)
    _demand(all(isinstance(text, str) for text in found))


def entropies(rng: Rng) -> None:
    """Compute normalized entropies: from 0 to 1."""
    found = normalized_entropy(some_probabilities(rng))
    _demand(bool(np.all((found >= 0) & (found <= 1 + 1e-6) | np.isnan(found))))


def ratios(rng: Rng) -> None:
    """Compute speed-up ratios: from 0 to 1."""
    exits = rng.integers(1, 5, 4) if rng.random() < 0.5 else column(rng)
    found = speedup_ratio(exits, 4 if rng.random() < 0.7 else scalar(rng))
    _demand(0 <= found <= 1)


def policies(rng: Rng) -> None:
    """Apply exit policies, and compare them with their definition."""
    proba = some_probabilities(rng)
    tau = float(rng.choice([0.0, 0.1, 0.5, 1.0, 1.5])) if rng.random() < 0.8 else scalar(rng)
    patience = int(rng.integers(1, 7)) if rng.random() < 0.8 else scalar(rng)
    found = apply_policy(proba, tau, patience)
    if isinstance(proba, np.ndarray) and proba.dtype.kind == "f" and not np.isnan(proba).any():
        _demand(found.exit_layer.tolist() == by_definition(proba, float(tau), patience))


def by_definition(proba: Any, tau: float, patience: int | None) -> list[int]:
    """Return exit layers as the method defines them, sample by sample, layer by layer."""
    n_layers = proba.shape[1]
    patience = n_layers if patience is None else int(patience)
    exits = []
    for sample in proba:
        agreed, before = 0, None
        for layer, row in enumerate(sample, start=1):
            predicted = int(row.argmax())
            agreed = agreed + 1 if predicted == before else 1
            before = predicted
            entropy = float(normalized_entropy(row[np.newaxis])[0])
            if entropy < tau or agreed >= patience or layer == n_layers:
                exits.append(layer)
                break
    return exits


def _demand(holds: bool) -> None:
    if not holds:
        raise WrongError("what came back is not as documented")


TARGETS: dict[str, Callable[[Rng], None]] = {
    target.__name__: target
    for target in (
        texts, sentences, tags, images, cases, labels, label_sets, weights, groups, parameters,
        marks, entropies, ratios, policies,
    )
}  # fmt: skip


# ----------------------------------------------------------------------------------- the command


def outcome(target: Callable[[Rng], None], seed: tuple[int, ...]) -> tuple[str, str]:
    """Return the outcome of an input, "taken", "refused" or "wrong", and the error message."""
    try:
        with at_most(SECONDS):
            target(np.random.default_rng(seed))
    except (ValueError, TypeError) as error:
        return ("refused" if says_why(error) else "wrong"), said(error)
    except Exception as error:  # noqa: BLE001 - the others are what this looks for
        return "wrong", said(error)
    return "taken", ""


def says_why(error: Exception) -> bool:
    """Return whether an error has a message of the package.

    The error must come from a check: a line of this package, or of the validation that it calls in
    scikit-learn, raised it.
    """
    frames = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    ours = "sklearn_epee" in frames[-1] or "sklearn" in frames[-1]
    return ours and len(str(error)) > 15


def said(error: Exception) -> str:
    """Return an error with the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise an error in the block after a number of seconds, if the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"not decided after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(n: int, seed: int) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """Return the counts of each target, and a line for every wrong input."""
    counts = {name: collections.Counter[str]() for name in TARGETS}
    wrong = []
    for number in range(n):
        name = list(TARGETS)[number % len(TARGETS)]
        found, error = outcome(TARGETS[name], (seed, number))
        counts[name][found] += 1
        if found == "wrong":
            wrong.append(f"{name}, seed ({seed}, {number}): {error}")
    return counts, wrong


def report(counts: dict[str, collections.Counter[str]], seconds: float, seed: int) -> str:
    """Return the counts as a table."""
    rows = [
        f"| {name} | {TARGETS[name].__doc__.rstrip('.')} | {found['taken']:,} | "
        f"{found['refused']:,} | {found['wrong']:,} |"
        for name, found in counts.items()
    ]
    total = sum(found.total() for found in counts.values())
    return "\n".join([
        describe(machine("cpu")), "",
        f"Command: `python -m benchmarks.fuzz --n {total} --seed {seed}`, {seconds:.0f} s.", "",
        "| inputs | what is done | taken | refused | wrong |", "| --- | --- | --- | --- | --- |",
        *rows, "",
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 1 if there are wrong inputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    counts, wrong = run(given.n, given.seed)
    text = report(counts, time.perf_counter() - began, given.seed)
    print(text, *wrong[:50], sep="\n")
    if not wrong:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "fuzz.md").write_text(text)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
