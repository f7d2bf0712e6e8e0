"""The report as one self-contained HTML file: it asks for nothing else, works offline, in light and dark and in print.

Plots are Vega-Lite, drawn by the page; `templates/` has what it looks like and does.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.stats import Z
from harness.data import cache_root
from harness.report import advice, cross_task, item_browser, memory, self_checks, tuning
from harness.report.answer import lines, sentences
from harness.report.chart_style import dark_rules
from harness.report.columns import (
    Column,
    columns,
    matched_headers,
    matched_texts,
    matched_title,
    problem,
    seeds,
    title,
)
from harness.report.figures import drawings, further
from harness.report.footnotes import footnotes
from harness.report.format import NA, slug
from harness.report.table import Block, Report, Row
from harness.store import write_atomically

if TYPE_CHECKING:
    from markupsafe import Markup

    from harness.analysis import Answer

# The packages that a reader asks for first; the database has all of them.
SHOWN = ("torch", "transformers", "peft", "accelerate", "lm_eval", "bitsandbytes", "setfit", "mergekit")
TEMPLATES = Path(__file__).parent / "templates"
SIZE = "examples"
MOST_ADVISED = 15  # of those that fit; the command has all
WHISKER = 100.0  # how wide the drawing of an interval is, in its own units


def environment() -> Any:
    """Jinja, strict, over our templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["wordy"] = wordy
    return found


