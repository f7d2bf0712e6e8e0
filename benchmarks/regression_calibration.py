"""How often two environments are told apart wrongly, and how often a change is found, in worlds whose truth is known.

    python benchmarks/regression_calibration.py [--times 300] [--only scores|costs|steps] [--write FILE]

Scores: 8 labels, 200 items that all share, some seeds. Every cell comes out differently in the new environment, as
another rounding makes another model: its items flip, and its score moves by as much as the label varies between seeds
(0.7 points, or 8.6 of an unstable one). Costs: 6 labels of two cells, repeated in turn, on a machine that drifts, that
somebody else disturbs for a while, or whose labels vary by different amounts. What is called is what `tunebench`
calls.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
from scipy.stats import norm

from harness.analysis.regression import MetricChanges, cost_changes, matched_cells, score_changes
from harness.analysis.regression.steps import find_steps
from harness.store import CellRow, ItemAnswer, ItemValues, StoredScore

ITEM, OWN_ITEM = 1.0, 0.5  # standard deviations on the probit scale
MIDDLE = 0.3  # so that about 60% are right
UNSTABLE, STABLE = 8.6, 0.7  # points of the score between seeds
START = datetime(2026, 1, 1, tzinfo=UTC)
Rows = tuple[list[CellRow], list[CellRow]]


@dataclass(frozen=True)
class Line:
    """One figure of the table: what it is of, how often it was seen, of how many worlds, and the most it may be (None:
    a power, which is only told)."""

    what: str
    share: float
    of: int
    most: float | None = None

    @property
    def holds(self) -> bool:
        return self.most is None or self.share <= self.most + 2 * math.sqrt(self.most * (1 - self.most) / self.of)


def probit(points: float) -> float:
    """A difference of so many points of the score, about a score of 60%, on the probit scale."""
    spread = math.sqrt(1 + ITEM**2 + OWN_ITEM**2)
    return points / 100 / float(norm.pdf(MIDDLE / spread)) * spread


def row(label: str, cell: str, side: int, repeat: int = 0, **more: Any) -> CellRow:
    values: dict[str, Any] = {
        "key": f"{label}/{cell}", "label": label, "spec_digest": f"{label}-{cell}", "method": label, "family": "",
        "model": "m", "base_model": "m", "task": "t", "learn": ("t",), "n_train": 32, "seed": int(cell),
        "baseline": "", "status": "done", "reason": "", "attempt_id": f"{side}-{label}-{cell}-{repeat}",
        "contended": False, **more,
    }  # fmt: skip
    return CellRow(**values)


# --- scores ---


@dataclass(frozen=True)
class Labels:
    """A world of scores. `flips`: the standard deviation, on the probit scale, of what rounding does to one item: 0.1
    flips about 4% of the answers, 0.3 about 11%. `shift` in points is that of all labels, or of those in `moved`."""

    labels: int = 8
    seeds: int = 2
    items: int = 200
    unstable: int = 0
    flips: float = 0.3
    shift: float = 0.0
    moved: tuple[int, ...] = ()
    quiet: bool = False  # only the labels in `moved` come out differently at all

    def draw(self, random: Any) -> MetricChanges:
        rows: Rows = ([], [])
        values, digests = {}, {}
        hard = random.normal(MIDDLE, ITEM, self.items)
        for label in range(self.labels):
            own = random.normal(0, OWN_ITEM, self.items)
            spread = probit(UNSTABLE if label < self.unstable else STABLE)
            fixed = random.normal(0, 1, self.items)  # one answer to each item, for labels that are left alone
            for seed in range(self.seeds):
                start = random.normal(0, spread)
                for side in (0, 1):
                    moved = side and (not self.moved or label in self.moved)
                    still = self.quiet and label not in self.moved
                    noise = 0.0 if still else random.normal(0, spread) + random.normal(0, self.flips, self.items)
                    limit = probit(self.shift) if moved else 0.0
                    right = hard + own + start + fixed + noise - limit > 0
                    score = StoredScore("t", "task", "acc", float(right.mean()), 0.04, self.items, True, None)
                    made = row(f"m{label}", str(seed), side, scores=[score])
                    rows[side].append(made)
                    answers = {f"{place:04}": ItemAnswer(float(v), "", "") for place, v in enumerate(right)}
                    values[made.attempt_id, "t", "acc"] = ItemValues(answers)
                    digests[made.attempt_id] = right.tobytes().hex()
        (found,) = score_changes(matched_cells(*rows)[0], values, digests)
        return found


def of_scores(times: int, random: Any) -> Iterator[Line]:
    for what, world in (
        ("8 stable labels, 2 seeds", Labels()),
        ("8 stable labels, 1 seed", Labels(seeds=1)),
        ("8 stable labels, 3 seeds", Labels(seeds=3)),
        ("one of 8 labels unstable, 2 seeds", Labels(unstable=1)),
        ("one of 8 labels unstable, 3 seeds", Labels(unstable=1, seeds=3)),
        ("three of 8 labels unstable, 2 seeds", Labels(unstable=3)),
        ("four labels, one unstable, 2 seeds", Labels(labels=4, unstable=1)),
        ("one unstable label alone comes out differently, 2 seeds", Labels(unstable=1, moved=(0,), quiet=True)),
    ):
        found = [world.draw(random) for _ in range(times)]
        yield Line(f"nothing changed: {what}: anything told apart", share(found, any_different), times, 0.05)
    for what, world in (
        ("of 1.5 points, 8 labels, 200 items, 2 seeds, 4% of answers flip", Labels(shift=1.5, flips=0.1)),
        ("of 1.5 points, 8 labels, 200 items, 2 seeds, 11% of answers flip", Labels(shift=1.5)),
        ("of 2 points, 8 labels, 200 items, 2 seeds, 4% of answers flip", Labels(shift=2, flips=0.1)),
        ("of 1.5 points, 8 labels, 800 items, 2 seeds, 4% of answers flip", Labels(shift=1.5, flips=0.1, items=800)),
        (
            "of 1.5 points, 8 labels (one unstable), 200 items, 2 seeds, 4% flip",
            Labels(shift=1.5, flips=0.1, unstable=1),
        ),
    ):
        found = [world.draw(random) for _ in range(times)]
        yield Line(f"common shift {what}: found", share(found, everything), times)
        yield Line(f"common shift {what}: shown by a single cell", share(found, any_cell), times)
    one = (3,)
    for what, world in (
        ("10 points, others identical, 1 seed", Labels(shift=10, moved=one, seeds=1, quiet=True)),
        ("10 points, others identical, 2 seeds", Labels(shift=10, moved=one, quiet=True)),
        ("20 points, all come out differently, 3 seeds", Labels(shift=20, moved=one, seeds=3)),
        ("20 points, all come out differently, 5 seeds", Labels(shift=20, moved=one, seeds=5)),
    ):
        found = [world.draw(random) for _ in range(times)]
        yield Line(f"one label moved by {what}: named", share(found, only_label), times)


def share(found: Sequence[MetricChanges], shows: Callable[[MetricChanges], bool]) -> float:
    return sum(map(shows, found)) / len(found)


def any_different(found: MetricChanges) -> bool:
    return any(change.answer == "different" for change in found.changes)


def any_cell(found: MetricChanges) -> bool:
    return any(change.answer == "different" for change in found.cells)


def everything(found: MetricChanges) -> bool:
    return found.pattern.shape in ("everything", "everything but")


def only_label(found: MetricChanges) -> bool:
    return found.pattern.shape == "only" and all(name.startswith("m3") for name in found.pattern.labels)


# --- costs ---


@dataclass(frozen=True)
class Session:
    """A world of times: cells repeated in turn, each cell by itself or all in sweeps. `drift` is a logarithm over the
    session; `stretch` attempts in a row run on a machine 30% slower; `step` is a logarithm by which the machine changes
    at a random moment; `uneven`: one label varies four times as much. `speed`: the machine's speed is measured."""

    labels: int = 6
    cells: int = 2
    repeats: int = 3
    noise: float = 0.02
    drift: float = 0.0
    stretch: int = 0
    step: float = 0.0
    uneven: bool = False
    sweeps: bool = False
    speed: bool = True
    factor: float = 1.0
    moved: tuple[int, ...] = ()
    unit: str = "seconds"

    def draw(self, random: Any) -> MetricChanges:
        rows: Rows = ([], [])
        names = [(label, cell) for label in range(self.labels) for cell in range(self.cells)]
        turns = [(repeat, side) for repeat in range(self.repeats) for side in (0, 1)]
        plan = [(name, *turn) for name in names for turn in turns]
        if self.sweeps:
            plan = [(name, *turn) for turn in turns for name in names]
        slow = numpy.linspace(0, self.drift, len(plan))
        if self.stretch:
            at = random.integers(0, len(plan) - self.stretch)
            slow[at : at + self.stretch] += math.log(1.3)
        if self.step:
            slow[random.integers(1, len(plan)) :] += self.step
        usual = {name: random.uniform(2, 4) for name in names}
        for place, ((label, cell), repeat, side) in enumerate(plan):
            noise = self.noise * (4 if self.uneven and label == 0 else 1)
            log = usual[label, cell] + 0.8 * slow[place] + random.normal(0, noise)
            log += math.log(self.factor) if side and label in self.moved else 0.0
            speeds = [1e11 * math.exp(-slow[place] + random.normal(0, 0.005)) for _ in range(2)]
            names_of = ("machine_speed_before", "machine_speed_after")
            rows[side].append(
                row(
                    f"m{label}",
                    str(cell),
                    side,
                    repeat,
                    started=START + timedelta(seconds=60 * place),
                    phases={"train": {self.unit: math.exp(log)}},
                    facts=dict(zip(names_of, speeds, strict=True)) if self.speed and self.unit == "seconds" else {},
                )
            )
        (found,) = cost_changes(matched_cells(*rows)[0], {}, [f"train_{self.unit}"])
        return found


