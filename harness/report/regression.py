"""Puts the comparison of environments into words, and writes it as Markdown for a pull request and as JUnit XML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from harness.analysis import ProbeChange, moved_sentence
from harness.analysis.regression import Attribution, Change, PairFindings, RegressionFindings, Series, named
from harness.errors import counted
from harness.records import visible
from harness.store import write_atomically

MOST_NAMES = 3  # of readings in a sentence
MOST_SETTINGS = 6  # that are shown of one object
MOST_SIGNS = 120  # of a reading in a table
MOST_ROWS = 40  # of a table in a summary
DIRECTION = {True: "better", False: "worse", None: ""}


def sentences(pair: PairFindings, labels: tuple[str, ...]) -> Iterator[str]:
    """Yields what two environments come to, in sentences: the cause first, then what moved."""
    yield from map(attribution_sentence, pair.attributions)
    unread = dict(pair.unread)
    yield f"Probes: {moved_sentence(pair.changes, [label for label in labels if label not in unread])}"
    for label, reason in unread.items():
        yield f"Of {label} nothing is known, as it can be probed in neither: {reason}"
    if pair.results:
        for metric in pair.results.metrics:
            yield f"{metric.metric}: {metric.pattern.sentence}."


def attribution_sentence(attribution: Attribution) -> str:
    """Returns what made a group of readings differ, in words: the package, the release, and what was cleared."""
    cause = attribution.cause
    parts = [f"{' together with '.join(attribution.packages)} changed {readings_text(attribution.keys)}."]
    if turn := attribution.turn:
        between = f", with {', '.join(turn.untried)} between them untried" if turn.untried else ""
        parts.append(f"Since {cause.changes[0]} {turn.first_new} (not in {turn.last_old}{between}).")
        if turn.again:
            series = ", ".join(f"{version} {answer}" for version, answer in turn.tried)
            parts.append(f"The series goes back and forth: {series}.")
    if attribution.link:
        parts.append(f"Its notes: {attribution.link}.")
    if cause.cleared:
        parts.append(f"Cleared: {', '.join(cause.cleared)}.")
    if cause.untold:
        parts.append(f"Could not be told apart: {', '.join(cause.untold)}, as the others do not run without them.")
    return " ".join(parts)


def readings_text(keys: Sequence[tuple[str, str]]) -> str:
    """Returns what differs (subject, name) in words: "train_seconds of lora", "losses of 12 steps and 3 other readings
    of lora, full"."""
    subjects = ", ".join(dict.fromkeys(subject for subject, _ in keys))
    names = list(dict.fromkeys(name for _, name in keys))
    if len(names) <= MOST_NAMES:
        return f"{named(names)} of {subjects}"
    return f"{names[0]} and {counted(len(keys) - 1, 'other reading')} of {subjects}"


def probe_rows(pair: PairFindings) -> Iterator[tuple[str, str, str, str]]:
    """Yields (subject, what was read, before, after) of each reading that differs; of settings a row for each, up to
    MOST_SETTINGS."""
    for change in pair.changes:
        if not change.settings:
            yield change.subject, change.name, brief(change.before), brief(change.after)
            continue
        for name, before, after in change.settings[:MOST_SETTINGS]:
            yield change.subject, f"{change.name}: {name}", brief(before), brief(after)
        if len(change.settings) > MOST_SETTINGS:
            yield change.subject, f"{change.name}: {len(change.settings) - MOST_SETTINGS} more", "", ""


def brief(text: str) -> str:
    """Returns a text for a cell of a table: without paths of an environment's files, and cut where it is long."""
    short = re.sub(r" ?\(?/\S+/(site-packages|environments)/\S+\)?", "", text)
    return short if len(short) <= MOST_SIGNS else f"{short[: MOST_SIGNS - 1]}…"


