"""Keeps the looks of a run that decides a suite: a file of JSON lines beside the run's record."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from harness.records import LookRecord, read_record

ENDING = ".looks.jsonl"


def add_look(root: Path, run_id: str, look: LookRecord) -> None:
    """Append a look to the file of a run in the results folder `root`. No result depends on it, so a full disk raises
    no error here."""
    path = root / "runs" / f"{run_id}{ENDING}"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(look, separators=(",", ":")) + "\n")


def looks_of(root: Path, suite: str) -> list[LookRecord]:
    """Returns the looks of the newest run in the results folder `root` that decided a suite, in their order; none where
    no run did. Lines that cannot be read are left out: a power cut may have cut the last, a hand may edit."""
    for path in sorted(root.glob(f"runs/*{ENDING}"), reverse=True):
        looks = []
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    looks.append(read_record(LookRecord, json.loads(line)))
        if looks and looks[0]["suite"] == suite:
            return looks
    return []
