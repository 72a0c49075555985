"""Validation and encoding of samples, labels, tasks and arguments, without torch."""
