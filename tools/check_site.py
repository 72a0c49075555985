"""Check the built site: links that lead somewhere, pictures with words, nothing from other hosts.

The pages that the diagrams of estimators link to are there as well, and no page shows where the
repository or Python's packages lay when it was built, as warnings of the gallery's scripts would.

    python tools/check_site.py docs/_build/html

Prints what is wrong, one line each, and fails if there is anything.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself, where a link is only followed.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
# Relations of <link> that load nothing.
NOT_LOADED = {"canonical", "next", "prev", "author", "index", "search", "license"}
# Folders that are of no interest to readers.
OF_THIS_MACHINE = [
    f"{Path(__file__).resolve().parent.parent}{os.sep}",
    sysconfig.get_path("purelib"),
]


class Page(HTMLParser):
    """The links, anchors and pictures of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.wordless: list[str] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag refers to."""
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        if tag == "img" and values.get("alt") is None:
            self.wordless.append(values.get("src") or "")
        for key in ("href", "src"):
            value = values.get(key)
            if value is None:
                continue
            loaded = (tag, key) in LOADED and values.get("rel") not in NOT_LOADED
            (self.loads if loaded else self.links).append(value)

    def handle_data(self, data: str) -> None:
        """Collect what is to be read."""
        self.text.append(data)


def faults(folder: Path) -> list[str]:
    """Return what is wrong with the site in a folder, one sentence each."""
    found_pages = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    pages = {path.resolve(): Page(path) for path in found_pages}
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        found += [f"{name}: picture without words: {source}" for source in page.wordless]
        found += [f"{name}: loads {url}" for url in page.loads if urlsplit(url).netloc]
        text = "".join(page.text)
        found += [f"{name}: shows {place}" for place in OF_THIS_MACHINE if place in text]
        for url in {*page.links, *page.loads}:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name}: no such page: {url}")
            elif (
                parts.fragment
                and target in pages
                and unquote(parts.fragment) not in pages[target].anchors
            ):
                found.append(f"{name}: no such place: {url}")
    return found


def without_page(folder: Path) -> list[str]:
    """Return which estimators have diagrams that would link to a page that is not there."""
    import sklearn_epee  # noqa: PLC0415 - of the package that the site is about
    from sklearn_epee._documentation import DocumentationLinkMixin  # noqa: PLC0415

    os.environ["SKLEARN_EPEE_DOCS_URL"] = folder.resolve().as_uri()
    public = [getattr(sklearn_epee, name) for name in sklearn_epee.__all__]
    linked = [
        one for one in public if isinstance(one, type) and issubclass(one, DocumentationLinkMixin)
    ]
    links = [one._get_doc_link(one.__new__(one)) for one in linked]
    missing = [link for link in links if not Path(unquote(urlsplit(link).path)).exists()]
    return [f"no such page, which a diagram links to: {link}" for link in missing]


def main() -> None:
    """Check the folder named on the command line."""
    folder = Path(sys.argv[1])
    found = faults(folder) + without_page(folder)
    print("\n".join(found) or f"{len(list(folder.rglob('*.html')))} pages, no faults")
    if found:
        sys.exit(1)


if __name__ == "__main__":
    main()
