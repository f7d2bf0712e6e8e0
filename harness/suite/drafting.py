"""Drafts a suite for a drafted task: which methods make sense for its kind and size, with comments."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.data import in_flow
from harness.methods import all_methods
from harness.suite.variants import BASE

BATCH = 8
FEWEST_STEPS, MOST_STEPS = 24, 96
EPOCHS = 3  # passes over the examples that a draft asks for, within these steps


def sizes_for(train: int, quick: bool) -> list[int]:
    """Returns how many training examples a draft asks for: one size that is learned in minutes, and, unless it is to be
    `quick`, one four times as large, as far as there are examples."""
    first = min(64, train)
    second = min(256, train)
    return [first] if quick or second < 2 * first else [first, second]


def draft_suite(
    task: str, kind: str, train: int, model: str, retain: Sequence[str], known: Collection[str], quick: bool
) -> str:
    """Returns the YAML of a suite that compares methods on a task of this kind ("classification", "generation", "chat",
    "text"). `train` are the examples that it has to learn from, `retain` the tasks that should not be forgotten.
    `known` are the models that have a name: a method with a model of its own that is not among them is left out.
    `quick`: one size and two seeds, for a machine without a GPU."""
    sizes = sizes_for(train, quick)
    steps = max(FEWEST_STEPS, min(MOST_STEPS, EPOCHS * sizes[-1] // BATCH))
    lines = [
        f"# Drafted by `tunebench init`. `tunebench run {task}` runs it; docs/suite.md explains every key.",
        "version: 1",
        f"question: {in_flow(f'Which way of adapting {model} is best for {task}?')}",
        f"models: [{in_flow(model)}]  # or hf:org/name, file:folder",
        "tasks:",
        f"  - {{learn: {in_flow(task)}, sizes: [{', '.join(map(str, sizes))}]}}  # training examples; or `all`",
        *(
            [f"retain: [{', '.join(map(in_flow, retain))}]  # scored before and after: what was forgotten"]
            if retain
            else []
        ),
        "methods:  # `tunebench methods` lists all",
        *method_lines(kind, known),
        f"seeds: [{'0, 1' if quick else '0, 1, 2'}]  # one seed alone shows no difference",
        f"train: {{steps: {steps}, batch_size: {BATCH}}}",
    ]
    return "\n".join(lines) + "\n"


def method_lines(kind: str, known: Collection[str]) -> list[str]:
    """Returns a line for each method that is drafted for a kind of task, the base model first, with what it does."""
    # A method's own: what comes after it in the same file is a variant, which a draft leaves out.
    found = {name: method for name, method in all_methods().items() if kind in vars(method).get("drafted_for", {})}
    able = [name for name, method in found.items() if method().own_model() in (None, "", *known)]
    names = sorted(able, key=lambda name: (name != BASE, name))
    entries = {name: f"{name}: {found[name].drafted_for[kind]}" for name in names}
    width = max(map(len, entries.values()))
    told = {name: (found[name].__doc__ or name).splitlines()[0] for name in names}
    return [f"  {entry.ljust(width)}  # {told[name]}" for name, entry in entries.items()]
