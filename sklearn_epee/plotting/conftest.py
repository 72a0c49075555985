"""Run the examples of the displays without a screen, if matplotlib is installed."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent
_HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the doctests of this folder without matplotlib."""
    if _HAS_MATPLOTLIB:
        return
    for item in items:
        if item.path.parent == _FOLDER:
            item.add_marker(pytest.mark.skip(reason="needs matplotlib"))


@pytest.fixture(autouse=True)
def _figures_in_memory() -> Iterator[None]:
    """Draw into memory, and forget the figures."""
    if not _HAS_MATPLOTLIB:
        yield
        return
    from matplotlib import pyplot as plt  # noqa: PLC0415 - it may not be there

    with plt.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")
