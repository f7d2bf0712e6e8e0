"""Answers in plain words, before any table: for the whole report, and for each block."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Iterator, Sequence

from harness.analysis import Tuning, Verdict, ratio
from harness.analysis.stats import ALPHA, corrected
from harness.report import advice
from harness.report.elements import Bullets, Code, Element, Text
from harness.report.estimates import Estimate
from harness.report.format import NA, chance, digits_of, number, seconds, size, some, with_error
from harness.report.pareto import front, retention
from harness.report.ranking import TableRanking
from harness.report.sections import learning_curves, self_checks
from harness.report.sections.base import Section, Subject
from harness.report.table import UNITS, Block, Report, Row

LINES = 10  # the most sentences of the answer, and its most lines on a terminal
CROSSINGS = 1
WORDS = (("better", "better"), ("tied", "tied"), ("worse", "worse"), ("underpowered", "undecided"))
# Flags on generated answers -> what they say.
ODD_ANSWERS = {
    "all_scored_zero": "all are scored 0, so the metric or the prompt may be wrong",
    "white_space_counts": "white space at their ends changes the score, so the metric is too strict",
    "empty_answers": "half of them or more are empty",
}


class Answer(Section):
    """The answer to the suite's question. A terminal shows it last, where the eye is."""

    name = "answer"
    link = "Answer"
    order = 10
    terminal_order = 900
    forms = frozenset({"page", "terminal"})

    def elements(self, subject: Subject) -> Iterator[Element]:
        report = subject.report
        yield Bullets(lines(report), lead=True, most_lines=LINES, closing=len(closing(report)))

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Yields the answer, and the commands that use what it advises."""
        yield from self.elements(subject)
        yield from use_it(subject.report)

    def on_terminal(self, subject: Subject) -> Iterator[Element]:
        """Yields the suite's question, then the answer."""
        if subject.report.run.question:
            yield Text(subject.report.run.question, style="strong")
        yield from self.elements(subject)


class BlockAnswer(Section):
    """The answer of one block. `report.md` always has it; the page has it where two or more blocks compare labels."""

    name = "block-answer"
    order = 100
    per_block = True
    forms = frozenset({"page", "markdown"})

    def elements(self, subject: Subject) -> Iterator[Element]:
        if takeaways := sentences(subject.block):
            yield Bullets([*takeaways, *advice.on_tuning(tunings(subject.block))], lead=True)

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Yields the answer where two or more blocks compare labels; else nothing, as the answer of the report says the
        same."""
        if sum(block.compares for block in subject.report.blocks) > 1:
            yield from self.elements(subject)


def use_it(report: Report) -> Iterator[Element]:
    """Yields, for each model and task, the commands that export the advised result and ask it one's own questions;
    nothing where nothing is advised, or the advised label changes no weight."""
    commands = []
    for answer, question in advice.advised(report):
        wanted = answer.first.candidate if answer.first else None
        rows = [
            row
            for row in report.cells
            if wanted and (row.label, row.task, row.base_model) == (wanted.label, question.task, question.model)
            and row.status == "done" and row.n_train == wanted.n_train and row.seed is not None
        ]  # fmt: skip
        if rows:
            first = min(rows, key=lambda row: row.seed or 0)
            commands += [
                f"tunebench export {shlex.quote(first.key)} {shlex.quote(first.label)}",
                f'tunebench try {shlex.quote(report.run.suite)} "your own text" --label {shlex.quote(first.label)}',
            ]
    if commands:
        yield Text("Use it: the result without tunebench, with a model card; and your own questions, answered.")
        yield from map(Code, commands)


def lines(report: Report) -> list[str]:
    """Returns the answer in at most `LINES` sentences: what to use; then all sentences of a single block, or, of
    several blocks, the first of each and then the second of each; last `closing`, which is never cut. Blocks with one
    label are left out, unless there are no others."""
    last = closing(report)
    room = LINES - len(last)
    each = [sentences(block) for block in report.blocks if block.compares] or [
        sentences(block) for block in report.blocks
    ]
    use = [advice.short(*one) for one in advice.advised(report)]
    if len(each) == 1:
        texts = [*use, *each[0]]
    else:
        texts = [*use, *(said[0] for said in each if said)]
        texts += [said[1] for said in each if len(said) > 1]
    if len(texts) > room:
        texts = [*texts[: room - 1], f"… and {len(texts) - room + 1} more in the report."]
    return [*texts, *last]


def closing(report: Report) -> list[str]:
    """Returns the answer's last sentences, each where it applies: labels not compared, labels tuned by one study, cells
    unfinished, answers that are odd, a machine whose speed was not steady, self-checks failed."""
    texts = []
    odd = {
        label: why
        for block in report.blocks
        if block.answered
        for label, why in block.ranking(*block.answered).missing.items()
        if any(row.label == label and row.score for row in block.at(*block.answered))
    }
    if odd:
        texts.append(f"Not compared: {'; '.join(odd.values())}.")
    labels = {label: Tuning(its.studies) for block in report.blocks for label, its in tunings(block).items()}
    texts += advice.on_tuning(labels)
    if report.failures:
        names = list(dict.fromkeys(f"{cell.label} ({cell.status})" for cell in report.failures))
        texts.append(f"{len(report.failures)} of {len(report.cells)} cells have not finished: {some(names)}.")
    texts += odd_answers(report)
    texts += report.machine
    if any(not check.passed for check in report.checks):
        texts.append(self_checks.summary(report))
    return texts


def odd_answers(report: Report) -> Iterator[str]:
    """Says of which labels the generated answers have a flag that speaks against the task rather than the label;
    nothing without such flags."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in report.cells:
        for flag in ODD_ANSWERS:
            for task in cell.flags.get(flag, {}):
                found.setdefault((task, flag), {})[cell.label] = None
    for (task, flag), labels in found.items():
        yield f"Look at the answers to {task} first: {ODD_ANSWERS[flag]} ({some(list(labels))})."


