"""Compares two runs, two environments or two cells, label by label. Pure.

In: the rows of both sides (`store.CellRow`) and the values of their items. Runs are compared as methods are: each run
has seeds of its own. Environments hold the same cells, which are therefore paired by seed and by item; the question is
whether an upgrade changed anything. Two cells are two trained models, and a verdict on them holds for no other models.
All verdicts that are shown together have p-values corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from harness.analysis.cost_ratios import CostKind, CostSide, cost_side, cost_verdict, ratio, why_costs_incomparable
from harness.analysis.stats.contrast import Comparison, compare, compare_arms, decide, p_tied
from harness.analysis.stats.intervals import Paired, corrected, paired
from harness.analysis.stats.power import Need
from harness.analysis.tuning import UNTUNED
from harness.analysis.verdicts import (
    Fallback,
    Point,
    Side,
    Table,
    Values,
    Verdict,
    fallback_of,
    incomparable,
    side_of,
    tables,
    verdict,
    why_incomparable,
)
from harness.environment import RESULT_PACKAGES, normal_name
from harness.errors import counted
from harness.records import FAILED_SEEDS, MARGIN, FailedSeeds
from harness.store import CellRow, EnvironmentRecord
from harness.suite import BASE

if TYPE_CHECKING:
    pass

SAME = "every item came out the same"
Hardware = Literal["cpu", "accelerator"]
HARDWARE: tuple[Hardware, ...] = ("cpu", "accelerator")
# The properties of two environments that are compared, beside their packages.
About = Literal["python", "os", "cpu", "accelerator", "driver", "threads", "result_version"]
ABOUT: tuple[About, ...] = ("python", "os", "cpu", "accelerator", "driver", "threads", "result_version")
DECISIVE: frozenset[About] = frozenset({"accelerator", "threads", "result_version"})  # beside packages: in the digest
NamePair = tuple[str, str]


@dataclass(frozen=True)
class MatchedLabel:
    """The verdict on a label in run (or environment) A against the same label in B, in the table `where`."""

    where: Point
    label: str
    verdict: Verdict


@dataclass(frozen=True)
class GroupVerdicts:
    """The comparison of two runs or environments, A and B: the verdicts on labels that stand in the same table of both,
    and the names ("lora: topic, …") of what was left out.

    `shared` are labels for which at most one of the two has attempts that the other lacks: there is nothing to compare.
    An attempt that both have is not compared. `only_a` and `only_b` name what one alone has; of environments that are
    compared by a score, these are keys of cells.
    """

    matched: tuple[MatchedLabel, ...] = ()
    shared: tuple[str, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A label in the table `where`, with its cells in run or environment A, and those in B."""

    where: Point
    label: str
    a: tuple[CellRow, ...]
    b: tuple[CellRow, ...]


@dataclass(frozen=True)
class EnvironmentChanges:
    """The differences between two environments: name -> (the first's value, the second's), "" where an environment has
    none.

    `packages` are by package name; `about` has the Python version, system, hardware and driver. `decisive` names those
    of the packages on which results depend. `unexplained` is True where the digests of the environments differ although
    nothing recorded that decides results does: an earlier tunebench did not record the threads of a cell, nor the
    version of how it computes results.
    """

    packages: dict[str, NamePair] = field(default_factory=dict)
    about: dict[str, NamePair] = field(default_factory=dict)
    decisive: tuple[str, ...] = ()
    unexplained: bool = False


def pairs(a: Iterable[CellRow], b: Iterable[CellRow]) -> tuple[list[Pair], GroupVerdicts]:
    """Matches labels that stand in the same table of `a` and of `b`. Returns (matched pairs, names of the labels left
    out: shared, only in `a`, only in `b`). Attempts that both have are dropped from a pair; a label with no others is
    shared."""
    first, second = tables(a), tables(b)
    found, shared = [], []
    for where in (where for where in first if where in second):
        for label in (label for label in first[where] if label in second[where]):
            one, other = first[where][label], second[where][label]
            both = {cell.attempt_id for cell in one} & {cell.attempt_id for cell in other} - {""}
            # An attempt in both is no evidence of a difference, and would be counted as if it were independent.
            one, other = ([cell for cell in cells if cell.attempt_id not in both] for cells in (one, other))
            if one and other:
                found.append(Pair(where, label, tuple(one), tuple(other)))
            else:
                shared.append(name(where, label))
    return found, GroupVerdicts((), tuple(shared), only(first, second), only(second, first))


def only(these: Mapping[Point, Table], others: Mapping[Point, Table]) -> tuple[str, ...]:
    """Returns the labels that `these` tables have and the `others` do not, as "lora: topic, …"."""
    return tuple(name(where, label) for where in these for label in these[where] if label not in others.get(where, {}))


def name(where: Point, label: str) -> str:
    """Returns a label in a table as text, such as "lora: bbc-topic, smollm2-135m, 128 examples"."""
    return f"{label}: {where}"


