"""Shows which differences are real, and on which items: verdicts on every pair, and the items behind them.

The data in the page are kept small: a score of 0 or 1 is stored as one digit, the number of seeds that were right; an
answer is stored as a place in a list.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict

from harness.analysis import Verdict
from harness.report.columns import title
from harness.report.elements import Custom, TextTable
from harness.report.sections.base import Section, Subject
from harness.report.table import Block, Report, condition_of
from harness.store import CellRow

MOST_VALUES = 600_000  # answers of one block that go into the page: about as many bytes
MOST_TEXT = 1_200  # characters of a document that are shown
CODES = string.digits + string.ascii_letters
VERDICTS = ["a", "verdict", "b", "metric", "effect", "low", "high", "d_z", "p alone", "p Holm", "q Benjamini-Hochberg"]


class ItemRow(TypedDict):
    """A label's scores and answers on every document, at one size `n` and quality `condition`.

    Scores: `right`, a string with a digit for each document that says how many of the `seeds` were right (fewer than
    ten seeds, all scores 0 or 1); otherwise `values`, the mean over seeds for each document. `said`: what the first
    seed answered to each document, as an index into `Explorer.answers`; a string with one character of `CODES` for each
    index where the block has at most 62 distinct answers.
    """

    label: str
    n: int
    condition: str
    seeds: int
    said: list[int] | str
    right: NotRequired[str]
    values: NotRequired[list[float]]


class Scored(TypedDict, total=False):
    """The scores of a label on each document: digits, or means over its seeds."""

    right: str
    values: list[float]


class Explorer(TypedDict):
    """The items of a block with the answers of all its labels: `docs` are pairs of text and target, `answers` all
    different answers, `higher` whether a higher score is better."""

    task: str
    model: str
    metric: str
    higher: bool
    docs: list[list[str]]
    answers: list[str]
    rows: list[ItemRow]


class PageVerdicts(TypedDict):
    """The verdicts of one table, as the page's script reads them; see `verdicts` for the fields."""

    n: int
    condition: str
    labels: list[str]
    known: bool
    missing: list[str]
    remarks: dict[str, str]
    pairs: list[list[float | int | str]]


class ItemBrowser(Section):
    """The comparison of any two labels, down to the items on which they differ; in the files, every verdict as a
    table."""

    name = "verdicts"
    title = "Which differences are real, and on which items"
    order = 130
    per_block = True
    forms = frozenset({"page", "files"})

    def in_files(self, subject: Subject) -> Iterator[TextTable]:
        """Yields a table of the verdicts on all pairs, for each table in which labels were compared."""
        block = subject.block
        for n_train, condition in block.tables:
            pairs = block.ranking(n_train, condition).pairs
            if pairs:
                yield TextTable(
                    f"Verdicts, {title(n_train, condition)}",
                    VERDICTS,
                    [verdict_texts(verdict) for verdict in pairs.values()],
                    file=("verdicts", block.model, block.task, f"n{n_train}", condition),
                )

    def on_page(self, subject: Subject) -> Iterator[Custom]:
        """Yields the control that compares two labels and lists their items; nothing where fewer than two labels were
        compared."""
        block = subject.block
        if not any(len(block.ranking(*point).labels) > 1 for point in block.tables):
            return
        yield Custom(
            "item_browser.html.jinja",
            {
                "id": subject.anchor,
                "block": block,
                "clustering": next((row.score.clustering for row in block.rows if row.score), ""),
                "margin": f"{block.ranking(*block.tables[0]).margin:g}",
                "tables": [
                    {
                        "title": title(n_train, condition),
                        "chosen": n_train == max(block.sizes, default=0) and not condition,
                    }
                    for n_train, condition in block.tables
                ],
                "verdicts": verdicts(block),
                "answers": explorer(subject.report, block),
            },
        )


def verdict_texts(verdict: Verdict) -> list[str]:
    """Returns the texts of one verdict's row, in the order of `VERDICTS`; "" for figures that it does not have."""
    found = verdict.decision
    figures: list[float | None] = [None] * 7
    if found:
        ends = found.interval.low, found.interval.high
        figures = [found.effect, *ends, verdict.effect_size, verdict.p_alone, found.p, verdict.q]
    texts = ("" if value is None else f"{value:.4g}" for value in figures)
    return [verdict.a, verdict.verdict, verdict.b, verdict.metric, *texts]


