"""Benchmarks of the package against alternatives."""
