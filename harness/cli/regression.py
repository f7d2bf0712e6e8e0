"""Compares a suite's environments from the command line: makes them, probes them, looks for the cause, and prints
it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from harness.cli.display import show_table
from harness.errors import UserError, counted
from harness.records import visible

if TYPE_CHECKING:
    from pathlib import Path

    from harness.analysis import ProbeChange
    from harness.analysis.regression import Attribution, Baseline, RegressionFindings
    from harness.analysis.regression import Regression as CellChanges
    from harness.data import Catalog
    from harness.execute import Between, MadeEnvironment, ProbeRequest, Session
    from harness.execute.executors import Progress
    from harness.plan import Plan
    from harness.records import Probe
    from harness.store import Store
    from harness.suite import EnvironmentRequest, Suite


@dataclass
class Compared:
    """Two environments next to each other in the list that was asked for, and what was found between them."""

    old: MadeEnvironment | Baseline
    new: MadeEnvironment
    changes: list[ProbeChange] = field(default_factory=list)
    results: CellChanges | None = None
    attributions: list[Attribution] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)  # those that differ, in words


@dataclass
class Regression:
    """The comparison of a suite's environments, the first of which may be a `baseline` that is stored. `cannot` maps an
    environment that cannot be made or run to the reason."""

    suite: Suite
    requests: Sequence[EnvironmentRequest]
    store: Store
    threads: int
    baseline: Baseline | None = None
    made: list[MadeEnvironment] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)
    probes: dict[str, list[Probe]] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)  # run -> how many of its cells were said to have ended

    def say(self, text: str) -> None:
        """Prints what is being done to stderr."""
        print(text, file=sys.stderr, flush=True)

    def prepare(self) -> None:
        """Makes the environments. One that cannot be made is kept with its reason."""
        from harness.execute import CannotMake, make_environment

        for request in self.requests:
            started = time.monotonic()
            try:
                made = make_environment(request, self.threads)
            except CannotMake as error:
                self.cannot[request.name] = str(error)
                continue
            self.made.append(made)
            exchanged = ", ".join(package.pin for package in made.resolved.packages) or "the installation as it is"
            self.say(f"{made.name}: {exchanged} ({time.monotonic() - started:.0f} s)")
            for _, reason in made.resolved.left_out:
                self.say(f"{made.name}: left out: {reason}")

    def probe(self) -> None:
        """Probes every environment, and compares each one with the one before it."""
        from harness.analysis import probe_changes
        from harness.execute import Between, CannotRun, ProbeRequest, probe

        request = ProbeRequest.of(self.suite)
        for made in self.made:
            started = time.monotonic()
            try:
                self.probes[made.name] = probe(made, request, self.store.folder)
            except CannotRun as error:
                self.cannot[made.name] = str(error)
                continue
            self.say(f"{made.name}: {len(self.probes[made.name])} probes ({time.monotonic() - started:.0f} s)")
        ran = [made for made in self.made if made.name in self.probes]
        if self.baseline and ran:
            self.compared.append(self.against_baseline(self.baseline, ran[0], request))
        for old, new in pairwise(ran):
            between = Between(old, new, self.threads)
            changes = probe_changes(self.probes[old.name], self.probes[new.name])
            packages = [between.change_text(name) for name in between.differing]
            self.compared.append(Compared(old, new, changes, packages=packages))

    def against_baseline(self, old: Baseline, new: MadeEnvironment, request: ProbeRequest) -> Compared:
        """Compares the probes of a baseline with an environment's. Those of other labels or settings say nothing."""
        from harness.analysis import probe_changes
        from harness.analysis.regression import package_changes

        if alike := old.probes_digest == request.digest:
            self.probes[old.name] = old.probes
        else:
            self.say(f"{old.name}: the suite's labels have changed since; probes are not compared")
            self.probes[old.name] = []
        changes = probe_changes(old.probes, self.probes[new.name]) if alike else []
        return Compared(old, new, changes, packages=package_changes(old.about, new.about))

    def run_cells(self, plan: Plan, catalog: Catalog, repeats: int, allow_bad: bool = False) -> None:
        """Runs the cells of a plan in every environment that could be probed, by turns, until each has `repeats`
        finished attempts at every cell; then compares each environment with the one before it. Raises UserError where a
        self-check fails, unless `allow_bad`."""
        from harness.execute import run_by_turns
        from harness.store import sole_writer

        ran = [made for made in self.made if made.name in self.probes]
        with sole_writer(self.store.folder):
            for number in range(repeats):
                sessions = [self.session(made, plan, catalog, number, allow_bad) for made in ran]
                if any(session.waiting for session in sessions):
                    cells = sum(session.waiting for session in sessions)
                    self.say(f"{counted(cells, 'cell')} to run, by turns" + (f" (repeat {number + 1})" * bool(number)))
                    if run_by_turns(sessions, shlex.join(["tunebench", *sys.argv[1:]]), self.watch):
                        raise UserError("stopped; the same command goes on where this ended")
        from harness.analysis.regression import Baseline, changes_between, measured_in
        from harness.store import fact_units

        with self.store.open(read_only=True) as connection:
            for pair in self.compared:
                new = pair.new.about
                if isinstance(pair.old, Baseline):
                    measured = measured_in(connection, new.env_digest, self.suite.name)
                    pair.results = pair.old.compared_with(new, measured, fact_units(connection))
                else:
                    old = pair.old.about.env_digest
                    pair.results = changes_between(connection, old, new.env_digest, self.suite.name)

    def save_baseline(self, path: Path) -> None:
        """Keeps what the last environment measured in a file, for later comparisons."""
        from harness.analysis.regression import Baseline, measured_in
        from harness.execute import ProbeRequest
        from harness.store import fact_units

        ran = [made for made in self.made if made.name in self.probes]
        if not ran:
            raise UserError(f"no environment could be run: there is nothing to keep in {path}.")
        about, probes = ran[-1].about, self.probes[ran[-1].name]
        with self.store.look() as connection:
            measured = measured_in(connection, about.env_digest, self.suite.name)
            units = fact_units(connection)
        digest = ProbeRequest.of(self.suite).digest
        Baseline(self.suite.name, about, measured, units, probes, digest).write(path)
        size = path.stat().st_size / 1024
        self.say(f"{path}: {counted(len(measured.rows), 'attempt')} and {len(probes)} probes ({size:.0f} KB)")

    def session(self, made: MadeEnvironment, plan: Plan, catalog: Catalog, number: int, allow_bad: bool) -> Session:
        """Returns the session of an environment for the repeat with this `number` (from 0): cells that have more
        finished attempts than that are left as they are."""
        from harness.execute import Choices, Session
        from harness.plan import narrow
        from harness.trackers import open_trackers

        repeated = {spec for spec, count in self.attempts(made, plan).items() if 0 < count <= number}
        again = frozenset({"done"} if repeated else ())
        plan = narrow(plan, repeated) if repeated else plan
        choices = Choices("local", 1, self.threads, again, python=made.other_python)
        trackers = open_trackers((), self.say)
        session = Session(plan, self.store, made.about, choices, catalog.root, trackers)
        failed = session.check_instruments(lambda model: self.say(f"{made.name}: checking the instruments on {model}"))
        if failed and not allow_bad:
            told = "\n".join(failed)
            raise UserError(
                f"{made.name}: instruments fail their own checks:\n{told}\n--allow-bad-instruments marks every result."
            )
        return session

    def attempts(self, made: MadeEnvironment, plan: Plan) -> dict[str, int]:
        """Returns how many finished attempts an environment has at each cell of a plan, by spec digest."""
        from harness.store import environment_attempts

        counts = dict.fromkeys((cell.spec_digest for cell in plan.cells), 0)
        with self.store.open(read_only=True) as connection:
            for row in environment_attempts(connection, made.about.env_digest):
                if row.spec_digest in counts and row.status == "done":
                    counts[row.spec_digest] += 1
        return counts

    def watch(self, session: Session, progress: Progress) -> None:
        """Says how each cell ended."""
        name = next(made.name for made in self.made if made.about.env_digest == session.environment.env_digest)
        for cell, status, seconds in progress.ended[self.told.get(session.run_id, 0) :]:
            self.say(f"{name}: {cell.key}: {status} ({seconds:.0f} s)")
        self.told[session.run_id] = len(progress.ended)

    def bisect_probes(self) -> None:
        """Looks for the packages that made probes differ, and for the release in which they turned."""
        from harness.execute import Bisection, ProbeReader, ProbeRequest

        for pair in self.compared:
            if pair.changes and (between := self.ends(pair)):
                reader = ProbeReader(
                    ProbeRequest.of(self.suite), self.probes[pair.old.name], self.probes[pair.new.name], pair.changes
                )
                pair.attributions += Bisection(between, reader, self.say).attribute()

    def ends(self, pair: Compared) -> Between | None:
        """Returns the packages that can be toggled between two environments; None for a baseline, which cannot be
        run."""
        from harness.analysis.regression import Baseline, old_pins
        from harness.execute import Between

        if isinstance(pair.old, Baseline):
            pins = old_pins(pair.old.about, pair.new.about)
            self.say(f"{pair.old.name} cannot be run" + (f". To bisect, use --with {pins}" if pins else ""))
            return None
        return Between(pair.old, pair.new, self.threads)

    def bisect_cells(self, plan: Plan, root: Path) -> None:
        """Looks for the packages that made cells differ, and for the release in which they turned. Scores of a label
        that probes differ of are theirs."""
        from harness.analysis.regression import differences
        from harness.execute import Bisection, CellReader
        from harness.records import LIBRARIES

        for pair in self.compared:
            probed = {change.subject for change in pair.changes}
            found = [
                one
                for one in (differences(pair.results) if pair.results else ())
                if one.cost or one.failure or not probed & {one.label, LIBRARIES}
            ]
            if found and (between := self.ends(pair)):
                with CellReader(between.old, between.new, found, plan, root, self.threads, self.say) as reader:
                    pair.attributions += Bisection(between, reader, self.say).attribute()

    def findings(self) -> RegressionFindings:
        """Returns what was found, as a record."""
        from harness.analysis import unread
        from harness.analysis.regression import EnvironmentFindings, PairFindings, RegressionFindings
        from harness.execute import ProbeRequest

        probed = {probe.subject for probes in self.probes.values() for probe in probes}
        made = {one.name: one for one in self.made}
        environments = []
        for request in self.requests:
            cannot = self.cannot.get(request.name, "")
            if request.name not in made:
                environments.append(EnvironmentFindings(request.name, cannot=cannot))
                continue
            one = made[request.name]
            exchanged = tuple(package.pin for package in one.resolved.packages)
            digest = one.about.env_digest
            environments.append(EnvironmentFindings(one.name, digest, exchanged, one.resolved.left_out, cannot))
        pairs = (
            PairFindings(
                pair.old.name, pair.new.name, tuple(pair.packages), tuple(pair.changes), tuple(pair.attributions),
                pair.results,
                tuple(unread(self.probes[pair.old.name], self.probes[pair.new.name]).items()),
            )
            for pair in self.compared
        )  # fmt: skip
        labels = tuple(name for name in ProbeRequest.of(self.suite).names if name in probed)
        return RegressionFindings(self.suite.name, labels, tuple(environments), tuple(pairs))


