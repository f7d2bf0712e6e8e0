"""Writes published results into a results folder as attempts and runs, one run for each environment.

The files are written as those of tunebench's own runs, so that a rebuilt database has them too. Their cells have method
"imported" and digests of their own; their runs belong to a suite of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import UserError, counted
from harness.records import CellResult, RunRecord, digest
from harness.store.files import RESULT, attempt_folder, write_atomically, write_result
from harness.store.importing.peft_results import SUITE, OtherShape, Published, read_published, result_of
from harness.store.importing.versions import FileVersion, file_versions

NAMED = 10  # complaints that are printed before the rest is counted


@dataclass(frozen=True)
class Imported:
    """What an import did: `attempts` are new, `known` were there before. `environments` are the digests of those that
    have any, the oldest first. `complaints` name what was left out, a sentence each."""

    suite: str
    attempts: int
    known: int
    environments: tuple[str, ...]
    cells: int
    complaints: list[str] = field(default_factory=list)


def import_published(root: Path, path: Path) -> Imported:
    """Imports the results at `path` (a folder, a zip, a git directory) into the results folder `root`, whose sole
    writer the caller is. Importing the same again changes nothing. Raises UserError where nothing can be read, or
    nothing there is a result."""
    results, complaints = read_all(file_versions(path))
    if not results:
        told = "\n".join(complaints[:NAMED])
        raise UserError(
            f"{path}: no JSON file there is a result of peft's method_comparison. Give its repository, or a folder of "
            f"its results.{f' Left out: {told}' if told else ''}"
        )
    new = known = 0
    for run, members in runs_of(results, f"tunebench import {path}"):
        for result in members:
            folder = attempt_folder(root, result.attempt_id)
            if (folder / RESULT).exists():
                known += 1
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_result(folder, replace(result, run_id=run["run_id"]))
            new += 1
        write_atomically(root / "runs" / f"{run['run_id']}.json", json.dumps(run))
    environments = {result.environment.env_digest: result.started for result in reversed(results)}
    order = tuple(sorted(environments, key=lambda environment: environments[environment]))
    return Imported(
        SUITE, new, known, order, len({result.cell.spec_digest for result in results}), complaints
    )  # fmt: skip


def read_all(versions: Iterable[FileVersion]) -> tuple[list[CellResult], list[str]]:
    """Returns (results in the order in which they were made, complaints). Of one training that was published several
    times, the last version counts: later ones add fields. Files that were never meant to be results are counted, others
    are named with the field that is wrong."""
    results: dict[str, CellResult] = {}
    complaints: dict[str, None] = {}
    foreign = 0
    for version in versions:
        try:
            published: Published = read_published(version.where, version.content)
            result = result_of(published)
        except OtherShape as error:
            foreign += error.foreign
            if not error.foreign:
                complaints[f"{version.where}: {error}; left out"] = None
            continue
        complaints |= dict.fromkeys(f"{version.where}: {text}" for text in published.complaints)
        results[result.attempt_id] = result
    told = shortened(list(complaints))
    if foreign:
        told.append(f"{counted(foreign, 'JSON file')} of another kind (without run_info, train_info and meta_info)")
    return sorted(results.values(), key=lambda one: (one.started, one.attempt_id)), told


def shortened(complaints: Sequence[str]) -> list[str]:
    """Returns the first complaints, and how many more there are."""
    more = len(complaints) - NAMED
    return [*complaints[:NAMED], *([f"… and {more} more of this kind"] if more > 0 else [])]


def runs_of(results: Sequence[CellResult], command: str) -> list[tuple[RunRecord, list[CellResult]]]:
    """Returns a run for each environment, with its results. Its id depends on what it holds, so that the same import
    writes the same run again, and later results of the same environment get a run of their own."""
    by_environment: dict[str, list[CellResult]] = {}
    for result in results:
        by_environment.setdefault(result.environment.env_digest, []).append(result)
    runs = []
    most = max(len({result.cell.key for result in own}) for own in by_environment.values())
    for environment, own in by_environment.items():
        cells = {result.cell.key: result.cell for result in own}
        # A few new methods alone are published between the large runs: the report is to show a large one.
        part = 2 * len(cells) < most
        stamp = own[0].attempt_id.split("-")[0]
        name = f"{stamp[:8]}T{stamp[8:]}-import-{digest([environment, *(one.attempt_id for one in own)])[:8]}"
        runs.append(
            (
                RunRecord(
                    run_id=name,
                    suite=SUITE,
                    question="What did peft's own comparison of methods measure, version by version?",
                    env_digest=environment,
                    started=own[0].started,
                    finished=own[-1].started,
                    status="done",
                    command=command,
                    only_cells=list(cells) if part else [],
                    members=[cell.member() for cell in cells.values()],
                ),
                own,
            )
        )
    return runs
