"""How often verdicts are wrong, and intervals hold the truth, in worlds whose truth is known.

    python benchmarks/calibration.py [--times 1000] [--only PART] [--write docs/calibration.md]

Answers are right with probability Phi(x), x = skill + item + method x item + seed, all normal (tests/simulated.py).
Here
each method has a spread between its seeds of its own, given in points of the score. All methods of a world are equally
good, so every "better" or "worse" is false. What is called is what `compare`, the report and `recommend` call.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy
from scipy.stats import binom, norm

from harness.analysis import Candidate, Side, interval_of, pairwise_verdicts, rank_candidates, side_of
from harness.analysis.stats import Arm, Reference, compare_arms
from harness.analysis.stats.contrast import p_tied
from harness.records import MARGIN
from harness.store import CellRow, StoredScore

ITEMS = 200
ITEM, OWN_ITEM = 1.0, 0.5  # standard deviations on the probit scale
UNSTABLE, STABLE = 8.6, 0.7  # points of the score between seeds
WITHIN, OWN_CLUSTERED = 0.7, 3.0  # differences of answers are then correlated by a half within a cluster
DOCS = tuple(f"d{number:04d}" for number in range(5000))


@dataclass(frozen=True)
class Method:
    """`points` is its standard deviation between seeds; `shared` the part of it (as a correlation) that all methods
    have in the same seed."""

    points: float
    seeds: int
    shared: float = 0.0
    numbered: bool = True  # whether its seeds are those of the others


@dataclass(frozen=True)
class Line:
    """One figure of the table: what it is of, the share, out of how many, and what it must keep to."""

    what: str
    share: float
    of: int
    least: float
    most: float

    @property
    def holds(self) -> bool:
        return self.least <= self.share <= self.most


def probit(points: float) -> float:
    """The standard deviation of the seed on the probit scale that moves a score about a half by so many points."""
    slope = float(norm.pdf(0)) / math.sqrt(1 + ITEM**2 + OWN_ITEM**2)
    return points / 100 / slope


def draw(
    random: Any, methods: Sequence[Method], items: int = ITEMS, effects: Sequence[float] = ()
) -> list[tuple[Arm, Any]]:
    """The answers of each method; `effects` are their true scores above a half."""
    difficulty = random.normal(0, ITEM, items)
    most = max(method.seeds for method in methods)
    common = random.normal(0, 1, most)
    drawn = []
    for place, method in enumerate(methods):
        sd = probit(method.points)
        luck = random.normal(0, 1, method.seeds)
        if method.shared:
            luck = math.sqrt(method.shared) * common[: method.seeds] + math.sqrt(1 - method.shared) * luck
        effect = effects[place] if effects else 0.0
        skill = float(norm.ppf(0.5 + effect)) * math.sqrt(1 + ITEM**2 + OWN_ITEM**2 + sd**2)
        x = skill + difficulty + random.normal(0, OWN_ITEM, items) + sd * luck[:, None]
        right = (random.random(x.shape) < norm.cdf(x)).astype(float)
        seeds = (
            tuple(range(method.seeds)) if method.numbered else tuple(100 * (place + 1) + s for s in range(method.seeds))
        )
        drawn.append((Arm(right.tolist(), True, seeds), right))
    return drawn


def sides(drawn: Sequence[tuple[Arm, Any]], items: int = ITEMS) -> list[Side]:
    return [
        Side(f"m{place:02d}", "acc", True, DOCS[:items], tuple(map(tuple, arm.values)), True, "", "", arm.seeds)
        for place, (arm, _) in enumerate(drawn)
    ]


def pair_rates(name: str, methods: Sequence[Method], times: int, random: Any) -> Iterator[Line]:
    """The share of false differences in each kind of pair, and of tables with any after Holm."""
    apart: dict[str, list[bool]] = {}
    tables = []
    for _ in range(times):
        drawn = draw(random, methods)
        for (i, one), (j, other) in combinations(list(enumerate(methods)), 2):
            kind = " against ".join(
                sorted({f"{one.points:g} points, {one.seeds} seeds", f"{other.points:g} points, {other.seeds} seeds"})
            )
            if len(apart.setdefault(kind, [])) < times * 3:
                apart[kind].append(compare_arms(drawn[i][0], drawn[j][0]).p < 0.05)
        found = pairwise_verdicts(sides(drawn), settle=False)
        tables.append(any(verdict.verdict in ("better", "worse") for verdict in found))
    for kind, wrong in apart.items():
        yield Line(f"{name}: {kind}, told apart", sum(wrong) / len(wrong), len(wrong), 0.0, 0.072)
    yield Line(f"{name}: any false verdict in a table, after Holm", sum(tables) / times, times, 0.0, 0.07)


def alike(seeds: int, count: int, numbered: bool = True) -> list[Method]:
    return [Method(STABLE, seeds, numbered=numbered)] * count


def scatter(times: int) -> Iterator[Line]:
    """Row 1: methods that scatter differently."""
    random = numpy.random.default_rng(1)
    for seeds in (2, 3, 5):
        for numbered in (True, False):
            name = f"{seeds} seeds{'' if numbered else ', each method its own'}"
            yield from pair_rates(
                name, [Method(UNSTABLE, seeds, numbered=numbered)] * 2 + alike(seeds, 6, numbered), times, random
            )
    yield from pair_rates("2 seeds beside 10", [Method(UNSTABLE, 2)] * 2 + alike(10, 6), times, random)
    yield from pair_rates("12 labels", [Method(UNSTABLE, 2)] * 3 + alike(5, 9), times, random)
    yield from pair_rates("12 alike", [Method(2.0, 3)] * 12, times, random)


def answers(random: Any, share: float, seeds: int, items: int, hard: Any, points: float = 0.5) -> Any:
    """Right or wrong [seeds, items]: the same items are hard for all, and seeds scatter by so many points, if there are
    two or more."""
    sd = probit(points) if seeds > 1 else 0.0
    skill = float(norm.ppf(share)) * math.sqrt(1 + ITEM**2 + OWN_ITEM**2 + sd**2)
    x = skill + hard + random.normal(0, OWN_ITEM, items) + random.normal(0, 1, (seeds, 1)) * sd
    return (random.random(x.shape) < norm.cdf(x)).astype(float)


def kind_of(seeds: int) -> str:
    return "no seeds" if seeds == 1 else f"{seeds} seeds"


def ties(times: int) -> Iterator[Line]:
    """Two shares that differ by the margin, 0.02: each "tied" is false."""
    random = numpy.random.default_rng(2)
    most = 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5
    for share, items, seeds in product((0.5, 0.9, 0.99, 0.995), (20, 50, 200, 2000), (1, 2, 5)):
        tied = 0
        for _ in range(times):
            hard = random.normal(0, ITEM, items)
            a, b = (answers(random, one, seeds, items, hard) for one in (share, share - MARGIN))
            arms = [Arm(values.tolist(), seeds > 1, tuple(range(seeds))) for values in (a, b)]
            tied += p_tied(compare_arms(*arms), MARGIN) < 0.05
        what = f"{share:g} and {share - MARGIN:g}, {items} items, {kind_of(seeds)}: tied"
        yield Line(what, tied / times, times, 0.0, most)


def single_scores(times: int) -> Iterator[Line]:
    """The interval of one score, against the truth."""
    random = numpy.random.default_rng(3)
    for share, items, seeds in product((0.5, 0.9, 0.98), (20, 200, 2000), (1, 2, 5)):
        covered = 0
        for _ in range(times):
            right = answers(random, share, seeds, items, random.normal(0, ITEM, items))
            side = Side("m", "acc", True, DOCS[:items], tuple(map(tuple, right.tolist())), seeds > 1)
            low, high = interval_of(side, True)
            covered += low <= share <= high
        least = 0.90 if items == 20 else 0.93
        what = f"a score of {share:g}, {items} items, {kind_of(seeds)}: covered"
        yield Line(what, covered / times, times, least, 1.0)


def power(times: int) -> Iterator[Line]:
    """How often a difference is found that a z-test would find in 90% of cases, alone and at the level of 28 pairs: the
    seeds of each method add three tenths to the items' variance, of which single answers make two tenths. Parts are
    normal, draws a hundred times as many."""
    random = numpy.random.default_rng(4)
    draws, added, answers_part = 100 * times, 0.3, 0.2
    for (what, level), seeds, arms in product((("alone", 0.05), ("of 28 pairs", 0.05 / 28)), (2, 3, 5), (1, 2)):
        residual, df = answers_part / arms, seeds - 1
        difference = random.normal(0, math.sqrt(1 + added * arms), draws)
        spreads = [(added + residual) * random.chisquare(df, draws) / df for _ in range(arms)]
        items = numpy.maximum(random.chisquare(ITEMS - 1, draws) / (ITEMS - 1) - answers_part, 0)
        items = items + sum(numpy.maximum(residual - spread, 0) for spread in spreads)
        reference = Reference(items, ITEMS - 1, tuple(spreads), (df,) * arms)
        reach = reference.critical(level / 2) * numpy.sqrt(items + sum(spreads))
        effect = float(norm.isf(0.1) + norm.isf(level / 2)) * math.sqrt(1 + added * arms)
        pairing = "paired" if arms == 1 else "each its own"
        share = float((numpy.abs(difference + effect) > reach).mean())
        yield Line(f"{seeds} seeds, {pairing}, {what}: found", share, draws, 0.0, 1.0)


@dataclass(frozen=True)
class Search:
    """A tuned procedure: the true scores of the settings that a study tries, in points below the best, and the standard
    deviation in points of a setting's validation score (4 for a hundred items) and of a test score between seeds."""

    settings: tuple[float, ...]
    validation: float = 4.0
    points: float = STABLE


