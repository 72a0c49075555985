"""Build the documentation site: Markdown pages, the API reference and the executed gallery.

    python -m sphinx -W --keep-going -b html docs docs/_build/html
    python -m sphinx -D plot_gallery=0 -b html docs docs/_build/html    # without running scripts

The gallery takes some twenty minutes of CPU; ``SKLEARN_EPEE_GALLERY`` may hold a regular expression
for the scripts to run, of which ``tests/test_examples.py`` then runs the others alone.

Nothing is downloaded and the pages load nothing from other hosts. ``EPEE_DOCS_INTERSPHINX=1``
links scikit-learn, NumPy and torch, for whoever has a network.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Scripts of the gallery take generated data and compact networks, so that all builds are alike.
for name in ("SKLEARN_EPEE_DATA", "SKLEARN_EPEE_BACKBONE", "SKLEARN_EPEE_IMAGE_BACKBONE"):
    os.environ.pop(name, None)

import sklearn_epee

project = "sklearn_epee"
author = "The sklearn_epee developers"
project_copyright = author
version = release = sklearn_epee.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "_extensions.docstrings",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "_extensions.links",
    "_extensions.mathml",
]
exclude_patterns = ["_build", "_extensions", "**/README.md", "auto_examples/*.ipynb"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
root_doc = "index"
default_role = "literal"
nitpicky = False  # types of other packages are known only with intersphinx
suppress_warnings = ["config.cache"]  # rules of the gallery are objects, which cannot be cached

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc says the types, in words
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

if os.environ.get("EPEE_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": os.environ.get("SKLEARN_EPEE_GALLERY", "plot_"),  # which ones are run
    "ignore_pattern": r"quickstart\.py",
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": r".*\.rst",
    "doc_module": ("sklearn_epee",),
    "reference_url": {"sklearn_epee": None},
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "remove_config_comments": True,
    "min_reported_time": 1,
    "parallel": int(os.environ.get("EPEE_DOCS_JOBS", "1")),
    "abort_on_example_error": False,
    "ignore_repr_types": r"matplotlib|sklearn_epee\.plotting",  # pictures say more
    "show_memory": False,
    "write_computation_times": False,  # its page loads scripts from other hosts
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_epee"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "show_prev_next": True,
    "use_edit_page_button": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "navbar_end": ["theme-switcher"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "install": [], "tutorial": []}

# Small networks on few notes have things to warn of; what a reader needs to know is in the text.
warnings.filterwarnings("ignore", category=UserWarning)
os.environ["PYTHONWARNINGS"] = "ignore::UserWarning"  # for the processes of EPEE_DOCS_JOBS
