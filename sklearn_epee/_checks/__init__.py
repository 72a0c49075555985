"""Validation of what callers pass, without torch: texts, images, labels, weights, arguments."""
