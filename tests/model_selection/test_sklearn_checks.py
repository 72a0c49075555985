"""scikit-learn's own checks of estimators, with a cheap classifier inside."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_epee import FixedExitPolicyClassifier, TunedExitPolicyClassifierCV

from .staged import NumericExits


@parametrize_with_checks(
    [
        NumericExits(),  # or the checks of the others would mean little
        FixedExitPolicyClassifier(NumericExits(), tau=0.2, patience=3),
        TunedExitPolicyClassifierCV(NumericExits(), cv=2),
        TunedExitPolicyClassifierCV(NumericExits(), cv=2, max_accuracy_drop=0.05),
    ]
)
def test_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)