def of_costs(times: int, random: Any) -> Iterator[Line]:
    for sweeps in (False, True):
        for repeats in (2, 3):
            for what, more in (
                ("a quiet machine", {}),
                ("a drift of 10%", {"drift": 0.1}),
                ("a drift of 20%, not measured", {"drift": 0.2, "speed": False}),
                ("a stretch 30% slower", {"stretch": 4}),
                ("a stretch 30% slower, not measured", {"stretch": 4, "speed": False}),
                ("a step of 8%", {"step": 0.08}),
                ("a step of 20%, not measured", {"step": 0.2, "speed": False}),
                ("one label four times as uneven", {"uneven": True}),
                ("5% noise", {"noise": 0.05}),
            ):
                world = Session(repeats=repeats, sweeps=sweeps, **more)  # type: ignore[arg-type]
                found = [world.draw(random) for _ in range(times)]
                order = "in sweeps" if sweeps else "cell by cell"
                yield Line(
                    f"times, nothing changed: {what}, {repeats} repeats {order}: anything told apart",
                    share(found, any_different), times, 0.05,
                )  # fmt: skip
    three = tuple(range(6))
    for what, world in (
        ("one label 20% slower, 2 repeats", Session(repeats=2, factor=1.2, moved=(3,))),
        ("one label 20% slower, 3 repeats", Session(factor=1.2, moved=(3,))),
        ("one label 20% slower, 3 repeats, drift and stretch", Session(factor=1.2, moved=(3,), drift=0.1, stretch=4)),
    ):
        found = [world.draw(random) for _ in range(times)]
        yield Line(f"times: {what}: named", share(found, only_label), times)
    found = [Session(factor=1.1, moved=three).draw(random) for _ in range(times)]
    yield Line("times: everything 10% slower, 3 repeats: found", share(found, everything), times)
    memory = Session(noise=0.003, factor=1.1, moved=(3,), repeats=2, unit="rss_bytes")
    found = [memory.draw(random) for _ in range(times)]
    yield Line("memory: one label 10% more, 2 repeats: named", share(found, only_label), times)
    found = [Session(noise=0.003, repeats=2, unit="rss_bytes").draw(random) for _ in range(times)]
    yield Line("memory, nothing changed, 2 repeats: anything told apart", share(found, any_different), times, 0.05)


