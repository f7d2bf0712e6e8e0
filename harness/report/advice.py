"""Puts a recommendation into words: the sentences and tables that terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache

from harness.analysis import (
    Answer,
    Candidate,
    Cost,
    Prices,
    Ranked,
    Reason,
    RuledOut,
    Tuning,
    Wishes,
    rank_candidates,
)
from harness.analysis.stats import Decision
from harness.errors import counted
from harness.report.candidates import Question, prices_of, questions
from harness.report.format import NA, digits_of, number, seconds, size, some, with_error
from harness.report.table import Report
from harness.suite import BASE

MOST_ROWS = 12
MOST_TUNED = 6  # tuned labels that are named in a sentence
PROCEDURES = "`tune: {studies: 3}` compares tuned procedures."
THREE = "Tune three times or more (`tune: {studies: 3}`)."
# Columns that a narrow terminal leaves out, in this order.
SPARE = ("ms", "ship", "memory")
RULES = {
    "only": "it is the only one that fits",
    "score": "it scores best, and nothing that fits comes within {margin:g} of it",
    "cost": "among labels within {margin:g} of the best score it costs least",
    "simplicity": "among labels within {margin:g} of the best score and of similar cost it is the simplest",
    "score within the margin": "among labels within {margin:g} of the best score, of similar cost and complexity, it "
    "scores best",
    "known": "others may be better, but it is the one that is known well enough",
}
UNCOUNTED = "; costs are not compared, as a time was disturbed"
UNPRICED = RULES | {
    "simplicity": "among labels within {margin:g} of the best score it is the simplest" + UNCOUNTED,
    "score within the margin": "among labels within {margin:g} of the best score, of similar complexity, it scores best"
    + UNCOUNTED,
}
GIVEN = {"hour": "--price", "requests": "--requests", "months": "--months", "updates": "--updates"}


@lru_cache(maxsize=4)
def advised(report: Report) -> tuple[tuple[Answer, Question], ...]:
    """Returns (answer, question) for each model and task of a report: the recommendation for somebody without limits,
    at the largest size. Empty where nothing has been scored beside a base model."""
    if not any(row.score for block in report.blocks if block.base for row in block.rows):
        return ()
    prices = prices_of(report)
    wishes = Wishes(margin=report.run.margin)
    return tuple((rank_candidates(one.candidates, wishes, prices), one) for one in questions(report))


def title(question: Question) -> str:
    """Returns what a question is about as text: task, model, number of examples, and quality of the training data."""
    examples = f", {question.examples} examples" if question.examples else ""
    return ", ".join(filter(None, (f"{question.task} on {question.model}{examples}", question.condition)))


def sentences(answer: Answer, question: Question) -> list[str]:
    """Returns the recommendation as sentences: the answer first, then why, what comes second, how sure the answer is,
    and remarks."""
    lines = [headline(answer, question), *outside(question)]
    first = answer.first
    if first is None:
        return [*lines, *nearest(answer)]
    if answer.second and first:
        lines.append(runner_up(answer, answer.second))
    lines += [sure(answer), *luck(answer), *cheaper(answer)]
    lines += on_tuning({one.candidate.label: one.candidate.tuning for one in answer.ranked})
    lines += [f"Note: {caution(one)}." for one in first.cautions]
    if first.no_model:
        lines.append(
            f"{first.candidate.label} leaves no language model: it does this task alone, so the limit of forgetting "
            "says nothing of it. Keep the base model for all else."
        )
    return lines


def headline(answer: Answer, question: Question) -> str:
    """Says in one sentence which label to use, what it scores and why it comes first; or that nothing fits."""
    first = answer.first
    if first is None:
        return f"Nothing fits: all {len(answer.ruled_out)} are ruled out."
    candidate, why = first.candidate, reason_first(answer)
    trained = "" if candidate.n_train else " It is not trained at all."
    where = question.task + (f", {question.model}" if question.several else "")
    own = f" ({candidate.own_model})" if candidate.own_model else ""
    name = candidate.tuning.name(candidate.label)
    return f"Use {name}{own}: {candidate.metric} {score_of(answer)} on {where}; {why}.{trained}"


def reason_first(answer: Answer) -> str:
    """Says why the recommended candidate comes first. Where a time of one that is close enough was disturbed, costs had
    no part in it, and this is said. Where it is alone though there are no limits, nothing was asked to fit."""
    rules = RULES
    wishes, first = answer.wishes, answer.first
    limits = (wishes.memory, wishes.max_forgetting, wishes.latency_ms, wishes.budget)
    if answer.rule == "only" and first and limits == (None,) * 4:
        if first.candidate.label == BASE:
            return "nothing trained is shown to beat the untouched model"
        return "no other label has a result that counts"
    if any(each.candidate.disturbed for each in answer.ranked if each.close):
        rules = UNPRICED
    return rules[answer.rule].format(margin=answer.wishes.margin)


def score_of(answer: Answer) -> str:
    """Formats the score of the recommended candidate: what is expected of it, with its 95% interval, or else what was
    measured, with its standard error."""
    assert answer.first
    candidate, expected = answer.first.candidate, answer.expected
    digits = digits_of(candidate.metric)
    if expected is None:
        return with_error(candidate.score, candidate.stderr, digits)
    return f"{number(expected.value, digits)} (95% {number(expected.low, digits)} to {number(expected.high, digits)})"


def luck(answer: Answer) -> list[str]:
    """Returns a sentence on how the expected score of the recommended candidate differs from the measured one; nothing
    where they are the same as shown, or where one of them is not known."""
    if answer.first is None or answer.expected is None:
        return []
    candidate = answer.first.candidate
    digits = digits_of(candidate.metric)
    measured, expected = number(candidate.score, digits), number(answer.expected.value, digits)
    if measured == expected:
        return []
    return [
        f"{candidate.label} scored {measured}; {expected} is expected of it again, as what is chosen among "
        f"{len(answer.ranked)} had luck too."
    ]


def outside(question: Question) -> list[str]:
    """Returns a remark about the number of examples, where it is not a size that was run; otherwise nothing."""
    sizes = ", ".join(map(str, question.sizes))
    if question.asked is not None and not question.sizes:
        return ["Nothing was trained in this suite: examples are of no effect."]
    if question.asked is not None:
        return [
            f"WARNING: {question.asked} examples were asked for, and {sizes} were run. Nothing is known outside: this "
            f"is the answer at {question.examples}, and another one may be right at {question.asked}."
        ]
    if question.between:
        return [f"Between the sizes that were run ({sizes}) figures are straight lines over log10 of the examples."]
    return []


def runner_up(answer: Answer, second: Ranked) -> str:
    """Says in one sentence what comes second, with its score and cost, and how the recommended candidate compares with
    it."""
    assert answer.first
    one, two = answer.first.candidate, second.candidate
    score = number(two.score, digits_of(two.metric))
    text = f"Next is {two.tuning.name(two.label)} ({score}{price_beside(second, answer)}): "
    if not second.decision:
        return text + "single items of both are not stored, so the difference is not tested."
    return text + verdict(one, two, second.decision) + "."


def price_beside(one: Ranked, answer: Answer) -> str:
    """Returns ", " and a candidate's cost of ownership as text; "" where it is unknown."""
    return f", {money(one.cost.total, answer.prices)}" if one.cost else ""