def read_baseline(path: Path, suite: Suite) -> Baseline:
    """Returns the baseline that a file holds, or the newest environment of the suite in another results folder. Raises
    UserError where there is none, or where it is another suite's."""
    from harness.analysis.regression import Baseline

    found = Baseline.newest_in(path, suite.name) if path.is_dir() else Baseline.read(path)
    if found.suite != suite.name:
        raise UserError(f"{path} is a baseline of the suite {found.suite!r}, not of {suite.name!r}.")
    return found


def show(findings: RegressionFindings) -> None:
    """Prints what was found, the cause first."""
    from harness.report import probe_rows, regression_sentences, result_rows

    for environment in findings.environments:
        if environment.cannot:
            print(f"{visible(environment.name)} cannot be compared: {visible(environment.cannot)}")
    for pair in findings.pairs:
        print(f"\n{visible(pair.old)} → {visible(pair.new)}")
        print(f"packages that differ: {visible('; '.join(pair.packages)) or 'none'}")
        for sentence in regression_sentences(pair, findings.labels):
            print(visible(sentence))
        if rows := list(probe_rows(pair)):
            show_table("probes that differ", ["of", "what", "before", "after"], rows)
        if moved := list(result_rows(pair)):
            columns = ["metric", "of", "answer", "", "change", "p"]
            show_table("what moved", columns, moved, frozenset({"change", "p"}))


def exit_code(findings: RegressionFindings, gate: bool, strict: bool) -> int:
    """Returns the exit code: 1 where an environment could not be compared. With `gate` 3 where anything is shown to be
    worse, and with `strict` 4 where anything is left open."""
    if gate and findings.worse:
        return 3
    if gate and strict and findings.unclear:
        return 4
    return 1 if any(environment.cannot for environment in findings.environments) else 0
