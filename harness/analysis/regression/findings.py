"""What the comparison of a suite's environments comes to as a whole, as frozen records: probes, causes and results of
cells, for each two environments that follow each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.analysis.delta_debugging import Cause, Turn
from harness.analysis.probed import ProbeChange
from harness.analysis.regression.records import Regression
from harness.store import write_atomically

FINDINGS = "regressions"  # folder within a results folder


@dataclass(frozen=True)
class Attribution:
    """Why some readings of probes differ: the `cause` (packages that make the difference together; `cause.cleared` are
    those that do not), and, where that is one package, the `turn` between its releases. `keys` are the readings
    (subject, name) of probes, or (label, metric) of cells; `packages` are the changes of the cause for people: "peft
    0.20.0 → 0.21.2"; `link` is the page that tells of the release in which it turned, "" where none is known."""

    keys: tuple[tuple[str, str], ...]
    cause: Cause
    packages: tuple[str, ...] = ()
    turn: Turn | None = None
    link: str = ""


@dataclass(frozen=True)
class EnvironmentFindings:
    """An environment that was asked for: its `name` (the words of `--with`), its digest ("" where it could not be
    made), the packages that were `exchanged` ("peft==0.20.0"), those that were left out with the reason, and why it
    `cannot` be compared ("": it can)."""

    name: str
    env_digest: str = ""
    exchanged: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    cannot: str = ""


@dataclass(frozen=True)
class PairFindings:
    """What an environment is to the one before it. `packages` are those that differ, in words; `unread` are labels that
    could be probed in neither, with the reason; `results` is None where no cell was run."""

    old: str
    new: str
    packages: tuple[str, ...] = ()
    changes: tuple[ProbeChange, ...] = ()
    attributions: tuple[Attribution, ...] = ()
    results: Regression | None = None
    unread: tuple[tuple[str, str], ...] = ()

    @property
    def worse(self) -> bool:
        """Whether anything is shown to be worse: a score, a cost, or a reading of a probe of which one direction is."""
        return any(change.better is False for change in self.changes) or bool(self.results and self.results.worse)

    @property
    def unclear(self) -> bool:
        """Whether anything is left open: labels whose results cannot be told apart nor shown to be the same, and
        readings that differ without a direction that is worse. All labels together are left open whenever one alone
        moved, and do not count."""
        open_results = self.results and any(
            change.answer == "cannot tell" for metric in self.results.metrics for change in metric.labels
        )
        return bool(open_results) or any(change.better is None for change in self.changes)


@dataclass(frozen=True)
class RegressionFindings:
    """The comparison of a suite's environments, in the order in which they were asked for. `labels` are those that
    were probed."""

    suite: str
    labels: tuple[str, ...]
    environments: tuple[EnvironmentFindings, ...]
    pairs: tuple[PairFindings, ...]

    @property
    def worse(self) -> bool:
        """Whether anything is shown to be worse. An environment that cannot be run, though an older one can, is."""
        able = [not environment.cannot for environment in self.environments]
        fails_later = any(not now and any(able[:place]) for place, now in enumerate(able))
        return fails_later or any(pair.worse for pair in self.pairs)

    @property
    def unclear(self) -> bool:
        """Whether anything is left open, environments that cannot be run included."""
        return any(environment.cannot for environment in self.environments) or any(pair.unclear for pair in self.pairs)

    def keep(self, results: Path) -> None:
        """Write it into the folder `results`, for the report; what was found before is replaced."""
        text = TypeAdapter(RegressionFindings).dump_json(self, indent=1)
        write_atomically(results / FINDINGS / f"{self.suite}.json", text)


def kept_findings(results: Path, suite: str) -> RegressionFindings | None:
    """Returns what was last found of a suite; None where nothing was, or an older tunebench wrote it otherwise."""
    try:
        text = (results / FINDINGS / f"{suite}.json").read_bytes()
        return TypeAdapter(RegressionFindings).validate_json(text)
    except (OSError, ValueError):
        return None