def verdict(one: Candidate, other: Candidate, found: Decision) -> str:
    """Says how the recommended candidate `one` compares with `other`. `found` is the decision on `other` against `one`,
    so its signs are turned."""
    digits = digits_of(one.metric)
    low, high = sorted((-found.interval.low, -found.interval.high))
    figures = (
        f"{number(-found.effect, digits, signed=True)}, 95% interval {number(low, digits, signed=True)} to "
        f"{number(high, digits, signed=True)}"
    )
    if found.verdict == "tied":
        return f"tied with {one.label} within {found.margin:g} ({figures})"
    if found.verdict == "underpowered":
        return f"undecided against {one.label} with these items and seeds ({figures})"
    word = {"better": "worse", "worse": "better"}[found.verdict]
    return f"{one.label} is {word} than {other.label} ({figures})"


def on_tuning(tunings: Mapping[str, Tuning]) -> list[str]:
    """Returns a sentence on the labels that were tuned by one study, so that what is said of them holds for the setting
    that it chose, and one on those of two studies, of which nothing is decided; each where there are such labels.
    `tunings` are by label."""
    twice = [label for label, tuning in tunings.items() if tuning.few]
    told = tuned_once({label: tuning for label, tuning in tunings.items() if tuning.studies == 1})
    if twice:
        told.append(f"{', '.join(twice)}: two studies may choose alike by chance, so nothing is decided. {THREE}")
    return told


