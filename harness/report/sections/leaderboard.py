"""Shows the leaderboard: what every label scores, keeps and costs, with the marks that qualify these figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis import OFF
from harness.records import quantity
from harness.report.columns import BESIDE, FRONT, SPARE, Column, columns, headers, problem, seeds, texts, title
from harness.report.elements import Custom, Footnote, RowStyle, TextTable, Value
from harness.report.sections.base import Section, Subject
from harness.report.table import Block, Report, Row

if TYPE_CHECKING:
    from markupsafe import Markup

SIZE = "examples"
WHISKER = 100.0  # width of the drawing of an interval, in its own units
ALWAYS = (
    "± is one standard error, √(mean item error² + variance between seeds / seeds): the items are the same for every "
    "seed, so more seeds do not shrink their share. One seed says nothing about others.",
    "Gain and Δ are changes against the untouched base model, with errors paired by item. A negative Δ in nats/word or "
    "accuracy means forgetting; n/a: the method leaves no language model.",
    "Time and peak memory cover training only, not loading or scoring.",
)
OF_COLUMNS = {  # the start of a header -> its footnote
    FRONT: "On front: the probability of lying on the Pareto front of the score and the first retained task, among "
    "rows that learned.",
    "KL to base": "KL to base: KL(p_base || p_tuned) of the distribution of the next token, averaged over tokens of "
    "retained text. 0: unchanged. Models have different tokens: compare it within one model only.",
    "mean Δ": "Mean Δ: the mean change of the retained tasks with that metric, each with the same weight. It may hide "
    "one that fell behind one that rose: read it beside its parts.",
    "average": "Average: the mean score of all tasks that a row learned. Backward transfer: how much later tasks "
    "changed earlier ones (Lopez-Paz & Ranzato 2017). Forgetting: how far these are below their best (Chaudhry et al. "
    "2018); positive is worse.",
    "train energy": "Training energy is read from the counter of the GPU, or on a CPU of the processor packages.",
    "MFU": "MFU: model FLOP utilisation, the matrix products of training per second over the fastest rate measured on "
    "this device (Chowdhery et al. 2022).",
    "latency ms": "Latency: the median time to answer one document alone, folded into the weights where it can be.",
}


class Leaderboard(Section):
    """The table of each data size and quality; on the page a single table, to sort and to filter."""

    name = "leaderboard"
    order = 110
    per_block = True
    facts = frozenset(
        ["tokens_per_second", "artifact_bytes", "mfu", "latency_ms_p50", "backward_transfer", "forgetting"]
    )

    def elements(self, subject: Subject) -> Iterator[TextTable]:
        block = subject.block
        for n_train, condition in block.tables:
            rows = block.at(n_train, condition)
            yield TextTable(
                title(n_train, condition),
                headers(block),
                [full_texts(block, row) for row in rows],
                numbers=numbers(block, rows),
                file=("scores", block.model, block.task, f"n{n_train}", condition),
            )

    def on_page(self, subject: Subject) -> Iterator[Custom]:
        """Yields one table of all rows of the block, to sort and to filter."""
        yield Custom("leaderboard.html.jinja", {"block": subject.block, "board": board(subject.block)})

    def on_terminal(self, subject: Subject) -> Iterator[TextTable]:
        """Yields the same tables without what is for files; a narrow terminal drops the columns of `SPARE`."""
        block = subject.block
        for n_train, condition in block.tables:
            rows = block.at(n_train, condition)
            yield TextTable(
                title(n_train, condition),
                headers(block),
                [texts(block, row) for row in rows],
                spare=SPARE,
                row_styles=[row_style(row) for row in rows],
            )

    def footnotes(self, report: Report) -> Iterator[Footnote]:
        rows = [row for block in report.blocks for row in block.rows]
        scored = [(block.task, row.score) for block in report.blocks for row in block.rows]
        scored += [pair for row in rows for pair in row.retained.items()]
        for task, clustering in dict.fromkeys((task, score.clustering) for task, score in scored if score):
            if clustering:
                yield Footnote(
                    f"{task}: {clustering}. Items of one cluster are not independent, so every error, interval and "
                    "verdict counts clusters."
                )
        shown = {name for block in report.blocks for name in headers(block)}
        yield from map(Footnote, ALWAYS)
        if BESIDE in shown:
            yield Footnote(
                "Vs best: the verdict against the best score of the table, over items and seeds, with p corrected for "
                f"all pairs of the table (Holm). Tied: within {report.run.margin:g}. Open: undecided, seeds and items "
                "are too few to tell. Blank: not trained on this table's examples.",
                BESIDE,
            )
        for start, text in OF_COLUMNS.items():
            if any(name.startswith(start) for name in shown):
                yield Footnote(text, start)
        if any(row.n_train and row.doubtful for row in rows):
            yield Footnote(
                "† not shown to be better than the base model in at least one seed (paired tests). With half of the "
                "seeds or more, the row is on no front and is not recommended."
            )
        once = dict.fromkeys(row.label for row in rows if row.tuning.studies == 1)
        if once:
            yield Footnote(
                "Tuned by one study, and compared as the setting that it chose; another study may choose another: "
                f"{', '.join(once)}."
            )
        if any(estimate and estimate.learned for row in rows for estimate in row.retained.values()):
            yield Footnote("§ learned here: this row was trained on that task too.")
        if any(row.contended for row in rows):
            yield Footnote("‡ other work shared the machine: do not compare this figure.")
        if any(row.speed_off for row in rows):
            yield Footnote(
                f"‡ in a cell of this row the machine's speed was more than {quantity(OFF, 'share')} off the median of "
                "the run: do not compare this figure."
            )


def row_style(row: Row) -> RowStyle:
    """Returns the style of a row: "soft" for an untrained one, "bad" for one without a finished cell."""
    return "soft" if not row.n_train else "" if row.seeds else "bad"


def full_texts(block: Block, row: Row) -> list[str]:
    """Returns a row's texts; a row without a finished cell shows why it has none in place of its score."""
    found = texts(block, row)
    return [*found[:2], problem(row) or found[2], *found[3:]]


