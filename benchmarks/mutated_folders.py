"""Damage folders of `save_pretrained` in thousands of ways, and load them.

    python -m benchmarks.mutated_folders                     # 5,000 of them, and the table
    python -m benchmarks.mutated_folders --mutations 200 --out ""

Half of the mutated folders also get a matching manifest, as an attacker would write it. Counted
outcomes: refused with a `ModelFolderError`; loaded with equal predictions; loaded as another model,
which is only possible with a changed manifest. Anything else is a fault and is listed with the
number that reproduces it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import json
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from transformers import BertConfig, ViTConfig

from sklearn_epee import EPEEClassifier, EPEEImageClassifier, TunedExitPolicyClassifierCV
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.exceptions import ModelFolderError

from ._report import describe, machine

OUT = Path("benchmarks/results/mutated_folders.md")
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 8}  # fmt: skip
SECONDS = 20
# Limit of additional address space of the process, in bytes.
MEMORY = 3 * 2**30
STRANGE = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -0.5, "", "../x", "/etc/passwd", "nan", [],
    {}, [[]], {"type": "array"}, "x" * 10**5, {"type": "float", "value": "inf"},
]  # fmt: skip


class TooLongError(BaseException):
    """Loading took too long."""


# ------------------------------------------------------------------------------------ models


def models() -> Iterator[tuple[Any, Any]]:
    """Yield very small fitted estimators, with samples."""
    X, y = make_supplement_notes(60, random_state=0)
    training = {"max_epochs": 1, "random_state": 0, "device": "cpu", "precision": "float32"}
    config = BertConfig(vocab_size=80, max_position_embeddings=24, **SIZES)
    texts = EPEEClassifier(config, max_length=24, **training).fit(X, y)
    yield texts, X[:4]
    tuner = TunedExitPolicyClassifierCV(
        FrozenEstimator(texts), max_accuracy_drop=0.5, confidence=0.5
    )
    yield tuner.fit(X, y), X[:4]
    digits = load_digits(n_class=2)
    pixels = digits.images.astype(np.uint8)[:40]
    image_config = ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
    images = EPEEImageClassifier(image_config, **training)
    yield images.fit(pixels, digits.target[:40]), pixels[:4]


# --------------------------------------------------------------------------------- mutations


def flip_bits(folder: Path, rng: random.Random) -> None:
    path = _file(folder, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    path = _file(folder, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def overwrite_part(folder: Path, rng: random.Random) -> None:
    path = _file(folder, rng)
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + rng.randrange(64)] = rng.randbytes(rng.randrange(64))
    path.write_bytes(content)


def change_json(folder: Path, rng: random.Random) -> None:
    path = _file(folder, rng, ".json")
    document = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(rng.choice([1, 1, 1, 3])):
        _change(document, rng)
    path.write_text(json.dumps(document), encoding="utf-8")


def change_header(folder: Path, rng: random.Random) -> None:
    """Change the header of a safetensors file."""
    path = _file(folder, rng, ".safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    _change(header, rng)
    new_header = json.dumps(header).encode()
    size = rng.choice([len(new_header), len(new_header), 2**62, 0])
    path.write_bytes(size.to_bytes(8, "little") + new_header + content[8 + length :])


def remove_file(folder: Path, rng: random.Random) -> None:
    _file(folder, rng).unlink()


def add_file(folder: Path, rng: random.Random) -> None:
    name = rng.choice(["model.pkl", "backbone/model.py", "backbone/tokenizer.model", "a.json"])
    (folder / name).write_bytes(rng.randbytes(20))


def swap_files(folder: Path, rng: random.Random) -> None:
    first, second = _file(folder, rng), _file(folder, rng)
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


MUTATIONS: list[Callable[[Path, random.Random], None]] = [
    flip_bits, truncate, overwrite_part, change_json, change_json, change_json, change_header,
    remove_file, add_file, swap_files,
]  # fmt: skip


def _file(folder: Path, rng: random.Random, ending: str = "") -> Path:
    paths = sorted(path for path in folder.rglob(f"*{ending}") if path.is_file())
    return rng.choice([path for path in paths if path.name != "README.md"])


def _change(document: Any, rng: random.Random) -> None:
    """Change one value somewhere inside a document."""
    places = list(_places(document))
    if not places:
        return
    holder, key = rng.choice(places)
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * rng.choice([2, -1, 10**6, 0, 0.5])
    elif way == 2:
        other, name = rng.choice(places)
        holder[key] = copy.deepcopy(other[name])
    else:
        holder[key] = copy.deepcopy(rng.choice(STRANGE))


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = []
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    for key in keys:
        yield document, key
        yield from _places(document[key])


def sign(folder: Path) -> None:
    """Update sizes and checksums in the manifest, if it can be read."""
    path = folder / "manifest.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["files"] = {
            part.relative_to(folder).as_posix(): {
                "size": part.stat().st_size,
                "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
            }
            for part in sorted(folder.rglob("*"))
            if part.is_file() and part.name not in ("manifest.json", "README.md")
        }
        path.write_text(json.dumps(manifest), encoding="utf-8")


# ------------------------------------------------------------------------------------ outcome


def outcome(cls: Any, folder: Path, X: Any, expected: Any) -> str:
    """Load a folder, predict if this succeeds, and return the outcome."""
    try:
        with _limited(SECONDS):
            loaded = cls.from_pretrained(folder)
    except ModelFolderError:
        return "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"fault in loading: {type(error).__name__}: {error!s:.200}"
    try:
        with _limited(SECONDS):
            found = loaded.predict_proba(X), loaded.predict_exit_layer(X)
    except ValueError as error:
        # Such as a tau that is a string, which raises the usual error.
        return "loaded, refuses to predict" if str(error) else "fault in predicting"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"fault in predicting: {type(error).__name__}: {error!s:.200}"
    same = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    return "loaded, equal" if same else "loaded, another model"


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(n_mutations: int, seed: int = 0) -> tuple[Counter[tuple[str, bool, str]], list[str], float]:
    """Return counts by mutation and outcome, the faults, and the longest time in seconds."""
    counts: Counter[tuple[str, bool, str]] = Counter()
    faults, longest = [], 0.0
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = []
        for number, (fitted, X) in enumerate(models()):
            fitted.save_pretrained(Path(scratch) / str(number))
            saved.append((type(fitted), X, (fitted.predict_proba(X), fitted.predict_exit_layer(X))))
        for number in range(n_mutations):
            rng = random.Random(seed + number)  # noqa: S311 - mutations, no secrets
            which = rng.randrange(len(saved))
            folder = Path(scratch) / "mutated"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(Path(scratch) / str(which), folder)
            mutate = rng.choice(MUTATIONS)
            mutate(folder, rng)
            signed = rng.random() < 0.6
            if signed:
                sign(folder)
            start = time.perf_counter()
            cls, X, expected = saved[which]
            result = outcome(cls, folder, X, expected)
            longest = max(longest, time.perf_counter() - start)
            is_wrong = "fault" in result or (not signed and result == "loaded, another model")
            if is_wrong:
                faults.append(f"{seed + number} {mutate.__name__} signed={signed}: {result}")
            kind = result.partition(":")[0]
            counts[mutate.__name__, signed, kind] += 1
    return counts, faults, longest


def table(counts: Counter[tuple[str, bool, str]]) -> str:
    """Return the counts as a table of Markdown."""
    kinds = sorted({kind for _, _, kind in counts})
    lines = [f"| mutation | manifest | {' | '.join(kinds)} |", "| --- " * (2 + len(kinds)) + "|"]
    for name, signed in sorted({key[:2] for key in counts}):
        cells = " | ".join(str(counts[name, signed, kind]) for kind in kinds)
        lines.append(f"| {name} | {'fits' if signed else 'as it was'} | {cells} |")
    totals = " | ".join(str(sum(n for key, n in counts.items() if key[2] == k)) for k in kinds)
    return "\n".join([*lines, f"| all | | {totals} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(OUT))
    arguments = parser.parse_args()
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts, faults, longest = run(arguments.mutations, arguments.seed)
    about = describe(machine("cpu")).strip()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    command = f"--mutations {arguments.mutations} --seed {arguments.seed}"
    summary = (
        f"Faults: {len(faults)}. Longest loading and predicting: {longest:.1f} s; largest memory "
        f"of the whole run: {peak:.0f} MiB, with {MEMORY // 2**20} MiB allowed beyond the start."
    )
    lines = ["# Mutated model folders", ""]
    lines += [f"`python -m benchmarks.mutated_folders {command}`, {about}", "", table(counts), ""]
    text = "\n".join([*lines, summary, *(f"- {fault}" for fault in faults), ""])
    print(text)
    if arguments.out:
        Path(arguments.out).write_text(text, encoding="utf-8")


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
