"""Base classes of the estimators: parameters, training data, fit, and prediction methods."""
