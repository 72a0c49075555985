"""Let pages link as a code host needs it, to files of the repository, and the site as it has them.

On a code host ``[script](../examples/plot_images.py)`` opens the script; here it becomes the page
of the gallery. Results of benchmarks and studies become pages, other files downloads. Files that
the text of a script names are linked on its page.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
RESULTS = ("benchmarks/results", "studies/results")
# Made beside the study's data, with pictures that are kept nowhere; docs/study.md is its page.
NO_PAGE = "study.md"
GALLERY = re.compile(r"examples/(plot_\w+)\.py$")
# As the scripts of the gallery name pages and each other.
NAMED = re.compile(r"(``)?\b(docs/\w+\.md|plot_\w+\.py)\b(?(1)``)")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/results": "results/index.md",
    "examples": "auto_examples/index.rst",
}

INDEX = """# Measured tables

Tables as commands of the repository wrote them, with machine and versions. The pages of this site
copy their figures from here.

```{{toctree}}
:maxdepth: 1

{}
```
"""


def page_of(path: str) -> str | None:
    """Return the page of the site that shows a file of the repository, None if there is none."""
    if gallery := GALLERY.match(path):
        return f"auto_examples/{gallery[1]}.rst"
    folder, name = posixpath.split(path)
    if folder in RESULTS and name.endswith(".md"):
        return f"results/{name}"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path.rstrip("/"))


def site_links(text: str, folder: str) -> str:
    """Return Markdown whose links to files of the repository lead to pages of the site.

    Parameters
    ----------
    text : str
    folder : str
        The folder that the links start from, within the repository.
    """

    def replaced(link: re.Match[str]) -> str:
        target, _, anchor = link[1].partition("#")
        if not target or ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        page = page_of(path)
        return link[0] if page is None else f"](/{page}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", replaced, text)


def named_links(text: str) -> str:
    """Return reStructuredText of the gallery in which the files that it names are links.

    Code, directives and comments, which are indented or begin with two points, stay as they are.
    """

    def replaced(name: re.Match[str]) -> str:
        page = page_of(name[2] if name[2].startswith("docs/") else f"examples/{name[2]}")
        return f":doc:`{name[2]} </{posixpath.splitext(page or name[2])[0]}>`"

    lines = text.split("\n")
    return "\n".join(
        line if line.startswith((" ", "..")) else NAMED.sub(replaced, line) for line in lines
    )


def titled(text: str, name: str) -> str:
    """Return a page of results with a title of its own, and one of that rank."""
    if text.startswith("# "):
        return text
    title = name.replace("_", " ").replace("-", " ").capitalize()
    if re.search(r"^# ", text, flags=re.MULTILINE):
        text = re.sub(r"^(?=#+ )", "#", text, flags=re.MULTILINE)
    return f"# {title}\n\n{text}"


def write_results(app: Sphinx) -> None:
    """Copy the measured tables into the site, as pages with an index."""
    pages = Path(app.srcdir) / "results"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    for folder in RESULTS:
        for path in sorted((ROOT / folder).glob("*.md")):
            if path.name == NO_PAGE:
                continue
            text = site_links(path.read_text(encoding="utf-8"), folder)
            (pages / path.name).write_text(titled(text, path.stem), encoding="utf-8")
    names = sorted(path.stem for path in pages.glob("*.md"))
    (pages / "index.md").write_text(INDEX.format("\n".join(names)), encoding="utf-8")


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite the links of a Markdown page, or make those of a page of the gallery."""
    if docname.startswith("auto_examples/"):
        source[0] = named_links(source[0])
    if app.env.doc2path(docname).suffix == ".md" and not docname.startswith("results/"):
        source[0] = site_links(source[0], posixpath.join("docs", posixpath.dirname(docname)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("builder-inited", write_results)
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
