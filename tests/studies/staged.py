"""Staged probabilities that get surer with depth, for tests of rules on arrays."""

import numpy as np
from scipy.special import softmax

from studies.bootstrap import Score
from studies.exit_rules import Network


def make_network(n=150, n_layers=5, n_classes=3, seed=0, negative=None):
    """A network whose exits are more often right, and surer, with depth."""
    dev, test = (_make_part(n, n_layers, n_classes, [seed, part]) for part in (0, 1))
    return Network.from_arrays(*dev, *test, score=Score(negative))


def _make_part(n, n_layers, n_classes, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    sureness = np.linspace(0.3, 2.5, n_layers)[:, None] * rng.gamma(2, 0.7, (n, 1, 1))
    logits = rng.normal(size=(n, n_layers, n_classes)) + sureness * np.eye(n_classes)[y][:, None]
    return softmax(logits, axis=-1).astype(np.float32), y
