"""How many cells `tunebench decide` needs, and how often it is wrong, in worlds whose truth is known.

    python benchmarks/deciding.py [--times 1000] [--jobs 2] [--only NAME] [--write docs/deciding.md]

A world has 8 labels, up to 5 seeds of each, and 200 items. Answers are right with probability Phi(x), x = skill +
item + label x item + seed, all normal, as in benchmarks/calibration.py. A label that collapses is right a quarter of
the time under the seeds in which it does. What decides is what `decide` calls, with one second for each cell. The full
grid is judged by the same bounds.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from scipy.stats import norm

from harness.analysis.deciding import Evidence, LabelEvidence, find_bounds, take_look
from harness.records import MARGIN

LABELS, SEEDS, ITEMS = tuple("abcdefgh"), 5, 200
ITEM, OWN_ITEM = 1.0, 0.5  # standard deviations on the probit scale
BEGIN, END = "<!-- figures of benchmarks/deciding.py -->", "<!-- end of figures -->"
HEADERS = (
    "world", "cells", "settled: decide / full grid", "cells where settled", "settled and wrong",
    "confidence: decide / full grid", "wrong: decide / full grid",
)  # fmt: skip
BINS = ((0.8, 0.9), (0.9, 0.95), (0.95, 1.01))


@dataclass(frozen=True)
class World:
    """`lead` is by how much the first label is better than the others, in margins. `points` are the standard deviations
    of the labels between seeds, in points of the score. The first `collapsing` labels are better by `lucky` where they
    do not collapse, which they do in a fifth of their seeds. With `graded` a value is the chance of a right answer, not
    an answer: the items then say far more."""

    name: str
    lead: float = 0.0
    points: tuple[float, ...] = (0.7,) * len(LABELS)
    collapsing: int = 0
    lucky: float = 0.04
    graded: bool = False
    margin: float = MARGIN
    share: int = 4  # one of so many of the times is simulated


WORLDS = (
    World("all alike", share=1),
    World("one better by the margin", 1.0, share=1),
    World("one better by twice the margin", 2.0, share=1),
    World("2 of 8 collapse in a fifth of seeds", collapsing=2, share=1),
    World("one better by five margins", 5.0, share=1),
    World("all collapse in a fifth of seeds", collapsing=8),
    World("2 of 8 vary by 8.6 points", 1.0, (8.6, 0.7, 0.7, 8.6, 0.7, 0.7, 0.7, 0.7)),
    World("all alike, graded items", graded=True),
    World("one better by the margin, graded items", 1.0, graded=True),
    World("one better by twice the margin, graded items", 2.0, graded=True),
    World("2 of 8 collapse, graded items", collapsing=2, graded=True),
)
BEST = (  # worlds in which the first label is the best by a hair more than the margin: bounds may be wrong about it
    World("the best varies as the others do", 1.0),
    World("the best varies by 8.6 points", 1.0, (8.6, *(0.7,) * 7)),
    World("the best and another vary by 8.6 points", 1.0, (8.6, 0.7, 0.7, 8.6, *(0.7,) * 4)),
    World("the best varies by 8.6 points, graded items", 1.0, (8.6, *(0.7,) * 7), graded=True),
    World("the best and another vary by 8.6 points, graded items", 1.0, (8.6, 0.7, 0.7, 8.6, *(0.7,) * 4), graded=True),
)


def draw(world: World, random: Any) -> tuple[Any, Any]:
    """Returns (values [labels, seeds, items], true scores [labels]) of a world."""
    truth = numpy.full(len(LABELS), 0.6)
    truth[0] += world.lead * world.margin
    spread = numpy.array(world.points) / 100 / (norm.pdf(0) / math.sqrt(1 + ITEM**2 + OWN_ITEM**2))
    scale = numpy.sqrt(1 + ITEM**2 + OWN_ITEM**2 + spread**2)
    well = truth.copy()
    well[: world.collapsing] += world.lucky if world.collapsing < len(LABELS) else 0.0
    shape = (len(LABELS), SEEDS, ITEMS)
    x = (norm.ppf(well) * scale)[:, None, None] + random.normal(0, ITEM, ITEMS)
    x = (
        x
        + random.normal(0, OWN_ITEM, (len(LABELS), 1, ITEMS))
        + random.normal(0, 1, shape[:2])[:, :, None] * spread[:, None, None]
    )
    right = norm.cdf(x)
    falls = random.random((world.collapsing, SEEDS)) < 0.2
    right[: world.collapsing][falls] = 0.25
    truth[: world.collapsing] = 0.8 * well[: world.collapsing] + 0.2 * 0.25
    return (right if world.graded else (random.random(shape) < right).astype(float)), truth


class Known:
    """What is known of a world's labels: `values` are [labels, seeds, items]."""

    def __init__(self, values: Any, margin: float):
        self.margin = margin
        self.labels = [
            [LabelEvidence(label, its[:count].tolist(), SEEDS) for count in range(SEEDS + 1)]
            for label, its in zip(LABELS, values, strict=True)
        ]

    def of(self, seeds: Sequence[int]) -> Evidence:
        """Returns the evidence of so many seeds of each label."""
        return Evidence(tuple(its[count] for its, count in zip(self.labels, seeds, strict=True)), self.margin)


