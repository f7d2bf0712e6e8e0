"""A recipe: the method, objectives and curriculum of a cell, that is, what is trained, what is minimised, and on which
data in which order.

Pure. Made from a suite (`variants.py`), or from a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.curricula import Curriculum, all_curricula
from harness.methods import Expert, Method, make_method
from harness.objectives import Objective, all_objectives
from harness.records import Cell, JsonObject, TrainSettings


@dataclass(frozen=True)
class Recipe:
    """A method with the objectives and the curriculum that are used with it."""

    method: Method
    objectives: tuple[Objective, ...] = ()
    curriculum: Curriculum | None = None

    @classmethod
    def of(cls, cell: Cell) -> Recipe:
        """Return the recipe of a cell. Raises KeyError for names, and ValueError for settings, that this version does
        not know."""
        curricula = [all_curricula()[name](**settings) for name, settings in cell.curriculum.items()]
        return cls(
            make_method(cell.method, cell.settings),
            tuple(all_objectives()[name](**settings) for name, settings in cell.objectives.items()),
            curricula[0] if curricula else None,
        )

    @property
    def parts(self) -> list[Method | Objective | Curriculum]:
        """The method, the objectives and, where there is one, the curriculum."""
        return [self.method, *self.objectives, *([self.curriculum] if self.curriculum else [])]

    @property
    def beside(self) -> JsonObject:
        """What is used beside the method, as a cell stores it: {"objectives": …, "curriculum": …}, each {name:
        settings}. A key without any is left out."""
        found: JsonObject = {}
        if self.objectives:
            found["objectives"] = {objective.name: objective.settings for objective in self.objectives}
        if self.curriculum:
            found["curriculum"] = {self.curriculum.name: self.curriculum.settings}
        return found

    def learns(self, task: str) -> tuple[str, ...]:
        """Return the tasks that a cell of this recipe learns and is scored on when the suite learns `task`, which comes
        first; empty where the method learns from no examples."""
        return self.curriculum.learns(task) if self.curriculum else self.method.learns(task)

    def wants(self, task: str) -> Iterator[Expert]:
        """Yield the cells (experts, teachers) that must be done before a cell of this recipe that learns `task`
        runs."""
        yield from self.method.wants(task)
        for objective in self.objectives:
            yield from objective.wants(task)

    def reads(self, task: str) -> tuple[str, ...]:
        """Return the names of further tasks whose training text the recipe uses when `task` is the one the suite
        learns: replayed, retrieved or regularising text. Reading one does not score it; the suite may also retain
        it."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.reads(task)))

    def studies(self, task: str) -> tuple[str, ...]:
        """Return the tasks whose text changes weights when the suite learns `task`: those that are learned, those that
        objectives and curriculum read, and those that experts learn. Tasks that the method itself reads are left out:
        it only looks things up in them, and finding answers there is no leak."""
        read = [name for part in self.parts if part is not self.method for name in part.reads(task)]
        return tuple(dict.fromkeys([*self.learns(task), *read, *(expert.learn for expert in self.wants(task))]))

    def borrows(self) -> tuple[str, ...]:
        """Return the names of the models that the recipe uses beside the cell's own."""
        parts: list[Method | Objective] = [self.method, *self.objectives]
        return tuple(dict.fromkeys(name for part in parts for name in part.borrows()))

    def skip(self) -> str | None:
        """Return why the recipe cannot run on this machine (a missing package), or None."""
        return next((reason for part in self.parts if (reason := part.skip())), None)

    def skip_cell(self, cell: Cell, gpu: bool) -> str | None:
        """Return why a cell of this recipe cannot run on this machine, by its parts or its training settings; None
        where it can. `gpu` says whether the machine has a GPU. Called before a process is started."""
        # A trainer of the method's own has its own optimizer; scoring is ours.
        train = cell.train.for_scoring if self.method.own_trainer else cell.train
        return self.skip() or train.unavailable(gpu)

    def refusals(self, train: TrainSettings) -> Iterator[str]:
        """Yield why the method, objectives and curriculum cannot be combined, or cannot be used with these training
        settings."""
        yield from self.method.cannot_train(train)
        parts: list[Objective | Curriculum] = [*self.objectives, *([self.curriculum] if self.curriculum else [])]
        for part in parts:
            if not self.method.trains:
                yield f"{part.name} is about training, and {self.method.name} trains nothing. Drop it."
            elif self.method.own_trainer:
                yield f"{self.method.name} has a trainer of its own, which {part.name} cannot reach. Drop it."
            elif not self.method.is_language_model:
                yield f"{self.method.name} is no language model, and {part.name} is about one. Drop it."
            else:
                yield from part.refuses(self.method, train)
