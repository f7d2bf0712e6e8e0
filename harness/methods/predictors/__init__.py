"""Makes lm-eval models for methods whose answers need more than the model itself: a classifier, or text before
questions.

In: a classifier or a language model. Out: an lm-eval LM. Shared by the methods; none of them is defined here. The
classes are imported only when an object is made, because lm-eval loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from harness.methods.predictors.classifier import Probabilities
    from harness.methods.predictors.prompted import Parts, Write

__all__ = ["FLOOR", "classifier_lm", "prompted_lm"]

FLOOR = 1e-9  # the probability of a label never seen in training: it keeps its cross-entropy finite


def classifier_lm(labels: Sequence[str], probabilities: Probabilities) -> LM:
    """Return a classifier as an lm-eval model. `probabilities` maps texts to the probabilities of their `labels`
    [texts, labels], in that order. See `ClassifierLM`."""
    from harness.methods.predictors.classifier import ClassifierLM

    return ClassifierLM(labels, probabilities)


def prompted_lm(
    inner: LM,
    task: str,
    parts: Parts,
    write: Write,
    answer: Callable[[str], str] = str,
    references: Sequence[str] = (),
    constant: bool = False,
) -> LM:
    """Return an lm-eval model that puts more text (`parts`, such as solved examples) before the questions of one
    `task`, and has `inner`, an lm-eval model, answer. See `PromptedLM` for the other arguments."""
    from harness.methods.predictors.prompted import PromptedLM

    return PromptedLM(inner, task, parts, write, answer, references, constant)
