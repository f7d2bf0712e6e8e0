"""What tuning found: tables, notes and a plot, the same for every form of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.analysis.stats import expected_best, expected_best_interval
from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Element, Plot, Text, TextTable
from harness.report.format import NA, digits_of, number, size, with_error
from harness.report.sections.base import Section, Subject
from harness.report.table import Block, Report
from harness.store import StoredStudy, StoredTrial
from harness.suite import setting_name

if TYPE_CHECKING:
    import altair as alt

TITLE = "Tuning"
PLOT_TITLE = "Best validation score by budget"
NOTE = (
    "Every label had the same budget. Settings are chosen by validation items alone; trial 0 is the label's own "
    "setting, so the change is what tuning gained there. The tables above are of test items, with the chosen setting. "
    "Test: the score of the final cells, ± over seeds and items. Expected best of k: what k of these trials would have "
    "found on average (Dodge et al. 2019), as if drawn at random; one that failed is worth the worst that was finished."
)
RATE = "learning_rate"
WHOLE = 0.999  # of the weights: all of them
# The columns that a narrow terminal does without, the first first.
SPARE = ("notes", "front", "peak", "best of", "other settings", "trials", "default")
MOST_POINTS = 60
CAPTION = (
    "Left: the best of as many trials drawn at random from those made; bands are 95% bootstrap intervals over the "
    "trials. Right: the best found so far, by what had been spent."
)


class Tuning(Section):
    """What the search for settings found, for each group of studies that may be compared."""

    name = "tuning"
    title = TITLE
    order = 210

    def elements(self, subject: Subject) -> Iterator[Element]:
        report = subject.report
        for name, studies in groups(report.studies).items():
            yield table_of(name, studies, report)
            chart = curves(studies, labels_of(studies[0], report))
            if chart is not None:
                yield Plot(PLOT_TITLE, {"": spec(chart)}, CAPTION, label=f"{PLOT_TITLE}: {name}", file=(name,))
        if report.studies:
            yield Text(NOTE, "note")

    def on_terminal(self, subject: Subject) -> Iterator[Element]:
        report = subject.report
        for name, studies in groups(report.studies).items():
            yield table_of(name, studies, report)
        for warning in warnings(report.studies):
            yield Text(warning, "warning")


def table_of(name: str, studies: Sequence[StoredStudy], report: Report) -> TextTable:
    """One group of studies as a table."""
    rows = lines(studies, report.blocks)
    return TextTable(name, headers(studies), rows, file=("tuning", name), spare=SPARE, css="tuning")


def labels_of(study: StoredStudy, report: Report) -> list[str]:
    """The labels of a study's block in the suite's order, which gives each its colour."""
    blocks = (block for block in report.blocks if (block.task, block.model) == (study.task, study.model))
    return list(dict.fromkeys(row.label for block in blocks for row in block.rows))


def groups(studies: Sequence[StoredStudy]) -> dict[str, list[StoredStudy]]:
    """Title -> studies that may be compared: one task, model, data size and quality."""
    found: dict[str, list[StoredStudy]] = {}
    for study in studies:
        examples = f"{study.n_train} examples" if study.n_train else ""
        found.setdefault(", ".join(filter(None, (study.task, study.model, examples, study.condition))), []).append(
            study
        )
    return found


def headers(studies: Sequence[StoredStudy]) -> list[str]:
    """The columns: which there are depends on what was searched, and for what."""
    budgets = [f"best of {k}" for k in budgets_of(studies)]
    rates = ["learning rate", "× full's"] if any(rate_of(study) for study in studies) else []
    goals = ["front"] if any(len(study.goals) > 1 for study in studies) else []
    first = ["method", "trials", "default", "best", "change", "test"]
    return [*first, *rates, "other settings", *budgets, "s", "peak", *goals, "notes"]


def budgets_of(studies: Sequence[StoredStudy]) -> list[int]:
    """The numbers of trials for which the expected best is told: a quarter and a half of them."""
    most = max((len(study.trials) for study in studies), default=0)
    return sorted({k for k in (max(1, most // 4), max(1, most // 2)) if k < most})


def lines(studies: Sequence[StoredStudy], blocks: Sequence[Block] = ()) -> list[list[str]]:
    """The texts of a table's rows, the best first. `blocks` have what the final cells scored."""
    full = full_rate(studies)
    ranked = sorted(studies, key=lambda study: -merit(study.best) if study.best else float("inf"))
    rated, several = any(map(rate_of, studies)), any(len(study.goals) > 1 for study in studies)
    return [line(study, tested(study, blocks), full, rated, several, budgets_of(studies)) for study in ranked]


def tested(study: StoredStudy, blocks: Sequence[Block]) -> str:
    """The test score of a study's final cells over the suite's seeds."""
    rows = [
        row
        for block in blocks
        if block.task == study.task
        for row in block.rows
        if (row.label, row.model, row.n_train, row.condition)
        == (study.label, study.model, study.n_train, study.condition)
    ]
    score = rows[0].score if rows else None
    return with_error(score.value, score.stderr, digits_of(score.metric)) if score else NA


def full_rate(studies: Sequence[StoredStudy]) -> float | None:
    """The learning rate that was found for training all weights; of several labels that do, that of the best."""
    whole = [study for study in studies if (study.trainable or 0.0) > WHOLE and study.best and rate_of(study)]
    best = max(whole, key=lambda study: merit(study.best) if study.best else 0.0, default=None)
    return rate_of(best) if best else None


