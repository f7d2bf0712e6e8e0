"""Stage 1 of 7. In: a suite's YAML. Out: a `Suite`, or every mistake in it, with file and line.

Not covered: which cells a suite expands to (`plan/plan.py`), and where tasks and models are found (`data/catalog.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pydantic
from pydantic import ByteSize, ConfigDict, Field

from harness.data import CODE, UNSPOILT, Corruption, Number, Quality, Select, find_root, load_catalog, places
from harness.errors import Problem, SuiteError, UserError, counted, unknown
from harness.records import FAILED_SEEDS, LARGEST_SEED, MARGIN, FailedSeeds, canonical, visible
from harness.suite.environments import EnvironmentRequest, read_environments
from harness.suite.search_space import TuneSettings, malformed, searchable_settings, searched_space
from harness.suite.train_settings import check_train, explain
from harness.suite.variants import BASE, Variant, read_variant
from harness.suite.yaml_lines import Lines, read_yaml

LONGEST_LABEL = 100


class TaskEntry(pydantic.BaseModel):
    """One entry of a suite's `tasks:`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn: str = Field(description="the task that is learned and scored")
    sizes: list[Literal["all"] | int] = Field(min_length=1, description="numbers of training examples")


class ModelSource(pydantic.BaseModel):
    """A base model whose own code may run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="a name of `tunebench models`, or a source")
    trust_remote_code: bool = Field(False, description="whether the Python code that comes with the model may run")

    @property
    def name(self) -> str:
        """The model's name in cells, which says whether its code runs."""
        return f"{self.source}{CODE}" if self.trust_remote_code else self.source


