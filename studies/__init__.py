"""The study: early exits against what else could be used, on all data sets, in one command.

`python -m studies --help` says how to run it.
"""
