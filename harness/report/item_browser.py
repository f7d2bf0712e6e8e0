"""What the page needs to show which items one label answers and another does not, with their texts.

Kept small: a score of 0 or 1 is a digit, the number of seeds that were right; an answer is a place in a list.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from harness.report.table import Block, Report, condition_of
from harness.store import CellRow

MOST_VALUES = 600_000  # answers of one block that go into the page: about as many bytes
MOST_TEXT = 1_200  # characters of a document
CODES = string.digits + string.ascii_letters


def explorer(report: Report, block: Block) -> dict[str, Any] | None:
    """`docs` with id, text and target; `answers`, all that was said; `rows`, for each label × size what it scored on
    every document (`right`: how many of its `seeds`, or `values`: the mean) and what its first seed `said`. Rows of
    the largest size come first, and where there are too many the last are left out. None without stored items."""
    groups: dict[tuple[int, str, str], list[CellRow]] = {}
    for cell in report.cells:
        if (cell.base_model, cell.task) == (block.model, block.task) and cell.attempt_id in report.answers:
            groups.setdefault((cell.n_train, condition_of(cell), cell.label), []).append(cell)
    order = sorted(groups, key=lambda group: (group[0] != 0, bool(group[1]), -group[0]))  # untrained ones first
    if not order:
        return None
    docs = sorted(report.answers[groups[order[0]][0].attempt_id])
    told: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    target: dict[str, str] = {}
    for n_train, condition, label in order:
        cells = groups[n_train, condition, label]
        found = [report.answers[cell.attempt_id] for cell in cells]
        if any(sorted(answers) != docs for answers in found):
            continue  # other items: nothing to set side by side
        if not all(value is not None and math.isfinite(value) for answers in found for value, *_ in answers.values()):
            continue
        if len(rows) * len(docs) >= MOST_VALUES:
            break
        target |= {doc: answer[2] for doc, answer in found[0].items()}
        said = [told.setdefault(found[0][doc][1], len(told)) for doc in docs]
        row: dict[str, Any] = {"label": label, "n": n_train, "condition": condition, "seeds": len(cells)}
        rows.append(row | {"said": said} | scored([[answers[doc][0] for doc in docs] for answers in found]))
    if len(told) <= len(CODES):  # a letter for each
        for row in rows:
            row["said"] = "".join(CODES[place] for place in row["said"])
    return {
        "task": block.task,
        "model": block.model,
        "metric": block.metric,
        "higher": next((row.score.higher_is_better for row in block.rows if row.score), True),
        "docs": [[shortened(report.texts.get((block.task, doc), "")), target.get(doc, "")] for doc in docs],
        "answers": list(told),
        "rows": rows,
    }


def scored(seeds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of [seeds][items]: digits where all are 0 or 1 and the seeds are few, else means."""
    if len(seeds) < 10 and all(value in (0.0, 1.0) for row in seeds for value in row):
        return {"right": "".join(str(int(sum(column))) for column in zip(*seeds, strict=True))}
    return {"values": [float(f"{sum(column) / len(seeds):.4g}") for column in zip(*seeds, strict=True)]}


def shortened(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT].rstrip() + " …"


def verdicts(block: Block) -> list[dict[str, Any]]:
    """Of each table all verdicts, for the page: `labels`, whether their seeds are `known`, why others are `missing`,
    and `pairs` of places, each [a, b, word, effect, low, high, p]."""
    found = []
    for n_train, condition in block.tables:
        standing = block.standing(n_train, condition)
        place = {label: rank for rank, label in enumerate(standing.labels)}
        found.append(
            {
                "n": n_train,
                "condition": condition,
                "labels": list(standing.labels),
                "known": standing.seeds_known,
                "missing": list(standing.missing.values()),
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
                    for (a, b), verdict in standing.pairs.items()
                    if (decision := verdict.decision)
                ],
            }
        )
    return found
