"""A classifier that lm-eval scores like a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from lm_eval.api.model import LM

from harness.methods.predictors import FLOOR

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Probabilities = Callable[[list[str]], Iterable[Iterable[float]]]  # texts -> [texts, labels]


class ClassifierLM(LM):
    """A classifier as an lm-eval model: a continuation's log-likelihood is its label's log-probability.

    `probabilities` maps texts to the probabilities of their `labels` [texts, labels], in that order. A continuation
    that is none of the labels has the probability `FLOOR`.
    """

    def __init__(self, labels: Sequence[str], probabilities: Probabilities):
        super().__init__()
        self.labels, self.probabilities = labels, probabilities

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        texts = list(dict.fromkeys(request.args[0] for request in requests))
        rows = zip(texts, self.probabilities(texts), strict=True)
        by_text = {text: dict(zip(self.labels, map(float, row), strict=True)) for text, row in rows}
        answers = []
        for request in requests:
            context, continuation = request.args
            probability = by_text[context].get(continuation.strip(), 0.0)
            likeliest = probability >= max(by_text[context].values())
            answers.append((math.log(max(probability, FLOOR)), likeliest))
        return answers

    def gives_class_probabilities(self, task: str) -> bool:
        """Return whether the log-likelihoods of a task's choices are probabilities of classes rather than of the texts
        that name them; always true here."""
        return True

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("a classifier has no likelihood of running text")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("a classifier does not generate")