def line(
    study: StoredStudy, test: str, full: float | None, rated: bool, several: bool, budgets: Sequence[int]
) -> list[str]:
    digits = digits_of(study.metric)
    default, best = study.trials[0] if study.trials else None, study.best
    told = [number(trial.value, digits) if trial and trial.value is not None else NA for trial in (default, best)]
    gain = None
    if default and best and default.value is not None and best.value is not None:
        gain = best.value - default.value
    rate = rate_of(study)
    others = {key: value for key, value in (best.params if best else {}).items() if not key.endswith(RATE)}
    merits = drawn_merits(study)
    cells = [study.label, counts(study), *told, number(gain, digits, signed=True), test]
    if rated:
        cells += [f"{rate:.2g}" if rate else NA, times(rate / full) if rate and full else NA]
    cells += [
        ", ".join(f"{setting_name(key)} {value_text(value)}" for key, value in others.items() if value is not None)
    ]
    cells += [number(study.sign * expected_best(merits, k), digits) if merits else NA for k in budgets]
    cells += [f"{sum(trial.seconds for trial in study.trials):.0f}", size(best.peak_bytes if best else None)]
    if several:
        cells += [", ".join(str(trial.number) for trial in study.trials if trial.front)]
    return [*cells, "; ".join(notes(study))]


def drawn_merits(study: StoredStudy) -> list[float]:
    """What each trial was worth, for the expected best of k: one that failed is worth the worst that was finished, one
    that was ended early what it had reached. Without the failures a method that often fails would look safe."""
    finished = [merit(trial) for trial in study.trials if trial.merits]
    return [merit(trial) if trial.merits else min(finished) for trial in study.trials] if finished else []


def counts(study: StoredStudy) -> str:
    """How many trials there were, and how those ended that were not finished."""
    states = [trial.status for trial in study.trials]
    bad = {state: states.count(state) for state in dict.fromkeys(states) if state != "done"}
    return f"{len(states)}" + (f" ({', '.join(f'{count} {state}' for state, count in bad.items())})" if bad else "")


def notes(study: StoredStudy) -> list[str]:
    """What a reader should know of a study's choice."""
    found = []
    if study.status != "done":
        found.append(f"{study.status}: {study.reason}")
    if study.best and study.best.number == 0:
        found.append("the default was best")
    for name, at in study.edges.items():
        found.append(f"{name} {value_text(at['value'])} is at the {at['end']} end of its space: widen it")
    if shares := study.importance("fanova"):
        told = sorted(shares.items(), key=lambda pair: -pair[1])
        found.append("importance: " + ", ".join(f"{name} {100 * share:.0f}%" for name, share in told))
    return found


def warnings(studies: Sequence[StoredStudy]) -> list[str]:
    """What tuning did not settle, in sentences."""
    return [
        f"{study.label} ({study.task}, {study.n_train} examples): the best {name} tried, {value_text(at['value'])}, is "
        f"at the {at['end']} end of its space; a better one may lie beyond. Widen its space."
        for study in studies
        for name, at in study.edges.items()
    ]


def times(ratio: float) -> str:
    """A ratio with two digits: 0.48, 26, 210."""
    return f"{float(f'{ratio:.2g}'):g}"


def value_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def rate_of(study: StoredStudy) -> float | None:
    """The learning rate that was found."""
    found = [value for key, value in (study.best.params if study.best else {}).items() if key.endswith(RATE)]
    return float(found[0]) if found and isinstance(found[0], int | float) else None


def merit(trial: StoredTrial) -> float:
    return trial.merits[0] if trial.merits else float("-inf")


def curves(studies: Sequence[StoredStudy], every: Sequence[str] = ()) -> alt.HConcatChart | None:
    """A chart, for each label: the expected best validation score of k trials with its 95% interval over trials; and
    the best so far by the seconds that were spent. None where no study has two trials."""
    rows = []
    for study in studies:
        merits = drawn_merits(study)
        if len(merits) < 2:
            continue
        sign = study.sign
        for k in range(1, min(len(merits), MOST_POINTS) + 1):
            found = expected_best_interval(merits, k)
            ends = sorted((sign * found.low, sign * found.high))
            rows.append({"label": study.label, "k": k, "best": sign * found.value, "low": ends[0], "high": ends[1]})
    if not rows:
        return None
    import altair as alt

    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    every = list(dict.fromkeys([*every, *(study.label for study in studies)]))
    scale = alt.Scale(domain=labels, range=colours(every, labels))
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("k:Q", title="trials", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("label:N", title=None, scale=scale, legend=legend(labels)),
    )
    title = f"expected best {studies[0].metric}"
    band = base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q")
    drawn = band + base.mark_line(strokeWidth=1.8).encode(y=alt.Y("best:Q", scale=alt.Scale(zero=False)))
    spent = (
        alt.Chart(alt.Data(values=list(so_far(studies))))
        .mark_line(strokeWidth=1.8, interpolate="step-after")
        .encode(
            x=alt.X("seconds:Q", title="seconds of trials"),
            y=alt.Y("best:Q", title=f"best {studies[0].metric} so far", scale=alt.Scale(zero=False)),
            color=alt.Color("label:N", title=None, scale=scale, legend=legend(labels)),
        )
    )
    sides = [chart.properties(width=330, height=260) for chart in (drawn, spent)]
    return alt.hconcat(*sides)


def so_far(studies: Sequence[StoredStudy]) -> Iterator[dict[str, object]]:
    """The best value after each trial, by the seconds that all trials until then took."""
    for study in studies:
        seconds, best = 0.0, None
        for trial in study.trials:
            seconds += trial.seconds
            if trial.status == "done" and (best is None or merit(trial) > merit(best)):
                best = trial
            if best:
                yield {"label": study.label, "seconds": seconds, "best": best.value}
