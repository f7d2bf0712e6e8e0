"""Finds the package, and the release of it, that made probes differ between two environments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from harness.analysis import Cause, ProbeChange, Toggled, find_turn, probe_changes, smallest_cause
from harness.analysis.regression import Attribution
from harness.errors import UserError
from harness.execute.environments import Between, CannotMake, MadeEnvironment, release_package, releases
from harness.execute.probing import CannotRun, ProbeRequest, probe
from harness.records import MOST_MEMORY, Probe

Key = tuple[str, str]


@dataclass
class Bisection:
    """Toggles packages between two environments and probes each combination once.

    `say` is told what is tried. `request` is what the two ends were probed with; only the subjects that differ are
    probed again. `known` keeps what each set of exchanged packages gave: the readings that differ, or why it cannot
    be run.
    """

    between: Between
    request: ProbeRequest
    before: Sequence[Probe]
    changes: Sequence[ProbeChange]
    say: Callable[[str], None] = lambda text: None
    known: dict[frozenset[str], frozenset[Key] | str] = field(default_factory=dict)

    def attribute(self) -> list[Attribution]:
        """Returns an attribution for each group of changes that have the same cause, the largest group first."""
        packages = self.between.differing
        found: dict[Cause, list[Key]] = {}
        self.known[frozenset(packages)] = frozenset(change.key for change in self.changes)
        self.known[frozenset()] = frozenset()
        for change in self.changes:
            if len(packages) == 1:
                cause = Cause(tuple(packages))
            else:
                cause = smallest_cause(packages, lambda names, key=change.key: self.answer(names, key))  # type: ignore[misc]
            found.setdefault(cause, []).append(change.key)
        made = [self.with_turn(cause, keys) for cause, keys in found.items()]
        return sorted(made, key=lambda one: -len(one.keys))

    def answer(self, names: Collection[str], key: Key) -> Toggled:
        """Returns whether a reading differs from the old environment's where the packages `names` (and what must change
        with them) are exchanged."""
        wanted = self.between.with_needed(names)
        if wanted not in self.known:
            self.known[wanted] = self.differing_keys(lambda: self.between.toggled(wanted), ", ".join(sorted(wanted)))
        told = self.known[wanted]
        return Toggled.UNRESOLVED if isinstance(told, str) else Toggled.NEW if key in told else Toggled.OLD

    def differing_keys(self, make: Callable[[], MadeEnvironment], what: str) -> frozenset[Key] | str:
        """Returns which readings of an environment differ from the old one's, or why it cannot be run."""
        self.say(f"trying {what}")
        subjects = {change.subject for change in self.changes}
        # The memory of some probes says nothing of the memory of all of them.
        whole = any(change.name == MOST_MEMORY for change in self.changes)
        try:
            probes = probe(make(), self.request if whole else self.request.only(subjects), None)
        except (CannotMake, CannotRun) as error:
            return str(error)
        return frozenset(change.key for change in probe_changes(self.before, probes))

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

            told = self.differing_keys(make, f"{name} {version}")
            return Toggled.UNRESOLVED if isinstance(told, str) else Toggled.NEW if keys[0] in told else Toggled.OLD

        return Attribution(tuple(keys), cause, text, find_turn(ordered, test))

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
