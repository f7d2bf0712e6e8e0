"""Defines the elements of a section of the report: texts, tables, plots. Each form of the report shows all of these
kinds.

Not covered: which section says what (`sections/`), and what a form makes of an element (`html`, `markdown`, `terminal`,
`files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from harness.report.chart_style import Spec

Style = Literal["", "note", "footnote", "warning", "bad", "strong"]
RowStyle = Literal["", "soft", "bad"]
Value = str | float | int | None  # a field of a CSV file; None is an empty field


@dataclass(frozen=True)
class Text:
    """A paragraph; `style` says what it is for a reader, such as a "note" or a "warning"."""

    kind: ClassVar[str] = "text"
    text: str
    style: Style = ""


@dataclass(frozen=True)
class Footnote:
    """An explanation of a mark or a column. A form that has no room for the columns that begin with `column` leaves it
    out."""

    kind: ClassVar[str] = "footnote"
    text: str
    column: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of short sentences. `lead`: they are what a reader should take away, and are set larger. On a terminal
    they fill at most `most_lines` lines; the last `closing` sentences are always shown."""

    kind: ClassVar[str] = "bullets"
    lines: Sequence[str]
    lead: bool = False
    most_lines: int | None = None
    closing: int = 0


@dataclass(frozen=True)
class TextTable:
    """A table of texts; its first column names the rows.

    `numbers` are the headers and rows of its CSV file, where these say more than the texts. `file` are the parts of its
    file's name, by default the section's name and the title. A narrow terminal leaves out the columns that begin with
    an entry of `spare`, in the order of `spare`. `row_styles` has a style for each row, or none. `css` is a class of
    the page's style sheet.
    """

    kind: ClassVar[str] = "table"
    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: tuple[Sequence[str], Sequence[Sequence[Value]]] | None = None
    file: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    row_styles: Sequence[RowStyle] = ()
    css: str = ""


@dataclass(frozen=True)
class Plot:
    """A group of plots on one topic: `charts` maps the name of each to its Vega-Lite; a single one may be named "".
    `label` is what a screen reader reads, `file` are the parts of the files' names; both are the title by default."""

    kind: ClassVar[str] = "plot"
    title: str
    charts: Mapping[str, Spec]
    caption: str = ""
    label: str = ""
    file: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """An entry of a list: a name (such as a cell's key), a `word` on it (such as its status), and details. `bad` sets
    the word in the colour of failures."""

    name: str
    word: str
    details: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Entries:
    """A list of entries, each with a name, a word and details."""

    kind: ClassVar[str] = "entries"
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Folded:
    """A group of elements under a `summary`, which the page unfolds on demand, or at first where `open`; the other
    forms show the elements at once."""

    kind: ClassVar[str] = "folded"
    summary: str
    elements: Sequence[Element]
    open: bool = False


@dataclass(frozen=True)
class Custom:
    """A part of the page with a template of its own in `templates/`, which is given `values`."""

    kind: ClassVar[str] = "custom"
    template: str
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """Marks where the terminal names the table columns that it left out for lack of width; says nothing if there were
    none."""

    kind: ClassVar[str] = "left_out"


Element = Text | Footnote | Bullets | TextTable | Plot | Entries | Code | Folded | Custom | LeftOut


def flat(elements: Iterable[Element]) -> Iterator[Element]:
    """Yields the elements in order, with each folded group replaced by the elements in it."""
    for element in elements:
        if isinstance(element, Folded):
            yield from flat(element.elements)
        else:
            yield element
