"""Stage 2 of 7. In: a Suite and the facts of its tasks and models. Out: a Plan of frozen cells.

Ids and seeds are settled here; nothing is run, fetched or looked up. `identity.py` says what a cell *is*. Where a suite
tunes, each study comes before the cells that need it; these learn its chosen setting when they run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter

from harness.data import CLEAN, Facts, Quality
from harness.errors import SuiteError, UserError, unknown
from harness.methods import Method
from harness.plan.feasibility import unmet_needs
from harness.plan.identity import spec_digest
from harness.plan.studies import study_cell
from harness.records import STUDY, WARM, Cell, RowCounts, TrainSettings
from harness.suite import BASE, STUDY_SEED, Recipe, Suite, TuneSettings, Variant, build_expert


@dataclass(frozen=True)
class Plan:
    """All cells of a suite, ordered so that every need comes before the cells that need it.

    `only_cells` are the names by which the user asked for some of the suite's cells (empty: the whole suite); `chosen`
    are the spec digests of those cells. All other cells of the plan are there because the chosen ones need them.
    """

    suite: Suite
    facts: Facts
    cells: tuple[Cell, ...]
    only_cells: tuple[str, ...] = ()
    chosen: frozenset[str] = frozenset()

    def revisions(self) -> dict[str, str]:
        """Return {model: the commit that its `hf:` source was resolved to}; models of other sources are left out."""
        return {name: facts.revision for name, facts in self.facts.models.items() if facts.revision}

    def task_rows(self) -> dict[str, RowCounts]:
        """Return {task: what became of the rows of its data}, for every task of the suite."""
        return {
            name: {"read": dict(task.rows_read), "dropped": dict(task.dropped), "kept": dict(task.kept)}
            for name, task in self.facts.tasks.items()
        }

    def by_digest(self) -> dict[str, Cell]:
        """Return {spec digest: cell}."""
        return {cell.spec_digest: cell for cell in self.cells}

    def asked(self, cell: Cell) -> bool:
        """Return whether the user asked for a cell, and it is not only there because another cell needs it."""
        return not self.only_cells or cell.spec_digest in self.chosen


def make_plan(suite: Suite, facts: Facts) -> Plan:
    """Expand a suite into cells. `facts` are those of all its models and tasks. Raises SuiteError for mistakes that
    only the data reveal (sizes, tasks that cannot be learned)."""
    problems = list(unmet_needs(suite, facts))
    if problems:
        raise SuiteError(dict.fromkeys(problems))
    cells: dict[str, Cell] = {}
    studies: dict[StudyOf, str] = {}

    def add(cell: Cell) -> Cell:
        return cells.setdefault(cell.spec_digest, cell)

    for model in suite.models:
        for task, sizes in suite.tasks:
            maker = CellMaker(suite, facts, task, studies)
            bare = add(maker.bare(model))
            for label in suite.labels:
                own = label.method.own_model()
                if label.name == BASE or (own and model != suite.models[0]):
                    continue  # a method with a model of its own has one row, not one for each of the suite's models
                points = list(axes(label.method, suite, sizes, facts.tasks[task].n_train))
                for n_train, quality in dict.fromkeys((n_train, quality) for n_train, _, quality in points):
                    for cell in maker.tuning(label, own or model, n_train, quality, bare.spec_digest):
                        add(cell)
                for point in points:
                    for cell in maker.cells(label, own or model, *point, bare.spec_digest):
                        add(cell)
    order = TopologicalSorter({cell.spec_digest: sorted(cell.needs.values()) for cell in cells.values()})
    rank = {name: place for place, name in enumerate(cells)}
    order.prepare()
    ordered: list[Cell] = []
    while order.is_active():
        ready = sorted(order.get_ready(), key=lambda name: rank[name])
        ordered += [cells[name] for name in ready]
        order.done(*ready)
    return Plan(suite, facts, tuple(unique_keys(ordered)))


def select_cells(plan: Plan, names: Iterable[str]) -> Plan:
    """Return a plan of the cells that these names match, with all the cells that they need and the base models' cells
    that their gains are measured from.

    A name is a cell's key, a label, or a pattern over keys ("lora/*"). Without names the plan is returned as it is.
    Raises UserError with every name that matches no cell.
    """
    names = tuple(dict.fromkeys(names))
    if not names:
        return plan
    known = {cell.key for cell in plan.cells} | {cell.label for cell in plan.cells}
    mistakes = []
    chosen: set[str] = set()
    for name in names:
        found = [cell for cell in plan.cells if name in (cell.key, cell.label)]
        found = found or [cell for cell in plan.cells if fnmatchcase(cell.key, name)]
        chosen |= {cell.spec_digest for cell in found}
        if not found:
            mistakes.append(unknown(f"cell of {plan.suite.name}", name, known, "Patterns such as 'lora/*' do too."))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return replace(narrow(plan, chosen), only_cells=names)


def narrow(plan: Plan, chosen: Collection[str]) -> Plan:
    """Return a plan of the cells with the spec digests `chosen`, with all the cells that they need and the base models'
    cells that their gains are measured from."""
    cells = plan.by_digest()
    kept: set[str] = set()
    waiting = list(chosen)
    while waiting:
        name = waiting.pop()
        if name in cells and name not in kept:
            kept.add(name)
            waiting += [*cells[name].needs.values(), cells[name].baseline]
    within = tuple(cell for cell in plan.cells if cell.spec_digest in kept)
    return replace(plan, cells=within, chosen=frozenset(chosen))


def axes(
    method: Method, suite: Suite, sizes: tuple[int | str, ...], available: int
) -> Iterator[tuple[int, int | None, Quality]]:
    """Yield (number of examples, seed, quality of the data) for each cell of a method on one task; only (0, None,
    clean) for a method that learns from no examples. `sizes` are the task's in the suite; `available` is its number of
    training examples, which "all" stands for."""
    if not method.uses_data:
        yield 0, None, CLEAN
        return
    for size in sizes:
        for quality in suite.qualities():
            for seed in suite.seeds:
                yield (available if size == "all" else int(size)), seed, quality


StudyOf = tuple[str, str, str, int, Quality, int]  # label, model, task, size, quality, seed of the study


@dataclass(frozen=True)
class CellMaker:
    """Makes the cells of one `task` of a suite. `studies` maps (label, model, task, size, quality, seed of the study)
    to the spec digest of each study made so far, and is added to."""

    suite: Suite
    facts: Facts
    task: str
    studies: dict[StudyOf, str]

    def bare(self, model: str) -> Cell:
        """Return the cell of the untouched base model, from which gains are measured: scored on the maker's task, the
        suite's retained tasks and every task that a label learns beside it."""
        label = next(label for label in self.suite.labels if label.name == BASE)
        learned = [name for other in self.suite.labels for name in other.recipe.learns(self.task)]
        retain = tuple(name for name in dict.fromkeys([*self.suite.retain, *learned]) if name != self.task)
        return self.cell(label, model, self.task, 0, None, "", retain=retain)

    def cells(
        self, label: Variant, model: str, n_train: int, seed: int | None, quality: Quality, baseline: str
    ) -> Iterator[Cell]:
        """Yield the cells that a label's cell needs, then the label's cell itself. `baseline` is the spec digest of the
        base model's cell. The cell's study must have been made before; only its digest is used."""
        before = list(self.needed(label, model, n_train, seed, quality, baseline))
        yield from (cell for _, cell in before)
        needs = {role: cell.spec_digest for role, cell in before if role}
        of = STUDY_SEED
        if self.suite.tune and seed is not None:
            of = self.suite.tune.study_seed_of(seed, self.suite.seeds)
        if study := self.studies.get((label.name, model, self.task, n_train, quality, of)):
            needs[STUDY] = study
        yield self.cell(label, model, self.task, n_train, seed, baseline, needs, quality=quality)

    def tuning(self, label: Variant, model: str, n_train: int, quality: Quality, baseline: str) -> Iterator[Cell]:
        """Yield the studies of a label at one data size and quality, each after the cells that its trials need; nothing
        without tuning, or for a label with nothing to search. A label that learns from no examples has one cell, and so
        one study. `baseline` is the spec digest of the base model's cell."""
        tune = self.suite.tune
        if tune is None or not label.tuned:
            return
        for seed in tune.study_seeds(self.suite.seeds) if label.method.uses_data else (STUDY_SEED,):
            yield from self.study(tune, label, model, n_train, quality, baseline, seed)

    def study(
        self, tune: TuneSettings, label: Variant, model: str, n_train: int, quality: Quality, baseline: str, of: int
    ) -> Iterator[Cell]:
        """Yield the cells that the trials of a label's study of the seed `of` need, then the study; nothing where there
        is no setting to search. `baseline` is the spec digest of the base model's cell.

        With `warm_start` the study also needs the study of the same seed at the next smaller size or, at the smallest
        size, the one of the model that comes before in the suite.
        """
        seed = of if label.method.uses_data else None
        before = list(self.needed(label, model, n_train, seed, quality, baseline))
        needs = {role: cell.spec_digest for role, cell in before if role}
        like = [(size, other) for name, other, task, size, its, its_seed in self.studies
                if (name, task, its, its_seed) == (label.name, self.task, quality, of)]  # fmt: skip
        smaller = [(size, other) for size, other in like if other == model and size < n_train]
        kin = max(smaller, default=None) or next(((s, other) for s, other in reversed(like) if s == n_train), None)
        if tune.warm_start and kin:
            needs[WARM] = self.studies[label.name, kin[1], self.task, kin[0], quality, of]
        trained = self.cell(label, model, self.task, n_train, seed, baseline, needs, quality=quality)
        if made := study_cell(label, tune, trained):
            yield from (cell for _, cell in before)
            self.studies[label.name, model, self.task, n_train, quality, of] = made.spec_digest
            yield made

    def needed(
        self, label: Variant, model: str, n_train: int, seed: int | None, quality: Quality, baseline: str
    ) -> Iterator[tuple[str, Cell]]:
        """Yield (role, cell) for each cell that a label's cell with these fields needs; the role is empty for base
        models that experts are measured against.

        Needed cells learn from data of the same quality: a merge or a student is what can be made of such data, not of
        better. `baseline` is the spec digest of the base model's cell.
        """
        for expert in label.recipe.wants(self.task):
            method = build_expert(expert, self.suite.lines, ("methods", label.name))
            assert method is not None  # the suite has been checked
            recipe = Recipe(method)
            name = self.label_of(recipe, label.train) or f"{label.name}.{expert.method}"
            available = self.facts.tasks[expert.learn].n_train
            base = expert.model or model
            size, its_seed, its = (min(n_train, available), seed, quality) if method.uses_data else (0, None, CLEAN)
            draw = None
            if expert.seed not in (None, its_seed) and method.uses_data:
                its_seed, draw = expert.seed, seed
                name = f"{label.name}.{expert.method}"  # no row of its own: its examples are another seed's
            untouched = baseline
            if base != model:  # its gains start from its own base model
                bare = self.bare(base)
                yield "", bare
                untouched = bare.spec_digest
            made = Variant(name, recipe, label.train)
            yield expert.role, self.cell(made, base, expert.learn, size, its_seed, untouched, draw=draw, quality=its)

    def label_of(self, recipe: Recipe, train: TrainSettings) -> str | None:
        """Return the suite's own label for exactly this recipe and training, or None, so that an expert that is also a
        row shares its name. Tuned labels do not count: experts have the settings that they are given."""
        what = recipe.method.name, recipe.method.settings, recipe.beside, train
        for label in self.suite.labels:
            method = label.method
            if self.suite.tune and label.tuned:
                continue
            if (method.name, method.settings, label.recipe.beside, label.train) == what:
                return label.name
        return None

    def cell(
        self,
        label: Variant,
        model: str,
        task: str,
        n_train: int,
        seed: int | None,
        baseline: str,
        needs: dict[str, str] | None = None,
        retain: tuple[str, ...] | None = None,
        draw: int | None = None,
        quality: Quality = CLEAN,
    ) -> Cell:
        """Return the cell of a label with its digest. `task` is what it learns, an expert's own; `baseline` is the spec
        digest of the base model's cell; `needs` maps roles to spec digests. `retain` are tasks to score without
        learning them (by default the suite's), `draw` is the seed that draws its examples, where that is not `seed`."""
        method, recipe = label.method, label.recipe
        data = quality.data
        if quality.select == "hard" and method.own_model():
            data["judge"] = self.suite.models[0]  # a language model: what the method starts from may be none
        learn = recipe.learns(task) or (task,)
        if retain is None:
            retain = tuple(name for name in self.suite.retain if name not in learn)
        if not method.is_language_model:
            retain = ()
        reads = tuple(name for name in recipe.reads(task) if name not in (*learn, *retain))
        borrowed = [*recipe.borrows(), *(expert.model for expert in recipe.wants(task) if expert.model)]
        borrowed += [data["judge"]] if "judge" in data else []
        borrows = tuple(dict.fromkeys(name for name in borrowed if name != model))
        tasks, models = self.facts.tasks, self.facts.models
        fingerprints = {name: tasks[name].fingerprint for name in (*learn, *retain, *reads)}
        fingerprints |= {f"model:{name}": models[name].fingerprint for name in borrows}
        fingerprints["model"] = models[model].fingerprint
        size = f"/n{n_train}/s{seed}{quality.suffix}" if method.uses_data else ""
        short = model.rstrip("/").rsplit("/", 1)[-1].removeprefix("file:")  # the last part of a source
        cell = Cell(
            key=f"{label.name}/{short}/{task}{size}",
            spec_digest="",
            label=label.name,
            method=method.name,
            family=method.family,
            model=model,
            task=task,
            learn=learn,
            n_train=n_train,
            seed=seed,
            retain=retain,
            settings=method.settings,
            train=label.train if method.trains else label.train.for_scoring,
            needs=needs or {},
            baseline=baseline,
            reads=reads,
            borrows=borrows,
            fingerprints=fingerprints,
            draw=draw,
            data=data,
            **recipe.beside,
        )
        return replace(cell, spec_digest=spec_digest(cell, method))


def unique_keys(cells: list[Cell]) -> Iterator[Cell]:
    """Yield the cells in their order, with unique keys: where two would share a key, the second gets the start of its
    digest added."""
    taken: set[str] = set()
    for cell in cells:
        key = cell.key if cell.key not in taken else f"{cell.key}#{cell.spec_digest[:8]}"
        taken.add(key)
        yield replace(cell, key=key)
