"""Prepare docstrings for numpydoc: long types, names that end in underscores, links elsewhere."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SKLEARN = "https://scikit-learn.org/stable"
# What docstrings inherited from scikit-learn refer to, in its own documentation.
THEIRS = {
    "metadata_routing": f"{SKLEARN}/metadata_routing.html",
    "df_output_transform": f"{SKLEARN}/auto_examples/miscellaneous/plot_set_output.html",
    "sphx_glr_auto_examples_miscellaneous_plot_set_output.py": (
        f"{SKLEARN}/auto_examples/miscellaneous/plot_set_output.html"
    ),
}
ENTRY = re.compile(r"^\w[\w, *]* : ")


def joined(lines: list[str]) -> list[str]:
    """Return the lines, those that end in a backslash joined with the next."""
    done: list[str] = []
    for line in lines:
        if done and done[-1].endswith(" \\"):
            done[-1] = f"{done[-1][:-2]} {line.strip()}"
        else:
            done.append(line)
    return done


def in_words(line: str) -> str:
    """Return a line of a docstring as this site can show it."""
    if ENTRY.match(line):  # (n_layers_,) would be a link to a target "n_layers"
        name, _, kind = line.partition(" : ")
        line = f"{name} : {re.sub(r'(?<=[a-z])_(?=[,)])', chr(92) + '_', kind)}"
    line = re.sub(r":term:`([^`<]+)`", r"\1", line)
    line = re.sub(r":doi:`([^`]+)`", r"`doi:\1 <https://doi.org/\1>`__", line)
    for label, address in THEIRS.items():
        line = re.sub(rf":ref:`([^`<]+) <{label}>`", rf"`\1 <{address}>`__", line)
        line = line.replace(f":ref:`{label}`", f"`scikit-learn's example <{address}>`__")
    return line


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change a docstring in place, before numpydoc reads it."""
    lines[:] = [in_words(line) for line in joined(lines)]


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the setters of scikit-learn's metadata routing, which are alike everywhere."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect before numpydoc does."""
    app.connect("autodoc-process-docstring", process, priority=100)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
