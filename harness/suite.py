"""Stage 1 of 7. In: a suite's YAML. Out: a `Suite`, or every mistake in it, with file and line.

Not covered: what a suite expands to (`plan.py`), and whether its tasks and models can be had (`catalog.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import pydantic
from pydantic import ByteSize, ConfigDict, Field, create_model

from harness.configurable import Configurable
from harness.curricula import all_curricula
from harness.errors import Problem, SuiteError, UserError, unknown
from harness.lines import Lines, read_yaml
from harness.methods import JOIN, Expert, Method, all_methods, make_method
from harness.methods.composed import Composed
from harness.objectives import all_objectives
from harness.quality import UNSPOILT, Corruption, Quality, Select
from harness.recipe import Recipe
from harness.records import canonical
from harness.settings import (
    SCORING,
    TrainSettings,
    accepts_bool,
    check_devices,
    check_optimizer,
    check_train,
    explain,
    merge_train,
)

BASE = "base"


class TaskEntry(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    learn: str
    sizes: list[Literal["all"] | int] = Field(min_length=1)


class SuiteFile(pydantic.BaseModel):
    """The top level of a suite's YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    question: str = ""
    models: list[str] = Field(min_length=1)
    tasks: list[TaskEntry] = Field(min_length=1)
    retain: list[str] = []
    methods: dict[str, dict[str, Any] | None] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    train: dict[str, Any] = {}
    allow_leaks: list[str] = Field([], description="tasks that may be scored though their items are learned")
    time_limit: float | None = Field(None, gt=0, description="seconds a cell may take")
    memory_limit: ByteSize | None = Field(None, gt=0, description="resident memory a cell may hold, such as 8GiB")
    corrupt: list[Corruption] = Field([UNSPOILT], min_length=1)
    select: list[Select] = Field(["balanced"], min_length=1)


@dataclass(frozen=True)
class Label:
    """A row of the report: a recipe with a name, and how it is trained."""

    name: str
    recipe: Recipe
    train: TrainSettings

    @property
    def method(self) -> Method:
        return self.recipe.method


@dataclass(frozen=True)
class Suite:
    name: str
    path: Path
    question: str
    models: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[int | str, ...]], ...]  # (task, sizes)
    retain: tuple[str, ...]
    labels: tuple[Label, ...]
    seeds: tuple[int, ...]
    time_limit: float | None
    memory_limit: int | None  # bytes
    allow_leaks: tuple[str, ...]
    lines: Lines = field(repr=False, compare=False)
    corrupt: tuple[Corruption, ...] = (UNSPOILT,)
    select: tuple[str, ...] = ("balanced",)

    def qualities(self) -> Iterator[Quality]:
        """Every point of the axis of data quality, in the order of the file."""
        for select in self.select:
            for corrupt in self.corrupt:
                yield Quality(corrupt, select)

    def task_names(self) -> Iterator[str]:
        """Every task that any cell may learn or be scored on, once each."""
        names = [name for name, _ in self.tasks] + list(self.retain)
        for label in self.labels:
            for task, _ in self.tasks:
                recipe = label.recipe
                names += [*recipe.learns(task), *recipe.reads(task), *(expert.learn for expert in recipe.wants(task))]
        return iter(dict.fromkeys(names))

    def place_of(self, task: str) -> tuple[str | int, ...]:
        """Where the file names a task."""
        for place, (name, _) in enumerate(self.tasks):
            if name == task:
                return "tasks", place, "learn"
        return ("retain", self.retain.index(task)) if task in self.retain else ("methods",)

    def learned_and_scored(self) -> Iterator[tuple[str, str]]:
        """Every pair of a task that some cell learns from and one that it is scored on, once each."""
        pairs = []
        for label in self.labels:
            for task, _ in self.tasks if label.method.uses_data else ():
                scored = (*label.recipe.learns(task), *self.retain)
                pairs += [(source, one) for source in label.recipe.studies(task) for one in scored]
        return iter(dict.fromkeys(pairs))

    def model_names(self) -> Iterator[str]:
        names = list(self.models)
        for label in self.labels:
            own = label.method.own_model()
            wanted = [expert.model for expert in label.recipe.wants("") if expert.model]
            names += [*([own] if own else []), *label.recipe.borrows(), *wanted]
        return iter(dict.fromkeys(names))


