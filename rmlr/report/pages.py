"""Pages of text, lists and tables: one HTML file that needs nothing else, on a screen and on paper; or Markdown."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Liberation Sans", Arial, sans-serif; color: #1b1f24; background: #fff;
  margin: 1.5rem 2rem; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .8rem; }
h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p, ul { max-width: 58rem; margin: .5rem 0; }
ul { padding-left: 1.3rem; }
.note { font-size: .85rem; color: #475059; }
code { font: .9em ui-monospace, "Liberation Mono", monospace; background: #f1f3f5; padding: 0 .2em; }
pre { font: 12.5px/1.45 ui-monospace, "Liberation Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: .88rem;
  line-height: 1.35; }
thead { border-top: 2px solid #1b1f24; border-bottom: 1px solid #1b1f24; }
tbody:last-of-type { border-bottom: 2px solid #1b1f24; }
tbody + tbody { border-top: 1px solid #1b1f24; }
th, td { padding: .22rem .5rem; text-align: right; vertical-align: baseline; }
th { font-weight: 600; }
th[colspan] { text-align: center; border-bottom: 1px solid #aab2ba; }
th.name, td.name { text-align: left; }
td.figure, td.short { white-space: nowrap; }
tbody tr:nth-child(even) td { background: #f6f8fa; }
td.ours, tr.ours td { font-weight: 600; }
td.difference, tr.difference td { color: #475059; }
.agrees { color: #00588f; font-weight: 600; }
.disagrees { color: #a33b00; font-weight: 600; }
.open { color: #475059; }
sup { line-height: 0; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { margin: 0; font-size: 10pt; }
  table { font-size: 7.5pt; }
  th, td { padding: .12rem .35rem; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  * { print-color-adjust: exact; }
}
"""
MARKED = ("ours", "difference")  # columns, or lines, that look their own way
SHORT = 26  # characters of a name that stay in one line


@dataclass(frozen=True)
class Text:
    """A paragraph; between backticks is code, between double stars what weighs most."""

    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Heading:
    """Of what follows."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Source:
    """Text as it stands in a file."""

    text: str


@dataclass(frozen=True)
class Sheet:
    """A table: heads of two levels, the upper one empty or shared by neighbours."""

    head: Sequence[tuple[str, str]]
    is_name: Sequence[bool]  # columns to the left
    lines: Sequence[Sequence[str]]
    more: Sequence[Sequence[str]] = field(default=())  # lines beneath a rule
    about_more: str = ""  # what they are


Block = Text | Heading | Items | Source | Sheet


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The whole file."""
    body = "\n".join(_block(block) for block in blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>\n<style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n<h1>{_inline(title)}</h1>\n{body}\n</body>\n'
        "</html>\n"
    )


def html_part(blocks: Sequence[Block]) -> str:
    """To stand in another page, in its style."""
    return "\n".join(_block(block) for block in blocks) + "\n"


def _inline(text: str) -> str:
    """Marks of footnotes are raised, a sign is as long as a plus."""
    said = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))
    said = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", said)
    said = re.sub(r" ?(†|‡|(?<=[\w.\]]) \[[a-z]\])", lambda mark: f"<sup>{mark[1].strip()}</sup>", said)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", said)


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"<h2>{_inline(block.text)}</h2>"
        case Items():
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
        case Source():
            return f"<pre>{html.escape(block.text)}</pre>"
        case Sheet():
            return _sheet(block)
        case Text():
            return f'<p class="note">{_inline(block.text)}</p>' if block.is_note else f"<p>{_inline(block.text)}</p>"


VERDICTS = {"agrees": "agrees", "disagrees": "disagrees", "cannot be told apart": "open", "not measured": "open"}


def _sheet(sheet: Sheet) -> str:
    kinds = ["name" if is_name else own if own in MARKED else "" for is_name, (_, own) in _columns(sheet)]
    heads = []
    groups = [group for group, _ in sheet.head]
    if any(groups):
        cells, column = [], 0
        while column < len(groups):
            width = 1
            while groups[column] and column + width < len(groups) and groups[column + width] == groups[column]:
                width += 1
            cells.append(f'<th colspan="{width}">{_inline(groups[column])}</th>' if groups[column] else "<th></th>")
            column += width
        heads.append("".join(cells))
    heads.append(
        "".join(
            f'<th class="name">{_inline(own)}</th>' if is_name else f"<th>{_inline(own)}</th>"
            for is_name, (_, own) in _columns(sheet)
        )
    )

    def row(line: Sequence[str]) -> str:
        of = next((name for cell in line for name in MARKED if cell.partition(":")[0] == name), "")
        cells = "".join(_cell(cell, kind) for cell, kind in zip(line, kinds, strict=True))
        return f'<tr class="{of}">{cells}</tr>' if of else f"<tr>{cells}</tr>"

    bodies = ["<tbody>" + "\n".join(row(line) for line in sheet.lines) + "</tbody>"]
    if sheet.more:
        about = f'<tr><td class="name" colspan="{len(kinds)}"><i>{_inline(sheet.about_more)}</i></td></tr>'
        bodies.append("<tbody>" + "\n".join([about, *map(row, sheet.more)]) + "</tbody>")
    rows = "\n".join(f"<tr>{cells}</tr>" for cells in heads)
    return f"<table>\n<thead>{rows}</thead>\n" + "\n".join(bodies) + "\n</table>"


def _columns(sheet: Sheet) -> list[tuple[bool, tuple[str, str]]]:
    return list(zip(sheet.is_name, sheet.head, strict=True))


def _cell(cell: str, kind: str) -> str:
    said = _inline(cell)
    if cell in VERDICTS:
        said = f'<span class="{VERDICTS[cell]}">{said}</span>'
    short = " short" if kind == "name" and len(cell) <= SHORT else ""
    return f'<td class="{kind or "figure"}{short}">{said}</td>'


# ---- Markdown


def markdown_page(title: str, blocks: Sequence[Block]) -> str:
    """The same blocks, for reading in a repository."""

    def block(one: Block) -> str:
        match one:
            case Heading():
                return f"## {one.text}"
            case Items():
                return "\n".join(f"- {item}" for item in one.items)
            case Source():
                return f"```\n{one.text}\n```"
            case Sheet():
                return aligned([[own for _, own in one.head], *one.lines], one.is_name)
            case Text():
                return one.text

    return "\n\n".join([f"# {title}", *map(block, blocks)]) + "\n"


def aligned(lines: Sequence[Sequence[str]], is_name: Sequence[bool]) -> str:
    """A Markdown table, head first: names to the left, the rest to the right."""
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(is_name))]
    ruler = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, is_name, strict=True)]
    texts = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_name, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [texts[0], ruler, *texts[1:]])