def sentences(block: Block) -> list[str]:
    """Returns what a reader should take away from one block, in sentences: at its largest data size, and on clean data
    where there is some."""
    if not block.sizes:
        return []
    point = block.answered
    if point is None:
        return [f"No method has finished on {block.task} yet."]
    n_train, condition = point
    rows = [row for row in block.at(n_train, condition) if row.score and (row.n_train or row.label != "base")]
    ranking = block.ranking(n_train, condition)
    texts = [best(block, rows, ranking), *beside_best(ranking)]
    if n_train < block.sizes[-1]:
        texts.insert(1, f"Nothing has finished with {block.sizes[-1]} examples.")
    texts += forgetting(block, rows, ranking)
    texts += beside_full(block, rows, ranking)
    if not condition:
        texts += spoilt(block, rows)
    texts += [settling(verdict) for verdict in ranking.to_best("underpowered")[:1] if settling(verdict)]
    texts += [learning_curves.sentence(change) for change in learning_curves.changes(block, condition)[:CROSSINGS]]
    texts += costs(rows, ranking)
    idle = [row.label for row in rows if not row.learned and row.n_train]
    if idle:
        texts.append(f"Not shown to be better than the base model: {some(idle)}.")
    return texts


def best(block: Block, rows: Sequence[Row], ranking: TableRanking) -> str:
    """Says which label scores highest, of those that could be compared, and how likely it is to be the best. `rows` are
    those of one table that have a score."""
    top = max(rows, key=lambda row: (row.label == ranking.best, row.label in ranking.labels, row.merit))
    assert top.score is not None
    examples = f"With {top.n_train} examples" if top.n_train else "Without training"
    if top.condition:
        examples += f" ({top.condition})"
    own = f" ({top.model})" if top.model != block.model else ""
    text = (
        f"{examples}, {top.tuning.name(top.label)}{own} scores best on {block.task}: "
        f"{block.metric} {with_error(top.score.value, top.score.stderr, digits_of(block.metric))}"
    )
    if top.score.clustering:
        text += f", from {top.score.clustering}"
    if top.ended[0] < top.ended[1]:
        text += f", {top.ended[0]} of {top.ended[1]} seeds ended well"
    if block.base and block.base.score:
        text += f" (base model: {number(block.base.score.value, digits_of(block.metric))})"
    if top.label in ranking.chances and len(ranking.chances) > 1:
        text += f". Chance that it is the best of these {len(ranking.chances)}: {chance(ranking.chances[top.label])}"
    if ranking.best == "base":
        text += ". No label beats the base model"
    return text + "."


def tunings(block: Block) -> dict[str, Tuning]:
    """Returns label -> how it was tuned, of the labels that the answer on a block compares."""
    return {row.label: row.tuning for row in block.at(*block.answered) if row.score} if block.answered else {}


