"""Writes `docs/drift.md`: which releases of the libraries change what is computed, by the probes of `regress`.

    python benchmarks/drift.py [--output docs/drift.md]        # `make drift`

The last six releases of peft are probed with the last four minor releases of transformers, then trl, setfit,
bitsandbytes and accelerate one at a time, with the methods of `suites/museum/drift.yaml`. Each release is compared with
the one before it.

Releases are installed from an index, so the network is needed once; probes that were made before are kept in
`results/drift`.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from harness.analysis import ProbeChange, probe_changes, unread
from harness.analysis.regression import named
from harness.data import load_catalog
from harness.environment import cpu_name, version_of
from harness.errors import UserError
from harness.execute import CannotMake, CannotRun, ProbeRequest, make_environment, probe, releases
from harness.records import LIBRARIES, Probe, visible
from harness.suite import Suite, load_suite, parse_request

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "suites" / "museum" / "drift.yaml"
PEFT, TRANSFORMERS = 6, 4  # how many releases of each
ALONE = {"trl": 4, "setfit": 3, "bitsandbytes": 4, "accelerate": 4}
Environment = tuple[tuple[str, str], ...]  # (package, version) of what is exchanged
Outcome = list[Probe] | str  # or why it cannot be run


@dataclass
class Drift:
    """Probes environments, each once. `results` keeps them."""

    suite: Suite
    results: Path

    def __post_init__(self) -> None:
        self.request = ProbeRequest.of(self.suite)
        self.known: dict[Environment, Outcome] = {}

    def outcome(self, environment: Environment) -> Outcome:
        """Returns the probes of an environment, or why it cannot be run."""
        if environment not in self.known:
            text = ",".join(f"{name}=={version}" for name, version in environment)
            started = time.monotonic()
            try:
                made = make_environment(parse_request(text), 1)
                self.known[environment] = probe(made, self.request, self.results)
            except (CannotMake, CannotRun, UserError) as error:
                self.known[environment] = str(error)
            told = self.known[environment]
            said = told if isinstance(told, str) else f"{len(told)} probes"
            print(f"{text}: {said} ({time.monotonic() - started:.0f} s)", flush=True)
        return self.known[environment]

    def changes(self, before: Environment, after: Environment) -> list[ProbeChange] | str:
        """Returns what differs between two environments, or why that is not known."""
        old, new = self.outcome(before), self.outcome(after)
        for environment, told in ((before, old), (after, new)):
            if isinstance(told, str):
                return f"{environment[0][0]} {environment[0][1]} cannot be run: {told}"
        assert not isinstance(old, str)
        assert not isinstance(new, str)
        return probe_changes(old, new)


def last_minors(versions: Sequence[str], number: int) -> list[str]:
    """Returns the newest release of each of the last minor series."""
    newest = {tuple(version.split(".")[:2]): version for version in versions}
    return list(newest.values())[-number:]


def summary(changes: list[ProbeChange] | str, labels: Sequence[str]) -> str:
    """Returns what differs in a few words: how many labels, which readings."""
    if isinstance(changes, str):
        return f"cannot be run: {changes.split(': ', 1)[-1]}"[:120]
    if not changes:
        return "same"
    moved = list(dict.fromkeys(change.subject for change in changes if change.subject != LIBRARIES))
    parts = []
    if len(moved) > len(labels) / 2:
        parts.append(f"{len(moved)} of {len(labels)} labels")
    elif moved:
        parts.append(named(moved, 4))
    if any(change.subject == LIBRARIES for change in changes):
        parts.append("libraries")
    return ", ".join(parts)


def detail_lines(changes: list[ProbeChange]) -> Iterator[str]:
    """Yields a line for each reading that differs, labels of one change together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for change in changes:
        if change.settings:
            for name, before, after in change.settings:
                groups.setdefault((f"setting `{name}` of {change.name}", before, after), []).append(change.subject)
        else:
            groups.setdefault((change.name, change.before, change.after), []).append(change.subject)
    for (name, before, after), subjects in groups.items():
        yield f"- {text(named(subjects, 5))}: {text(name)}: {text(before)} → {text(after)}"


