"""Fetches everything a suite needs before its run; after this, cells run with the network cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.data import (
    Catalog,
    Download,
    Facts,
    LengthFacts,
    ModelFacts,
    TaskFacts,
    longest_lengths,
    model_download,
    task_download,
)
from harness.errors import OfflineError, SourceError, SuiteError, TaskError, TunebenchError
from harness.suite import Suite


def fetched_facts(catalog: Catalog, suite: Suite) -> tuple[Facts, list[str]]:
    """Return (facts of the models and tasks that have been fetched, names of those that have not). Loads neither torch
    nor lm-eval.

    Token lengths, faults of data and overlaps are not counted as missing: without lengths a plan lacks only predicted
    memory. Raises UserError for unknown names (`load_suite` with this catalog has found them all).
    """
    models = {name: catalog.model_facts(name) for name in suite.model_names()}
    tasks = {name: catalog.task_facts(name) for name in suite.task_names()}
    missing = [name for name, facts in {**models, **tasks}.items() if facts is None]
    found_models = {name: facts for name, facts in models.items() if facts}
    found_tasks = {name: facts for name, facts in tasks.items() if facts}
    return gathered(catalog, suite, found_models, found_tasks), missing


def known_facts(catalog: Catalog, suite: Suite) -> tuple[Facts, list[str]]:
    """Return (facts of the models and tasks that have been fetched or described, names of those that are neither).

    `Facts.unfetched` names those of which only the published description is known. Texts whose lengths are not known
    are counted as long as the model can read, so that memory predicted for training is a bound. Raises as
    `fetched_facts`.
    """
    facts, missing = fetched_facts(catalog, suite)
    models, tasks = dict(facts.models), dict(facts.tasks)
    for name in suite.model_names():
        if name in missing and (model := catalog.described_model(name)):
            models[name] = model
    for name in suite.task_names():
        if name in missing and (task := catalog.described_task(name)):
            tasks[name] = task
    unfetched = frozenset(name for name in missing if name in models or name in tasks)
    if not unfetched:
        return facts, missing
    pairs = [(name, each) for name in suite.models if name in models for each in tasks]
    longest = {pair: longest_lengths(models[pair[0]], pair[1]) for pair in pairs}
    known = replace(facts, models=models, tasks=tasks, lengths=longest | facts.lengths, unfetched=unfetched)
    return known, [name for name in missing if name not in unfetched]


def gathered(catalog: Catalog, suite: Suite, models: dict[str, ModelFacts], tasks: dict[str, TaskFacts]) -> Facts:
    """Return the facts of these models and tasks (name -> facts), with the token lengths, data faults and overlaps that
    were counted already."""
    data = {name: found for name, facts in tasks.items() if (found := catalog.data_facts(facts))}
    pairs = [pair for pair in suite.learned_and_scored() if set(pair) <= tasks.keys()]
    seen = {pair: catalog.overlap_facts(tasks[pair[0]], tasks[pair[1]]) for pair in pairs}
    overlaps = {pair: found for pair, found in seen.items() if found}
    return Facts(models, tasks, known_lengths(catalog, suite, models, tasks), data, overlaps)


def known_lengths(
    catalog: Catalog, suite: Suite, models: dict[str, ModelFacts], tasks: dict[str, TaskFacts]
) -> dict[tuple[str, str], LengthFacts]:
    """Return {(model, task): token lengths} for the suite's models and all `tasks`, as far as they have been
    counted."""
    pairs = [(model, task) for model in suite.models if model in models for task in tasks]
    counted = {(model, task): catalog.length_facts(models[model], tasks[task]) for model, task in pairs}
    return {pair: facts for pair, facts in counted.items() if facts}


def pairs_without_lengths(suite: Suite, facts: Facts) -> list[tuple[str, str]]:
    """Return the (model, task) pairs whose token lengths have not been counted yet. The encoder that a method brings
    along needs none."""
    return [
        (model, task)
        for model in suite.models
        for task in suite.task_names()
        if model in facts.models and task in facts.tasks and (model, task) not in facts.lengths
    ]


def models_without_structure(suite: Suite, facts: Facts) -> list[str]:
    """Return the suite's base models whose structure has not been read yet, or not with this version of
    transformers."""
    known = [(name, facts.models.get(name)) for name in suite.models]
    return [name for name, found in known if found and not (found.network and found.network.structure)]


def is_complete(suite: Suite, facts: Facts) -> bool:
    """Return whether nothing is left to find out about the fetched models and tasks of a suite."""
    return not (
        pairs_without_lengths(suite, facts)
        or has_unchecked_data(suite, facts)
        or models_without_structure(suite, facts)
    )


def has_unchecked_data(suite: Suite, facts: Facts) -> bool:
    """Return whether some task's data have not been searched yet for faults, or for overlaps between learned and scored
    text."""
    return any(name not in facts.data for name in suite.task_names()) or any(
        pair not in facts.overlaps for pair in suite.learned_and_scored()
    )


def downloads(catalog: Catalog, suite: Suite) -> list[Download]:
    """Return what `fetch_suite` would download for a suite: for each model and task that has not been fetched, and
    whose sources are not on this machine."""
    _, missing = fetched_facts(catalog, suite)
    models, tasks = list(suite.model_names()), list(suite.task_names())
    found = [model_download(catalog, name) for name in models if name in missing]
    found += [task_download(catalog, name) for name in tasks if name in missing]
    return [one for one in found if one]


def fetch_suite(catalog: Catalog, suite: Suite, progress: Callable[[str, int, int], None] | None = None) -> Facts:
    """Download, verify and prepare whatever a suite lacks, and return the facts of all its models and tasks.

    `progress` is called with (what is being done, bytes done, bytes in all), the bytes 0 where they are not known.
    Raises OfflineError where the network cannot be reached, and SuiteError with the line of each model that cannot be
    had and of each task that cannot be loaded.
    """
    facts, missing = fetched_facts(catalog, suite)
    if not missing and is_complete(suite, facts):
        return facts
    from harness.data import leaks, tasks
    from harness.models import loading, token_lengths

    tell = progress or (lambda name, done, total: None)
    found_models = dict(facts.models)
    found_tasks = dict(facts.tasks)
    problems = []
    for name in suite.model_names():
        if name not in found_models:
            tell(f"fetching model {name}", 0, 0)
            try:
                found_models[name] = loading.prepare(catalog, name, progress)
            except OfflineError:
                raise  # which every other one would meet too
            except SourceError as error:
                place = ("models", suite.models.index(name)) if name in suite.models else ("methods",)
                problems.append(suite.lines.problem(str(error), *place))
    for name in models_without_structure(suite, Facts(found_models, {})):
        tell(f"looking at the layers of {name}", 0, 0)
        loading.keep_model_structure(name, found_models[name])
        found_models[name] = catalog.model_facts(name) or found_models[name]
    for name in suite.task_names():
        if name not in found_tasks:
            tell(f"preparing task {name}", 0, 0)
            try:
                with templates_of(catalog, name):
                    found_tasks[name] = tasks.prepare(catalog, name)
            except OfflineError:
                raise
            except (TaskError, SourceError) as error:
                problems.append(suite.lines.problem(str(error), *suite.place_of(name)))
    if problems:
        raise SuiteError(problems)
    found = gathered(catalog, suite, found_models, found_tasks)
    for name in suite.task_names():
        if name not in found.data:
            tell(f"looking through {name}", 0, 0)
            with templates_of(catalog, name):
                found.data[name] = leaks.prepare_data(catalog, found_tasks[name])
    for pair in suite.learned_and_scored():
        if pair not in found.overlaps:
            learned, scored = pair
            tell(f"looking for {scored} in what is learned of {learned}", 0, 0)
            found.overlaps[pair] = leaks.prepare_overlap(catalog, found_tasks[learned], found_tasks[scored])
    for model, task in pairs_without_lengths(suite, found):
        tell(f"counting the tokens of {task} for {model}", 0, 0)
        with templates_of(catalog, task):
            found.lengths[model, task] = token_lengths.prepare(catalog, found_models[model], found_tasks[task])
    return found


@contextmanager
def templates_of(catalog: Catalog, task: str) -> Iterator[None]:
    """While this lasts, what a task's documents are made to texts by, its templates and its own code, may fail in any
    way: that is a TaskError with the task's name. Errors of this package and of the system stay what they are."""
    try:
        yield
    except (TunebenchError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise TaskError(
            f"task {task!r} ({catalog.task_path(task)}): its documents cannot be made to questions and answers "
            f"({type(error).__name__}: {reason}). Correct its templates, or its data."
        ) from error