def tuned_once(once: Mapping[str, Tuning]) -> list[str]:
    """Returns a sentence on labels that were tuned by one study each; nothing where there are none."""
    if not once:
        return []
    named = list(once)[:MOST_TUNED]
    first, *others = [once[label].name(label) for label in named]
    if len(once) == 1:
        return [f"{once[named[0]].remark(named[0])}. {PROCEDURES}"]
    more = f" and {len(once) - len(named)} more" if len(once) > len(named) else ""
    told = ", ".join([first, *others]) + more
    return [f"{told}: these settings, one study each; another study may choose others. {PROCEDURES}"]


def sure(answer: Answer) -> str:
    """Says how certain the recommendation is, or why no certainty is stated."""
    confidence = answer.confidence
    assert answer.first
    assert confidence
    label = answer.first.candidate.label
    if len(answer.ranked) == 1:
        return "Confidence: none is stated, as nothing else fits."
    if confidence.best is None or confidence.good_enough is None:
        if answer.first.candidate.tuning.few:
            return f"Confidence: none is stated. {label} was tuned by two studies; others may change the order. {THREE}"
        return (
            f"Confidence: none is stated. {label} was run with one seed, and another may change the order: run three "
            "or more (`seeds: [0, 1, 2]`)."
        )
    once = f" Not counted, as one seed or two studies do not say how far they scatter: {some(confidence.once)}."
    if confidence.among == 1:
        return f"Confidence: none is stated, as nothing else that fits was repeated.{once}"
    text = (
        f"Confidence: {percent(confidence.good_enough)} that nothing of the {confidence.among} that fit is better than "
        f"{label} by more than {answer.wishes.margin:g}; {percent(confidence.best)} that it is the very best."
    )
    if confidence.once:
        text += once
    if not confidence.paired:
        text += " Single items are not known of all, so their errors are taken as independent."
    return text


def short(answer: Answer, question: Question) -> str:
    """Returns the headline of an answer with its certainty, as one sentence."""
    confidence = answer.confidence
    text = headline(answer, question)
    if confidence is None or confidence.good_enough is None or confidence.among == 1:
        return text
    return f"{text.removesuffix('.')} ({percent(confidence.good_enough)} sure that nothing is better by more)."


def percent(value: float) -> str:
    """Formats a probability in per cent. Draws cannot tell 0 or 1 from values close to it: "under 1%", "over 99%"."""
    return "under 1%" if value < 0.01 else "over 99%" if value > 0.99 else f"{100 * value:.0f}%"


def cheaper(answer: Answer) -> list[str]:
    """Returns a sentence on the candidate that costs at most half and is not shown to be worse; nothing where there is
    none."""
    found = answer.cheaper
    if not found or not found.cost or not answer.first or not answer.first.cost:
        return []
    one = found.candidate
    return [
        f"Cheaper, and not shown to be worse: {one.label} ({number(one.score, digits_of(one.metric))}, "
        f"{money(found.cost.total, answer.prices)} against {money(answer.first.cost.total, answer.prices)})."
    ]


def nearest(answer: Answer) -> list[str]:
    """Returns a sentence for each of the three best candidates that a single limit rules out, the best score first."""
    single = [out for out in answer.ruled_out if len(out.reasons) == 1 and out.reasons[0].allowed is not None]
    single.sort(key=lambda out: (-out.candidate.merit, out.candidate.label))
    return [
        f"Nearest: {out.candidate.label} ({number(out.candidate.score, digits_of(out.candidate.metric))}) "
        f"{reason(out.reasons[0], answer.prices)}."
        for out in single[:3]
    ]


# --- reasons ---