def find_suite(name: str, root: Path) -> Path:
    """`suites/<name>.yaml`, or `name` itself when it is a path. Raises UserError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no suite at {path}. Name a file, or one of suites/ ({', '.join(suite_names(root))}).")
        return path
    path = root / "suites" / f"{name}.yaml"
    if not path.is_file():
        raise UserError(unknown("suite", name, suite_names(root), f"A suite is a file in {root / 'suites'}."))
    return path


def suite_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "suites").glob("*.yaml") if path.stem != "models")


class Names(Protocol):
    """What a suite's names are looked up in (`catalog.Catalog`). Look-ups raise UserError."""

    def model(self, name: str) -> Any: ...
    def task_path(self, name: str) -> Path: ...
    def task_facts(self, name: str) -> Any: ...


def load_suite(path: Path, names: Names | None = None) -> Suite:
    """Read and check a suite: its form, and with `names` also that its models and tasks exist, and that
    its sizes fit what is known of the data. Raises SuiteError with every mistake found."""
    data, lines, problems = read_yaml(path)
    if data is None:
        raise SuiteError(problems)
    try:
        file = SuiteFile.model_validate(data, strict=False)
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, SuiteFile) for item in error.errors()]
        # Go on with what can be read, so that mistakes in methods and train show in the same message.
        file = None
    labels = []
    block = data.get("train")
    suite_train: dict[str, Any] = block if isinstance(block, dict) else {}
    if suite_train:
        problems += check_train(suite_train, lines, ("train",))
    methods = data.get("methods")
    if isinstance(methods, dict):
        if BASE not in methods:
            methods = {BASE: {}, **methods}
        for name, settings in methods.items():
            label, found = read_label(str(name), settings, suite_train, lines)
            problems += found
            if label:
                labels.append(label)
    problems += check_lists(data, lines)
    for place, entry in enumerate(file.corrupt if file else ()):
        if file and entry in file.corrupt[:place]:
            again = entry.model_dump(exclude_defaults=True) or "clean data ({})"
            problems.append(lines.problem(f"{again} is listed twice. Remove one.", "corrupt", place))
    problems += check_labels(labels, lines)
    problems += check_curricula(data, labels, lines)
    if names:
        problems += check_names(data, labels, names, lines)
    if problems or file is None:
        raise SuiteError(dict.fromkeys(problems))
    return Suite(
        name=path.stem,
        path=path,
        question=file.question,
        models=tuple(file.models),
        tasks=tuple((entry.learn, tuple(entry.sizes)) for entry in file.tasks),
        retain=tuple(file.retain),
        labels=tuple(labels),
        seeds=tuple(file.seeds),
        time_limit=file.time_limit,
        memory_limit=file.memory_limit,
        allow_leaks=tuple(file.allow_leaks),
        lines=lines,
        corrupt=tuple(file.corrupt),
        select=tuple(file.select),
    )


def check_lists(data: dict[str, Any], lines: Lines) -> Iterator[Problem]:
    """Repeated and impossible entries of lists, whatever else is wrong with the file."""

    def entries(holder: Any, key: str) -> list[Any]:
        found = holder.get(key) if isinstance(holder, dict) else None
        return found if isinstance(found, list) else []

    tasks = entries(data, "tasks")
    lists: list[tuple[tuple[Any, ...], list[Any]]] = [
        *(((key,), entries(data, key)) for key in ("models", "retain", "seeds", "select")),
        (("tasks",), [task.get("learn") if isinstance(task, dict) else None for task in tasks]),
        *((("tasks", place, "sizes"), entries(task, "sizes")) for place, task in enumerate(tasks)),
    ]
    for path, values in lists:
        for place, value in enumerate(values):
            if value is not None and value in values[:place]:
                yield lines.problem(f"{value!r} is listed twice. Remove one.", *path, place)
            if path[-1] == "sizes" and isinstance(value, int) and value < 1:
                yield lines.problem(f"size {value}: a size is a number of training examples, or all.", *path, place)
            if path[-1] == "seeds" and isinstance(value, int) and value < 0:
                yield lines.problem(f"seed {value}: a seed is at least 0.", *path, place)


