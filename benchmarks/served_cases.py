"""Serve texts with images under load: early exits against full depth, with all answers checked.

Run from the repository root:

    python -m benchmarks.served_cases --out benchmarks/results

It trains `EPEEMultimodalClassifier` on cases of `make_case_reports`, about a minute of one core
with compact transformers, and tunes its policy on other cases; the network is kept in ``--cache``.
Then an `AsyncPredictor` gets other cases, some without text or image, at random times and in bursts
of 16, at 70 % of the capacity at full depth: once with the tuned policy and once at full depth
(``tau=0``), with the same batching. Every answer is compared with ``predict_with_exits``. With
``--loads-on-loopback 0.7`` the cases are also sent to `examples/service` by HTTP, with images as
PNG files. Exits with an error if an answer was wrong, failed or lost. ``serving_cases.md`` is
written after every row.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import torch

from benchmarks._report import describe, machine
from benchmarks.events import kept
from benchmarks.serving import (
    EARLY,
    FULL_DEPTH,
    TIMEOUT,
    NotMeasuredError,
    Rival,
    Table,
    in_process,
    on_loopback,
    summary,
)
from benchmarks.towers import DROP, N_TUNE, cases
from sklearn_epee import EPEEMultimodalClassifier, TunedExitPolicyClassifierCV

N_SERVED = 256
# Equally many cases of three kinds: decided by the text, by the image, by both.
WEIGHTS = [1, 1, 1, 0]


def parts(arguments):
    """Return the cases for training, for tuning and for serving."""
    sizes = (arguments.n_train, N_TUNE, N_SERVED)
    return [cases(n, seed, arguments.image_size, WEIGHTS) for seed, n in enumerate(sizes)]


def tuned(arguments):
    """Return a fitted classifier with a tuned policy."""
    train, tune, _ = parts(arguments)
    classifier = EPEEMultimodalClassifier(
        arguments.text,
        arguments.image,
        first="text",
        hand_over_after=arguments.hand_over_after or None,
        max_epochs=arguments.max_epochs,
        memory=None,
        random_state=0,
    ).fit(train.data, train.target)
    policy = TunedExitPolicyClassifierCV(
        classifier, cv="prefit", refit=False, max_accuracy_drop=DROP, scoring="accuracy"
    ).fit(tune.data, tune.target)
    return classifier.set_params(tau=policy.best_tau_, patience=policy.best_patience_)


def file_name(arguments):
    """Return the file name of a network, which contains its training parameters."""
    sizes = (arguments.n_train, arguments.max_epochs, arguments.image_size)
    parts_of_name = (*backbones(arguments), *sizes, arguments.hand_over_after)
    return f"{'-'.join(map(str, parts_of_name))}.joblib"


def backbones(arguments):
    """Return the names of the backbones of texts and of images."""
    given = (arguments.text, arguments.image)
    return [Path(folder).name if folder else "compact" for folder in given]


def about(rivals, capacities, served, arguments):
    """Return the lines above the table."""
    early = rivals[1].estimator
    text, image = backbones(arguments)
    network = (
        f"Text: {text}; then image: {image}; {early.n_layers_} layers in all. "
        f"{arguments.n_train} invented cases of {arguments.image_size} pixels, "
        f"{arguments.max_epochs} epochs, hand_over_after={arguments.hand_over_after or None}; tau "
        f"{early.tau:.3f} and patience {early.patience}, tuned on {N_TUNE} other cases."
    )
    rates = ", ".join(f"{name} {value:.0f}/s" for name, value in capacities.items())
    reading = (
        f"Answered of {arguments.capacity_requests} that are there at once: {rates}; loads are "
        f"shares of the first. Timeout {TIMEOUT:g} s; requests without an answer count as if they "
        "had taken it. Right: label, exit layer and probabilities (within 1e-4) are those of "
        f"`predict_with_exits`; {rivals[1].n_undecided} cases with an entropy within 1e-5 of tau, "
        "which may exit elsewhere, count as right."
    )
    command = f"Command: `{arguments.command}`. {describe(machine('cpu')).strip()}"
    title = "# Served texts with images"
    paragraphs = [title, command, network, accuracies(rivals, served), reading]
    return "\n\n".join(paragraphs).split("\n")


def accuracies(rivals, served):
    """Return the accuracies of the servers on the cases, without load, as text."""
    lines = []
    for rival in rivals:
        found = rival.estimator.predict_with_exits(served.data)
        lines.append(
            f"{rival.name}: accuracy {(found.labels == served.target).mean():.3f} with "
            f"{found.exit_cost.mean():.2f} of the work, "
            f"{(found.towers.sum(axis=1) == 1).mean():.0%} of the cases in one transformer alone"
        )
    return f"{len(served.data)} served cases, in turns. {'; '.join(lines).capitalize()}."


def options():
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--text", help="folder of a text backbone; default: from scratch")
    parser.add_argument("--image", help="folder of an image backbone; default: from scratch")
    parser.add_argument("--n-train", type=int, default=800)
    parser.add_argument("--max-epochs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=24, help="in pixels")
    parser.add_argument("--hand-over-after", type=int, default=0, help="0: None")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a row")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.7])
    parser.add_argument("--overload", type=float, default=0.0, help="0: none")
    parser.add_argument("--loads-on-loopback", type=float, nargs="*", default=[])
    parser.add_argument("--capacity-requests", type=int, default=512)
    parser.add_argument("--out", type=Path, help="folder of the written table; default: none")
    default = Path(tempfile.gettempdir()) / "sklearn-epee-served-cases"
    parser.add_argument("--cache", type=Path, default=default)
    return parser


def command_of(parser, arguments):
    """Return the command that gives these results, without its folders."""
    words = ["python -m benchmarks.served_cases"]
    for name, value in vars(arguments).items():
        if value != parser.get_default(name) and name not in ("out", "cache"):
            values = value if isinstance(value, list) else [value]
            short = [Path(part).name if isinstance(part, str) else f"{part:g}" for part in values]
            words.append(" ".join([f"--{name.replace('_', '-')}", *short]))
    return " ".join(words)


def main():
    parser = options()
    arguments = parser.parse_args()
    arguments.command = command_of(parser, arguments)
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    model = kept(arguments.cache / file_name(arguments), lambda: tuned(arguments))
    served = parts(arguments)[2]
    deep = copy.copy(model).set_params(tau=0.0, patience=None)
    rivals = [Rival(FULL_DEPTH, deep, served.data), Rival(EARLY, model, served.data)]
    capacities = {rival.name: rival.capacity(arguments.capacity_requests) for rival in rivals}
    heading = about(rivals, capacities, served, arguments)
    table = Table(arguments.out and arguments.out / "serving_cases.md", heading)
    ratios = in_process(rivals, capacities[FULL_DEPTH], arguments, table)
    if arguments.loads_on_loopback:
        try:
            on_loopback(rivals, capacities[FULL_DEPTH], arguments, table)
        except NotMeasuredError as error:
            table.write("", f"Loopback not measured: {error}.")
    table.write(*summary(ratios))
    print(*summary(ratios), sep="\n")
    if table.n_not_right:
        raise SystemExit(f"{table.n_not_right} answers were wrong, failed or lost")


if __name__ == "__main__":
    main()
