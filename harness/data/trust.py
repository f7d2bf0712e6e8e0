"""Says whether a task's own code may run, by what the user has said of it, and keeps what the user says.

A task YAML can make Python run anything. What is neither this package's nor lm-eval's own runs only when its digest
(`task_code.TaskCode`) stands in the user's file, so that a changed file is asked about again. The file is
`$TUNEBENCH_TRUST`, else `tunebench/trust.yaml` in the user's configuration folder. It is never looked for in a project.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.data.plain_files import read_text_file
from harness.data.task_code import TaskCode, code_of
from harness.data.yaml_limits import load_yaml
from harness.errors import TaskError, UserError
from harness.records import shell_word, visible

PASSED_ON = "TUNEBENCH_TRUSTED"  # digests, for processes on other machines, which have other homes
DIGEST = re.compile(r"[0-9a-f]{64}")
HEAD = (
    "# Code of task YAMLs that tunebench may run for you. A digest is of a YAML with all the code that it runs.\n"
    "# Remove an entry to be asked again.\n"
)


def trust_file() -> Path:
    """Return the file in which the user's trust is kept, whether it is there or not."""
    if named := os.environ.get("TUNEBENCH_TRUST"):
        return Path(os.path.expanduser(named)).absolute()
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder).absolute() / "tunebench" / "trust.yaml"


def entries() -> list[Any]:
    """Return the entries of the user's file, digests or mappings with a `digest`; none where there is no file. Raises
    UserError where the file is not as it must be, or others may write to it."""
    import yaml

    path = trust_file()
    try:
        mode = path.stat().st_mode
        content = load_yaml(read_text_file(path), yaml.BaseLoader)  # a digest of figures alone stays text
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}. Correct it or delete it.") from error
    if mode & 0o002:
        raise UserError(f"{path} can be written by anybody, so it says nothing about you. Run `chmod 600 {path}`.")
    listed = [] if content is None else (content.get("trust") if isinstance(content, dict) else None)
    if not isinstance(listed, list) or any(not DIGEST.fullmatch(digest_in(entry)) for entry in listed):
        raise UserError(
            f"{path}: wanted `trust:` with a list of digests (64 hex digits each). Correct it or delete it."
        )
    return listed


def digest_in(entry: object) -> str:
    """Return the digest of an entry of the user's file; "" where it has none."""
    return str(entry.get("digest", "")) if isinstance(entry, dict) else str(entry)


def trusted_digests() -> frozenset[str]:
    """Return the digests of all code that may run: the user's file, and what was passed on to this process."""
    return frozenset([*map(digest_in, entries()), *DIGEST.findall(os.environ.get(PASSED_ON, ""))])


def passed_on() -> dict[str, str]:
    """Return the environment variables that tell a process on another machine which code may run."""
    return {PASSED_ON: " ".join(sorted(trusted_digests()))}


def is_trusted(code: TaskCode) -> bool:
    """Return whether a task's code may run: it has none of its own, or the user trusts it."""
    return not code.runs or code.digest in trusted_digests()


def require(path: Path) -> None:
    """Raise TaskError where the task of a YAML runs code that the user has not said to trust, and ValueError or OSError
    where the YAML cannot be read."""
    code = code_of(path)
    if not is_trusted(code):
        raise TaskError(f"it runs code that is not trusted: {'; '.join(map(visible, code.runs))}. {advice([code])}")


def advice(codes: Iterable[TaskCode]) -> str:
    """Return what to do about code that is not trusted yet, for a message."""
    options = " ".join(f"--trust {shell_word(str(code.path))}" for code in codes)
    return f"Read it. If it may run for you, give {options} to `tunebench fetch` or `run`: once for this content."


def grant(codes: Iterable[TaskCode]) -> None:
    """Add code to what the user trusts. Raises UserError where the user's file cannot be written."""
    import yaml

    path = trust_file()
    kept = entries()
    known = set(map(digest_in, kept))
    added = {code.digest: {"digest": code.digest, "file": str(code.path.resolve())} for code in codes if code.runs}
    fresh = [entry for digest, entry in added.items() if digest not in known]
    if not fresh:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(HEAD + yaml.safe_dump({"trust": [*kept, *fresh]}, sort_keys=False, allow_unicode=True))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path}, where it is kept what you trust, cannot be written: {error.strerror}. Set TUNEBENCH_TRUST to a "
            "file that can be."
        ) from error