def check_labels(labels: list[Label], lines: Lines) -> Iterator[Problem]:
    """Labels that would be one cell: the second would vanish from plan and report."""
    seen: dict[str, str] = {}
    for label in labels:
        method = label.method
        train = label.train.model_dump(include=None if method.trains else set(SCORING))
        what = canonical([method.name, method.settings, train, label.recipe.beside])
        if what in seen:
            yield lines.problem(
                f"label {label.name!r} is the same as {seen[what]!r}: same method, same settings. Remove one.",
                "methods", label.name,
            )  # fmt: skip
        seen.setdefault(what, label.name)


def check_curricula(data: dict[str, Any], labels: list[Label], lines: Lines) -> Iterator[Problem]:
    """Curricula that do not go with a task of the suite."""
    entries = data.get("tasks")
    for entry in entries if isinstance(entries, list) else []:
        task = entry.get("learn") if isinstance(entry, dict) else None
        if not isinstance(task, str):
            continue
        for label in labels:
            curriculum = label.recipe.curriculum
            for message in curriculum.clashes(task, label.train) if curriculum else ():
                yield lines.problem(f"label {label.name!r}: {message}", "methods", label.name, "curriculum")


def check_names(data: dict[str, Any], labels: list[Label], names: Names, lines: Lines) -> Iterator[Problem]:
    """Models and tasks that nobody knows, models of the wrong kind, and sizes that the data cannot give."""

    def model(name: str, kind: str, *path: Any) -> Iterator[Problem]:
        try:
            found = names.model(name)
        except UserError as error:
            yield lines.problem(str(error), *path)
            return
        if kind and found.kind and found.kind != kind:
            yield lines.problem(f"model {name!r} is of the kind {found.kind}; {kind} is wanted here.", *path)

    def task(name: str, *path: Any) -> Iterator[Problem]:
        try:
            names.task_path(name)
        except UserError as error:
            yield lines.problem(str(error), *path)

    def entries(key: str) -> Iterator[tuple[int, Any]]:
        listed = data.get(key)
        return enumerate(listed if isinstance(listed, list) else [])

    for place, name in entries("models"):
        if isinstance(name, str):
            yield from model(name, "causal", "models", place)
    for place, name in entries("retain"):
        if isinstance(name, str):
            yield from task(name, "retain", place)
    for place, entry in entries("tasks"):
        if isinstance(entry, dict) and isinstance(entry.get("learn"), str):
            wrong = list(task(entry["learn"], "tasks", place, "learn"))
            yield from wrong
            facts = None if wrong else names.task_facts(entry["learn"])
            sizes = entry.get("sizes")
            if facts:
                yield from check_sizes(place, facts, sizes if isinstance(sizes, list) else [], lines)
    for label in labels:
        if own := label.method.own_model():
            yield from model(own, "encoder", "methods", label.name, "encoder")
        for name in label.method.borrows():
            yield from model(name, "", "methods", label.name)
        for name in (name for objective in label.recipe.objectives for name in objective.borrows()):
            yield from model(name, "causal", "methods", label.name)
        for expert in label.recipe.wants(""):
            if expert.model:
                yield from model(expert.model, "causal", "methods", label.name)
        for name in dict.fromkeys([*label.recipe.learns(""), *label.recipe.reads("")]):
            if name:
                yield from task(str(name), "methods", label.name)


def check_sizes(place: int, facts: Any, sizes: Iterable[Any], lines: Lines) -> Iterator[Problem]:
    """A task entry that cannot be learned, or not at these sizes."""
    if facts.unlearnable:
        yield lines.problem(f"task {facts.name!r} cannot be learned: {facts.unlearnable}", "tasks", place, "learn")
        return
    for rank, size in enumerate(sizes):
        if isinstance(size, int) and size > facts.n_train:
            yield lines.problem(
                f"size {size} is more than the {facts.n_train} training examples of {facts.name!r}. "
                "Lower it, or write all.",
                "tasks", place, "sizes", rank,
            )  # fmt: skip


