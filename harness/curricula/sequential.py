"""Task after task, as in continual learning, scored after each one.

Average accuracy and backward transfer: Lopez-Paz & Ranzato 2017, arXiv:1706.08840. Forgetting: Chaudhry et al. 2018,
arXiv:1801.10112.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from harness.curricula.base import (  # fmt: skip
    Context,
    Curriculum,
    Fact,
    Method,
    Options,
    Score,
    Stage,
    TrainSettings,
    mixture,
    rows_of_steps,
)

if TYPE_CHECKING:
    from torch import nn


class Sequential(Curriculum):
    """Sequential: one task after another, with every learned task scored after each stage.

    `tasks` are learned in this order, each from as many examples as the cell has; the suite's own task comes first
    where they do not name it. The cell's steps are divided equally among them; with epochs, each task gets all of
    them. `replay` is the share of earlier tasks' rows in the later stages, in equal parts for each earlier task.

    Facts: `after:<stage>:<task>:<metric>` (the matrix) and, for the headline metric, where the tasks share one,
    `average_accuracy`, `backward_transfer` and `forgetting`. Scoring between stages is the phase `score_stages`, which
    is not part of training.
    """

    name = "sequential"
    paper = "arXiv:1706.08840"
    space = {"replay": Options((0.0, 0.1, 0.2, 0.5))}
    scores_stages = True

    tasks: list[str] = []
    replay: float = 0.0

    def problems(self) -> Iterable[str]:
        if not self.tasks:
            yield "tasks is empty. Name them in the order in which they are learned: tasks: [bbc-topic, reuters-r8]."
        for name in sorted({name for name in self.tasks if self.tasks.count(name) > 1}):
            yield f"tasks names {name!r} twice. Remove one."
        if not 0 <= self.replay < 1:
            yield f"replay is {self.replay}; it must be at least 0 and below 1."

    def refuses(self, method: Method, train: TrainSettings) -> Iterable[str]:
        yield from super().refuses(method, train)
        if train.devices > 1:
            yield (
                f"{self.name} scores between stages, which one process does, and devices is {train.devices}. "
                "Give it train: {devices: 1}."
            )

        for part in getattr(method, "parts", [method]):
            if not part.trains and type(part).fit is not Method.fit:
                yield f"{part.name} is made ready after training, and {self.name} scores before its end. Drop one."

    def clashes(self, task: str, train: TrainSettings) -> Iterable[str]:
        order = self.order(task)
        if len(order) == 1:
            yield f"{self.name} names {task!r} alone, the suite's own task. Name another one in tasks."
        if train.steps and train.steps < len(order):
            yield f"steps is {train.steps}, and there are {len(order)} tasks to learn. Raise steps."

    def order(self, task: str) -> tuple[str, ...]:
        """Return the tasks in the order in which they are learned; `task` is the suite's own."""
        return tuple(self.tasks) if task in self.tasks else (task, *self.tasks)

    def learns(self, task: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys([task, *self.tasks]))

    def stages(self, model: nn.Module, context: Context) -> list[Stage]:
        """Return a stage for each task, in order, with rows of the earlier tasks mixed in by `replay`."""
        order = self.order(context.task)
        rows = {name: context.rows(model, context.examples(task=name)) for name in order}
        own = [1.0 if place == 0 else 1 - self.replay for place in range(len(order))]
        passes = [len(rows[name]) / share for name, share in zip(order, own, strict=True)]
        counts = rows_of_steps(context, [1 / len(order)] * len(order), passes)
        stages = []
        for place, (name, share, count) in enumerate(zip(order, own, counts, strict=True)):
            shares = {name: share, **dict.fromkeys(order[:place], (1 - share) / max(1, place))}
            validation = (
                context.rows(model, context.examples("validation", name)) if context.settings.eval_every else []
            )
            stages.append(
                Stage(name, mixture(rows, shares, count, f"{context.seed} {place}"), validation, ordered=True)
            )
        return stages

    def summary(self, history: Sequence[tuple[str, Sequence[Score]]]) -> list[Fact]:
        """Return the matrix of scores as facts and, where all tasks have the same headline metric, their averages.
        `history` is (stage, scores of all learned tasks after it) in order."""
        facts = [
            Fact(f"after:{stage}:{score.task}:{score.metric}", score.value, score.metric, score.higher_is_better)
            for stage, scores in history
            for score in scores
        ]
        heads = [{score.task: score for score in reversed(scores)} for _, scores in history]  # the first of a task
        last = heads[-1]
        metrics = {(score.metric, score.higher_is_better) for score in last.values()}
        if len(metrics) > 1:
            return facts  # a mean of different metrics would be no figure of anything
        ((metric, higher),) = metrics
        matrix = [[head[stage].value for stage, _ in history] for head in heads]
        return [
            *facts,
            Fact("average_accuracy", average(matrix), metric, higher),
            Fact("backward_transfer", backward_transfer(matrix), metric, higher),
            Fact("forgetting", forgetting(matrix, higher), metric, False),
        ]


# matrix[i][j]: the score of task j after stage i; T stages of one task each.


def average(matrix: Sequence[Sequence[float]]) -> float:
    """Return the average accuracy, ACC = 1/T Σ_j R[T][j] (Lopez-Paz & Ranzato 2017).

    `matrix` is R: R[i][j] is the score of task j after stage i of T.
    """
    return sum(matrix[-1]) / len(matrix)


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Return the backward transfer, BWT = 1/(T-1) Σ_{j<T} (R[T][j] - R[j][j]) (Lopez-Paz & Ranzato 2017).

    `matrix` is R: R[i][j] is the score of task j after stage i of T, in the metric's own direction.
    """
    earlier = range(len(matrix) - 1)
    return sum(matrix[-1][task] - matrix[task][task] for task in earlier) / len(earlier)


def forgetting(matrix: Sequence[Sequence[float]], higher_is_better: bool = True) -> float:
    """Return the forgetting, F = 1/(T-1) Σ_{j<T} (max_{l<T} R[l][j] - R[T][j]) (Chaudhry et al. 2018).

    `matrix` is R: R[i][j] is the score of task j after stage i of T. The best earlier score may come from before the
    task was learned. Positive is worse, whichever direction the metric has.
    """
    sign = 1 if higher_is_better else -1
    earlier = range(len(matrix) - 1)
    best = [max(sign * row[task] for row in matrix[:-1]) for task in earlier]
    return sum(best[task] - sign * matrix[-1][task] for task in earlier) / len(earlier)
