"""
Training on several devices
===========================

Each process computes a share of every batch, and all come to the network that one would train::

    accelerate launch --multi_gpu --num_processes 4 examples/train_in_parallel.py  # GPUs
    torchrun --nproc_per_node 2 examples/train_in_parallel.py  # CPUs where there is no GPU
    python examples/train_in_parallel.py  # one process

Needs ``pip install 'sklearn_epee[accelerate]'``. docs/scale.md says what is equal, and what is not.
"""  # noqa: D205, D400 - the gallery reads the underlined first line as the title

import numpy as np
from sklearn.model_selection import train_test_split

from sklearn_epee import EPEEClassifier, datasets
from sklearn_epee.distributed import data_parallel

# Every process has all samples, in the same order: draws need an int as `random_state`.
X, y = datasets.make_supplement_notes(800, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

clf = EPEEClassifier(
    max_epochs=3, validation_fraction=0.1, early_stopping=True, random_state=0, verbose=2
)
with data_parallel() as accelerator:
    clf.fit(X_train, y_train)

# Every process has the fitted classifier now, and predicts by itself; one of them reports.
if accelerator.is_main_process:
    seconds = np.mean(clf.history_[:, "dur"])
    print(f"{accelerator.num_processes} process(es), {seconds:.1f} s an epoch")
    print(f"accuracy {clf.score(X_test, y_test):.3f}")