def numbers(block: Block, rows: Sequence[Row]) -> tuple[list[str], list[list[Value]]]:
    """Returns (headers, rows) of a table as plain figures, for its CSV file: a column for each figure, followed by its
    standard error where it has one. The verdict against the best row is a word, beside the row's rank."""
    names = ["label", "method", "family", "model", "task", "n_train", "condition", "status"]
    parts: list[tuple[str, Callable[[Row], Value]]] = []
    for column in columns(block)[1:]:
        if column.name == BESIDE:
            parts += [("rank", column.value), (column.name, column.text)]
        else:
            parts.append((column.name, column.value))
        if column.error:
            parts.append((f"{column.name} stderr", column.error))
    found = [
        [
            row.label, row.method, row.family, row.model, block.task, row.n_train, row.condition,
            "done" if row.seeds else ", ".join(dict.fromkeys(status for _, status, _ in row.failures)),
            *(value(row) for _, value in parts),
        ]
        for row in rows
    ]  # fmt: skip
    return [*names, *(name for name, _ in parts)], found


@dataclass(frozen=True)
class BoardCell:
    """A cell of the page's leaderboard: its text, and the value that it is sorted by. `css` is a class of the style
    sheet, `drawn` an SVG to put beside the text, `span` how many columns it covers where that is not one."""

    text: str
    value: float | str | None = None
    css: str = ""
    drawn: Markup | str = ""
    span: int = 0


@dataclass(frozen=True)
class BoardRow:
    """A row of the page's leaderboard, with the values that it is filtered by: `n` is the number of training examples
    ("" for none), `search` the text that a search looks through."""

    n: int | str
    condition: str
    family: str
    search: str
    learned: bool
    untrained: bool
    cells: list[BoardCell]


@dataclass(frozen=True)
class Board:
    """The page's leaderboard. At first the page sorts it by the column number `sorted`, in the `order` "ascending" or
    "descending" that puts the best row first."""

    headers: list[str]
    order: str
    sorted: int
    sizes: tuple[int, ...]
    conditions: tuple[str, ...]
    families: list[str]
    rows: list[BoardRow]


def board(block: Block) -> Board:
    """Makes the page's leaderboard of all rows of a block, the best score first, with the values to sort and filter
    by."""
    shown = columns(block)
    shown = [column for column in shown if column.name != "seeds"] + [shown[1]]  # narrow screens show the first
    if len(block.sizes) > 1:
        shown.insert(1, Column(SIZE, lambda row: str(row.n_train or ""), lambda row: row.n_train or None))
    if len(block.conditions) > 1:
        shown.insert(2, Column("data", lambda row: row.condition or "clean", lambda row: row.condition or "clean"))
    ends = [end for row in block.rows for end in interval(row)]
    span = (min(ends), max(ends)) if ends else (0.0, 1.0)
    ranked = sorted(block.rows, key=lambda row: -row.merit)
    return Board(
        headers=[column.name for column in shown],
        order="descending" if block.higher_is_better else "ascending",
        sorted=[column.name for column in shown].index(block.metric or "score"),
        sizes=block.sizes,
        conditions=block.conditions,
        families=sorted({row.family for row in block.rows if row.family}),
        rows=[
            BoardRow(
                n=row.n_train or "",
                condition=(row.condition or "clean") if row.n_train else "",
                family=row.family,
                search=f"{row.label} {row.method} {row.model}".lower(),
                learned=row.learned and row.seeds > 0,
                untrained=not row.n_train,
                cells=board_cells(block, row, shown, span),
            )
            for row in ranked
        ],
    )


def board_cells(block: Block, row: Row, shown: Sequence[Column], span: tuple[float, float]) -> list[BoardCell]:
    """Returns the cells of one row, one for each column in `shown`; `span` are the ends of the scale on which scores
    are drawn. A row without a finished cell has its name and, across the other columns, why it has none."""

    def cell(column: Column) -> BoardCell:
        value = column.value(row)
        text = column.text(row)
        if isinstance(value, float):
            value = float(f"{value:.6g}")
        drawn = whisker(row, span) if column.name == block.metric else ""
        css = "size" if column.name == SIZE else text if text in ("worse", "better") else ""
        return BoardCell(text, value, css, drawn)

    if row.seeds:
        return [cell(column) for column in shown]
    known = [cell(column) for column in shown[: len(shown) - len(columns(block)) + 1]]
    reason = f"{seeds(row)} seeds. {problem(row)}" if row.n_train else problem(row)
    return [*known, BoardCell(reason, css="problem", span=len(shown) - len(known))]


def interval(row: Row) -> tuple[float, ...]:
    """Returns the ends of the 95% interval of a row's score; the score twice where its error is not known, () without a
    score."""
    if row.score is None:
        return ()
    return row.score.ends or (row.score.value, row.score.value)


def whisker(row: Row, span: tuple[float, float]) -> Markup | str:
    """Draws a row's score and its interval as SVG, on the scale `span` of its table; "" without a score."""
    from markupsafe import Markup

    if row.score is None:
        return ""
    ends = (*interval(row), row.score.value)
    low, high, at = ((end - span[0]) / ((span[1] - span[0]) or 1.0) * WHISKER for end in ends)
    return Markup(
        f'<svg class="whisker" viewBox="0 0 {WHISKER:.0f} 14" aria-hidden="true">'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7"/><circle cx="{at:.1f}" cy="7" r="4"/></svg>'
    )
