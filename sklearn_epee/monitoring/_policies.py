"""The policies of an audit: that of the estimator, and stricter ones for `tighten`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from sklearn_epee._exits.checks import check_patience, check_tau
from sklearn_epee._exits.staged import StagedPredictions
from sklearn_epee._exits.wrappers import chain, own_policy, predicts_words, with_policy

# tau and patience.
Policy = tuple[float, int | None]


def policy_of(estimator: Any) -> Policy:
    """Return the policy by which an estimator exits, checked.

    Raises
    ------
    TypeError
        If it does not exit by tau and patience, or predicts words.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    check_is_fitted(estimator)
    own = own_policy(estimator)
    if own.tau is None:
        raise TypeError(
            "estimator must exit by the parameters tau and patience; "
            f"{type(estimator).__name__} exits by rules of its own, or not at all."
        )
    if any(predicts_words(link) for link in chain(estimator)):
        raise TypeError(
            f"{type(estimator).__name__} predicts words; audits are for classifiers with one "
            "prediction for each sample."
        )
    return check_tau(own.tau), check_patience(own.patience)


def stricter_policies(policy: Policy, n_steps: int, n_layers: int) -> list[Policy]:
    """Return policies of smaller tau in equal steps to 0, of more patience, and full depth."""
    tau, patience = policy
    steps = np.linspace(min(tau, 1.0), 0.0, n_steps + 1)[1:]
    more_patience = range(patience + 1, n_layers) if patience is not None else ()
    return [
        *((float(step), patience) for step in steps if tau > 0),
        *((0.0, number) for number in more_patience),
        (0.0, None),
    ]


def n_layers_of(estimator: Any) -> int:
    """Return the number of layers of the classifier in a fitted estimator."""
    return next(int(link.n_layers_) for link in chain(estimator) if hasattr(link, "n_layers_"))


def with_other_policy(estimator: Any, policy: Policy) -> Any:
    """Return a copy of an estimator, or of what its own policy is over, with another policy."""
    while hasattr(estimator, "estimator_") and not getattr(
        estimator, "delegates_exit_policy", False
    ):
        estimator = estimator.estimator_
    return with_policy(estimator, *policy)


def disagreements(staged: StagedPredictions, policies: list[Policy]) -> NDArray[np.bool_]:
    """Return whether samples differ from full depth under some policies, (n, n_policies)."""
    predictions, rows = staged.predictions, np.arange(staged.n_samples)
    columns = []
    for tau, patience in policies:
        exits = staged.exit_layers(tau, staged.n_layers if patience is None else patience)
        differs = predictions[rows, exits - 1] != predictions[:, -1]
        columns.append(differs.any(axis=1))
    return np.column_stack(columns)
