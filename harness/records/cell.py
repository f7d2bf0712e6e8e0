"""A cell, the unit of work, of resuming and of comparing, as the record that every stage passes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NotRequired, TypedDict

from harness.records.json_object import JsonObject
from harness.records.reading import Count, Name, read_record
from harness.records.train_settings import TrainSettings

BEST_TRIAL = "best_trial"  # the fact of a study that has the number of the chosen trial
TRAIN, OBJECTIVES = "train", "objectives"  # prefixes of the full names of settings that are not the method's
STUDY, WARM = "study", "warm"  # roles of needs: a cell's own study; a study whose best setting is tried too


# Libraries seed generators with 32 bits (numpy, and so transformers): a larger seed fails in training.
LARGEST_SEED = 2**32 - 1


class Member(TypedDict):
    """A cell's entry in `RunRecord.members`, with the cell's fields of these names. `data` is absent from records of an
    earlier tunebench, `role` is "study" for a study and absent from others."""

    key: Name
    label: Name
    spec_digest: Name
    model: Name
    task: Name
    n_train: Count
    seed: Count | None
    baseline: str
    data: NotRequired[JsonObject]
    role: NotRequired[str]


@dataclass(frozen=True)
class Cell:
    """One label × model × task × size × quality × seed: the unit of work, of resuming and of comparing.

    `key` is for people and joins history; `spec_digest` is what the cell *is* (see `plan/identity.py`). An untrained
    cell has `n_train` (number of training examples) 0 and no seed. `task` is the suite's; `learn` are all tasks that
    are learned and scored, `retain` those that are scored without being learned, `reads` those whose training text is
    used without being scored; `borrows` are models beside the cell's own. `fingerprints` maps these tasks and models to
    digests of their content (`fingerprint_key`). `settings` are the method's; `objectives` and `curriculum` map a name
    to its settings. `needs` maps a role ("expert:bbc-topic") to the spec digest of the cell that fills it; `baseline`
    is the spec digest of the base model's cell, "" where it is compared with none (that cell itself, studies, trials).
    `draw` is the seed that draws its examples, where that is not `seed`. `data` says how its training data was chosen
    and spoilt (`data.Quality`); it is empty for clean, balanced data. `study`, for a study's cell, says how it searches
    settings (`plan/studies.py`): a study is not run itself, its trials are. `trial`, for a trial's cell, says how it is
    scored. A tuned cell needs its study, which chooses some of its settings before it runs.
    """

    key: Name
    spec_digest: Name
    label: Name
    method: Name
    family: str
    model: Name
    task: Name
    learn: tuple[str, ...]
    n_train: Count
    seed: Count | None
    retain: tuple[str, ...]
    settings: JsonObject
    train: TrainSettings
    needs: dict[str, str] = field(default_factory=dict)
    baseline: str = ""
    objectives: dict[str, JsonObject] = field(default_factory=dict)
    curriculum: dict[str, JsonObject] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    borrows: tuple[str, ...] = ()
    fingerprints: dict[str, str] = field(default_factory=dict)
    draw: int | None = None
    data: JsonObject = field(default_factory=dict)
    study: JsonObject = field(default_factory=dict)
    trial: JsonObject = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the cell as values that JSON knows."""
        return {**asdict(replace(self, train=None)), "train": self.train.model_dump()}  # type: ignore[arg-type]

    @property
    def run_seed(self) -> int:
        """The seed of everything that is random while the cell runs: the cell's own, or 0 where it has none."""
        return self.seed if self.seed is not None else 0

    @property
    def loads(self) -> dict[str, str]:
        """The needed cells whose weights this cell loads, as {role: spec digest}: all needs but studies."""
        return {role: need for role, need in self.needs.items() if role not in (STUDY, WARM)}

    def fingerprint_key(self, model: str) -> str:
        """Return the key under which `fingerprints` has a model of this name; a task's key is its own name."""
        return "model" if model == self.model else f"model:{model}"

    def member(self) -> Member:
        """Return the cell's entry in `RunRecord.members`: its key, label, digests, model, task, size, seed and data,
        and {"role": "study"} for a study."""
        member = Member(
            key=self.key, label=self.label, spec_digest=self.spec_digest, model=self.model, task=self.task,
            n_train=self.n_train, seed=self.seed, baseline=self.baseline, data=self.data,
        )  # fmt: skip
        if self.study:
            member["role"] = STUDY
        return member

    @classmethod
    def from_json(cls, data: JsonObject) -> Cell:
        """Return the cell that `to_json` wrote. Raises ValueError for anything else; it names the wrong field."""
        return read_record(cls, data)


def with_settings(cell: Cell, params: Mapping[str, object]) -> Cell:
    """Return a cell with some settings changed; its `spec_digest` stays that of the cell as planned.

    `params` maps full names to new values: "rank" is the method's, "lora.rank" that of one of its parts, "train.steps"
    a training setting, "objectives.ewc.strength" an objective's.
    """
    settings, objectives = dict(cell.settings), dict(cell.objectives)
    train: JsonObject = {}
    for name, value in params.items():
        head, _, rest = name.partition(".")
        if head == TRAIN:
            train[rest] = value
        elif head == OBJECTIVES:
            owner, _, key = rest.partition(".")
            objectives[owner] = {**objectives[owner], key: value}
        elif rest:
            settings[head] = {**settings[head], rest: value}
        else:
            settings[name] = value
    return replace(
        cell, settings=settings, train=cell.train.changed(train) if train else cell.train, objectives=objectives
    )
