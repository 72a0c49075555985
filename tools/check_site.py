"""Check the built site: valid links, alternative texts of pictures, nothing from other hosts.

Also check that the pages exist to which the diagrams of estimators link, and that no page contains
paths of the build machine, for example in warnings of the gallery's scripts.

    python tools/check_site.py docs/_build/html

Prints one line per fault, and fails if there are any.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose addresses a browser loads, in contrast to links.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
# Relations of <link> that do not load anything.
NOT_LOADED = {"canonical", "next", "prev", "author", "index", "search", "license"}
# Folders of the build machine.
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
        """Collect the addresses, anchors and pictures of a tag."""
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
        """Collect the text."""
        self.text.append(data)


def faults(folder: Path) -> list[str]:
    """Return the faults of the site in a folder."""
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
    """Return the missing pages to which diagrams of estimators link."""
    import sklearn_epee  # noqa: PLC0415 - only needed here
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