def explorer(report: Report, block: Block) -> Explorer | None:
    """Collects the answers of a block for the page; None without stored items.

    `docs` are text and target of each document, `answers` all that was said, and `rows`, for each label × size, its
    score on every document (`right`: how many of its `seeds`, or `values`: the mean) and what its first seed `said`.
    Untrained rows come first, then the largest size; where there are too many rows the last are left out. So are labels
    that were scored on other items, or have values that are not finite.
    """
    groups: dict[tuple[int, str, str], list[CellRow]] = {}
    for cell in report.cells:
        if (cell.base_model, cell.task) == (block.model, block.task) and cell.attempt_id in report.answers:
            groups.setdefault((cell.n_train, condition_of(cell), cell.label), []).append(cell)
    order = sorted(groups, key=lambda group: (group[0] != 0, bool(group[1]), -group[0]))  # untrained ones first
    if not order:
        return None
    docs = sorted(report.answers[groups[order[0]][0].attempt_id])
    place_of_answer: dict[str, int] = {}
    rows: list[ItemRow] = []
    target: dict[str, str] = {}
    for n_train, condition, label in order:
        cells = groups[n_train, condition, label]
        found = [report.answers[cell.attempt_id] for cell in cells]
        if any(sorted(answers) != docs for answers in found):
            continue  # scored on other items: not comparable
        if not all(value is not None and math.isfinite(value) for answers in found for value, *_ in answers.values()):
            continue
        if len(rows) * len(docs) >= MOST_VALUES:
            break
        target |= {doc: answer[2] for doc, answer in found[0].items()}
        said = [place_of_answer.setdefault(found[0][doc][1], len(place_of_answer)) for doc in docs]
        score = scored([[answers[doc][0] for doc in docs] for answers in found])
        rows.append({"label": label, "n": n_train, "condition": condition, "seeds": len(cells), "said": said, **score})
    if len(place_of_answer) <= len(CODES):  # few answers: a letter for each
        for row in rows:
            row["said"] = "".join(CODES[int(place)] for place in row["said"])
    return {
        "task": block.task,
        "model": block.model,
        "metric": block.metric,
        "higher": next((row.score.higher_is_better for row in block.rows if row.score), True),
        "docs": [[shortened(report.texts.get((block.task, doc), "")), target.get(doc, "")] for doc in docs],
        "answers": list(place_of_answer),
        "rows": rows,
    }


def scored(seeds: Sequence[Sequence[float]]) -> Scored:
    """Converts scores [seeds][items] of one label to digits, where all are 0 or 1 and the seeds are few, else to
    means."""
    if len(seeds) < 10 and all(value in (0.0, 1.0) for row in seeds for value in row):
        return {"right": "".join(str(int(sum(column))) for column in zip(*seeds, strict=True))}
    return {"values": [float(f"{sum(column) / len(seeds):.4g}") for column in zip(*seeds, strict=True)]}


def shortened(text: str) -> str:
    """Returns a text, cut to `MOST_TEXT` characters."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT].rstrip() + " …"


def verdicts(block: Block) -> list[PageVerdicts]:
    """Returns the verdicts of each table, for the page. `n` and `condition` are its size and quality; `labels` those
    that were compared; `known` is False where every pair has a label that was not repeated with seeds; `missing` says
    why others are not compared; `remarks` say what tuned labels stand for, by label; `pairs` are [place of a in
    `labels`, place of b, verdict, effect, low, high, p]."""
    found: list[PageVerdicts] = []
    for n_train, condition in block.tables:
        ranking = block.ranking(n_train, condition)
        place = {label: rank for rank, label in enumerate(ranking.labels)}
        found.append(
            {
                "n": n_train,
                "condition": condition,
                "labels": list(ranking.labels),
                "known": ranking.seeds_known,
                "missing": list(ranking.missing.values()),
                "remarks": {
                    row.label: row.tuning.remark(row.label)
                    for row in block.at(n_train, condition)
                    if row.tuning.studies and row.label in place
                },
                "pairs": [
                    [
                        place[a],
                        place[b],
                        verdict.verdict,
                        *(
                            float(f"{value:.6g}")
                            for value in (decision.effect, decision.interval.low, decision.interval.high, decision.p)
                        ),
                    ]
                    for (a, b), verdict in ranking.pairs.items()
                    if (decision := verdict.decision)
                ],
            }
        )
    return found
