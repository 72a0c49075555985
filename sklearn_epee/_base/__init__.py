"""What the estimators share: parameters, training data, fit, and the public predictions."""
