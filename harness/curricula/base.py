"""The base class of every curriculum: stages of training, each on its own rows.

A curriculum is one class in one file of this folder; without one, a cell is trained on its task, in one stage
(`single.py`). Every stage has an optimiser and a learning-rate schedule of its own: Adam's moments of an earlier task
say nothing of the next one's gradients. Adapters and weights carry over from stage to stage.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods import Context, LogFloat, Method, Options, Space
from harness.plugin import Configurable
from harness.records import Fact, Score, TrainSettings

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ASIDE",
    "Context",
    "Curriculum",
    "Fact",
    "LogFloat",
    "Method",
    "Options",
    "Score",
    "Stage",
    "TrainSettings",
    "aside",
    "mixture",
    "rows_of_steps",
    "weight_problems",
]

Row = dict[str, Any]  # input_ids, labels and, where rows of several kinds are mixed, the weight of its answer tokens
ASIDE = "aside"  # the key of a row that answers no task


@dataclass(frozen=True)
class Stage:
    """One stage of training: encoded rows to learn, and rows to validate on (empty: no early stopping).

    Rows that are not `ordered` are drawn at random for the cell's steps or epochs. Ordered rows are the whole course of
    the stage: they are learned once, batch after batch, as they stand.
    """

    name: str
    rows: list[Row] = field(repr=False)
    validation: list[Row] = field(default_factory=list, repr=False)
    ordered: bool = False


class Curriculum(Configurable):
    """The data that a cell trains on, and their order. Annotated public fields are the YAML keys, with their
    defaults."""

    kind = "curriculum"
    space: ClassVar[Space] = {}  # the settings that tuning may search
    scores_stages: ClassVar[bool] = False  # True: every learned task is scored after each stage
    chat: ClassVar[bool] = False  # True: learned tasks are asked through the model's chat template, also in scoring

    # --- planning: pure, no torch ---

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        """Yield why the curriculum cannot be used with a method or with training settings; nothing where it can."""
        if not method.is_language_model:
            yield f"{method.name} has the answers of one task for its output, and {self.name} learns other text too."

    def clashes(self, task: str, train: TrainSettings) -> Iterable[str]:
        """Return why the curriculum cannot be used where the suite learns `task` with these training settings; empty
        where it can."""
        return ()

    def learns(self, task: str) -> tuple[str, ...]:
        """Return the tasks that are learned, and scored in the end, where the suite learns `task`; that one comes
        first."""
        return (task,)

    def reads(self, task: str) -> tuple[str, ...]:
        """Return the names of further tasks whose training text the curriculum uses where the suite learns `task`.
        Reading one does not score it; the suite may also retain it."""
        return ()

    # --- working: inside the worker's process ---

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return the stages, in order, with encoded rows. `model` is attached; its scorer decides how rows are encoded.
        `context` gives the cell's examples, texts and settings."""
        raise NotImplementedError

    def summary(self, history: Sequence[tuple[str, Sequence[Score]]]) -> list[Fact]:
        """Return facts computed from the scores of all learned tasks after each stage: `history` is (stage, scores) in
        order. Only called where `scores_stages`."""
        return []


def rows_of_steps(context: Context, shares: Sequence[float], passes: Sequence[float]) -> list[int]:
    """Return how many rows each stage learns: its share of the cell's steps or, where the cell trains by epochs,
    `passes[i]` rows for each epoch of stage i. `context` has the cell's settings.

    Steps are rounded so that they sum to the cell's; shares sum to 1.
    """
    settings = context.settings
    if not settings.steps:
        return [max(1, round((settings.epochs or 1.0) * each)) for each in passes]
    ends = [round(settings.steps * end) for end in accumulate(shares)]
    a_step = settings.batch_size * settings.gradient_accumulation
    return [a_step * (end - start) for start, end in zip([0, *ends], ends, strict=False)]


def mixture(parts: Mapping[str, Sequence[Row]], shares: Mapping[str, float], count: int, salt: object) -> list[Row]:
    """Return `count` rows in the order in which they are learned, mixed everywhere in proportion to `shares`. Both
    mappings have the names of the parts; a part without a share above 0 is left out.

    Each next row comes from the part that is furthest behind its share, so no part is ever a whole row ahead of its
    share. A part's rows are shuffled (by `salt`), and shuffled anew each time all have been used. Where more than one
    part has a share above 0, each row gets a `weight` of 1 / its answer tokens, so that every row counts the same in
    the loss: otherwise a passage of a hundred tokens would drown out a one-token answer.
    """
    given = {name: share for name, share in shares.items() if share > 0}
    total = sum(given.values())
    sources = {name: endless(parts[name], f"{salt} {name}") for name in given}
    taken = dict.fromkeys(given, 0)
    made = []
    for place in range(1, count + 1):
        name = max(given, key=lambda name: place * given[name] / total - taken[name])
        taken[name] += 1
        row = next(sources[name])
        made.append(row if len(given) == 1 else {**row, "weight": 1 / max(1, answer_tokens(row))})
    return made


def aside(rows: Sequence[Row]) -> list[Row]:
    """Return copies of rows marked as learned beside the tasks, such as general text: their loss is minimised, but is
    left out of the cross-entropy of the tasks' answers."""
    return [{**row, ASIDE: True} for row in rows]


def endless(rows: Sequence[Row], salt: str) -> Iterator[Row]:
    """Yield rows without end, each pass over them in another order, drawn by `salt`."""
    number = 0
    while True:
        order = list(range(len(rows)))
        random.Random(f"{salt} {number}").shuffle(order)
        yield from (rows[place] for place in order)
        number += 1


def answer_tokens(row: Row) -> int:
    """Return how many tokens of a row count in the loss: those whose label is not -100."""
    return sum(label != -100 for label in row["labels"])


def weight_problems(weights: Mapping[str, float], tasks: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the weights (task -> weight) by which a curriculum mixes `tasks`, those that it
    learns."""
    for name, weight in weights.items():
        if name not in tasks:
            yield f"weights names {name!r}, which is not learned here. The tasks are {', '.join(tasks)}."
        elif not weight > 0:
            yield f"the weight of {name!r} is {weight}; it must be above 0. To leave a task out, drop it from tasks."
