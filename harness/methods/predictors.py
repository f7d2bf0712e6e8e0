"""LMs that answer in another way than the model alone: by a classifier's probabilities, or with text put before the
question. Shared by the methods of this folder; none of them lives here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.model import LM

FLOOR = 1e-9  # the probability of a label never seen in training: it keeps its cross-entropy finite


def classifier_lm(labels: Sequence[str], chances: Callable[[list[str]], Any]) -> LM:
    """A classifier as an lm-eval model: a continuation's log-likelihood is its label's log-probability.

    `chances` maps texts to probabilities [texts, labels].
    """
    from lm_eval.api.model import LM

    class ClassifierLM(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            texts = list(dict.fromkeys(request.args[0] for request in requests))
            found = {text: dict(zip(labels, row, strict=True)) for text, row in zip(texts, chances(texts), strict=True)}
            answers = []
            for request in requests:
                context, continuation = request.args
                chance = float(found[context].get(continuation.strip(), 0.0))
                answers.append((math.log(max(chance, FLOOR)), chance >= max(found[context].values())))
            return answers

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError("a classifier has no likelihood of running text")

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("a classifier does not generate")

    return ClassifierLM()


def prompted_lm(
    inner: Any,
    task: str,
    parts: Callable[[list[str]], list[Sequence[Any]]],
    write: Callable[[Sequence[Any], str, list[str]], str],
    answer: Callable[[str], str] = str,
    references: Sequence[str] = (),
) -> LM:
    """A language model (lm-eval's) to which one task's questions are put with more text before them.

    parts: questions -> what may stand before each of them, the most useful first. write: (parts, question, choices) ->
    the prompt; the choices are the answers that a question offers, none where it offers none. answer: changes what
    continues the prompt. references: questions whose answers do not matter; where all questions offer the same
    choices, what a choice gets there on average is taken off its log-likelihood (batch calibration, Zhou et al. 2023,
    arXiv:2309.17249: log p(y|x) - log mean p(y|x')), as a small model repeats what its examples say. A prompt that is
    too long for the model loses parts, never the question. Requests of other tasks, and empty contexts, are passed on
    as they are.
    """
    from lm_eval.api.model import LM

    priors: dict[tuple[str, ...], dict[str, float]] = {}

    class PromptedLM(LM):
        @property
        def scored_tokens(self) -> int:
            return int(inner.scored_tokens)

        @property
        def truncated(self) -> int:
            return int(inner.truncated)

        def ready(self) -> Any:
            return inner.ready()

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            offered: dict[str, list[str]] = {}
            for request in self.own(requests):
                offered.setdefault(request.args[0], []).append(request.args[1])
            room = {text: max(map(self.length, map(answer, found))) for text, found in offered.items()}
            prompts = self.prompts(offered, room)
            answers = inner.loglikelihood(self.rewritten(requests, prompts, answer))
            prior = self.prior(offered)
            mine = set(map(id, self.own(requests)))
            return [
                (value - prior.get(request.args[1], 0.0), greedy) if id(request) in mine else (value, greedy)
                for request, (value, greedy) in zip(requests, answers, strict=True)
            ]

        def prior(self, offered: dict[str, list[str]]) -> dict[str, float]:
            """choice -> the log of its mean probability over the references; nothing where questions differ. It
            is the same for every question, so it is worked out once."""
            lists = {tuple(dict.fromkeys(found)) for found in offered.values()}
            if not references or len(lists) != 1 or len(choices := list(lists.pop())) < 2:
                return {}
            if tuple(choices) not in priors:
                priors[tuple(choices)] = self.prior_of(choices)
            return priors[tuple(choices)]

        def prior_of(self, choices: list[str]) -> dict[str, float]:
            from lm_eval.api.instance import Instance

            prompts = self.prompts(
                dict.fromkeys(references, choices), dict.fromkeys(references, max(map(self.length, choices)))
            )
            asked = [
                Instance("loglikelihood", {}, (prompt, answer(choice)), 0)
                for prompt in prompts.values()
                for choice in choices
            ]
            values = [value for value, _ in inner.loglikelihood(asked)]
            total = [0.0] * len(choices)
            for start in range(0, len(values), len(choices)):
                weights = [
                    math.exp(value - max(values[start : start + len(choices)]))
                    for value in values[start:][: len(choices)]
                ]
                total = [one + weight / sum(weights) for one, weight in zip(total, weights, strict=True)]
            return {
                choice: math.log(max(one / len(prompts), FLOOR)) for choice, one in zip(choices, total, strict=True)
            }

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return inner.loglikelihood_rolling(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            room = {r.args[0]: r.args[1].get("max_gen_toks", inner.max_gen_toks) for r in self.own(requests)}
            prompts = self.prompts({question: [] for question in room}, room)
            return inner.generate_until(self.rewritten(requests, prompts, copy))

        def own(self, requests: list[Any]) -> list[Any]:
            return [request for request in requests if request.task_name == task and request.args[0]]

        def rewritten(self, requests: list[Any], prompts: dict[str, str], second: Callable[[Any], Any]) -> list[Any]:
            mine = set(map(id, self.own(requests)))
            made = []
            for request in requests:
                new = copy(request)
                if id(request) in mine:
                    new.arguments = prompts[request.args[0]], second(request.args[1])
                made.append(new)
            return made

        def prompts(self, offered: dict[str, list[str]], room: dict[str, int]) -> dict[str, str]:
            """question -> prompt, with as many of its parts as leave `room` tokens for the answer."""
            questions = list(offered)
            return {
                question: self.fitting(found, question, offered[question], inner.max_length - room[question])
                for question, found in zip(questions, parts(questions), strict=True)
            }

        def fitting(self, found: Sequence[Any], question: str, answers: list[str], most: int) -> str:
            distinct = list(dict.fromkeys(text.strip() for text in answers))
            choices = distinct if distinct[1:] else []  # a single one would be the answer itself

            def too_long(kept: int) -> bool:
                return self.length(write(found[:kept], question, choices)) > most

            kept = len(found) if not too_long(len(found)) else bisect_left(range(len(found)), True, key=too_long) - 1
            return write(found[: max(kept, 0)], question, choices)

        def length(self, text: str) -> int:
            return len(inner.tok_encode(text))

    return PromptedLM()
