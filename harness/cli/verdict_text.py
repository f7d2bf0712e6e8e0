"""Puts verdicts into words: on labels, cells, runs and environments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.display import say, show_table
from harness.errors import counted

if TYPE_CHECKING:
    from harness.analysis import CellComparison, EnvironmentChanges, GroupComparison, LabelComparison, Verdict
    from harness.analysis.stats import Need, Paired


NOTHING_WOULD = "Neither more seeds alone nor more items alone would settle it."


FEW = 5  # up to this many verdicts are printed as sentences, more as a table


LISTED = 8  # names that are listed before the rest is counted


def show_comparison(comparison: LabelComparison | CellComparison | GroupComparison) -> None:
    """Prints the comparison of two names, in sentences, or in a table where there are many verdicts."""
    from harness.analysis import CellComparison, LabelComparison

    if isinstance(comparison, LabelComparison):
        for where, verdict in comparison.tables:
            say(f"{where}: {sentence(verdict)}")
        if any(verdict.decision and verdict.decision.seeds_known for _, verdict in comparison.tables):
            say("Interval and p are of this pair alone; the report corrects for all pairs of a table.")
    elif isinstance(comparison, CellComparison):
        show_cells(comparison.verdict, comparison.exact)
    else:
        show_sides(comparison)


def sentence(verdict: Verdict) -> str:
    """Returns a verdict in words, with its figures and then its remarks: on tuned labels, on seeds that ended badly, on
    a machine whose speed drifted."""
    return " ".join([outcome(verdict), *(f"{remark}." for remark in verdict.remarks)])


def outcome(verdict: Verdict) -> str:
    """Returns a verdict in words, with its figures, without its remarks. For an open one it says what would settle
    it."""
    if verdict.ratio:
        return cost_sentence(verdict)
    if verdict.decision is None:
        return f"{verdict.a} and {verdict.b} are incomparable: {verdict.reason}."
    found = verdict.decision
    paired = ", paired by seed" if found.paired_seeds else ""
    clustered = f", {verdict.clustering}" if verdict.clustering else ""
    figures = f"{verdict.metric} {effect(verdict)}, 95% interval {interval(verdict)}{paired}{clustered}"
    if verdict.verdict == "tied":
        why = f": {verdict.reason}" if verdict.reason else f" within {found.margin:g}"
        return f"{verdict.a} and {verdict.b} are tied{why} ({figures}, p of a larger difference = {found.p_tied:.2g})."
    if found.few_studies:
        return (
            f"{verdict.a} and {verdict.b} are not decided: two studies may choose alike by chance, and say too little "
            f"of others. On these: {figures}. Tune three times or more (`tune: {{studies: 3}}`)."
        )
    if not found.seeds_known:
        return (
            f"{verdict.a} and {verdict.b} are not decided: one seed alone says nothing of others. On these seeds: "
            f"{figures}, of the items alone. Run three or more (`seeds: [0, 1, 2]`)."
        )
    figures += f", p = {found.p:.2g}"
    if verdict.verdict != "underpowered":
        small = f", though by less than {found.margin:g}" if found.negligible else ""
        return f"{verdict.a} is {verdict.verdict} than {verdict.b}{small} ({figures})."
    needs = [
        f"{how} {what}"
        for what, need in (
            (f"to show a difference of {found.margin:g}", found.to_differ),
            ("to show a tie", found.to_tie),
        )
        if need and (how := enough(need))
    ]
    told = f"It would take {'; '.join(needs)}." if needs else NOTHING_WOULD
    return f"{verdict.a} and {verdict.b} cannot be told apart ({figures}). {told}"


def cost_sentence(verdict: Verdict) -> str:
    """Returns a verdict on costs, one that has a `ratio`, in words with its figures."""
    found = verdict.ratio
    assert found is not None
    ends = f"95% interval {interval(verdict)}, p = {found.p:.2g}, " if found.interval else ""
    if found.interval and found.interval.low == found.interval.high:
        ends = "exactly, "
    seeds = "one value" if max(found.seeds) == 1 else f"{found.seeds[0]} and {found.seeds[1]} values"
    figures = f"{verdict.metric} {effect(verdict)} as much, {ends}from {seeds}"
    if verdict.verdict == "tied":
        return f"{verdict.a} and {verdict.b} are tied within {found.margin:.2g} of it ({figures})."
    if verdict.verdict == "underpowered":
        if found.few_studies:
            return (
                f"{verdict.a} and {verdict.b} are not decided: two studies may choose alike by chance, and say too "
                f"little of others ({figures}). Tune three times or more (`tune: {{studies: 3}}`)."
            )
        more = "A cost needs two seeds or repeats of either." if min(found.seeds) < 2 else "More seeds would tell."
        return f"{verdict.a} and {verdict.b} cannot be told apart ({figures}). {more}"
    return f"{verdict.a} is {verdict.verdict} than {verdict.b} ({figures})."


def effect(verdict: Verdict) -> str:
    """Returns the difference that a verdict is about as text, such as "+0.031", or for a cost "1.3 ×"; "" where nothing
    was compared."""
    if verdict.ratio:
        return f"{verdict.ratio.value:.3g} ×"
    return f"{verdict.decision.effect:+.3f}" if verdict.decision else ""


def interval(verdict: Verdict) -> str:
    """Returns the ends of the 95% interval of a verdict's difference, or of its ratio of costs, as text; "" where there
    is none."""
    if verdict.ratio:
        ends = verdict.ratio.interval
        return f"{ends.low:.3g} to {ends.high:.3g}" if ends else ""
    return f"{verdict.decision.interval.low:+.3f} to {verdict.decision.interval.high:+.3f}" if verdict.decision else ""


def enough(need: Need) -> str:
    """Says how many items or seeds, each by itself, would settle an open question, such as "800 items or 5 seeds"; ""
    where neither would."""
    ways = [f"{need.items} items" if need.items else "", f"{need.seeds} seeds" if need.seeds else ""]
    return " or ".join(filter(None, ways))


def show_cells(verdict: Verdict, exact: Paired | None) -> None:
    """Prints the verdict on two cells and, where their items were tested, by which test and on how many items either
    won."""
    say(sentence(verdict))
    if exact:
        test = "McNemar's exact test" if exact.test == "mcnemar" else "a paired t-test"
        test += " over clusters" if verdict.clusters else ""
        how = "right and the second wrong" if exact.test == "mcnemar" else "above the second"
        say(f"By {test}; the first is {how} on {counted(exact.wins, 'item')}, the other way round on {exact.losses}.")
        say("It holds for these two trained models alone: another seed is another model. For methods, compare labels.")


def show_sides(found: GroupComparison) -> None:
    """Prints the comparison of two runs or environments: what they are, how they differ, how many verdicts of each kind
    there are, and the verdicts, as sentences where they are few, else as a table."""
    say(f"{found.kind} {found.a} ({found.descriptions[0]}) beside {found.kind} {found.b} ({found.descriptions[1]})")
    for line in what_changed(found.changes):
        say(line)
    matched = found.verdicts.matched
    counts = Counter(one.verdict.verdict for one in matched)
    metric = next((one.verdict.metric for one in matched if one.verdict.metric), found.metric)
    if matched:
        told = ", ".join(f"{count} {word}" for word, count in counts.most_common())
        how = f"margin {found.margin:g}, p-values corrected by Holm for all {len(matched)}" if len(matched) > 1 else ""
        say(f"In {found.a}, by {metric}: {told}{f' ({how})' if how else ''}.")
    else:
        say("They have no cells in common that could be compared.")
    if len(matched) <= FEW:
        for one in matched:
            say(f"{one.where}: {sentence(one.verdict)}")
    else:
        rows = [
            [one.label, one.where, one.verdict.verdict, effect(one.verdict), interval(one.verdict), p_text(one.verdict)]
            for one in matched
        ]
        columns = ["label", "where", "verdict", metric, "95% interval", "p"]
        show_table("", columns, rows, frozenset({metric, "95% interval", "p"}))
        for reason in dict.fromkeys(one.verdict.reason for one in matched if one.verdict.verdict == "incomparable"):
            say(f"incomparable: {reason}")
    for note in found.notes:
        say(f"{note}.")
    for names, what in (
        (found.verdicts.shared, "the same attempts in both"),
        (found.verdicts.only_a, f"only in {found.a}"),
        (found.verdicts.only_b, f"only in {found.b}"),
    ):
        if names:
            say(f"{what}: {listed(names)}")


WORDS = {"threads": "number of threads", "result_version": "the way in which tunebench computes results"}


def what_changed(changes: EnvironmentChanges) -> list[str]:
    """Returns the differences between two environments in words, packages that results depend on first."""
    packages = sorted(changes.packages, key=lambda name: name not in changes.decisive)
    found = [f"{name}: {old or 'none'} → {new or 'none'}" for name in packages for old, new in [changes.packages[name]]]
    lines = [f"packages that differ: {listed(found, '; ')}"] if found else []
    lines += [
        f"{WORDS.get(what, what)} differs: {old or 'none'} → {new or 'none'}"
        for what, (old, new) in changes.about.items()
    ]
    if changes.unexplained:
        lines.append(
            "something differs that an earlier tunebench did not record: threads of a cell, or tunebench itself"
        )
    return lines


def listed(names: Sequence[str], mark: str = ", ") -> str:
    """Joins names with `mark`: the first `LISTED` of them, then how many there are in all."""
    return mark.join(names[:LISTED]) + (f"{mark}… ({len(names)} in all)" if len(names) > LISTED else "")


def p_text(verdict: Verdict) -> str:
    """Returns the p-value of a verdict as text; "" where nothing was compared."""
    found = verdict.ratio or verdict.decision
    return f"{found.p:.2g}" if found else ""
