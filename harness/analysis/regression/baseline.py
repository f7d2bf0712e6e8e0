"""Keeps what an environment measured of a suite in one file of some hundred KB, so that it can be committed beside a
project, and reads it again."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.analysis.cost_ratios import Units
from harness.analysis.regression.between import Measured, changes_of_measured, measured_in
from harness.analysis.regression.records import Regression
from harness.environment import RESULT_PACKAGES, normal_name, now
from harness.errors import UserError
from harness.records import RESULT_VERSION, Environment, Probe, read_record
from harness.store import (
    CellRow,
    ItemAnswer,
    ItemValues,
    ScoreName,
    Store,
    fact_units,
    latest_run,
    write_atomically,
)

ANYWHERE = ("trainable_params", "artifact_bytes")  # costs that are the same on every machine
FORMAT, VERSION = "tunebench baseline", 1
LARGEST = 256 * 2**20  # bytes, unpacked


@dataclass(frozen=True)
class Baseline:
    """What one environment measured of a `suite`: attempts with the items of their headline scores, and probes of
    what `probes_digest` identifies. `about` is the environment, `units` are those of facts: name -> (unit, whether more
    is better)."""

    suite: str
    about: Environment
    measured: Measured
    units: Units
    probes: list[Probe] = field(default_factory=list)
    probes_digest: str = ""
    name: str = "baseline"

    def compared_with(self, new: Environment, measured: Measured, units: Units) -> Regression:
        """Compares what another environment measured now. Times are left out: nothing was measured by turns. On another
        machine, so is memory."""
        found = changes_of_measured(
            (self.about.env_digest, new.env_digest), (self.measured, measured), {**self.units, **units}
        )
        alike = same_machine(self.about, new)
        kept = (
            one for one in found.metrics if one.role != "cost" or (not one.timed and (alike or one.metric in ANYWHERE))
        )
        return replace(found, metrics=tuple(kept))

    def write(self, path: Path) -> None:
        """Write it as JSON, packed by gzip where the name ends in .gz."""
        texts: dict[tuple[str, ...], int] = {}
        items = []
        for (attempt, task, metric), answers in self.measured.values.items():
            docs = tuple(sorted(answers))
            place = texts.setdefault(docs, len(texts))  # most attempts answer the same documents
            clusters = [answers.clusters.get(doc) for doc in docs] if answers.clusters else None
            items.append([attempt, task, metric, place, [answers[doc] for doc in docs], clusters])
        about = {
            "format": FORMAT, "version": VERSION, "created": now(), "suite": self.suite,
            "environment": asdict(self.about),
            "rows": [asdict(row) for row in self.measured.rows], "documents": list(texts), "items": items,
            "digests": self.measured.digests, "needs": self.measured.needs, "units": self.units,
            "probes": [asdict(one) for one in self.probes], "probes_digest": self.probes_digest,
        }  # fmt: skip
        text = json.dumps(about, default=str, separators=(",", ":")).encode()
        write_atomically(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """Returns the baseline that a file holds. Raises UserError where it is none, or of another tunebench."""
        try:
            data = unpacked(path)
            if data["format"] != FORMAT:
                raise ValueError("it is no baseline")
            made_by = (data["version"], data["environment"]["result_version"])
            if made_by != (VERSION, RESULT_VERSION):
                raise UserError(
                    f"{path} was written by a tunebench whose results are not comparable with this one's (versions "
                    f"{made_by} against {(VERSION, RESULT_VERSION)}). Make it again with --save-baseline."
                )
            documents = data["documents"]
            values: dict[ScoreName, ItemValues] = {}
            for attempt, task, metric, place, numbers, clusters in data["items"]:
                answers = zip(documents[place], numbers, clusters or [None] * len(numbers), strict=True)
                values[attempt, task, metric] = ItemValues(
                    {doc: ItemAnswer(float(number), "", "", cluster) for doc, number, cluster in answers}
                )
            measured = Measured(
                TypeAdapter(list[CellRow]).validate_python(data["rows"]),
                values,
                dict(data["digests"]),
                {spec: tuple(needs) for spec, needs in data["needs"].items()},
            )
            units = {name: (str(unit), better) for name, (unit, better) in data["units"].items()}
            environment = read_record(Environment, data["environment"])
            probes = read_record(list[Probe], data["probes"])
            return cls(
                str(data["suite"]),
                environment,
                measured,
                units,
                probes,
                str(data["probes_digest"]),
                f"baseline {path.name}",
            )
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except (
            ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, RecursionError, zlib.error,
        ) as error:  # fmt: skip
            raise UserError(
                f"{path} is not a baseline, or is damaged ({type(error).__name__}: {error}). One is made by "
                "`tunebench regress SUITE --save-baseline FILE`; a results folder does too."
            ) from None

    @classmethod
    def newest_in(cls, folder: Path, suite: str) -> Baseline:
        """Returns the environment of the newest run of a suite in a results folder. Raises UserError where it has none
        of this tunebench's."""
        with Store(folder).look() as connection:
            run = latest_run(connection, suite)
            if run is None or not run.environment:
                raise UserError(f"{folder} has no results of the suite {suite!r}.")
            about = {**run.environment, "created": run.environment["created"].isoformat()}
            environment = read_record(Environment, about)
            if environment.result_version != RESULT_VERSION:
                raise UserError(f"{folder} was made by a tunebench whose results are not comparable with this one's.")
            measured = measured_in(connection, run.env_digest, suite)
            return cls(suite, environment, measured, fact_units(connection), name=f"baseline {folder.name}")


def unpacked(path: Path) -> Any:
    """Returns the JSON of a file, packed by gzip or not. Raises ValueError where it is larger than LARGEST."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST // 2**20} MiB")
    return json.loads(text)


def differing_versions(old: Environment, new: Environment) -> list[tuple[str, str, str]]:
    """Returns (name, old version, new version) of the packages that compute results and differ; "" where there is
    none."""
    first, second = ({normal_name(name): version for name, version in one.packages.items()} for one in (old, new))
    every = ((name, first.get(name, ""), second.get(name, "")) for name in map(normal_name, RESULT_PACKAGES))
    return [(name, before, after) for name, before, after in every if before != after]


def package_changes(old: Environment, new: Environment) -> list[str]:
    """Returns the packages that compute results and differ between two environments, in words."""
    return [f"{name} {before or 'none'} → {after or 'none'}" for name, before, after in differing_versions(old, new)]


def old_pins(old: Environment, new: Environment) -> str:
    """Returns the old versions of what differs, as `--with` takes them."""
    return ",".join(f"{name}=={before.split()[0]}" for name, before, _ in differing_versions(old, new) if before)


def same_machine(old: Environment, new: Environment) -> bool:
    """Returns whether two environments have the same hardware and threads, so that memory may be compared."""
    return all(getattr(old, name) == getattr(new, name) for name in ("cpu", "accelerator", "driver", "threads"))
