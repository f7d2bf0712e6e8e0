"""`tunebench methods`: what `methods:`, `objectives:` and `curriculum:` may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.display import show_json, show_table
from harness.cli.options import AsJson, command, quiet_libraries

if TYPE_CHECKING:
    from harness.methods import Method
    from harness.plugin import Configurable
    from harness.records import JsonObject


def plural(kind: str) -> str:
    """Returns the plural of "method", "objective" or "curriculum"."""
    return "curricula" if kind == "curriculum" else f"{kind}s"


def describe(part: type[Configurable]) -> JsonObject:
    """Describes a method, objective or curriculum for listings, by name of the property. `settings` are its defaults,
    `missing` says what it lacks on this machine, `space` gives the ranges of the settings that tuning may search. A
    method also has a `family`, its `variants`, whether it is `foldable`, and what it `cannot` do."""
    from harness.methods import Method
    from harness.suite import range_of

    made = part()
    about: JsonObject = {
        "kind": part.kind,
        "name": part.name,
        "about": (part.__doc__ or "").strip().splitlines()[0],
        "paper": part.paper,
        "settings": part.fields(),
        "space": {key: range_of(found) for key, found in getattr(made, "space", {}).items()},
        "packages": list(part.packages),
        "missing": made.skip() or "",
    }
    if isinstance(made, Method):
        variants = made.variants()
        about |= {"family": made.family, "foldable": bool(variants) or made.foldable, "variants": variants}
        about |= {"cannot": ", ".join(limits(made)), "starts_at_base": made.starts_at_base or "yes"}
    return about


def limits(method: Method) -> Iterator[str]:
    """Yields what a method declares that it cannot do, each as words to follow "cannot"."""
    if not method.is_language_model:
        yield "be scored for retention"
    if method.own_trainer:
        yield "have objectives or a curriculum"
    if not method.distributes:
        yield "be trained on several devices"
    if method.trains and not method.trains_quantized:
        yield "have a quantised base"


def shown(row: JsonObject) -> list[str]:
    """Returns the two texts of a table row: the name of what `describe` described, and all the rest as lines."""
    origin = ", ".join(
        filter(None, (row.get("family"), row["paper"], "folds into the model" * row.get("foldable", False)))
    )
    settings = ", ".join(key if value is None else f"{key}={brief(value)}" for key, value in row["settings"].items())
    cannot = f"Cannot {row['cannot']}." if row.get("cannot") else ""
    return [row["name"], "\n".join(filter(None, (row["about"], origin, cannot, row["missing"], settings)))]


def yes(value: bool) -> str:
    """Returns "yes" or "no", as text."""
    return "yes" if value else "no"


def brief(value: object) -> str:
    """Returns a setting's default as text, cut to 24 characters."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}…"


@command("Look", "ways of adapting a model, objectives and curricula")
def methods(
    name: Annotated[str | None, typer.Argument(help="a method, objective or curriculum: everything about it")] = None,
    every: Annotated[bool, typer.Option("--all", help="everything about all of them")] = False,
    as_json: AsJson = False,
) -> None:
    """List the ways of adapting a model by family, with objectives and curricula; with a name, its settings.

    Example: tunebench methods lora
    """
    from harness.curricula import all_curricula
    from harness.errors import UserError, unknown
    from harness.methods import all_methods
    from harness.objectives import all_objectives

    quiet_libraries()
    listings: Mapping[str, Mapping[str, type[Configurable]]] = {
        "method": all_methods(),
        "objective": all_objectives(),
        "curriculum": all_curricula(),
    }
    names = [one for parts in listings.values() for one in parts]
    if name is not None and name not in names:
        raise UserError(unknown("method, objective or curriculum", name, names))
    rows = {
        kind: [describe(part) for part in parts.values() if name in (None, part.name)]
        for kind, parts in listings.items()
    }
    if as_json:
        show_json([row for listed in rows.values() for row in listed])
    elif name is None and not every:
        show_families(rows)
    else:
        show_details(rows)


def show_families(rows: Mapping[str, list[JsonObject]]) -> None:
    """Prints a line for each family of methods, one for the objectives and one for the curricula."""
    families: dict[str, list[str]] = {}
    for row in rows["method"]:
        families.setdefault(row["family"], []).append(row["name"])
    lines = [[family, ", ".join(names)] for family, names in sorted(families.items())]
    lines += [[plural(kind), ", ".join(row["name"] for row in rows[kind])] for kind in ("objective", "curriculum")]
    show_table("", ["family", "methods"], lines)
    print("`tunebench methods NAME` says what one does and which settings it has; --all, of all of them")


def show_details(rows: Mapping[str, list[JsonObject]]) -> None:
    """Prints what each method, objective and curriculum does, with its settings, and the types of those that have
    some."""
    for kind, listed in rows.items():
        if listed:
            show_table(plural(kind), [kind, "what it does, and its settings"], [shown(row) for row in listed])
    for row in rows["method"]:
        if row["variants"]:
            title = f"types of method {row['name']}, with the keys of their config (--json has the defaults)"
            types = [
                [name, about["paper"], yes(about["foldable"]), about["cannot"] or ", ".join(about["settings"])]
                for name, about in row["variants"].items()
            ]
            show_table(title, ["type", "paper", "folds", "keys, or why it cannot be used"], types)
