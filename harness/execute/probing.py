"""Runs the probes of a suite's methods in an environment, in a process of that environment's Python, and keeps them
with the results."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.environment import now
from harness.errors import UserError
from harness.execute.environments import MadeEnvironment, variables
from harness.records import LIBRARIES, Probe, ProbeRecord, digest, read_record
from harness.store import PROBES, write_atomically
from harness.suite import Suite
from harness.worker import die_with_parent

PROBE_SECONDS = 900
PROBES_VERSION = 6  # raised when a probe reads something else under the same name


class CannotRun(UserError):
    """An environment in which not even the probes run: its packages do not work with each other."""


@dataclass(frozen=True)
class ProbeRequest:
    """What is to be probed: the `labels` of a suite with their methods and settings, the configuration objects of
    `packages` that they use, and, with `libraries`, what lies under all of them."""

    suite: str
    labels: tuple[tuple[str, str, str], ...]  # label, method, settings as JSON
    packages: tuple[str, ...]
    libraries: bool = True

    @classmethod
    def of(cls, suite: Suite) -> ProbeRequest:
        """Returns the request for all of a suite's labels."""
        labels, packages = [], set()
        for label in suite.labels:
            method = label.recipe.method
            labels.append((label.name, method.name, json.dumps(method.settings, sort_keys=True)))
            packages |= {name for name in method.extras if name in ("trl", "setfit")}
        return cls(suite.name, tuple(labels), tuple(sorted(packages)))

    def only(self, subjects: Collection[str]) -> ProbeRequest:
        """Returns the request for some of its subjects alone: labels, LIBRARIES."""
        labels = tuple(label for label in self.labels if label[0] in subjects)
        libraries = LIBRARIES in subjects
        return ProbeRequest(self.suite, labels, self.packages if libraries else (), libraries)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(label for label, _, _ in self.labels)

    @property
    def digest(self) -> str:
        """The SHA-256 of what is asked for, and of how it is read."""
        return digest([PROBES_VERSION, list(self.labels), list(self.packages), self.libraries])

    def to_json(self, threads: int) -> dict[str, Any]:
        """Returns the request as `harness.worker.probes` reads it."""
        labels = [
            {"label": label, "method": method, "settings": json.loads(settings)}
            for label, method, settings in self.labels
        ]
        return {
            "labels": labels, "packages": list(self.packages), "libraries": self.libraries, "threads": threads,
        }  # fmt: skip


def probe(made: MadeEnvironment, request: ProbeRequest, results: Path | None) -> list[Probe]:
    """Returns the probes of an environment: those that the folder `results` holds, else those that are made now, which
    it then holds. Without a folder they are made and not kept. Raises CannotRun with the end of its log where that
    environment runs none."""
    path = results and results / PROBES / f"{made.about.env_digest[:16]}-{request.digest[:16]}.json"
    if path:
        with suppress(OSError, ValueError):
            return read_record(ProbeRecord, json.loads(path.read_text(encoding="utf-8")))["probes"]
    started = time.monotonic()
    probes = run_probes(made, request)
    if path:
        record = {
            "env_digest": made.about.env_digest, "suite": request.suite, "suite_digest": request.digest,
            "created": now(), "seconds": time.monotonic() - started, "probes": [asdict(one) for one in probes],
        }  # fmt: skip
        write_atomically(path, json.dumps(record, indent=1))
    return probes


def run_probes(made: MadeEnvironment, request: ProbeRequest) -> list[Probe]:
    """Returns the probes that a process of the environment makes now. Raises CannotRun."""
    threads = made.about.threads or 1
    with tempfile.TemporaryDirectory() as scratch:
        question, answer, log = (Path(scratch, name) for name in ("request.json", "answer.json", "log.txt"))
        question.write_text(json.dumps(request.to_json(threads)))
        command = [str(made.python), "-m", "harness.worker.probes", str(question), str(answer)]
        environment = variables() | {
            "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        with log.open("wb") as out:
            try:
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=False,
                    timeout=PROBE_SECONDS, preexec_fn=die_with_parent,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise CannotRun(f"{made.name}: the probes took more than {PROBE_SECONDS} s") from None
        try:
            return read_record(list[Probe], json.loads(answer.read_text()))
        except (OSError, ValueError):
            raise CannotRun(f"{made.name}: {last_line(log.read_text(errors='replace').splitlines())}") from None


def last_line(lines: Iterable[str]) -> str:
    """Returns what a process that failed said last."""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else "its Python ended without a word"