def result_rows(pair: PairFindings) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Yields (metric, of what, answer, direction, size, p) of each change that is shown, and of each cell that one of
    the two environments cannot run."""
    for change in pair.results.different if pair.results else ():
        p = f"{change.p:.2g}"
        yield change.metric, change.name or "everything", change.answer, DIRECTION[change.better], change.effect_text, p


STEP_COLUMNS = ["series", "metric", "step", "", "since", "environment", "changed there", "p"]


def step_rows(series: Iterable[Series]) -> Iterator[tuple[str, ...]]:
    """Yields a row of STEP_COLUMNS for each step of a history that is not smaller than its margin."""
    for one in series:
        for step in one.steps:
            if not step.negligible:
                yield (
                    one.name, one.metric, step.size_text, DIRECTION[step.better], f"{step.since_date:%Y-%m-%d}",
                    step.since[:12], step.versions_text, f"{step.p:.2g}",
                )  # fmt: skip


def markdown_summary(findings: RegressionFindings) -> str:
    """Returns the comparison as Markdown, such as a pull request shows: the verdict, the cause, then what moved."""
    verdict = "worse" if findings.worse else "open" if findings.unclear else "nothing moved"
    lines = [f"## {findings.suite}: {verdict}", ""]
    for environment in findings.environments:
        if environment.cannot:
            lines += [f"**{cell(environment.name)} cannot be compared:** {cell(environment.cannot)}", ""]
    for pair in findings.pairs:
        lines += [f"### {cell(pair.old)} → {cell(pair.new)}", ""]
        lines += [f"Packages that differ: {cell('; '.join(pair.packages)) or 'none'}.", ""]
        lines += [f"- {cell(sentence)}" for sentence in sentences(pair, findings.labels)]
        lines += table(("of", "probe", "before", "after"), list(probe_rows(pair)))
        lines += table(("metric", "of", "answer", "", "change", "p"), list(result_rows(pair)))
        lines.append("")
    return "\n".join(lines)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Returns rows as the lines of a Markdown table, MOST_ROWS at the most; none for no rows."""
    if not rows:
        return []
    lines = ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows[:MOST_ROWS]]
    return lines + ([f"\n{len(rows) - MOST_ROWS} more rows."] if len(rows) > MOST_ROWS else [])


def cell(text: str) -> str:
    """Returns stored text for Markdown: on one line, with nothing that would be read as markup."""
    shown = visible(text)
    for sign in "\\`*_|<>[]":
        shown = shown.replace(sign, f"\\{sign}")
    return shown


def junit(findings: RegressionFindings) -> ElementTree.ElementTree:
    """Returns the comparison as JUnit XML: a suite for each two environments; a test for each label's probes, for each
    metric of each label, and for each metric of everything. Worse is a failure, what cannot be told is skipped."""
    root = ElementTree.Element("testsuites", name=f"tunebench {visible(findings.suite)}")
    for environment in findings.environments:
        if environment.cannot:
            suite = ElementTree.SubElement(root, "testsuite", name=visible(environment.name), tests="1", errors="1")
            case = ElementTree.SubElement(suite, "testcase", classname="environment", name=visible(environment.name))
            ElementTree.SubElement(case, "error", message=visible(environment.cannot))
    for pair in findings.pairs:
        suite = ElementTree.SubElement(root, "testsuite", name=visible(f"{pair.old} → {pair.new}"))
        for subject in dict.fromkeys([*findings.labels, *(change.subject for change in pair.changes)]):
            add_case(suite, "probes", subject, [probe_outcome(one) for one in pair.changes if one.subject == subject])
        for metric in pair.results.metrics if pair.results else ():
            for change in (*((metric.everything,) if metric.everything else ()), *metric.labels):
                add_case(suite, metric.metric, change.name or "everything", [result_outcome(change)])
        cases = list(suite)
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(one.find("failure") is not None for one in cases)))
        suite.set("skipped", str(sum(one.find("skipped") is not None for one in cases)))
    return ElementTree.ElementTree(root)


Outcome = tuple[str, str]  # "failure", "skipped" or "" for passed; and what to say


def probe_outcome(change: ProbeChange) -> Outcome:
    """Returns the outcome of a test for a reading that differs: a failure where it is worse."""
    said = f"{change.name}: {change.before} → {change.after}"
    return ("failure" if change.better is False else "skipped" if change.better is None else ""), said


def result_outcome(change: Change) -> Outcome:
    """Returns the outcome of a test for a label's metric."""
    said = f"{change.answer} {DIRECTION[change.better]} {change.effect_text} {change.reason}".strip()
    return ("failure" if change.worse else "skipped" if change.answer == "cannot tell" else ""), said


def add_case(suite: ElementTree.Element, group: str, name: str, outcomes: list[Outcome]) -> None:
    """Adds a test with the gravest of some outcomes to a JUnit suite."""
    case = ElementTree.SubElement(suite, "testcase", classname=visible(group), name=visible(name))
    for kind in ("failure", "skipped"):
        said = [text for which, text in outcomes if which == kind]
        if said:
            ElementTree.SubElement(case, kind, message=visible("; ".join(said)))
            return


def write_junit(findings: RegressionFindings, path: Path) -> None:
    """Writes the comparison as JUnit XML to a file."""
    tree = junit(findings)
    ElementTree.indent(tree)
    root = tree.getroot()
    assert root is not None
    write_atomically(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True))
