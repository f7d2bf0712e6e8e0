"""Finds the mistakes in a suite that only its models and data reveal: sizes beyond a split, tasks that cannot be
learned, leaks.

The other mistakes are found when the suite is read (`suite/load.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import TypedDict

from harness.architecture import Network
from harness.data import Corruption, Facts, Quality, TaskFacts, marked, turns
from harness.errors import Problem, unknown
from harness.plan.windows import window_mismatches
from harness.records import Cell
from harness.suite import Recipe, Suite, Variant, build_expert, check_sizes

TOLD = 0.9  # from this share on, questions that contain their answer and no other choice are no accident


def unmet_needs(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield every mistake in a suite that its models and data reveal, with its line. `facts` are those of all its
    models and tasks."""
    yield from leaks(suite, facts)
    for name in suite.task_names():
        if problem := facts.tasks[name].cluster_problem:
            message, file, line = problem
            yield Problem(f"task {name!r}: {message}", file, line)
    for place, (task, sizes) in enumerate(suite.tasks):
        found = facts.tasks[task]
        yield from check_sizes(place, found, sizes, suite.lines)
        if found.unlearnable:
            continue
        most = max(found.n_train if size == "all" else int(size) for size in sizes)
        for label in suite.labels:
            for message in task_mismatches(label, found, facts):
                yield suite.lines.problem(f"label {label.name!r}: {message}", "methods", label.name)
            for message in curriculum_mismatches(label, task, most, suite, facts):
                yield suite.lines.problem(f"label {label.name!r}: {message}", "methods", label.name, "curriculum")
    for label in suite.labels:
        for message in network_mismatches(label, suite, facts):
            yield suite.lines.problem(f"label {label.name!r}: {message}", "methods", label.name)
        for message in window_mismatches(label, suite, facts):
            yield suite.lines.problem(f"label {label.name!r}: {message}", "methods", label.name)
    yield from attention_mismatches(suite, facts)
    yield from shared_sources(suite, facts)
    yield from impossible_corruptions(suite, facts)
    yield from tuning_mismatches(suite, facts)
    for place, task in enumerate(suite.retain):
        if facts.tasks[task].n_test == 0:
            yield suite.lines.problem(
                f"task {task!r} has nothing to score on (no test or validation split).", "retain", place
            )


def task_mismatches(label: Variant, task: TaskFacts, facts: Facts) -> Iterator[str]:
    """Yield why a label cannot be used with `task`, which the suite learns, or with another task that it then learns or
    reads."""
    method = label.method
    for name in label.recipe.learns(task.name):
        if reason := facts.tasks[name].unlearnable:
            yield f"task {name!r} cannot be learned: {reason}"
    if task.output_type != "multiple_choice":
        needs = "learns from right and wrong choices" if method.wants_choices else "classifies"
        if method.wants_choices or not method.is_language_model:
            yield f"{method.name} {needs}, and {task.name!r} is {task.output_type}. Give it a suite of its own."
    for name in label.recipe.reads(task.name):
        if not facts.tasks[name].n_train:
            yield f"task {name!r} has no training text to read (training_split in its YAML)."
    if label.train.eval_every and method.trains and not task.n_validation:
        yield f"{task.name!r} has no validation items: drop eval_every."


