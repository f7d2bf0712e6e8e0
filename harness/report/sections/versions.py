"""Shows what other versions of the libraries changed, as `tunebench regress` last found it: the package first, then a
matrix of labels and environments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from harness.analysis.regression import PairFindings, RegressionFindings, named
from harness.records import LIBRARIES
from harness.report.chart_style import INK, spec
from harness.report.elements import Bullets, Element, Folded, Plot, Text, TextTable
from harness.report.regression import STEP_COLUMNS, probe_rows, result_rows, sentences
from harness.report.sections.base import EVERYWHERE, Section, Subject

if TYPE_CHECKING:
    import altair as alt

Verdict = Literal["worse", "better", "differs", "cannot tell", "same", "cannot run", "not compared"]
# The gravest first. Each verdict has its word in the cell: the colour repeats it.
COLOURS: dict[Verdict, str] = {
    "cannot run": "#a83a6b", "worse": "#b53830", "differs": "#7a5f14", "better": "#23775a", "cannot tell": "#4d5d7d",
    "same": "#57606a", "not compared": "#57606a",
}  # fmt: skip
STEP = (150, 26)  # pixels of a column and a row
NOTE = (
    "Each environment is compared with the one before it: scores, costs and probes of the label, of which the gravest "
    "verdict is shown. Differs: a probe or a setting is another, and neither direction is worse."
)


class Entry(NamedTuple):
    """What an environment is to the one before it, for one label: a verdict, and what it rests on in words."""

    label: str
    environment: str
    verdict: Verdict
    why: str


class Versions(Section):
    """The comparison of a suite's environments; empty where `tunebench regress` has not been run on it."""

    name = "versions"
    title = "Library versions"
    link = "Versions"
    order = 328
    forms = EVERYWHERE

    def elements(self, subject: Subject) -> Iterator[Element]:
        findings = subject.report.versions
        if findings is None:
            return
        yield Bullets([f"{one.name} cannot be compared: {one.cannot}" for one in findings.environments if one.cannot])
        for pair in findings.pairs:
            yield Text(f"{pair.old} → {pair.new}", "strong")
            yield Text(f"Packages that differ: {named(pair.packages) or 'none'}.", "note")
            yield Bullets(list(sentences(pair, findings.labels)))
        entries = matrix(findings)
        if entries and findings.pairs:
            names = [findings.pairs[0].old, *dict.fromkeys(entry.environment for entry in entries)]
            yield TextTable("Labels and environments", ["label", *names], matrix_rows(entries, names))
            yield Plot("Verdicts by label and environment", {"": spec(chart(entries))}, NOTE)
        yield from self.details(findings)
        if subject.report.steps:
            yield TextTable("Steps over versions", STEP_COLUMNS, subject.report.steps)

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Leaves the matrix's table to its coloured form."""
        return (one for one in self.elements(subject) if getattr(one, "title", "") != "Labels and environments")

    def on_terminal(self, subject: Subject) -> Iterator[Element]:
        """Leaves out the plot and what it rests on."""
        return (one for one in self.elements(subject) if not isinstance(one, (Plot, Folded)))

    def details(self, findings: RegressionFindings) -> Iterator[Element]:
        """Yields every probe that differs and every change that is shown, folded."""
        probes = [[pair.new, *row] for pair in findings.pairs for row in probe_rows(pair)]
        results = [[pair.new, *row] for pair in findings.pairs for row in result_rows(pair)]
        if probes:
            table = TextTable("Probes that differ", ["environment", "of", "what", "before", "after"], probes)
            yield Folded(f"Probes that differ ({len(probes)})", (table,))
        if results:
            headers = ["environment", "metric", "of", "answer", "", "change", "p"]
            yield Folded(f"Results that differ ({len(results)})", (TextTable("Results that differ", headers, results),))


def matrix(findings: RegressionFindings) -> list[Entry]:
    """Returns an entry for each label in each environment that was compared with the one before it, and for those that
    could not be run."""
    entries = []
    for pair in findings.pairs:
        subjects = [*findings.labels, *({LIBRARIES} & {change.subject for change in pair.changes})]
        entries += [entry_of(pair, label) for label in subjects]
    for environment in findings.environments:
        if environment.cannot:
            entries += [Entry(label, environment.name, "cannot run", environment.cannot) for label in findings.labels]
    return entries


def entry_of(pair: PairFindings, label: str) -> Entry:
    """Returns the gravest verdict on a label, with what it rests on."""
    found: list[tuple[Verdict, str]] = []
    for change in pair.changes:
        if change.subject == label:
            verdict: Verdict = "differs" if change.better is None else "better" if change.better else "worse"
            found.append((verdict, f"{change.name}: {change.before} → {change.after}"))
    for metric in pair.results.metrics if pair.results else ():
        for result in (*metric.labels, *metric.cells):
            if (result.label or result.name) != label or (result.level == "cell" and not result.missing):
                continue
            text = f"{result.metric} {result.effect_text or result.reason}".strip()
            if result.answer == "cannot run there":
                verdicts: dict[str | None, Verdict] = {"new": "cannot run", "old": "better"}
                found.append((verdicts.get(result.missing, "not compared"), text))
            elif result.answer == "different":
                found.append(("differs" if result.better is None else "better" if result.better else "worse", text))
            else:
                found.append((result.answer, text))
    if not found:
        unread = dict(pair.unread).get(label)
        return Entry(label, pair.new, "not compared" if unread else "same", unread or "every probe is the same")
    ranks = list(COLOURS)
    verdict, why = min(found, key=lambda one: ranks.index(one[0]))
    return Entry(label, pair.new, verdict, why)


def matrix_rows(entries: Sequence[Entry], names: Sequence[str]) -> list[list[str]]:
    """Returns a row for each label: the verdict in each environment, the first of which nothing was compared with."""
    by_place = {(entry.label, entry.environment): entry for entry in entries}
    rows = []
    for label in dict.fromkeys(entry.label for entry in entries):
        of = [by_place.get((label, name)) for name in names]
        rows.append([label, *(entry.verdict if entry else "" for entry in of)])
    return rows


def chart(entries: Sequence[Entry]) -> alt.LayerChart:
    """Draws the matrix: a row for each label, a column for each environment, coloured by verdict."""
    import altair as alt

    data = alt.Data(values=[entry._asdict() for entry in entries])
    labels = list(dict.fromkeys(entry.label for entry in entries))
    environments = list(dict.fromkeys(entry.environment for entry in entries))
    x = alt.X(
        "environment:N", sort=environments, title=None,
        axis=alt.Axis(orient="top", labelAngle=0, labelLimit=STEP[0] - 6, domain=False, ticks=False),
    )  # fmt: skip
    y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(labelLimit=200, domain=False, ticks=False))
    scale = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    base = alt.Chart(data, width=STEP[0] * len(environments), height=STEP[1] * len(labels)).encode(x=x, y=y)
    tooltip = ["label:N", "environment:N", "verdict:N", "why:N"]
    colour = alt.Color("verdict:N", scale=scale, legend=None)
    boxes = base.mark_rect(opacity=0.18, cornerRadius=4).encode(color=colour, tooltip=tooltip)
    words = base.mark_text(fontSize=12, color=INK).encode(text="verdict:N", tooltip=tooltip)
    return alt.layer(boxes, words)
