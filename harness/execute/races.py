"""Finds what `decide` decides: the labels that compete on one model and task at one size, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import LEAST_ENDED, Values, ended_badly, fallback_of
from harness.analysis.deciding import Evidence, LabelEvidence
from harness.data import CLEAN, Quality
from harness.errors import UserError, unknown
from harness.execute.queue import HELD, TO_DO
from harness.plan import Plan
from harness.records import Cell, FailedSeeds, Status
from harness.store import CellRow
from harness.suite import BASE


@dataclass(frozen=True)
class Race:
    """The labels that compete on one model and task with `n_train` training examples (0: nothing is trained). `cells`
    maps each label to its cells, in the order in which the suite lists its seeds; a label that learns from no examples
    has one."""

    model: str
    task: str
    n_train: int
    cells: Mapping[str, tuple[Cell, ...]]

    @property
    def name(self) -> str:
        """The race in words: task, model, number of examples."""
        examples = f", {self.n_train} examples" if self.n_train else ""
        return f"{self.task} on {self.model}{examples}"


def races_of(plan: Plan, size: int | None = None, task: str = "", model: str = "") -> list[Race]:
    """Returns the races of a plan: one for each model and task of its suite, or those that are named, at `size`
    training examples (None: the largest size of the task). Data of other qualities than clean is left out.

    Raises UserError for an unknown task, model or size, and for a suite that tunes each label by several studies: the
    seeds of one study are not independent.
    """
    suite = plan.suite
    tasks, models = [name for name, _ in suite.tasks], list(suite.models)
    for kind, name, names in (("task", task, tasks), ("model", model, models)):
        if name and name not in names:
            raise UserError(unknown(f"{kind} of {suite.name}", name, names))
    if suite.tune and len(suite.tune.study_seeds(suite.seeds)) > 1:
        raise UserError(
            f"{suite.name} tunes each label by several studies, whose cells are not independent; `decide` takes suites "
            f"with one study a label. `tunebench run {suite.name}` runs all of it."
        )
    found = []
    for base_model in [name for name in models if model in ("", name)]:
        for learned in [name for name in tasks if task in ("", name)]:
            cells = list(competing(plan, base_model, learned))
            sizes = sorted({cell.n_train for cell in cells if cell.n_train})
            if size is not None and size not in sizes:
                raise UserError(unknown(f"size of {learned}", str(size), list(map(str, sizes))))
            wanted = size or max(sizes, default=0)
            by_label: dict[str, list[Cell]] = {}
            for cell in cells:
                if cell.n_train in (0, wanted):
                    by_label.setdefault(cell.label, []).append(cell)
            found.append(Race(base_model, learned, wanted, {label: tuple(its) for label, its in by_label.items()}))
    return found


def competing(plan: Plan, model: str, task: str) -> Iterator[Cell]:
    """Yields the cells of the suite's own labels on one model and task, with clean data: no studies, and no cells that
    only other cells need. A method with a model of its own competes on the suite's first."""
    own = {each.name: each.method.own_model() for each in plan.suite.labels}
    for cell in plan.cells:
        at_home = cell.model == model or (own.get(cell.label) == cell.model and model == plan.suite.models[0])
        if (
            cell.label in own
            and at_home
            and (cell.task, cell.draw) == (task, None)
            and not cell.study
            and Quality.of(cell.data) == CLEAN
        ):
            yield cell


def evidence_of(
    race: Race,
    rows: Mapping[str, CellRow],
    values: Values,
    margin: float,
    failed_seeds: FailedSeeds,
    ruled_out: Mapping[str, str],
) -> Evidence:
    """Returns what is known of a race. `rows` are the run's cells by spec digest, `values` the values of items by
    attempt; `ruled_out` maps labels to the limits that they break. Of each label the first seeds count, up to one that
    has not ended. A seed that ended badly counts as the suite's `failed_seeds` says. A label is ruled out, too, where
    it cannot run here, where too many of its seeds ended badly or learned nothing, or where its items are others."""
    base = [rows[cell.spec_digest] for cell in race.cells.get(BASE, ()) if cell.spec_digest in rows]
    fallback = fallback_of(base, values, failed_seeds)
    of_label = {
        label: [rows[cell.spec_digest] for cell in cells if cell.spec_digest in rows]
        for label, cells in race.cells.items()
    }
    done = [row for its in of_label.values() for row in its if values.get(row.attempt_id)]
    items = values[done[0].attempt_id] if done else {}
    docs = tuple(sorted(items))
    higher = next((score.higher_is_better for row in done for score in row.scores if score.task == row.task), True)
    labels = []
    for label, cells in race.cells.items():
        reason = ruled_out.get(label) or barred(of_label[label], len(cells))
        scored = {row.spec_digest: its for row in of_label[label] if (its := values.get(row.attempt_id))}
        if any(tuple(sorted(its)) != docs for its in scored.values()):
            reason, scored = reason or "was scored on other items", {}
        known = {name: tuple(its[doc] for doc in docs) for name, its in scored.items()}
        of_seeds: list[Sequence[float]] = []
        for row in of_label[label]:
            stand_in = fallback.row(docs, list(known.values()), higher) if ended_badly(row) else None
            values_of_seed = known.get(row.spec_digest) or stand_in
            if not values_of_seed:
                break
            of_seeds.append(values_of_seed)
        seeded = any(cell.seed is not None for cell in cells)
        labels.append(LabelEvidence(label, of_seeds, len(cells), seeded, reason))
    clusters = getattr(items, "clusters", {})
    return Evidence(
        tuple(labels), margin, higher, tuple(clusters.get(doc, f"item {doc}") for doc in docs) if clusters else ()
    )


def barred(ended: Sequence[CellRow], most: int) -> str:
    """Returns why a label can no longer be recommended, from its cells that ended, of `most` that the suite has; ""
    where it can be. See `analysis.recommend` for the rules."""
    skipped = next((row for row in ended if row.status == Status.SKIPPED and not ended_badly(row)), None)
    if skipped:
        return f"cannot run here: {skipped.reason}"
    badly = [row for row in ended if ended_badly(row)]
    if most and 1 - len(badly) / most < LEAST_ENDED:
        return f"{len(badly)} of at most {most} seeds ended badly ({badly[0].status}: {badly[0].reason})"
    done = [row for row in ended if row.status == Status.DONE and row.n_train]
    nothing = sum("learned_nothing" in row.flags for row in done)
    if len(done) > 1 and nothing >= len(done) / 2:
        return f"learned nothing under {nothing} of {len(done)} seeds"
    return ""


def lacking(plan_cells: Mapping[str, Cell], states: Mapping[str, str], cell: Cell) -> list[Cell]:
    """Returns the cells that must run for `cell` to end, itself included, in no order: those of its needs, and of the
    base model that its gains start from, that are held or to do. `plan_cells` and `states` are by spec digest."""
    found: dict[str, Cell] = {}
    waiting = [cell.spec_digest]
    while waiting:
        name = waiting.pop()
        if name in plan_cells and name not in found and states.get(name) in (HELD, TO_DO):
            found[name] = plan_cells[name]
            waiting += [*plan_cells[name].needs.values(), plan_cells[name].baseline]
    return list(found.values())
