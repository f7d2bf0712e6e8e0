"""Says what users should know of a suite's data before they run it: what became of every row, and what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import comb

from harness.data import Facts, Quality, TaskFacts, counts_line, turns
from harness.errors import counted
from harness.suite import Suite

RARE = 10  # times more examples of the commonest class than of the rarest: worth a note
LIKELY = 0.05  # chance of losing a class from which on a note is due
NAMED = 5  # classes that a note names


def data_lines(suite: Suite, facts: Facts) -> list[str]:
    """Return a line for each of a suite's tasks that is fetched: rows read, dropped by reason, and kept in each split
    by class."""
    fetched = [facts.tasks[name] for name in suite.task_names() if name in facts.tasks]
    return [counts_line(task) for task in fetched if task.kept]


def data_notes(suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield a note, a phrase without a full stop, on each thing in a task's data that is odd but usable: contradicting
    labels, empty examples, near copies between and within splits, classes that a split lacks, a rarest class with a
    tenth of the commonest's examples or fewer, classes that a slice of the training examples lacks."""
    for name in suite.task_names():
        for remark in facts.tasks[name].remarks:
            yield f"{name}: {remark}"
        if name in facts.data:
            found = facts.data[name]
            for split, count in found.empty.items():
                if count:
                    yield f"{name}: {counted(count, 'example')} of the split {split!r} without text or answer"
            if found.contradicting:
                yield (
                    f"{name}: {counted(found.contradicting, 'training question')} with contradicting answers, such as "
                    f"{found.shown[0]!r}; all are taught"
                )
            if found.known_validation:
                yield (
                    f"{name}: {found.known_validation} of {facts.tasks[name].n_validation} validation items stand in "
                    "its training text, in full or nearly: what is chosen by them favours what learns by heart"
                )
            if found.copies:
                yield (
                    f"{name}: {found.copies} of {facts.tasks[name].n_test} scored items stand in another scored item, "
                    f"in full or nearly, such as {found.copied[0]!r}: errors count them as independent"
                )
        for split, sizes in facts.tasks[name].kept.items():
            lacking = [each for each, count in sizes.items() if each and not count]
            if lacking:
                yield f"{name}: the split {split!r} has no row of {named(lacking)}"
        classes = facts.tasks[name].classes
        if classes and max(classes.values()) >= RARE * min(classes.values()):
            rare, common = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
            yield (
                f"{name}: {counted(classes[rare], 'training example')} of the class {rare!r}, {classes[common]} of "
                f"{common!r}: accuracy says little of the rare one"
            )
    yield from lost_classes(suite, facts)


def lost_classes(suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield a note for each size of a learned task whose training examples lack some class, or may lack it."""
    for task, sizes in suite.tasks:
        found = facts.tasks[task]
        numbers = sorted({found.n_train if size == "all" else min(int(size), found.n_train) for size in sizes})
        for n in numbers if len(found.classes) > 1 else ():
            for quality in suite.qualities():
                lacking = lacking_classes(found, n, quality, suite.seeds)
                if lacking:
                    condition = f" ({quality.condition})" if quality.condition else ""
                    yield f"{task}: {counted(n, 'training example')}{condition} {lacking}"


def lacking_classes(task: TaskFacts, n: int, quality: Quality, seeds: tuple[int, ...]) -> str:
    """Return which classes `n` training examples of a task lack, as the end of a sentence, or ""."""
    classes, distinct = task.classes, n - quality.repeats(n)
    if quality.corrupt.imbalance > 1:
        for seed in seeds:
            held = Counter(turns(distinct, list(classes), quality.corrupt.imbalance, seed))
            lost = [name for name in classes if not held[name]]
            if lost:
                return f"have none of {named(lost)} with seed {seed}"
        return ""
    if quality.select == "random":
        total = sum(classes.values())
        chances = {
            name: comb(total - count, distinct) / comb(total, distinct) for name, count in classes.items() if count
        }
        likely = [name for name, chance in chances.items() if chance >= LIKELY]
        return f"may lack {named(likely)}: a chance of {max(chances.values()):.0%} for each seed" if likely else ""
    if quality.select == "balanced" and distinct < len(classes):
        return f"hold {distinct} of {len(classes)} classes: raise the size to {len(classes)} or more"
    return ""


def named(classes: list[str]) -> str:
    """Return the names of some classes in words; of many the first five."""
    shown = ", ".join(map(repr, classes[:NAMED]))
    return (
        f"the class {shown}"
        if len(classes) == 1
        else f"{len(classes)} classes ({shown}{', …' * (len(classes) > NAMED)})"
    )
