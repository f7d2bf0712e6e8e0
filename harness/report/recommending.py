"""Answers which method to take from a suite's report: one answer for each model and task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from harness.analysis import Answer, Prices, Wishes, rank_candidates
from harness.errors import UserError, unknown
from harness.report import advice
from harness.report.candidates import Question


@dataclass(frozen=True)
class Recommendation:
    """The answer for one model and task: `question` is what was asked, with the candidates; `answer` ranks those that
    fit the limits, and says why others do not."""

    answer: Answer
    question: Question

    @property
    def use(self) -> str | None:
        """The recommended label; None where nothing fits."""
        return self.answer.first.candidate.label if self.answer.first else None

    @property
    def sentences(self) -> list[str]:
        """The recommendation in words: what to use, why, and how sure that is."""
        return advice.sentences(self.answer, self.question)

    def to_json(self) -> dict[str, object]:
        """Returns the fields of answer and question as JSON values, with the texts."""
        return advice.as_json(self.answer, self.question)


def recommendations(
    asked: Sequence[Question], wishes: Wishes, prices: Prices, among: Collection[str] = ()
) -> list[Recommendation]:
    """Answers each question within the limits in `wishes`. Only the labels `among` may be recommended, where some of
    them fit (empty: all may). Where they limit forgetting without naming a retained task,
    it is each question's first. Raises UserError for a retained task that no question has, and for a limit of
    forgetting where nothing is retained."""
    retained = list(dict.fromkeys(kept for question in asked for kept in question.retain))
    if wishes.forgetting_on and wishes.forgetting_on not in retained:
        raise UserError(unknown("retained task", wishes.forgetting_on, retained))
    found = []
    for question in asked:
        on = wishes.forgetting_on or next(iter(question.retain), "")
        if wishes.max_forgetting is not None and not on:
            raise UserError(
                f"{question.task} on {question.model} retains no task, so nothing is known of forgetting. Leave the "
                "limit of forgetting out, or run a suite with `retain:`."
            )
        answer = rank_candidates(question.candidates, replace(wishes, forgetting_on=on), prices, among=among)
        found.append(Recommendation(answer, question))
    return found