class SuiteFile(pydantic.BaseModel):
    """The top level of a suite's YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(description="of this format")
    question: str = Field("", description="what the suite asks; the report begins with it")
    models: list[str | ModelSource] = Field(
        min_length=1,
        description="base models: names of `tunebench models`, or sources (hf:org/name, file:folder); "
        "{source: …, trust_remote_code: true} lets the code run that comes with one",
    )
    tasks: list[TaskEntry] = Field(min_length=1, description="what is learned, and from how many examples")
    retain: list[str] = Field([], description="tasks that are not learned but scored, to measure forgetting")
    methods: dict[str, dict[str, Any] | None] = Field(
        min_length=1, description="label: {settings}; a label that is no method's name gives `method`"
    )
    seeds: list[int] = Field([0], min_length=1, description="each cell runs once with each seed")
    train: dict[str, Any] = Field({}, description="training settings of all labels")
    allow_leaks: list[str] = Field([], description="tasks that may be scored though their items are learned")
    time_limit: float | None = Field(None, gt=0, description="seconds a cell may take")
    memory_limit: ByteSize | None = Field(None, gt=0, description="resident memory a cell may hold, such as 8GiB")
    corrupt: list[Corruption] = Field([UNSPOILT], min_length=1, description="ways to spoil training data")
    select: list[Select] = Field(["balanced"], min_length=1, description="ways to select training examples")
    tune: TuneSettings | None = Field(None, description="search for each label's best setting, under the same budget")
    margin: Number = Field(
        MARGIN, ge=0, lt=1, description="the difference of scores that does not matter; below it labels are tied"
    )
    failed_seeds: FailedSeeds = Field(
        FAILED_SEEDS,
        description="what a seed counts as that diverged, failed, or ran out of memory or time: the base model "
        "(base), or all answers wrong (worst)",
    )
    environments: list[Any] = Field(
        [], description="library versions that `tunebench regress` compares: peft==0.20.0, or {peft: [0.20.0, 0.21.2]}"
    )


@dataclass(frozen=True)
class Suite:
    """A checked suite. `tasks` holds (task, numbers of training examples, or "all"); `retain` are tasks that are scored
    without being learned. `labels` begin with the base model's where the file does not list it. `time_limit` is in
    seconds a cell, `memory_limit` in bytes. `allow_leaks` are tasks that may be scored though their items are learned;
    `corrupt` and `select` say how training data is spoilt and chosen. `lines` finds the line of a key."""

    name: str
    path: Path
    question: str
    models: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[int | str, ...]], ...]  # (task, sizes)
    retain: tuple[str, ...]
    labels: tuple[Variant, ...]
    seeds: tuple[int, ...]
    time_limit: float | None
    memory_limit: int | None  # bytes
    allow_leaks: tuple[str, ...]
    lines: Lines = field(repr=False, compare=False)
    corrupt: tuple[Corruption, ...] = (UNSPOILT,)
    select: tuple[str, ...] = ("balanced",)
    tune: TuneSettings | None = None
    margin: float = MARGIN  # how results are read; like failed_seeds, no part of what a cell is
    failed_seeds: FailedSeeds = FAILED_SEEDS
    environments: tuple[EnvironmentRequest, ...] = ()  # of `regress`; no part of what a cell is either

    @property
    def plain(self) -> Suite:
        """The suite with none of the ways of computing the same with less work (`train: {fast: []}`)."""
        return replace(self, labels=tuple(replace(one, train=one.train.changed({"fast": ()})) for one in self.labels))

    @classmethod
    def load(cls, name: str | Path) -> Suite:
        """Read and check a suite: the name of one in `suites/` of the project that the current folder lies in, or of
        one that comes with tunebench, or the path of a YAML file.

        Raises UserError where there is no such suite, SuiteError with every mistake in it.
        """
        root = find_root(Path.cwd())
        return load_suite(find_suite(str(name), root), load_catalog(root))

    def qualities(self) -> Iterator[Quality]:
        """Yield every quality of training data that the suite compares: each `select` with each `corrupt`, in the
        file's order."""
        for select in self.select:
            for corrupt in self.corrupt:
                yield Quality(corrupt, select)

    def task_names(self) -> Iterator[str]:
        """Yield every task that any cell may learn, read or be scored on, once each."""
        names = [name for name, _ in self.tasks] + list(self.retain)
        for label in self.labels:
            for task, _ in self.tasks:
                recipe = label.recipe
                names += [*recipe.learns(task), *recipe.reads(task), *(expert.learn for expert in recipe.wants(task))]
        return iter(dict.fromkeys(names))

    def place_of(self, task: str) -> tuple[str | int, ...]:
        """Return the keys that lead to a task in the file, such as ("tasks", 0, "learn"); ("methods",) where only a
        method names it."""
        for place, (name, _) in enumerate(self.tasks):
            if name == task:
                return "tasks", place, "learn"
        return ("retain", self.retain.index(task)) if task in self.retain else ("methods",)

    def learned_and_scored(self) -> Iterator[tuple[str, str]]:
        """Yield each pair (task whose text a cell learns from, task that the same cell is scored on) once. Pairs are
        searched for leaks; labels that learn from no examples have none."""
        pairs = []
        for label in self.labels:
            for task, _ in self.tasks if label.method.uses_data else ():
                scored = (*label.recipe.learns(task), *self.retain)
                pairs += [(source, one) for source in label.recipe.studies(task) for one in scored]
        return iter(dict.fromkeys(pairs))

    def model_names(self) -> Iterator[str]:
        """Yield every model that any cell may use, once each: the suite's, those that labels bring along or borrow, and
        the base models of experts."""
        names = list(self.models)
        for label in self.labels:
            own = label.method.own_model()
            wanted = [expert.model for expert in label.recipe.wants("") if expert.model]
            names += [*([own] if own else []), *label.recipe.borrows(), *wanted]
        return iter(dict.fromkeys(names))


def find_suite(name: str, root: Path) -> Path:
    """Return the path of a suite: the file `name` itself where it is a path (it has a "/" or ends in .yaml or .yml),
    else `suites/<name>.yaml` of the project folder `root` or, where it has none, of those that come with tunebench, or
    the one whose results are stored under that name.
    Raises UserError where there is no such file."""
    if is_path(name) and Path(name).is_file():
        return Path(name)
    files = [place / "suites" / f"{name}.yaml" for place in places(root)]
    if path := next((file for file in files if file.is_file()), None):
        return path
    stored = (path for path in suite_files(root).values() if suite_name(path) == name)
    if path := next(stored, None):
        return path
    if is_path(name):
        raise UserError(f"no suite at {name}. Name a file, or one of suites/ ({', '.join(suite_names(root))}).")
    where = f"A suite is a file in {root / 'suites'}, or comes with tunebench (`tunebench suites` lists them)."
    raise UserError(unknown("suite", name, suite_names(root), where))


def suite_name(path: Path) -> str:
    """Return the name under which the results of a suite are stored: that of its file or, in a folder within `suites/`,
    with the folder's before it ("gpu-forgetting"), so that it is not taken for the suite of that name in `suites/`."""
    folder = path.absolute().parent
    return f"{folder.name}-{path.stem}" if folder.parent.name == "suites" else path.stem