def read_label(
    name: str, settings: Any, suite_train: dict[str, Any], lines: Lines
) -> tuple[Label | None, list[Problem]]:
    """One entry of `methods:`: {method, train, objectives, curriculum, and the method's own settings}."""
    where = ("methods", name)
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        return None, [lines.problem(f"label {name!r}: got {settings!r}, wanted settings or {{}}.", *where)]
    settings = dict(settings)
    method_name = settings.pop("method", name)
    own_train = settings.pop("train", {}) or {}
    objectives, problems = read_parts(settings.pop("objectives", None), all_objectives(), lines, (*where, "objectives"))
    for part in objectives:
        problems += check_needs(part.wants("?"), part.refuses_need, lines, (*where, "objectives", part.name))
    curricula, found = read_parts(settings.pop("curriculum", None), all_curricula(), lines, (*where, "curriculum"))
    problems += found
    if curricula[1:]:
        problems.append(lines.problem("a label has one curriculum. Keep one.", *where, "curriculum"))
    incomplete = bool(problems)
    if isinstance(method_name, list):
        method, found = build_composed(method_name, settings, lines, where)
    elif method_name not in all_methods():
        hint = "" if method_name != name else f"A label of your own names its method: {name}: {{method: lora}}."
        return None, [*problems, lines.problem(unknown("method", method_name, all_methods(), hint), *where, "method")]
    elif name == BASE and (method_name != BASE or settings or own_train or objectives or curricula):
        return None, [
            lines.problem("base is the untouched model, with no settings: every gain is measured from it. "
                          "Give the other row a name of its own (base-nf4: {method: base, quantize: nf4}).", *where)
        ]  # fmt: skip
    else:
        method, found = build_method(method_name, settings, lines, where)
    problems += found
    if not isinstance(own_train, dict):
        problems.append(lines.problem(f"train: got {own_train!r}, wanted settings.", *where, "train"))
        own_train = {}
    problems += check_train(own_train, lines, (*where, "train"), suite_train)
    train = None
    try:
        train = TrainSettings.model_validate(merge_train(suite_train, own_train))
    except pydantic.ValidationError:
        pass  # already reported, at the block it stands in
    if not (method and train) or incomplete:
        return None, problems
    place = next(((*path, key) for path, block in (((*where, "train"), own_train), (("train",), suite_train))
                  for key in ("strategy", "devices") if key in block), where)  # fmt: skip
    problems += [
        lines.problem(f"label {name!r}: {message}", *(where if place[0] == "train" else place))
        for message in check_devices(method, train)
    ]
    block = (*where, "train") if "optimizer" in own_train else ("train",)
    problems += [
        lines.problem(f"label {name!r}: {message}", *block, "optimizer") for message in check_optimizer(method, train)
    ]
    recipe = Recipe(method, tuple(objectives), curricula[0] if curricula else None)
    problems += [lines.problem(f"label {name!r}: {message}", *where) for message in recipe.refusals(train)]
    return Label(name, recipe, train), problems


T = TypeVar("T", bound=Configurable)


def read_parts(
    block: Any, known: dict[str, type[T]], lines: Lines, where: tuple[Any, ...]
) -> tuple[list[T], list[Problem]]:
    """Objectives or a curriculum: a name, or {name: settings}."""
    if block is None:
        return [], []
    if isinstance(block, str):
        block = {block: {}}
    if not isinstance(block, dict):
        return [], [lines.problem(f"{where[-1]}: got {block!r}, wanted a name, or name: {{settings}}.", *where)]
    made, problems = [], []
    for name, settings in block.items():
        if name not in known:
            problems.append(lines.problem(unknown(where[-1].removesuffix("s"), name, known), *where, name))
        elif settings is not None and not isinstance(settings, dict):
            problems.append(lines.problem(f"{name}: got {settings!r}, wanted settings or {{}}.", *where, name))
        else:
            part, found = build(known[name], settings or {}, lines, (*where, name))
            problems += found
            made += [part] if part else []
    return made, problems


