"""Shows what to use when nobody has said what limits they have."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis import Answer
from harness.report import advice
from harness.report.candidates import Question
from harness.report.elements import Bullets, Code, Element, Folded, Text, TextTable
from harness.report.sections.base import WRITTEN, Section, Subject

MOST = 15  # labels that the page lists; the command lists all
LIMITS = "--examples 100 --memory 16GiB --max-forgetting 0.1 --latency 50ms --budget 5USD"


class Advice(Section):
    """The recommendation for one model and task, along five dimensions."""

    name = "advice"
    title = "What to use"
    order = 120
    per_block = True
    forms = WRITTEN

    def elements(self, subject: Subject) -> Iterator[Element]:
        for answer, question in recommendations(subject):
            yield Bullets(advice.sentences(answer, question), lead=True)
            yield table_of(answer, question)
            yield from (Text(line, "footnote") for line in advice.assumptions(answer, question))

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Yields the same with details on the first label, what is ruled out and why (folded), and the command to ask
        with limits; at most `MOST` labels."""
        suite = subject.report.run.suite
        for answer, question in recommendations(subject):
            details = advice.details(answer.first, answer.prices) if answer.first else []
            yield Bullets([*advice.sentences(answer, question), *details], lead=True)
            yield table_of(answer, question, MOST)
            more = len(answer.ranked) - MOST
            if more > 0:
                yield Text(f"… and {more} more that fit: tunebench recommend {suite} --json", "note")
            ruled_out = [f"{label}: {why}" for label, why in advice.ruled_out(answer)]
            rests: list[Element] = [Text(line, "footnote") for line in advice.assumptions(answer, question)]
            if ruled_out:
                rests.append(Bullets(ruled_out))
            yield Folded("What these figures rest on" + ", and what is ruled out" * bool(ruled_out), rests)
            yield Text("With limits of your own:", "note")
            yield Code(f"tunebench recommend {suite} {LIMITS}")


def recommendations(subject: Subject) -> list[tuple[Answer, Question]]:
    """Returns (answer, question) of the subject's block; empty where the block has no base model or nothing was
    scored."""
    block = subject.block
    return [
        (answer, question)
        for answer, question in advice.advised(subject.report)
        if (question.model, question.task) == (block.model, block.task)
    ]


def table_of(answer: Answer, question: Question, most: int | None = None) -> TextTable:
    """Makes the table of the labels that fit, the best first; `most` limits its rows."""
    return TextTable(
        "Along five dimensions" + (f", {question.examples} examples" if question.examples else ""),
        advice.headers(question),
        [advice.texts(one, answer.prices) for one in answer.ranked[:most]],
        file=("advice", question.model, question.task),
    )
