"""Compare policies under which words exit one by one, with one prediction run per policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklearn_epee._compat import safe_indexing
from sklearn_epee._exits.checks import check_joint_exit, check_min_exit_layer, check_patience
from sklearn_epee._exits.policy_scores import PolicyScore
from sklearn_epee._exits.staged import Floats, Integers
from sklearn_epee._exits.tables import PolicyGrid, Table
from sklearn_epee._exits.wrappers import innermost, with_policy
from sklearn_epee._word_exits import (
    SpanCounts,
    count_spans,
    is_word_accuracy,
    right_words,
    true_spans,
    true_tags,
    word_score,
)

from ._class_recall import ClassReport
from ._sentences import span_report

# Tau, patience, `min_exit_layer` and `joint_exit`.
WordPolicy = tuple[float, int, int, str]


@dataclass(frozen=True)
class WordRuns:
    """Predictions of sentences under several policies, the last of which is full depth.

    Attributes
    ----------
    policies : list of (float, int, int, str)
        Tau, patience, `min_exit_layer` and `joint_exit` of each policy.
    n_layers : int
    rows : ndarray of shape (n_samples,), int
        Row of each sample in the data given to `fit`.
    counts : SpanCounts
        With one entry per policy in place of exits.
    computed : ndarray of shape (n_samples, n_policies), int64
        Number of rows that the layers computed.
    right_words : ndarray of shape (n_samples, n_policies + 1), int64, or None
    """

    policies: list[WordPolicy]
    n_layers: int
    rows: NDArray[np.intp]
    counts: SpanCounts
    computed: Integers
    right_words: Integers | None = None

    @staticmethod
    def total(values: NDArray[Any]) -> Floats:
        """Sum `values[i, p]`, of sentence i under policy p, over the sentences; see `Sweep`."""
        return values.sum(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class WordStaging:
    """Staging of sentences whose words exit one by one.

    Attributes
    ----------
    scoring : str or callable
        Determines whether tags are needed.
    policies : str, int or mapping
        The parameter of the tuner.
    """

    scoring: Any
    policies: Any

    def stage(self, estimator: Any, X: Any) -> list[Any]:
        """Return predictions under every policy, input, scheme, policies and number of layers."""
        found = innermost(estimator, X)
        n_layers = int(found.classifier.n_layers_)
        first = check_min_exit_layer(getattr(found.classifier, "min_exit_layer", 1))
        joint = check_joint_exit(getattr(found.classifier, "joint_exit", "all"))
        policies = grid_of(self.policies, n_layers, first, joint)
        results = [
            with_policy(found.classifier, *policy).predict_with_exits(found.X)
            for policy in policies
        ]
        scheme = str(getattr(found.classifier, "scheme", "IOB2"))
        return [results, found.X, scheme, policies, n_layers]

    def warn_of_missing(self, y: Any, splits: Sequence[Any]) -> None:
        """Do nothing, because splits of sentences are not stratified by their labels."""

    def pooled(self, parts: Sequence[Any], rows: Sequence[NDArray[np.intp]], y: Any) -> WordRuns:
        """Concatenate the runs of several networks."""
        true, right = [], []
        for (results, X, scheme, *_), own in zip(parts, rows, strict=True):
            labels = safe_indexing(y, own)
            true += true_spans(X, labels, results[-1].spans, scheme)
            if is_word_accuracy(self.scoring):
                tags = [result.tags for result in results]
                right.append(right_words(true_tags(X, labels, scheme), tags))
        by_policy = list(zip(*(results for results, *_ in parts), strict=True))
        *_, policies, n_layers = parts[0]
        return WordRuns(
            policies,
            n_layers,
            np.concatenate(rows),
            count_spans(true, [list(chain(*(run.spans for run in runs))) for runs in by_policy]),
            np.stack(
                [np.concatenate([run.rows_computed for run in runs]) for runs in by_policy], axis=1
            ),
            np.concatenate(right) if right else None,
        )


def check_named(policies: Any) -> None:
    """Raise unless the thresholds of the policies are listed explicitly.

    Raises
    ------
    ValueError
    """
    taus = policies.get("tau", "all") if isinstance(policies, Mapping) else policies
    if isinstance(taus, (str, int, np.integer)):
        raise ValueError(  # noqa: TRY004 - of these types others are right elsewhere
            "With token_exit='token', the exits of words affect other words, so every policy needs "
            "a separate pass. List thresholds, such as policies={'tau': [0.05, 0.1, 0.2, 0.4], "
            f"'patience': [2, 3]}}; got policies={policies!r}. With token_exit='sentence' all "
            "policies are compared from one pass."
        )


def grid_of(
    policies: Any, n_layers: int, min_exit_layer: int = 1, joint_exit: str = "all"
) -> list[WordPolicy]:
    """Return the listed policies without duplicates in effect, and full depth as the last one.

    Parameters
    ----------
    policies : str, int or mapping
        The parameter of the tuner.
    n_layers : int
    min_exit_layer : int, default=1
        Used if `policies` has no key "min_exit_layer".
    joint_exit : str, default="all"
        Used if `policies` has no key "joint_exit".
    """
    grid = PolicyGrid.from_parameter(policies, n_layers)
    own = np.array([min(min_exit_layer, n_layers)])
    layers = own if grid.min_exit_layers is None else grid.min_exit_layers
    found = [
        # With a patience of 1, samples exit at the first possible layer for any tau.
        (0.0 if patience == 1 else float(tau), int(patience), int(layer), joint)
        for joint in grid.joint_exits or (joint_exit,)
        for layer in layers
        for patience in grid.patiences
        for tau in np.atleast_1d(np.asarray(grid.taus))
    ]
    full = 0.0, check_patience(None, n_layers), int(layers[0]), grid.only_joint_exit(joint_exit)
    return [policy for policy in dict.fromkeys(found) if policy[:2] != full[:2]] + [full]


@dataclass(frozen=True)
class ScoredRuns:
    """Scores of the policies of `WordRuns`.

    Attributes
    ----------
    runs : WordRuns
    weights : ndarray of shape (n_given,) or None
        Sample weights of all samples given to `fit`.
    scoring : str or callable
    """

    runs: WordRuns
    weights: Floats | None
    scoring: Any

    @property
    def n_layers(self) -> int:
        """Number of layers M."""
        return self.runs.n_layers

    @cached_property
    def _shares(self) -> Floats:
        if self.weights is None:
            return np.ones(len(self.runs.rows))
        return self.weights[self.runs.rows]

    @cached_property
    def table(self) -> Table:
        """Columns of the policies, as those of `policy_table`."""
        runs = self.runs
        score: PolicyScore = word_score(self.scoring, runs.counts, runs.right_words, self._shares)
        computed = runs.total(runs.computed * self._shares[:, np.newaxis])
        names = ("tau", "patience", "min_exit_layer", "joint_exit")
        columns = zip(names, zip(*runs.policies, strict=True), strict=True)
        policies = {name: np.array(column) for name, column in columns}
        policies["n_layers"] = np.full(len(runs.policies), self.n_layers)
        scores = score(runs)  # type: ignore[arg-type] # it only calls `total`
        speedup = 1.0 - computed / max(computed[-1], np.finfo(float).tiny)
        return policies | {"score": scores, "speedup": speedup}

    @property
    def full_depth_score(self) -> float:
        """Score at full depth, that is, without early exits."""
        return float(self.table["score"][-1])

    def tables(self, offered: Any = None) -> list[Table]:
        """Return the table of all policies, including full depth."""
        del offered
        return [self.table]

    def by_class(self, policy: Mapping[str, Any]) -> ClassReport:
        """Compare the recall of the spans of each label under a policy with full depth."""
        names = ("tau", "patience", "min_exit_layer", "joint_exit")
        named = tuple(policy[name] for name in names)
        run = self.runs.policies.index(named)
        full = np.maximum(self.runs.computed[:, -1], 1)
        exits = self.n_layers * self.runs.computed[:, run] / full
        right = self.runs.counts.right[:, run]
        weights = None if self.weights is None else self._shares
        return span_report(self.runs.counts, right, exits, weights)