@dataclass(frozen=True)
class Outcome:
    """How a world was decided: the cells it took, whether it was settled, the confidence, whether the answer is worse
    than the best by more than the margin; and the same of the full grid."""

    cells: int
    settled: bool
    confidence: float
    wrong: bool
    full_settled: bool
    full_confidence: float
    full_wrong: bool


def decide(world: World, number: int, sure: float = 0.95) -> Outcome:
    """Decides one world, from one seed of each label on."""
    values, truth = draw(world, numpy.random.default_rng([7, number]))
    known = Known(values, world.margin)
    seconds = dict.fromkeys(LABELS, 1.0)
    seeds = [1] * len(LABELS)
    while True:
        look = take_look(known.of(seeds), seconds, sure, chances=False)
        if look.state != "open":
            break
        seeds[LABELS.index(look.steps[0].label)] += 1
    ends = [take_look(known.of(counts), {}, sure) for counts in (seeds, [SEEDS] * len(LABELS))]

    def wrong(label: str) -> bool:
        return bool(truth.max() - truth[LABELS.index(label)] > world.margin + 1e-9)

    return Outcome(
        sum(seeds), bool(ends[0].settled), ends[0].confidence or 0.0, wrong(ends[0].answer),
        bool(ends[1].settled), ends[1].confidence or 0.0, wrong(ends[1].answer),
    )  # fmt: skip


def is_wrong(world: World, number: int) -> bool:
    """Whether the bounds of all looks at once say something false about the first label, which is the best."""
    values, _ = draw(
        World(world.name, world.lead + 1e-4, world.points, graded=world.graded), numpy.random.default_rng([8, number])
    )
    limits = find_bounds(Known(values, world.margin).of([SEEDS] * len(LABELS)), 0.95)
    return bool(limits.out[0] or limits.within[0, 1:].any())


def percent(count: float, of: float) -> str:
    return f"{100 * count / of:.1f}%" if of else "n/a"


def row(world: World, outcomes: Sequence[Outcome]) -> str:
    """A line of the table of worlds."""
    n, grid = len(outcomes), len(LABELS) * SEEDS
    settled = [one for one in outcomes if one.settled]
    cells = float(numpy.median([one.cells for one in outcomes])) / grid
    return "| " + " | ".join([
        world.name,
        f"{cells:.0%}",
        f"{percent(len(settled), n)} / {percent(sum(one.full_settled for one in outcomes), n)}",
        f"{float(numpy.median([one.cells for one in settled])) / grid:.0%}" if settled else "n/a",
        percent(sum(one.wrong for one in settled), n),
        f"{numpy.mean([one.confidence for one in outcomes]):.0%} / "
        f"{numpy.mean([one.full_confidence for one in outcomes]):.0%}",
        f"{percent(sum(one.wrong for one in outcomes), n)} / {percent(sum(one.full_wrong for one in outcomes), n)}",
    ]) + " |"  # fmt: skip


def calibration(name: str, outcomes: Sequence[Outcome]) -> str:
    """A line of the table of stated confidences."""
    texts = []
    for low, high in BINS:
        stated = [one for one in outcomes if low - 1e-9 <= one.confidence < high - 1e-9]
        texts.append(f"{percent(sum(not one.wrong for one in stated), len(stated))} of {len(stated)}")
    return f"| {name} | {' | '.join(texts)} |"


def figures(times: int, jobs: int, only: str) -> str:
    """Runs the simulations and returns their tables as Markdown."""
    began = time.monotonic()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [f"| {' | '.join(HEADERS)} |", "|" + "---|" * len(HEADERS)]
    bins, everything = [], []
    with ProcessPoolExecutor(jobs) as pool:
        for world in WORLDS:
            if only in world.name:
                count = max(times // world.share, 1)
                outcomes = list(pool.map(decide, [world] * count, range(count), chunksize=20))
                everything += outcomes
                lines.append(row(world, outcomes))
                bins.append(calibration(world.name, outcomes))
                print(lines[-1], bins[-1], f"{time.monotonic() - began:.0f} s", sep="\n", flush=True)
        bounds = []
        for world in BEST:
            if only in world.name:
                found = list(pool.map(is_wrong, [world] * times, range(times), chunksize=20))
                bounds.append(f"| {world.name} | {percent(sum(found), times)} |")
                print(bounds[-1], flush=True)
    lines += ["", "| stated | 80 to 90%: right | 90 to 95%: right | 95%: right |", "|---|---|---|---|", *bins]
    lines += [calibration("all of these", everything)]
    lines += ["", "| bounds of 95%, all looks of the full grid at once | wrong about the best |", "|---|---|", *bounds]
    lines += [
        "",
        f"{times:,} worlds each, after the fifth {times // 4:,}; {time.strftime('%Y-%m-%d')}, commit {commit}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="worlds whose names hold this text")
    parser.add_argument("--write", type=Path, help="a page whose figures are replaced")
    options = parser.parse_args()
    text = figures(options.times, options.jobs, options.only)
    if options.write:
        page = options.write.read_text()
        before, rest = page.split(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
