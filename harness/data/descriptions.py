"""Reads descriptions of models and tasks from the Hub (`suites/described/`), so that suites which name them can be
checked and planned where nothing has been fetched.

A description has what is published of a model (its configuration, from which names and shapes of its weights follow) or
of a task (rows of each split, form, headline metric), with source and licence. `benchmarks/describe.py` writes them.
Not covered: what only the data itself shows, which is token lengths, repeats, leaks and faults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.architecture import Network, Structure
from harness.data.facts import LengthFacts, ModelFacts, TaskFacts

FOLDER = Path("suites") / "described"
LAYER_LISTS = ("attends", "mixing", "feeding", "last")  # fields of Structure with an entry for each layer
UNFETCHED = "described:"  # begins fingerprints that are none of any content
PLACE = "{n}"  # stands for a layer's number in a folded name


def folded(structure: Structure) -> dict[str, Any]:
    """Return a structure as JSON that holds its layers once. Raises ValueError where layers differ, so that one cannot
    stand for all."""
    made = structure.as_json()
    count = len(structure.attends)
    for key in ("weights", "kinds"):
        made[key] = fold_names(made[key], structure.layers, count)
    for key in LAYER_LISTS:
        made[key] = json.loads(
            json.dumps(made[key][0]).replace(f"{structure.layers}.0.", f"{structure.layers}.{PLACE}.")
        )
    made["number_of_layers"] = count
    if unfolded(made) != structure:
        raise ValueError(f"the layers of {structure.layers} differ from each other: they cannot be folded.")
    return made


def fold_names(named: Mapping[str, Any], layers: str, count: int) -> dict[str, Any]:
    """Return a mapping by weights' or modules' names with the entries of layer 0 alone, under names with `PLACE`."""
    kept = {}
    for name, value in named.items():
        number = name.removeprefix(f"{layers}.").partition(".")[0] if name.startswith(f"{layers}.") else ""
        if number in ("", "0") or int(number) >= count:
            kept[name.replace(f"{layers}.0.", f"{layers}.{PLACE}.")] = value
    return kept


def unfolded(stored: Mapping[str, Any]) -> Structure:
    """Return the structure that `folded` wrote. Raises KeyError, TypeError or ValueError for other content."""
    made, count = dict(stored), int(stored["number_of_layers"])
    del made["number_of_layers"]
    for key in ("weights", "kinds"):
        names: dict[str, Any] = {}
        inside = [name for name in stored[key] if PLACE in name]
        for name, value in stored[key].items():
            if name not in inside:
                names[name] = value
            elif name == inside[0]:
                names |= {one.replace(PLACE, str(n)): stored[key][one] for n in range(count) for one in inside}
        made[key] = names
    for key in LAYER_LISTS:
        text = json.dumps(stored[key])
        made[key] = [json.loads(text.replace(PLACE, str(n))) for n in range(count)]
    return Structure.from_json(made)


def described_model(places: Iterable[Path], name: str, source: str) -> ModelFacts | None:
    """Return the facts of a model that has not been fetched, from the description of its `source` (a revision aside) in
    the first of `places` that has one; None where none has. It has no folder, and a
    fingerprint that no fetched model has."""
    wanted = source.rpartition("@")[0] if "@" in source else source
    for path in described_files(places, "models"):
        stored = read_description(path)
        if stored and stored.get("source") == wanted:
            structure = unfolded(stored["structure"])
            network = Network(stored["config"], structure.weights, int(stored["stored_bytes"]), structure)
            return ModelFacts(name, f"{UNFETCHED}{wanted}", "", network)
    return None


def described_task(places: Iterable[Path], name: str, yaml: Path) -> TaskFacts | None:
    """Return the facts of a task that has not been fetched, from its description; None where there is none. Its numbers
    of documents are those of the published rows: repeats, which fetching leaves out, are still among them."""
    for path in described_files(places, "tasks"):
        stored = read_description(path)
        if path.stem == name and stored:
            counts = {key: int(stored[key]) for key in ("n_train", "n_validation", "n_test")}
            texts = {key: str(stored[key]) for key in ("output_type", "metric", "unlearnable")}
            return TaskFacts(name, str(yaml), f"{UNFETCHED}{name}", **counts, **texts)  # type: ignore[arg-type]
    return None


def described_files(places: Iterable[Path], kind: str) -> list[Path]:
    """Return the files of descriptions of a kind ("models" or "tasks"), those of the first place first."""
    return [path for place in places for path in sorted((place / FOLDER / kind).glob("*.json"))]


def read_description(path: Path) -> dict[str, Any] | None:
    """Return what a description holds; None for a file that cannot be read as one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def longest_lengths(model: ModelFacts, task: str) -> LengthFacts:
    """Return token lengths of a task whose texts are not known: in training as long as the model can read, so that each
    is cut at `max_length`, which bounds what training takes; in scoring none."""
    most = model.network.max_length if model.network else 0
    return LengthFacts(model.name, task, (most,) * 101, most, (), 0, 0)
