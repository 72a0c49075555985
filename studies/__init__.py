"""The study: early exits compared with alternatives on all data sets, in one command.

See `python -m studies --help`.
"""