def is_path(name: str) -> bool:
    """Return whether the name of a suite may be that of a file."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def suite_files(root: Path) -> dict[str, Path]:
    """Return name -> file of the suites that can be named in a project folder, sorted by name: its own, and those that
    come with tunebench, but for those whose name the project has."""
    found: dict[str, Path] = {}
    for place in reversed(places(root)):
        suites = place / "suites"
        own = [path for path in suites.glob("*.yaml") if path.stem != "models"]
        grouped = [path for path in suites.glob("*/*.yaml") if path.parent.name != "tasks"]
        found |= {path.relative_to(suites).with_suffix("").as_posix(): path for path in (*own, *grouped)}
    return dict(sorted(found.items()))


def suite_names(root: Path) -> list[str]:
    """Return the names of the suites that can be named in a project folder, sorted."""
    return list(suite_files(root))


class Names(Protocol):
    """The interface in which a suite's models and tasks are looked up (`data.Catalog`). Look-ups raise UserError."""

    def model(self, name: str) -> Any: ...
    def model_mistake(self, name: str) -> str: ...
    def task_path(self, name: str) -> Path: ...
    def task_facts(self, name: str) -> Any: ...


def load_suite(path: Path, names: Names | None = None) -> Suite:
    """Read and check a suite. Raises SuiteError with every mistake found.

    Its form is checked and, with `names` (the catalog), also that its models and tasks exist, and that its sizes fit
    the tasks that have been fetched.
    """
    data, lines, problems = read_yaml(path)
    if path.stem in ("", ".", "..") or not path.stem.isprintable():  # reports/<name> is the folder of its report
        problems.append(Problem(f"a suite cannot be named {visible(path.stem)!r}. Rename the file.", str(path)))
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
        problems += check_label_names(methods, lines)
        for name, settings in methods.items():
            label, found = read_variant(str(name), settings, suite_train, lines)
            problems += found
            if label:
                labels.append(label)
    problems += check_lists(data, lines)
    environments, found = read_environments(data.get("environments") or [], lines, path.parent)
    problems += found
    for place, entry in enumerate(file.corrupt if file else ()):
        if file and entry in file.corrupt[:place]:
            again = entry.model_dump(exclude_defaults=True) or "clean data ({})"
            problems.append(lines.problem(f"{again} is listed twice. Remove one.", "corrupt", place))
    problems += check_labels(labels, lines)
    problems += check_curricula(data, labels, lines)
    if file:
        problems += check_tuning(file.tune, labels, file.seeds, lines)
    if names:
        problems += check_names(data, labels, names, lines)
    if problems or file is None:
        raise SuiteError(dict.fromkeys(problems))
    return Suite(
        name=suite_name(path),
        path=path,
        question=file.question,
        models=tuple(entry if isinstance(entry, str) else entry.name for entry in file.models),
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
        tune=file.tune,
        margin=file.margin,
        failed_seeds=file.failed_seeds,
        environments=tuple(environments),
    )


def check_lists(data: dict[str, Any], lines: Lines) -> Iterator[Problem]:
    """Yield a problem for each repeated entry of a list, each size below 1 and each negative seed. `data` is the file
    as YAML reads it, so that these show together with any other mistakes."""

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
            if path[-1] == "seeds" and isinstance(value, int) and not 0 <= value <= LARGEST_SEED:
                yield lines.problem(f"seed {value}: a seed is from 0 to {LARGEST_SEED}.", *path, place)


def check_label_names(methods: dict[Any, Any], lines: Lines) -> Iterator[Problem]:
    """Yield a problem for each label that could not be told apart in a key, such as lora/smollm2/topic/n8/s0, or in a
    line of text: empty, with a slash or a sign that is not shown, too long, or the same as another when written."""
    seen: dict[str, object] = {}
    for given in methods:
        name = str(given)
        if not name.strip() or "/" in name or not name.isprintable() or len(name) > LONGEST_LABEL:
            yield lines.problem(
                f"label {visible(name[:LONGEST_LABEL])!r}: a label is a text of 1 to {LONGEST_LABEL} signs in one "
                "line, without a slash.",
                "methods", given,
            )  # fmt: skip
        if name in seen:
            yield lines.problem(f"label {given!r}: {seen[name]!r} is written the same. Rename one.", "methods", given)
        seen[name] = given


