"""A cell: the unit of work, of resuming and of comparing, as every stage passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from harness.records.json_object import JsonObject
from harness.records.train_settings import TrainSettings

BEST_TRIAL = "best_trial"  # the fact of a study that has the number of the chosen trial
TRAIN, OBJECTIVES = "train", "objectives"  # how the full names of settings begin that are not the method's own
STUDY, WARM = "study", "warm"  # roles of a study that a cell needs, and of one whose best setting another begins with


@dataclass(frozen=True)
class Cell:
    """One label × model × task × data size × seed: the unit of work, of resuming and of comparing.

    `key` is for people and joins history; `spec_digest` is what the cell *is* (see `plan/identity.py`).
    An untrained cell has `n_train` 0 and no seed. `needs` maps a role ("expert:bbc-topic") to the
    spec digest of the cell that fills it. `baseline` is the bare base model's cell. `objectives` and
    `curriculum` map a name to its settings. `reads` are tasks whose training text is used without being scored,
    `borrows` are models beside its own. `draw` is the seed that draws its examples, where that is not `seed`.
    `data` says how its training data was chosen and spoilt (`data.Quality`), nothing for clean, balanced data.
    `study` says how a study searches settings (`plan/studies.py`): a study is not run itself, its trials are. `trial`
    says how a trial is scored. A tuned cell needs its study, which chooses some of its settings before it runs.
    """

    key: str
    spec_digest: str
    label: str
    method: str
    family: str
    model: str
    task: str
    learn: tuple[str, ...]
    n_train: int
    seed: int | None
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
        return {**asdict(replace(self, train=None)), "train": self.train.model_dump()}  # type: ignore[arg-type]

    @property
    def run_seed(self) -> int:
        """The seed of everything that is random while the cell runs: its own, or 0 where it has none."""
        return self.seed if self.seed is not None else 0

    @property
    def loads(self) -> dict[str, str]:
        """Role -> spec digest of the needed cells whose weights it loads: all but studies."""
        return {role: need for role, need in self.needs.items() if role not in (STUDY, WARM)}

    def fingerprint_key(self, model: str) -> str:
        """The key of a model in `fingerprints`; tasks stand under their own names."""
        return "model" if model == self.model else f"model:{model}"

    def member(self) -> JsonObject:
        """The entry of a cell in the record of a run that it is part of."""
        names = ("key", "label", "spec_digest", "model", "task", "n_train", "seed", "baseline", "data")
        return {name: getattr(self, name) for name in names} | ({"role": "study"} if self.study else {})

    @classmethod
    def from_json(cls, data: JsonObject) -> Cell:
        lists = {name: tuple(data.get(name, ())) for name in ("learn", "retain", "reads", "borrows")}
        return cls(**{**data, **lists, "train": TrainSettings.model_validate(data["train"])})


def with_settings(cell: Cell, params: Mapping[str, object]) -> Cell:
    """A cell with some settings (by full name) changed; its identity stays that of the cell as it was planned."""
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