def beside_best(ranking: TableRanking) -> Iterator[str]:
    """Says which labels the best one is better than, tied with and undecided against; or why no difference is
    established."""
    if len(ranking.labels) == 1:
        return
    if not ranking.best:
        yield "Answers to single items are not stored, so no difference can be tested."
        return
    if not ranking.seeds_known and any(each.decision and each.decision.few_studies for each in ranking.pairs.values()):
        yield (
            "Two studies each: others may choose otherwise and change the order, so no difference is established. Tune "
            "three times or more (`tune: {studies: 3}`)."
        )
        return
    if not ranking.seeds_known:
        yield (
            "One seed each: another seed may change the order, so no difference is established. "
            "Run three or more (`seeds: [0, 1, 2]`)."
        )
        return
    worse, tied, open_ = (ranking.to_best(word) for word in ("worse", "tied", "underpowered"))
    texts = []
    if worse:
        texts.append(f"better than {some(verdict.a for verdict in worse)}")
    if tied:
        texts.append(f"tied with {some(verdict.a for verdict in tied)} (within {ranking.margin:g})")
    if open_:
        texts.append(f"undecided against {some(verdict.a for verdict in open_)}")
    best = f"{ranking.best} as tuned" if ranking.tunings[ranking.best].studies == 1 else ranking.best
    yield f"{best} is {'; '.join(texts)}{corrected_for(ranking)}."


def corrected_for(ranking: TableRanking) -> str:
    """Returns a remark that p-values are corrected for all pairs of the table, in brackets; "" for one pair."""
    count = len(ranking.pairs)
    return f" (p corrected for all {count} pairs)" if count > 1 else ""


def settling(verdict: Verdict) -> str:
    """Says how many seeds or items would show a difference between two labels, or a tie; "" where this was not
    computed. The verdict is an open one."""
    found = verdict.decision
    if not found or found.detectable is None:
        return ""
    if not found.to_differ and not found.to_tie:
        return ""
    ways = []
    for what, need in ((f"to show a difference of {found.margin:g}", found.to_differ), ("to show a tie", found.to_tie)):
        enough = [f"{count:,} {thing}".replace(",", " ") for count, thing in
                  ((need.items, "test items"), (need.seeds, "seeds")) if count] if need else []  # fmt: skip
        if enough:
            ways.append(f"{' or '.join(enough)} {what}")
    pair = f"{verdict.b} vs {verdict.a}"
    if not ways:
        return f"{pair}: undecided. It would take both more seeds and more test items."
    return f"{pair}: undecided. It would take {', '.join(ways)}."


def beside_full(block: Block, rows: Sequence[Row], ranking: TableRanking) -> Iterator[str]:
    """Compares labels that train a part of the weights with the first label of the suite that trains all of them. The
    first is taken, as the best of several would be the luckiest. Says nothing where seeds were not repeated."""
    if not ranking.seeds_known:
        return
    here = {id(row) for row in rows}  # `rows` are sorted by score, the block's rows in the suite's order
    same = [
        row
        for row in block.rows
        if id(row) in here and row.model == block.model and row.trainable and row.label in ranking.labels
    ]
    whole = [row for row in same if (row.trainable or 0.0) > 0.999]
    parts = [row.label for row in same if row not in whole]
    if not whole or not parts:
        return
    full = whole[0].label
    found = [verdict for label in parts if (verdict := ranking.between(label, full))]
    texts = []
    for word, text in WORDS:
        labels = [verdict.a for verdict in found if verdict.verdict == word]
        if labels:
            texts.append(f"{text}: {some(labels)}")
    if texts:
        yield f"Compared with {full}, which trains every weight: {'; '.join(texts)}."


def forgetting(block: Block, rows: Sequence[Row], ranking: TableRanking) -> Iterator[str]:
    """Says which label forgets least and most on the first retained task, of the rows that learned, and which are
    likely on the Pareto front of learning and forgetting; nothing where no change is known."""
    first = block.retain[0] if block.retain else ""
    kept = [row for row in rows if row.learned and row.n_train and first and loss_of(row, first) is not None]
    if not kept:
        return
    gentle = min(kept, key=lambda row: loss_of(row, first) or 0.0)
    harsh = max(kept, key=lambda row: loss_of(row, first) or 0.0)
    unit = unit_of(gentle, first)
    text = f"Among labels that learned, {gentle.label} forgets least on {first} ({change(gentle, first)}{unit})"
    if len(kept) == 1:
        text = f"{gentle.label}, the only label that learned, changes {first} by {change(gentle, first)}{unit}"
        if limit := gentle.over_limit.get(first):
            text += f", beyond the limit of {number(limit, 2)}"
    if harsh is not gentle:
        text += f", {harsh.label} most ({change(harsh, first)}{unit})"
    likely = [label for label, its in front(ranking, rows, retention(first)).items() if its > 0.5]
    if likely and len(kept) > 2:
        text += f". On the learning/forgetting Pareto front with high probability: {some(likely)}"
    yield text + "."


