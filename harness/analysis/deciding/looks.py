"""Looks at what is known while a suite is being decided: the answer as it stands, how sure it is, and what comes next.

A look is made after every cell. It names the answer: the label with the best mean. The suite is *settled* when the
bounds of `bounds.py`, which hold at all looks at once, say that nothing is better by more than the margin, and what
unseen falls may cost the answer (`stats.falls`) leaves it so too. Until then the `confidence` is the probability that
nothing is better by more than the margin by the draws of `stats.p_best`, as `tunebench recommend` states it.

The next step is the seed of a label that is expected to take most off the chances that a rival is better, for each
second that it takes. Labels of which nothing is known come first, the shortest first. Where the last cell of the suite
is not expected to settle it either (`reach`), further cells are not worth their seconds: the answer is then what is
known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.deciding.bounds import Bounds, find_bounds
from harness.analysis.deciding.evidence import Evidence
from harness.analysis.deciding.forecast import fall_risk, forecast, gains, rival_chances
from harness.analysis.stats.contrast import compare_arms, decide
from harness.analysis.stats.p_best import best_chances, leads
from harness.analysis.stats.power import Need

HOPELESS = 0.05  # with a smaller chance that the whole suite settles it, it is said to be out of reach
LIKELY = 0.05  # a rival whose chance of being better by more than the margin is at least this is run with two seeds
TINY = 1e-9

State = Literal["settled", "open", "exhausted", "out of reach"]


@dataclass(frozen=True)
class Step:
    """A cell that may run next: a further seed of `label`, its `seed`-th (from 0). `seconds` are expected, with those
    of the cells that it needs first. `gain` is by how much it is expected to lower the chances, summed over all rivals,
    that a rival is better than the answer by more than the margin; infinite for a label of which nothing is known."""

    label: str
    seed: int
    seconds: float
    gain: float

    @property
    def value(self) -> float:
        """The gain for each second."""
        return self.gain / max(self.seconds, TINY)

    @property
    def order(self) -> tuple[float, str]:
        """Sort key: the most valuable first, and among steps of equal value the shortest."""
        return (-self.value if self.gain < math.inf else self.seconds, self.label)


@dataclass(frozen=True)
class Look:
    """The answer as it stands. `answer` is "" before any label can be it. `confidence` is the probability that nothing
    is better than the answer by more than the margin, None where it cannot be stated: a label was not tried, or the
    answer varies with its seed and was run with one. `chances` maps labels to the probability of being the best,
    `seeds` to how many seeds have ended. `out` maps labels that are shown to be worse to the label that shows it.
    `reach` is the chance that the whole suite would settle it, None where it is not known yet. `steps` are what may run
    next, the best first."""

    state: State
    answer: str
    confidence: float | None
    chances: Mapping[str, float]
    seeds: Mapping[str, int]
    out: Mapping[str, str]
    settled: tuple[str, ...]
    reach: float | None
    steps: tuple[Step, ...]

    @property
    def rivals(self) -> tuple[str, ...]:
        """The labels that may be the best, with a chance of one in twenty or more, the likeliest first."""
        likely = [label for label, chance in self.chances.items() if chance >= LIKELY]
        return tuple(sorted(likely, key=lambda label: (-self.chances[label], label)))


def take_look(
    evidence: Evidence,
    seconds: Mapping[str, float],
    sure: float,
    running: Mapping[str, int] | None = None,
    chances: bool = True,
    seed: int = 0,
) -> Look:
    """Returns the look at what is known. `seconds` maps each label to the expected seconds of its next cell, with those
    of what this needs first; labels that are missing cannot run now. `sure` is the confidence that was asked for,
    `running` maps labels to how many cells of them run now. Without `chances`, which take far longer than the rest,
    `confidence` is None and `chances` empty. `seed` is that of the draws."""
    running = running or {}
    limits = find_bounds(evidence, sure)
    out = {label: limits.labels[limits.behind[place]] for place, label in enumerate(limits.labels) if limits.out[place]}
    untried = [each for each in evidence.fitting if not each.values]
    settled = tuple(
        label for label in limits.labels
        if not untried and limits.settled(label) and fall_risk(evidence, label) <= 1 - sure + TINY
    )  # fmt: skip
    answer = leader(evidence, settled)
    steps = tuple(next_steps(evidence, seconds, limits, answer, sure, running))
    reach = None
    if answer and not untried and repeated_enough(evidence, limits, answer):
        reach = forecast(evidence, limits, sure, seed).reach
    state: State = "open"
    if settled or (len(evidence.fitting) == 1 and not untried):
        state = "settled"
    elif not any(each.open and each.label not in out for each in evidence.fitting):
        state = "exhausted"
    elif reach is not None and reach < HOPELESS:
        state = "out of reach"
    elif not steps and not any(running.values()):
        state = "exhausted"
    known = chances and answer and not untried  # nothing says how good a label is that was not tried
    found = confidence_in(evidence, answer, settled, sure, seed) if known else Stated(None, {})
    return Look(
        state, answer, found.confidence, found.chances,
        {each.label: len(each.values) for each in evidence.fitting}, out, settled, reach, steps,
    )  # fmt: skip


def leader(evidence: Evidence, settled: Sequence[str] = ()) -> str:
    """Returns the label with the best mean among those that are known over two seeds (or need none), or among all while
    there is none; among the `settled` ones where there are some. "" before the first cell."""
    tried = [each for each in evidence.tried if not settled or each.label in settled]
    known = [each for each in tried if each.repeated] or tried
    return max(known, key=lambda each: (evidence.merit(each), each.label)).label if known else ""


@dataclass(frozen=True)
class Stated:
    """The `confidence` that nothing is better than the answer by more than the margin (None where it cannot be stated),
    and the `chances` of being the best, by label."""

    confidence: float | None
    chances: Mapping[str, float]


def confidence_in(evidence: Evidence, label: str, settled: Sequence[str], sure: float, seed: int = 0) -> Stated:
    """Returns how sure it is that nothing is better than `label` by more than the margin, as `stated` does: at least
    `sure` where it is `settled` for the label, and else no more."""
    found = stated(evidence, label, seed)
    if label in settled:
        # The draws know the spread of a label from its own seeds alone, and are then wider than the bounds.
        return replace(found, confidence=max(found.confidence or 0.0, sure))
    return replace(found, confidence=None if found.confidence is None else min(found.confidence, sure))


def stated(evidence: Evidence, answer: str, seed: int = 0) -> Stated:
    """Returns how sure the `answer` is, by draws of the differences (`p_best.leads`). Labels that were run with one
    seed borrow the spread of others, and count. While the answer itself was, nothing is stated."""
    runners = evidence.runners
    if not runners[answer].repeated:
        return Stated(None, {})
    if len(runners) == 1:
        return Stated(1.0, {answer: 1.0})
    ahead = leads(answer, runners, seed, evidence.floor)
    lead = ahead.draws.max(axis=1)
    everything = replace(ahead, once=frozenset())
    return Stated(float((lead <= evidence.margin + TINY).mean()), best_chances(answer, everything))


def next_steps(
    evidence: Evidence,
    seconds: Mapping[str, float],
    limits: Bounds,
    answer: str,
    sure: float,
    running: Mapping[str, int],
) -> list[Step]:
    """Returns the cells that may run next, the most valuable first: labels of which nothing is known, the shortest
    first, then further seeds by their gain for each second. Labels that are out, and those that the bounds settle
    against the answer, have none."""
    found = gains(evidence, limits, answer, sure, running) if answer else {}
    steps = []
    for each in evidence.fitting:
        number = len(each.values) + running.get(each.label, 0)
        gain = found.get(each.label) if each.values else math.inf
        if gain is not None and each.label in seconds and number < (each.most if each.seeded else 1):
            # A second seed of a label of which nothing is known yet waits for the first seeds of the others.
            gain = gain if not number or each.values else 0.0
            steps.append(Step(each.label, number, seconds[each.label], gain))
    return sorted(steps, key=lambda step: (step.gain < math.inf, *step.order))


def repeated_enough(evidence: Evidence, limits: Bounds, answer: str) -> bool:
    """Whether a forecast of the whole suite can be trusted: the answer, and each rival that is left and may well be
    better than it by more than the margin, are known over two seeds."""
    behind = rival_chances(evidence, answer)
    left = {label for place, label in enumerate(limits.labels) if not limits.out[place]}
    counted = {answer, *(label for label, chance in behind.items() if chance >= LIKELY and label in left)}
    return all(each.repeated or not each.open for each in evidence.tried if each.label in counted)


def what_it_takes(evidence: Evidence, look: Look, sure: float) -> tuple[str, Need] | None:
    """Returns (the rival that is most likely better than the answer by more than the margin, the seeds or items with
    which a tie of the two within the margin would be shown four times out of five, if they are alike). None where no
    rival can be compared."""
    runners = evidence.runners
    if look.answer not in runners or not runners[look.answer].repeated:
        return None
    behind = rival_chances(evidence, look.answer)
    left = [label for label in behind if label not in look.out and runners[label].repeated]
    arm = runners[look.answer].arm
    if not left or arm is None:
        return None
    rival = max(left, key=lambda label: (behind[label], label))
    other = runners[rival].arm
    assert other is not None
    found = decide(
        compare_arms(other, arm), evidence.margin, p=1.0, p_within=1.0, alpha=1 - sure, pairs=len(evidence.labels) - 1,
        higher_is_better=evidence.higher_is_better,
    )  # fmt: skip
    return (rival, found.to_tie) if found.to_tie else None
