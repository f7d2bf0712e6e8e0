"""The results folder: where things lie in it, how they are written, and who may write.

::

    attempts/<two digits>/<attempt_id>/   result.json (the truth, written last), items.parquet, weights/,
                                          job.json, log.txt, events.jsonl
    documents/<task fingerprint>.parquet  the scored texts, once a task
    runs/<run_id>.json, .events.jsonl     what a run was made of, and what happened in it
    instruments/<digests>.json            the instruments' checks of themselves, once an environment and model
    probes/<digests>.json                 quick readings of the libraries, once an environment and suite
    tunebench.duckdb                      made from these; can be made again

Attempts are spread over folders by the first two digits of their cell's digest, so that no folder grows
past some hundreds of entries in a suite of 100,000 cells.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import FullDisk, StoreError
from harness.records import JOB, CellResult, Job

RESULT, ITEMS, EVENTS, LOG = "result.json", "items.parquet", "events.jsonl", "log.txt"
BESIDE = "beside.txt"  # keys of the cells that shared the machine, a line each
INSTRUMENTS, PROBES = "instruments", "probes"
ORPHAN_SECONDS = 60.0
RUN_LOCK, CELLS_LOCK = ".run.lock", ".cells.lock"
LOCK_SECONDS = 0.5  # `status` holds the lock for a moment when it looks whether somebody does
LEAST_FREE = 1 << 20  # bytes; with less, any error in writing is the disk's


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader, or the next start after a power cut, sees the old one or the new one.

    Raises FullDisk, or another OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        settle(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        if is_full(path.parent, error):
            raise FullDisk(full_disk(path.parent)) from error
        raise


def settle(temporary: Path, path: Path) -> None:
    """Rename a written file or folder to its final name `path`, once its content is on the disk: a power cut leaves all
    of it under that name, or nothing. An earlier file of that name is replaced."""
    if temporary.is_dir():
        for file in temporary.rglob("*"):
            sync(file)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Ask the system to put a file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shard(attempt_id: str) -> str:
    """Returns the name of the folder under `attempts/` that holds an attempt: two digits of its cell's digest, which
    ends its id."""
    return attempt_id.rsplit("-", 1)[-1][:2]


def attempt_folder(root: Path, attempt_id: str) -> Path:
    """Returns the folder of an attempt in the results folder `root`, whether or not it exists. (Results of tunebench
    0.1 lie in `attempts/` itself.)"""
    usual = root / "attempts" / shard(attempt_id) / attempt_id
    flat = root / "attempts" / attempt_id
    return flat if flat.is_dir() and not usual.is_dir() else usual


def attempts(root: Path, known: Container[str] = ()) -> Iterator[Path]:
    """Yields the folder of every attempt in the results folder `root`, with a result or without. Those whose attempt
    ids are in `known` are left out. No file in them is touched."""

    def folders(path: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []

    for outer in folders(root / "attempts"):
        if len(outer.name) > 2:
            if outer.name not in known:
                yield Path(outer.path)
            continue
        for inner in folders(Path(outer.path)):
            if inner.name not in known:
                yield Path(inner.path)


def results(root: Path, known: Container[str] = ()) -> Iterator[Path]:
    """Yields the result file of every attempt in the results folder `root` that has one. Those whose attempt ids are in
    `known` are left out."""
    for folder in attempts(root, known):
        path = folder / RESULT
        if path.exists():
            yield path


def read_json(path: Path) -> Any:
    """Read a file of JSON. Raises OSError where it cannot be read, and ValueError where it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_result(folder: Path) -> CellResult:
    """Read the result in an attempt's folder.

    Raises OSError where there is none, and ValueError for a file that tunebench did not write: it says what is wrong.
    """
    return CellResult.from_json(read_json(folder / RESULT))


def write_result(folder: Path, result: CellResult) -> None:
    """Write the result into an attempt's folder. Raises FullDisk, or another OSError."""
    reason = result.reason.encode("utf-8", "backslashreplace").decode()  # an error's text may hold lone surrogates
    result = replace(result, reason=reason)
    write_atomically(folder / RESULT, json.dumps(result.to_json(), indent=1))


def read_job(folder: Path) -> Job:
    """Read the job in an attempt's folder. Raises OSError where there is none, and ValueError for a damaged one or
    another version's."""
    return Job.from_json(read_json(folder / JOB))


def write_job(folder: Path, job: Job) -> None:
    """Write the job into an attempt's folder. Raises FullDisk, or another OSError."""
    write_atomically(folder / JOB, json.dumps(job.to_json(), indent=1))


