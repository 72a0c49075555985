"""The gallery: every script is listed in the documentation, and runs with tiny networks."""

import os
import re
import runpy
from pathlib import Path

import pytest

from .small_world import small_world  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent
GALLERY = sorted((ROOT / "examples").glob("plot_*.py"))

# Scripts that the build of the site runs in the same CI.
BY_SITE = os.environ.get("SKLEARN_EPEE_GALLERY")

# Networks that hardly learned anything have much to warn of.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_documentation_lists_every_script():
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    listed = set(re.findall(r"\(\.\./examples/(plot_\w+\.py)\)", pages))
    assert listed == {script.name for script in GALLERY}


@pytest.mark.slow
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_script_runs(script, small_world):  # noqa: F811
    if BY_SITE and re.search(BY_SITE, script.name):
        pytest.skip("the build of the site runs it, whole")
    runpy.run_path(str(script), run_name="__main__")
    assert small_world.get_fignums()