def reason(why: Reason, prices: Prices) -> str:
    """Says why a candidate is ruled out, such as "train: 2.9 GiB, more than 2.0 GiB". `prices` give the currency."""
    known = why.value is not None
    if why.limit == "status":
        return why.where
    if why.limit == "ended":
        return f"only {why.value:g} of {why.allowed:g} seeds ended well"
    if why.limit == "learned":
        return "not shown to beat the base model"
    if why.limit == "memory":
        return f"{why.where}: {size(why.value)}, more than {size(why.allowed)}" if known else "memory unknown"
    if why.limit == "latency":
        return f"latency {why.value:.0f} ms, more than {why.allowed:g} ms" if known else "latency unknown"
    if why.limit == "budget":
        if why.value is None or why.allowed is None:
            return "cost unknown"
        return f"costs {money(why.value, prices)}, more than {money(why.allowed, prices)}"
    if not known:
        return f"forgetting on {why.where} unknown"
    text = f"forgets {why.value:.3f} {why.unit} on {why.where}, more than {why.allowed:g}"
    return text + (" (its 95% interval reaches below)" if why.reach is not None else "")


def caution(why: Reason) -> str:
    """Says which limit the recommended candidate meets by its estimate alone, with the figure that lies beyond it."""
    if why.limit == "ended":
        return f"{why.value:g} of {why.allowed:g} seeds ended well; its score counts the others too"
    if why.limit == "latency":
        return f"one request in ten takes {why.reach:.0f} ms or more, above the limit of {why.allowed:g} ms"
    return (
        f"the change on {why.where} meets the limit ({why.value:+.3f} {why.unit} forgotten), but its 95% interval "
        f"reaches {why.reach:.3f}, beyond {why.allowed:g}"
    )


def ruled_out(answer: Answer) -> list[tuple[str, str]]:
    """Returns (label, all its reasons) for each candidate that is ruled out, the best score first."""
    ordered = sorted(answer.ruled_out, key=lambda out: (-out.candidate.merit, out.candidate.label))
    return [(out.candidate.label, "; ".join(reason(why, answer.prices) for why in out.reasons)) for out in ordered]


# --- the five dimensions ---


def headers(question: Question) -> list[str]:
    """Returns the headers of the table of candidates, in the order of `texts`."""
    return ["method", question.metric, "cost", "effort", "choose/add/run", "update", "ship", "memory", "ms"]


def texts(one: Ranked | RuledOut, prices: Prices) -> list[str]:
    """Returns the texts of one candidate's table row, in the order of `headers`."""
    known, work = one.candidate, one.candidate.work
    effort = None if work.make is None else work.make + work.search
    return [
        known.label + (" ‡" if known.disturbed else ""),
        with_error(known.score, known.stderr, digits_of(known.metric)),
        money(one.cost.total, prices, unit=False) if one.cost else NA,
        NA if effort is None else f"{seconds(effort)} s" + (f" ({known.trials})" if known.trials else ""),
        "/".join(map(str, (len(known.settings), len(known.packages), len(known.parts)))) if known.described else NA,
        NA if work.update is None else f"{seconds(work.update)} s",
        NA if known.artifact_bytes is None else size(known.artifact_bytes) if known.artifact_bytes else "nothing",
        size(known.peak[1]) if known.peak else NA,
        NA if known.latency_ms is None else f"{known.latency_ms:.0f}",
    ]


def details(one: Ranked, prices: Prices) -> list[str]:
    """Describes the recommended candidate in sentences: what there is to choose, install and run, how its settings were
    found, and its cost."""
    known, work, cost = one.candidate, one.candidate.work, one.cost
    lines = [
        f"To choose: {', '.join(known.settings) or 'nothing'}. "
        f"Extra packages: {', '.join(known.packages) or 'none'}. Parts to run: {', '.join(known.parts)}."
        if known.described
        else f"What there is to choose and run of {known.method} is not known to this version."
    ]
    if known.made_of:
        lines.append(f"It needs first: {', '.join(known.made_of)}.")
    if known.trials:
        good = f"; {known.trials_to_good} find one within the margin on average" if known.trials_to_good else ""
        found = f"{counted(known.trials, 'trial')} ({seconds(work.search)} s){good}"
        lines.append(
            f"Its settings are found in {found}; the mean of {known.tuning.studies} studies."
            if known.tuning.studies > 1
            else f"Its settings were found in {found}."
        )
    if cost:
        lines.append(parts_of(cost, prices))
    return lines


def parts_of(cost: Cost, prices: Prices) -> str:
    """Returns the cost of ownership as a sentence: in all, and for making, answering and updating."""
    return (
        f"Cost {money(cost.total, prices)}: making {money(cost.making, prices, unit=False)}, answering "
        f"{money(cost.answering, prices, unit=False)}, updating {money(cost.updating, prices, unit=False)} "
        f"({money(cost.update, prices, unit=False)} an update)."
    )