def note_neighbour(folder: Path, key: str) -> None:
    """Write down the key of a cell that shares the machine with the cell in `folder`."""
    with (folder / BESIDE).open("a") as file:
        file.write(key + "\n")


def neighbours_of(folder: Path) -> tuple[str, ...]:
    """Returns the keys of the cells that shared the machine with the attempt in `folder`, each once; empty where it was
    alone."""
    try:
        return tuple(dict.fromkeys((folder / BESIDE).read_text().splitlines()))
    except OSError:
        return ()


def threads_of(folder: Path) -> int | None:
    """Returns the number of CPU threads that the attempt in `folder` computed with; None where its job is lost."""
    try:
        return int(json.loads((folder / JOB).read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear(folder: Path) -> None:
    """Remove what an ended process left in an attempt's folder: all files and folders whose names begin with a dot."""
    for path in folder.glob(".*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def says_full(error: BaseException | None) -> bool:
    """Returns whether an error says that a disk is full. (Libraries have their own error classes.)"""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        text in str(error) for text in ("No space left on device", "Disk quota exceeded")
    )


def is_full(folder: Path, error: BaseException | None = None) -> bool:
    """Returns whether the disk of `folder` is full (less than 1 MiB is free), or `error` says that a disk was."""
    if says_full(error):
        return True
    try:
        return shutil.disk_usage(folder).free < LEAST_FREE
    except OSError:
        return False


def full_disk(folder: Path) -> str:
    """Returns the error message for a full disk, that of `folder`, with what to do."""
    return (
        f"no space is left on the disk of {folder}. What is finished is kept. Free some space (weights of finished "
        "cells may be deleted: attempts/*/*/weights), then run the same command again."
    )


# --- who may write ---


@contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """Keep other commands from writing to the results folder `root` for the length of the block.

    Two locks, because a command that was killed can leave cells behind for a moment: `.run.lock` is held by the
    command, `.cells.lock` is shared by its cells (`hold_for_cell`). Both are released by the system when their holder
    ends, however it ends. Raises StoreError where another command holds it (with its pid), where cells of a killed one
    are still there after a minute, or where the folder cannot be written, and FullDisk where its disk is full.
    """
    from filelock import FileLock, Timeout

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / RUN_LOCK)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise StoreError(
            f"another `tunebench` (pid {holder(root) or 'unknown'}) is writing to {root}. Wait for it, or name another "
            "folder with --results."
        ) from None
    except OSError as error:
        raise unwritable(root, error) from error
    with lock:
        try:
            write_atomically(root / ".run.pid", str(os.getpid()))
            wait_for_orphans(root)
        except OSError as error:
            raise unwritable(root, error) from error
        yield


def unwritable(root: Path, error: OSError) -> StoreError:
    """Returns the error for a results folder that cannot be written: FullDisk, or StoreError with the reason."""
    if is_full(root, error):
        return FullDisk(full_disk(root))
    return StoreError(f"cannot write to the results folder {root}: {error.strerror}.")


def holder(root: Path) -> int | None:
    """Returns the pid of the command that writes to a results folder, or wrote last; None when nobody has."""
    try:
        return int((root / ".run.pid").read_text())
    except (OSError, ValueError):
        return None


def is_held(root: Path) -> bool:
    """Returns whether a command holds the results folder now. A pid does not tell: it may be in use again, or belong to
    another machine."""
    try:
        handle = os.open(root / RUN_LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks: no command could have begun there
    finally:
        os.close(handle)
    return False


def hold_for_cell(root: Path) -> int:
    """Take the cells' shared lock, in a cell's process: while it lives, no other command begins to write to this
    results folder. Returns the open file's descriptor."""
    handle = os.open(root / CELLS_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def processes_with(path: Path) -> list[int]:
    """Returns the pids of other processes of this machine that have a file open, as far as this user may see them."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = any(os.path.samefile(handle, path) for handle in folder.glob("fd/*") if handle.exists())
        except OSError:
            continue
        if held and int(folder.name) != os.getpid():
            pids.append(int(folder.name))
    return sorted(pids)


def wait_for_orphans(root: Path) -> None:
    """Wait until no cell of an earlier, killed command is alive in the results folder `root`. Raises StoreError after a
    minute."""
    handle = os.open(root / CELLS_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + ORPHAN_SECONDS
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                pids = processes_with(root / CELLS_LOCK)
                which = f"process {', '.join(map(str, pids))}" if pids else "a process of another machine or user"
                end = f"end them: kill -9 {' '.join(map(str, pids))}" if pids else "end them there"
                raise StoreError(
                    f"cells of an earlier command are still running and write to {root} ({which}). Wait for them, or "
                    f"{end}"
                )
            time.sleep(0.05)
    finally:
        os.close(handle)
