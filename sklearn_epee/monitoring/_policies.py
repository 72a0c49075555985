"""Exit policies of an audit: that of the estimator, and stricter ones for `tighten`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._exits.checks import check_min_exit_layer, check_patience, check_tau
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.wrappers import (
    chain,
    own_policy,
    predicts_words,
    step_inwards,
    with_inner,
    with_policy,
)

# tau and patience.
Policy = tuple[float, int | None]


def policy_of(estimator: Any) -> Policy:
    """Return the validated exit policy of an estimator.

    Raises
    ------
    TypeError
        If the estimator does not exit by tau and patience, predicts words, or contains a wrapper
        that may change the predictions.
    ValueError
        If the estimator was tuned relative to layers that it does not have.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    """
    check_is_fitted(estimator)
    own = own_policy(estimator)
    if own.tau is None:
        raise TypeError(
            "estimator must exit by the parameters tau and patience; "
            f"{type(estimator).__name__} exits by other rules, or not at all."
        )
    if any(predicts_words(link) for link in chain(estimator)):
        raise TypeError(
            f"{type(estimator).__name__} predicts words; audits are for classifiers with one "
            "prediction for each sample."
        )
    _check_predicts_exits(estimator)
    _check_has_full_depth(estimator)
    return check_tau(own.tau), check_patience(own.patience)


def min_exit_layer_of(estimator: Any) -> int:
    """Return the first layer at which samples of an estimator may exit, checked."""
    return check_min_exit_layer(own_policy(estimator).min_exit_layer)


def _check_has_full_depth(estimator: Any) -> None:
    """Raise if a tuned estimator only has the first layers of the network it was tuned with."""
    for link in chain(estimator):
        n_whole = getattr(link, "full_depth_n_layers_", None)
        if n_whole is not None and n_layers_of(link) < n_whole:
            raise ValueError(
                f"estimator was tuned relative to {n_whole} layers, but only has the first "
                f"{n_layers_of(link)} of them (policies['n_layers']), so that an audit cannot "
                "compare it with full depth. Tune a policy for all layers."
            )


def _check_predicts_exits(estimator: Any) -> None:
    """Raise if a wrapper around the classifier with early exits may change its predictions."""
    for link in chain(estimator):
        if hasattr(link, "predict_with_exits"):
            return
        step = step_inwards(link)
        if step is not None and not step.is_transparent:
            raise TypeError(
                f"estimator contains a {type(link).__name__}, which may change the predictions of "
                "the classifier with early exits inside; audit that classifier instead."
            )


def stricter_policies(policy: Policy, n_steps: int, n_layers: int) -> list[Policy]:
    """Return stricter policies: tau in equal steps to 0, then more patience, then full depth."""
    tau, patience = policy
    steps = np.linspace(min(tau, 1.0), 0.0, n_steps + 1)[1:]
    more_patience = range(patience + 1, n_layers) if patience is not None else ()
    return [
        *((float(step), patience) for step in steps if tau > 0),
        *((0.0, number) for number in more_patience),
        (0.0, None),
    ]


def n_layers_of(estimator: Any) -> int:
    """Return the number of layers of the classifier inside a fitted estimator."""
    return next(int(link.n_layers_) for link in chain(estimator) if hasattr(link, "n_layers_"))


def with_other_policy(estimator: Any, policy: Policy) -> Any:
    """Return a copy of an estimator with another exit policy; wrappers that set one are removed."""
    step = step_inwards(estimator)
    if step is None:
        return with_policy(estimator, *policy)
    inner = with_other_policy(step.inner, policy)
    return with_inner(estimator, step, inner) if step.is_transparent else inner


def disagreements(staged: StagedPredictions, policies: list[Policy]) -> NDArray[np.bool_]:
    """Return whether predictions under each policy differ from full depth, (n, n_policies)."""
    predictions, rows = staged.predictions, np.arange(staged.n_samples)
    columns = []
    for tau, patience in policies:
        exits = staged.exit_layers(tau, staged.n_layers if patience is None else patience)
        differs = predictions[rows, exits - 1] != predictions[:, -1]
        columns.append(differs.any(axis=1))
    return np.column_stack(columns)
