"""Alternatives to early exits, tuned on the dev part; one module per family."""