def cells_in_both(a: Iterable[CellRow], b: Iterable[CellRow]) -> tuple[list[CellRow], list[CellRow]]:
    """Returns the rows of the cells that are done in `a` and in `b`: (those of `a`, those of `b`), the same cells in
    the same order, by seed. All other rows are left out."""
    sides = [{row.spec_digest: row for row in rows if row.status == "done"} for rows in (a, b)]
    both = sorted(sides[0].keys() & sides[1].keys(), key=lambda spec: (sides[0][spec].seed or 0, sides[0][spec].key))
    return [sides[0][spec] for spec in both], [sides[1][spec] for spec in both]


def runs_by_score(
    a: Sequence[CellRow],
    b: Sequence[CellRow],
    values: Values,
    names: NamePair,
    metric: str = "",
    margin: float = MARGIN,
    failed_seeds: FailedSeeds = FAILED_SEEDS,
) -> GroupVerdicts:
    """Compares every label of run A with the same label of run B in the same table, by a score; `metric` "" is the
    task's headline. `values` are attempt_id -> doc_id -> value, `names` the names of the two runs. `failed_seeds` says
    what a seed that ended badly counts as."""
    found, rest = pairs(a, b)
    bases = [{point: table.get(BASE, []) for point, table in tables(rows).items()} for rows in (a, b)]
    tested = []
    for pair in found:
        fallbacks = [fallback_of(of.get(pair.where, ()), values, failed_seeds) for of in bases]
        tested.append((pair, *sides_of(pair, values, names, metric, fallbacks), by_arms))
    return replace(rest, matched=tuple(judged(tested, margin)))


def environments_by_score(
    a: Sequence[CellRow],
    b: Sequence[CellRow],
    values: Values,
    names: NamePair,
    metric: str = "",
    margin: float = MARGIN,
) -> GroupVerdicts:
    """Compares every label of environment A with the same in B, in the same table, by a score and over the cells that
    both finished; `metric` "" is the task's headline. `values` are attempt_id -> doc_id -> value. `only_a` and `only_b`
    of the result are keys of cells that one alone finished.

    The differences A - B [seeds, items] are tested against zero (`contrast.compare` with `paired_seeds`).
    """
    found, rest = pairs(*cells_in_both(a, b))
    specs = [{row.spec_digest for row in rows if row.status == "done"} for rows in (a, b)]
    lone = [
        tuple(dict.fromkeys(row.key for row in rows if row.status == "done" and row.spec_digest not in others))
        for rows, others in ((a, specs[1]), (b, specs[0]))
    ]
    tested = [(pair, *sides_of(pair, values, names, metric), apart) for pair in found]
    return replace(rest, matched=tuple(judged(tested, margin)), only_a=lone[0], only_b=lone[1])


def sides_of(
    pair: Pair, values: Values, names: NamePair, metric: str, fallbacks: Sequence[Fallback | None] = (None, None)
) -> tuple[Side, Side]:
    """Returns a pair's label as the two sides of a comparison, named "label in name". `fallbacks` are the values that
    stand in for seeds that ended badly, for A and for B; without one such seeds are left out."""
    return (
        side_of(f"{pair.label} in {names[0]}", pair.a, values, metric, fallbacks[0]),
        side_of(f"{pair.label} in {names[1]}", pair.b, values, metric, fallbacks[1]),
    )


def by_arms(a: Side, b: Side) -> Comparison:
    """Compares two sides as methods are, paired by seed only where both have the same seeds."""
    return compare_arms(a.arm, b.arm)


def apart(a: Side, b: Side) -> Comparison:
    """Compares two sides seed by seed; both have the same seeds. A side without seeds is deterministic, and its row is
    given twice."""
    return compare(a.arm.item_rows, b.arm.item_rows, paired_seeds=True, clusters=a.clusters)


Tested = tuple[Pair, Side, Side, Callable[[Side, Side], Comparison]]


def judged(tested: Sequence[Tested], margin: float) -> list[MatchedLabel]:
    """Returns a verdict for each of `tested` (pair, side A, side B, function that compares them), with p-values
    corrected by Holm for all pairs that can be compared. Sides whose values are all equal are tied without a test."""
    found = {place: how(a, b) for place, (_, a, b, how) in enumerate(tested) if not why_incomparable(a, b)}
    p_values = dict(zip(found, corrected([one.p for one in found.values()]), strict=True))
    within = dict(zip(found, corrected([p_tied(one, margin) for one in found.values()]), strict=True))
    matched = []
    for place, (pair, a, b, _) in enumerate(tested):
        if place not in found:
            matched.append(MatchedLabel(pair.where, pair.label, incomparable(a, b, why_incomparable(a, b))))
            continue
        judgement = decide(
            found[place], margin, p=p_values[place], p_within=within[place], pairs=len(found),
            higher_is_better=a.higher_is_better,
        )  # fmt: skip
        made = verdict(a, b, found[place], judgement)
        if a.values == b.values and made.decision:  # equal seed by seed, which needs no inference
            decision = replace(made.decision, verdict="tied", to_differ=None, to_tie=None)
            made = replace(made, verdict="tied", decision=decision, reason=SAME)
        matched.append(MatchedLabel(pair.where, pair.label, made))
    return matched


