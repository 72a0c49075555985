"""Early-exit transformer classifiers in the style of scikit-learn."""
