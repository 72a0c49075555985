"""Serve real sentences with a token classifier, and compare every answer with its predictions.

Run from the repository root, with the data folder in the environment variable
``SKLEARN_EPEE_DATA`` and the folder of a checkpoint (the rates are those of all-MiniLM-L6-v2):

    python -m benchmarks.served_words FOLDER --n-train 300 --n-texts 200

It trains `EPEETokenClassifier` on a part of PHEE's events, for one or two CPU minutes, and sends
test sentences at random times to `AsyncPredictor` and, on loopback, to `examples/service` with the
saved folder: once with sentences that exit as a whole, once with words that exit one by one. Spans,
exit layers and probabilities must equal those of ``predict_with_exits``. To measure times, run
``python -m benchmarks.serving --model FILE --tau 0.25 --name serving_words --out
benchmarks/results`` with one of the printed files.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import tempfile
from pathlib import Path

import joblib
import torch

from benchmarks._report import describe, machine
from benchmarks.events import kept
from benchmarks.relations import write
from benchmarks.serving import EARLY, Rival, load, service
from benchmarks.tuned_words import part, trained

RESULTS = Path(__file__).parent / "results" / "served_words.md"
READING = """\
Requests come at random times, one a sentence. Right: spans, tags' probabilities (within 1e-4) and
exit layers are those of `predict_with_exits`. Undecided are sentences with an entropy within 1e-5
of tau, which may exit elsewhere; they count as right. Spans are those predicted in all."""
# Long enough that no request times out.
TIMEOUT = 120.0
COUNTS = ("requests", "right", "wrong", "late", "refused", "failed", "lost")


def on_loopback(folder, rival, arrivals):
    """Return the outcomes of requests that were sent to the example by HTTP."""
    import httpx  # noqa: PLC0415 - an extra

    async def run(url):
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:

            async def ask(number):
                row = number % len(rival.samples)
                response = await client.post("/predict", json={"text": rival.samples[row]})
                if response.status_code != 200:
                    return "failed"
                return "right" if rival.is_right(response.json(), row) else "wrong"

            return await load.run_load(ask, arrivals, TIMEOUT)

    with service(folder, rival.estimator.tau, len(arrivals), TIMEOUT) as url:
        return asyncio.run(run(url))


def rows(options, model, texts):
    """Yield the rows of the table, two for each way to exit."""
    arrivals = load.arrival_times(options.rate, options.n_texts / options.rate, "poisson")
    for way in ("sentence", "token"):
        estimator = copy.copy(model).set_params(
            tau=options.tau, patience=None, token_exit=way, joint_exit="mean"
        )
        rival = Rival(EARLY, estimator, texts)
        folder = options.cache / f"{file_name(options)}-{way}"
        estimator.save_pretrained(folder, overwrite=True)
        joblib.dump(estimator, f"{folder}.joblib")
        print(f"{folder}.joblib", flush=True)
        n_spans = sum(len(spans) for row in estimator.predict(texts) for spans in row.values())
        found = {
            "in process": rival.measure(arrivals, TIMEOUT, len(arrivals)),
            "loopback": on_loopback(folder, rival, arrivals),
        }
        about = [f'`token_exit="{way}"`', f"{rival.mean_exit:.2f}", n_spans]
        for where, counts in found.items():
            yield [*about, where, *(counts[name] for name in COUNTS), rival.n_undecided]


def file_name(options):
    """Return the prefix of the files of a trained network."""
    return f"{Path(options.backbone).name}-{options.n_train}-{options.epochs}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("backbone", help="folder of a checkpoint")
    parser.add_argument("--n-train", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--n-texts", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--tau", type=float, default=0.25)
    default = Path(tempfile.gettempdir()) / "sklearn-epee-tuned-words"
    parser.add_argument("--cache", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.cache.mkdir(parents=True, exist_ok=True)
    model, _ = kept(options.cache / f"{file_name(options)}.joblib", lambda: trained(options))
    texts, _ = part("test", options.n_texts)
    about = (
        f"{describe(machine('cpu'))}\n\nCommand: `python -m benchmarks.served_words FOLDER "
        f"--n-train {options.n_train} --epochs {options.epochs} --n-texts {options.n_texts} --rate "
        f"{options.rate:g} --tau {options.tau:g}`. {Path(options.backbone).name}, "
        f"{options.n_train} training sentences of PHEE's events, {options.epochs} epochs; "
        f"{len(texts)} test sentences."
    )
    columns = ("exits", "mean exit", "spans", "where", *COUNTS, "undecided")
    cells = [columns, ["---"] * len(columns), *rows(options, model, texts)]
    lines = [f"| {' | '.join(map(str, row))} |" for row in cells]
    write(RESULTS, "\n".join([f"# Served sentences\n\n{about}\n\n{READING}\n", *lines]))


if __name__ == "__main__":
    main()
