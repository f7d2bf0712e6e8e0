"""Runs the instruments' checks of themselves once for each environment and base model, and keeps them in the machine's
cache and with the results."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.data import ModelFacts, cache_root
from harness.environment import now
from harness.errors import FullDisk, UserError
from harness.methods import make_method
from harness.plan import Plan
from harness.records import OPTIONAL_CHECKS, Check, Environment, InstrumentRecord, TrainSettings, digest, read_record
from harness.store import INSTRUMENTS, full_disk, is_full, write_atomically
from harness.suite import BASE
from harness.worker import die_with_parent

LOG_LINES = 5  # of a process that failed, shown in the error


def check_instruments(
    plan: Plan,
    results: Path,
    environment: Environment,
    threads: int,
    announce: Callable[[str], None] = lambda model: None,
    python: Path | None = None,
) -> dict[str, list[Check]]:
    """Returns model -> its self-checks, for every base model of a plan, with the settings that the untouched model is
    scored with.

    Checks come from this machine's cache or are done now (`announce` is called with the model's name first). They are
    copied into the folder `results`, in place of older ones. `python` is that of another environment, where cells
    run. Raises UserError when they cannot be run at all.
    """
    settings = next(label.train for label in plan.suite.labels if label.name == BASE)
    planned = {cell.model for cell in plan.cells}
    checks_by_model = {}
    for name in [name for name in plan.suite.models if name in planned]:
        facts = plan.facts.models[name]
        path, wanted = kept_at(environment.env_digest, facts.fingerprint, settings), needed(plan, name)
        known = read_checks(path)
        missing = wanted - {check.name for check in known or ()}
        if known is None or missing:
            announce(name)
            check_anew(facts, settings, environment, threads, missing, known or [], python)
        text = path.read_text(encoding="utf-8")
        copy = results / INSTRUMENTS / path.name
        if not copy.exists() or copy.read_text() != text:  # `tunebench doctor` may have checked anew since
            write_atomically(copy, text)
        # What another suite needed, and this one does not, is no reason to stop it.
        checks_by_model[name] = [
            check for check in read_checks(path) or () if check.name not in OPTIONAL_CHECKS or check.name in wanted
        ]
    return checks_by_model


def needed(plan: Plan, model: str) -> set[str]:
    """Returns the names of the optional self-checks that the plan's cells of a base model rest on."""
    cells = [cell for cell in plan.cells if cell.model == model]
    kinds = {json.dumps([cell.method, cell.settings], sort_keys=True, default=str): cell for cell in cells}
    return {name for cell in kinds.values() for name in make_method(cell.method, cell.settings).instruments}


def read_checks(path: Path) -> list[Check] | None:
    """Returns the self-checks in a file of the cache; None where it is missing or damaged, as they can be done
    again."""
    try:
        return read_record(InstrumentRecord, json.loads(path.read_text(encoding="utf-8")))["checks"]
    except (OSError, ValueError):
        return None


def check_anew(
    facts: ModelFacts,
    settings: TrainSettings,
    environment: Environment,
    threads: int,
    optional: Iterable[str] = OPTIONAL_CHECKS,
    known: list[Check] | None = None,
    python: Path | None = None,
) -> list[Check]:
    """Do the self-checks of the instruments on a model now, with the precision and attention kernel of `settings`, keep
    them in the cache and return them. `optional` names those to be done of the checks that only some cells need; with
    `known` checks, which are kept, only these are done. Raises UserError when they cannot be run at all."""
    path = kept_at(environment.env_digest, facts.fingerprint, settings)
    request = {
        "base": str(facts.folder),
        "settings": settings.model_dump(),
        "threads": threads,
        "optional": sorted(optional),
        "only_optional": bool(known),
    }
    checks = [*(known or []), *(Check(**check) for check in run_apart(path, request, python))]
    keep(path, environment.env_digest, facts.name, settings, checks)
    return checks


def kept_at(env_digest: str, fingerprint: str, settings: TrainSettings) -> Path:
    """Returns the cache file for the self-checks in an environment on a model. `fingerprint` is the model's; of
    `settings` precision and attention kernel count."""
    what = digest([fingerprint, settings.precision, settings.attention])
    return cache_root() / INSTRUMENTS / f"{env_digest[:16]}-{what[:16]}.json"


def keep(path: Path, env_digest: str, model: str, settings: TrainSettings, checks: list[Check]) -> None:
    """Write the self-checks of a model to the file `path`, with the environment and settings that they hold for."""
    record = {
        "env_digest": env_digest,
        "model": model,
        "precision": settings.precision,
        "attention": settings.attention,
        "created": now(),
        "checks": [asdict(check) for check in checks],
    }
    write_atomically(path, json.dumps(record, indent=1))


def matmul_peaks(
    precisions: Iterable[str], environment: Environment, threads: int, python: Path | None = None
) -> dict[str, float]:
    """Returns precision -> FLOP/s of a matrix product on this machine's device with this many CPU threads: from the
    cache, or measured now, before any cell runs. A precision that the device cannot do is left out. Raises UserError
    when none can be measured."""
    path = peaks_kept_at(environment.env_digest)
    known: dict[str, float | None] = {}
    with suppress(OSError, ValueError):  # missing, or damaged: then they are measured again
        known = read_record(dict[str, float | None], json.loads(path.read_text(encoding="utf-8")))
    if missing := sorted(set(precisions) - known.keys()):
        known |= run_apart(path, {"precisions": missing, "threads": threads}, python)
        write_atomically(path, json.dumps(known))
    return {precision: peak for precision, peak in known.items() if peak}


def peaks_kept_at(env_digest: str) -> Path:
    """Returns the cache file for an environment's rates of matrix products."""
    return cache_root() / INSTRUMENTS / f"{env_digest[:16]}-peaks.json"


def run_apart(path: Path, request: dict[str, object], python: Path | None = None) -> Any:
    """Run a request for checks or rates in a process of its own (of the environment that `python` belongs to), and
    return its answer (parsed JSON). Its log stays beside `path`. Raises UserError when there is no answer."""
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    question, answer = folder / "request.json", folder / "answer.json"
    question.write_text(json.dumps(request))
    variables = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TUNEBENCH_OFFLINE": "1",
        "OMP_NUM_THREADS": str(request["threads"]),
    }
    log = path.with_suffix(".log")
    with log.open("wb") as out:
        command = [
            str(python or sys.executable),
            "-m",
            "harness.worker.profiling.self_checks",
            str(question),
            str(answer),
        ]
        process = subprocess.run(
            command, stdout=out, stderr=out, env=variables, check=False, preexec_fn=die_with_parent
        )
    try:
        return json.loads(answer.read_text())
    except (OSError, ValueError):
        if is_full(folder):
            raise FullDisk(full_disk(folder)) from None
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise UserError(
            f"the instruments could not be checked (exit code {process.returncode}); see {log}\n{tail}"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def failures(checks_by_model: dict[str, list[Check]]) -> list[str]:
    """Returns a sentence for each self-check that failed (`checks_by_model`: model -> its checks): its name, the model,
    what was measured and the limit."""
    return [
        f"{check.name} on {model}: {check.about}: measured {check.measured:.3g} {check.unit}, {check.limit:.3g} at most"
        for model, checks in checks_by_model.items()
        for check in checks
        if not check.passed
    ]