TUNED_ITEMS = 1000
SEARCHES = {
    "even settings, 0 to 3 points apart": Search((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
    "settings 0 to 12 points apart": Search((0.0, 2.0, 4.0, 6.0, 9.0, 12.0)),
    "two settings 10 points apart, either as likely": Search((0.0, 10.0), validation=30.0),
    "one setting of four breaks down": Search((0.0, 1.0, 2.0, 20.0), validation=10.0, points=2.0),
}


def tuned_side(
    random: Any, label: str, search: Search, studies: int, seeds: Sequence[int], difficulty: Any, own: Any
) -> Side:
    """A label whose studies each choose a setting by noisy validation scores, as `side_of` collects it: test answers of
    each seed, trained with the choice of its study. `own` is [settings, items]: what an item is for one setting."""
    sd = probit(search.points)
    choices = [
        int(numpy.argmin(numpy.array(search.settings) + random.normal(0, search.validation, len(search.settings))))
        for _ in range(studies)
    ]
    cells, values = [], {}
    for place, seed in enumerate(seeds):
        choice = choices[place % studies]
        skill = float(norm.ppf(0.5 - search.settings[choice] / 100)) * math.sqrt(1 + ITEM**2 + OWN_ITEM**2 + sd**2)
        x = skill + difficulty + own[choice] + random.normal(0, sd)
        right = (random.random(len(x)) < norm.cdf(x)).astype(float)
        attempt = f"{label} {seed}"
        cells.append(
            CellRow(
                attempt, label, attempt, label, "", "m", "m", "t", ("t",), 32, seed, "", "done", "", attempt, False,
                scores=[StoredScore("t", "task", "acc", float(right.mean()), 0.04, len(x), True, None)],
                study=f"{label} study {place % studies}", study_status="done", tuned={"setting": choice},
            )
        )  # fmt: skip
        values[attempt] = dict(zip(DOCS, right.tolist(), strict=False))
    return side_of(label, cells, values)


def tuned_apart(random: Any, search: Search, studies: int, seeds: int, numbered: bool) -> bool:
    """Whether the same tuned procedure, run twice, is told apart from itself."""
    difficulty = random.normal(0, ITEM, TUNED_ITEMS)
    own = random.normal(0, OWN_ITEM, (len(search.settings), TUNED_ITEMS))
    numbers = [range(seeds), range(seeds) if numbered else range(100, 100 + seeds)]
    both = [
        tuned_side(random, label, search, studies, its, difficulty, own)
        for label, its in zip("ab", numbers, strict=True)
    ]
    (found,) = pairwise_verdicts(both, settle=False)
    return found.verdict in ("better", "worse")


def tuned(times: int) -> Iterator[Line]:
    """The same tuned procedure twice. With one study each, two settings are compared, and "told apart" is no error of
    the verdict, which says so. With several it is."""
    random = numpy.random.default_rng(5)
    for (name, search), numbered in product(SEARCHES.items(), (True, False)):
        for studies, seeds in ((1, 3), (1, 5), (2, 2), (3, 3), (5, 5), (3, 6)):
            apart = sum(tuned_apart(random, search, studies, seeds, numbered) for _ in range(times))
            which = "study" if studies == 1 else "studies"
            what = f"{name}, {studies} {which} of {seeds} seeds{'' if numbered else ', each its own'}: told apart"
            yield Line(what, apart / times, times, 0.0, 1.0 if studies == 1 else 0.072)


def cluster_sizes(kind: str, count: int, random: Any) -> Any:
    """The number of items of each cluster: five, or 1 to 9, or with a long tail (geometric, five on average)."""
    if kind == "of 5 items":
        return numpy.full(count, 5)
    return random.integers(1, 10, count) if kind == "of 1 to 9 items" else random.geometric(0.2, count)


def in_clusters(random: Any, sizes: Any, seeds: int, shares: Sequence[float]) -> list[Any]:
    """Right or wrong [seeds, items] of each method. What makes an item hard, for all and for one method, is correlated
    by `WITHIN` between the items of a cluster, and seeds scatter by a point."""
    of = numpy.repeat(numpy.arange(len(sizes)), sizes)

    def hard(sd: float) -> Any:
        shared, alone = random.normal(0, 1, len(sizes))[of], random.normal(0, 1, len(of))
        return sd * (math.sqrt(WITHIN) * shared + math.sqrt(1 - WITHIN) * alone)

    common, drawn = hard(ITEM), []
    sd = probit(1.0) if seeds > 1 else 0.0
    for share in shares:
        skill = float(norm.ppf(share)) * math.sqrt(1 + ITEM**2 + OWN_CLUSTERED**2 + sd**2)
        x = skill + common + hard(OWN_CLUSTERED) + sd * random.normal(0, 1, (seeds, 1))
        drawn.append((random.random(x.shape) < norm.cdf(x)).astype(float))
    return drawn


def clusters(times: int) -> Iterator[Line]:
    """Items in clusters: identical methods told apart, the interval of one score, and ties that are none. Twice as many
    draws, as the coverage has two bounds."""
    random = numpy.random.default_rng(5)
    times *= 2
    kinds = ("of 5 items", "of 1 to 9 items", "of sizes with a long tail")
    for kind, count, seeds in product(kinds, (20, 40, 100), (1, 3)):
        apart = covered = alone = 0
        for _ in range(times):
            sizes = cluster_sizes(kind, count, random)
            names = tuple(f"c{number}" for number in numpy.repeat(numpy.arange(count), sizes))
            rows = [tuple(map(tuple, values)) for values in in_clusters(random, sizes, seeds, (0.5, 0.5))]
            arms = [Arm(values, seeds > 1, tuple(range(seeds)), names) for values in rows]
            apart += compare_arms(*arms).p < 0.05
            alone += compare_arms(*(Arm(arm.values, arm.seeded, arm.seeds) for arm in arms)).p < 0.05
            side = Side(
                "m", "acc", True, DOCS[: len(names)], rows[0], seeds > 1, seeds=tuple(range(seeds)), clusters=names
            )
            low, high = interval_of(side, True)
            covered += low <= 0.5 <= high
        what = f"{count} clusters {kind}, {kind_of(seeds)}"
        yield Line(f"{what}: told apart", apart / times, times, 0.0, 0.072)
        yield Line(f"{what}: told apart as if items were independent", alone / times, times, 0.0, 1.0)
        yield Line(f"{what}: a score of 0.5 covered", covered / times, times, 0.93, 0.97)
    most = 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5
    for kind, share in product(kinds, (0.9, 0.98, 0.995)):
        tied = 0
        for _ in range(times):
            sizes = cluster_sizes(kind, 400, random)
            names = tuple(f"c{number}" for number in numpy.repeat(numpy.arange(400), sizes))
            drawn = in_clusters(random, sizes, 1, (share, share - MARGIN))
            tied += p_tied(compare_arms(*(Arm(values.tolist(), False, (), names) for values in drawn)), MARGIN) < 0.05
        yield Line(f"{share:g} and {share - MARGIN:g}, 400 clusters {kind}: tied", tied / times, times, 0.0, most)


@dataclass(frozen=True)
class World:
    """The true scores of a table's labels, with their spread between seeds in points. Of the first `collapsing`, each
    seed falls to `low` with a chance of `fall`; their true scores count that. `spread` draws the scores about `scores`,
    in points."""

    scores: tuple[float, ...]
    points: float
    seeds: int
    spread: float = 0.0
    collapsing: int = 0
    fall: float = 0.2
    low: float = 0.5
    told_apart: bool = True  # False: all are equally good, so that "the best" is no one


def table(random: Any, world: World) -> tuple[list[Candidate], list[float]]:
    """The candidates of a table, with the untouched model at `low`, and their true scores."""
    hard = random.normal(0, ITEM, ITEMS)
    candidates, truths = [], []
    for place, score in enumerate((world.low, *world.scores)):
        trained = place > 0
        true = min(max(score + trained * world.spread / 100 * random.normal(), 0.05), 0.97)
        falls = random.random(world.seeds) < (world.fall if 0 < place <= world.collapsing else 0.0)
        right = (
            answers(random, true, world.seeds, ITEMS, hard, world.points)
            if trained
            else answers(random, true, 1, ITEMS, hard)
        )
        if falls.any():
            right[falls] = answers(random, world.low, int(falls.sum()), ITEMS, hard, 1.0)
        collapses = world.fall if 0 < place <= world.collapsing else 0.0
        truths.append((1 - collapses) * true + collapses * world.low)
        candidates.append(
            Candidate(
                f"m{place:02d}" if trained else "base", n_train=32 * trained, seeds=len(right), metric="acc",
                score=float(right.mean()), stderr=0.03, values=tuple(map(tuple, right.tolist())), items=DOCS[:ITEMS],
                seeded=trained, seed_numbers=tuple(range(len(right))) if trained else (),
            )
        )  # fmt: skip
    return candidates, truths


LIKE, LEAD = (0.75,) * 8, (0.75,) * 11
WORLDS = {
    "12 equal labels, 3 seeds": World((0.75,) * 12, 2.0, 3, told_apart=False),
    "12 equal labels, 5 seeds": World((0.75,) * 12, 2.0, 5, told_apart=False),
    "one of 12 better by 3 points, 3 seeds": World((0.78, *LEAD), 2.0, 3),
    "one of 12 better by 3 points, 5 seeds": World((0.78, *LEAD), 2.0, 5),
    "one of 12 better by 5 points, 5 seeds": World((0.80, *LEAD), 2.0, 5),
    "one of 12 better by 8 points, 5 seeds": World((0.83, *LEAD), 2.0, 5),
    "8 labels about 2 points apart, 3 seeds": World(LIKE, 2.0, 3, spread=2.0),
    "8 labels about 2 points apart, 5 seeds": World(LIKE, 2.0, 5, spread=2.0),
    "8 labels about 5 points apart, 5 seeds": World(LIKE, 2.0, 5, spread=5.0),
    "2 of 8 collapse, 2 seeds": World((0.82, 0.82, *LIKE[:6]), STABLE, 2, collapsing=2),
    "2 of 8 collapse, 3 seeds": World((0.82, 0.82, *LIKE[:6]), STABLE, 3, collapsing=2),
    "2 of 8 collapse, 5 seeds": World((0.82, 0.82, *LIKE[:6]), STABLE, 5, collapsing=2),
}


def recommended(times: int) -> Iterator[Line]:
    """Row 6: how often what is said of an answer is true, and how far its score is off."""
    random = numpy.random.default_rng(6)
    for name, world in WORLDS.items():
        stated: list[tuple[float, bool]] = []
        within, high, raw = [], [], []
        for _ in range(times):
            candidates, truths = table(random, world)
            answer = rank_candidates(candidates)
            assert answer.first
            assert answer.expected
            assert answer.confidence
            chosen = [each.label for each in candidates].index(answer.first.candidate.label)
            within.append(answer.expected.low <= truths[chosen] <= answer.expected.high)
            high.append(answer.expected.value - truths[chosen])
            raw.append((answer.first.candidate.score or 0.0) - truths[chosen])
            stated.append((answer.confidence.best or 0.0, truths[chosen] >= max(truths)))
        yield Line(f"{name}: the stated score's interval holds the truth", sum(within) / times, times, 0.93, 1.0)
        yield Line(f"{name}: the measured mean of the chosen one is too high by", sum(raw) / times, times, -1.0, 1.0)
        yield Line(f"{name}: its stated score is too high by", sum(high) / times, times, -1.0, 1.0)
        for low, upper in ((0.8, 0.9), (0.9, 0.95), (0.95, 1.1)) if world.told_apart else ():
            right = [true for chance, true in stated if low <= chance < upper]
            if right:
                least = float(binom.ppf(0.01, len(right), low)) / len(right)
                what = f"{name}: stated {low:.0%} or more" + (f", below {upper:.0%}" if upper < 1 else "") + ": right"
                yield Line(what, sum(right) / len(right), len(right), least, 1.0)


PARTS: dict[str, Callable[[int], Iterator[Line]]] = {
    "scatter": scatter,
    "ties": ties,
    "scores": single_scores,
    "power": power,
    "answers": recommended,
    "tuned": tuned,
    "clusters": clusters,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=400)
    parser.add_argument("--only", choices=sorted(PARTS))
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    lines = []
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            began = time.perf_counter()
            for line in part(chosen.times):
                lines.append(line)
                print(
                    f"{'' if line.holds else 'NOT HELD  '}{line.what}: {100 * line.share:.1f}% of {line.of}", flush=True
                )
            print(f"-- {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if chosen.write:
        chosen.write.write_text(page(lines))
    return int(not all(line.holds for line in lines))


def page(lines: Sequence[Line]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    rows = [f"| {line.what} | {100 * line.share:.1f}% | {line.of} | {bounds(line)} |" for line in lines]
    when = f"on {time.strftime('%Y-%m-%d')} at commit {commit.strip()}"
    head = f"# Calibration\n\nWritten by `benchmarks/calibration.py` {when}.\n"
    return "\n".join([head, "| what | seen | of | must be |", "|---|---|---|---|", *rows, ""])


def bounds(line: Line) -> str:
    if line.least and line.most < 1:
        return f"{100 * line.least:.0f} to {100 * line.most:.0f}%"
    if line.least <= 0 and line.most >= 1:
        return ""
    return f"at least {100 * line.least:.0f}%" if line.least else f"at most {100 * line.most:.1f}%"


if __name__ == "__main__":
    sys.exit(main())
