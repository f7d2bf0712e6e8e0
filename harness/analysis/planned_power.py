"""Forecasts which differences and ties a plan's test items can show at its margin, before anything has run. Pure.

In: a plan, and how far scores varied between seeds in earlier results. Out: the figures of `power.outlook` for each
learned task and model, with all that they assume. Only metrics by which an item is right or wrong are covered: for
others (perplexity, rewards) the spread between items is not known before they are scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.analysis.stats.contrast import Spread, pooled_spread, seed_spread
from harness.analysis.stats.power import ALPHA, DISAGREEMENT, Outlook, outlook
from harness.data import TaskFacts, independent_units, items_text
from harness.errors import counted
from harness.plan import Plan
from harness.records import STUDY
from harness.store import item_values, seeded_attempts

if TYPE_CHECKING:
    import duckdb

# Metrics in lm-eval's registry by which an item is worth 0 or 1.
RIGHT_OR_WRONG = frozenset(
    {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "exact_match_mc"}
)
SHARE_RIGHT = 0.5
ALIKE_IN_CLUSTER = 0.5  # correlation of the items of a cluster, before anything is known of them

Spreads = Mapping[tuple[str, str], Spread]  # (model, task) -> the spread of its scores between seeds


@dataclass(frozen=True)
class TaskOutlook:
    """The differences and ties between a model's methods that the items of a learned task can show.

    `seed_sd` is the standard deviation of a score between seeds, with `seed_df` degrees of freedom. It is None where it
    is unknown, or with one seed: `figures` then count the items alone, the best case. They are corrected for `pairs`,
    all pairs of labels of a table, as the report is.
    `share_right` and `disagreement` (the share of items that two methods answer differently) are assumed. Where items
    come in `clusters` (None: they are independent), which the column `clustered_by` names, those of one cluster are
    taken to be correlated by `ALIKE_IN_CLUSTER`.
    """

    model: str
    task: str
    metric: str
    items: int
    seeds: int
    margin: float
    seed_sd: float | None
    seed_df: float
    figures: Outlook
    pairs: int = 1
    share_right: float = SHARE_RIGHT
    disagreement: float = DISAGREEMENT
    clusters: int | None = None
    clustered_by: str = ""


def outlooks(plan: Plan, spreads: Spreads) -> list[TaskOutlook]:
    """Returns an outlook for each model and learned task, in the order of the suite. Tasks whose metric is not right or
    wrong for each item, or with fewer than two test items, are left out. `spreads` map (model, task) to the spread of
    scores between seeds in earlier results, where there are any."""
    found = []
    for model in plan.suite.models:
        for task, _ in plan.suite.tasks:
            facts = plan.facts.tasks[task]
            if facts.metric not in RIGHT_OR_WRONG or facts.n_test < 2:
                continue
            seeds = len(plan.suite.seeds)
            labels = {cell.label for cell in plan.cells if (cell.model, cell.task) == (model, task)}
            pairs = max(math.comb(len(labels), 2), 1)
            spread = spreads.get((model, task)) if seeds > 1 else None
            independent = independent_items(facts)
            figures = outlook(
                round(independent),
                plan.suite.margin,
                seeds=seeds,
                seed_sd=spread.variance**0.5 if spread else 0.0,
                residual=min(spread.residual, spread.variance) if spread else 0.0,
                share_right=SHARE_RIGHT,
                alpha=ALPHA / pairs,
            )
            if figures.items_needed and facts.clusters:
                needed = math.ceil(figures.items_needed * facts.n_test / independent)
                figures = replace(figures, items_needed=needed, decides=needed <= facts.n_test)
            found.append(
                TaskOutlook(
                    model, task, facts.metric, facts.n_test, seeds, plan.suite.margin,
                    spread.variance**0.5 if spread else None, spread.df if spread else 0.0, figures, pairs,
                    clusters=facts.clusters or None, clustered_by=facts.cluster,
                )
            )  # fmt: skip
    return found


@dataclass(frozen=True)
class TuningOutlook:
    """The tuning that a plan asks for. `labels` names those that are tuned by one study for each model, task, size and
    quality, `repeated` those tuned by several. `studies` counts all studies of the plan, `trials` the most trials that
    they may have together; None where only a budget of seconds or tokens ends a study."""

    labels: tuple[str, ...]
    repeated: tuple[str, ...]
    studies: int
    trials: int | None
    twice: bool = False  # the repeated ones are tuned by two studies


def tuning_outlook(plan: Plan) -> TuningOutlook | None:
    """Returns the tuning that a plan asks for; None where it tunes nothing."""
    by_table: dict[tuple[str, ...], set[str]] = {}
    studies = [cell for cell in plan.cells if cell.study]
    for cell in plan.cells:
        if study := cell.needs.get(STUDY):
            table = (cell.label, cell.model, cell.task, str(cell.n_train), str(cell.data))
            by_table.setdefault(table, set()).add(study)
    if not studies:
        return None
    labels: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for (label, *_), its in by_table.items():
        labels[len(its) > 1][label] = None
    trials = [study.study["trials"] for study in studies]
    return TuningOutlook(
        tuple(labels[False]), tuple(labels[True]), len(studies), sum(trials) if all(trials) else None,
        any(len(its) == 2 for its in by_table.values()),
    )  # fmt: skip


def tuning_sentences(found: TuningOutlook) -> list[str]:
    """Says in words how much a plan tunes, and as what its tuned labels will be compared."""
    trials = f", at most {counted(found.trials, 'trial')} in all" if found.trials else ""
    sentences = [f"tuning: {counted(found.studies, 'study', 'studies')}{trials}"]
    if found.repeated:
        sentences.append(f"compared as tuned procedures, as several studies choose: {', '.join(found.repeated)}")
    if found.twice:
        sentences.append("two studies may choose alike by chance, so nothing is decided of them: take three or more")
    if found.labels:
        sentences.append(
            "compared as the setting that one study chooses, and another may choose another: "
            f"{', '.join(found.labels)} (`tune: {{studies: 3}}` compares tuned procedures)"
        )
    return sentences


def independent_items(facts: TaskFacts) -> float:
    """Returns how many independent items a task's scored items are taken to be worth: their number over the design
    effect 1 + (items in a cluster - 1) x `ALIKE_IN_CLUSTER` (Kish 1965), at least 2."""
    if not facts.clusters:
        return facts.n_test
    return max(facts.n_test / (1 + (facts.n_test / facts.clusters - 1) * ALIKE_IN_CLUSTER), 2.0)


def outlook_sentence(found: TaskOutlook, several: bool = False) -> str:
    """Says one outlook in words; with `several`, the sentence names the model."""
    figures = found.figures
    seeds = f"with {counted(found.seeds, 'seed')} " if found.seed_sd else ""
    items = items_text(found.items, found.clusters, found.clustered_by).replace(" item", " test item", 1)
    what = f"{found.task}{f', {found.model}' if several else ''}: {items}"
    if figures.items_needed is None:
        tie = f"no number of items shows a tie within {found.margin:g}"
        tie += ": the seeds alone leave more open" if found.seed_sd and found.margin else ""
    else:
        tie = f"a tie within {found.margin:g} takes {figures.items_needed:,} items" + (
            ", as there are" * figures.decides
        )
    return (
        f"{what}, so one score has a standard error of {figures.score_stderr:.3f}; {seeds}a difference of "
        f"{figures.detectable:.3f} is found 80% of the time, and {tie}{corrected_for(found.pairs)}."
    )


def corrected_for(pairs: int) -> str:
    """Returns a remark that figures are corrected for so many pairs, in brackets; "" for one pair."""
    return f" (corrected for {pairs} pairs, as the report is)" if pairs > 1 else ""


def outlook_assumption(found: TaskOutlook) -> str:
    """Says the assumptions behind one outlook in words."""
    share = f"a share right of {found.share_right:g}, two methods that answer {found.disagreement:g} of the items apart"
    if found.clusters:
        share += f", items of one {found.clustered_by} correlated by {ALIKE_IN_CLUSTER:g}"
    if found.seeds < 2:
        return f"{share}, and no spread between seeds: with one seed nothing is settled of methods that vary with it"
    if found.seed_sd is None:
        return f"{share}; the spread between seeds is not known yet and taken as none, the best case"
    return f"{share}, scores that vary by {found.seed_sd:.3f} between seeds (as stored results do)"


def outlook_warning(found: list[TaskOutlook]) -> str:
    """Returns one line for the start of a run, which names the tasks whose test items are not expected to show a tie
    within the margin, and the smallest difference that they find 80% of the time; "" where there are none."""
    open_ = {one.task: one for one in found if not one.figures.decides}
    if not open_:
        return ""
    tasks = "; ".join(
        f"{items_text(one.items, one.clusters, one.clustered_by)} of {task} find differences from "
        f"{one.figures.detectable:.2f} on"
        for task, one in open_.items()
    )
    margin = next(iter(open_.values())).margin
    return f"no tie within {margin:g} can be expected: {tasks} (`tunebench plan` has the figures)"


def seed_spreads(
    connection: duckdb.DuckDBPyConnection, wanted: dict[tuple[str, str], tuple[str, str]]
) -> dict[tuple[str, str], Spread]:
    """Returns (model, task) -> the spread of scores between seeds, pooled over all stored settings that were run with
    two seeds or more; a model and task without any is left out.

    `wanted` maps each (model, task) to (metric, fingerprint of the task as it is now): scores of other items do not
    count. Trials of studies do not count either: they have one seed.
    """
    attempts = [
        attempt
        for attempt in seeded_attempts(connection)
        if (metric := wanted.get((attempt.model, attempt.task))) and attempt.fingerprint == metric[1]
    ]
    metrics = {attempt.attempt_id: (attempt.task, wanted[attempt.model, attempt.task][0]) for attempt in attempts}
    values = item_values(connection, metrics)
    groups: dict[tuple[str, str], dict[tuple[str, ...], list[list[float]]]] = {}
    for attempt in attempts:
        if items := values.get(attempt.attempt_id):
            group = groups.setdefault((attempt.model, attempt.task), {})
            docs = sorted(items)
            clusters = [items.clusters.get(doc, doc) for doc in docs] if items.clusters else []
            units = independent_units([[items[doc] for doc in docs]], clusters)[0]
            group.setdefault(attempt.setting, []).append([float(value) for value in units])
    spreads = {}
    for of, settings in groups.items():
        known = [spread for seeds in settings.values() if alike(seeds) and (spread := seed_spread([seeds]))]
        if known:
            spreads[of] = pooled_spread(known)
    return spreads


def alike(seeds: list[list[float]]) -> bool:
    """Whether all seeds were scored on the same number of items, two or more. `seeds` is [seeds][items]."""
    return len(seeds[0]) > 1 and len({len(row) for row in seeds}) == 1
