"""Works out the state of a plan before a run: what is finished, what is to do, and what earlier runs left half done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.environment import now
from harness.errors import DamagedStore
from harness.execute.durations import Durations
from harness.execute.queue import NEEDS, TO_DO
from harness.plan import Plan
from harness.records import CellResult, RunRecord, Status, read_record
from harness.store import Store, files

HEAD_BYTES = 1 << 16  # of a run's record: its long list of cells comes last


@dataclass
class PlanState:
    """The states of a plan's cells before a run, by spec digest.

    `done` maps finished cells that a cell to do depends on (its needs, its base model's cell) to their attempt folders.
    `ended` does so for all cells that ended, well or not, where a study is to do: its trials may be among them.
    `complaints` are sentences about damage in the store.
    """

    states: dict[str, str]  # "to do", or the status of the last attempt
    done: dict[str, Path] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    durations: Durations = field(default_factory=Durations)
    ended: dict[str, Path] = field(default_factory=dict)


def plan_state(
    plan: Plan, store: Store, env_digest: str, retry: frozenset[str] = frozenset(), look_only: bool = False
) -> PlanState:
    """Returns the state of a plan in an environment.

    A cell is "to do" when it has no attempt, or its newest one was interrupted, or its status is in `retry`, or a
    finished one is needed and its weights are gone, or it is not finished and one of its needs is to do, or it was
    skipped for a need that has been done since. `retry` are statuses ("done" too) whose cells run again; in a plan that
    was narrowed to some cells, the finished ones that were not asked for are left as they are. With `look_only` the
    results folder may be read-only (`Store.look`), and there are no complaints.
    """
    with store.look() if look_only else store.open() as connection:
        complaints = [] if look_only else store.ingest(connection)
        statuses = store.statuses(connection, env_digest)
        folders = store.finished(connection, env_digest)
        planned = {name: facts.network.parameters() for name, facts in plan.facts.models.items() if facts.network}
        durations = Durations(store.seconds(connection), {**store.parameters(connection), **planned})
        skipped = [name for name, status in statuses.items() if status == Status.SKIPPED]
        # Trials are done again with their study, not because other cells are.
        again = retry if all(plan.asked(cell) for cell in plan.cells if cell.study) else retry - {Status.DONE}
        settled = store.settled(connection, env_digest, [*again, Status.INTERRUPTED, Status.SKIPPED])
        blocked = {name for name, reason in store.reasons(connection, skipped).items() if reason.startswith(NEEDS)}
    states: dict[str, str] = {}
    for cell in plan.cells:
        # Finished once is finished, also when a later, repeated attempt was cut short.
        state = Status.DONE if cell.spec_digest in folders else statuses.get(cell.spec_digest, TO_DO)
        again = retry if plan.asked(cell) else retry - {Status.DONE}
        states[cell.spec_digest] = TO_DO if state == Status.INTERRUPTED or state in again else state
    for cell in plan.cells:
        mended = all(states.get(need) in (TO_DO, Status.DONE) for need in cell.needs.values())
        if cell.spec_digest in blocked and states[cell.spec_digest] == Status.SKIPPED and mended:
            states[cell.spec_digest] = TO_DO
    while more := set_back(plan, states, lambda name: store.attempt_folder(folders[name])):
        states.update(dict.fromkeys(more, TO_DO))
    used = {
        name
        for cell in plan.cells
        if states[cell.spec_digest] == TO_DO
        for name in (*cell.needs.values(), cell.baseline)
        if states.get(name) == Status.DONE
    }
    studies = any(cell.study and states[cell.spec_digest] == TO_DO for cell in plan.cells)
    ended = {name: store.attempt_folder(attempt) for name, attempt in settled.items()} if studies else {}
    return PlanState(states, {name: store.attempt_folder(folders[name]) for name in used}, complaints, durations, ended)


def set_back(plan: Plan, states: dict[str, str], folder_of: Callable[[str], Path]) -> set[str]:
    """Returns the spec digests of cells that become "to do" again: finished needs whose weights are gone, and cells
    that a need, now to do again, had blocked. `states` maps spec digests to states; `folder_of` returns the attempt
    folder of the finished cell with this spec digest."""
    needed = {need for cell in plan.cells if states[cell.spec_digest] == TO_DO for need in cell.loads.values()}
    lost = {name for name in needed if states.get(name) == Status.DONE and not weights_are_whole(folder_of(name))}
    freed = {
        cell.spec_digest
        for cell in plan.cells
        if states[cell.spec_digest] not in (TO_DO, Status.DONE)
        and any(states.get(need) == TO_DO for need in cell.needs.values())
    }
    return lost | freed


def weights_are_whole(folder: Path) -> bool:
    """Returns whether a finished attempt's weights are in its folder, with the size in bytes that its result names."""
    weights = folder / "weights"
    if not weights.is_dir():
        return False
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    try:
        facts = files.read_result(folder).facts
    except (OSError, ValueError):
        return False  # it was damaged since it was taken in
    return all(fact.value == size for fact in facts if fact.name == "artifact_bytes")


def mend(store: Store) -> list[str]:
    """Repair, before a run and under the lock of a sole writer, what an earlier command left when it was killed.
    Returns complaints about damage, a sentence each.

    Attempts whose files have another size than when they were taken in are read again; attempts without a result become
    interrupted ones, and their half-written weights are removed; runs that are still marked as running become
    interrupted; a database that cannot be read is made anew from the files.
    """
    complaints = []
    try:
        with store.open() as connection:
            complaints += store.forget_changed(connection)
            known = store.attempt_ids(connection)
    except DamagedStore:
        complaints += store.rebuild()[1]
        known = set()
    for folder in files.attempts(store.folder, known):
        if not (folder / files.RESULT).exists():
            files.clear(folder)
            close_attempt(folder)
    for path in store.folder.glob("runs/*.json"):
        running = False
        with suppress(OSError), path.open("rb") as file:
            running = b'"status":"running"' in file.read(HEAD_BYTES)
        if running:
            try:
                record = read_record(RunRecord, files.read_json(path))
            except (OSError, ValueError):
                continue  # a power cut truncated it; whoever takes in records complains of it
            write_run(path, record | {"status": str(Status.INTERRUPTED), "finished": now()})
    return complaints


def close_attempt(folder: Path) -> None:
    """Write the result "interrupted" into the folder of an attempt whose command was killed; where even its job is
    unreadable, remove the folder."""
    try:
        reason = "the command that ran it was killed"
        result = CellResult.of_job(folder.name, files.read_job(folder), Status.INTERRUPTED, reason, now())
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)  # killed before it began: there is nothing in it
        return
    files.write_result(folder, result)


def write_run(path: Path, record: RunRecord) -> None:
    """Write a run's record as JSON in one line, as the list of its cells may be long."""
    files.write_atomically(path, json.dumps(record, separators=(",", ":")))