def costs(rows: Sequence[Row], ranking: TableRanking) -> Iterator[str]:
    """Says which labels are cheapest, among those that learned and are not shown to be worse than the best."""
    worse = {verdict.a for verdict in ranking.to_best("worse")}
    good = [row for row in rows if row.learned and row.n_train and row.label not in worse]
    texts = []
    # A merge trains nothing, and the time of a disturbed row is not its own.
    timed = [row for row in good if row.trainable and not row.disturbed]
    if quick := cheapest(timed, "train_seconds"):
        slow = max(timed, key=lambda row: row.train_seconds or 0.0)
        times = f"{and_(row_text(row, seconds(row.train_seconds), 's') for row in quick)}"
        texts.append(f"{times} to train ({slow.label}: {seconds(slow.train_seconds)} s)")
    if lean := cheapest(good, "peak_bytes"):
        texts.append(f"{and_(row_text(row, size(row.peak_bytes)) for row in lean)} at the peak")
    if small := cheapest(good, "artifact_bytes"):
        texts.append(f"{and_(row_text(row, size(row.artifact_bytes)) for row in small)} to ship")
    if texts:
        yield f"Among labels not shown to be worse than {ranking.best or 'the best'}, the least: {'; '.join(texts)}."


def row_text(row: Row, value: str, unit: str = "") -> str:
    """Returns a row's label and a value of it, with its unit, as text."""
    return f"{row.label} {value} {unit}".rstrip()


def and_(names: Iterable[str]) -> str:
    """Joins names by commas, the last by "and"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def cheapest(rows: Sequence[Row], cost: str) -> list[Row]:
    """Returns the rows with the least of a cost (a key of `Row.by_seed`): the least mean, and all rows that are not
    shown to have more (p-values corrected by Holm). Empty where that is every row.

    A single seed says nothing of others: rows measured under one seed are left out, and nothing is returned where such
    a row has the least. The size of what is shipped is exact, so one seed is enough for it.
    """
    exact = cost == "artifact_bytes"
    measured = sorted(
        (row for row in rows if row.by_seed.get(cost)), key=lambda row: statistics.fmean(row.by_seed[cost])
    )
    known = [row for row in measured if exact or len(row.by_seed[cost]) > 1]
    if len(known) < 2 or known[0] is not measured[0]:
        return []
    first, rest = known[0], known[1:]
    if exact:
        more = [statistics.fmean(row.by_seed[cost]) > statistics.fmean(first.by_seed[cost]) for row in rest]
    else:
        found = [ratio(row.by_seed[cost], first.by_seed[cost]).p for row in rest]
        more = [p < ALPHA for p in corrected(found)]
    alike = [first, *(row for row, is_more in zip(rest, more, strict=True) if not is_more)]
    return alike if len(alike) < len(known) else []


def spoilt(block: Block, rows: Sequence[Row]) -> Iterator[str]:
    """Says how the score of each label in `rows`, those of clean data, changes with spoilt data of the same size: a
    sentence for each quality, the label that loses least first."""
    clean = {row.label: row for row in rows}
    n_train = max(row.n_train for row in rows)
    for condition in block.conditions[1:]:
        others = [row for row in block.at(n_train, condition) if row.score and row.n_train]
        pairs = [(clean[row.label], row) for row in others if row.label in clean]
        pairs.sort(key=lambda pair: pair[0].merit - pair[1].merit)
        said = [f"{row.label} {drop(before.score, row.score)}" for before, row in pairs if row.score and before.score]
        if said:
            yield f"With {condition}, {block.metric} changes against clean balanced data: {', '.join(said)}."


def drop(before: Estimate, after: Estimate) -> str:
    """Returns the change of a score, with its standard error. The errors are joined as if the items were different
    ones, which makes the error too large."""
    known = before.stderr is not None and after.stderr is not None
    joint = math.hypot(before.stderr or 0.0, after.stderr or 0.0) if known else None
    return with_error(after.value - before.value, joint, digits_of(after.metric), signed=True)


def loss_of(row: Row, task: str) -> float | None:
    """Returns how much worse a row is than the base model on a retained task, positive for worse; None where that is
    not known, or the row learned the task."""
    estimate = row.retained.get(task)
    if estimate is None or estimate.gain is None or estimate.learned:
        return None
    return -estimate.gain if estimate.higher_is_better else estimate.gain


def change(row: Row, task: str) -> str:
    """Returns a row's change on a retained task against the base model as text; "n/a" where it has no estimate."""
    estimate = row.retained.get(task)
    return number(estimate.gain, digits_of(estimate.metric), signed=True) if estimate else NA


def unit_of(row: Row, task: str) -> str:
    """Returns the unit of a row's score on a retained task, with a blank before it; "" where it has none."""
    estimate = row.retained.get(task)
    unit = UNITS.get(estimate.metric, "") if estimate else ""
    return f" {unit}" if unit else ""
