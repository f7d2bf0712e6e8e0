"""Shows what tuning found: tables, notes and a plot, the same for every form of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.analysis import value_text
from harness.analysis.stats import expected_best, expected_best_interval
from harness.report.chart_style import colours, legend, spec
from harness.report.elements import Element, Plot, Text, TextTable
from harness.report.estimates import estimate
from harness.report.format import NA, digits_of, number, size, with_error
from harness.report.sections.base import Section, Subject
from harness.report.table import Report
from harness.store import StoredStudy, StoredTrial
from harness.suite import setting_name

if TYPE_CHECKING:
    import altair as alt

TITLE = "Tuning"
PLOT_TITLE = "Best validation score by budget"
NOTE = (
    "Every label had the same budget. Settings are chosen by validation items alone; trial 0 is the label's own "
    "setting, so the change is what tuning gained there. The tables above are of test items, with the chosen setting. "
    "Test: the score of the final cells, ± over seeds and items. A label with one study is compared as the setting "
    "that this study chose; where a label has several, each has a row, with the test score of the cells that it chose "
    "for, and the label is compared as a procedure. Expected best of k: what k of these trials would have "
    "found on average (Dodge et al. 2019), as if drawn at random; one that failed is worth the worst that was finished."
)
RATE = "learning_rate"
WHOLE = 0.999  # a trainable share above this counts as all weights
# The columns that a narrow terminal leaves out, in this order.
SPARE = ("notes", "front", "peak", "best of", "other settings", "trials", "default")
MOST_POINTS = 60
CAPTION = (
    "Left: the best of as many trials drawn at random from those made; bands are 95% bootstrap intervals over the "
    "trials. Right: the best found so far, by what had been spent. Each study has a line."
)


class Tuning(Section):
    """The result of the search for settings, for each group of studies that may be compared."""

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
        """Yields the tables, and a warning for each best value at the end of its space; no plots."""
        report = subject.report
        for name, studies in groups(report.studies).items():
            yield table_of(name, studies, report)
        for warning in warnings(report.studies):
            yield Text(warning, "warning")


def table_of(name: str, studies: Sequence[StoredStudy], report: Report) -> TextTable:
    """Makes the table of one group of studies, those that may be compared; `name` is its title."""
    rows = lines(studies, report)
    return TextTable(name, headers(studies), rows, file=("tuning", name), spare=SPARE, css="tuning")


def labels_of(study: StoredStudy, report: Report) -> list[str]:
    """Returns the labels of the block that a study belongs to, in the suite's order, which gives each label its
    colour."""
    blocks = (block for block in report.blocks if (block.task, block.model) == (study.task, study.model))
    return list(dict.fromkeys(row.label for block in blocks for row in block.rows))


def groups(studies: Sequence[StoredStudy]) -> dict[str, list[StoredStudy]]:
    """Groups studies that may be compared: title -> the studies of one task, model, data size and quality."""
    found: dict[str, list[StoredStudy]] = {}
    for study in studies:
        examples = f"{study.n_train} examples" if study.n_train else ""
        found.setdefault(", ".join(filter(None, (study.task, study.model, examples, study.condition))), []).append(
            study
        )
    return found


def headers(studies: Sequence[StoredStudy]) -> list[str]:
    """Returns the headers of the table's columns, which depend on what was searched, and for which goals."""
    budgets = [f"best of {k}" for k in budgets_of(studies)]
    rates = ["learning rate", "× full's"] if any(rate_of(study) for study in studies) else []
    goals = ["front"] if any(len(study.goals) > 1 for study in studies) else []
    first = ["method", "trials", "default", "best", "change", "test"]
    return [*first, *rates, "other settings", *budgets, "s", "peak", *goals, "notes"]