def wordy(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column whether it holds words, which are set flush left."""
    columns = [[text for text in column if text and text != NA] for column in zip(*rows, strict=True)] if rows else []
    return [2 * sum(text[0].isalpha() for text in column) > len(column) for column in columns]


def render(report: Report) -> str:
    """The HTML text."""
    from markupsafe import Markup

    charts: dict[str, dict[str, Any]] = {}

    def kept(chart: dict[str, Any]) -> str:
        """The name by which the page finds a chart."""
        name = f"c{len(charts)}"
        charts[name] = chart
        return name

    packages = report.run.environment.get("packages", {})
    said = {(one.model, one.task): shown_advice(answer, one) for answer, one in advice.advised(report)}
    blocks = [
        shown_block(block, report, place, kept, said.get((block.model, block.task)))
        for place, block in enumerate(report.blocks)
    ]
    others = further(report)
    joint = [
        {
            "title": one.title,
            "headers": cross_task.headers(one),
            "rows": cross_task.lines(one),
            "sentence": cross_task.sentence(one),
            "chart": kept(others[one.title]),
        }
        for one in cross_task.across(report)
    ]
    tuned = []
    for name, studies in tuning.groups(report.studies).items():
        tuned.append(
            {
                "title": name,
                "headers": tuning.headers(studies),
                "rows": tuning.lines(studies, report.blocks),
                "chart": kept(others[name]) if name in others else None,
            }
        )
    return str(
        environment()
        .get_template("report.html.jinja")
        .render(
            run=report.run,
            started=f"{report.run.started:%Y-%m-%d}",
            environment=report.run.environment,
            packages={name: packages[name] for name in SHOWN if name in packages},
            all_packages=packages,
            answer=lines(report),
            blocks=blocks,
            several=sum(block.compares for block in report.blocks) > 1,
            several_models=len({block.model for block in report.blocks}) > 1,
            across=joint,
            across_note=cross_task.NOTE,
            footnotes=footnotes(report),
            memory=memory,
            tuning={
                "title": tuning.TITLE,
                "note": tuning.NOTE,
                "plot_title": tuning.PLOT_TITLE,
                "tables": tuned,
            },
            failures=report.failures,
            flags=report.flags,
            flag_counts=Counter(name for _, name, _ in report.flags),
            instruments={
                "summary": self_checks.summary(report),
                "headers": self_checks.HEADERS,
                "tables": self_checks.tables(report),
            },
            cells=report.cells,
            charts=data(charts),
            dark_rules={
                "system": Markup(dark_rules(':root:not([data-theme="light"]) ')),
                "chosen": Markup(dark_rules(':root[data-theme="dark"] ')),
            },
            vega=Markup(vega()),
            script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        )
    )


def shown_block(block: Block, report: Report, place: int, kept: Any, advised: dict[str, Any] | None) -> dict[str, Any]:
    """What the template asks of a block. `kept` takes a chart and gives its name."""
    compared = [
        {"title": title(n_train, condition), "chosen": n_train == max(block.sizes, default=0) and not condition}
        for n_train, condition in block.tables
    ]
    anything = any(len(block.standing(*point).labels) > 1 for point in block.tables)
    return {
        "id": "-".join(["block", str(place), slug(block.task)]),
        "task": block.task,
        "model": block.model,
        "metric": block.metric,
        "answer": sentences(block),
        "board": board(block),
        "advice": advised,
        "margin": f"{block.standing(*block.tables[0]).margin:g}",
        "figures": [
            {
                "title": drawing.title,
                "caption": drawing.caption,
                "charts": [(name, kept(chart)) for name, chart in drawing.charts.items()],
                "tables": drawing.sheets,
            }
            for drawing in drawings(block)
        ],
        "matched": [
            {
                "title": f"{matched_title(found)}, {title(*point)}",
                "headers": matched_headers(block),
                "rows": matched_texts(block, found),
            }
            for point, found in block.matched.items()
        ],
        "memory": {"headers": memory.columns(block), "rows": memory.lines(block)},
        "compared": compared if anything else [],
        "verdicts": data(item_browser.verdicts(block)) if anything else "",
        "answers": data(item_browser.explorer(report, block)) if anything else "",
    }


def shown_advice(answer: Answer, question: advice.Question) -> dict[str, Any]:
    """A recommendation without limits, along the five dimensions."""
    return {
        "sentences": [
            *advice.sentences(answer, question),
            *(advice.details(answer.first, answer.prices) if answer.first else []),
        ],
        "title": f"Along five dimensions: {advice.title(question)}",
        "headers": advice.headers(question),
        "rows": [advice.texts(one, answer.prices) for one in answer.ranked[:MOST_ADVISED]],
        "more": max(len(answer.ranked) - MOST_ADVISED, 0),
        "out": [f"{label}: {why}" for label, why in advice.ruled_out(answer)],
        "assumptions": advice.assumptions(answer, question),
    }


def board(block: Block) -> dict[str, Any]:
    """The leaderboard: all rows of a block, the highest score first, with what they are sorted and filtered by."""
    shown = columns(block)
    shown = [column for column in shown if column.name != "seeds"] + [shown[1]]  # narrow screens show the first
    if len(block.sizes) > 1:
        shown.insert(1, Column(SIZE, lambda row: str(row.n_train or ""), lambda row: row.n_train or None))
    if len(block.conditions) > 1:
        shown.insert(2, Column("data", lambda row: row.condition or "clean", lambda row: row.condition or "clean"))
    ends = [end for row in block.rows for end in interval(row)]
    span = (min(ends), max(ends)) if ends else (0.0, 1.0)
    ranked = sorted(block.rows, key=lambda row: -row.merit)
    return {
        "headers": [column.name for column in shown],
        "order": "descending" if block.higher_is_better else "ascending",
        "sorted": [column.name for column in shown].index(block.metric or "score"),
        "sizes": block.sizes,
        "conditions": block.conditions,
        "families": sorted({row.family for row in block.rows if row.family}),
        "rows": [
            {
                "n": row.n_train or "",
                "condition": (row.condition or "clean") if row.n_train else "",
                "family": row.family,
                "search": f"{row.label} {row.method} {row.model}".lower(),
                "learned": "1" if row.learned and row.seeds else "0",
                "untrained": not row.n_train,
                "cells": board_cells(block, row, shown, span),
            }
            for row in ranked
        ],
    }


def board_cells(block: Block, row: Row, shown: Sequence[Column], span: tuple[float, float]) -> list[dict[str, Any]]:
    """A row's cells. Without a finished cell: what it is, and across the rest why there is no number."""

    def cell(column: Column) -> dict[str, Any]:
        value = column.value(row)
        text = column.text(row)
        if isinstance(value, float):
            value = float(f"{value:.6g}")
        drawn = whisker(row, span) if column.name == block.metric else ""
        return {
            "text": text,
            "value": value,
            "class": "size" if column.name == SIZE else text if text in ("worse", "better") else "",
            "drawn": drawn,
            "span": 0,
        }

    if row.seeds:
        return [cell(column) for column in shown]
    known = [cell(column) for column in shown[: len(shown) - len(columns(block)) + 1]]
    reason = f"{seeds(row)} seeds. {problem(row)}" if row.n_train else problem(row)
    why = {"text": reason, "value": None, "class": "problem", "drawn": "", "span": len(shown) - len(known)}
    return [*known, why]


def interval(row: Row) -> tuple[float, ...]:
    """The ends of about 95% around a row's score; of an error that is not known, the score alone."""
    if row.score is None:
        return ()
    reach = Z * (row.score.stderr or 0.0)
    return row.score.value - reach, row.score.value + reach


def whisker(row: Row, span: tuple[float, float]) -> Markup | str:
    """A row's score and its interval, drawn on the scale of its table."""
    from markupsafe import Markup

    if row.score is None:
        return ""
    ends = (*interval(row), row.score.value)
    low, high, at = ((end - span[0]) / ((span[1] - span[0]) or 1.0) * WHISKER for end in ends)
    return Markup(
        f'<svg class="whisker" viewBox="0 0 {WHISKER:.0f} 14" aria-hidden="true">'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7"/><circle cx="{at:.1f}" cy="7" r="4"/></svg>'
    )


def data(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def finite(value: Any) -> Any:
    """The same with nothing in place of numbers that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def vega_kept_at() -> Path:
    """Where the script of this version of vl-convert is kept."""
    from importlib.metadata import version

    return cache_root() / "page" / f"vega-{version('vl-convert-python')}.js"


def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from vl-convert; to put them together takes it seconds, so it is
    kept in the cache."""
    import vl_convert

    path = vega_kept_at()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")
    write_atomically(path, script)
    return script