def check_labels(labels: list[Variant], lines: Lines) -> Iterator[Problem]:
    """Yield a problem for each label that names the same method, settings, training, objectives and curriculum as an
    earlier one: both would be one cell, and the second would vanish from plan and report."""
    seen: dict[str, str] = {}
    for label in labels:
        method = label.method
        train = label.train if method.trains else label.train.for_scoring
        what = canonical([method.name, method.settings, train, label.recipe.beside])
        if what in seen:
            yield lines.problem(
                f"label {label.name!r} is the same as {seen[what]!r}: same method, same settings. Remove one.",
                "methods", label.name,
            )  # fmt: skip
        seen.setdefault(what, label.name)


def check_curricula(data: dict[str, Any], labels: list[Variant], lines: Lines) -> Iterator[Problem]:
    """Yield a problem for each label whose curriculum cannot be used with a task of the suite. `data` is the file as
    YAML reads it."""
    entries = data.get("tasks")
    for entry in entries if isinstance(entries, list) else []:
        task = entry.get("learn") if isinstance(entry, dict) else None
        if not isinstance(task, str):
            continue
        for label in labels:
            curriculum = label.recipe.curriculum
            for message in curriculum.clashes(task, label.train) if curriculum else ():
                yield lines.problem(f"label {label.name!r}: {message}", "methods", label.name, "curriculum")


def check_tuning(
    tune: TuneSettings | None, labels: list[Variant], seeds: Sequence[int], lines: Lines
) -> Iterator[Problem]:
    """Yield the problems of a suite's `tune:` block (None without one) and of the labels' `space:` blocks: no budget,
    more studies than seeds, unknown settings, ranges that a label cannot take, or a `space:` in a suite that does not
    tune. `seeds` are the suite's."""
    if tune is None:
        for label in labels:
            if label.space:
                yield lines.problem(
                    f"label {label.name!r} has a space, and the suite does not tune. Add tune: {{trials: 12}}, or "
                    "drop it.",
                    "methods", label.name, "space",
                )  # fmt: skip
        return
    for key, message in tune.complaints():
        yield lines.problem(message, "tune", key)
    if tune.studies > max(len(seeds), 1):
        yield lines.problem(
            f"studies: {tune.studies}, and the suite has {counted(len(seeds), 'seed')}. Each study's choice is trained "
            "with a seed of its own; a study without one says nothing. Give as many seeds, or fewer studies.",
            "tune", "studies",
        )  # fmt: skip
    tuned = [label for label in labels if label.tuned and label.name != BASE]
    known = dict.fromkeys(name for label in tuned for name in searchable_settings(label))
    for key, value in tune.space.items():
        if key not in known:
            yield lines.problem(unknown("setting to search", key, known), "tune", "space", key)
        elif value is not None and (message := malformed(value)):
            yield lines.problem(f"{key}: {message}", "tune", "space", key)
    for label in tuned:
        for key, message in tune.misfits(label):
            yield lines.problem(f"label {label.name!r}: {message}", "tune", key)
        for key, message in searched_space(label, tune)[1]:
            where = ("methods", label.name, "space", key) if key in label.space else ("tune", "space", key)
            yield lines.problem(f"label {label.name!r}: {message}", *where)


def check_names(data: dict[str, Any], labels: list[Variant], names: Names, lines: Lines) -> Iterator[Problem]:
    """Yield a problem for each model or task that `names` does not know, each model of the wrong kind (causal or
    encoder), and each size beyond the training examples of a fetched task. `data` is the file as YAML reads it."""

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
        name = name_of(name)
        if name:
            wrong = list(model(name, "causal", "models", place))
            yield from wrong
            if not wrong and (mistake := names.model_mistake(name)):
                yield lines.problem(f"model {name!r}: {mistake}", "models", place)
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


def name_of(entry: object) -> str:
    """Return the name of an entry of `models:`, as YAML reads it; "" for one of another form."""
    if isinstance(entry, dict) and isinstance(entry.get("source"), str):
        return f"{entry['source']}{CODE}" if entry.get("trust_remote_code") is True else str(entry["source"])
    return entry if isinstance(entry, str) else ""


def check_sizes(place: int, facts: Any, sizes: Iterable[Any], lines: Lines) -> Iterator[Problem]:
    """Yield a problem where a task cannot be learned, or for each of `sizes` beyond its training examples; "all" fits
    any task. `facts` are the task's `TaskFacts`, `place` is its number in the suite's `tasks:`, for the line."""
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
