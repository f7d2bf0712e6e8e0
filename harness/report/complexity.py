"""Reads from a method's design how much there is to choose, to install and to run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.methods import Method, make_method
from harness.objectives import Objective, all_objectives
from harness.records import NEEDS
from harness.store import Design, StoredStudy


def method_of(design: Design | None) -> Method | None:
    """Makes the method of a design; None without a design, or for a method or setting that this version does not
    know."""
    if design is None:
        return None
    try:
        return make_method(design.method, design.settings)
    except (KeyError, ValueError, TypeError):
        return None


def packages(designs: Sequence[Design]) -> tuple[str, ...]:
    """Returns the packages that a result and the cells it needs take beyond those of every cell. `designs` are those of
    the result and of these cells."""
    found: dict[str, None] = {}
    for design in designs:
        method = method_of(design)
        if method:
            found |= dict.fromkeys(method.extras)
            for (key, value), (names, _) in NEEDS.items():
                if design.train.get(key) == value and not method.own_trainer:
                    found |= dict.fromkeys(names)
    return tuple(found)


def to_choose(design: Design, needed: Sequence[Design], study: StoredStudy | None = None) -> tuple[str, ...]:
    """Returns the names of the settings that somebody has to choose: those that the method says matter (its `space`,
    its learning rate), those to which the suite gave another value than the default, and those that were searched by
    `study`.

    The settings of objectives and the curriculum are included, and those of the cells that are `needed` first, with
    their method's name before a dot.
    """
    found: dict[str, None] = {}
    for made, prefix in [(design, ""), *((other, f"{other.method}.") for other in needed)]:
        method = method_of(made)
        if not method:
            continue
        for part in getattr(method, "parts", [method]):
            found |= dict.fromkeys(f"{prefix}{name}" for name in settings_of(part))
        for name, settings in made.objectives.items():
            kind = all_objectives().get(name)
            if kind:
                found |= dict.fromkeys(f"{prefix}{name}.{key}" for key in settings_of(kind(**settings)))
        for name, settings in made.curriculum.items():
            found |= dict.fromkeys(f"{prefix}{name}.{key}" for key, value in settings.items() if value)
    searched = study.study.get("space", {}) if study else {}
    return tuple(found | dict.fromkeys(key.rsplit(".", 1)[-1] for key in searched))


def settings_of(thing: Method | Objective) -> list[str]:
    """Returns the settings of a method or objective that somebody has to choose: searchable ones, and changed ones."""
    fields = thing.fields()
    moved = [key for key, value in thing.settings.items() if key in fields and value != fields[key]]
    open_ = [key for key in fields if key in thing.space or (key == "learning_rate" and getattr(thing, key))]
    return list(dict.fromkeys([*open_, *moved]))
