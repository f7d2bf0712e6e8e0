"""Runs `tunebench decide`, and puts what it found into words: the line below the live table, and the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.cli.display import clock_text, say
from harness.cli.verdict_text import enough, listed
from harness.errors import StoreError, counted

if TYPE_CHECKING:
    from harness.analysis import Prices, Wishes
    from harness.execute import Decider, Decision, Race
    from harness.plan import Plan
    from harness.records import Environment
    from harness.report import Recommendation
    from harness.store import Store

MOST_RIVALS = 3  # labels that the line of a look names
LIMITS = ("memory", "latency", "forgetting", "budget")


@dataclass(frozen=True)
class LimitJudge:
    """Says which labels of a race break a limit, as early as a prediction or one cell shows it. `reprice` makes the
    prices of those that are assumed for the device; `environment` is the one that cells run in."""

    plan: Plan
    store: Store
    environment: Environment
    wishes: Wishes
    reprice: Callable[[Prices], Prices]

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        wishes = self.wishes
        given = (wishes.memory, wishes.max_forgetting, wishes.latency_ms, wishes.budget)
        return any(limit is not None for limit in given)

    def __call__(self, race: Race) -> dict[str, str]:
        """Returns label -> the limits that it breaks, in words."""
        if not self.limited:
            return {}
        return {**self.predicted(race), **self.measured(race)}

    def predicted(self, race: Race) -> dict[str, str]:
        """Returns label -> its predicted memory, where that is above the limit."""
        from harness.execute import memory_predictor
        from harness.records import quantity

        if self.wishes.memory is None:
            return {}
        found = {}
        predicted = memory_predictor(self.plan.facts, self.environment)
        for label, cells in race.cells.items():
            counted = predicted(cells[0])
            if counted and counted.needed > self.wishes.memory:
                most = quantity(self.wishes.memory, "B")
                found[label] = f"predicted memory: {quantity(counted.needed, 'B')}, more than {most}"
        return found

    def measured(self, race: Race) -> dict[str, str]:
        """Returns label -> what was measured of it beyond a limit. A figure whose interval reaches within the limit
        does not count yet."""
        from harness.report import advice

        recommendation = answer_of(self.store, self.plan, race, self.wishes, self.reprice)
        if recommendation is None:
            return {}
        answer, found = recommendation.answer, {}
        for out in answer.ruled_out:
            broken = [
                advice.reason(why, answer.prices)
                for why in out.reasons
                if why.limit in LIMITS and why.value is not None and why.reach is None
            ]
            if broken:
                found[out.candidate.label] = "; ".join(broken)
        return found


def answer_of(
    store: Store,
    plan: Plan,
    race: Race,
    wishes: Wishes,
    reprice: Callable[[Prices], Prices],
    among: Iterable[str] = (),
) -> Recommendation | None:
    """Returns what `recommend` says of a race by what is stored now; None where nothing has been scored."""
    from harness.report import load, prices_of, questions, recommendations

    report = load(store, plan.suite.name)
    try:
        asked = questions(report, race.n_train or None, race.task, race.model, wishes.margin)
    except StoreError:
        return None
    asked = [
        replace(one, candidates=tuple(each for each in one.candidates if each.label in race.cells)) for one in asked
    ]
    found = recommendations(asked, wishes, reprice(prices_of(report)), tuple(among))
    return found[0] if found else None


def look_line(decider: Decider) -> str:
    """Returns the answer as it stands, a part for each race: "lora or setfit; 71% setfit; next: lora seed 2, 40 s"."""
    parts = [text for decision in decider.decisions if (text := decision_line(decision))]
    return "  |  ".join(parts)


def decision_line(decision: Decision) -> str:
    """Returns how a race stands, in a line; "" before its first look."""
    from harness.report import advice

    look = decision.look
    if look is None:
        return ""
    parts = []
    tried = [label for label, count in look.seeds.items() if count]
    if not tried:
        parts.append("nothing is known yet")
    elif len(tried) < len(look.seeds):
        parts.append(f"{len(tried)} of {len(look.seeds)} labels tried, {look.answer} leads")
    elif not look.chances:
        parts.append(f"{look.answer} leads, by one seed alone")
    else:
        named, more = look.rivals[:MOST_RIVALS], len(look.rivals) - MOST_RIVALS
        parts.append(" or ".join(named) + (f" or {more} more" if more > 0 else ""))
        parts.append(f"{advice.percent(look.chances[named[0]])} {named[0]}")
    if decision.reason:
        parts.append(decision.reason)
    elif decision.next_key:
        parts.append(f"next: {decision.next_key}, {clock_text(decision.next_seconds)}")
    return "; ".join(parts)


def ending(decision: Decision, sure: float, takes: tuple[str, str] | None) -> str:
    """Says in sentences why no further cell was chosen. `takes` are the nearest rival and what would settle it, in
    words."""
    look = decision.look
    assert look
    if decision.reason == "settled":
        if len(look.seeds) == 1:
            return "Decided: nothing else is left."
        return (
            f"Decided: with a confidence of {sure:.0%}, at every look, nothing that was left out or passed over is "
            "better by more than the margin."
        )
    more = f" To settle {look.answer} against {takes[0]} would take {takes[1]}." if takes else ""
    if decision.reason == "out of reach":
        return (
            f"Not settled at {sure:.0%}, and out of reach: all cells of the suite together would settle it with a "
            f"chance under 5%, so the rest were not run.{more}"
        )
    if decision.reason == "out of time":
        known = look.reach is not None
        after = f" All cells together would settle it with a chance of {look.reach:.0%}." if known else ""
        return f"Not settled at {sure:.0%}: the time is used up, or no cell fits into what is left.{after}{more}"
    if decision.reason == "exhausted":
        return f"Not settled at {sure:.0%}: every cell that could say more was run.{more}"
    return f"Not settled at {sure:.0%}: stopped before the end; the same command goes on.{more}"


def takes_of(decider: Decider, decision: Decision) -> tuple[str, str] | None:
    """Returns (the nearest rival of the answer, the items or seeds that would settle it, in words); None where the race
    is settled, or neither would."""
    from harness.analysis.deciding import what_it_takes

    if decision.look is None or decision.evidence is None or decision.reason == "settled":
        return None
    found = what_it_takes(decision.evidence, decision.look, decider.aim.sure)
    return (found[0], text) if found and (text := enough(found[1])) else None


def left_out(decision: Decision) -> list[str]:
    """Returns a sentence for each label that was left out, with the reason."""
    look = decision.look
    assert look
    lines = [f"{label} is ruled out: {why}." for label, why in sorted(decision.ruled_out.items())]
    for label, better in sorted(look.out.items()):
        count = look.seeds.get(label, 0)
        lines.append(f"{label} is left out after {count} seed{'s' * (count != 1)}: {better} is shown to be better.")
    fitting = decision.evidence.fitting if decision.evidence else ()
    once = [
        each.label for each in fitting if len(each.values) == 1 and not each.repeated and each.label not in look.out
    ]
    if once:
        lines.append(f"Known by one seed alone: {listed(once)}.")
    untried = [label for label, count in look.seeds.items() if not count]
    if untried:
        lines.append(f"Not tried: {listed(untried)}.")
    return lines


def time_line(spent: float, run: int, left: int, left_seconds: float) -> str:
    """Says what the decision took, and what all cells would have taken. `spent` is in seconds, `run` and `left` count
    cells; those that were left would take `left_seconds`."""
    if not left:
        return f"It took {clock_text(spent)} for {counted(run, 'cell')}; none is left."
    whole = spent + left_seconds
    return (
        f"It took {clock_text(spent)} for {run} of {run + left} cells; all of them would have taken about "
        f"{clock_text(whole)} ({spent / whole:.0%})."
    )


def with_confidence(found: Recommendation, decision: Decision, sure: float) -> Recommendation:
    """Returns a recommendation with the confidence that the decision has in its label: at least `sure` where it is
    settled for that label, and no more where it is not."""
    from harness.analysis import Confidence
    from harness.analysis.deciding import confidence_in

    look, evidence, answer = decision.look, decision.evidence, found.answer
    if look is None or evidence is None or answer.first is None:
        return found
    label = answer.first.candidate.label
    if label not in look.seeds or not look.seeds[label]:
        return found
    stated = confidence_in(evidence, label, look.settled, sure)
    if stated.confidence is None:
        return found
    best = stated.chances.get(label)
    confidence = Confidence(best, stated.confidence, len(stated.chances), True)
    return replace(found, answer=replace(answer, confidence=confidence))


def recommended(
    decider: Decider, decision: Decision, wishes: Wishes, reprice: Callable[[Prices], Prices]
) -> Recommendation | None:
    """Returns the recommendation that a race ends with: of the labels for which it is settled, or else of those that
    are known over two seeds; None where nothing has been scored."""
    look, evidence = decision.look, decision.evidence
    if look is None or evidence is None:
        return None
    known = look.settled or tuple(each.label for each in evidence.tried if each.repeated)
    race = decision.race
    if not look.settled and known:  # a label that was run with one seed is no answer, and says little of others
        race = replace(race, cells={label: cells for label, cells in race.cells.items() if label in known})
    found = answer_of(decider.store, decider.plan, race, wishes, reprice, known)
    return with_confidence(found, decision, decider.aim.sure) if found else None


def show_decision(decider: Decider, decision: Decision, found: Recommendation | None) -> None:
    """Prints the answer to a race: `recommend`'s sentences, why it ended, and what was left out."""
    from harness.report import advice

    say()
    if len(decider.decisions) > 1:
        say(decision.race.name)
    if found is None:
        say("Nothing has been scored, so nothing can be said.", file=sys.stderr)
        return
    for line in advice.sentences(found.answer, found.question):
        say(line)
    for line in [ending(decision, decider.aim.sure, takes_of(decider, decision)), *left_out(decision)]:
        say(line)


def as_json(decider: Decider, decision: Decision, found: Recommendation | None) -> Mapping[str, object]:
    """Returns the answer to a race as JSON values."""
    look, takes = decision.look, takes_of(decider, decision)
    if look is None:
        return {"model": decision.race.model, "task": decision.race.task, "state": decision.reason or "open"}
    return {
        "model": decision.race.model,
        "task": decision.race.task,
        "n_train": decision.race.n_train,
        "state": decision.reason or "open",
        "use": found.use if found else None,
        "leader": look.answer,
        "confidence": look.confidence,
        "sure": decider.aim.sure,
        "settled": list(look.settled),
        "chances": look.chances,
        "seeds": look.seeds,
        "out": look.out,
        "ruled_out": decision.ruled_out,
        "reach": look.reach,
        "takes": {"rival": takes[0], "more": takes[1]} if takes else None,
        "sentences": [
            *(found.sentences if found else []),
            ending(decision, decider.aim.sure, takes),
            *left_out(decision),
        ],
        "recommendation": found.to_json() if found else None,
    }
