"""Predict a table of 200,000 rows by Spark, Dask and Ray, each on a cluster of this machine.

    python -m benchmarks.distributed [--engines spark dask ray] [--rows 200000] [--out FILE]

A compact network of three layers is trained on generated notes and predicts short texts with two
workers of one thread each. Every row is compared with a prediction in one process, and the loads of
the model are counted in `__setstate__`. Each engine runs in a separate process. Needs the extras
spark (and Java), dask and ray; the report lists engines that are not installed. Writes
results/distributed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import BertConfig

from sklearn_epee import EPEEClassifier
from sklearn_epee.datasets import make_supplement_notes
from sklearn_epee.distributed import predict_dask, predict_frame, predict_ray, predict_spark

from ._report import describe, machine

RESULTS = Path(__file__).parent / "results"
WORKERS = 2
N_FILES = 20
PACKAGES = {
    "spark": ("pyspark", "pyarrow"),
    "dask": ("dask", "distributed", "pyarrow"),
    "ray": ("ray", "pyarrow"),
}


class CountedLoads(EPEEClassifier):
    """Writes its process into the file `loads_file` whenever it is unpickled."""

    loads_file: str | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.loads_file is not None:
            with Path(self.loads_file).open("a") as file:
                file.write(f"{os.getpid()}\n")


# ---------------------------------------------------------------------------- model and table


def train() -> EPEEClassifier:
    """Train a network of three small layers, at each of which samples exit."""
    # Workers import the class from the module, which is not that of `__main__`.
    from benchmarks.distributed import CountedLoads as Imported  # noqa: PLC0415

    config = BertConfig(
        vocab_size=600, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    X, y = make_supplement_notes(600, random_state=0)
    model = Imported(
        config, max_epochs=4, learning_rate=1e-3, max_length=48, precision="float32",
        memory=None, random_state=0, patience=3,
    ).fit([text[:80] for text in X], y)  # fmt: skip
    entropy = model.set_params(tau=0.0).predict_with_exits([text[:80] for text in X]).entropy
    return model.set_params(tau=float(np.median(entropy)))


def write_table(folder: Path, n_rows: int) -> pd.DataFrame:
    """Write short notes with a key as several parquet files, which a cluster reads in parallel."""
    texts, _ = make_supplement_notes(min(n_rows, 20_000), random_state=1)
    shorts = [text[:80] for text in texts]
    table = pd.DataFrame(
        {
            "key": np.arange(n_rows, dtype=np.int64),
            "note": [f"{shorts[i % len(shorts)]} {i // len(shorts)}" for i in range(n_rows)],
        }
    )
    rows = pa.Table.from_pandas(table, preserve_index=False)
    step = -(-n_rows // N_FILES)
    folder.mkdir()
    for number, start in enumerate(range(0, n_rows, step)):
        pq.write_table(rows.slice(start, step), folder / f"{number:02}.parquet")
    return table


# ------------------------------------------------------------------------------------ engines


def by_spark(model: EPEEClassifier, table: Path, out: Path) -> str:
    from pyspark.sql import SparkSession  # noqa: PLC0415

    master = f"local-cluster[{WORKERS},1,700]"
    builder = SparkSession.builder.master(master).appName("sklearn_epee")
    settings = {
        "spark.ui.enabled": "false", "spark.driver.memory": "600m",
        "spark.executor.memory": "700m", "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1", "spark.network.timeout": "600s",
        "spark.executorEnv.PYTHONPATH": os.environ["PYTHONPATH"],
    }  # fmt: skip
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    predict_spark(model, session.read.parquet(str(table)), "note").write.parquet(str(out))
    session.stop()
    return f"{master}: executors that are processes of their own, one core each"


def by_dask(model: EPEEClassifier, table: Path, out: Path) -> str:
    import dask.dataframe as dd  # noqa: PLC0415
    from distributed import Client, LocalCluster  # noqa: PLC0415

    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, memory_limit="1GiB", dashboard_address=None
    )
    with cluster, Client(cluster):
        predict_dask(model, dd.read_parquet(table), "note").to_parquet(out, write_index=False)
    return f"LocalCluster of {WORKERS} processes with one thread each"


def by_ray(model: EPEEClassifier, table: Path, out: Path) -> str:
    import ray  # noqa: PLC0415

    ray.init(
        num_cpus=WORKERS + 1, include_dashboard=False, object_store_memory=200 * 2**20,
        log_to_driver=False,
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    found = predict_ray(model, ray.data.read_parquet(str(table)), "note", workers=WORKERS)
    found.write_parquet(str(out))
    ray.shutdown()
    return f"ray.init on this machine, a pool of {WORKERS} actors with one CPU each"


ENGINES: dict[str, Callable[[EPEEClassifier, Path, Path], str]] = {
    "spark": by_spark,
    "dask": by_dask,
    "ray": by_ray,
}


def run_engine(engine: str, folder: Path) -> None:
    """Predict the table in `folder` with one engine in this process; write the results there."""
    torch.set_num_threads(1)
    model = joblib.load(folder / "model.joblib")
    model.loads_file = str(folder / f"{engine}-loads")
    start = time.perf_counter()
    cluster = ENGINES[engine](model, folder / "table", folder / engine)
    seconds = time.perf_counter() - start
    (folder / f"{engine}.json").write_text(json.dumps({"cluster": cluster, "seconds": seconds}))


# ----------------------------------------------------------------------------------- the check


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> dict[str, Any]:
    """Return how many rows differ from those of one process, ignoring their order."""
    found = found.sort_values("key").reset_index(drop=True)
    if not np.array_equal(found["key"], expected["key"]):
        raise AssertionError("Rows are lost or doubled.")
    same = {
        name: (found[name].astype(object) == expected[name].astype(object)).to_numpy()
        for name in ("note", "prediction", "exit_layer")
    }
    numbers = [n for n in expected.columns if n == "entropy" or n.startswith("proba_")]
    equal = np.logical_and.reduce(list(same.values()))
    gaps = np.abs(found.loc[equal, numbers] - expected.loc[equal, numbers]).to_numpy()
    return {
        "rows": len(found),
        "differ": int((~equal).sum()),
        "largest": float(gaps.max()),
    }


def report_line(engine: str, folder: Path, expected: pd.DataFrame) -> str:
    run = json.loads((folder / f"{engine}.json").read_text())
    files = sorted((folder / engine).glob("*.parquet"))
    found = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    check = compare(found, expected)
    loads = Counter((folder / f"{engine}-loads").read_text().split())
    per_worker = " + ".join(str(number) for number in loads.values())
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES[engine])
    return (
        f"| {engine} | {versions} | {run['cluster']} | {check['rows']} | {check['differ']} | "
        f"{check['largest']:.1e} | {per_worker} | {run['seconds']:.0f} |"
    )


def measure(engine: str, folder: Path, expected: pd.DataFrame) -> str:
    root = str(Path(__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "PYSPARK_PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.distributed", "--run", engine, str(folder)]
    ran = subprocess.run(command, env=environment, cwd=root, check=False)
    if ran.returncode:
        return f"| {engine} | | failed, exit status {ran.returncode} | | | | | |"
    return report_line(engine, folder, expected)


HEADER = (
    "| engine | versions | cluster | rows | rows that differ | largest difference of a number | "
    "loads, per worker that had work | seconds, with the start of the cluster |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "distributed.md")
    parser.add_argument("--run", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_engine(args.run[0], Path(args.run[1]))
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train()
        joblib.dump(model, folder / "model.joblib")
        table = write_table(folder / "table", args.rows)
        start = time.perf_counter()
        expected = predict_frame(model, table, "note")
        seconds = time.perf_counter() - start
        exits = Counter(expected["exit_layer"])
        lines = [measure(engine, folder, expected) for engine in args.engines]
    shares = ", ".join(
        f"{exits[layer] / len(expected):.0%} at layer {layer}" for layer in (1, 2, 3)
    )
    text = (
        f"{args.rows} short notes in {N_FILES} parquet files, a network of 3 layers and 32 columns "
        f"in float32; {shares}. One process with one thread needs {seconds:.0f} s. A row "
        "differs if its text, prediction or exit layer does; numbers are entropies and "
        "probabilities, which depend on the batch in the last digits. Seconds are those of one run "
        "and include the start of the cluster and its imports.\n\n"
        f"{describe(machine('cpu'))}\n\n{HEADER}\n" + "\n".join(lines)
    )
    print(text)
    args.out.write_text(
        "# Tables over two workers\n\nPrinted by `python -m benchmarks.distributed`.\n\n"
        + text
        + "\n"
    )


if __name__ == "__main__":
    main()
