"""Check that the parameters of a guarantee are consistent with each other and with y."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from ._risks import check_risk
from ._staging import Target


def has_guarantee(tuner: Any) -> bool:
    """Return whether a tuner chooses a policy with a guarantee."""
    return tuner.confidence is not None or tuner.guarantee == "expectation"


def guarantee_parameter(tuner: Any) -> str:
    """Return the parameter that enables the guarantee, with its value, for messages."""
    if tuner.confidence is None:
        return "guarantee='expectation'"
    return f"confidence={tuner.confidence}"


def check_guarantee(tuner: Any, risk_groups: ArrayLike | None) -> None:
    """Raise if the parameters of a guarantee are inconsistent.

    Raises
    ------
    ValueError
    """
    check_risk(tuner.risk)
    if not has_guarantee(tuner):
        _check_nothing_is_bounded(tuner, risk_groups)
        return
    if tuner.guarantee == "expectation":
        _check_expectation(tuner)
    _check_bound(tuner)
    if tuner.per_class and risk_groups is not None:
        raise ValueError("per_class=True and risk_groups exclude each other; give one of them.")


def check_risk_for(target: Target, tuner: Any) -> None:
    """Raise if the risk is defined for the classes of one task, but y has several tasks or labels.

    Raises
    ------
    ValueError
    """
    if target.multilabel:
        _check_groups_of_labels(tuner)
    elif target.n_tasks > 1:
        _check_risk_of_tasks(tuner, target.n_tasks)


def _check_nothing_is_bounded(tuner: Any, risk_groups: ArrayLike | None) -> None:
    """Raise if a parameter of a guarantee is set, but no guarantee is enabled."""
    unused = {
        "risk": tuner.risk if tuner.risk != "accuracy_drop" else None,
        "max_risk": tuner.max_risk,
        "per_class": tuner.per_class or None,
        "per_exit": tuner.per_exit or None,
        "risk_groups": None if risk_groups is None else "an array",
    }
    for name, value in unused.items():
        if value is not None:
            raise ValueError(
                f"{name} is about a guarantee, which needs a confidence such as 0.95; got "
                f"{name}={value!r} and confidence=None."
            )


def _check_expectation(tuner: Any) -> None:
    """Raise if a parameter cannot be used with a bound in expectation."""
    if tuner.confidence is not None:
        raise ValueError(
            "guarantee='expectation' bounds an expected loss and takes no confidence; got "
            f"confidence={tuner.confidence!r}."
        )
    if tuner.per_exit:
        raise ValueError(
            "per_exit=True needs a confidence: which samples exit at a layer depends on the "
            "policy, for which guarantee='expectation' has no bound."
        )
    if not isinstance(tuner.risk, str) or tuner.risk in ("error", "brier_score"):
        raise ValueError(
            "guarantee='expectation' needs a risk that is 0 at full depth by definition; got "
            f"risk={tuner.risk!r}. Bound 'accuracy_drop', 'disagreement', 'brier_increase' or "
            "'proba_change'."
        )


def _check_bound(tuner: Any) -> None:
    """Raise unless the bound is given, and only by the parameter for this risk."""
    given, other = "max_accuracy_drop", "max_risk"
    if tuner.risk != "accuracy_drop":
        given, other = other, given
    bound = getattr(tuner, given)
    if not bound:  # no test can certify a bound of 0
        raise ValueError(
            f"{guarantee_parameter(tuner)} with risk={tuner.risk!r} needs a bound above 0 in "
            f"{given}; got {bound!r}."
        )
    if getattr(tuner, other) is not None:
        raise ValueError(
            f"The bound on risk={tuner.risk!r} is {given}; {other} must be None, got "
            f"{getattr(tuner, other)!r}."
        )


def _check_groups_of_labels(tuner: Any) -> None:
    """Raise for `per_class`, because the groups of several labels overlap."""
    if tuner.per_class:
        raise ValueError(
            "per_class=True needs samples of one class each, but y holds several labels per "
            "sample, whose groups overlap and cannot be tested apart. Bound ('miss', label) "
            "for the label that matters, or give risk_groups."
        )


def _check_risk_of_tasks(tuner: Any, n_tasks: int) -> None:
    """Raise if the risk is defined for the classes of one task only."""
    given = "per_class=True" if tuner.per_class else f"risk={tuner.risk!r}"
    if tuner.per_class or isinstance(tuner.risk, tuple):
        raise ValueError(
            f"{given} is about the classes of one task, but y holds {n_tasks} tasks. Bound "
            "'accuracy_drop', 'error' or 'disagreement', which count a sample if any of its "
            "tasks does, or give a callable risk, or the labels of one task as risk_groups."
        )