def budgets_of(studies: Sequence[StoredStudy]) -> list[int]:
    """Returns the numbers of trials for which the expected best is shown: a quarter and a half of the trials of the
    longest study, the smaller first."""
    most = max((len(study.trials) for study in studies), default=0)
    return sorted({k for k in (max(1, most // 4), max(1, most // 2)) if k < most})


def lines(studies: Sequence[StoredStudy], report: Report | None = None) -> list[list[str]]:
    """Returns the texts of the table's rows, one for each study: the label with the best trial first, with all its
    studies. `report` holds the scores of the final cells; without one the test scores are "n/a"."""
    full = full_rate(studies)
    best = {
        label: max(merit(study.best) if study.best else float("-inf") for study in its)
        for label, its in by_label(studies).items()
    }
    ranked = sorted(studies, key=lambda study: (-best[study.label], study.label, study.seed))
    rated, several = any(map(rate_of, studies)), any(len(study.goals) > 1 for study in studies)
    names, budgets = study_names(studies), budgets_of(studies)
    return [
        [names[study.study_digest], *line(study, tested(study, report), full, rated, several, budgets)]
        for study in ranked
    ]


def by_label(studies: Sequence[StoredStudy]) -> dict[str, list[StoredStudy]]:
    """Groups studies by their label, in the order in which they are given."""
    found: dict[str, list[StoredStudy]] = {}
    for study in studies:
        found.setdefault(study.label, []).append(study)
    return found


def study_names(studies: Sequence[StoredStudy]) -> dict[str, str]:
    """Returns study_digest -> how the table names a study: by its label and, where the label has several, its seed."""
    return {
        study.study_digest: f"{label}, seed {study.seed}" if len(its) > 1 else label
        for label, its in by_label(studies).items()
        for study in its
    }


def tested(study: StoredStudy, report: Report | None) -> str:
    """Returns the test score of the cells that a study chose for, over their seeds, as text; "n/a" where there is none.
    Where the label has no other study, it is the score of the label, which counts seeds that ended badly."""
    if report is None:
        return NA
    rows = [
        row
        for block in report.blocks
        if block.task == study.task
        for row in block.rows
        if (row.label, row.model, row.n_train, row.condition)
        == (study.label, study.model, study.n_train, study.condition)
    ]
    score = rows[0].score if rows else None
    if rows and rows[0].tuning.studies > 1:
        own = [cell for cell in report.cells if cell.study == study.study_digest and cell.status == "done"]
        score = estimate(own, study.task, "task")
    return with_error(score.value, score.stderr, digits_of(score.metric)) if score else NA


def full_rate(studies: Sequence[StoredStudy]) -> float | None:
    """Returns the learning rate that was found for training all weights; where several labels do so, that of the best.
    None where no label does."""
    whole = [study for study in studies if (study.trainable or 0.0) > WHOLE and study.best and rate_of(study)]
    best = max(whole, key=lambda study: merit(study.best) if study.best else 0.0, default=None)
    return rate_of(best) if best else None


def line(
    study: StoredStudy, test: str, full: float | None, rated: bool, several: bool, budgets: Sequence[int]
) -> list[str]:
    """Returns the texts of one study's row but for its name. `test` is its test score as text, `full` the learning rate
    found for training all weights, if any. `rated`: some study of the table searched a learning rate; `several`: some
    study has several goals; `budgets` are the numbers of trials to give the expected best of."""
    digits = digits_of(study.metric)
    default, best = study.trials[0] if study.trials else None, study.best
    told = [number(trial.value, digits) if trial and trial.value is not None else NA for trial in (default, best)]
    gain = None
    if default and best and default.value is not None and best.value is not None:
        gain = best.value - default.value
    rate = rate_of(study)
    others = {key: value for key, value in (best.params if best else {}).items() if not key.endswith(RATE)}
    merits = drawn_merits(study)
    cells = [counts(study), *told, number(gain, digits, signed=True), test]
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
    """Returns the score of each trial, signed so that more is better, for the expected best of k. A failed trial counts
    as the worst that was finished, a trial that was ended early as what it had reached. Without the failures a method
    that often fails would look safe."""
    finished = [merit(trial) for trial in study.trials if trial.merits]
    return [merit(trial) if trial.merits else min(finished) for trial in study.trials] if finished else []


def counts(study: StoredStudy) -> str:
    """Returns how many trials there were, and how many ended otherwise than done: "12 (2 failed)"."""
    states = [trial.status for trial in study.trials]
    bad = {state: states.count(state) for state in dict.fromkeys(states) if state != "done"}
    return f"{len(states)}" + (f" ({', '.join(f'{count} {state}' for state, count in bad.items())})" if bad else "")


def notes(study: StoredStudy) -> list[str]:
    """Returns remarks on a study's choice for the reader: a bad end, the default as best, an edge of the space,
    importance."""
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
    """Returns a sentence for each setting whose best value lies at an end of the range that a study searched, so that a
    better one may lie beyond."""
    names = {digest: name for its in groups(studies).values() for digest, name in study_names(its).items()}
    return [
        f"{names[study.study_digest]} ({study.task}, {study.n_train} examples): the best {name} tried, "
        f"{value_text(at['value'])}, is "
        f"at the {at['end']} end of its space; a better one may lie beyond. Widen its space."
        for study in studies
        for name, at in study.edges.items()
    ]


def times(ratio: float) -> str:
    """Formats a ratio with two digits: 0.48, 26, 210."""
    return f"{float(f'{ratio:.2g}'):g}"


def rate_of(study: StoredStudy) -> float | None:
    """Returns the learning rate that a study found; None where it searched for none."""
    found = [value for key, value in (study.best.params if study.best else {}).items() if key.endswith(RATE)]
    return float(found[0]) if found and isinstance(found[0], int | float) else None


def merit(trial: StoredTrial) -> float:
    """Returns a trial's score by its first goal, signed so that more is better; -inf where it has none."""
    return trial.merits[0] if trial.merits else float("-inf")


def curves(studies: Sequence[StoredStudy], every: Sequence[str] = ()) -> alt.HConcatChart | None:
    """Draws two charts for all labels: the expected best validation score of k trials with its 95% interval over
    trials, and the best so far by the seconds that were spent. None where no study has two trials."""
    rows = []
    for study in studies:
        merits = drawn_merits(study)
        if len(merits) < 2:
            continue
        sign = study.sign
        for k in range(1, min(len(merits), MOST_POINTS) + 1):
            found = expected_best_interval(merits, k)
            ends = sorted((sign * found.low, sign * found.high))
            rows.append(
                {
                    "label": study.label,
                    "study": study.key,
                    "k": k,
                    "best": sign * found.value,
                    "low": ends[0],
                    "high": ends[1],
                }
            )
    if not rows:
        return None
    import altair as alt

    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    every = list(dict.fromkeys([*every, *(study.label for study in studies)]))
    scale = alt.Scale(domain=labels, range=colours(every, labels))
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("k:Q", title="trials", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("label:N", title=None, scale=scale, legend=legend(labels)),
        detail="study:N",
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
            detail="study:N",
        )
    )
    sides = [chart.properties(width=330, height=260) for chart in (drawn, spent)]
    return alt.hconcat(*sides)


def so_far(studies: Sequence[StoredStudy]) -> Iterator[dict[str, object]]:
    """Yields for each study, after each of its trials, the value of its best finished trial so far ("best") and the
    seconds that all its trials until then took; nothing before one has finished."""
    for study in studies:
        seconds, best = 0.0, None
        for trial in study.trials:
            seconds += trial.seconds
            if trial.status == "done" and (best is None or merit(trial) > merit(best)):
                best = trial
            if best:
                yield {"label": study.label, "study": study.key, "seconds": seconds, "best": best.value}
