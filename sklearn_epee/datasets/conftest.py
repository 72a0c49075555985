"""Skip the examples of loaders whose data are not available."""

import importlib.util
import os
from pathlib import Path

import pytest

from sklearn_epee.datasets._loading import ENVIRONMENT_VARIABLE

_FOLDER = Path(__file__).parent
_NEED_NO_DATA = {"_csv_files.py", "_drug_reviews.py", "_image_files.py", "_supplement_notes.py"}
_NEED_MEDMNIST = {"_medmnist_sets.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the doctests of this folder that read real data."""
    if importlib.util.find_spec("medmnist") is None:
        no_package = pytest.mark.skip(reason="medmnist is not installed")
        for item in items:
            if item.path.parent == _FOLDER and item.path.name in _NEED_MEDMNIST:
                item.add_marker(no_package)
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return
    skip = pytest.mark.skip(reason=f"{ENVIRONMENT_VARIABLE} does not name a folder of data")
    for item in items:
        if item.path.parent == _FOLDER and item.path.name not in _NEED_NO_DATA:
            item.add_marker(skip)
