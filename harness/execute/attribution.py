"""Finds the package, and the release of it, that made probes or cells differ between two environments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.analysis import Cause, ProbeChange, Toggled, find_turn, noisy_sides, probe_changes, smallest_cause
from harness.analysis.regression import Attribution
from harness.errors import UserError
from harness.execute.environments import (
    Between,
    CannotMake,
    MadeEnvironment,
    release_package,
    release_page,
    releases,
)
from harness.execute.probing import CannotRun, ProbeRequest, probe
from harness.records import MOST_MEMORY, Probe

Key = tuple[str, str]


class Reader(Protocol):
    """Says of an environment on which side of each difference it is. `keys` are the differences (subject, name), each
    of which the old environment is on one side of and the new one on the other."""

    @property
    def keys(self) -> Sequence[Key]:
        """What differs between the two ends."""

    def read(self, made: MadeEnvironment) -> Mapping[Key, Toggled]:
        """Returns the side of each difference; one that is absent is not known. Raises CannotMake or CannotRun."""


@dataclass(frozen=True)
class ProbeReader:
    """Reads probes: `request` is what the two ends were probed with, of which only the subjects that differ are probed
    again; `before` and `after` are the probes of the two ends, and `changes` what differs between them."""

    request: ProbeRequest
    before: Sequence[Probe]
    after: Sequence[Probe]
    changes: Sequence[ProbeChange]

    @property
    def keys(self) -> list[Key]:
        """The readings that differ."""
        return [key for change in self.changes for key in change.keys]

    def read(self, made: MadeEnvironment) -> dict[Key, Toggled]:
        """Returns for each reading whether it is the old environment's."""
        subjects = {change.subject for change in self.changes}
        # The memory of some probes says nothing of the memory of all of them.
        whole = any(change.name == MOST_MEMORY for change in self.changes)
        probes = probe(made, self.request if whole else self.request.only(subjects), None)
        differing = {key for change in probe_changes(self.before, probes) for key in change.keys}
        exact = {key: Toggled.NEW if key in differing else Toggled.OLD for key in self.keys}
        return exact | noisy_sides(self.before, probes, self.after, self.keys)


@dataclass
class Bisection:
    """Toggles packages between two environments and reads each combination once.

    `say` is told what is tried. `known` keeps what each set of exchanged packages gave: the side of each difference, or
    why it cannot be run.
    """

    between: Between
    reader: Reader
    say: Callable[[str], None] = lambda text: None
    known: dict[frozenset[str], Mapping[Key, Toggled] | str] = field(default_factory=dict)

    def attribute(self) -> list[Attribution]:
        """Returns an attribution for each group of differences that have the same cause, the largest group first."""
        packages = self.between.differing
        found: dict[Cause, list[Key]] = {}
        self.known[frozenset(packages)] = dict.fromkeys(self.reader.keys, Toggled.NEW)
        self.known[frozenset()] = dict.fromkeys(self.reader.keys, Toggled.OLD)
        for key in self.reader.keys:
            if len(packages) == 1:
                cause = Cause(tuple(packages))
            else:
                cause = smallest_cause(packages, lambda names, key=key: self.answer(names, key))  # type: ignore[misc]
            found.setdefault(cause, []).append(key)
        made = [self.with_turn(cause, keys) for cause, keys in found.items()]
        return sorted(made, key=lambda one: -len(one.keys))

    def answer(self, names: Collection[str], key: Key) -> Toggled:
        """Returns the side of a difference where the packages `names` (and what must change with them) are
        exchanged."""
        wanted = self.between.with_needed(names)
        if wanted not in self.known:
            self.known[wanted] = self.sides(lambda: self.between.toggled(wanted), ", ".join(sorted(wanted)))
        return side_in(self.known[wanted], key)

    def sides(self, make: Callable[[], MadeEnvironment], what: str) -> Mapping[Key, Toggled] | str:
        """Returns the side of each difference in an environment, or why it cannot be run."""
        self.say(f"trying {what}")
        try:
            return self.reader.read(make())
        except (CannotMake, CannotRun) as error:
            return str(error)

    def with_turn(self, cause: Cause, keys: Sequence[Key]) -> Attribution:
        """Returns the attribution of readings to a cause, with the release in which they turned where it is one package
        of an index."""
        text = tuple(self.between.change_text(name) for name in cause.changes)
        made = Attribution(tuple(keys), cause, text)
        if len(cause.changes) != 1:
            return made
        (name,) = cause.changes
        ends = [self.between.of(end, name) for end in (self.between.old, self.between.new)]
        if any(end is None or end[1] for end in ends):
            return made  # a file or a commit has no releases between it and another
        versions = self.versions_between(name, *(end[0] for end in ends if end))
        if len(versions) < 3:
            return made
        backwards = versions[0] != ends[0][0]  # type: ignore[index]
        ordered = versions[::-1] if backwards else versions

        def test(version: str) -> Toggled:
            def make() -> MadeEnvironment:
                return self.between.toggled(self.between.with_needed([name]) - {name}, [release_package(name, version)])

            return side_in(self.sides(make, f"{name} {version}"), keys[0])

        turn = find_turn(ordered, test)
        return Attribution(tuple(keys), cause, text, turn, release_page(name, turn.first_new))

    def versions_between(self, name: str, old: str, new: str) -> list[str]:
        """Returns the releases of a package from one version to the other, both included, oldest first; the two alone
        where the index cannot be asked."""
        from packaging.version import Version

        low, high = sorted((old, new), key=Version)
        try:
            known = releases(name)
        except UserError:
            known = []
        inside = [version for version in known if Version(low) < Version(version) < Version(high)]
        return [low, *inside, high]


def side_in(sides: Mapping[Key, Toggled] | str, key: Key) -> Toggled:
    """Returns the side of one difference in what an environment gave; "unresolved" where it could not be run."""
    return Toggled.UNRESOLVED if isinstance(sides, str) else sides.get(key, Toggled.UNRESOLVED)
