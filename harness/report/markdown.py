"""The report as Markdown."""

from __future__ import annotations

from harness.report import advice, cross_task, memory, self_checks, tuning
from harness.report.answer import sentences
from harness.report.columns import (
    headers,
    matched_headers,
    matched_texts,
    matched_title,
    title,
)
from harness.report.figures import crossing_sheets
from harness.report.files import full_texts, plain_table
from harness.report.footnotes import footnotes
from harness.report.format import escape
from harness.report.table import Block, Report


def render(report: Report, plots: dict[tuple[str, str], tuple[str, str]]) -> str:
    """Markdown text. `plots` maps (model, task) to the title and file of a plot beside it."""
    run = report.run
    lines = [f"# {escape(run.suite)}", ""]
    if run.question:
        lines += [f"**{escape(run.question)}**", ""]
    advised = {(one.model, one.task): (answer, one) for answer, one in advice.advised(report)}
    for block in report.blocks:
        lines += [f"## {escape(block.task)}, {escape(block.model)}", ""]
        lines += [*(f"- {escape(sentence)}" for sentence in sentences(block)), ""]
        if (block.model, block.task) in advised:
            answer, question = advised[block.model, block.task]
            lines += ["### What to use", "", *(f"- {escape(one)}" for one in advice.sentences(answer, question)), ""]
            ranked = [advice.texts(one, answer.prices) for one in answer.ranked]
            lines += [*plain_table(advice.headers(question), ranked), ""]
            lines += [*(f"{escape(one)}  " for one in advice.assumptions(answer, question)), ""]
        for size, condition in block.tables:
            lines += [f"### {title(size, condition)}", "", *table(block, size, condition), ""]
            if found := block.matched.get((size, condition)):
                shown = plain_table(matched_headers(block), matched_texts(block, found))
                lines += [f"#### {escape(matched_title(found))}", "", *shown, ""]
        for sheet in crossing_sheets(block):
            lines += [f"### {escape(sheet.title)}", "", *plain_table(sheet.headers, sheet.rows), ""]
        if names := memory.columns(block):
            lines += [f"### {memory.TITLE}", "", *plain_table(names, memory.lines(block)), "", memory.NOTE, ""]
        if (block.model, block.task) in plots:
            shown_title, name = plots[block.model, block.task]
            lines += [
                f"![{shown_title}: {escape(block.task)}, {escape(block.model)}]({name})",
                "",
            ]
    for one in cross_task.across(report):
        lines += [
            f"## {cross_task.TITLE}: {escape(one.title)}",
            "",
            *plain_table(cross_task.headers(one), cross_task.lines(one)),
            "",
        ]
        lines += [*filter(None, [cross_task.sentence(one)]), "", cross_task.NOTE, ""]
    if report.studies:
        lines += [f"## {tuning.TITLE}", ""]
        for name, studies in tuning.groups(report.studies).items():
            lines += [
                f"### {escape(name)}",
                "",
                *plain_table(tuning.headers(studies), tuning.lines(studies, report.blocks)),
                "",
            ]
        lines += [tuning.NOTE, ""]
    lines += [*(f"{note}  " for note in footnotes(report)), ""]
    if report.failures:
        lines += ["## Not finished", ""]
        lines += [f"- {escape(cell.key)}: {cell.status}. {escape(cell.reason)}" for cell in report.failures]
        lines += [""]
    if report.flags:
        lines += ["## Flags", ""]
        lines += [f"- {escape(key)}: {escape(name)}. {escape(evidence)}" for key, name, evidence in report.flags]
        lines += [""]
    lines += ["## Instruments", "", escape(self_checks.summary(report)), ""]
    for checks in self_checks.tables(report):
        lines += [f"### {escape(checks.title)}", "", *check_table(checks), ""]
    environment = run.environment
    lines += ["## How to reproduce", "", f"    make bench SUITE={run.suite}", ""]
    if environment:
        device = environment["accelerator"] or environment["cpu"]
        dirty = " with uncommitted changes" if environment["dirty"] else ""
        lines += [f"Run {run.run_id} on {escape(device)}, commit `{environment['commit'][:12]}`{dirty}.", ""]
    return "\n".join(lines)


def table(block: Block, size: int, condition: str) -> list[str]:
    return plain_table(headers(block), [full_texts(block, row) for row in block.at(size, condition)])


def check_table(checks: self_checks.Table) -> list[str]:
    aligned = ["---:" if name in ("measured", "at most") else "---" for name in self_checks.HEADERS]
    rows = [list(map(escape, cells)) for cells, _ in checks.rows]
    return ["| " + " | ".join(line) + " |" for line in (self_checks.HEADERS, aligned, *rows)]
