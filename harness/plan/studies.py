"""Makes the cells of studies and of their trials. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.methods import make_method
from harness.plan.identity import identifying_fields, spec_digest
from harness.records import Cell, JsonObject, digest, with_settings
from harness.suite import STUDY_SEED, Range, TuneSettings, Variant, searchable_settings, searched_space

EDGE = 0.05  # share of a range (of its logarithm) that counts as its edge


def study_cell(label: Variant, tune: TuneSettings, cell: Cell) -> Cell | None:
    """Return a study of a label, or None where there is nothing to search. `cell` is the label's cell with the seed of
    the study, which draws the examples of its trials and their training, and seeds the sampler.

    The field `search` of the study is a digest of what is searched and how, without the budget. It seeds the sampler,
    so a study with a larger budget begins with the trials of the smaller one. The seed is part of it, but for
    `STUDY_SEED`: the first of several studies is the one that a suite with a single study has.
    """
    space, _ = searched_space(label, tune)
    if not space:
        return None
    defaults = {setting.name: setting.default for setting in searchable_settings(label).values()}
    how: JsonObject = {
        "space": space,
        "default": {name: defaults[name] for name in space},
        "goals": list(tune.goals),
        "metric": tune.metric,
        **tune.model_dump(include={"sampler", "batch", "pruner", "rungs", "points"}),
    }
    if cell.seed not in (None, STUDY_SEED):
        how["seed"] = cell.seed
    retain = cell.retain if "retention" in tune.goals else ()
    size = f"/n{cell.n_train}"
    which = f"-s{cell.seed}" if tune.studies > 1 and cell.seed is not None else ""
    key = f"{cell.key.replace(f'{size}/s{cell.seed}', size, 1)}/study{which}"
    study = replace(cell, key=key, seed=None, baseline="", retain=retain[:1], study=how, spec_digest="")
    names = {*study.learn, *study.retain, *study.reads, "model", *(f"model:{name}" for name in study.borrows)}
    study = replace(study, fingerprints={name: value for name, value in study.fingerprints.items() if name in names})
    budget = tune.model_dump(include={"trials", "seconds", "tokens"})
    study = replace(study, study={**how, "search": digest(identifying_fields(study)), **budget})
    return replace(study, spec_digest=spec_digest(study))


def trial_cell(study: Cell, number: int, params: JsonObject) -> Cell:
    """Return the cell of trial number `number` of a study, with the settings `params` (full name -> value).

    Its settings identify it, so that a setting runs once however many studies try it; with a pruner, which compares
    trials, its study and number identify it too.
    """
    how = study.study
    pruned = {} if how["pruner"] == "none" else {**{k: how[k] for k in ("search", "pruner", "rungs")}, "number": number}
    cell = with_settings(study, params)
    cell = replace(
        cell,
        key=f"{study.key}/t{number:02d}",
        seed=how.get("seed", STUDY_SEED) if make_method(cell.method, cell.settings).uses_data else None,
        needs=study.loads,
        study={},
        trial={"scored": "validation", "goals": how["goals"], "metric": how["metric"], **pruned},
    )
    return replace(cell, spec_digest=spec_digest(cell))


def range_edge(value: object, space: Range) -> str:
    """Return the end of its range, "low" or "high", at which a chosen value lies, so that the best value may lie
    beyond; "" where it lies at neither. A list has ends only where it holds three or more numbers and nothing else."""
    if isinstance(space, list):
        numbers = sorted(one for one in space if isinstance(one, int | float) and not isinstance(one, bool))
        if len(numbers) < 3 or len(numbers) < len(space) or value not in numbers:
            return ""
        return "low" if value == numbers[0] else "high" if value == numbers[-1] else ""
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        return ""
    place = math.log(value / space["low"]) / math.log(space["high"] / space["low"])
    return "low" if place < EDGE else "high" if place > 1 - EDGE else ""
