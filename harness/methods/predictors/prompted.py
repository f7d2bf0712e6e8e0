"""An lm-eval language model that puts more text before a task's questions: examples, or passages that were looked
up."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from harness.data import answer_tokens
from harness.methods.predictors import FLOOR

if TYPE_CHECKING:
    from torch import nn

Part = Any  # what a method puts before a question: a text, an example
Parts = Callable[[list[str]], list[Sequence[Part]]]  # questions -> what may stand before each, the most useful first
Write = Callable[[Sequence[Part], str, list[str]], str]  # (parts, question, choices) -> the prompt


class PromptedLM(LM):
    """An lm-eval language model that puts more text before the questions of one task, such as examples or passages.

    `parts` maps questions to what may stand before each of them, the most useful first. `write` makes the prompt from
    (parts, question, choices); the choices are the answers that a question offers, if any. `answer` changes the text
    that continues the prompt. `references` are questions whose answers do not matter: where all questions offer the
    same choices, the log of a choice's mean probability on them is taken off its log-likelihood (batch calibration,
    Zhou et al. 2023, arXiv:2309.17249: log p(y|x) - log mean p(y|x')), as a small model repeats what its examples say.

    `constant`: the same text stands before every question, so it is run once and cached, as a soft prompt is.

    A prompt that is too long for the model loses parts, never the question. Requests of other tasks, and empty
    contexts, are passed on as they are.
    """

    def __init__(
        self,
        inner: Any,  # an LM that counts what it scores (`harness.worker`'s TunedLM)
        task: str,
        parts: Parts,
        write: Write,
        answer: Callable[[str], str] = str,
        references: Sequence[str] = (),
        constant: bool = False,
    ):
        super().__init__()
        self.inner, self.task = inner, task
        self.parts, self.write, self.answer, self.references = parts, write, answer, references
        self.constant = constant and hasattr(inner, "open_with")
        self.priors: dict[tuple[str, ...], dict[str, float]] = {}

    @property
    def scored_tokens(self) -> int:
        """How many tokens the inner model has been given to score, prompts included."""
        return int(self.inner.scored_tokens)

    @property
    def truncated(self) -> int:
        """How many sequences the inner model has cut to its window, though parts were left out."""
        return int(self.inner.truncated)

    def ready(self) -> nn.Module:
        """Return the inner model's context manager that computes what all inputs share once, for timing answers."""
        model: nn.Module = self.inner.ready()
        return model

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        offered: dict[str, list[str]] = {}
        for request in self.own(requests):
            offered.setdefault(request.args[0], []).append(request.args[1])
        room = {text: max(map(self.length, map(self.answer, choices))) for text, choices in offered.items()}
        prompts = self.prompts(offered, room)
        answers = self.inner.loglikelihood(self.rewritten(requests, prompts, self.answer))
        prior = self.prior(offered)
        own = set(map(id, self.own(requests)))
        return [
            (value - prior.get(request.args[1], 0.0), greedy) if id(request) in own else (value, greedy)
            for request, (value, greedy) in zip(requests, answers, strict=True)
        ]

    def gives_class_probabilities(self, task: str) -> bool:
        """Return whether the log-likelihoods of a task's choices are calibrated, so that a choice's own probability and
        length no longer count."""
        return task == self.task and bool(self.priors)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        values: list[float] = self.inner.loglikelihood_rolling(requests)
        return values

    def generate_until(self, requests: list[Instance]) -> list[str]:
        room = {r.args[0]: answer_tokens(r.args[1], self.inner.max_gen_toks) for r in self.own(requests)}
        prompts = self.prompts({question: [] for question in room}, room)
        texts: list[str] = self.inner.generate_until(self.rewritten(requests, prompts, copy))
        return texts

    def prior(self, offered: dict[str, list[str]]) -> dict[str, float]:
        """Return {choice: log of its mean probability over the references}; empty where questions differ in their
        choices, or without references. `offered` maps each question to its choices.

        It is the same for every question, so it is computed once.
        """
        lists = {tuple(dict.fromkeys(choices)) for choices in offered.values()}
        if not self.references or len(lists) != 1 or len(choices := lists.pop()) < 2:
            return {}
        if choices not in self.priors:
            self.priors[choices] = self.prior_of(list(choices))
        return self.priors[choices]

    def prior_of(self, choices: list[str]) -> dict[str, float]:
        """Return {choice: log of its mean probability over the references}, each of which is asked with these choices.
        No probability counts as less than `FLOOR`."""
        room = max(map(self.length, choices))
        prompts = self.prompts(dict.fromkeys(self.references, choices), dict.fromkeys(self.references, room))
        requests = [
            Instance("loglikelihood", {}, (prompt, self.answer(choice)), 0)
            for prompt in prompts.values()
            for choice in choices
        ]
        values = [value for value, _ in self.inner.loglikelihood(requests)]
        total = [0.0] * len(choices)
        for start in range(0, len(values), len(choices)):
            logs = values[start : start + len(choices)]
            weights = [math.exp(value - max(logs)) for value in logs]
            total = [so_far + weight / sum(weights) for so_far, weight in zip(total, weights, strict=True)]
        return {
            choice: math.log(max(value / len(prompts), FLOOR)) for choice, value in zip(choices, total, strict=True)
        }

    def own(self, requests: list[Instance]) -> list[Instance]:
        """Return those of the requests that ask a question of this task; requests of other tasks and empty contexts are
        left out."""
        return [request for request in requests if request.task_name == self.task and request.args[0]]

    def rewritten(
        self, requests: list[Instance], prompts: dict[str, str], second: Callable[[Any], Any]
    ) -> list[Instance]:
        """Return copies of the requests, in their order, with this task's questions replaced by their prompts
        ({question: prompt}), and with `second` applied to the second argument (the answer, or how to generate). Other
        requests stay as they are."""
        own = set(map(id, self.own(requests)))
        changed = []
        for request in requests:
            new = copy(request)
            if id(request) in own:
                new.arguments = prompts[request.args[0]], second(request.args[1])
            changed.append(new)
        return changed

    def prompts(self, offered: dict[str, list[str]], room: dict[str, int]) -> dict[str, str]:
        """Return {question: prompt}. A prompt has as many parts as leave room for the answer in the model's window; by
        question, `offered` has its choices and `room` the tokens of its answer."""
        questions = list(offered)
        made = {
            question: self.fitting(parts, question, offered[question], self.inner.max_length - room[question])
            for question, parts in zip(questions, self.parts(questions), strict=True)
        }
        texts = list(dict.fromkeys(made.values()))
        if self.constant and texts[1:]:
            known = [self.inner.opening] if self.inner.opening else []
            ids = [*known, *(self.inner.tok_encode(text) for text in texts)]
            self.inner.open_with(list(shared(ids)))
        return made

    def fitting(self, parts: Sequence[Part], question: str, answers: list[str], most: int) -> str:
        """Return the prompt of a question with as many of the first `parts` as fit into `most` tokens, none at the
        least. `answers` are the choices that the question offers."""
        distinct = list(dict.fromkeys(text.strip() for text in answers))
        choices = distinct if distinct[1:] else []  # a single one would be the answer itself

        def too_long(count: int) -> bool:
            return self.length(self.write(parts[:count], question, choices)) > most

        count = len(parts) if not too_long(len(parts)) else bisect_left(range(len(parts)), True, key=too_long) - 1
        return self.write(parts[: max(count, 0)], question, choices)

    def length(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.inner.tok_encode(text))


def shared(lists: Sequence[Sequence[int]]) -> Iterator[int]:
    """Yield the token ids that all lists begin with."""
    for tokens in zip(*lists, strict=False):
        if len(set(tokens)) > 1:
            return
        yield tokens[0]
