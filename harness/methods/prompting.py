"""Prompting: the base model is told what to do, and shown examples; nothing is trained (Brown et al. 2020)."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Context, Footprint, Method, Network, Options
from harness.methods.predictors import prompted_lm

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import nn

    from harness.data import Example

CHOICES = "{choices}"
SHOWN = "examples.json"
REFERENCES = 20


class Prompting(Method):
    """Prompting: an instruction and solved examples before each question; no weight is trained.

    `examples` of the cell's training examples are shown (at most as many as it has; 0 is zero-shot, which has no size
    and no seed), picked by `pick`: the first ones in the seed's order (`fixed`), or as many of each answer as possible
    (`balanced`). `instruction` stands before them; in it, {choices} is the list of answers that the question offers
    (where it offers none, the default instruction is left out).
    `separator` stands between all of these. `chat` uses the model's chat template: examples are earlier turns, and the
    answer is the model's turn. `calibrate` subtracts what each answer gets on up to 20 of the cell's training
    questions, shown ones last, because a small model mostly repeats a label that it was shown. The seed decides the
    order of the examples. Where the model's window is too short, the last ones are left out. Combined with a method
    that trains, training sees the plain questions.
    """

    name = "prompting"
    drafted_for = {"classification": "{examples: 4}", "generation": "{examples: 4}"}
    family = "no training"
    paper = "arXiv:2005.14165"
    trains = False
    foldable = False
    starts_at_base = "an instruction and examples stand before the question"
    space = {"examples": Options((0, 5, 10, 20, 40)), "chat": Options((False, True))}

    instruction: str = "Answer with one of: {choices}."
    examples: int = 10
    pick: Literal["balanced", "fixed"] = "balanced"
    separator: str = "\n\n"
    chat: bool = False
    calibrate: bool = True

    def __init__(self, **settings: object):
        super().__init__(**settings)
        self._shown: list[tuple[str, str]] = []  # (question, answer)
        self._references: list[str] = []  # questions

    @property
    def uses_data(self) -> bool:
        return self.examples > 0

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "prompt")

    def problems(self) -> Iterable[str]:
        if self.examples < 0:
            yield f"examples is {self.examples}; it must be at least 0."
        if not (self.examples or self.instruction.strip() or self.chat):
            yield "without examples, instruction and chat it is the base model. Give one of them."

    def footprint(self, network: Network) -> Footprint | None:
        return None  # how long its prompts are, only a tokenizer knows

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        found = context.examples()
        ranked = found if self.pick == "fixed" else in_turn(found)
        self._shown = [(one.context, one.target) for one in ranked[: self.examples]]
        # In turn they would be a pattern to go on with: after each "tech" a "business".
        random.Random(context.seed).shuffle(self._shown)
        others = [one.context for one in (*ranked[self.examples :], *ranked[: self.examples])]
        self._references = others[:REFERENCES] if self.calibrate else []
        return model

    def predictor(self, model: nn.Module, context: Context) -> LM:
        lm, write = context.language_model(model), partial(self._write, context.tokenizer)
        # A turn of a chat begins with the answer itself, without the blank that sets it off from a question.
        answer = str.lstrip if self.chat else str
        return prompted_lm(
            lm, context.task, lambda asked: [self._shown] * len(asked), write, answer, self._references, constant=True
        )

    def _write(self, tokenizer: Any, shown: Sequence[tuple[str, str]], question: str, choices: list[str]) -> str:
        # A task whose answers are written offers no choices: the default instruction is left out there.
        wanted = self.instruction if choices or self.instruction != Prompting.instruction else ""
        if CHOICES in wanted and not choices:
            raise ValueError(f"the instruction names {CHOICES}, and the task's questions offer none. Write it without.")
        instruction = wanted.replace(CHOICES, ", ".join(choices)).strip()
        if not self.chat:
            texts = [f"{context}{answer}" for context, answer in shown]
            return self.separator.join(filter(None, [instruction, *texts, question]))
        turns = [*chain.from_iterable(shown), question]
        turns[0] = self.separator.join(filter(None, [instruction, turns[0]]))
        roles = ("user", "assistant")
        messages = [{"role": roles[place % 2], "content": text.strip()} for place, text in enumerate(turns)]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def save(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / SHOWN).write_text(json.dumps([self._shown, self._references], indent=1))

    def recall(self, context: Context, folder: Path) -> None:
        shown, self._references = json.loads((folder / SHOWN).read_text())
        self._shown = [(context, answer) for context, answer in shown]

    def restore(self, context: Context, folder: Path) -> nn.Module:
        self.recall(context, folder)
        return self.load(context)


def in_turn(found: list[Example]) -> list[Any]:
    """Return the examples reordered so that answers take turns; examples of one answer keep their order."""
    classes: dict[str, list[Any]] = defaultdict(list)
    for one in found:
        classes[one.target].append(one)
    return [one for turn in zip_longest(*classes.values()) for one in turn if one is not None]