# --- steps of series ---


def of_steps(times: int, random: Any) -> Iterator[Line]:
    for points in (5, 8, 12, 20, 40):
        none = [bool(find_steps(random.normal(0, 1, points))) for _ in range(times)]
        yield Line(f"series of {points} without a step: a step told", sum(none) / times, times, 0.05)
        for size in (3, 5, 10):
            half = points // 2
            levels = numpy.repeat([0.0, float(size)], [half, points - half])
            steps = [find_steps(levels + random.normal(0, 1, points)) for _ in range(times)]
            there = sum(len(one) == 1 and one[0].first <= half <= one[0].last for one in steps) / times
            yield Line(f"series of {points} with a step of {size} standard deviations: found there", there, times)


PARTS: dict[str, Callable[[int, Any], Iterator[Line]]] = {"scores": of_scores, "costs": of_costs, "steps": of_steps}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=300)
    options.add_argument("--only", choices=list(PARTS), action="append")
    options.add_argument("--write", type=Path, help="a file to write the table to")
    given = options.parse_args()
    began = time.monotonic()
    table = ["| what | seen | of | at most |", "|---|---|---|---|"]
    failed = 0
    for name in given.only or PARTS:
        for line in PARTS[name](given.times, numpy.random.default_rng(17)):
            most = "" if line.most is None else f"{line.most:.0%}"
            table.append(f"| {line.what} | {line.share:.1%} | {line.of} | {most} |")
            failed += not line.holds
            print(table[-1], flush=True)
    print(f"{time.monotonic() - began:.0f} s; {failed} above what they may be")
    if given.write:
        given.write.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
