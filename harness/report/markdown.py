"""The report as Markdown."""

from __future__ import annotations

from harness.report import memory
from harness.report.answer import sentences
from harness.report.columns import footnotes, headers, problem, texts, title
from harness.report.table import Block, Report


def render(report: Report, plots: dict[tuple[str, str], str]) -> str:
    """Markdown text. `plots` maps (model, task) to the file name of a plot beside it."""
    run = report.run
    lines = [f"# {escape(run.suite)}", ""]
    if run.question:
        lines += [f"**{escape(run.question)}**", ""]
    for block in report.blocks:
        lines += [f"## {escape(block.task)}, {escape(block.model)}", ""]
        lines += [*(f"- {escape(sentence)}" for sentence in sentences(block)), ""]
        for size, condition in block.tables:
            lines += [f"### {title(size, condition)}", "", *table(block, size, condition), ""]
        if names := memory.columns(block):
            lines += [f"### {memory.TITLE}", "", *grid(names, memory.lines(block)), "", memory.NOTE, ""]
        if (block.model, block.task) in plots:
            name = plots[block.model, block.task]
            lines += [
                f"![Learning against forgetting: {escape(block.task)}, {escape(block.model)}]({name})",
                "",
            ]
    lines += [*(f"{note}  " for note in footnotes(report)), ""]
    if report.failures:
        lines += ["## Not finished", ""]
        lines += [f"- {escape(cell.key)}: {cell.status}. {escape(cell.reason)}" for cell in report.failures]
        lines += [""]
    if report.flags:
        lines += ["## Flags", ""]
        lines += [f"- {escape(key)}: {escape(name)}. {escape(evidence)}" for key, name, evidence in report.flags]
        lines += [""]
    environment = run.environment
    lines += ["## How to reproduce", "", f"    make bench SUITE={run.suite}", ""]
    if environment:
        device = environment["accelerator"] or environment["cpu"]
        dirty = " with uncommitted changes" if environment["dirty"] else ""
        lines += [f"Run {run.run_id} on {escape(device)}, commit `{environment['commit'][:12]}`{dirty}.", ""]
    return "\n".join(lines)


def table(block: Block, size: int, condition: str) -> list[str]:
    rows = []
    for row in block.at(size, condition):
        cells = texts(block, row)
        cells[2] = problem(row) or cells[2]
        rows.append(cells)
    return grid(headers(block), rows)


def grid(names: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table."""
    aligned = ["---", *["---:"] * (len(names) - 1)]
    lines = ["| " + " | ".join(line) + " |" for line in (map(escape, names), aligned)]
    return lines + ["| " + " | ".join(map(escape, row)) + " |" for row in rows]


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    for sign in "\\`*[]|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.replace("<", "&lt;").split())