def text(stored: str) -> str:
    """Returns a stored text for Markdown, on one line and not too long."""
    short = re.sub(r" ?\(?/\S+/(site-packages|environments)/\S+\)?", "", " ".join(visible(stored).split()))
    shown = short.replace("|", "\\|").replace("<", "\\<")
    return shown if len(shown) <= 160 else f"{shown[:157]}…"


def grid(
    drift: Drift,
    package: str,
    versions: list[str],
    beside: str,
    others: list[str],
    details: dict[str, list[ProbeChange]],
) -> Iterator[str]:
    """Yields a line for each step between two releases of a package, with a cell for each release of the package
    `beside` it. What differs is put into `details`, as the first of these shows it."""
    for old, new in pairwise(versions):
        cells = []
        for version in others:
            ends = [tuple(sorted(((package, one), (beside, version)))) for one in (old, new)]
            changes = drift.changes(*ends)
            cells.append(text(summary(changes, drift.request.names)))
            if not isinstance(changes, str) and changes:
                details.setdefault(f"{package} {old} → {new}", changes)
        yield f"| {old} → {new} | " + " | ".join(cells) + " |"


def page(drift: Drift, peft: list[str], transformers: list[str], alone: dict[str, list[str]]) -> Iterator[str]:
    """Yields the lines of the page."""
    labels = drift.request.names
    yield "# Drift: which releases change what is computed"
    yield ""
    yield (
        f"Written by `make drift` on {datetime.now(UTC):%Y-%m-%d}: {cpu_name()}, Python {platform.python_version()}, "
        f"torch {version_of('torch')}, one thread. {len(labels)} methods of `suites/museum/drift.yaml` are probed in "
        "each environment ([what is read](regression.md#probes)); other packages are those of `constraints.txt`, but "
        "for what a release needs otherwise. \"same\": no reading differs but for rounding."
    )  # fmt: skip
    yield from ["", "## peft × transformers", ""]
    yield "Each release of peft against the one before it, with each release of transformers."
    yield from ["", "| peft | " + " | ".join(f"transformers {version}" for version in transformers) + " |"]
    yield "|---" * (len(transformers) + 1) + "|"
    details: dict[str, list[ProbeChange]] = {}
    yield from grid(drift, "peft", peft, "transformers", transformers, details)
    yield from ["", "Each release of transformers against the one before it, with each release of peft.", ""]
    yield "| transformers | " + " | ".join(f"peft {version}" for version in peft) + " |"
    yield "|---" * (len(peft) + 1) + "|"
    yield from grid(drift, "transformers", transformers, "peft", peft, details)
    yield from ["", "## One package at a time", "", "| package | change | what differs |", "|---|---|---|"]
    for package, versions in alone.items():
        for old, new in pairwise(versions):
            changes = drift.changes(((package, old),), ((package, new),))
            yield f"| {package} | {old} → {new} | {text(summary(changes, labels))} |"
            if not isinstance(changes, str) and changes:
                details.setdefault(f"{package} {old} → {new}", changes)
    yield from ["", "## What differs", ""]
    for name, found in details.items():
        yield from [f"### {name}", "", *detail_lines(found), ""]
    reasons = {
        label: reason
        for told in drift.known.values()
        if not isinstance(told, str)
        for label, reason in unread(told, told).items()
    }
    if reasons:
        yield from ["## Not read", "", "Labels that could not be probed in some environment, with the last reason.", ""]
        yield from (f"- {label}: {text(reason)}" for label, reason in reasons.items())
    counts = Counter(isinstance(told, str) for told in drift.known.values())
    yield from ["", f"{counts[False]} environments were probed, {counts[True]} could not be made or run."]


def main() -> int:
    """Probes the releases and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "drift.md")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "drift")
    options = parser.parse_args()
    drift = Drift(load_suite(SUITE, load_catalog(ROOT)), options.results)
    peft = releases("peft")[-PEFT:]
    transformers = last_minors(releases("transformers"), TRANSFORMERS)
    alone = {package: releases(package)[-number:] for package, number in ALONE.items()}
    lines = list(page(drift, peft, transformers, alone))
    options.output.write_text("\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
