"""The report as one self-contained HTML file: no script, no request, light and dark."""

from __future__ import annotations

from pathlib import Path

from harness.report import instruments, memory, tuning
from harness.report.answer import sentences
from harness.report.columns import (
    footnotes,
    headers,
    matched_headers,
    matched_texts,
    matched_title,
    problem,
    texts,
    title,
)
from harness.report.losses import losses
from harness.report.plots import learning_against_forgetting
from harness.report.table import Report

# The packages that a reader asks for first; the database has all of them.
SHOWN = ("torch", "transformers", "peft", "accelerate", "lm_eval", "bitsandbytes", "setfit", "mergekit")


def render(report: Report) -> str:
    """The HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def picture(drawn: str | None) -> Markup | None:
        return Markup(drawn) if drawn else None  # our own SVG: the plot library has escaped its texts

    blocks = [
        {
            "task": block.task,
            "model": block.model,
            "answer": sentences(block),
            "headers": headers(block),
            "sizes": [
                {
                    "title": title(size, condition),
                    "rows": [
                        {"texts": texts(block, row), "untrained": not row.n_train, "problem": problem(row)}
                        for row in block.at(size, condition)
                    ],
                    "matched": {
                        "title": f"{matched_title(found)}, {title(size, condition)}",
                        "headers": matched_headers(block),
                        "rows": matched_texts(block, found),
                    }
                    if (found := block.matched.get((size, condition)))
                    else None,
                }
                for size, condition in block.tables
            ],
            "memory": {"headers": memory.columns(block), "rows": memory.lines(block)},
            "plot": picture(learning_against_forgetting(block)),
            "losses": picture(losses(block)),
        }
        for block in report.blocks
    ]
    packages = report.run.environment.get("packages", {})
    return templates.get_template("report.html.jinja").render(
        run=report.run,
        environment=report.run.environment,
        packages={name: packages[name] for name in SHOWN if name in packages},
        all_packages=packages,
        blocks=blocks,
        footnotes=footnotes(report),
        memory=memory,
        tuning={
            "title": tuning.TITLE,
            "note": tuning.NOTE,
            "plot_title": tuning.PLOT_TITLE,
            "tables": [
                {
                    "title": name,
                    "headers": tuning.headers(studies),
                    "rows": tuning.lines(studies, report.blocks),
                    "plot": picture(tuning.curves(studies)),
                }
                for name, studies in tuning.groups(report.studies).items()
            ],
        },
        failures=report.failures,
        flags=report.flags,
        instruments={
            "summary": instruments.summary(report),
            "headers": instruments.HEADERS,
            "tables": instruments.tables(report),
        },
        cells=report.cells,
    )
