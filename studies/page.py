"""Render the sections of a report as one self-contained HTML page, and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from studies.drawing import Picture
from studies.tables import Table


@dataclass(frozen=True)
class Folded:
    """Tables that are shown on demand.

    Attributes
    ----------
    title : str
    tables : tuple of Table
    """

    title: str
    tables: tuple[Table, ...]


# A paragraph, a bullet list, a table, folded tables, or a picture.
Part = str | tuple[str, ...] | Table | Folded | Picture

# Longer cells contain sentences, which are wrapped.
_LONGEST_NUMBER = 28

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --ground: #ffffff; --soft: #f2f4f7;
  --line: #c9ced6; --quiet: #57606a; --link: #0a58ad; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --ground: #14171a;
  --soft: #1e2329; --line: #444c56; --quiet: #a5adb7; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.2rem 4rem; max-width: 76rem; color: var(--text);
  background: var(--ground); font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
p, li, figcaption, caption { max-width: 52rem; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); } code { background: var(--soft); padding: 0.1em 0.3em; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; }
nav ul { columns: 2 18rem; padding-left: 1.2rem; }
figure { margin: 1.5rem 0; } figcaption, caption { color: var(--quiet); font-size: 0.92rem; }
img { max-width: 100%; height: auto; background: #ffffff; padding: 0.5rem;
  border: 1px solid var(--line); border-radius: 6px; }
.table { overflow-x: auto; margin: 1.5rem 0; } .table:focus { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--quiet); vertical-align: bottom; }
tbody th { font-weight: 600; } td.number { white-space: nowrap; }
summary { cursor: pointer; color: var(--link); }
tbody tr:nth-child(even) { background: var(--soft); }
@media print { body { max-width: none; } .table { overflow: visible; } }
"""


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes
    ----------
    title : str
    parts : list of str, tuple of str, Table or Picture
        Paragraphs, bullet lists, tables and pictures. Text can contain `code` between backticks.
    """

    title: str
    parts: list[Part] = field(default_factory=list)


# ------------------------------------------------------------------------------------------- HTML


def as_html(title: str, sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page, with styles and pictures as data.

    Parameters
    ----------
    title : str
    sections : sequence of Section
    """
    links = "".join(
        f'<li><a href="#{_anchor(section.title)}">{escape(section.title)}</a></li>'
        for section in sections
    )
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#content">To the content</a>
<header><h1>{escape(title)}</h1></header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main id="content">
{body}
</main>
</body>
</html>
"""


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _section(section: Section) -> str:
    name = _anchor(section.title)
    parts = "\n".join(_part(part) for part in section.parts)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(section.title)}</h2>\n'
        f"{parts}\n</section>"
    )


def _part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{_words(part)}</p>"
    if isinstance(part, tuple):
        return "<ul>" + "".join(f"<li>{_words(point)}</li>" for point in part) + "</ul>"
    if isinstance(part, Folded):
        inside = "\n".join(_table(table) for table in part.tables)
        return f"<details><summary>{_words(part.title)}</summary>\n{inside}\n</details>"
    return _table(part) if isinstance(part, Table) else _picture(part)


def _words(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_words(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        f'<tr><th scope="row">{_words(first)}</th>'
        + "".join(_cell(cell) for cell in cells)
        + "</tr>"
        for first, *cells in table.rows
    )
    label = escape(table.caption.partition(":")[0][:80])
    return (
        f'<div class="table" role="region" aria-label="{label}" tabindex="0"><table>'
        f"<caption>{_words(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(text: str) -> str:
    kind = ' class="number"' if len(text) < _LONGEST_NUMBER else ""
    return f"<td{kind}>{_words(text)}</td>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'
        f"<figcaption>{_words(picture.caption)}</figcaption></figure>"
    )


# --------------------------------------------------------------------------------------- Markdown


def as_markdown(sections: Iterable[Section], *, level: int = 2, pictures: str | None = None) -> str:
    """Return sections as Markdown.

    Parameters
    ----------
    sections : iterable of Section
    level : int, default=2
        Level of the headlines.
    pictures : str or None, default=None
        The folder of the pictures in links; None: without pictures.
    """
    blocks: list[str] = []
    for section in sections:
        parts = [_in_markdown(part, pictures) for part in section.parts]
        blocks += [f"{'#' * level} {section.title}", *(part for part in parts if part)]
    return "\n\n".join(blocks) + "\n"


def _in_markdown(part: Part, pictures: str | None) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, tuple):
        return "\n".join(f"- {point}" for point in part)
    if isinstance(part, Table):
        return f"{part.caption}\n\n{part.markdown()}"
    if isinstance(part, Folded):
        return "\n\n".join(_in_markdown(table, None) for table in part.tables)
    if pictures is None:
        return ""
    alt = part.alt.replace("[", "(").replace("]", ")")
    return f"![{alt}]({pictures}/{part.name}.png)\n\n{part.caption}"