def curriculum_mismatches(label: Variant, task: str, most: int, suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield why a label's curriculum cannot be used with the suite's data and models; nothing for a label without one.
    `most` is the largest number of examples that the suite learns of `task`."""
    curriculum = label.recipe.curriculum
    if curriculum is None:
        return
    learns = curriculum.learns(task)
    for name in learns[1:]:
        found = facts.tasks[name]
        if found.unlearnable:
            continue
        if most > found.n_train:
            yield (
                f"{most} examples of each task are wanted, and {name!r} has {found.n_train} training examples. "
                f"Lower the sizes of {task!r}, or leave {name!r} out."
            )
        if not found.n_test:
            yield f"task {name!r} has nothing to score on (no test or validation split)."
        if label.train.eval_every and not found.n_validation:
            yield f"{name!r} has no validation items: drop eval_every."
    for name in curriculum.reads(task):
        if name in learns:
            yield f"the training text of {name!r} would be read, which is learned: its answers are in there."
    for model in suite.models if curriculum.chat else ():
        if facts.models[model].chat is False:
            yield (
                f"{curriculum.name} asks through the model's chat template, and {model} has none. Take a model that "
                "has one, or another curriculum."
            )
        demand = facts.models[model].chat_demand
        bare = [name for name in learns if not facts.tasks[name].described]
        if demand and bare:
            yield (
                f"{curriculum.name} asks through the model's chat template, and that of {model} demands a system "
                f"message ({demand}), which {', '.join(map(repr, bare))} has none of. Give the task a `description:`, "
                "which becomes the system message, or take another model."
            )


def network_mismatches(label: Variant, suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield why a label's method, or the method of an expert that it asks for, cannot be put on the layers of a model.
    Models whose layers are not known are passed over."""
    found: dict[str, None] = {}
    for task, _ in suite.tasks:
        asked = [
            (build_expert(expert, suite.lines, ("methods", label.name)), expert.model)
            for expert in label.recipe.wants(task)
        ]
        for method, own in [(label.method, None), *asked]:
            for name in suite.models if own is None else [own]:
                network = facts.models[name].network
                if method and network and network.layers:
                    found |= {f"{message} (model {name})": None for message in method.misfits(network)}
    for name in suite.models:
        if (network := facts.models[name].network) and network.layers:
            found |= {f"{message} (model {name})": None for message in setting_misfits(label, network)}
    yield from found


def setting_misfits(label: Variant, network: Network) -> Iterator[str]:
    """Yield why a label's training settings do not go with the layers of a model."""
    if not label.method.trains:
        return
    if label.train.gradient_checkpointing and network.structure and not network.structure.checkpointing:
        yield (
            f"transformers has no gradient checkpointing for {network.kind}. Give it train: "
            "{gradient_checkpointing: false}."
        )
    if label.method.quantize and network.structure and (bypassed := network.structure.bypassed):
        yield (
            f"{network.kind} multiplies with the weight of {bypassed[0]} itself, which it cannot with "
            f"{label.method.quantize} weights. Drop quantize; of qlora, use lora."
        )
    inside = {name for layer in network.layers for name in layer.values()}
    plain = [name for name in network.linears() if name in inside and not network.is_transposed(name)]
    if label.train.optimizer == "galore" and not plain:
        yield (
            f"optimizer galore projects the weights of plain linear layers, and {network.kind} has none in its layers. "
            "Give it train: {optimizer: adamw}."
        )


def attention_mismatches(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield a problem for each attention kernel, of the suite's `train:` or of a label's own, that transformers does
    not have for some model."""
    seen: set[tuple[str, str]] = set()
    for label in suite.labels:
        kernel = label.train.attention
        for name in suite.models:
            network = facts.models[name].network
            known = network.structure.attention if network and network.structure else ()
            if not network or not known or kernel == "auto" or kernel in known or (kernel, name) in seen:
                continue
            seen.add((kernel, name))
            yield suite.lines.problem(
                f"attention {kernel}: transformers has none for {network.kind} (model {name}), but "
                f"{' and '.join(known)}. Use one of these, or auto.",
                "train", "attention",
            )  # fmt: skip


def impossible_corruptions(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield a problem for each value of a `corrupt:` entry that some learned task cannot have (no classes, too few
    examples of one) or that would change nothing."""
    for place, corrupt in enumerate(suite.corrupt):
        for task, sizes in learned(suite, facts).items():
            for name, message in refusals(corrupt, facts.tasks[task], sizes, suite.seeds):
                yield suite.lines.problem(f"{name} {getattr(corrupt, name):g}: {message}", "corrupt", place, name)


def tuning_mismatches(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield a problem for each learned task without validation items in a suite that tunes: settings are chosen on
    these, because test items may not be looked at. Also for a goal retention that no retained task can measure."""
    if suite.tune is None:
        return
    for place, (task, _) in enumerate(suite.tasks):
        tuned = [label for label in suite.labels if label.tuned and label.method.space]
        scored = dict.fromkeys([task, *(name for label in tuned for name in label.recipe.learns(task))])
        bare = [name for name in scored if not facts.tasks[name].unlearnable and not facts.tasks[name].n_validation]
        for name in bare:
            yield suite.lines.problem(
                f"task {name!r} has no validation items, and settings are chosen by these. Take a task with more "
                "training examples or a validation split, or drop tune.",
                "tasks", place, "learn",
            )  # fmt: skip
    if "retention" in suite.tune.goals:
        if not suite.retain:
            yield suite.lines.problem("the goal retention needs a task under retain.", "tune", "goals")
        elif not facts.tasks[suite.retain[0]].n_validation:
            yield suite.lines.problem(
                f"the goal retention is measured on validation text of {suite.retain[0]!r}, which has none (no "
                "training split in its YAML). Put another task first under retain.",
                "tune", "goals",
            )  # fmt: skip


def learned(suite: Suite, facts: Facts) -> dict[str, list[int]]:
    """Return {task: numbers of examples, rising} for every task that some cell or expert learns from examples. A number
    beyond a task's training examples counts as all of them."""
    found: dict[str, list[int]] = {}
    for task, sizes in suite.tasks:
        for label in suite.labels:
            if not label.method.uses_data:
                continue
            experts = [expert.learn for expert in label.recipe.wants(task)]
            for name in dict.fromkeys([task, *label.recipe.learns(task), *experts]):
                available = facts.tasks[name].n_train
                counts = [facts.tasks[task].n_train if size == "all" else int(size) for size in sizes]
                found.setdefault(name, []).extend(min(count, available) for count in counts)
    return {name: sorted(set(counts)) for name, counts in found.items()}


def refusals(
    corrupt: Corruption, task: TaskFacts, sizes: list[int], seeds: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """Yield (key of the `corrupt:` entry, what is wrong with its value) for one task, at these numbers of examples and
    seeds."""
    for name in ("labels", "imbalance"):
        if name in corrupt.model_dump(exclude_defaults=True) and task.output_type != "multiple_choice":
            yield name, f"{task.name!r} is {task.output_type}, which has no classes. Give it a suite of its own."
            return
    for n in sizes:
        for name in ("labels", "duplicates"):
            share = getattr(corrupt, name)
            if share and not marked(n, share, "", spared=int(name == "duplicates")):
                yield name, f"of {n} examples of {task.name!r} that is none. Raise it, or the size."
        distinct = n - Quality(corrupt).repeats(n)
        for seed in seeds if corrupt.imbalance > 1 and task.classes else ():
            wanted = Counter(turns(distinct, list(task.classes), corrupt.imbalance, seed))
            short = [name for name, count in wanted.items() if count > task.classes[name]]
            if short:
                yield (
                    "imbalance",
                    (
                        f"{n} examples of {task.name!r} with seed {seed} would need {wanted[short[0]]} of the class "
                        f"{short[0]!r}, which has {task.classes[short[0]]}. Lower the size or the imbalance."
                    ),
                )
                break


def leaks(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield a problem for each leak that the suite does not allow: scored items that stand in learned text, and scored
    tasks whose questions contain their answers. Also for unknown tasks under `allow_leaks`."""
    for place, name in enumerate(suite.allow_leaks):
        if name not in suite.task_names():
            yield suite.lines.problem(unknown("task", name, list(suite.task_names())), "allow_leaks", place)
    for (learned, scored), found in facts.overlaps.items():
        if found.count and scored not in suite.allow_leaks:
            yield suite.lines.problem(
                f"leak: {found.count} of the {found.n} scored items of {scored!r} stand in the text that is learned of "
                f"{learned!r} ({found.exact} in full), such as {found.shown[0]!r}. Take them out of the data, "
                f"or, to go on with them marked, write allow_leaks: [{scored}].",
                *suite.place_of(scored),
            )  # fmt: skip
    for name in facts.data:
        share = tells_answers(name, facts)
        if share and name not in suite.allow_leaks:
            yield suite.lines.problem(
                f"leak: the right answer, and no other, stands in the question of {share:.0%} of the scored items "
                f"of {name!r}. Mend doc_to_text, or, to go on with them marked, write allow_leaks: [{name}].",
                *suite.place_of(name),
            )  # fmt: skip


def shared_sources(suite: Suite, facts: Facts) -> Iterator[Problem]:
    """Yield a problem for each label whose objective or curriculum reads text from the source on which retention is
    scored.

    Such a label would be trained on what it is asked about, if not on the very passages. Allowed by `allow_leaks`.
    """
    for label in suite.labels:
        beside = [part for part in label.recipe.parts if part is not label.method]
        read = {name: part.name for part in beside for task, _ in suite.tasks for name in part.reads(task)}
        for (name, reader), scored in product(read.items(), suite.retain):
            shared = sorted({*facts.tasks[name].learned_from} & {*facts.tasks[scored].scored_from})
            has_text = facts.tasks[name].n_train > 0  # a task without training text is reported elsewhere
            if has_text and (shared or name == scored) and scored not in suite.allow_leaks:
                where = f" from the source that {scored!r} is taken from" + (f" ({shared[0]})" if shared else "")
                yield suite.lines.problem(
                    f"label {label.name!r}: {reader} reads {name!r}{where}, and {scored!r} measures what was "
                    "forgotten. Let it read other text, retain another task, or, to go on, write "
                    f"allow_leaks: [{scored}].",
                    "methods", label.name,
                )  # fmt: skip


def tells_answers(task: str, facts: Facts) -> float | None:
    """Return the share of a task's questions that contain their right answer and no other choice; None where it is
    below TOLD and may be an accident, or is not known."""
    told = facts.data[task].told if task in facts.data else None
    return told if told is not None and told >= TOLD else None


class Leak(TypedDict, total=False):
    """The leaks that spoil a cell's scores of one task."""

    items: int  # scored items that were compared with the training text
    learned_with: dict[str, int]  # learned task -> scored items that stand in its text
    questions_with_answers: float  # share of questions that hold their right answer and no other


def leaks_in_cell(cell: Cell, facts: Facts) -> dict[str, Leak]:
    """Return {scored task: leak} for the leaks that spoil a cell's scores; tasks without one are left out. The suite
    allows these leaks, or the cell would not exist."""
    leaks_by_task: dict[str, Leak] = {}
    studied = Recipe.of(cell).studies(cell.task)
    for scored in (*cell.learn, *cell.retain):
        found = {name: facts.overlaps[name, scored] for name in studied if (name, scored) in facts.overlaps}
        learned = {name: overlap.count for name, overlap in found.items() if overlap.count}
        if learned:
            leaks_by_task[scored] = {"items": max(overlap.n for overlap in found.values()), "learned_with": learned}
        if share := tells_answers(scored, facts):
            leaks_by_task.setdefault(scored, {})["questions_with_answers"] = share
    return leaks_by_task


def model_notes(suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield a note, a phrase without a full stop, on each thing that a label's method finds in a model and that its
    name does not say, and on each model whose memory is not predicted."""
    for name in suite.models:
        network = facts.models[name].network
        if reason := network.uncounted() if network else "its weights are no safetensors files":
            yield f"no memory is predicted for {name}: {reason}"
    for label in suite.labels:
        for name in suite.models:
            network = facts.models[name].network
            for line in label.method.matched(network) if network and network.layers else ():
                yield f"label {label.name!r} on {name}: {line}"