def money(value: float, prices: Prices, unit: bool = True) -> str:
    """Formats an amount with two decimals, or with one significant digit below a hundredth; "0.00" below 0.0001. With
    `unit`, the currency of `prices` follows."""
    text = f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}" if value >= 1e-4 else "0.00"
    return text + (f" {prices.currency}" if unit else "")


def assumptions(answer: Answer, question: Question) -> list[str]:
    """Lists what the figures rest on, in sentences: prices and volumes (assumed ones marked), and the device that was
    measured."""
    prices, wishes = answer.prices, answer.wishes

    def said(name: str, text: str) -> str:
        return text + (f" (assumed; {GIVEN[name]})" if name in prices.assumed else "")

    lines = [
        "Cost of ownership: "
        + ", ".join(
            (
                said("hour", f"{prices.hour:g} {prices.currency} an hour" + (f" of {prices.of}" if prices.of else "")),
                said("requests", f"{prices.requests:,.0f} requests a month".replace(",", " ")),
                said("months", f"{prices.months:g} months"),
                said("updates", f"{prices.updates:g} updates a year"),
            )
        )
        + ". A request is charged its share of a full batch's time; idle time is not counted.",
        f"Measured on {question.device}; another device has other times"
        + (" and memory. Memory is resident memory of the process." if question.resident else " and memory."),
        "Columns: cost of ownership; effort, the time to make it with its search for settings (of so many trials); "
        "settings to choose, extra packages and parts to run; the time to take in new examples; what must be shipped; "
        "peak memory of making and answering; median latency.",
    ]
    lines += served(question)
    if wishes.max_forgetting is not None:
        on = wishes.forgetting_on
        unit = next((one.retained[on].unit for one in question.candidates if on in one.retained), "")
        lines.append(f"Forgetting: at most {wishes.max_forgetting:g} {unit} on {on}, by its estimate.")
    if any(one.candidate.disturbed for one in answer.ranked):
        lines.append(
            "‡ other work shared the machine, or its speed was off: these times are not the method's own, and decide "
            "nothing where one of them is within the margin of the best score."
        )
    return lines


def served(question: Question) -> list[str]:
    """Says how answering is timed: with adapters folded or not, and which labels share one time."""
    lines = []
    folded = [one for one in question.candidates if one.unfolded_ms is not None and one.latency_ms is not None]
    if folded:
        times = ", ".join(f"{one.label} {one.unfolded_ms:.0f} ms instead of {one.latency_ms:.0f}" for one in folded)
        lines.append(f"Adapters are served folded into the model's weights, and priced so. Beside them: {times}.")
    networks: dict[tuple[object, ...], list[str]] = {}
    for one in question.candidates:
        if one.network is not None:
            networks.setdefault(one.network, []).append(one.label)
    for labels in networks.values():
        if labels[1:]:
            lines.append(f"The same network, timed together: {', '.join(sorted(labels))}.")
    return lines


def as_json(answer: Answer, question: Question) -> dict[str, object]:
    """Returns the answer and its question as JSON values: the fields of both, the label to "use", and the texts
    ("sentences", "assumptions", why a candidate is ruled out). The values of single items are left out."""
    found = asdict(answer)
    entries = [*found["ranked"], *found["ruled_out"], *([found["cheaper"]] if found["cheaper"] else [])]
    for entry in entries:
        entry["candidate"] = {k: v for k, v in entry["candidate"].items() if k not in ("values", "items", "clusters")}
        if entry["cost"]:
            cost = entry["cost"]
            cost["total"] = cost["making"] + cost["answering"] + cost["updating"]
    for entry, out in zip(found["ruled_out"], answer.ruled_out, strict=True):
        entry["why"] = "; ".join(reason(why, answer.prices) for why in out.reasons)
    about = ("model", "task", "condition", "examples", "sizes", "metric", "device", "asked")
    return {
        **{name: getattr(question, name) for name in about},
        "use": answer.first.candidate.label if answer.first else None,
        "sentences": sentences(answer, question),
        "assumptions": assumptions(answer, question),
        **found,
    }