def groups_by_cost(
    a: Sequence[CellRow],
    b: Sequence[CellRow],
    kind: CostKind,
    names: NamePair,
    devices: NamePair,
    margin: float = MARGIN,
) -> GroupVerdicts:
    """Compares every label of A with the same label of B in the same table by a cost, one value for each seed. `names`
    are those of the runs or environments A and B, `devices` their hardware in words; `margin` is a relative
    difference."""
    found, rest = pairs(a, b)
    tested = [
        (
            pair,
            cost_side(f"{pair.label} in {names[0]}", pair.a, kind.name, devices[0]),
            cost_side(f"{pair.label} in {names[1]}", pair.b, kind.name, devices[1]),
        )
        for pair in found
    ]
    made = costs_judged([(one, other) for _, one, other in tested], kind, margin)
    matched = (MatchedLabel(pair.where, pair.label, it) for (pair, *_), it in zip(tested, made, strict=True))
    return replace(rest, matched=tuple(matched))


def costs_judged(tested: Sequence[tuple[CostSide, CostSide]], kind: CostKind, margin: float) -> list[Verdict]:
    """Returns a verdict for each pair of sides by one cost, with p-values corrected by Holm for all pairs that can be
    compared. `margin` is a relative difference."""
    fit = [place for place, (a, b) in enumerate(tested) if not why_costs_incomparable(a, b, kind)]
    own = [ratio(tested[place][0].values, tested[place][1].values, margin).p for place in fit]
    p_values = dict(zip(fit, corrected(own), strict=True))
    return [cost_verdict(a, b, kind, margin, p_values.get(place)) for place, (a, b) in enumerate(tested)]


def cells_by_score(a: Side, b: Side, margin: float = MARGIN) -> tuple[Verdict, Paired | None]:
    """Compares two trained models item by item: returns the verdict, and the exact test (None where they are
    incomparable). Of sides with several seeds only the first seed is compared.

    McNemar's exact test or a paired t-test (`stats.paired`) gives p-value and interval. The test of a tie within the
    margin, and the number of items that would settle an open question, come from the items alone too.
    """
    a, b = (replace(side, values=side.values[:1], seeded=False, tuning=UNTUNED) for side in (a, b))
    if reason := why_incomparable(a, b):
        return incomparable(a, b, reason), None
    exact = paired(a.values[0], b.values[0], clusters=a.clusters)
    found = compare_arms(a.arm, b.arm)
    made = verdict(a, b, found, decide(found, margin, p=exact.p, higher_is_better=a.higher_is_better))
    if made.decision:
        needs = [need and Need(None, need.items) for need in (made.decision.to_differ, made.decision.to_tie)]
        decision = replace(made.decision, interval=exact.difference, to_differ=needs[0], to_tie=needs[1])
        made = replace(made, decision=decision, reason=SAME if a.values == b.values else "")
    return made, exact


def environment_changes(a: EnvironmentRecord, b: EnvironmentRecord) -> EnvironmentChanges:
    """Returns the differences between the records of two environments (see `store.environment_of`)."""
    first, second = a.get("packages", {}), b.get("packages", {})
    packages = {
        package: (first.get(package, ""), second.get(package, ""))
        for package in sorted({*first, *second}, key=str.lower)
        if first.get(package) != second.get(package)
    }
    about: dict[str, NamePair] = {
        what: (str(a.get(what) or ""), str(b.get(what) or "")) for what in ABOUT if a.get(what) != b.get(what)
    }
    decisive = tuple(package for package in packages if normal_name(package) in result_packages())
    known = bool(decisive) or bool(DECISIVE & about.keys())
    return EnvironmentChanges(packages, about, decisive, a.get("env_digest") != b.get("env_digest") and not known)


def result_packages() -> set[str]:
    """Returns the normalised names of the packages on which results depend."""
    return {normal_name(package) for package in RESULT_PACKAGES}


def hardware_texts(a: EnvironmentRecord, b: EnvironmentRecord) -> NamePair:
    """Describes the hardware of two environments in words. The two texts differ where costs must not be compared: also
    where only the number of threads, or tunebench itself, differs."""
    found = [", ".join(filter(None, (environment.get(what) for what in HARDWARE))) for environment in (a, b)]
    changes = environment_changes(a, b)
    if "threads" in changes.about:
        found = [
            f"{text} with {counted(environment.get('threads') or 0, 'thread')}"
            for text, environment in zip(found, (a, b), strict=True)
        ]
    elif changes.unexplained:
        found[1] += " with, perhaps, another number of threads"
    return found[0], found[1]
