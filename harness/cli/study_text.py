"""Reads stored studies, and shows them on a terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.cli.display import say, show_table
from harness.errors import UserError, unknown

if TYPE_CHECKING:
    from harness.records import JsonObject
    from harness.store import Store, StoredStudy


def stored(store: Store, suite: str, digests: set[str] | None = None) -> list[StoredStudy]:
    """Returns the studies of the newest run of a suite that tuned; `digests` keeps those with these study digests, None
    keeps all. Raises UserError where no run of the suite tuned anything, or the suite has no results."""
    from harness.store import all_suites, latest_run, studies_of

    with store.open(read_only=True) as connection:
        run = latest_run(connection, suite, tuned=True)
        if run is None:
            raise UserError(
                unknown("suite with results", suite, all_suites(connection), f"Run it: `tunebench run {suite}`.")
            )
        found = studies_of(connection, run)
    if not found:
        raise UserError(f"no run of {suite} has tuned anything. `tunebench tune {suite}` does.")
    return [study for study in found if digests is None or study.study_digest in digests]


def described(study: StoredStudy) -> JsonObject:
    """Returns a study as `--json` prints it: its fields, its seed, and under "chosen" the settings of its best trial
    (None where no trial was chosen)."""
    return {**asdict(study), "seed": study.seed, "chosen": study.best.params if study.best else None}


def show_study(study: StoredStudy) -> None:
    """Prints a study's trials, and the settings that it chose in the form in which a suite takes them."""
    import yaml

    from harness.analysis import value_text
    from harness.report import notes
    from harness.suite import setting_name

    names = list(study.study.get("space", {}))
    rows = [
        [
            ("* " if trial.chosen else "") + str(trial.number),
            trial.origin,
            *(value_text(trial.params.get(name)) for name in names),
            "" if trial.value is None else f"{trial.value:.4g}",
            f"{trial.seconds:.1f}",
            trial.status + (f": {trial.reason}" if trial.reason else ""),
        ]
        for trial in study.trials
    ]
    columns = ["trial", "from", *map(setting_name, names), study.metric or "score", "seconds", "status"]
    right = frozenset({"trial", "seconds", *columns[2 : 3 + len(names)]})
    show_table(study.key.removesuffix("/study"), columns, rows, right)
    if study.best:
        say("best, on validation items:", yaml.safe_dump(nested(study.best.params), default_flow_style=True).strip())
    for note in notes(study):
        say(note)
    print()


def nested(params: JsonObject) -> JsonObject:
    """Turns settings by full name ("a.b") into nested mappings, as a label of a suite has them; floats are rounded to
    four digits."""
    made: JsonObject = {}
    for name, value in params.items():
        *path, last = name.split(".")
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = float(f"{value:.4g}") if isinstance(value, float) else value
    return made