def build_composed(
    names: list[Any], settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[Method | None, list[Problem]]:
    """Several methods at once: `method: [layerwise, prefix_tuning]`, with settings under each one's name."""
    known, problems, parts = all_methods(), [], []
    for place, name in enumerate(names):
        if name not in known:
            problems.append(lines.problem(unknown("method", name, known), *where, "method", place))
    for name, value in settings.items():
        if name not in names:
            problems.append(lines.problem(unknown("part of the method", name, list(map(str, names))), *where, name))
        elif not isinstance(value, dict):
            problems.append(lines.problem(f"{name}: got {value!r}, wanted settings or {{}}.", *where, name))
    if len(names) < 2:
        problems.append(lines.problem(f"method: got {names!r}, wanted a name, or two or more.", *where, "method"))
    if problems:
        return None, problems
    for name in names:
        part, found = build(known[name], settings.get(name, {}), lines, (*where, name))
        problems += found
        parts += [part] if part else []
    if problems:
        return None, problems
    method = Composed(parts)
    problems = [lines.problem(f"label {where[-1]!r}: {message}", *where) for message in method.problems()]
    return (None if problems else method), problems


def build_method(
    name: str, settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[Method | None, list[Problem]]:
    """A method with checked and coerced settings, or what is wrong with them and with the experts it asks for."""
    if JOIN in name:
        return make_method(name, settings), []  # of a label that has been checked
    settings, problems = with_inner(all_methods()[name], settings, lines, where)
    if problems:
        return None, problems
    method, problems = build(all_methods()[name], settings, lines, where)
    if method is None:
        return None, problems
    problems = check_needs(method.wants("?"), method.refuses, lines, (*where, "experts"))
    return (None if problems else method), problems


def check_needs(
    wanted: Iterable[Expert],
    refuses: Callable[[Method], Iterable[str]],
    lines: Lines,
    where: tuple[Any, ...],
) -> list[Problem]:
    """What is wrong with the cells that a method or an objective asks for."""
    problems: list[Problem] = []
    for expert in wanted:
        if expert.method not in all_methods():
            problems.append(lines.problem(unknown("method", expert.method, all_methods()), *where))
            continue
        given, found = with_inner(all_methods()[expert.method], expert.settings, lines, where)
        made = None
        if not found:
            made, found = build(all_methods()[expert.method], given, lines, where)
        refused = refuses(made) if made else ()
        problems += [*found, *(lines.problem(message, *where) for message in refused)]
    return list(dict.fromkeys(problems))


def with_inner(
    kind: type[Method], settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[dict[str, Any], list[Problem]]:
    """A method's settings with those of the method inside it checked and coerced, or what is wrong with these."""
    block = settings.get(kind.inner)
    if not isinstance(block, dict):
        return settings, []
    place = (*where, kind.inner)
    name = block.get("method")
    if name not in all_methods():
        hint = f"The method that {kind.name} trains is named so: {kind.inner}: {{method: lora}}."
        return settings, [lines.problem(unknown("method", name, all_methods(), hint), *place)]
    given = {key: value for key, value in block.items() if key != "method"}
    made, problems = build(all_methods()[name], given, lines, place)
    if made is None:
        return settings, problems
    return {**settings, kind.inner: {"method": name, **{key: made.settings[key] for key in given}}}, []


def build(
    kind: type[T], settings: dict[str, Any], lines: Lines, where: tuple[Any, ...]
) -> tuple[T | None, list[Problem]]:
    """A method, objective or curriculum with checked and coerced settings, or what is wrong with them."""
    fields: dict[str, Any] = {key: (annotation, getattr(kind, key)) for key, annotation in kind.annotations().items()}
    model = create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    problems = [
        lines.problem(f"{key}: got {value!r}, wanted a number.", *where, key)
        for key, value in settings.items()
        if isinstance(value, bool) and key in fields and not accepts_bool(fields[key][0])
    ]
    try:
        checked = model.model_validate(settings)
    except pydantic.ValidationError as error:
        problems += [explain(item, lines, model, where, f"setting of {kind.name}") for item in error.errors()]
    if problems:
        return None, problems
    made = kind(**{key: getattr(checked, key) for key in fields})
    for key, value in made.settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(lines.problem(f"{key}: got {value}, wanted a finite number.", *where, key))
        elif key == "learning_rate" and value <= 0:
            problems.append(lines.problem(f"learning_rate: got {value}, wanted a number above 0.", *where, key))
    label = where[1] if len(where) > 1 else where[0]
    problems += [lines.problem(f"label {label!r}: {message}", *where) for message in made.problems()]
    return (None if problems else made), problems
