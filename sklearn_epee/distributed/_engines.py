"""Import Spark, Dask and Ray, which are optional dependencies, when they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(function: str, extra: str, *packages: str) -> list[Any]:
    """Import packages, or raise an error that says what to install.

    Parameters
    ----------
    function : str
        The function that needs them.
    extra : str
        Extra of this package that installs them.
    *packages : str
        Modules to import.

    Returns
    -------
    list of module

    Raises
    ------
    ImportError
    """
    found = []
    for package in packages:
        try:
            found.append(importlib.import_module(package))
        except ImportError as error:
            raise ImportError(
                f"{function} needs {package}, which cannot be imported here ({error}). Install it "
                f"on this machine and on all workers: python -m pip install 'sklearn_epee[{extra}]'"
            ) from error
    return found
